//! When the next message is sent: what the modes differ in.

use std::io;

use super::{Generator, Phase, TIMER};
use crate::load::connection::State;
use crate::load::options::Mode;
use crate::load::schedule::Pace;

impl Generator {
    /// Sends the first messages.
    pub(super) fn kick_off(&mut self, now: u64) -> io::Result<()> {
        if let Mode::Open(rate) = self.mode {
            let pace = Pace::begin(rate, now, self.poll.registry(), TIMER)?;
            self.pace = Some(pace);
            return Ok(());
        }
        for index in 0..self.connections.len() {
            if self.mode == Mode::Churn {
                self.reopen(index, now);
            } else if let Err(error) = self.refill(index, now) {
                self.fail(index, &error);
            }
        }
        Ok(())
    }

    /// Goes on with a connection, after what has come; at `now`, if something has.
    pub(super) fn proceed(&mut self, index: usize, now: Option<u64>) -> io::Result<()> {
        match self.mode {
            Mode::Closed | Mode::Stream => self.refill(index, now.unwrap_or(0)),
            Mode::Churn if self.connections[index].window.outstanding() == 0 => {
                self.disconnect(index);
                let now = self.bench.now();
                self.reopen(index, now);
                Ok(())
            }
            Mode::Churn | Mode::Hold | Mode::Open(_) => {
                self.connections[index].send(&mut self.bench)
            }
        }
    }

    /// Closed loop: sends as many messages as have come back.
    fn refill(&mut self, index: usize, now: u64) -> io::Result<()> {
        while self.may_send(now) && self.has_room(index) {
            let now = if now == 0 { self.bench.now() } else { now };
            self.issue(index, now);
        }
        self.connections[index].send(&mut self.bench)
    }

    fn has_room(&self, index: usize) -> bool {
        let connection = &self.connections[index];
        connection.state == State::Open
            && connection.window.outstanding() < self.outstanding
            && connection.window.has_room()
    }

    fn may_send(&self, now: u64) -> bool {
        self.phase == Phase::Running && now < self.end && self.budget > 0
    }

    pub(super) fn issue(&mut self, index: usize, due: u64) {
        let tally = &mut self.bench.tally;
        if due >= tally.start {
            tally.sent += 1;
            self.budget = self.budget.saturating_sub(1);
        }
        self.connections[index].window.issue(due);
    }

    /// Churn: connects anew.
    fn reopen(&mut self, index: usize, now: u64) {
        if self.may_send(now) {
            self.open(index);
        }
    }

    /// Open loop: sends all that is due by now, on each connection in turn.
    pub(super) fn dispatch(&mut self) {
        while let Some(due) = self.next_due() {
            let now = self.bench.now();
            if due > now {
                self.hold_up(false);
                return;
            }
            let Some(index) = self.next_with_room() else {
                self.hold_up(true);
                return;
            };
            if let Some(pace) = &mut self.pace {
                pace.advance(due, now);
            }
            self.issue(index, due);
            if let Err(error) = self.connections[index].send(&mut self.bench) {
                self.fail(index, &error);
            }
        }
    }

    /// When the next message is due, if there is to be another.
    fn next_due(&self) -> Option<u64> {
        let due = self.pace.as_ref()?.due();
        (due < self.end && self.budget > 0).then_some(due)
    }

    fn hold_up(&mut self, is_held_up: bool) {
        if let Some(pace) = &mut self.pace {
            pace.is_held_up = is_held_up;
        }
    }

    fn next_with_room(&mut self) -> Option<usize> {
        let count = self.connections.len();
        let in_turn = (self.turn..count).chain(0..self.turn);
        let index = in_turn.into_iter().find(|&index| self.has_room(index))?;
        self.turn = (index + 1) % count;
        Some(index)
    }

    /// Takes for lost what has been on its way since then or longer.
    pub(super) fn give_up_before(&mut self, then: u64) {
        for index in 0..self.connections.len() {
            let connection = &mut self.connections[index];
            let faults = &mut self.bench.tally.faults;
            let mut lost = 0;
            connection.window.give_up(then, |_| lost += 1);
            faults.lost += lost;
            if lost == 0 {
                continue;
            }
            if self.mode == Mode::Churn {
                self.abandon(index);
            } else if let Err(error) = self.proceed(index, None) {
                self.fail(index, &error);
            }
        }
    }

    /// Churn: what was on its way is lost, and the connection is of no more use.
    fn abandon(&mut self, index: usize) {
        self.disconnect(index);
        let now = self.bench.now();
        self.reopen(index, now);
    }
}
