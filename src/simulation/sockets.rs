//! What all kinds of sockets have in common: calls, registrations, and close(2).

use std::fmt::{Debug, Display};
use std::io;

use mio::{Interest, Registry, Token, event};

use super::errors::{self, EAGAIN, EEXIST, EINTR, ELOOP, ENOMEM, ENOSPC, EPERM};
use super::plan::{MILLISECOND, Micros};
use super::world::{World, world, world_at_drop};

/// A simulated socket, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Connection(usize),
    Listener(usize),
    /// The UDP socket of an echo.
    Udp(usize),
}

/// The facts that all sockets have.
#[derive(Debug, Clone, Default)]
pub(super) struct Socket {
    pub(super) echo: usize,
    /// The token that it is registered with.
    pub(super) token: Option<Token>,
    /// A change that no event has reported yet, and from when on one can.
    pub(super) changed_at: Option<Micros>,
    /// The error of a call, other than `EINTR` and `EAGAIN`.
    pub(super) failure: Option<i32>,
    pub(super) in_turn: Activity,
    /// Turns in a row with calls and without progress.
    pub(super) idle_turns: u32,
    /// Turns in a row with work and without calls.
    pub(super) starved_turns: u32,
}

/// What a socket did in the present turn.
#[derive(Debug, Clone, Default)]
pub(super) struct Activity {
    pub(super) had_event: bool,
    pub(super) had_call: bool,
    pub(super) has_read: bool,
    pub(super) has_progress: bool,
    pub(super) would_block: bool,
}

impl Socket {
    pub(super) fn new(echo: usize) -> Self {
        Socket {
            echo,
            ..Socket::default()
        }
    }

    pub(super) fn begin_turn(&mut self) {
        self.in_turn = Activity::default();
    }

    /// An event can report a change.
    pub(super) fn is_due(&self, now: Micros) -> bool {
        self.changed_at.is_some_and(|at| at <= now)
    }

    /// It is registered, and no event is to come. If the engine has left work here, that is forgotten:
    /// edge-triggered events are not repeated.
    pub(super) fn is_settled(&self) -> bool {
        self.token.is_some() && self.changed_at.is_none()
    }
}

/// A descriptor of the engine, of any kind of socket. Dropping it closes the socket.
#[derive(Debug)]
pub(super) struct Descriptor(pub(super) Source);

impl Descriptor {
    /// The number of the connection, listener or echo.
    pub(super) fn id(&self) -> usize {
        let (Source::Connection(id) | Source::Listener(id) | Source::Udp(id)) = self.0;
        id
    }

    /// A system call: does what `act` does, or fails with one of these errors of its manual page.
    pub(super) fn call<T: Debug>(
        &self,
        name: impl Display,
        errors: &[i32],
        act: impl FnOnce(&mut World) -> io::Result<T>,
    ) -> io::Result<T> {
        world(|world| {
            let result = world.call(errors).and_then(|()| act(world));
            let errno = result.as_ref().err().and_then(io::Error::raw_os_error);
            let socket = world.socket_mut(self.0);
            socket.in_turn.had_call = true;
            socket.in_turn.would_block |= errno == Some(EAGAIN);
            let failure = errno.filter(|it| ![EINTR, EAGAIN].contains(it));
            socket.failure = failure.or(socket.failure);
            world.tell(|| match errno {
                Some(errno) => format!("{:?}: {name}: {:?}", self.0, errors::name(errno)),
                None => format!("{:?}: {name}: {result:?}", self.0),
            });
            result
        })
    }
}

/// `epoll_ctl(2)`. A socket that is ready already gets an event.
///
/// The engine registers through mio, which requires a real `Registry`. It is passed along and ignored: the
/// token is noted in the world instead.
impl event::Source for Descriptor {
    fn register(&mut self, _: &Registry, token: Token, _: Interest) -> io::Result<()> {
        let name = format!("register as {}", token.0);
        let registered = self.call(name, &[EEXIST, ELOOP, ENOMEM, ENOSPC, EPERM], |world| {
            world.socket_mut(self.0).token = Some(token);
            world.signal(self.0);
            Ok(())
        });
        if registered.is_err() {
            world(|world| world.note_accept_failure(self.0));
        }
        registered
    }

    fn reregister(&mut self, _: &Registry, _: Token, _: Interest) -> io::Result<()> {
        panic!("sockets are registered once")
    }

    /// The close that follows it does the same.
    fn deregister(&mut self, _: &Registry) -> io::Result<()> {
        Ok(())
    }
}

/// close(2).
impl Drop for Descriptor {
    fn drop(&mut self) {
        world_at_drop(|world| {
            world.tell(|| format!("{:?}: close", self.0));
            match self.0 {
                Source::Connection(id) => world.close_connection(id),
                Source::Listener(id) => world.close_listener(id),
                Source::Udp(_) => {}
            }
            let token = world.deregister(self.0);
            world.stale_tokens.extend(token);
        });
    }
}

impl World {
    pub(super) fn socket_mut(&mut self, source: Source) -> &mut Socket {
        match source {
            Source::Connection(id) => &mut self.connections[id].socket,
            Source::Listener(id) => &mut self.backlogs[id].socket,
            Source::Udp(echo) => &mut self.echoes[echo].udp.socket,
        }
    }

    /// All open sockets of an echo.
    pub(super) fn sockets(&self, echo: usize) -> impl Iterator<Item = (Source, &Socket)> {
        let connections = self.open(echo);
        let connections = connections.map(|it| (Source::Connection(it.id), &it.socket));
        let backlogs = self.backlogs.iter();
        let backlogs = backlogs.map(|it| (Source::Listener(it.id), &it.socket));
        let backlogs = backlogs.filter(move |(_, socket)| socket.echo == echo);
        let udp = (Source::Udp(echo), &self.echoes[echo].udp.socket);
        connections.chain(backlogs).chain([udp])
    }

    /// A socket has changed. An event reports it, sometimes late.
    pub(super) fn signal(&mut self, source: Source) {
        let is_late = self.has_trouble(1);
        let delay = self.random.magnitude(10 * MILLISECOND);
        let at = self.now + if is_late { delay } else { 0 };
        let socket = self.socket_mut(source);
        if socket.token.is_some() {
            socket.changed_at = Some(socket.changed_at.map_or(at, |changed| changed.min(at)));
        }
    }

    /// Returns the token that it had.
    fn deregister(&mut self, source: Source) -> Option<Token> {
        let socket = self.socket_mut(source);
        socket.changed_at = None;
        socket.token.take()
    }
}
