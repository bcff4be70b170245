//! The echo's end of connections, and pipes: what tcp(7), unix(7) and splice(2) say of their calls.
//!
//! No byte is stored: the byte at a position of a connection has a value that follows from both. So
//! each write is checked, and what a peer receives is always a prefix of what it sent.

use std::fmt::Debug;
use std::io::{self, Read, Write};
use std::mem;
use std::time::Duration;

use mio::event;
use nix::libc::{
    EACCES, EAGAIN, ECONNREFUSED, ECONNRESET, EHOSTUNREACH, EINTR, EMFILE, ENFILE, ENOBUFS, ENOMEM,
    ENOTCONN, EPIPE, ETIMEDOUT,
};

use super::selector::Source;
use super::world::{World, error, system_call, world, world_at_drop};
use crate::config::ZeroCopy;
use crate::echo::shared::MAX_PIPES;
use crate::net::{Pipe, Stream};

const RECEIVE: &[i32] = &[
    EINTR,
    ECONNREFUSED,
    ENOMEM,
    ENOTCONN,
    ECONNRESET,
    ETIMEDOUT,
    EHOSTUNREACH,
];
const SEND: &[i32] = &[EINTR, EACCES, ECONNRESET, ENOBUFS, ENOMEM, ENOTCONN, EPIPE];
const SPLICE_IN: &[i32] = &[EINTR, EAGAIN, ENOMEM, EACCES, ECONNRESET, ETIMEDOUT];
const SPLICE_OUT: &[i32] = &[EINTR, ENOMEM, EACCES, EPIPE, ECONNRESET];
const SHUTDOWN: &[i32] = &[ENOTCONN, ENOBUFS];

/// A connected socket.
#[derive(Debug)]
pub(super) struct Socket {
    id: usize,
    source: Source,
}

impl Socket {
    pub(super) fn new(id: usize) -> Self {
        let source = Source::Connection(id);
        Socket { id, source }
    }

    /// A system call: fails with an error of its own, or the one that is pending at the socket.
    fn call<T: Debug>(
        &self,
        name: &str,
        errors: &[i32],
        act: impl FnOnce(&mut World) -> io::Result<T>,
    ) -> io::Result<T> {
        let result = system_call(self.source, name, errors, |world| {
            let connection = &mut world.connections[self.id];
            // What arrived before a reset can still be read.
            let comes_first = errors == RECEIVE && connection.unread() > 0;
            match connection.error.take_if(|_| !comes_first) {
                None => act(world),
                Some(errno) => {
                    connection.is_reset = true;
                    error(errno)
                }
            }
        });
        let errno = result.as_ref().err().and_then(io::Error::raw_os_error);
        if let Some(errno) = errno.filter(|it| ![EINTR, EAGAIN].contains(it)) {
            world(|world| world.connections[self.id].failure = Some(errno));
        }
        result
    }
}

impl World {
    fn receive(&mut self, id: usize, max: u64) -> io::Result<u64> {
        let may_be_short = self.connections[id].address.is_none();
        let is_short = may_be_short && self.random.one_in(4);
        let max = if is_short {
            1 + self.random.below(max)
        } else {
            max
        };
        let connection = &mut self.connections[id];
        let count = connection.readable_bytes(max);
        if count == 0 && !connection.has_ended && !connection.is_reset {
            return error(EAGAIN);
        }
        let has_read = mem::replace(&mut connection.activity.has_read, count > 0);
        connection.received += count;
        connection.ignored += if connection.write_closed { count } else { 0 };
        self.note_progress(id, count);
        if has_read {
            self.fail("a connection reads twice in a turn".to_owned());
        }
        Ok(count)
    }

    fn send(&mut self, id: usize, max: u64, is_splice: bool) -> io::Result<u64> {
        let has_pressure = self.has_trouble(1);
        let pressed = if has_pressure {
            self.random.below(max)
        } else {
            max
        };
        let connection = &mut self.connections[id];
        if connection.is_reset || connection.write_closed {
            return error(EPIPE);
        }
        let count = pressed.min(connection.room());
        // splice(2) promises no event unless it moved nothing.
        connection.awaits_room |= count == 0 || (count < max && !is_splice);
        connection.is_blocked = count < connection.pending();
        connection.echoed += count;
        if connection.pending() == 0 {
            connection.held = 0;
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
            self.connections[id].activity.has_progress = true;
            self.connections[id].moved_at = self.turn_now;
            self.wake_peer(id);
        }
    }

    /// Whether a connection can have a pipe.
    fn has_pipes(&self) -> bool {
        self.pipes < MAX_PIPES && !self.is_without_pipe
    }

    /// How many bytes fit into a pipe: no more than the budget of the configuration.
    fn pipe_size(&self) -> u64 {
        (self.plan.config.max_buffered as u64).min(256 * 1024)
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let name = format!("recv of {}", buffer.len());
        self.call(&name, RECEIVE, |world| {
            let connection = &mut world.connections[self.id];
            let start = connection.received;
            let expects_splice = mem::take(&mut connection.expects_splice);
            if expects_splice && world.has_pipes() && !world.is_lingering() {
                world.fail("a connection reads instead of splicing".to_owned());
            }
            let count = world.receive(self.id, buffer.len() as u64)? as usize;
            let is_worth_it =
                world.plan.config.zero_copy == ZeroCopy::Auto && count >= world.plan.splice_min;
            let connection = &mut world.connections[self.id];
            connection.has_read_end = count == 0;
            connection.expects_splice = is_worth_it && count == buffer.len();
            for (byte, position) in buffer[..count].iter_mut().zip(start..) {
                *byte = connection.byte(position);
            }
            Ok(count)
        })
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let name = format!("send of {}", bytes.len());
        self.call(&name, SEND, |world| {
            let connection = &world.connections[self.id];
            let mut expected =
                (connection.echoed..connection.received).map(|it| connection.byte(it));
            let is_expected = bytes.iter().all(|&byte| expected.next() == Some(byte));
            let held = connection.held;
            if !is_expected {
                world.fail("other bytes are echoed than were received".to_owned());
            }
            let sent = world.send(self.id, bytes.len() as u64, false);
            let connection = &mut world.connections[self.id];
            if held == 0 && connection.is_blocked {
                connection.held = connection.pending();
            }
            Ok(sent? as usize)
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        panic!("sockets are not flushed")
    }
}

impl Stream for Socket {
    type Pipe = MemoryPipe;

    fn shutdown_write(&mut self) -> io::Result<()> {
        self.call("shutdown", SHUTDOWN, |world| {
            let connection = &mut world.connections[self.id];
            if connection.is_reset {
                return error(ENOTCONN);
            }
            let has_pending = connection.pending() > 0;
            connection.write_closed = true;
            connection.activity.has_progress = true;
            connection.is_blocked = false;
            if connection.has_ended {
                world.signal(self.source);
            }
            if has_pending {
                world.fail("shutdown with pending bytes".to_owned());
            }
            Ok(())
        })
    }

    fn splice_in(&mut self, pipe: &mut MemoryPipe) -> io::Result<usize> {
        world(|world| world.connections[self.id].expects_splice = false);
        self.call("splice in", SPLICE_IN, |world| {
            let connection = &mut world.connections[self.id];
            // At an urgent mark nothing moves, and 0 does not mean the end.
            if connection.mark == Some(connection.received) {
                return if connection.has_ended {
                    Ok(0)
                } else {
                    error(EAGAIN)
                };
            }
            // Each segment takes a page.
            let max = 1 + world.random.below(world.pipe_size());
            let count = world.receive(self.id, max)?;
            let connection = &mut world.connections[self.id];
            connection.in_pipe += count;
            connection.held += count;
            connection.is_blocked = count > 0;
            (pipe.id, pipe.len) = (Some(self.id), pipe.len + count);
            Ok(count as usize)
        })
    }

    fn splice_out(&mut self, pipe: &mut MemoryPipe) -> io::Result<usize> {
        self.call("splice out", SPLICE_OUT, |world| {
            if pipe.id != Some(self.id) || pipe.len != world.connections[self.id].in_pipe {
                world.fail("the bytes in a pipe are of another connection".to_owned());
            }
            let is_short = world.random.one_in(4);
            let max = if is_short {
                1 + world.random.below(pipe.len)
            } else {
                pipe.len
            };
            let count = world.send(self.id, max, true)?;
            let connection = &mut world.connections[self.id];
            connection.in_pipe -= count;
            connection.held = connection.in_pipe;
            pipe.len -= count;
            Ok(count as usize)
        })
    }

    fn set_user_timeout(&self, _limit: Duration) {}

    fn reset(self) {
        world(|world| world.check_rejection(self.id));
    }

    fn source_mut(&mut self) -> &mut dyn event::Source {
        &mut self.source
    }
}

/// close(2).
impl Drop for Socket {
    fn drop(&mut self) {
        world_at_drop(|world| {
            world.tell(|| format!("{:?}: close", self.source));
            world.check_close(self.id);
            world.selectors.deregister(self.source);
            world.descriptors -= 1;
            world.end_connection(self.id);
        });
    }
}

/// A pipe.
#[derive(Debug, Default)]
pub(super) struct MemoryPipe {
    /// The connection whose bytes are in it.
    id: Option<usize>,
    len: u64,
}

impl Pipe for MemoryPipe {
    fn is_usable() -> bool {
        true
    }

    fn open() -> io::Result<Self> {
        world(|world| {
            let opened = world
                .call(&[EMFILE, ENFILE])
                .and_then(|()| world.open_descriptors(2));
            world.is_without_pipe = opened.is_err();
            world.pipes += usize::from(opened.is_ok());
            opened.map(|()| MemoryPipe::default())
        })
    }

    fn len(&self) -> usize {
        self.len as usize
    }
}

impl Drop for MemoryPipe {
    fn drop(&mut self) {
        world_at_drop(|world| {
            world.pipes -= 1;
            world.descriptors -= 2;
        });
    }
}
