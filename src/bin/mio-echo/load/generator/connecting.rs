//! How connections come to be, and how they go.

use std::io;

use mio::{Interest, Token};

use super::Generator;
use crate::load::connection::State;
use crate::load::options::Mode;

impl Generator {
    /// How many connections to begin at a time: a listener's queue is only so long.
    const CONNECTING: usize = 64;
    const TOO_LATE: &str = "no connection within the time of --connect-timeout";

    pub(super) fn connect_more(&mut self, now: u64) -> io::Result<()> {
        if self.mode == Mode::Churn {
            // There each connection is a message: they come to be as the load.
            self.opened = self.connections.len();
            return self.begin_to_run(now);
        }
        while self.opened < self.connections.len()
            && self.unfinished() < Self::CONNECTING
            && self.retries.is_empty()
        {
            self.open(self.opened);
            self.opened += 1;
        }
        if now >= self.deadline {
            self.give_up_connecting();
        } else if self.opened < self.connections.len()
            || self.unfinished() > 0
            || !self.retries.is_empty()
        {
            return Ok(());
        }
        if self.mode == Mode::Hold {
            self.begin_to_hold(now);
            return Ok(());
        }
        self.begin_to_run(now)
    }

    /// How many connections are coming to be. That they are connected does not say that the service
    /// has accepted them; an echo does.
    fn unfinished(&self) -> usize {
        if self.mode != Mode::Hold {
            return self.connecting;
        }
        let it = &self.bench.tally;
        let finished = it.echoes + it.faults.lost + it.faults.corrupted;
        usize::try_from(it.sent.saturating_sub(finished)).unwrap_or(usize::MAX)
    }

    fn give_up_connecting(&mut self) {
        let unopened = self.connections.len() - self.opened + self.retries.len();
        if unopened > 0 {
            self.bench.tally.faults.failed += unopened as u64;
            self.bench.tally.note_error(Self::TOO_LATE.to_owned());
        }
        self.opened = self.connections.len();
        self.retries.clear();
        for index in 0..self.connections.len() {
            if self.connections[index].state == State::Connecting {
                self.fail(index, &io::Error::other(Self::TOO_LATE));
            }
        }
    }

    /// Begins to connect; or has it tried later, where the queue of a Unix listener is full.
    pub(super) fn open(&mut self, index: usize) {
        let now = self.bench.now();
        let connection = &mut self.connections[index];
        let token = Token(index);
        let opened = self.opener.open().and_then(|mut socket| {
            let interest = Interest::READABLE | Interest::WRITABLE;
            let registry = self.poll.registry();
            registry.register(socket.source(), token, interest)?;
            Ok(socket)
        });
        match opened {
            Ok(socket) => {
                connection.connect(socket);
                self.connecting += 1;
                if matches!(self.mode, Mode::Churn | Mode::Hold) {
                    self.issue(index, now);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.retries.push(index);
                self.sweep = self.sweep.min(now + 1_000_000);
            }
            Err(error) => {
                self.bench.tally.faults.failed += 1;
                self.bench.tally.note_error(error.to_string());
                if self.mode == Mode::Churn {
                    self.retries.push(index);
                }
            }
        }
    }

    /// Notes that a connection failed, or ended though it should not have.
    pub(super) fn fail(&mut self, index: usize, error: &io::Error) {
        let tally = &mut self.bench.tally;
        let connection = &mut self.connections[index];
        tally.note_error(error.to_string());
        if connection.state == State::Connecting {
            self.connecting -= 1;
            tally.faults.failed += 1;
            connection
                .window
                .give_up(u64::MAX, |due| tally.uncount_sent(due));
        } else {
            tally.faults.ended_early += 1;
            connection
                .window
                .give_up(u64::MAX, |_| tally.faults.lost += 1);
        }
        connection.close();
        if self.mode == Mode::Churn {
            // Not at once: where nobody listens that would only be noise.
            self.retries.push(index);
        }
    }

    /// Closes a connection, in whatever state it is.
    pub(super) fn disconnect(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        self.connecting -= usize::from(connection.state == State::Connecting);
        connection.close();
    }
}
