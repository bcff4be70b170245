//! At most one log line a minute for events that peers can cause without end.

use std::mem;
use std::time::{Duration, Instant};

/// Counts events between two log lines.
#[derive(Debug, Default)]
pub(crate) struct LogThrottle {
    logged_at: Option<Instant>,
    count: u64,
}

impl LogThrottle {
    const INTERVAL: Duration = Duration::from_secs(60);

    /// Counts an event. Returns the number of events since the last line if a line is due.
    pub(crate) fn count(&mut self, now: Instant) -> Option<u64> {
        self.count += 1;
        let is_due = |at| now.saturating_duration_since(at) >= Self::INTERVAL;
        if !self.logged_at.is_none_or(is_due) {
            return None;
        }
        self.logged_at = Some(now);
        Some(mem::take(&mut self.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_event_is_logged_at_once_and_then_one_line_a_minute() {
        let mut throttle = LogThrottle::default();
        let start = Instant::now();
        for (seconds, count) in [
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
            assert_eq!(throttle.count(now), count, "after {seconds} s");
        }
    }
}
