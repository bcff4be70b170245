//! The sockets of the engine: their facts, calls, registrations, and close(2).

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

/// A call that moves nothing would block.
pub(super) fn or_would_block(count: u64) -> Outcome<usize> {
    let count = Some(count as usize).filter(|it| *it > 0);
    count.ok_or("EAGAIN")
}

/// A descriptor of the engine, of any kind of socket. Dropping it closes the socket.
#[derive(Debug)]
pub(super) struct Descriptor(pub(super) usize);

impl Descriptor {
    /// A system call: does what `act` does with the socket, or fails with an error of its manual page.
    pub(super) fn call<T: Debug>(
        &self,
        name: &str,
        act: impl FnOnce(&mut World, usize) -> Outcome<T>,
    ) -> io::Result<T> {
        let mut world = world();
        let result = world.call(name).and_then(|()| act(&mut world, self.0));
        tell!(world, "{}: {name}: {result:?}", world.sockets[self.0]);
        world.note_call(self.0, name, result.as_ref().err().copied());
        result.map_err(error)
    }
}

/// `epoll_ctl(2)`. A socket that is ready already gets an event.
///
/// The engine registers through mio, which requires a real `Registry`. It is passed along and ignored: the
/// token is noted in the world instead.
impl event::Source for Descriptor {
    fn register(&mut self, _: &Registry, token: Token, _: Interest) -> io::Result<()> {
        self.call("epoll_ctl", |world, id| {
            world.sockets[id].token = Some(token);
            world.signal(id);
            Ok(())
        })
    }

    fn reregister(&mut self, _: &Registry, _: Token, _: Interest) -> io::Result<()> {
        panic!("sockets are registered once")
    }

    /// Sockets other than UDP's are closed right after it.
    fn deregister(&mut self, _: &Registry) -> io::Result<()> {
        let socket = &mut world().sockets[self.0];
        if socket.kind == Kind::Udp {
            (socket.token, socket.changed_at) = (None, NEVER);
        }
        Ok(())
    }
}

/// close(2).
impl Drop for Descriptor {
    fn drop(&mut self) {
        if thread::panicking() {
            return;
        }
        let mut world = world();
        tell!(world, "{}: close", world.sockets[self.0]);
        world.check_close(self.0);
        world.close(self.0);
    }
}

impl World {
    pub(super) fn add_socket(&mut self, echo: usize, kind: Kind) -> &mut Socket {
        let id = self.sockets.len();
        self.sockets.push(Socket {
            id,
            kind,
            echo,
            listener: id,
            changed_at: NEVER,
            moved_at: self.now,
            ..Socket::default()
        });
        &mut self.sockets[id]
    }

    fn note_call(&mut self, id: usize, name: &str, error: Option<&'static str>) {
        let (turn, socket) = (self.turn, &mut self.sockets[id]);
        socket.call_turn = turn;
        let (echo, listener) = (socket.echo, socket.listener);
        match error {
            Some("EAGAIN") => socket.error_turn = turn,
            Some("EINTR") => {}
            None if name == "epoll_ctl" => {}
            None => socket.progress_turn = turn,
            Some(_) => {
                (socket.error_turn, socket.progress_turn) = (turn, turn);
                socket.failure = error;
                // A connection that cannot be registered pauses its listener.
                self.sockets[listener].error_turn = turn;
            }
        }
        // So does a shortage.
        let mut shortages = errors(name).split(' ').filter(|it| *it != "EINTR");
        if name == "accept" && shortages.any(|it| error == Some(it)) {
            self.echoes[echo].backs_off_until = self.turn_now + RETRY_INTERVAL;
        }
    }

    /// All open sockets of an echo.
    pub(super) fn open(&self, echo: usize) -> impl Iterator<Item = &Socket> {
        let sockets = self.sockets.iter().filter(move |it| it.echo == echo);
        sockets.filter(|it| it.is_accepted && !it.is_closed)
    }

    /// Its open connections.
    pub(super) fn connections(&self, echo: usize) -> impl Iterator<Item = &Socket> {
        self.open(echo).filter(|it| it.kind == Kind::Stream)
    }

    /// A socket has changed. An event reports it, sometimes late.
    pub(super) fn signal(&mut self, id: usize) {
        let delay = self.random.magnitude(10 * MILLISECOND);
        let at = self.now + if self.has_trouble(1) { delay } else { 0 };
        let socket = &mut self.sockets[id];
        if socket.token.is_some() {
            socket.changed_at = socket.changed_at.min(at);
        }
    }

    /// A socket is closed by the echo, or a connection is lost in the backlog.
    pub(super) fn close(&mut self, id: usize) {
        let socket = &mut self.sockets[id];
        (socket.is_closed, socket.drops_new_syns) = (true, true);
        socket.changed_at = NEVER;
        self.stale_tokens.extend(socket.token.take());
        let waiting = mem::take(&mut socket.waiting);
        if socket.kind == Kind::Stream {
            let echo = socket.echo;
            self.peers[socket.peer].wake(self.now);
            // There may be room for another one, so listeners have a turn.
            self.echoes[echo].backs_off_until = 0;
            self.echoes[echo].close_turn = self.turn;
        } else if socket.kind == Kind::Listener {
            // Connections in the backlog are reset.
            for connection in waiting {
                self.close(connection);
            }
        }
    }
}
