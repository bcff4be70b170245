//! The signals that the service takes.

use std::io;

use mio::{Registry, Token};

/// What a signal asks for.
#[cfg_attr(not(unix), allow(dead_code, reason = "there are none"))]
pub(crate) enum Asked {
    /// The name of the signal.
    Stop(&'static str),
    Summary,
}

/// Caught signals, as one more event source of the loop.
#[cfg(unix)]
pub(crate) struct Signals(signal_hook_mio::v1_0::Signals);

#[cfg(unix)]
impl Signals {
    /// Catches no signal yet.
    pub(crate) fn new() -> io::Result<Self> {
        let none: [i32; 0] = [];
        Ok(Signals(signal_hook_mio::v1_0::Signals::new(none)?))
    }

    /// Catches SIGUSR1 from now on, which would end the program otherwise.
    pub(crate) fn catch_summary(&self) -> io::Result<()> {
        self.0.add_signal(signal_hook::consts::SIGUSR1)
    }

    /// Catches SIGINT and SIGTERM from now on.
    ///
    /// The first of them stops the server. Any second one does what it does by default, in its
    /// handler: it ends the program, whatever the loop is doing.
    pub(crate) fn catch_stops(&self) -> io::Result<()> {
        use signal_hook::consts::{SIGINT, SIGTERM};
        use signal_hook::flag;
        use std::sync::{Arc, atomic::AtomicBool};

        let is_second = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            self.0.add_signal(signal)?;
            // In this order: the first signal finds the flag down, and raises it.
            flag::register_conditional_default(signal, Arc::clone(&is_second))?;
            flag::register(signal, Arc::clone(&is_second))?;
        }
        Ok(())
    }

    pub(crate) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut self.0, token, mio::Interest::READABLE)
    }

    /// What those that have come ask for.
    pub(crate) fn pending(&mut self) -> impl Iterator<Item = Asked> {
        self.0.pending().map(asked)
    }
}

#[cfg(unix)]
fn asked(signal: i32) -> Asked {
    use signal_hook::{consts::SIGUSR1, low_level::signal_name};

    if signal == SIGUSR1 {
        return Asked::Summary;
    }
    Asked::Stop(signal_name(signal).unwrap_or("signal"))
}

/// None here: the system ends the program.
#[cfg(not(unix))]
pub(crate) struct Signals;

#[cfg(not(unix))]
#[allow(clippy::unnecessary_wraps, clippy::unused_self, reason = "as on Unix")]
impl Signals {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Signals)
    }

    pub(crate) fn catch_summary(&self) -> io::Result<()> {
        Ok(())
    }

    pub(crate) fn catch_stops(&self) -> io::Result<()> {
        Ok(())
    }

    pub(crate) fn register(&mut self, _registry: &Registry, _token: Token) -> io::Result<()> {
        Ok(())
    }

    pub(crate) fn pending(&mut self) -> impl Iterator<Item = Asked> {
        std::iter::empty()
    }
}
