//! The phases from the first message to the results.

use std::io;

use super::{Generator, Phase, nanoseconds};
use crate::load::connection::{Connection, State};
use crate::load::options::Mode;
use crate::load::progress::Unit;
use crate::load::report::{Hold, OpenLoop, Results};

impl Generator {
    pub(super) fn start_running(&mut self, now: u64) -> io::Result<()> {
        self.phase = Phase::Running;
        self.running_since = now;
        self.start = now + nanoseconds(self.options.warmup());
        self.end = self.start + nanoseconds(self.options.duration);
        self.deadline = self.end;
        if self.start == now {
            self.start_counting(now);
            self.start = u64::MAX;
        }
        self.send_first(now)
    }

    pub(super) fn start_counting(&mut self, now: u64) {
        self.shared.counters.start = now;
        self.first = self.process_stats.snapshot(now);
        self.last = self.first;
    }

    /// All connections are established or have failed.
    pub(super) fn start_holding(&mut self, now: u64) {
        self.last = self.process_stats.snapshot(now);
        self.memory[1] = self.process_stats.server_memory();
        self.phase = Phase::Holding;
        self.held_since = now;
        self.deadline = now + nanoseconds(self.options.duration);
    }

    /// Stops sending.
    pub(super) fn drain(&mut self, now: u64) {
        if self.shared.counters.start == u64::MAX {
            self.start_counting(now);
        }
        if self.mode != Mode::Hold || self.phase == Phase::Connecting {
            self.last = self.process_stats.snapshot(now);
        }
        self.end = self.end.min(now);
        self.phase = Phase::Draining;
        self.deadline = now + nanoseconds(self.options.timeout);
    }

    pub(super) fn continue_draining(&mut self, now: u64) {
        self.dispatch();
        // Messages that are due wait for room, as long as a connection is open.
        let has_backlog = self.backlog() > 0;
        let is_missing = |it: &Connection| {
            it.state != State::Closed && (has_backlog || it.in_flight.outstanding() > 0)
        };
        let is_complete = !self.connections.iter().any(is_missing);
        if self.shared.counters.echoes > 0 && self.shared.counters.latest > self.last.at {
            self.last = self.process_stats.snapshot(now);
        }
        if is_complete || now >= self.deadline {
            self.phase = Phase::Over;
        }
    }

    /// Messages that were due and not sent.
    fn backlog(&self) -> u64 {
        let schedule = self.schedule.as_ref();
        let backlog = schedule.map_or(0, |schedule| schedule.backlog(self.end));
        backlog.min(self.budget)
    }

    /// One bar for warm-up and measurement: of the time, or with --count of the number.
    pub(super) fn show_progress(&mut self, now: u64) {
        let all = self.connections.len() as u64;
        let (what, work) = match (self.phase, self.options.count) {
            (Phase::Connecting, _) => ("connecting", (self.opened as u64, all, Unit::Number)),
            (Phase::Running, Some(count)) => {
                let sent = self.shared.counters.sent;
                (self.running(), (sent, count, Unit::Number))
            }
            (Phase::Running, None) => {
                let (done, total) = (now - self.running_since, self.end - self.running_since);
                (self.running(), (done, total, Unit::Time))
            }
            (Phase::Holding, _) => {
                let (done, total) = (now - self.held_since, self.deadline - self.held_since);
                ("holding", (done, total, Unit::Time))
            }
            (Phase::Draining | Phase::Over, _) => ("draining", (0, 0, Unit::Number)),
        };
        let echoes = self.shared.counters.all_echoes;
        self.progress.show(what, work, now, echoes);
    }

    fn running(&self) -> &'static str {
        if self.shared.counters.start == u64::MAX {
            "warming up"
        } else {
            "measuring"
        }
    }

    pub(super) fn finish(mut self) -> Results {
        let is_open = |it: &&Connection| it.state == State::Open;
        let hold = (self.mode == Mode::Hold).then_some(Hold {
            held: self.connections.iter().filter(is_open).count() as u64,
            first: self.last,
            last: if self.held_since == u64::MAX {
                self.last
            } else {
                self.process_stats.snapshot(self.shared.now())
            },
            memory: self.memory,
        });
        let backlog = self.backlog();
        let counters = &mut self.shared.counters;
        counters.sent += backlog;
        counters.faults.unsent = backlog;
        if !self.connector.is_stream() {
            self.receive_remaining();
        }
        let counters = &mut self.shared.counters;
        for connection in &mut self.connections {
            connection
                .in_flight
                .give_up(u64::MAX, |due| counters.count_lost(due));
        }
        let open_loop = self.schedule.as_ref().map(|schedule| OpenLoop {
            sent: schedule.sent,
            late: schedule.late,
        });
        Results {
            endpoint: self.connector.endpoint().to_string(),
            mode: self.mode,
            connections: self.connections.len() as u64,
            size: self.shared.pattern.size as u64,
            outstanding: self.outstanding as u64,
            segment: self.options.segment,
            warmup: self.options.warmup(),
            first: self.first,
            last: self.last,
            counters: self.shared.counters,
            open_loop,
            hold,
        }
    }

    /// Receives duplicates, for which no event was awaited. Ends at the deadline, because a peer
    /// can send them without end.
    fn receive_remaining(&mut self) {
        for connection in &mut self.connections {
            while let Ok((_, true)) = connection.receive(&mut self.shared, true) {
                if self.shared.now() >= self.deadline {
                    break;
                }
            }
        }
    }
}
