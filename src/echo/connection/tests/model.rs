//! Every order of events, over a model of a socket that announces only transitions.
//!
//! The peer, the selector and the engine make small moves. From each state that can be reached,
//! each move that is possible is made, until there are no new states: so every schedule is tried,
//! of every length, of a peer that sends no more than a few bytes.

use std::collections::{HashSet, VecDeque};
use std::io::{self, ErrorKind, Read, Write};

use super::{List, NO_PIPES, PIPE_SIZE, connect, shared};
use crate::echo::connection::{Connection, Next, Shared, State};
use crate::net::{Readiness, Stream};
use crate::stats::{CloseReason, Stats};

/// How many bytes the peer sends at the most. Each has its own value, from 0 up.
const MOST_SENT: u8 = 6;
/// How many bytes wait in each direction at the most.
const CAPACITY: usize = 3;

/// A connected socket as epoll(7) and tcp(7) describe it, with its peer.
#[derive(Debug, Clone, Default)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own, in any combination"
)]
struct Socket {
    /// Sent by the peer, not yet read here.
    inbound: VecDeque<u8>,
    /// How far in `inbound` the urgent mark is.
    mark: Option<usize>,
    /// The peer shut its writing half down.
    is_finished: bool,
    is_reset: bool,
    /// Written here, not yet taken by the peer.
    outbound: VecDeque<u8>,
    /// A write came short: there will be an edge when there is room.
    wants_room: bool,
    /// This side shut its writing half down.
    is_shut: bool,
    /// Something changed that the selector has not reported yet.
    has_changed: bool,
    sent: u8,
    taken: u8,
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.is_reset {
            return Err(ErrorKind::ConnectionReset.into());
        }
        if self.inbound.is_empty() {
            return if self.is_finished {
                Ok(0)
            } else {
                Err(ErrorKind::WouldBlock.into())
            };
        }
        // A read begins at the mark or behind it, or else stops there.
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
        if self.is_reset || self.is_shut {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let count = bytes.len().min(CAPACITY - self.outbound.len());
        self.outbound.extend(&bytes[..count]);
        self.wants_room = count < bytes.len();
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
    type Pipe = List;

    fn shutdown_write(&mut self) -> io::Result<()> {
        if self.is_reset {
            return Err(ErrorKind::NotConnected.into());
        }
        self.is_shut = true;
        Ok(())
    }

    /// As Linux has it: it does not go beyond an urgent mark, and where there is nothing for it, it
    /// says that this is the end as soon as the peer has shut down.
    fn splice_in(&mut self, pipe: &mut List) -> io::Result<usize> {
        if self.mark == Some(0) {
            return if self.is_finished {
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

    fn splice_out(&mut self, pipe: &mut List) -> io::Result<usize> {
        let count = self.write(&pipe.0)?;
        pipe.0.drain(..count);
        Ok(count)
    }
}

impl Socket {
    /// A socket with only a little room is not announced as writable.
    fn is_writable(&self) -> bool {
        self.is_reset || self.outbound.len() * 2 <= CAPACITY
    }

    fn is_readable(&self) -> bool {
        self.is_reset || self.is_finished || !self.inbound.is_empty()
    }

    /// What the selector reports: how things are now, and only once after each change.
    fn report(&mut self) -> Readiness {
        self.has_changed = false;
        Readiness {
            readable: self.is_readable(),
            writable: self.is_writable(),
            read_until_would_block: self.is_reset || self.is_finished || self.mark.is_some(),
        }
    }

    fn send(&mut self, count: usize) {
        for _ in 0..count {
            self.inbound.push_back(self.sent);
            self.sent += 1;
        }
        self.has_changed = true;
    }

    /// The peer reads, and checks what it gets.
    fn take(&mut self, count: usize) {
        for _ in 0..count {
            let byte = self.outbound.pop_front().unwrap();
            assert_eq!(byte, self.taken, "out of order, lost, or twice");
            self.taken += 1;
        }
        if self.wants_room && self.is_writable() {
            self.wants_room = false;
            self.has_changed = true;
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Move {
    /// The peer sends so many bytes.
    Send(usize),
    /// The peer sends a byte as urgent.
    SendUrgent,
    /// The peer shuts its writing half down.
    Finish,
    /// The peer resets the connection.
    Reset,
    /// The peer reads so many bytes.
    Take(usize),
    /// The selector reports a change.
    Report,
    /// The connection has its turn on the run queue.
    Turn,
    /// The drain time is over.
    End,
}

const MOVES: [Move; 10] = [
    Move::Send(1),
    Move::Send(2),
    Move::SendUrgent,
    Move::Finish,
    Move::Reset,
    Move::Take(1),
    Move::Take(2),
    Move::Report,
    Move::Turn,
    Move::End,
];

/// A connection, and whether the engine has it on its run queue.
#[derive(Debug, Clone)]
struct World {
    connection: Connection<Socket>,
    stats: Stats,
    shared: Shared<List>,
    is_queued: bool,
    closed: Option<&'static str>,
}

impl World {
    fn new(shared: Shared<List>) -> Self {
        let mut connection = connect(Socket::default());
        // To register is to be told how things are.
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
        let may_send = !socket.is_finished && !socket.is_reset;
        let room = (CAPACITY - socket.inbound.len()).min(usize::from(MOST_SENT - socket.sent));
        match step {
            Move::Send(count) => may_send && count <= room,
            Move::SendUrgent => may_send && 1 <= room,
            Move::Finish => may_send,
            Move::Reset => !socket.is_reset,
            Move::Take(count) => count <= socket.outbound.len(),
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
            Move::Finish => {
                self.socket().is_finished = true;
                self.socket().has_changed = true;
            }
            Move::Reset => {
                // What was on its way is lost, in both directions.
                let socket = self.socket();
                socket.is_reset = true;
                socket.has_changed = true;
                socket.outbound.clear();
            }
            Move::Take(count) => self.socket().take(count),
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
        // It holds nothing between two turns, so what it looks like is no part of the state.
        self.shared.read_buffer.fill(u8::MAX);
        match next {
            Next::WaitReadable | Next::WaitWritable => {}
            Next::Again => self.is_queued = true,
            Next::Close(CloseReason::PeerClosed) => {
                // Closing sends the end of the stream, as nothing is left unread.
                self.socket().is_shut = true;
                self.closed = Some("finished");
            }
            Next::Close(CloseReason::Reset) => self.closed = Some("reset"),
            Next::Close(CloseReason::Aborted) => self.closed = Some("cut"),
            Next::Close(other) => panic!("{other}: there is neither a clock nor another error"),
        }
    }

    /// What holds in every state.
    fn check(&self) {
        let connection = &self.connection;
        let socket = &connection.stream;
        let unsent = connection.pending.len();
        assert_eq!(
            self.stats.buffered,
            connection.pending.held(),
            "not counted"
        );
        let most = self.shared.read_buffer.len().max(PIPE_SIZE);
        assert!(unsent <= most, "more is held than one buffer or pipe");
        match connection.state {
            State::Reading | State::Splicing | State::Lingering => {
                assert_eq!(unsent, 0, "not sent, and forgotten");
            }
            State::WriteBlocked => assert_ne!(unsent, 0, "stalled by nothing"),
            State::Flushing => {}
        }
        if self.closed == Some("finished") {
            assert!(socket.is_shut && socket.is_finished && socket.inbound.is_empty());
        }
        if self.closed == Some("reset") {
            assert!(socket.is_reset, "closed by a reset that did not happen");
        }
        // A connection that has work has a place on the run queue, or an edge to come.
        if self.closed.is_none() && !self.is_queued && !socket.has_changed {
            let has_work = match connection.state {
                State::WriteBlocked => socket.is_writable(),
                State::Flushing => unsent == 0 || socket.is_writable(),
                State::Reading | State::Splicing | State::Lingering => socket.is_readable(),
            };
            assert!(!has_work, "left with work to do, and nothing to wake it");
        }
    }

    /// Lets everybody do what they still can, and looks whether all has come back.
    fn conclude(mut self) {
        if self.is_possible(Move::Finish) {
            self.make(Move::Finish);
        }
        for _ in 0..100 {
            for step in [Move::Report, Move::Turn, Move::Take(1)] {
                if self.is_possible(step) {
                    self.make(step);
                }
            }
        }
        assert!(self.closed.is_some(), "it never ends");
        let socket = &self.connection.stream;
        if !socket.is_reset {
            assert!(socket.is_shut, "the peer waits for the end of the stream");
            let read = self.stats.bytes_received;
            assert_eq!(
                u64::from(socket.taken),
                read,
                "not all that was read came back"
            );
            match self.closed {
                Some("finished") => assert_eq!(socket.taken, socket.sent, "not all was read"),
                closed => assert_eq!(closed, Some("cut")),
            }
        }
    }

    /// All that tells this state from others.
    fn key(&self) -> String {
        format!("{self:?}")
    }
}

/// Makes every move from every state. Gives how many states there are.
fn explore(shared: Shared<List>) -> usize {
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
    for (buffer_size, worth_it) in [(1, NO_PIPES), (2, NO_PIPES), (4, NO_PIPES), (2, 1), (2, 2)] {
        let states = explore(shared(buffer_size, worth_it));
        assert!(
            states > 1_000,
            "only {states} states: the model is not what it was"
        );
    }
}
