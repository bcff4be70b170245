//! One line of the log for many events: a flood of them does not become a flood of lines.

use std::mem;
use std::time::{Duration, Instant};

/// Counts events between one line and the next.
#[derive(Debug, Default)]
pub(crate) struct Digest {
    told: Option<Instant>,
    since: u64,
}

impl Digest {
    /// At most that often a line.
    const INTERVAL: Duration = Duration::from_secs(60);

    /// Counts one more. If it is time for a line, gives how many there were since the last one.
    pub(crate) fn count(&mut self, now: Instant) -> Option<u64> {
        self.since += 1;
        let is_calm = |at| now.saturating_duration_since(at) >= Self::INTERVAL;
        if !self.told.is_none_or(is_calm) {
            return None;
        }
        self.told = Some(now);
        Some(mem::take(&mut self.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_told_at_once_and_the_others_once_a_minute() {
        let mut digest = Digest::default();
        let start = Instant::now();
        for (seconds, told) in [
            (0, Some(1)),
            (0, None),
            (1, None),
            (59, None),
            (60, Some(4)),
            (119, None),
            (120, Some(2)),
            (1000, Some(1)),
        ] {
            let now = start + Duration::from_secs(seconds);
            assert_eq!(digest.count(now), told, "after {seconds} s");
        }
    }
}
