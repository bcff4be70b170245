//! Opens and closes connections.

use std::io;

use mio::{Interest, Token};

use super::Generator;
use crate::load::connection::State;
use crate::load::options::Mode;

impl Generator {
    /// Connections to open at a time, because the backlog of a listener is limited.
    const CONNECTING: usize = 64;
    const TOO_LATE: &str = "no connection within the time of --connect-timeout";

    pub(super) fn open_more(&mut self, now: u64) -> io::Result<()> {
        if self.mode == Mode::Churn {
            // In this mode connections are opened as part of the load.
            self.opened = self.connections.len();
            return self.start_running(now);
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
            // Not the time before this turn opened more connections: their CPU time counts.
            self.start_holding(self.shared.now());
            return Ok(());
        }
        self.start_running(now)
    }

    /// Connections that are not yet established. In hold mode a connection counts as established
    /// after its echo, because before accept(2) it is only in the backlog.
    fn unfinished(&self) -> usize {
        if self.mode != Mode::Hold {
            return self.connecting;
        }
        let it = &self.shared.counters;
        let finished = it.echoes + it.faults.lost + it.faults.corrupted;
        usize::try_from(it.sent.saturating_sub(finished)).unwrap_or(usize::MAX)
    }

    fn give_up_connecting(&mut self) {
        let unopened = self.connections.len() - self.opened + self.retries.len();
        if unopened > 0 {
            self.shared.counters.faults.failed += unopened as u64;
            self.shared.counters.note_error(Self::TOO_LATE.to_owned());
        }
        self.opened = self.connections.len();
        self.retries.clear();
        for index in 0..self.connections.len() {
            if self.connections[index].state == State::Connecting {
                self.fail(index, &io::Error::other(Self::TOO_LATE));
            }
        }
    }

    /// Starts to connect. If the backlog of a Unix listener is full, the next sweep retries.
    pub(super) fn open(&mut self, index: usize) {
        let now = self.shared.now();
        let connection = &mut self.connections[index];
        let token = Token(index);
        let opened = self.connector.open().and_then(|mut socket| {
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
                self.shared.counters.faults.failed += 1;
                self.shared.counters.note_error(error.to_string());
                if self.mode == Mode::Churn {
                    self.retries.push(index);
                }
            }
        }
    }

    /// Counts a connection that failed or ended early.
    pub(super) fn fail(&mut self, index: usize, error: &io::Error) {
        let counters = &mut self.shared.counters;
        let connection = &mut self.connections[index];
        counters.note_error(error.to_string());
        if connection.state == State::Connecting {
            self.connecting -= 1;
            counters.faults.failed += 1;
            connection
                .in_flight
                .give_up(u64::MAX, |due| counters.uncount_sent(due));
        } else {
            counters.faults.ended_early += 1;
            connection
                .in_flight
                .give_up(u64::MAX, |due| counters.count_lost(due));
        }
        connection.close();
        if self.mode == Mode::Churn {
            // Not at once: if nothing listens, the loop would spin.
            self.retries.push(index);
        }
    }

    /// Closes a connection in any state.
    pub(super) fn disconnect(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        self.connecting -= usize::from(connection.state == State::Connecting);
        connection.close();
    }
}
