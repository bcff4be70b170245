//! What the supervisor is told: that the service listens, how many are connected, that the loop
//! turns, and that it stops; see `sd_notify(3)`.

use std::time::Duration;

use mio_echo::Server;

/// Whoever has started the service and wants to be told: who has set `NOTIFY_SOCKET`. Without it, and
/// after it has turned out to be dead, nothing is done here.
pub(crate) struct Supervisor {
    #[cfg(unix)]
    reports: Option<reports::Reports<reports::NotifySocket>>,
}

#[cfg(unix)]
impl Supervisor {
    pub(crate) fn from_environment() -> Self {
        let reports = reports::NotifySocket::from_environment()
            .map(|socket| reports::Reports::new(socket, reports::watchdog()));
        Supervisor { reports }
    }

    /// The service listens everywhere.
    pub(crate) fn ready(&mut self) {
        if let Some(reports) = &mut self.reports {
            reports.ready(std::time::Instant::now());
        }
    }

    /// For how long the loop may sleep before there is something to be told, if nothing happens
    /// until then.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        let reports = self.reports.as_ref()?;
        reports.timeout(std::time::Instant::now())
    }

    /// Tells what is due. To be called by the loop itself, after each turn: one that hangs falls
    /// silent, and that is how the supervisor knows.
    pub(crate) fn report(&mut self, server: &Server) {
        if let Some(reports) = &mut self.reports {
            reports.report(server.stats().active, std::time::Instant::now());
        }
        // From then on the loop does not wake up for it.
        self.reports.take_if(|reports| reports.is_given_up());
    }

    /// The service listens no more.
    pub(crate) fn stopping(&mut self) {
        if let Some(reports) = &mut self.reports {
            reports.stopping();
        }
    }
}

/// There are no such supervisors here.
#[cfg(not(unix))]
#[allow(clippy::unused_self, reason = "the same on every system")]
impl Supervisor {
    pub(crate) fn from_environment() -> Self {
        Supervisor {}
    }

    pub(crate) fn ready(&mut self) {}

    pub(crate) fn timeout(&self) -> Option<Duration> {
        None
    }

    pub(crate) fn report(&mut self, _server: &Server) {}

    pub(crate) fn stopping(&mut self) {}
}

#[cfg(unix)]
mod reports;
