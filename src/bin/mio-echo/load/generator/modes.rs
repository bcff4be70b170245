//! Decides when the next message is sent: the difference between the modes.

use std::io;

use super::{Generator, Phase, TIMER};
use crate::load::connection::State;
use crate::load::options::Mode;
use crate::load::schedule::Schedule;

impl Generator {
    /// Sends the first messages.
    pub(super) fn send_first(&mut self, now: u64) -> io::Result<()> {
        if let Mode::Open(rate) = self.mode {
            let schedule = Schedule::begin(rate, now, self.poll.registry(), TIMER)?;
            self.schedule = Some(schedule);
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

    /// Sends the next messages of a connection. `now` is the time of the last read, if there was
    /// one.
    pub(super) fn send_next(&mut self, index: usize, now: Option<u64>) -> io::Result<()> {
        match self.mode {
            Mode::Closed | Mode::Stream => self.refill(index, now.unwrap_or(0)),
            Mode::Churn if self.connections[index].in_flight.outstanding() == 0 => {
                self.disconnect(index);
                let now = self.shared.now();
                self.reopen(index, now);
                Ok(())
            }
            Mode::Churn | Mode::Hold | Mode::Open(_) => {
                self.connections[index].send(&mut self.shared)
            }
        }
    }

    /// Closed loop: sends as many messages as came back.
    fn refill(&mut self, index: usize, now: u64) -> io::Result<()> {
        while self.may_send(now) && self.has_room(index) {
            let now = if now == 0 { self.shared.now() } else { now };
            self.issue(index, now);
        }
        self.connections[index].send(&mut self.shared)
    }

    fn has_room(&self, index: usize) -> bool {
        let connection = &self.connections[index];
        connection.state == State::Open
            && connection.in_flight.outstanding() < self.outstanding
            && connection.in_flight.has_room()
    }

    fn may_send(&self, now: u64) -> bool {
        self.phase == Phase::Running && now < self.end && self.budget > 0
    }

    pub(super) fn issue(&mut self, index: usize, due: u64) {
        let counters = &mut self.shared.counters;
        if due >= counters.start {
            counters.sent += 1;
            self.budget = self.budget.saturating_sub(1);
        }
        self.connections[index].in_flight.issue(due);
    }

    /// Churn: connects again.
    fn reopen(&mut self, index: usize, now: u64) {
        if self.may_send(now) {
            self.open(index);
        }
    }

    /// Open loop: sends all messages that are due, on each connection in turn.
    pub(super) fn dispatch(&mut self) {
        while let Some(due) = self.next_due() {
            let now = self.shared.now();
            if due > now {
                self.set_blocked(false);
                return;
            }
            let Some(index) = self.next_with_room() else {
                self.set_blocked(true);
                return;
            };
            if let Some(schedule) = &mut self.schedule {
                schedule.advance(due, now);
            }
            self.issue(index, due);
            if let Err(error) = self.connections[index].send(&mut self.shared) {
                self.fail(index, &error);
            }
        }
    }

    /// When the next message is due, if one is left.
    fn next_due(&self) -> Option<u64> {
        let due = self.schedule.as_ref()?.due();
        (due < self.end && self.budget > 0).then_some(due)
    }

    fn set_blocked(&mut self, is_blocked: bool) {
        if let Some(schedule) = &mut self.schedule {
            schedule.is_blocked = is_blocked;
        }
    }

    fn next_with_room(&mut self) -> Option<usize> {
        let count = self.connections.len();
        let in_turn = (self.turn..count).chain(0..self.turn);
        let index = in_turn.into_iter().find(|&index| self.has_room(index))?;
        self.turn = (index + 1) % count;
        Some(index)
    }

    /// Counts messages as lost that were due at `then` or before.
    pub(super) fn give_up_until(&mut self, then: u64) {
        for index in 0..self.connections.len() {
            let connection = &mut self.connections[index];
            let counters = &mut self.shared.counters;
            let lost_before = counters.faults.lost;
            connection
                .in_flight
                .give_up(then, |due| counters.count_lost(due));
            if counters.faults.lost == lost_before {
                continue;
            }
            if self.mode == Mode::Churn {
                self.reconnect(index);
            } else if let Err(error) = self.send_next(index, None) {
                self.fail(index, &error);
            }
        }
    }

    /// Churn: after a loss the connection is useless.
    fn reconnect(&mut self, index: usize) {
        self.disconnect(index);
        let now = self.shared.now();
        self.reopen(index, now);
    }
}
