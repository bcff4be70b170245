//! Whether other programs disturb a measurement.

use std::fs;
use std::thread;
use std::time::Duration;

/// Name in the values of a round: the share of a core's time that other programs used, or that the
/// hypervisor took. The larger one of the two cores'.
pub(crate) const KEY: &str = "disturbance_ratio";

/// A measurement with a larger share is disturbed. The counters have a resolution of 10 ms, and interrupts
/// count, too.
pub(crate) const LIMIT: f64 = 0.1;

/// How long the cores are watched before each measurement.
pub(crate) const WATCH: Duration = Duration::from_millis(100);

/// Times of a core since the start of the system, in clock ticks.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
struct Times {
    idle: f64,
    /// Taken by the hypervisor, for other virtual machines.
    stolen: f64,
    total: f64,
}

/// The times of some cores. Without /proc/stat (proc(5)) it is empty, and nothing is known.
pub(crate) struct Snapshot(Vec<Times>);

impl Snapshot {
    pub(crate) fn of(cores: [usize; 2]) -> Self {
        let text = fs::read_to_string("/proc/stat").unwrap_or_default();
        Snapshot(cores.iter().filter_map(|it| times(&text, *it)).collect())
    }

    /// Returns the share of time, from 0 to 1, in which a core was not idle since this snapshot: the
    /// largest one of all cores.
    fn busy_until(&self, end: &Snapshot) -> Option<f64> {
        self.largest(end, |it| it.total - it.idle)
    }

    /// Returns the same for the time that the hypervisor took.
    pub(crate) fn stolen_until(&self, end: &Snapshot) -> Option<f64> {
        self.largest(end, |it| it.stolen)
    }

    fn largest(&self, end: &Snapshot, time: fn(&Times) -> f64) -> Option<f64> {
        let pairs = self.0.iter().zip(&end.0);
        let share = |(start, end): (&Times, &Times)| {
            let total = end.total - start.total;
            (total > 0.0).then(|| (time(end) - time(start)) / total)
        };
        pairs.filter_map(share).reduce(f64::max)
    }
}

/// Watches the cores, which should be idle, and returns the share of time in which one was busy.
pub(crate) fn disturbance(cores: [usize; 2], watch: Duration) -> Option<f64> {
    let start = Snapshot::of(cores);
    thread::sleep(watch);
    start.busy_until(&Snapshot::of(cores))
}

/// Finds the line of a core in the text of /proc/stat. Its fields are user, nice, system, idle, iowait,
/// irq, softirq, steal; the guests' time after them is part of user and nice.
fn times(text: &str, core: usize) -> Option<Times> {
    let name = format!("cpu{core} ");
    let line = text.lines().find_map(|it| it.strip_prefix(&name))?;
    let fields = line.split_whitespace().take(8);
    let fields: Vec<f64> = fields.filter_map(|it| it.parse().ok()).collect();
    Some(Times {
        idle: fields.get(3)? + fields.get(4)?,
        stolen: *fields.get(7)?,
        total: fields.iter().sum(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(text: &str) -> Snapshot {
        Snapshot([0, 1].iter().filter_map(|it| times(text, *it)).collect())
    }

    #[test]
    fn larger_share_of_the_two_cores_counts() {
        let start = snapshot(
            "cpu  9 9 9 9 9 9 9 9 9 9\ncpu0 5 0 5 50 0 0 0 0 7 0\ncpu1 0 0 0 0 0 0 0 0 0 0\n",
        );
        let end = snapshot(
            "cpu  9 9 9 9 9 9 9 9 9 9\ncpu0 6 0 5 58 0 0 0 1 9 0\ncpu1 1 1 1 4 1 1 1 0 0 0\n",
        );
        assert_eq!(start.busy_until(&end), Some(0.5));
        assert_eq!(start.stolen_until(&end), Some(0.1));
    }

    #[test]
    fn missing_counters_and_no_time_say_nothing() {
        let known = snapshot("cpu0 1 2 3 4 5 6 7 8");
        assert_eq!(known.busy_until(&known), None);
        assert_eq!(snapshot("cpu0 1 2 3").busy_until(&known), None);
        assert_eq!(snapshot("cpu10 1 2 3 4 5 6 7 8").0, []);
    }
}
