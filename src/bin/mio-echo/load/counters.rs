//! What is counted.

use std::time::Duration;

use hdrhistogram::Histogram;

/// The messages, what became of them, and how long the answers took.
pub(crate) struct Tally {
    /// From when on messages count, in nanoseconds; at first never.
    pub(crate) start: u64,
    /// Messages due since then; how many of them were answered, and how long that took.
    pub(crate) sent: u64,
    pub(crate) echoes: u64,
    /// When the latest of them was.
    pub(crate) latest: u64,
    pub(crate) latency: Histogram<u64>,
    pub(crate) faults: Faults,
    /// The first errors, in words; not more, because one like another would follow for ever.
    pub(crate) errors: Vec<String>,
}

/// What went wrong, from the very beginning.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Faults {
    pub(crate) lost: u64,
    pub(crate) late: u64,
    pub(crate) corrupted: u64,
    pub(crate) reordered: u64,
    pub(crate) duplicated: u64,
    pub(crate) failed: u64,
    pub(crate) ended_early: u64,
    /// Due, but not sent to the end, because nothing came back that would have made room.
    pub(crate) unsent: u64,
}

impl Faults {
    pub(crate) fn named(&self) -> [(&'static str, u64); 8] {
        [
            ("lost", self.lost),
            ("late", self.late),
            ("corrupted", self.corrupted),
            ("reordered", self.reordered),
            ("duplicated", self.duplicated),
            ("connections_failed", self.failed),
            ("connections_ended_early", self.ended_early),
            ("unsent", self.unsent),
        ]
    }
}

impl Tally {
    /// The histogram's longest. Longer ones count as this long.
    const LONGEST: Duration = Duration::from_secs(3600);
    const ERRORS: usize = 5;

    pub(crate) fn new() -> Self {
        let longest = u64::try_from(Self::LONGEST.as_nanos()).expect("an hour");
        Tally {
            start: u64::MAX,
            sent: 0,
            echoes: 0,
            latest: 0,
            latency: Histogram::new_with_max(longest, 3)
                .expect("a range and a number of digits that it has"),
            faults: Faults::default(),
            errors: Vec::new(),
        }
    }

    pub(crate) fn uncount_sent(&mut self, due: u64) {
        self.sent -= u64::from(due >= self.start);
    }

    pub(crate) fn count_echo(&mut self, due: u64, now: u64) {
        if due >= self.start {
            self.echoes += 1;
            self.latest = now;
            self.latency.saturating_record(now.saturating_sub(due));
        }
    }

    pub(crate) fn note_error(&mut self, error: String) {
        if self.errors.len() < Self::ERRORS && !self.errors.contains(&error) {
            self.errors.push(error);
        }
    }
}
