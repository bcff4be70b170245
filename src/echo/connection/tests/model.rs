//! Every order of events, over a model of a socket with edge-triggered events.
//!
//! The peer, the selector and the engine make small moves. From each reachable state each possible
//! move is made, until there are no new states. So every schedule of every length is tested, of a
//! peer that sends at most a few bytes.

use std::collections::{HashSet, VecDeque};
use std::io::{self, ErrorKind, Read, Write};
use std::time::Duration;

use super::{MemoryPipe, NO_PIPES, PIPE_SIZE, connect, shared};
use crate::echo::connection::{Connection, Next, Shared, State};
use crate::net::{Readiness, Stream};
use crate::stats::{CloseReason, Stats};

/// The most bytes that the peer sends. Their values count from 0.
const MAX_SENT: u8 = 6;
/// The most bytes in flight in each direction.
const CAPACITY: usize = 3;

/// A connected socket as epoll(7) and tcp(7) describe it, with its peer.
#[derive(Debug, Clone, Default)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "every combination is possible"
)]
struct Socket {
    /// Sent by the peer, not yet read.
    inbound: VecDeque<u8>,
    /// The index of the urgent mark in `inbound`.
    mark: Option<usize>,
    /// The peer has shut down its write half.
    read_closed: bool,
    is_reset: bool,
    /// Written by the connection, not yet read by the peer.
    outbound: VecDeque<u8>,
    /// A write was short, so that an event follows when there is room.
    awaits_room: bool,
    /// The connection has shut down its write half.
    write_closed: bool,
    /// A change that the selector has not reported yet.
    has_changed: bool,
    /// How many bytes the peer has sent.
    sent: u8,
    /// How many bytes the peer has received.
    received: u8,
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.is_reset {
            return Err(ErrorKind::ConnectionReset.into());
        }
        if self.inbound.is_empty() {
            return if self.read_closed {
                Ok(0)
            } else {
                Err(ErrorKind::WouldBlock.into())
            };
        }
        // A read stops at the mark, unless it starts there.
        if self.mark == Some(0) {
            self.mark = None;
        }
        let end = self.mark.unwrap_or(usize::MAX).min(self.inbound.len());
        let count = end.min(buffer.len());
        for byte in &mut buffer[..count] {
            *byte = self.inbound.pop_front().unwrap();
        }
        self.mark = self.mark.map(|mark| mark - count);
        Ok(count)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_reset || self.write_closed {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let count = bytes.len().min(CAPACITY - self.outbound.len());
        self.outbound.extend(&bytes[..count]);
        self.awaits_room = count < bytes.len();
        if count == 0 {
            Err(ErrorKind::WouldBlock.into())
        } else {
            Ok(count)
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Socket {
    type Pipe = MemoryPipe;

    fn shutdown_write(&mut self) -> io::Result<()> {
        if self.is_reset {
            return Err(ErrorKind::NotConnected.into());
        }
        self.write_closed = true;
        Ok(())
    }

    /// As on Linux: stops at an urgent mark, and if it moves nothing there, returns 0 once the peer has
    /// shut down.
    fn splice_in(&mut self, pipe: &mut MemoryPipe) -> io::Result<usize> {
        if self.mark == Some(0) {
            return if self.read_closed {
                Ok(0)
            } else {
                Err(ErrorKind::WouldBlock.into())
            };
        }
        let mut bytes = [0; PIPE_SIZE];
        let count = self.read(&mut bytes)?;
        pipe.0.extend(&bytes[..count]);
        Ok(count)
    }

    fn splice_out(&mut self, pipe: &mut MemoryPipe) -> io::Result<usize> {
        let count = self.write(&pipe.0)?;
        pipe.0.drain(..count);
        Ok(count)
    }

    fn set_user_timeout(&self, _limit: Duration) {
        panic!("the engine does this")
    }

    fn reset(self) {
        panic!("the engine does this")
    }
}

impl Socket {
    /// A socket with little room is not reported as writable.
    fn is_writable(&self) -> bool {
        self.is_reset || self.outbound.len() * 2 <= CAPACITY
    }

    fn is_readable(&self) -> bool {
        self.is_reset || self.read_closed || !self.inbound.is_empty()
    }

    /// What the selector reports: the present state, once after each change.
    fn report(&mut self) -> Readiness {
        self.has_changed = false;
        Readiness {
            readable: self.is_readable(),
            writable: self.is_writable(),
            read_until_would_block: self.is_reset || self.read_closed || self.mark.is_some(),
        }
    }

    fn send(&mut self, count: usize) {
        for _ in 0..count {
            self.inbound.push_back(self.sent);
            self.sent += 1;
        }
        self.has_changed = true;
    }

    /// The peer receives and checks bytes.
    fn receive(&mut self, count: usize) {
        for _ in 0..count {
            let byte = self.outbound.pop_front().unwrap();
            assert_eq!(
                byte, self.received,
                "a byte is lost, repeated or out of order"
            );
            self.received += 1;
        }
        if self.awaits_room && self.is_writable() {
            self.awaits_room = false;
            self.has_changed = true;
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Move {
    /// The peer sends that many bytes.
    Send(usize),
    /// The peer sends an urgent byte.
    SendUrgent,
    /// The peer shuts down its write half.
    Shutdown,
    /// The peer resets the connection.
    Reset,
    /// The peer receives that many bytes.
    Receive(usize),
    /// The selector reports a change.
    Report,
    /// The run queue gives the connection a turn.
    Turn,
    /// The drain time ends.
    End,
}

const MOVES: [Move; 10] = [
    Move::Send(1),
    Move::Send(2),
    Move::SendUrgent,
    Move::Shutdown,
    Move::Reset,
    Move::Receive(1),
    Move::Receive(2),
    Move::Report,
    Move::Turn,
    Move::End,
];

/// A connection, and what the engine knows of it.
#[derive(Debug, Clone)]
struct World {
    connection: Connection<Socket>,
    stats: Stats,
    shared: Shared<MemoryPipe>,
    /// Whether the connection is on the run queue.
    is_queued: bool,
    closed: Option<End>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    PeerClosed,
    Reset,
    Aborted,
}

impl World {
    fn new(shared: Shared<MemoryPipe>) -> Self {
        let mut connection = connect(Socket::default());
        // Registration reports the present state.
        connection.stream.has_changed = true;
        World {
            connection,
            stats: Stats::default(),
            shared,
            is_queued: false,
            closed: None,
        }
    }

    fn socket(&mut self) -> &mut Socket {
        &mut self.connection.stream
    }

    fn is_possible(&self, step: Move) -> bool {
        let socket = &self.connection.stream;
        let may_send = !socket.read_closed && !socket.is_reset;
        let room = (CAPACITY - socket.inbound.len()).min(usize::from(MAX_SENT - socket.sent));
        match step {
            Move::Send(count) => may_send && count <= room,
            Move::SendUrgent => may_send && 1 <= room,
            Move::Shutdown => may_send,
            Move::Reset => !socket.is_reset,
            Move::Receive(count) => count <= socket.outbound.len(),
            Move::Report => socket.has_changed && self.closed.is_none(),
            Move::Turn => self.is_queued && self.closed.is_none(),
            Move::End => self.closed.is_none() && !self.is_ended(),
        }
    }

    fn is_ended(&self) -> bool {
        matches!(self.connection.state, State::Flushing | State::Lingering)
    }

    fn make(&mut self, step: Move) {
        match step {
            Move::Send(count) => self.socket().send(count),
            Move::SendUrgent => {
                let socket = self.socket();
                socket.mark = Some(socket.inbound.len());
                socket.send(1);
            }
            Move::Shutdown => {
                self.socket().read_closed = true;
                self.socket().has_changed = true;
            }
            Move::Reset => {
                // Bytes in flight are lost in both directions.
                let socket = self.socket();
                socket.is_reset = true;
                socket.has_changed = true;
                socket.outbound.clear();
            }
            Move::Receive(count) => self.socket().receive(count),
            Move::Report => {
                let readiness = self.socket().report();
                self.is_queued |= self.connection.wake(readiness);
            }
            Move::Turn => self.turn(),
            Move::End => {
                self.connection.end();
                self.is_queued = true;
            }
        }
    }

    fn turn(&mut self) {
        self.is_queued = false;
        let next = self.connection.turn(&mut self.shared, &mut self.stats);
        // The buffer holds nothing between two turns, so its content is not part of the state.
        self.shared.read_buffer.fill(u8::MAX);
        match next {
            Next::WaitReadable | Next::WaitWritable => {}
            Next::Again => self.is_queued = true,
            Next::Close(CloseReason::PeerClosed) => {
                // Without unread bytes close(2) sends the end of the stream.
                self.socket().write_closed = true;
                self.closed = Some(End::PeerClosed);
            }
            Next::Close(CloseReason::Reset) => self.closed = Some(End::Reset),
            Next::Close(CloseReason::Aborted) => self.closed = Some(End::Aborted),
            Next::Close(other) => panic!("{other}: the model has no clock and no other error"),
        }
    }

    /// The invariants of every state.
    fn check(&self) {
        let connection = &self.connection;
        let socket = &connection.stream;
        let pending = connection.pending.len();
        assert_eq!(
            self.stats.buffered,
            connection.pending.held(),
            "the budget is wrong"
        );
        let max = self.shared.read_buffer.len().max(PIPE_SIZE);
        assert!(pending <= max, "more than one buffer or pipe is pending");
        match connection.state {
            State::Reading | State::Splicing | State::Lingering => {
                assert_eq!(pending, 0, "pending bytes would never be sent");
            }
            State::WriteBlocked => assert_ne!(pending, 0, "nothing is pending"),
            State::Flushing => {}
        }
        if self.closed == Some(End::PeerClosed) {
            assert!(socket.write_closed && socket.read_closed && socket.inbound.is_empty());
        }
        if self.closed == Some(End::Reset) {
            assert!(socket.is_reset, "closed for a reset that did not happen");
        }
        // A connection with work is on the run queue, or an event is to come.
        if self.closed.is_none() && !self.is_queued && !socket.has_changed {
            let has_work = match connection.state {
                State::WriteBlocked => socket.is_writable(),
                State::Flushing => pending == 0 || socket.is_writable(),
                State::Reading | State::Splicing | State::Lingering => socket.is_readable(),
            };
            assert!(!has_work, "no turn and no event will do its work");
        }
    }

    /// The peer shuts down and receives everything. The connection must close, and every byte that it
    /// has read must be echoed.
    fn conclude(mut self) {
        if self.is_possible(Move::Shutdown) {
            self.make(Move::Shutdown);
        }
        let moves = [Move::Report, Move::Turn, Move::Receive(1)];
        for _ in 0..100 {
            let Some(step) = moves.into_iter().find(|step| self.is_possible(*step)) else {
                break;
            };
            self.make(step);
        }
        assert!(self.closed.is_some(), "never closed");
        let socket = &self.connection.stream;
        if !socket.is_reset {
            assert!(
                socket.write_closed,
                "the peer does not read the end of the stream"
            );
            let read = self.stats.bytes_received;
            assert_eq!(
                u64::from(socket.received),
                read,
                "not every byte that was read is echoed"
            );
            match self.closed {
                Some(End::PeerClosed) => {
                    assert_eq!(socket.received, socket.sent, "not every byte is read");
                }
                closed => assert_eq!(closed, Some(End::Aborted)),
            }
        }
    }

    /// Differs for states that differ. Of the statistics it has those that this model changes and
    /// checks; the others would only make it longer.
    fn key(&self) -> String {
        let (connection, pipes) = (&self.connection, &self.shared.pipes);
        let stats = &self.stats;
        let stats = (stats.buffered, stats.bytes_received, stats.bytes_sent);
        format!(
            "{connection:?}{pipes:?}{stats:?}{}{:?}",
            self.is_queued, self.closed
        )
    }
}

/// Makes every move from every state. Returns the number of states.
fn explore(shared: Shared<MemoryPipe>) -> usize {
    let start = World::new(shared);
    let mut seen = HashSet::from([start.key()]);
    let mut open = vec![start];
    while let Some(world) = open.pop() {
        world.check();
        world.clone().conclude();
        for step in MOVES {
            if world.is_possible(step) {
                let mut next = world.clone();
                next.make(step);
                if seen.insert(next.key()) {
                    open.push(next);
                }
            }
        }
    }
    seen.len()
}

#[test]
fn no_order_of_events_loses_a_byte_or_a_wakeup() {
    for (buffer_size, splice_min) in [(1, NO_PIPES), (2, NO_PIPES), (4, NO_PIPES), (2, 1), (2, 2)] {
        let states = explore(shared(buffer_size, splice_min));
        assert!(states > 1_000, "only {states} states");
    }
}
