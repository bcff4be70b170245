//! Timeouts, and the memory budget: both close connections in which no byte moves.

use std::time::Instant;

use log::warn;

use super::Echo;
use crate::echo::connection::Connection;
use crate::echo::timers::Timeout;
use crate::net::stream::StreamSocket;
use crate::stats::Reason;

impl Echo {
    pub(super) fn set_now(&mut self, now: Instant) {
        self.timers.set_now(now);
        self.scratch.now = self.timers.now();
    }

    /// Takes the connections out whose timeout may have passed, and queues those for which it has.
    ///
    /// They get a turn before they are judged: bytes can wait of which no event was seen yet. The
    /// process was stopped for a while, a signal interrupted the poll, or there were more events
    /// than it returns at once.
    pub(super) fn queue_expired(&mut self) -> Vec<(usize, Timeout)> {
        if !self.timers.is_due() {
            return Vec::new();
        }
        let due = self.timers.take_due();
        for &(key, timeout) in &due {
            if self.has_expired(key, timeout) {
                self.enqueue(key);
            }
        }
        due
    }

    /// After their turns: closes the connections in which still nothing has moved, and schedules the
    /// others again.
    pub(super) fn close_expired(&mut self, due: Vec<(usize, Timeout)>, now: Instant) {
        for (key, timeout) in due {
            if self.has_expired(key, timeout) {
                self.close(key, &timeout.into(), now);
            } else {
                self.schedule(key, timeout);
            }
        }
    }

    fn has_expired(&self, key: usize, timeout: Timeout) -> bool {
        self.connection(key).is_some_and(|connection| {
            connection.is_subject_to(timeout)
                && self.timers.has_expired(timeout, connection.last_progress())
        })
    }

    /// Has the connection checked when the timeout passes, if it applies.
    pub(super) fn schedule(&mut self, key: usize, timeout: Timeout) {
        let connection = self.connection(key);
        if let Some(connection) = connection.filter(|it| it.is_subject_to(timeout)) {
            let last_progress = connection.last_progress();
            self.timers.schedule(key, timeout, last_progress);
        }
    }

    /// Closes connections until what is held fits the budget, those first whose last byte moved
    /// longest ago. So a peer that goes on reading is closed only if all others do so too.
    pub(super) fn enforce_budget(&mut self, now: Instant) {
        while self.stats.buffered > self.config.max_buffered {
            let blocked_since = |key| {
                let connection = self.slots.get(key)?.connection()?;
                let is_blocked = connection.is_write_blocked();
                is_blocked.then(|| connection.last_progress())
            };
            let Some(key) = self.timers.take_longest_blocked(blocked_since) else {
                return;
            };
            self.close(key, &Reason::Evicted, now);
            if let Some(count) = self.evictions.count(now) {
                let most = self.config.max_buffered;
                warn!(
                    "{count} connections evicted: peers that do not read reached the limit of \
                     {most} buffered bytes"
                );
            }
        }
    }

    fn connection(&self, key: usize) -> Option<&Connection<StreamSocket>> {
        self.slots.get(key)?.connection()
    }
}
