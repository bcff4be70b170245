//! The service's end of connections: what tcp(7), unix(7) and splice(2) say of their calls.
//!
//! No byte is stored: the byte at a position of a connection has a value that follows from both. So
//! each write is checked, and what a client receives is always a prefix of what it sent.

use super::*;
use crate::net::{Pipe, Stream};

impl World {
    /// Moves bytes from the client to the service, but not beyond an urgent mark.
    fn receive(&mut self, id: usize, max: u64) -> Outcome<u64> {
        let socket = &mut self.sockets[id];
        let received = socket.inbound.received;
        // A read that starts at the mark goes on behind it.
        socket.mark = socket.mark.filter(|mark| *mark > received);
        let end = socket.mark.unwrap_or(socket.inbound.sent);
        let count = max.min(end - received);
        // What arrived before a reset can still be read. One call returns the pending error.
        if count == 0 {
            socket.error.take().map_or(Ok(()), Err)?;
            socket.inbound.is_ended.then_some(()).ok_or("EAGAIN")?;
        }
        check!(!socket.activity.has_read, "{socket} reads a second time");
        socket.activity.has_read = count > 0;
        socket.inbound.received += count;
        self.expected.bytes_received += count * u64::from(!socket.outbound.is_ended);
        self.note_moved(id, count);
        Ok(count)
    }

    /// Moves bytes from the service to the client, as many as there is room for.
    fn send(&mut self, id: usize, max: u64, is_splice: bool) -> Outcome<usize> {
        let socket = &mut self.sockets[id];
        socket.error.take().map_or(Ok(()), Err)?;
        if socket.outbound.is_ended {
            return Err("EPIPE");
        }
        let count = max.min(socket.outbound.room());
        // splice(2) promises no event unless it moved nothing.
        socket.awaits_room |= count == 0 || (count < max && !is_splice);
        socket.outbound.sent += count;
        self.expected.bytes_sent += count;
        // A buffer counts as a whole until it is empty.
        if is_splice || socket.held == 0 || !socket.is_blocked() {
            socket.held = socket.pending();
        }
        if socket.is_gone {
            socket.outbound.received += count;
            socket.error = Some("ECONNRESET");
            self.note_change(id);
        }
        self.note_moved(id, count);
        or_would_block(count as usize)
    }

    fn note_moved(&mut self, id: usize, count: u64) {
        if count > 0 {
            self.sockets[id].moved_at = self.engine_now;
            self.wake_client(id);
        }
    }

    /// The engine has read or written, or has closed the connection: its client acts soon.
    pub(super) fn wake_client(&mut self, id: usize) -> Option<&mut Client> {
        let mut clients = self.clients.iter_mut();
        let client = clients.find(|it| it.connection == Some(id))?;
        client.next_at = client.next_at.min(client.soon(self.now));
        Some(client)
    }

    /// How many bytes fit into a pipe: not more than the budget.
    pub(super) fn pipe_size(&self) -> u64 {
        self.plan.config.max_buffered.min(256 * 1024) as u64
    }
}

impl Stream for Descriptor {
    type Pipe = SimulatedPipe;

    fn recv(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.call("recv", |world, id| {
            let len = buffer.len() as u64;
            // Messages of a Unix socket end a read.
            let message = 1 + world.random.below(len);
            let is_unix = world.sockets[id].address.is_none();
            let count = world.receive(id, if is_unix { message } else { len })?;
            let socket = &world.sockets[id];
            let end = socket.inbound.received;
            let bytes = socket.bytes(end - count..end);
            buffer.iter_mut().zip(bytes).for_each(|(to, it)| *to = it);
            Ok(count as usize)
        })
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.call("send", |world, id| {
            let socket = &world.sockets[id];
            let mut expected = socket.bytes(socket.outbound.sent..socket.inbound.received);
            let is_same = bytes.iter().all(|byte| expected.next() == Some(*byte));
            check!(is_same, "{socket} echoes other bytes than it received");
            world.send(id, bytes.len() as u64, false)
        })
    }

    fn allocate(&self, size: usize) -> io::Result<Vec<u8>> {
        self.call("malloc", |_, _| Ok(()))?;
        Ok(Vec::with_capacity(size))
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        self.call("shutdown", |world, id| {
            let socket = &mut world.sockets[id];
            socket.error.take().map_or(Ok(()), Err)?;
            check!(!socket.is_blocked(), "{socket} ends with bytes pending");
            socket.outbound.is_ended = true;
            world.note_change(id);
            Ok(())
        })
    }

    fn splice_in(&mut self, pipe: &mut SimulatedPipe) -> io::Result<usize> {
        self.call("splice in", |world, id| {
            let (socket, received) = (&world.sockets[id], world.sockets[id].inbound.received);
            check!(received > 0, "{socket} is spliced from the start");
            // At an urgent mark nothing moves, and 0 does not mean the end.
            if socket.mark == Some(received) {
                return socket.inbound.is_ended.then_some(0).ok_or("EAGAIN");
            }
            // Each segment takes a page of the pipe.
            let max = 1 + world.random.below(world.pipe_size());
            let count = world.receive(id, max)?;
            world.expected.bytes_zero_copied += count;
            let socket = &mut world.sockets[id];
            socket.held = socket.pending();
            check!(pipe.0 == 0, "{socket} gets a pipe with bytes");
            pipe.0 = count as usize;
            Ok(pipe.0)
        })
    }

    fn splice_out(&mut self, pipe: &mut SimulatedPipe) -> io::Result<usize> {
        self.call("splice out", |world, id| {
            let (bytes, socket) = (pipe.0 as u64, &world.sockets[id]);
            let is_own = bytes == socket.pending();
            check!(is_own, "{socket} has a pipe with other bytes");
            // Fewer than fit, and no event follows.
            let part = 1 + world.random.below(bytes);
            let max = world.random.either(4, part, bytes);
            let count = world.send(id, max, true)?;
            pipe.0 -= count;
            Ok(count)
        })
    }

    fn set_user_timeout(&self, _limit: Duration) {}

    fn reset(self) {
        // Released before the drop of `self`, which closes the socket.
        let mut world = world();
        let address = world.sockets[self.0].address;
        let is_allowed = address.is_none_or(|it| world.is_allowed(it));
        world.expected.rejected.not_allowed += u64::from(!is_allowed);
        world.expected.rejected.too_many_from_source += u64::from(is_allowed);
    }

    fn source_mut(&mut self) -> &mut dyn event::Source {
        self
    }
}

/// A pipe for splice(2), with so many bytes. The engine keeps one that is empty for the next connection.
#[derive(Debug)]
pub(super) struct SimulatedPipe(usize);

impl Pipe for SimulatedPipe {
    fn is_usable() -> bool {
        true
    }

    fn open() -> io::Result<Self> {
        let mut world = world();
        world.call("pipe").map_err(io_error)?;
        world.pipes += 1;
        Ok(SimulatedPipe(0))
    }

    fn len(&self) -> usize {
        self.0
    }
}

impl Drop for SimulatedPipe {
    fn drop(&mut self) {
        if !thread::panicking() {
            let mut world = world();
            let is_needed = self.0 == 0 && world.pipes == 1 && !world.is_shutting_down();
            check!(!is_needed, "the only pipe is not kept");
            world.pipes -= 1;
        }
    }
}
