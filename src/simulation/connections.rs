//! The facts of a connection, seen from both ends.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use super::plan::Micros;
use super::sockets::{Socket, Source};
use super::world::{World, error};
use crate::net::Readiness;
use crate::net::stream::Peer;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Phase {
    /// In the backlog.
    #[default]
    Waiting,
    Open,
    Closed,
}

/// A connection. Positions count bytes from its start.
#[derive(Debug, Clone, Default)]
pub(super) struct Connection {
    pub(super) id: usize,
    pub(super) socket: Socket,
    /// Of a peer over TCP.
    pub(super) address: Option<SocketAddr>,
    /// The index of the peer in the world.
    pub(super) owner: Option<usize>,
    pub(super) phase: Phase,
    /// Sent by the peer; of these, read by the echo.
    pub(super) sent: u64,
    pub(super) received: u64,
    /// Written by the echo; of these, read by the peer.
    pub(super) echoed: u64,
    pub(super) taken: u64,
    /// Read by the echo after it had ended its stream, and so not to be echoed.
    pub(super) ignored: u64,
    pub(super) inbound_capacity: u64,
    pub(super) outbound_capacity: u64,
    /// The position of the urgent mark.
    pub(super) mark: Option<u64>,
    /// The peer has ended its stream.
    pub(super) has_ended: bool,
    /// The peer has closed its socket: the reply to bytes is a reset.
    pub(super) is_gone: bool,
    /// The echo has ended its stream.
    pub(super) write_closed: bool,
    /// What the next call returns.
    pub(super) error: Option<i32>,
    /// A write was short: an event follows when there is room.
    pub(super) awaits_room: bool,
    // What the engine knows by its calls.
    pub(super) has_read_end: bool,
    /// The last read filled the buffer, with bytes enough for splice(2).
    pub(super) expects_splice: bool,
    /// The last write was short.
    pub(super) is_blocked: bool,
    /// What counts for the budget of pending bytes.
    pub(super) held: u64,
    /// The turn in which a byte moved last.
    pub(super) moved_at: Micros,
}

impl Connection {
    pub(super) fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    pub(super) fn peer(&self) -> Peer {
        self.address.map_or(Peer::Unix(self.id as u64), Peer::Tcp)
    }

    pub(super) fn unread(&self) -> u64 {
        self.sent - self.received
    }

    /// Bytes that the echo has read and not written.
    pub(super) fn pending(&self) -> u64 {
        self.received - self.ignored - self.echoed
    }

    pub(super) fn room(&self) -> u64 {
        self.outbound_capacity - (self.echoed - self.taken)
    }

    /// The system reports room when a third of the buffer is free.
    fn is_writable(&self) -> bool {
        self.room() * 3 >= self.outbound_capacity
    }

    /// A read returns something other than `EAGAIN`.
    fn is_readable(&self) -> bool {
        self.unread() > 0 || self.has_ended || self.error.is_some()
    }

    /// A call of the engine would have an effect.
    pub(super) fn has_work(&self) -> bool {
        if self.is_blocked {
            self.is_writable() || self.error.is_some()
        } else {
            self.is_readable()
        }
    }

    /// What epoll(7) reports, in mio's words.
    pub(super) fn readiness(&self) -> Option<Readiness> {
        let hung_up = self.error.is_some() || (self.has_ended && self.write_closed);
        let readiness = Readiness {
            readable: self.is_readable() || self.mark.is_some() || hung_up,
            writable: self.is_writable() || hung_up,
            read_until_would_block: self.mark.is_some() || self.has_ended || hung_up,
        };
        (readiness.readable || readiness.writable).then_some(readiness)
    }

    /// The value of the byte at a position.
    pub(super) fn byte(&self, position: u64) -> u8 {
        let (low, high) = (position as u8, (position >> 8) as u8);
        let byte = low.wrapping_mul(31).wrapping_add(high);
        byte.wrapping_add(self.id as u8)
    }

    /// How many bytes a read takes: it stops at an urgent mark, unless it starts there.
    pub(super) fn readable_bytes(&mut self, max: u64) -> u64 {
        self.mark = self.mark.filter(|mark| *mark > self.received);
        let to_mark = self.mark.map_or(u64::MAX, |mark| mark - self.received);
        self.unread().min(max).min(to_mark)
    }

    /// The pending error of the socket, which one call returns.
    pub(super) fn take_error(&mut self) -> io::Result<()> {
        self.error.take().map_or(Ok(()), error)
    }
}

impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Connection { id, sent, .. } = self;
        let (received, echoed, taken) = (self.received, self.echoed, self.taken);
        write!(
            f,
            "connection {id} ({sent} sent, {received} received, {echoed} echoed, {taken} taken)"
        )
    }
}

impl World {
    /// There may be room again, because the peer has read or the system has memory.
    pub(super) fn report_room(&mut self, id: usize) {
        let connection = &mut self.connections[id];
        if connection.awaits_room && connection.is_writable() {
            connection.awaits_room = false;
            self.signal(Source::Connection(id));
        }
    }

    pub(super) fn wake_peer(&mut self, id: usize) {
        if let Some(index) = self.connections[id].owner {
            self.peers[index].wake(self.now);
        }
    }

    pub(super) fn end_connection(&mut self, id: usize) {
        self.connections[id].phase = Phase::Closed;
        // There may be room for another connection, so listeners get a turn.
        let echo = self.connections[id].socket.echo;
        self.echoes[echo].backs_off_until = 0;
        for backlog in self.backlogs.iter_mut().filter(|it| it.socket.echo == echo) {
            backlog.socket.in_turn.has_progress = true;
        }
        self.wake_peer(id);
    }
}
