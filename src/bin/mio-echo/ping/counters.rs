//! The counters and the statistics.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::ping::in_flight::Answer;

/// The number of pings, and their outcomes.
///
/// A corrupt answer does not count as received: its ping is lost too, unless an intact answer
/// arrives. So each ping is either received or lost, even if the corrupted one cannot be
/// identified.
pub(crate) struct Counters {
    pub(crate) sent: u64,
    received: u64,
    duplicated: u64,
    corrupted: u64,
    times: Times,
}

impl Counters {
    pub(crate) fn new() -> Self {
        Counters {
            sent: 0,
            received: 0,
            duplicated: 0,
            corrupted: 0,
            times: Times::new(),
        }
    }

    pub(crate) fn count(&mut self, answer: &Answer) {
        match *answer {
            Answer::Corrupt { .. } => self.corrupted += 1,
            Answer::Intact {
                is_duplicate: true, ..
            } => self.duplicated += 1,
            Answer::Intact { time, .. } => {
                self.received += 1;
                self.times.add(time);
            }
        }
    }

    /// Whether everything came back, and nothing was corrupted.
    pub(crate) fn is_clean(&self) -> bool {
        self.lost() == 0 && self.corrupted == 0
    }

    fn lost(&self) -> u64 {
        self.sent - self.received
    }

    /// In percent of the sent pings, to a thousandth.
    fn lost_percent(&self) -> f64 {
        let thousandths = self.lost() * 100_000 / self.sent.max(1);
        f64::from(u32::try_from(thousandths).unwrap_or(u32::MAX)) / 1000.0
    }

    /// The statistics, with the duration of the run.
    pub(crate) fn summary(&self, elapsed: Duration) -> String {
        let counts = format!(
            "{} sent, {} received, {} lost ({}%), {} duplicated, {} corrupted, time {} ms",
            self.sent,
            self.received,
            self.lost(),
            self.lost_percent(),
            self.duplicated,
            self.corrupted,
            elapsed.as_millis(),
        );
        if self.received == 0 {
            counts
        } else {
            format!("{counts}\n{}", self.times)
        }
    }
}

/// Round-trip times in nanoseconds.
struct Times {
    /// A histogram with three digits: a quarter of a megabyte for any number of times.
    histogram: Histogram<u64>,
    count: u64,
    sum: u64,
    min: u64,
    max: u64,
    last: u64,
    /// The sum of the differences between consecutive times.
    changes: u64,
}

impl Times {
    /// The range of the histogram. Longer times count as this long, except in average and maximum.
    const MAX_TIME: Duration = Duration::from_secs(3600);

    fn new() -> Self {
        Times {
            histogram: Histogram::new_with_max(nanoseconds(Self::MAX_TIME), 3)
                .expect("a range and a number of digits that it has"),
            count: 0,
            sum: 0,
            min: u64::MAX,
            max: 0,
            last: 0,
            changes: 0,
        }
    }

    fn add(&mut self, time: Duration) {
        let time = nanoseconds(time);
        if self.count > 0 {
            self.changes += time.abs_diff(self.last);
        }
        self.histogram.saturating_record(time);
        self.count += 1;
        self.sum += time;
        self.min = self.min.min(time);
        self.max = self.max.max(time);
        self.last = time;
    }

    /// The time that this part of all times does not exceed.
    fn quantile(&self, part: f64) -> u64 {
        let rounded = self.histogram.value_at_quantile(part);
        rounded.clamp(self.min, self.max)
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "rtt min/avg/median/p99/max/jitter = {}/{}/{}/{}/{}/{} ms",
            milliseconds(self.min),
            milliseconds(self.sum / self.count.max(1)),
            milliseconds(self.quantile(0.5)),
            milliseconds(self.quantile(0.99)),
            milliseconds(self.max),
            milliseconds(self.changes / self.count.saturating_sub(1).max(1)),
        )
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn milliseconds(nanoseconds: u64) -> String {
    let seconds = Duration::from_nanos(nanoseconds).as_secs_f64();
    format!("{:.3}", seconds * 1e3)
}
