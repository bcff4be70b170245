//! Signals as an event source of the loop. Only on Unix: elsewhere none is caught, and Ctrl-C ends the
//! program.

#[cfg(unix)]
use std::ffi::c_int;
use std::io;
#[cfg(unix)]
use std::sync::{Arc, atomic::AtomicBool};

use mio::{Registry, Token};
#[cfg(unix)]
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGXFSZ},
    flag,
    low_level::signal_name,
};

pub(crate) struct Signals(#[cfg(unix)] signal_hook_mio::v1_0::Signals);

#[cfg_attr(not(unix), allow(unused_variables, reason = "no signal is caught"))]
impl Signals {
    /// Catches SIGUSR1 and SIGXFSZ from now on. Their default action ends the program.
    pub(crate) fn new() -> io::Result<Self> {
        // A handler is enough: a write(2) beyond the limit on the size of a file, as of the log, then
        // returns EFBIG. Nothing reads the flag.
        #[cfg(unix)]
        flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
        Ok(Signals(
            #[cfg(unix)]
            signal_hook_mio::v1_0::Signals::new([SIGUSR1])?,
        ))
    }

    /// Catches the first SIGINT or SIGTERM. A second one ends the program in the signal handler, even if
    /// the loop is stuck.
    pub(crate) fn catch_stops(&self) -> io::Result<()> {
        #[cfg(unix)]
        let is_second = Arc::new(AtomicBool::new(false));
        #[cfg(unix)]
        for signal in [SIGINT, SIGTERM] {
            self.0.add_signal(signal)?;
            // In this order: the handler of the first signal tests the flag before it sets it.
            end_at(signal, Arc::clone(&is_second))?;
            flag::register(signal, Arc::clone(&is_second))?;
        }
        #[cfg(unix)]
        if is_first_process() {
            end_at(SIGHUP, Arc::new(AtomicBool::new(true)))?;
        }
        Ok(())
    }

    pub(crate) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        #[cfg(unix)]
        registry.register(&mut self.0, token, mio::Interest::READABLE)?;
        Ok(())
    }

    /// The names of the signals since the last call.
    pub(crate) fn pending(&mut self) -> impl Iterator<Item = &'static str> {
        #[cfg(unix)]
        return (self.0.pending()).map(|signal| signal_name(signal).unwrap_or("signal"));
        #[cfg(not(unix))]
        std::iter::empty()
    }
}

/// Ends the program at the signal if the condition holds. The signal is the cause of death, except where
/// that is impossible: there the exit status is what a shell reports after such a death.
#[cfg(unix)]
fn end_at(signal: c_int, condition: Arc<AtomicBool>) -> io::Result<()> {
    if is_first_process() {
        flag::register_conditional_shutdown(signal, 128 + signal, condition)?;
    } else {
        flag::register_conditional_default(signal, condition)?;
    }
    Ok(())
}

/// Whether this is the first process of a container. For it the kernel ignores a signal without a
/// handler; see `pid_namespaces(7)`.
#[cfg(unix)]
fn is_first_process() -> bool {
    std::process::id() == 1
}
