//! The echo's end of connections, and pipes: what tcp(7), unix(7) and splice(2) say of their calls.
//!
//! No byte is stored: the byte at a position of a connection has a value that follows from both. So
//! each write is checked, and what a peer receives is always a prefix of what it sent.

use std::io::{self, Read, Write};
use std::mem;
use std::time::Duration;

use mio::event;

use super::errors::{
    EACCES, EAGAIN, EALREADY, ECONNREFUSED, ECONNRESET, EDESTADDRREQ, EHOSTUNREACH, EINTR, EISCONN,
    EMFILE, EMSGSIZE, ENFILE, ENOBUFS, ENOMEM, ENOTCONN, EOPNOTSUPP, EPIPE, ESPIPE, ETIMEDOUT,
};
use super::sockets::{Descriptor, Source};
use super::world::{World, error, world, world_at_drop};
use crate::config::ZeroCopy;
use crate::echo::shared::MAX_PIPES;
use crate::net::{Pipe, Stream};

/// Of the manual pages, and those that TCP reports at any call (tcp(7), ip(7)).
const RECEIVE: &[i32] = &[
    EINTR,
    ECONNREFUSED,
    ECONNRESET,
    EHOSTUNREACH,
    ENOMEM,
    ENOTCONN,
    ETIMEDOUT,
];
const SEND: &[i32] = &[
    EINTR,
    EACCES,
    EALREADY,
    ECONNRESET,
    EDESTADDRREQ,
    EISCONN,
    EMSGSIZE,
    ENOBUFS,
    ENOMEM,
    ENOTCONN,
    EOPNOTSUPP,
    EPIPE,
];
const SPLICE_IN: &[i32] = &[EINTR, EAGAIN, EACCES, ECONNRESET, ENOMEM, ESPIPE, ETIMEDOUT];
const SPLICE_OUT: &[i32] = &[EINTR, EACCES, ECONNRESET, ENOMEM, EPIPE, ESPIPE];
const SHUTDOWN: &[i32] = &[ENOTCONN, ENOBUFS];

impl World {
    /// Moves bytes from the peer to the echo.
    fn receive(&mut self, id: usize, max: u64) -> io::Result<u64> {
        let connection = &mut self.connections[id];
        let count = connection.readable_bytes(max);
        // What arrived before a reset can still be read.
        if count == 0 {
            connection.take_error()?;
        }
        if count == 0 && !connection.has_ended {
            return error(EAGAIN);
        }
        let has_read = mem::replace(&mut connection.socket.in_turn.has_read, count > 0);
        connection.received += count;
        connection.ignored += if connection.write_closed { count } else { 0 };
        self.note_progress(id, count);
        assert!(!has_read, "a connection reads twice in a turn");
        Ok(count)
    }

    /// Moves bytes from the echo to the peer, as many as there is room for.
    fn send(&mut self, id: usize, max: u64, is_splice: bool) -> io::Result<u64> {
        let has_pressure = self.has_trouble(1);
        let available = self.random.below(max);
        let limit = if has_pressure { available } else { max };
        let connection = &mut self.connections[id];
        connection.take_error()?;
        if connection.write_closed {
            return error(EPIPE);
        }
        let count = limit.min(connection.room());
        // splice(2) promises no event unless it moved nothing.
        connection.awaits_room |= count == 0 || (count < max && !is_splice);
        connection.echoed += count;
        connection.is_blocked = connection.pending() > 0;
        // A buffer is held until it is empty.
        if is_splice || connection.held == 0 || !connection.is_blocked {
            connection.held = connection.pending();
        }
        if connection.is_gone {
            connection.taken += count;
            connection.error = Some(ECONNRESET);
            self.signal(Source::Connection(id));
        } else if has_pressure {
            self.report_room(id);
        }
        self.note_progress(id, count);
        if count == 0 { error(EAGAIN) } else { Ok(count) }
    }

    fn note_progress(&mut self, id: usize, count: u64) {
        if count > 0 {
            self.connections[id].socket.in_turn.has_progress = true;
            self.connections[id].moved_at = self.turn_now;
            self.wake_peer(id);
        }
    }

    /// recv(2).
    fn read(&mut self, id: usize, buffer: &mut [u8]) -> io::Result<usize> {
        let can_splice = self.pipes < MAX_PIPES && !self.lacks_pipe && !self.is_lingering();
        let should_splice = mem::take(&mut self.connections[id].expects_splice) && can_splice;
        assert!(!should_splice, "a connection reads instead of splicing");
        let is_unix = self.connections[id].address.is_none();
        let len = buffer.len() as u64;
        // Messages of a Unix socket end a read.
        let max = if is_unix {
            self.random.partly(len)
        } else {
            len
        };
        let count = self.receive(id, max)? as usize;
        let connection = &mut self.connections[id];
        let is_worth_splicing = count == buffer.len() && count >= self.plan.splice_min;
        connection.expects_splice =
            is_worth_splicing && self.plan.config.zero_copy == ZeroCopy::Auto;
        connection.has_read_end = count == 0;
        let start = connection.received - count as u64;
        for (byte, position) in buffer[..count].iter_mut().zip(start..) {
            *byte = connection.byte(position);
        }
        Ok(count)
    }

    /// send(2).
    fn write(&mut self, id: usize, bytes: &[u8]) -> io::Result<usize> {
        let connection = &self.connections[id];
        let positions = connection.echoed..connection.received;
        let mut expected = positions.map(|position| connection.byte(position));
        let are_expected = bytes.iter().all(|&byte| expected.next() == Some(byte));
        assert!(are_expected, "other bytes are echoed than were received");
        Ok(self.send(id, bytes.len() as u64, false)? as usize)
    }

    /// splice(2) into a pipe.
    fn splice_in(&mut self, id: usize, pipe: &mut SimulatedPipe) -> io::Result<usize> {
        let connection = &mut self.connections[id];
        // At an urgent mark nothing moves, and 0 does not mean the end.
        if connection.mark == Some(connection.received) {
            let at_end = connection.has_ended;
            return if at_end { Ok(0) } else { error(EAGAIN) };
        }
        // Each segment takes a page of the pipe.
        let count = self.receive(id, 1 + self.random.below(self.pipe_size() as u64))?;
        let connection = &mut self.connections[id];
        connection.held = connection.pending();
        connection.is_blocked = count > 0;
        (pipe.connection, pipe.len) = (Some(id), pipe.len + count);
        Ok(count as usize)
    }

    /// How many bytes fit into a pipe: not more than the budget.
    pub(super) fn pipe_size(&self) -> usize {
        self.plan.config.max_buffered.min(256 * 1024)
    }

    /// splice(2) out of a pipe.
    fn splice_out(&mut self, id: usize, pipe: &mut SimulatedPipe) -> io::Result<usize> {
        let is_own = pipe.connection == Some(id) && pipe.len == self.connections[id].pending();
        assert!(is_own, "the bytes in a pipe are of another connection");
        let count = self.send(id, self.random.partly(pipe.len), true)?;
        pipe.len -= count;
        Ok(count as usize)
    }

    /// shutdown(2).
    fn shutdown_write(&mut self, id: usize) -> io::Result<()> {
        let connection = &mut self.connections[id];
        connection.take_error()?;
        connection.write_closed = true;
        connection.is_blocked = false;
        connection.socket.in_turn.has_progress = true;
        let (has_ended, pending) = (connection.has_ended, connection.pending());
        if has_ended {
            self.signal(Source::Connection(id));
        }
        assert!(pending == 0, "shutdown with pending bytes");
        Ok(())
    }

    /// close(2).
    pub(super) fn close_connection(&mut self, id: usize) {
        self.check_close(id);
        self.end_connection(id);
    }
}

impl Read for Descriptor {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let name = format!("recv of {}", buffer.len());
        self.call(name, RECEIVE, |world| world.read(self.id(), buffer))
    }
}

impl Write for Descriptor {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let name = format!("send of {}", bytes.len());
        self.call(name, SEND, |world| world.write(self.id(), bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        panic!("sockets are not flushed")
    }
}

impl Stream for Descriptor {
    type Pipe = SimulatedPipe;

    fn shutdown_write(&mut self) -> io::Result<()> {
        let act = |world: &mut World| world.shutdown_write(self.id());
        self.call("shutdown", SHUTDOWN, act)
    }

    fn splice_in(&mut self, pipe: &mut SimulatedPipe) -> io::Result<usize> {
        world(|world| world.connections[self.id()].expects_splice = false);
        let act = |world: &mut World| world.splice_in(self.id(), pipe);
        self.call("splice in", SPLICE_IN, act)
    }

    fn splice_out(&mut self, pipe: &mut SimulatedPipe) -> io::Result<usize> {
        let act = |world: &mut World| world.splice_out(self.id(), pipe);
        self.call("splice out", SPLICE_OUT, act)
    }

    fn set_user_timeout(&self, _limit: Duration) {}

    fn reset(self) {
        world(|world| world.check_rejection(self.id()));
    }

    fn source_mut(&mut self) -> &mut dyn event::Source {
        self
    }
}

#[derive(Debug, Default)]
pub(super) struct SimulatedPipe {
    /// The connection that its bytes are of.
    connection: Option<usize>,
    len: u64,
}

impl Pipe for SimulatedPipe {
    fn is_usable() -> bool {
        true
    }

    fn open() -> io::Result<Self> {
        world(|world| {
            let called = world.call(&[EMFILE, ENFILE]);
            let opened = called.and_then(|()| world.check_descriptors(2));
            world.lacks_pipe = opened.is_err();
            world.pipes += usize::from(opened.is_ok());
            opened.map(|()| SimulatedPipe::default())
        })
    }

    fn len(&self) -> usize {
        self.len as usize
    }
}

impl Drop for SimulatedPipe {
    fn drop(&mut self) {
        world_at_drop(|world| world.pipes -= 1);
    }
}
