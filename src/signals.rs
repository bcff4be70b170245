//! The signals that stop the service.

use std::io;

use mio_echo::Server;

use crate::supervisor::Supervisor;

/// SIGINT and SIGTERM, as one more event source of the loop.
#[cfg(unix)]
pub(crate) struct StopSignals(signal_hook_mio::v1_0::Signals);

#[cfg(unix)]
impl StopSignals {
    /// Catches the signals from now on.
    ///
    /// The first of them stops the server. Any second one does what it does by default, in its
    /// handler: it ends the program, whatever the loop is doing.
    pub(crate) fn catch() -> io::Result<Self> {
        use signal_hook::consts::{SIGINT, SIGTERM};
        use signal_hook::flag;
        use std::sync::{Arc, atomic::AtomicBool};

        let signals = signal_hook_mio::v1_0::Signals::new([SIGINT, SIGTERM])?;
        let is_second = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // In this order: the first signal finds the flag down, and raises it.
            flag::register_conditional_default(signal, Arc::clone(&is_second))?;
            flag::register(signal, Arc::clone(&is_second))?;
        }
        Ok(StopSignals(signals))
    }

    /// Turns until a signal has stopped the server, and it has finished. The supervisor hears of it.
    pub(crate) fn run(
        mut self,
        server: &mut Server,
        supervisor: &mut Supervisor,
    ) -> io::Result<()> {
        use mio::{Interest, Token};
        use signal_hook::low_level::signal_name;

        let token = Token(Server::GUEST_TOKENS.start);
        server
            .registry()
            .register(&mut self.0, token, Interest::READABLE)?;
        while !server.is_finished() {
            // The signals are the only guest.
            let is_signalled = !server.turn(supervisor.timeout())?.is_empty();
            supervisor.report(server);
            if is_signalled {
                for signal in self.0.pending() {
                    log::info!("{}", signal_name(signal).unwrap_or("signal"));
                    supervisor.stopping();
                    server.shutdown();
                }
            }
        }
        Ok(())
    }
}

/// None here: the system ends the program.
#[cfg(not(unix))]
pub(crate) struct StopSignals;

#[cfg(not(unix))]
impl StopSignals {
    pub(crate) fn catch() -> io::Result<Self> {
        Ok(StopSignals)
    }

    pub(crate) fn run(self, server: &mut Server, _supervisor: &mut Supervisor) -> io::Result<()> {
        server.run()
    }
}
