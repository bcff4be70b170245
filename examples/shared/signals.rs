//! The signals that end what would go on for long.

use std::io;

use mio::{Registry, Token};

/// SIGINT and SIGTERM, as one more event source of the loop.
#[cfg(unix)]
pub(crate) struct StopSignals(signal_hook_mio::v1_0::Signals);

#[cfg(unix)]
impl StopSignals {
    /// Catches the signals from now on.
    ///
    /// The first of them is an event. Any second one does what it does by default, in its handler:
    /// it ends the program, even where that cannot get its output written.
    pub(crate) fn catch(registry: &Registry, token: Token) -> io::Result<Self> {
        use signal_hook::consts::{SIGINT, SIGTERM};
        use signal_hook::flag;
        use std::sync::{Arc, atomic::AtomicBool};

        let mut signals = signal_hook_mio::v1_0::Signals::new([SIGINT, SIGTERM])?;
        registry.register(&mut signals, token, mio::Interest::READABLE)?;
        let is_second = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // In this order: the first signal finds the flag down, and raises it.
            flag::register_conditional_default(signal, Arc::clone(&is_second))?;
            flag::register(signal, Arc::clone(&is_second))?;
        }
        Ok(StopSignals(signals))
    }

    /// Whether one has come since this was asked last.
    pub(crate) fn have_come(&mut self) -> bool {
        self.0.pending().count() > 0
    }
}

/// None here: the system ends the program.
#[cfg(not(unix))]
pub(crate) struct StopSignals;

#[cfg(not(unix))]
impl StopSignals {
    pub(crate) fn catch(_: &Registry, _: Token) -> io::Result<Self> {
        Ok(StopSignals)
    }

    pub(crate) fn have_come(&mut self) -> bool {
        false
    }
}
