//! What is counted, and the statistics at the end.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::ping::in_flight::Answer;

/// How many were sent, and what became of them.
///
/// A corrupt answer is none: its ping counts as lost as well, unless an intact one comes too. So
/// each ping is either received or lost, even where one cannot tell which of them was corrupted.
pub(crate) struct Tally {
    pub(crate) sent: u64,
    received: u64,
    duplicated: u64,
    corrupted: u64,
    times: Times,
}

impl Tally {
    pub(crate) fn new() -> Self {
        Tally {
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

    /// Whether all that was sent came back, and nothing else.
    pub(crate) fn is_clean(&self) -> bool {
        self.lost() == 0 && self.corrupted == 0
    }

    fn lost(&self) -> u64 {
        self.sent - self.received
    }

    /// Of what was sent, in percent; to a thousandth.
    fn lost_percent(&self) -> f64 {
        let thousandths = self.lost() * 100_000 / self.sent.max(1);
        f64::from(u32::try_from(thousandths).unwrap_or(u32::MAX)) / 1000.0
    }

    /// The lines at the end; `elapsed` is how long it all took.
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

/// The round-trip times, in nanoseconds: not each of them, but what tells about them all.
struct Times {
    /// How many there were of each length, to three digits. That takes a quarter of a megabyte,
    /// however many there are, where a list to be sorted would grow.
    histogram: Histogram<u64>,
    count: u64,
    sum: u64,
    least: u64,
    most: u64,
    last: u64,
    /// The sum of the differences between each and the one before it.
    changes: u64,
}

impl Times {
    /// The histogram's longest. Longer ones count as this long, but for the average and the maximum.
    const LONGEST: Duration = Duration::from_secs(3600);

    fn new() -> Self {
        Times {
            histogram: Histogram::new_with_max(nanoseconds(Self::LONGEST), 3)
                .expect("a range and a number of digits that it has"),
            count: 0,
            sum: 0,
            least: u64::MAX,
            most: 0,
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
        self.least = self.least.min(time);
        self.most = self.most.max(time);
        self.last = time;
    }

    /// What so great a part of all times does not exceed.
    fn quantile(&self, part: f64) -> u64 {
        let rounded = self.histogram.value_at_quantile(part);
        rounded.clamp(self.least, self.most)
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "rtt min/avg/median/p99/max/jitter = {}/{}/{}/{}/{}/{} ms",
            milliseconds(self.least),
            milliseconds(self.sum / self.count.max(1)),
            milliseconds(self.quantile(0.5)),
            milliseconds(self.quantile(0.99)),
            milliseconds(self.most),
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
