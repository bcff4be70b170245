//! Closes connections in which no byte moves: after a timeout, or for the memory budget.

use std::mem;
use std::time::{Duration, Instant};

use log::warn;

use super::connection::Connection;
use super::engine::Engine;
use super::timers::Timeout;
use crate::net::{Stream, System};
use crate::stats::CloseReason;

/// How many bytes a connection has echoed before its unacknowledged data is limited at the close.
const UNACKNOWLEDGED_MIN: u64 = 64 * 1024;

impl<S: System> Engine<S> {
    /// Updates the clock.
    pub(super) fn set_now(&mut self, now: Instant) {
        self.timers.set_now(now);
        self.shared.now = self.timers.now();
    }

    /// Queues the connections whose timeout has passed.
    ///
    /// They get a turn before they are judged, because bytes can wait without a reported event: the
    /// process was stopped for a while, a signal interrupted the poll, or there were more events than
    /// it returns at once.
    ///
    /// All keys that were due go back into the wheel before the turns: a turn can evict, and the
    /// connection blocked longest is looked for there.
    #[cold]
    pub(super) fn queue_expired(&mut self, _now: Instant) {
        self.timers.collect_due();
        for index in 0..self.timers.due.len() {
            let (key, timeout) = self.timers.due[index];
            if self.has_expired(key, timeout) {
                self.enqueue(key);
            }
            self.schedule(key, timeout);
        }
    }

    /// Closes the connections that had their turn and in which still no byte has moved. Those that
    /// `max_turns` left without a turn are checked again in a later call.
    #[cold]
    pub(super) fn close_expired(&mut self, now: Instant) {
        for (key, timeout) in mem::take(&mut self.timers.due) {
            if !self.has_expired(key, timeout) {
                continue;
            }
            if self.connections[key].queued {
                self.timers.due.push((key, timeout));
            } else {
                let reason = match timeout {
                    Timeout::Idle => CloseReason::IdleTimeout,
                    Timeout::Write => CloseReason::WriteTimeout,
                };
                self.close(key, reason, now);
            }
        }
    }

    fn has_expired(&self, key: usize, timeout: Timeout) -> bool {
        self.connections.get(key).is_some_and(|connection| {
            connection.is_subject_to(timeout)
                && self.timers.has_expired(timeout, connection.last_progress)
        })
    }

    /// Has the connection checked when the timeout passes, if it applies.
    pub(super) fn schedule(&mut self, key: usize, timeout: Timeout) {
        let connection = self.connections.get(key);
        if let Some(connection) = connection.filter(|it| it.is_subject_to(timeout)) {
            let last_progress = connection.last_progress;
            self.timers.schedule(key, timeout, last_progress);
        }
    }

    /// Schedules a connection after all keys were taken out of the wheels.
    ///
    /// The write timeout even if it does not apply, as at the end of a shutdown: its wheel is also the order
    /// in which connections with pending bytes are evicted.
    pub(super) fn reschedule(&mut self, key: usize) {
        let connection = &self.connections[key];
        if connection.pending.held() > 0 {
            let last_progress = connection.last_progress;
            self.timers.schedule(key, Timeout::Write, last_progress);
        }
        self.schedule(key, Timeout::Idle);
    }

    /// Evicts connections until pending bytes fit the budget: first the one whose last byte moved
    /// longest ago. So a peer that goes on reading is evicted only if all others do so too.
    pub(super) fn enforce_budget(&mut self, now: Instant) {
        while self.stats.buffered > self.config.max_buffered {
            let blocked_since = |key| {
                let connection = self.connections.get(key)?;
                let is_blocked = connection.pending.held() > 0;
                is_blocked.then_some(connection.last_progress)
            };
            let Some(key) = self.timers.take_longest_blocked(blocked_since) else {
                return;
            };
            self.close(key, CloseReason::Evicted, now);
            if let Some(count) = self.evictions.count(now) {
                let (name, limit) = (&self.name, self.config.max_buffered);
                warn!(
                    "{name}: {count} connections evicted: pending bytes of peers that do not read \
                     reached the limit of {limit}"
                );
            }
        }
    }

    /// Limits how long the system keeps what the peer of a closed connection has not acknowledged. By
    /// default it tries for minutes to deliver it: megabytes for each peer that never reads.
    ///
    /// The limit is not set on listeners: there it would also reset live peers that read slowly.
    pub(super) fn limit_unacknowledged(&self, connection: &Connection<S::Stream>) {
        let limit = self.config.write_timeout;
        if limit > Duration::ZERO && connection.echoed >= UNACKNOWLEDGED_MIN {
            connection.stream.set_user_timeout(limit);
        }
    }
}
