//! The facts of a socket of the engine, and what follows from them.

use std::ops::Range;

use super::*;

// The sockets that a service has from the start: two listeners and a UDP socket. Those with higher numbers are
// connections.
pub(super) const TCP: usize = 0;
pub(super) const UNIX: usize = 1;
pub(super) const UDP: usize = 2;

/// The facts of a socket.
#[derive(Default)]
pub(super) struct Socket {
    /// Its number, which its descriptor has.
    pub(super) id: usize,
    /// The engine has its descriptor: it is not in the backlog, and not closed.
    pub(super) is_open: bool,
    /// The address of the client of a connection, or of the socket itself; `None` at a Unix socket.
    pub(super) address: Option<SocketAddr>,
    /// The last token that it was registered with. After the close another socket can have it.
    pub(super) token: Option<Token>,
    /// When an event can report a change; `None` if all changes are reported.
    pub(super) changed_at: Option<Micros>,
    pub(super) activity: Activity,
    /// Iterations in a row with calls and without an effect.
    pub(super) futile_iterations: u32,
    /// Iterations in a row with work and without calls.
    pub(super) starved_iterations: u32,

    /// Connections in the backlog of a listener, or datagrams in the receive buffer of a UDP socket.
    pub(super) waiting: VecDeque<usize>,
    /// Datagrams for which the receive buffer had no room.
    pub(super) drops: u32,

    /// From the client to the service, and back.
    pub(super) inbound: Flow,
    pub(super) outbound: Flow,
    /// The position of the urgent mark.
    pub(super) mark: Option<u64>,
    /// The client has closed its socket: the reply to bytes is a reset.
    pub(super) is_gone: bool,
    /// The pending error of the socket: it is returned once, by a read without bytes, a write or a shutdown.
    pub(super) error: Option<&'static str>,
    /// A write was short: an event follows when there is room.
    pub(super) awaits_room: bool,
    /// Bytes that count for the budget: those in its pipe, or the size of its buffer, which is the same
    /// until its last byte is sent.
    pub(super) held: u64,
    /// When a byte moved last. Before the first: the time of accept(2).
    pub(super) moved_at: Micros,
}

/// What happened to a socket in the present iteration.
#[derive(Default)]
pub(super) struct Activity {
    /// An event gave it something to do. For a listener also: a connection was closed.
    pub(super) is_woken: bool,
    pub(super) has_called: bool,
    /// A read moved bytes.
    pub(super) has_read: bool,
    /// A call had an effect, or ended with an error that the engine has to act on.
    pub(super) has_progress: bool,
    /// The error of a call, other than `EINTR`. `EAGAIN` does not replace another one.
    pub(super) error: Option<&'static str>,
    /// Datagrams that were received, and get a reply.
    pub(super) unreplied: Vec<Datagram>,
}

/// The bytes of one direction, which are never stored. Positions count from the start.
#[derive(Default)]
pub(super) struct Flow {
    pub(super) sent: u64,
    pub(super) received: u64,
    /// How many bytes are on their way at most: the size of the buffer.
    pub(super) capacity: u64,
    /// The sender has ended it.
    pub(super) is_ended: bool,
}

impl Flow {
    pub(super) fn unread(&self) -> u64 {
        self.sent - self.received
    }

    pub(super) fn room(&self) -> u64 {
        self.capacity - self.unread()
    }
}

impl Socket {
    pub(super) fn is_stream(&self) -> bool {
        self.id > UDP
    }

    /// The error that a call returned in this iteration, other than `EINTR` and `EAGAIN`.
    pub(super) fn failure(&self) -> Option<&'static str> {
        self.activity.error.filter(|it| *it != "EAGAIN")
    }

    /// Bytes that the engine has read and not written. What it reads after its end of the stream, it
    /// discards.
    pub(super) fn pending(&self) -> u64 {
        (self.inbound.received - self.outbound.sent) * u64::from(!self.outbound.is_ended)
    }

    /// Whether the connection is write-blocked, if it has no turn at present.
    pub(super) fn is_blocked(&self) -> bool {
        self.pending() > 0
    }

    /// What epoll(7) reports, in mio's words: there are bytes, the end, an error, connections or datagrams
    /// to read, or a third of the send buffer is free.
    pub(super) fn readiness(&self) -> Readiness {
        let is_over = self.inbound.is_ended || self.error.is_some();
        let hung_up = self.error.is_some() || (is_over && self.outbound.is_ended);
        let has_room = self.outbound.room() * 3 >= self.outbound.capacity;
        Readiness {
            readable: self.inbound.unread() > 0 || is_over || !self.waiting.is_empty(),
            writable: self.is_stream() && (has_room || hung_up),
            read_until_would_block: self.mark.is_some_and(|mark| mark >= self.inbound.received)
                || is_over,
        }
    }

    /// The bytes at these positions: they follow from the position and the connection.
    pub(super) fn bytes(&self, positions: Range<u64>) -> impl Iterator<Item = u8> + use<> {
        let id = self.id as u64;
        positions.map(move |it| (it * 31 + (it >> 8) + id) as u8)
    }
}

impl Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = ["TCP listener", "Unix listener", "UDP socket", "connection"];
        write!(f, "{} {}", kinds[self.id.min(3)], self.id)
    }
}

impl World {
    /// All open sockets.
    pub(super) fn open(&self) -> impl Iterator<Item = &Socket> {
        self.sockets.iter().filter(|it| it.is_open)
    }

    /// The open connections.
    pub(super) fn connections(&self) -> impl Iterator<Item = &Socket> {
        self.open().filter(|it| it.is_stream())
    }

    pub(super) fn listeners(&mut self) -> impl Iterator<Item = &mut Socket> {
        self.sockets[..UDP].iter_mut()
    }

    /// Whether there is room for one more connection.
    pub(super) fn has_place(&self) -> bool {
        self.connections().count() < self.plan.config.max_connections
    }
}
