//! The event loop of the service: the echo, and what else has to be done in it.

use std::io;
use std::time::Instant;

use log::info;
use mio::Token;
use mio_echo::Server;

use crate::metrics::Metrics;
use crate::signals::Signals;
use crate::summary::Summary;
use crate::systemd::Notifier;

/// The token of the signals and of all sockets of the metrics. An event does not say which of them it is
/// for: such events are rare, and a call that would block costs little.
pub(crate) const TOKEN: Token = Token(Server::USER_TOKENS.start);

/// A server, and the other parts of the loop. Each part has a turn after the echo's.
pub(crate) struct Service {
    pub(crate) server: Server,
    pub(crate) signals: Signals,
    pub(crate) summary: Summary,
    pub(crate) metrics: Option<Metrics>,
    pub(crate) notifier: Option<Notifier>,
}

impl Service {
    /// Runs until a signal has stopped the server and it has finished.
    pub(crate) fn run(mut self) -> io::Result<()> {
        self.notify();
        while !self.server.is_finished() {
            self.turn()?;
            self.notify();
        }
        self.summary.log("stopped after", &self.server.stats());
        Ok(())
    }

    fn turn(&mut self) -> io::Result<()> {
        let metrics_due = self.metrics.as_ref().and_then(|it| it.due);
        let due = self.summary.due.into_iter().chain(metrics_due).min();
        let notifier_due = self.notifier.as_ref().and_then(Notifier::due);
        let until = due.into_iter().chain(notifier_due).min();
        let timeout = until.map(|at| at.saturating_duration_since(Instant::now()));
        let events = self.server.turn(timeout)?;
        // Most turns have work for the echo only, and should cost nothing more.
        if events.is_empty() && due.is_none_or(|due| due > Instant::now()) {
            return Ok(());
        }
        let now = Instant::now();
        self.take_signals(now);
        let stats = self.server.stats();
        self.summary.run(now, &stats);
        if let Some(metrics) = &mut self.metrics {
            metrics.run(now, &stats);
        }
        Ok(())
    }

    fn notify(&mut self) {
        if let Some(notifier) = &mut self.notifier {
            notifier.run(self.server.stats().active, Instant::now());
        }
        self.notifier.take_if(|notifier| notifier.is_dead);
    }

    fn take_signals(&mut self, now: Instant) {
        for signal in self.signals.pending() {
            match signal {
                "SIGUSR1" => self.summary.log("running for", &self.server.stats()),
                name => {
                    info!("{name}");
                    self.notifier.iter_mut().for_each(|it| it.stopping(now));
                    self.metrics.iter_mut().for_each(|it| it.is_draining = true);
                    self.server.shutdown();
                }
            }
        }
    }
}
