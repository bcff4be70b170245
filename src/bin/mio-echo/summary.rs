//! The summary of the counters in the log: at an interval, on SIGUSR1 and at the end.

use std::time::{Duration, Instant};

use log::info;
use mio_echo::Stats;

pub(crate) struct Summary {
    started: Instant,
    interval: Option<Duration>,
    /// When the next summary is due.
    pub(crate) due: Option<Instant>,
}

impl Summary {
    /// With an interval, `run` logs a summary at each.
    pub(crate) fn new(interval: Option<Duration>, now: Instant) -> Self {
        Summary {
            started: now,
            interval,
            due: interval.map(|interval| now + interval),
        }
    }

    /// Logs a summary if it is due. The next one is due an interval later.
    pub(crate) fn run(&mut self, now: Instant, stats: &Stats) {
        if self.due.is_some_and(|due| due <= now) {
            self.due = self.interval.map(|interval| now + interval);
            self.log("running for", stats);
        }
    }

    /// Logs a summary now. `phase` precedes the age of the service.
    pub(crate) fn log(&self, phase: &str, stats: &Stats) {
        let seconds = self.started.elapsed().as_secs();
        let age = humantime::format_duration(Duration::from_secs(seconds));
        let closed = &stats.closed;
        info!(
            "{phase} {age}: {} bytes echoed; {} datagrams, {} dropped; {} connections, {} active, \
             {} closed by peers, {} reset, {} failed, {} timed out, {} evicted, {} aborted; \
             {} rejected; {} accept pauses, {} iterations",
            stats.bytes_sent,
            stats.datagrams_sent,
            stats.dropped.total() + stats.send_buffer_drops,
            stats.accepted,
            stats.active,
            closed.peer_closed,
            closed.reset,
            closed.error,
            closed.idle_timeout + closed.write_timeout,
            closed.evicted,
            closed.aborted,
            stats.rejected.total(),
            stats.accept_pauses,
            stats.iterations,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_is_due_an_interval_after_the_last() {
        let start = Instant::now();
        let interval = Duration::from_secs(10);
        let stats = Stats::default();
        let mut summary = Summary::new(Some(interval), start);
        assert_eq!(summary.due, Some(start + interval));
        let early = start + interval / 2;
        summary.run(early, &stats);
        assert_eq!(summary.due, Some(start + interval));
        let late = start + interval * 3;
        summary.run(late, &stats);
        assert_eq!(summary.due, Some(late + interval));

        assert_eq!(Summary::new(None, start).due, None);
    }
}
