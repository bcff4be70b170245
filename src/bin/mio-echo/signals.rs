//! Signals as an event source of the loop.

use std::io;
use std::sync::{Arc, atomic::AtomicBool};

use mio::{Registry, Token};
use signal_hook::{
    consts::{SIGINT, SIGTERM, SIGUSR1},
    flag,
};

pub(crate) struct Signals(signal_hook_mio::v1_0::Signals);

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

    /// The numbers of the signals since the last call.
    pub(crate) fn pending(&mut self) -> impl Iterator<Item = i32> {
        self.0.pending()
    }
}
