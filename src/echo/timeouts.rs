//! Timeouts: connections in which nothing moves.

use std::time::Instant;

use super::{Echo, Source};
use crate::connection::Connection;
use crate::deadlines::Limit;
use crate::stream::StreamSocket;

impl Echo {
    pub(super) fn set_now(&mut self, now: Instant) {
        self.deadlines.set_now(now);
        self.scratch.now = self.deadlines.now();
    }

    /// A connection has bytes that its peer does not take.
    pub(super) fn limit_stall(&mut self, key: usize) {
        if self.deadlines.is_watched(key, Limit::Stall) {
            return;
        }
        if let Some(connection) = self.connection(key) {
            let moved = connection.moved();
            self.deadlines.watch(key, Limit::Stall, moved);
        }
    }

    /// Closes those whose limits are over. The others are looked at again when theirs may be.
    pub(super) fn close_overdue(&mut self, now: Instant) {
        while let Some((key, limit)) = self.deadlines.due() {
            if self.is_over(key, limit) {
                self.try_to_move(key, now);
            }
            let over = self.is_over(key, limit);
            match self.connection(key) {
                Some(_) if over => self.close(key, &limit.into(), now),
                Some(connection) if limit == Limit::Idle || connection.is_stalled() => {
                    let moved = connection.moved();
                    self.deadlines.watch(key, limit, moved);
                }
                _ => {}
            }
        }
    }

    /// Of those on the run queue it will be seen.
    fn is_over(&self, key: usize, limit: Limit) -> bool {
        let is_queued = self.slots.get(key).is_some_and(|slot| slot.queued);
        self.connection(key).is_some_and(|connection| {
            let counts = limit == Limit::Idle || connection.is_stalled();
            counts && !is_queued && self.deadlines.is_over(limit, connection.moved())
        })
    }

    /// There may be room for what is unsent, and no event of it: Linux announces none before it is a
    /// third of the buffer, and a slow peer may take longer for that than the limit.
    fn try_to_move(&mut self, key: usize, now: Instant) {
        let Source::Connection(connection) = &mut self.slots[key].source else {
            return;
        };
        let next = connection.try_to_move(&mut self.scratch, &mut self.stats);
        self.go_on(key, next, now);
    }

    fn connection(&self, key: usize) -> Option<&Connection<StreamSocket>> {
        match &self.slots.get(key)?.source {
            Source::Connection(connection) => Some(connection),
            Source::Endpoint(_) => None,
        }
    }
}
