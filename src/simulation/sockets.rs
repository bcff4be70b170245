//! The descriptors of the engine: calls, registrations, and close(2).

use super::*;

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
