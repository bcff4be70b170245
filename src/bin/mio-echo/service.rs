//! The event loop of the service: the echo, and what else has to be done in it.

use std::io;
use std::time::Instant;

use log::info;
use mio::Token;
use mio_echo::Server;

use crate::metrics::Metrics;
use crate::signals::{Signal, Signals};
use crate::summary::Summary;
use crate::systemd::Notifier;

pub(crate) const SIGNALS_TOKEN: Token = Token(Server::USER_TOKENS.start);

/// The token of all sockets of the metrics.
pub(crate) const METRICS_TOKEN: Token = Token(SIGNALS_TOKEN.0 + 1);

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
        let due = earliest([
            self.summary.due,
            self.metrics.as_ref().and_then(|it| it.due),
        ]);
        let notifier = self.notifier.as_ref().and_then(Notifier::due);
        let timeout = earliest([due, notifier]);
        let timeout = timeout.map(|at| at.saturating_duration_since(Instant::now()));
        let events = self.server.turn(timeout)?;
        // Most turns have work for the echo only, and should cost nothing more.
        if due.is_none() && events.is_empty() {
            return Ok(());
        }
        let now = Instant::now();
        let has_event = |token| events.iter().any(|it| it.token() == token);
        let (has_signal, has_metrics_event) = (has_event(SIGNALS_TOKEN), has_event(METRICS_TOKEN));
        if has_signal {
            self.take_signals(now);
        }
        let stats = self.server.stats();
        self.summary.run(now, &stats);
        if let Some(metrics) = &mut self.metrics
            && (has_metrics_event || metrics.due.is_some_and(|due| due <= now))
        {
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
                Signal::Summary => self.summary.log("running for", &self.server.stats()),
                Signal::Stop(name) => {
                    info!("{name}");
                    self.notifier.iter_mut().for_each(|it| it.stopping(now));
                    self.metrics.iter_mut().for_each(|it| it.is_draining = true);
                    self.server.shutdown();
                }
            }
        }
    }
}

fn earliest(times: [Option<Instant>; 2]) -> Option<Instant> {
    times.into_iter().flatten().min()
}
