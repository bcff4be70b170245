//! The event loop of the service: the echo, and what else has to be done in it.

use std::io;
use std::time::Instant;

use log::info;
use mio::Token;
use mio::event::Event;
use mio_echo::Server;

use crate::metrics::Metrics;
use crate::signals::{Signal, Signals};
use crate::summary::Summary;
use crate::systemd::Notifier;

pub(crate) const SIGNALS_TOKEN: Token = Token(Server::USER_TOKENS.start);

/// The first of the tokens of the metrics.
pub(crate) const METRICS_TOKENS: Token = Token(SIGNALS_TOKEN.0 + 1);

/// A server, and the other parts of the loop. Each part has a turn after the echo's.
pub(crate) struct Service {
    pub(crate) server: Server,
    pub(crate) signals: Signals,
    pub(crate) summary: Summary,
    pub(crate) metrics: Option<Metrics>,
    pub(crate) notifier: Option<Notifier>,
    pub(crate) events: Vec<Event>,
}

impl Service {
    /// Runs until a signal has stopped the server and it has finished.
    pub(crate) fn run(mut self) -> io::Result<()> {
        self.notify();
        while !self.server.is_finished() {
            self.turn()?;
        }
        self.summary.log("stopped after", &self.server.stats());
        Ok(())
    }

    fn turn(&mut self) -> io::Result<()> {
        let metrics_due = self.metrics.as_ref().and_then(Metrics::due);
        let notifier_due = self.notifier.as_ref().and_then(Notifier::due);
        let due = min(self.summary.due(), metrics_due);
        let timeout = min(due, notifier_due);
        let timeout = timeout.map(|due| due.saturating_duration_since(Instant::now()));
        self.events.clear();
        self.events.extend_from_slice(self.server.turn(timeout)?);
        // Most turns have work for the echo only, and should cost nothing more.
        if due.is_some() || !self.events.is_empty() {
            self.run_parts(Instant::now());
        }
        self.notify();
        Ok(())
    }

    fn run_parts(&mut self, now: Instant) {
        if self.events.iter().any(|it| it.token() == SIGNALS_TOKEN) {
            self.take_signals(now);
        }
        self.summary.run(now, || self.server.stats());
        if let Some(metrics) = &mut self.metrics {
            self.events.iter().for_each(|event| metrics.handle(event));
            metrics.run(now, || self.server.stats());
        }
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
                    self.metrics.iter_mut().for_each(Metrics::drain);
                    self.server.shutdown();
                }
            }
        }
    }
}

fn min(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    one.into_iter().chain(other).min()
}
