//! From the first message to the results.

use std::io;
use std::time::Duration;

use super::{Generator, Phase, nanoseconds};
use crate::load::connection::{Connection, State};
use crate::load::options::Mode;
use crate::load::report::{Hold, OpenLoop, Results};

impl Generator {
    pub(super) fn begin_to_run(&mut self, now: u64) -> io::Result<()> {
        self.phase = Phase::Running;
        self.start = now + nanoseconds(self.options.warmup());
        self.end = self.start + nanoseconds(self.options.duration);
        self.deadline = self.end;
        if self.start == now {
            self.begin_to_count(now);
            self.start = u64::MAX;
        }
        self.kick_off(now)
    }

    pub(super) fn begin_to_count(&mut self, now: u64) {
        self.bench.tally.start = now;
        self.first = self.usage.snapshot(now);
        self.last = self.first;
    }

    /// All are connected, or are given up: what is left to do is to be there.
    pub(super) fn begin_to_hold(&mut self, now: u64) {
        self.last = self.usage.snapshot(now);
        self.memory[1] = self.usage.server_memory();
        self.phase = Phase::Holding;
        self.held_since = now;
        self.deadline = now + nanoseconds(self.options.duration);
    }

    /// Sends no more.
    pub(super) fn drain(&mut self, now: u64) {
        if self.bench.tally.start == u64::MAX {
            self.begin_to_count(now);
        }
        if self.mode != Mode::Hold || self.phase == Phase::Connecting {
            self.last = self.usage.snapshot(now);
        }
        self.end = self.end.min(now);
        self.phase = Phase::Draining;
        self.deadline = now + nanoseconds(self.options.timeout);
    }

    pub(super) fn go_on_draining(&mut self, now: u64) {
        self.dispatch();
        // What is due, and not sent, has to wait for room; where nobody is left it need not.
        let has_backlog = self.backlog() > 0;
        let is_missing = |it: &Connection| {
            it.state != State::Closed && (has_backlog || it.window.outstanding() > 0)
        };
        let is_complete = !self.connections.iter().any(is_missing);
        if self.bench.tally.echoes > 0 && self.bench.tally.latest > self.last.at {
            self.last = self.usage.snapshot(now);
        }
        if is_complete || now >= self.deadline {
            self.phase = Phase::Over;
        }
    }

    /// How many messages were due and have not been sent.
    fn backlog(&self) -> u64 {
        let pace = self.pace.as_ref();
        let backlog = pace.map_or(0, |pace| pace.backlog(self.end));
        backlog.min(self.budget)
    }

    pub(super) fn show_progress(&self, now: u64) {
        let tally = &self.bench.tally;
        let (what, done, total) = match self.phase {
            Phase::Connecting => (
                "connecting",
                self.opened as u64,
                self.connections.len() as u64,
            ),
            Phase::Running if tally.start == u64::MAX => {
                let warmup = nanoseconds(self.options.warmup());
                (
                    "warming up",
                    (now + warmup).saturating_sub(self.start),
                    warmup,
                )
            }
            Phase::Running => (
                "measuring",
                now.saturating_sub(tally.start),
                self.end.saturating_sub(tally.start),
            ),
            Phase::Holding => {
                let duration = nanoseconds(self.options.duration);
                (
                    "holding",
                    (now + duration).saturating_sub(self.deadline),
                    duration,
                )
            }
            Phase::Draining | Phase::Over => ("draining", 0, 0),
        };
        let text = || format!("{what}: {} echoes", tally.echoes);
        self.progress.show(text, done, total);
    }

    pub(super) fn finish(mut self) -> Results {
        let is_open = |it: &&Connection| it.state == State::Open;
        let hold = (self.mode == Mode::Hold).then_some(Hold {
            held: self.connections.iter().filter(is_open).count() as u64,
            time: Duration::from_nanos(self.bench.now().saturating_sub(self.held_since)),
            memory: self.memory,
        });
        let backlog = self.backlog();
        let tally = &mut self.bench.tally;
        tally.sent += backlog;
        tally.faults.unsent = backlog;
        if !self.opener.is_stream() {
            self.receive_the_rest();
        }
        let faults = &mut self.bench.tally.faults;
        for connection in &mut self.connections {
            connection.window.give_up(u64::MAX, |_| faults.lost += 1);
        }
        let open_loop = self.pace.as_ref().map(|pace| OpenLoop {
            sent: pace.sent,
            late: pace.late,
        });
        Results {
            endpoint: self.opener.endpoint().to_string(),
            mode: self.mode,
            connections: self.connections.len() as u64,
            size: self.bench.pattern.size as u64,
            outstanding: self.outstanding as u64,
            warmup: self.options.warmup(),
            first: self.first,
            last: self.last,
            tally: self.bench.tally,
            open_loop,
            hold,
        }
    }

    /// Duplicates that nobody has waited for; but not for ever, where they come without end.
    fn receive_the_rest(&mut self) {
        for connection in &mut self.connections {
            while let Ok((_, true)) = connection.receive(&mut self.bench, true) {
                if self.bench.now() >= self.deadline {
                    break;
                }
            }
        }
    }
}
