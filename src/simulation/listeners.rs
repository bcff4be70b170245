//! Listening sockets and their backlogs: what listen(2) and accept(2) say of their calls.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::net::SocketAddr;

use mio::event;

use super::checks::RETRY_INTERVAL;
use super::connections::{Connection, Phase};
use super::errors::{
    EAGAIN, EINTR, EMFILE, ENFILE, ENOBUFS, ENOMEM, EPERM, EPROTONOSUPPORT, ESOCKTNOSUPPORT, LOST,
};
use super::sockets::{Descriptor, Socket, Source};
use super::world::{World, error, world};
use crate::net::Accept;
use crate::net::stream::Peer;

/// The errors of the system, which has no room or permission for a connection.
const SHORTAGE: &[i32] = &[
    EMFILE,
    ENFILE,
    ENOBUFS,
    ENOMEM,
    EPERM,
    EPROTONOSUPPORT,
    ESOCKTNOSUPPORT,
];

/// The facts of a listening socket.
#[derive(Debug, Clone, Default)]
pub(super) struct Backlog {
    pub(super) id: usize,
    pub(super) socket: Socket,
    is_unix: bool,
    /// Connections that wait.
    pub(super) waiting: VecDeque<usize>,
    /// New connections reach another process, or none.
    pub(super) drops_new_syns: bool,
    /// How many waited at the beginning of this turn, and were not accepted.
    unaccepted: usize,
    /// A call failed, or found nothing, in this turn.
    had_error: bool,
}

impl Backlog {
    pub(super) fn begin_turn(&mut self) {
        self.unaccepted = self.waiting.len();
        self.had_error = false;
        self.socket.begin_turn();
    }
}

impl World {
    /// listen(2).
    pub(super) fn listen(&mut self, echo: usize, is_unix: bool) -> Descriptor {
        let id = self.backlogs.len();
        self.backlogs.push(Backlog {
            id,
            socket: Socket::new(echo),
            is_unix,
            ..Backlog::default()
        });
        Descriptor(Source::Listener(id))
    }

    /// connect(2) of a peer. Returns the connection, or `None` if the system drops the SYN.
    pub(super) fn connect(&mut self, backlog: usize, address: SocketAddr) -> Option<usize> {
        let (id, max) = (self.connections.len(), self.plan.max_capacity);
        let listener = &mut self.backlogs[backlog];
        let is_full = listener.waiting.len() > self.plan.config.backlog as usize;
        if listener.drops_new_syns || is_full {
            return None;
        }
        listener.waiting.push_back(id);
        self.connections.push(Connection {
            id,
            socket: Socket::new(listener.socket.echo),
            address: (!listener.is_unix).then_some(address),
            inbound_capacity: 1 + self.random.magnitude(max - 1),
            outbound_capacity: 1 + self.random.magnitude(max - 1),
            ..Connection::default()
        });
        self.tell(|| format!("peer of connection {id} connects: {address}"));
        self.signal(Source::Listener(backlog));
        Some(id)
    }

    /// accept(2).
    fn accept(&mut self, backlog: usize) -> io::Result<usize> {
        let listener = &self.backlogs[backlog];
        let is_back_off = self.turn_now < self.echoes[listener.socket.echo].backs_off_until;
        let may_call = !is_back_off || self.is_shutting_down();
        assert!(may_call, "a listener is called during a back-off");
        let Some(&id) = listener.waiting.front() else {
            return error(EAGAIN);
        };
        self.check_descriptors(1)?;
        let listener = &mut self.backlogs[backlog];
        listener.waiting.pop_front();
        listener.unaccepted = listener.unaccepted.saturating_sub(1);
        listener.socket.in_turn.has_progress = true;
        self.connections[id].phase = Phase::Open;
        self.connections[id].moved_at = self.turn_now;
        Ok(id)
    }

    fn after_accept_error(&mut self, backlog: usize, errno: i32) {
        let listener = &mut self.backlogs[backlog];
        listener.had_error = true;
        if SHORTAGE.contains(&errno) {
            let echo = &mut self.echoes[listener.socket.echo];
            echo.backs_off_until = self.turn_now + RETRY_INTERVAL;
        } else if LOST.contains(&errno) {
            let lost = listener.waiting.pop_front();
            if let Some(id) = lost {
                self.end_connection(id);
            }
        }
    }

    /// A connection could not be registered, so its listener may pause.
    pub(super) fn note_accept_failure(&mut self, source: Source) {
        let echo = self.socket_mut(source).echo;
        for backlog in self.backlogs.iter_mut().filter(|it| it.socket.echo == echo) {
            backlog.had_error = true;
        }
    }

    /// close(2) resets the connections that wait.
    pub(super) fn close_listener(&mut self, backlog: usize) {
        let listener = &mut self.backlogs[backlog];
        listener.drops_new_syns = true;
        let waiting = mem::take(&mut listener.waiting);
        let (unaccepted, echo) = (listener.unaccepted, listener.socket.echo);
        // Other processes accept them, if they have copies of the socket.
        let may_leave = self.plan.is_inherited || listener.had_error || !self.is_shutting_down();
        let are_lost = unaccepted > 0 && !may_leave && self.has_place(echo);
        assert!(!are_lost, "{unaccepted} connections are lost at a shutdown");
        for id in waiting {
            self.end_connection(id);
        }
    }
}

impl Accept for Descriptor {
    type Stream = Descriptor;

    fn accept(&mut self) -> io::Result<(Descriptor, Peer)> {
        let errors = [&[EINTR], SHORTAGE, LOST].concat();
        let act = |world: &mut World| world.accept(self.id());
        let accepted = self.call("accept", &errors, act);
        world(|world| match accepted {
            Ok(id) => Ok((
                Descriptor(Source::Connection(id)),
                world.connections[id].peer(),
            )),
            Err(error) => {
                world.after_accept_error(self.id(), error.raw_os_error().unwrap_or(0));
                Err(error)
            }
        })
    }

    fn is_inherited(&self) -> bool {
        world(|world| world.plan.is_inherited)
    }

    fn drop_new_syns(&self) -> bool {
        world(|world| {
            let listener = &mut world.backlogs[self.id()];
            listener.drops_new_syns = !listener.is_unix;
            listener.drops_new_syns
        })
    }

    fn unlink_socket_file(&mut self) {}

    fn source_mut(&mut self) -> &mut dyn event::Source {
        self
    }
}
