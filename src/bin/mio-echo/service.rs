//! The loop of the service: the echo's, and what else is to be done in it.

use std::io;
use std::time::Instant;

use mio::Token;
use mio::event::Event;
use mio_echo::Server;

use crate::metrics::Metrics;
use crate::signals::{Asked, Signals};
use crate::summary::Summary;
use crate::systemd::Supervisor;

const SIGNALS: Token = Token(Server::USER_TOKENS.start);

/// From here on up.
pub(crate) const FIRST_OF_METRICS: Token = Token(SIGNALS.0 + 1);

/// A server and its guests. Each of them says when it is due, and has its turn after the echo's.
pub(crate) struct Service {
    server: Server,
    signals: Signals,
    summary: Summary,
    metrics: Metrics,
    supervisor: Supervisor,
    events: Vec<Event>,
}

impl Service {
    pub(crate) fn new(
        server: Server,
        mut signals: Signals,
        summary: Summary,
        metrics: Metrics,
        supervisor: Supervisor,
    ) -> io::Result<Self> {
        signals.register(server.registry(), SIGNALS)?;
        Ok(Service {
            server,
            signals,
            summary,
            metrics,
            supervisor,
            events: Vec::new(),
        })
    }

    /// Turns until a signal has stopped the server, and it has finished.
    pub(crate) fn run(mut self) -> io::Result<()> {
        self.supervisor.ready();
        while !self.server.is_finished() {
            self.turn()?;
        }
        self.summary.log("stopped after", &self.server.stats());
        Ok(())
    }

    fn turn(&mut self) -> io::Result<()> {
        let due = self.due();
        let timeout = due.map(|due| due.saturating_duration_since(Instant::now()));
        let timeout = [timeout, self.supervisor.timeout()]
            .into_iter()
            .flatten()
            .min();
        self.events.clear();
        self.events.extend_from_slice(self.server.turn(timeout)?);
        // Most turns are the echo's alone, and are to cost nothing more.
        if due.is_some() || !self.events.is_empty() {
            self.turn_of_guests(Instant::now());
        }
        self.supervisor.report(&self.server);
        Ok(())
    }

    /// When the first of the guests is due; `None` if all of them wait for events.
    fn due(&self) -> Option<Instant> {
        [self.summary.due(), self.metrics.due()]
            .into_iter()
            .flatten()
            .min()
    }

    fn turn_of_guests(&mut self, now: Instant) {
        if self.events.iter().any(|event| event.token() == SIGNALS) {
            self.take_signals();
        }
        self.summary.run(now, || self.server.stats());
        for event in &self.events {
            self.metrics.handle(event);
        }
        self.metrics.run(now, || self.server.stats());
    }

    fn take_signals(&mut self) {
        for asked in self.signals.pending() {
            match asked {
                Asked::Summary => self.summary.log("running for", &self.server.stats()),
                Asked::Stop(signal) => {
                    log::info!("{signal}");
                    self.supervisor.stopping();
                    self.server.shutdown();
                    self.metrics.drain();
                }
            }
        }
    }
}
