//! Signals as an event source of the loop.

use std::io;
#[cfg(unix)]
use std::sync::{Arc, atomic::AtomicBool};

use mio::{Registry, Token};
#[cfg(unix)]
use signal_hook::{
    consts::{SIGINT, SIGTERM, SIGUSR1},
    flag,
    low_level::signal_name,
};

/// A caught signal, by what it asks for.
#[cfg_attr(not(unix), allow(dead_code, reason = "no signal is caught"))]
pub(crate) enum Signal {
    /// SIGINT or SIGTERM, with its name.
    Stop(&'static str),
    /// SIGUSR1.
    Summary,
}

#[cfg(unix)]
pub(crate) struct Signals(signal_hook_mio::v1_0::Signals);

#[cfg(unix)]
impl Signals {
    /// Catches SIGUSR1 from now on. Its default action ends the program.
    pub(crate) fn new() -> io::Result<Self> {
        signal_hook_mio::v1_0::Signals::new([SIGUSR1]).map(Signals)
    }

    /// Catches the first SIGINT or SIGTERM. A second one has its default action in the signal handler:
    /// it ends the program, even if the loop is stuck.
    pub(crate) fn catch_stops(&self) -> io::Result<()> {
        let is_second = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            self.0.add_signal(signal)?;
            // In this order: the handler of the first signal tests the flag before it sets it.
            flag::register_conditional_default(signal, Arc::clone(&is_second))?;
            flag::register(signal, Arc::clone(&is_second))?;
        }
        Ok(())
    }

    pub(crate) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut self.0, token, mio::Interest::READABLE)
    }

    /// The signals since the last call.
    pub(crate) fn pending(&mut self) -> impl Iterator<Item = Signal> {
        self.0.pending().map(|signal| match signal {
            SIGUSR1 => Signal::Summary,
            _ => Signal::Stop(signal_name(signal).unwrap_or("signal")),
        })
    }
}

/// On other systems no signal is caught: Ctrl-C ends the program.
#[cfg(not(unix))]
pub(crate) struct Signals;

#[cfg(not(unix))]
#[allow(clippy::unnecessary_wraps, clippy::unused_self, reason = "as on Unix")]
impl Signals {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Signals)
    }

    pub(crate) fn catch_stops(&self) -> io::Result<()> {
        Ok(())
    }

    pub(crate) fn register(&mut self, _registry: &Registry, _token: Token) -> io::Result<()> {
        Ok(())
    }

    pub(crate) fn pending(&mut self) -> impl Iterator<Item = Signal> {
        std::iter::empty()
    }
}
