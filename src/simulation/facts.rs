//! The facts of a socket of the engine, and what follows from them.

use std::ops::Range;

use super::*;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Kind {
    #[default]
    Stream,
    Listener,
    Udp,
}

/// The facts of a socket.
#[derive(Default)]
pub(super) struct Socket {
    /// Its number, which its descriptor has.
    pub(super) id: usize,
    pub(super) kind: Kind,
    pub(super) echo: usize,
    /// A connection was accepted. Other sockets are so from the start.
    pub(super) is_accepted: bool,
    pub(super) is_closed: bool,
    /// It was open when the host changed the limits.
    pub(super) is_exempt: bool,
    /// The token that it is registered with.
    pub(super) token: Option<Token>,
    /// When an event can report a change; `NEVER` if all changes are reported.
    pub(super) changed_at: Micros,
    /// The error of a call, other than `EINTR` and `EAGAIN`.
    pub(super) failure: Option<&'static str>,

    // The last turn of the world in which ...
    /// an event gave it something to do;
    pub(super) event_turn: u64,
    /// the engine made a call;
    pub(super) call_turn: u64,
    /// a read moved bytes;
    pub(super) read_turn: u64,
    /// a call had an effect, or ended with an error that the engine has to act on;
    pub(super) progress_turn: u64,
    /// a call returned an error other than `EINTR`.
    pub(super) error_turn: u64,
    /// Turns in a row with calls and without progress.
    pub(super) idle_turns: u32,
    /// Turns in a row with work and without calls.
    pub(super) starved_turns: u32,

    /// Connections in the backlog of a listener, or datagrams in the receive buffer of a UDP socket.
    pub(super) waiting: VecDeque<usize>,
    /// New connections reach another process, or none.
    pub(super) drops_new_syns: bool,
    /// Datagrams that were received in this turn, and not answered yet.
    pub(super) unanswered: Vec<usize>,
    /// Until when replies to silent neighbours stay in the send buffer.
    pub(super) unresolved: VecDeque<Micros>,
    /// Datagrams for which the receive buffer had no room.
    pub(super) drops: u32,

    // Of a connection. Positions count bytes from its start.
    /// The index of its peer in the world.
    pub(super) peer: usize,
    /// The listener that it came by. Other sockets: itself.
    pub(super) listener: usize,
    /// The address of the peer of a connection, or of the socket itself; `None` at a Unix socket.
    pub(super) address: Option<SocketAddr>,
    /// Sent by the peer; of these, read by the echo.
    pub(super) sent: u64,
    pub(super) received: u64,
    /// Written by the echo; of these, read by the peer.
    pub(super) echoed: u64,
    pub(super) taken: u64,
    /// Read by the echo after it had ended its stream, and so not to be echoed.
    pub(super) ignored: u64,
    /// The sizes of the receive buffer and of the send buffer.
    pub(super) receive_buffer: u64,
    pub(super) send_buffer: u64,
    /// The position of the urgent mark.
    pub(super) mark: Option<u64>,
    /// The peer has ended its stream.
    pub(super) has_ended: bool,
    /// The peer has closed its socket: the reply to bytes is a reset.
    pub(super) is_gone: bool,
    /// The echo has ended its stream.
    pub(super) write_closed: bool,
    /// What the next call returns.
    pub(super) error: Option<&'static str>,
    /// A write was short: an event follows when there is room.
    pub(super) awaits_room: bool,
    /// The last write was short.
    pub(super) is_blocked: bool,
    /// What counts for the budget of pending bytes.
    pub(super) held: u64,
    /// The turn in which a byte moved last, or the time of connect(2).
    pub(super) moved_at: Micros,
}

impl Socket {
    /// Bytes that the echo has read and not written.
    pub(super) fn pending(&self) -> u64 {
        self.received - self.ignored - self.echoed
    }

    pub(super) fn room(&self) -> u64 {
        self.send_buffer - (self.echoed - self.taken)
    }

    /// What epoll(7) reports, in mio's words: there are bytes, the end, an error, connections or datagrams
    /// to read, or a third of the send buffer is free.
    pub(super) fn readiness(&self) -> Readiness {
        let is_over = self.has_ended || self.error.is_some();
        let hung_up = self.error.is_some() || (self.has_ended && self.write_closed);
        let is_writable = self.room() * 3 >= self.send_buffer || hung_up;
        Readiness {
            readable: self.sent > self.received || is_over || !self.waiting.is_empty(),
            writable: self.kind == Kind::Stream && is_writable,
            read_until_would_block: self.mark >= Some(self.received) || is_over,
        }
    }

    /// The bytes at these positions: they follow from the position and the connection.
    pub(super) fn bytes(&self, positions: Range<u64>) -> impl Iterator<Item = u8> + use<> {
        let id = self.id as u64;
        positions.map(move |it| (it * 31 + (it >> 8) + id) as u8)
    }

    /// Whether there is something to report.
    pub(super) fn is_ready(&self) -> bool {
        self.readiness().readable || self.readiness().writable
    }
}

impl Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [sent, received] = [self.sent, self.received];
        let [echoed, taken] = [self.echoed, self.taken];
        write!(f, "{:?} {}", self.kind, self.id)?;
        if self.kind == Kind::Stream {
            write!(f, " ({received} of {sent} bytes received, ")?;
            write!(f, "{taken} of {echoed} taken)")?;
        }
        Ok(())
    }
}
