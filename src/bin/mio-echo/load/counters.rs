//! The counters.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Messages, faults and latency.
pub(crate) struct Counters {
    /// When the measurement starts, in nanoseconds.
    pub(crate) start: u64,
    /// Messages due since then, and their echoes.
    pub(crate) sent: u64,
    pub(crate) echoes: u64,
    /// When the last echo arrived.
    pub(crate) latest: u64,
    /// Echoes since the start of the program.
    pub(crate) all_echoes: u64,
    /// Connections established since the start of the measurement.
    pub(crate) connected: u64,
    pub(crate) latency: Histogram<u64>,
    pub(crate) faults: Faults,
    /// The first different errors. More would follow without end.
    pub(crate) errors: Vec<String>,
}

/// Faults since the start of the program.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Faults {
    pub(crate) lost: u64,
    /// Those of the lost messages that were due in the warm-up.
    pub(crate) lost_in_warmup: u64,
    pub(crate) late: u64,
    pub(crate) corrupted: u64,
    pub(crate) reordered: u64,
    pub(crate) duplicated: u64,
    pub(crate) failed: u64,
    pub(crate) ended_early: u64,
    /// Due, but not sent, because no answer made room.
    pub(crate) unsent: u64,
}

impl Faults {
    pub(crate) fn named(&self) -> [(&'static str, u64); 9] {
        [
            ("lost", self.lost),
            ("lost_in_warmup", self.lost_in_warmup),
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

impl Counters {
    /// The range of the histogram. Longer times count as this long.
    const MAX_TIME: Duration = Duration::from_secs(3600);
    const ERRORS: usize = 5;

    pub(crate) fn new() -> Self {
        let longest = u64::try_from(Self::MAX_TIME.as_nanos()).expect("an hour");
        Counters {
            start: u64::MAX,
            sent: 0,
            echoes: 0,
            latest: 0,
            all_echoes: 0,
            connected: 0,
            latency: Histogram::new_with_max(longest, 3)
                .expect("a range and a number of digits that it has"),
            faults: Faults::default(),
            errors: Vec::new(),
        }
    }

    pub(crate) fn uncount_sent(&mut self, due: u64) {
        self.sent -= u64::from(due >= self.start);
    }

    pub(crate) fn count_connection(&mut self) {
        self.connected += u64::from(self.start != u64::MAX);
    }

    pub(crate) fn count_lost(&mut self, due: u64) {
        self.faults.lost += 1;
        self.faults.lost_in_warmup += u64::from(due < self.start);
    }

    pub(crate) fn count_echo(&mut self, due: u64, now: u64) {
        self.all_echoes += 1;
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
