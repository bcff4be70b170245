//! Shutdown: no one new, then no more echo, then no one.

use std::mem;
use std::time::{Duration, Instant};

use log::info;

use super::{Echo, Slot, Source};
use crate::stats::Reason;
use crate::turned_away::HANDSHAKE;

/// For how long at most a connection that is cut at the end of a shutdown is still read from, so
/// that what was written to it arrives.
const LINGER: Duration = Duration::from_secs(1);

/// Where in its life the service is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Phase {
    Serving,
    /// No listeners; connections are echoed.
    Draining {
        until: Instant,
    },
    /// Connections are read to their end, and what is read discarded.
    Lingering {
        until: Instant,
    },
}

impl Echo {
    /// Stops listening. Connections that the system has already established are accepted first, as
    /// far as the limit allows; the others are reset. Datagrams that have come are answered within
    /// the drain time, and no more are received. The files of Unix sockets are removed.
    ///
    /// Where [other processes](crate::ConfigBuilder::reuse_port) may serve the same port, on Linux,
    /// its listeners stay open for half a second, or the drain time where that is shorter. They
    /// complete the handshakes that have begun, and who comes meanwhile gets no answer, connects
    /// again a second later, and finds another process.
    ///
    /// At a [socket that others have too](crate::BoundSocket) nobody is accepted any more, and nobody
    /// reset: who waits there is the next one's.
    ///
    /// Those who are connected are echoed until they finish or the drain time is over. Then no
    /// more is echoed: each is sent what was kept for it and the end of the stream, and has a
    /// second to take that and to close, or the drain time where that is shorter. Who has not by
    /// then is cut off.
    ///
    /// Calls after the first change nothing.
    pub fn shutdown(&mut self, now: Instant) {
        if !self.is_serving() {
            return;
        }
        self.set_now(now);
        let until = now + self.config.drain_timeout;
        self.phase = Phase::Draining { until };
        let listeners = mem::take(&mut self.listeners).into_iter();
        let (later, at_once) = listeners.partition(|&key| self.turns_newcomers_away(key));
        self.part_with(at_once, now);
        self.listeners = later;
        if !self.listeners.is_empty() {
            self.parting_at = Some(now + HANDSHAKE.min(self.config.drain_timeout));
        }
        for key in self.endpoint_keys() {
            self.finish_datagrams(key);
        }
        info!("shutting down: {} connections to finish", self.stats.active);
    }

    /// Handshakes have had the time to be completed.
    pub(super) fn part_with_the_last(&mut self, now: Instant) {
        self.parting_at = None;
        let listeners = mem::take(&mut self.listeners);
        self.part_with(listeners, now);
    }

    /// Accepts who is there, and closes the listeners.
    fn part_with(&mut self, listeners: Vec<usize>, now: Instant) {
        for &key in &listeners {
            if self.withdraw(key) {
                // Whatever it is that they wait for: now or never.
                self.gate.reopen(now);
                // Systems keep some more than they are told to: Linux one, the BSDs half as many.
                self.accept(key, now, self.config.backlog as usize * 2);
            }
        }
        for key in listeners {
            self.remove(key);
        }
    }

    /// Leaves newcomers to other processes, if there may be any at the same port.
    fn turns_newcomers_away(&mut self, key: usize) -> bool {
        let listener = self.slots[key].listener();
        self.config.reuse_port
            && listener.is_some_and(|it| !it.is_shared() && it.turn_away_newcomers())
    }

    /// Whether a shutdown is over: nothing is listened on, nobody is connected, and every datagram
    /// is answered.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        !self.is_serving() && self.slots.is_empty()
    }

    pub(super) fn is_serving(&self) -> bool {
        matches!(self.phase, Phase::Serving)
    }

    /// When the next phase begins, if somebody is left to wait for.
    pub(super) fn phase_ends_at(&self) -> Option<Instant> {
        match self.phase {
            Phase::Draining { until } | Phase::Lingering { until } if !self.slots.is_empty() => {
                Some(until)
            }
            _ => None,
        }
    }

    pub(super) fn leave_phase(&mut self, now: Instant) {
        if matches!(self.phase, Phase::Draining { until } if until <= now) {
            self.linger(now);
        }
        if matches!(self.phase, Phase::Lingering { until } if until <= now) {
            self.cut(now);
        }
    }

    /// Nobody new finds the way to a Unix socket. Says whether those who have are to be accepted
    /// here, because nobody else can.
    fn withdraw(&mut self, key: usize) -> bool {
        let Some(listener) = self.slots[key].listener() else {
            return false;
        };
        listener.withdraw();
        !listener.is_shared()
    }

    /// Has what has come answered, and the socket closed after that.
    fn finish_datagrams(&mut self, key: usize) {
        if let Some(socket) = self.slots.get_mut(key).and_then(Slot::datagrams) {
            socket.finish();
            self.enqueue(key);
        }
    }

    /// The drain time is over: ends each connection from this side.
    fn linger(&mut self, now: Instant) {
        let until = now + self.config.drain_timeout.min(LINGER);
        self.phase = Phase::Lingering { until };
        for key in self.keys() {
            let slot = &mut self.slots[key];
            if let Source::Connection(connection) = &mut slot.source {
                connection.end();
                self.enqueue(key);
            } else if slot.datagrams().is_some() {
                self.remove(key);
            }
        }
    }

    fn cut(&mut self, now: Instant) {
        self.run_queue.clear();
        for key in self.keys() {
            self.close(key, &Reason::Cut, now);
        }
    }

    fn keys(&self) -> Vec<usize> {
        self.slots.iter().map(|(key, _)| key).collect()
    }
}
