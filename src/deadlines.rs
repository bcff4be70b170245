//! Which connection times out next.
//!
//! A timer of its own for each connection would have to be set anew with each byte. Here a
//! connection notes when something moved last, which is all that it does for each read; and it
//! stands in the list of those that are to be looked at after the same span of time. Then each of them
//! has either timed out, or is put into the list of the span in which it will, if nothing moves
//! until then. So what a connection costs does not depend on how many there are, and comes once in a
//! timeout. (G. Varghese and T. Lauck, "Hashed and Hierarchical Timing Wheels", 1987.)

use std::time::{Duration, Instant};

mod lists;

use lists::Lists;

/// Milliseconds since the first turn. They begin again at 0 after 49 days, which does no harm: only
/// differences of less than that are asked for.
pub(crate) type Moment = u32;

/// What may not last for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    /// Nothing moves in either direction.
    Idle,
    /// Bytes are unsent, and the peer takes none.
    Stall,
}

/// The connections that may time out, by when to look at them.
#[derive(Debug)]
pub(crate) struct Deadlines {
    start: Option<Instant>,
    /// Milliseconds since then.
    now: u64,
    /// One for each limit that there is.
    wheels: [Option<Wheel>; 2],
}

impl Deadlines {
    /// With limits that may be zero, which is none.
    pub(crate) fn new(idle: Duration, stall: Duration) -> Self {
        let wheel = |limit: Duration| (!limit.is_zero()).then(|| Wheel::new(limit));
        Deadlines {
            start: None,
            now: 0,
            wheels: [wheel(idle), wheel(stall)],
        }
    }

    /// Takes in what time it is. Time that goes backwards stands still.
    pub(crate) fn set_now(&mut self, now: Instant) {
        let start = *self.start.get_or_insert(now);
        let passed = milliseconds(now.saturating_duration_since(start));
        self.now = self.now.max(passed);
    }

    #[expect(clippy::cast_possible_truncation, reason = "see Moment")]
    pub(crate) fn now(&self) -> Moment {
        self.now as Moment
    }

    /// When somebody is to be looked at next.
    pub(crate) fn next_at(&self) -> Option<Instant> {
        let next = self.wheels.iter().flatten().filter_map(Wheel::next).min()?;
        Some(self.start? + Duration::from_millis(next))
    }

    /// Has somebody looked at when the limit is over, if nothing moves until then.
    pub(crate) fn watch(&mut self, key: usize, limit: Limit, moved: Moment) {
        let moved = self.now.saturating_sub(self.passed_since(moved));
        if let Some(wheel) = &mut self.wheels[limit as usize] {
            wheel.put(key, moved);
        }
    }

    /// Whether somebody is looked at in time for this limit.
    pub(crate) fn is_watched(&self, key: usize, limit: Limit) -> bool {
        let wheel = self.wheels[limit as usize].as_ref();
        wheel.is_none_or(|wheel| wheel.lists.contain(key))
    }

    pub(crate) fn forget(&mut self, key: usize) {
        for wheel in self.wheels.iter_mut().flatten() {
            wheel.lists.remove(key);
        }
    }

    /// Takes out somebody who is to be looked at now, and for which limit.
    pub(crate) fn due(&mut self) -> Option<(usize, Limit)> {
        let now = self.now;
        let mut due = |limit: Limit| {
            let key = self.wheels[limit as usize].as_mut()?.due(now)?;
            Some((key, limit))
        };
        due(Limit::Idle).or_else(|| due(Limit::Stall))
    }

    /// Whether a limit is over, where something moved last at that moment.
    pub(crate) fn is_over(&self, limit: Limit, moved: Moment) -> bool {
        let wheel = self.wheels[limit as usize].as_ref();
        wheel.is_some_and(|wheel| self.passed_since(moved) >= wheel.limit)
    }

    fn passed_since(&self, moment: Moment) -> u64 {
        self.now().wrapping_sub(moment).into()
    }
}

/// The lists of one limit, which come round: the list of a span that is over is that of one to come.
#[derive(Debug)]
struct Wheel {
    /// In milliseconds.
    limit: u64,
    /// How long a span is, in milliseconds, which is how late somebody may be looked at.
    span: u64,
    lists: Lists,
    /// The number of the first span of which not everybody has been looked at.
    first: u64,
}

impl Wheel {
    fn new(limit: Duration) -> Self {
        let limit = milliseconds(limit).max(1);
        Wheel {
            limit,
            span: (limit / 100).max(50),
            lists: Lists::default(),
            first: 0,
        }
    }

    fn put(&mut self, key: usize, moved: u64) {
        let span = (moved + self.limit) / self.span;
        // The last list is early for whoever should be behind it, and late for nobody.
        let span = span.clamp(self.first, self.first + Lists::LAST);
        self.lists.put(key, span);
    }

    /// When the first span is over that somebody is in.
    fn next(&self) -> Option<u64> {
        let span = self.lists.first_from(self.first)?;
        Some((span + 1) * self.span)
    }

    /// Takes somebody out of a span that is over.
    fn due(&mut self, now: u64) -> Option<usize> {
        let present = now / self.span;
        let span = self
            .lists
            .first_from(self.first)
            .filter(|span| *span < present);
        self.first = span.unwrap_or(present);
        self.lists.take(span?)
    }
}

fn milliseconds(time: Duration) -> u64 {
    time.as_secs() * 1000 + u64::from(time.subsec_millis())
}

#[cfg(test)]
mod tests;
