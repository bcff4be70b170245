//! Listening sockets and their backlogs: what listen(2) and accept(2) say of their calls.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::net::SocketAddr;

use mio::event;
use nix::libc::{
    EAGAIN, ECONNABORTED, EHOSTDOWN, EHOSTUNREACH, EINTR, EMFILE, ENETDOWN, ENETUNREACH, ENFILE,
    ENOBUFS, ENOMEM, ENONET, ENOPROTOOPT, EOPNOTSUPP, EPERM, EPROTO, ETIMEDOUT,
};

use super::checks::RETRY_INTERVAL;
use super::connections::{Connection, Phase};
use super::selector::Source;
use super::streams::Socket;
use super::world::{Activity, World, error, system_call, world, world_at_drop};
use crate::net::Accept;
use crate::net::stream::Peer;

/// The errors of a connection, which is lost; see "Error handling" in accept(2).
const OF_CONNECTION: &[i32] = &[
    ECONNABORTED,
    EHOSTDOWN,
    EHOSTUNREACH,
    ENETDOWN,
    ENETUNREACH,
    ENONET,
    ENOPROTOOPT,
    EOPNOTSUPP,
    EPROTO,
    ETIMEDOUT,
];
const ACCEPT: &[i32] = &[
    EINTR,
    EMFILE,
    ENFILE,
    ENOBUFS,
    ENOMEM,
    EPERM,
    ECONNABORTED,
    EPROTO,
    ENETDOWN,
    EHOSTUNREACH,
];

/// A listening socket.
#[derive(Debug, Clone, Default)]
pub(super) struct Backlog {
    pub(super) echo: usize,
    pub(super) is_unix: bool,
    /// Connections that wait.
    waiting: VecDeque<usize>,
    pub(super) is_closed: bool,
    /// New connections reach another process.
    pub(super) drops_new_syns: bool,
    /// How many waited at the beginning of this turn, and were not accepted.
    left: usize,
    /// A call failed, or found nothing, in this turn.
    pub(super) had_error: bool,
    pub(super) activity: Activity,
}

impl Backlog {
    pub(super) fn begin_turn(&mut self) {
        self.left = self.waiting.len();
        self.had_error = false;
        self.activity.begin_turn();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

impl World {
    /// connect(2) of a peer. Returns the connection, or `None` if the system drops the SYN.
    pub(super) fn connect(&mut self, backlog: usize, address: Option<SocketAddr>) -> Option<usize> {
        let (id, max) = (self.connections.len(), self.plan.max_capacity);
        let it = &mut self.backlogs[backlog];
        if it.drops_new_syns || it.waiting.len() > self.plan.config.backlog as usize {
            return None;
        }
        it.waiting.push_back(id);
        self.connections.push(Connection {
            id,
            echo: it.echo,
            address: address.filter(|_| !it.is_unix),
            inbound_capacity: 1 + self.random.magnitude(max - 1),
            outbound_capacity: 1 + self.random.magnitude(max - 1),
            ..Connection::default()
        });
        self.tell(|| format!("peer of connection {id} connects: {address:?}"));
        self.signal(Source::Backlog(backlog));
        Some(id)
    }

    /// The result of accept(2), if the call itself has not failed.
    fn accept(&mut self, backlog: usize) -> io::Result<usize> {
        let until = self.judge.backs_off_until[self.backlogs[backlog].echo];
        if self.turn_now < until && self.shutdown_at.is_none() {
            self.fail("a listener is called during a back-off".to_owned());
        }
        let Some(&id) = self.backlogs[backlog].waiting.front() else {
            return error(EAGAIN);
        };
        self.open_descriptors(1)?;
        let it = &mut self.backlogs[backlog];
        it.waiting.pop_front();
        it.left = it.left.saturating_sub(1);
        it.activity.has_progress = true;
        self.connections[id].phase = Phase::Open;
        self.connections[id].moved_at = self.turn_now;
        Ok(id)
    }

    fn after_accept_error(&mut self, backlog: usize, errno: i32) {
        let it = &mut self.backlogs[backlog];
        it.had_error = true;
        if OF_CONNECTION.contains(&errno) {
            let lost = it.waiting.pop_front();
            if let Some(id) = lost {
                self.end_connection(id);
            }
        } else if ![EINTR, EAGAIN].contains(&errno) {
            self.judge.backs_off_until[it.echo] = self.turn_now + RETRY_INTERVAL;
        }
    }

    /// close(2) of a listening socket resets what waits, unless other processes have copies.
    fn close_backlog(&mut self, backlog: usize) {
        let it = &mut self.backlogs[backlog];
        it.is_closed = true;
        let waiting = mem::take(&mut it.waiting);
        let (echo, left, had_error) = (it.echo, it.left, it.had_error);
        let accepts = self.shutdown_at.is_some() && !self.plan.inherited && !had_error;
        if accepts && left > 0 && self.has_place(echo) {
            self.fail(format!(
                "{left} waiting connections are not accepted at a shutdown"
            ));
        }
        for id in waiting {
            self.end_connection(id);
        }
    }
}

/// A listening socket of an echo.
#[derive(Debug)]
pub(super) struct Listener {
    id: usize,
    source: Source,
}

impl Listener {
    pub(super) fn new(echo: usize, is_unix: bool) -> Self {
        world(|world| {
            let id = world.backlogs.len();
            world.backlogs.push(Backlog {
                echo,
                is_unix,
                ..Backlog::default()
            });
            let source = Source::Backlog(id);
            Listener { id, source }
        })
    }
}

impl Accept for Listener {
    type Stream = Socket;

    fn accept(&mut self) -> io::Result<(Socket, Peer)> {
        let accepted = system_call(self.source, "accept", ACCEPT, |world| world.accept(self.id));
        world(|world| match accepted {
            Ok(id) => Ok((Socket::new(id), world.connections[id].peer())),
            Err(error) => {
                world.after_accept_error(self.id, error.raw_os_error().unwrap_or(0));
                Err(error)
            }
        })
    }

    fn is_inherited(&self) -> bool {
        world(|world| world.plan.inherited)
    }

    fn drop_new_syns(&self) -> bool {
        world(|world| {
            let backlog = &mut world.backlogs[self.id];
            backlog.drops_new_syns = !backlog.is_unix;
            backlog.drops_new_syns
        })
    }

    fn unlink_socket_file(&mut self) {}

    fn source_mut(&mut self) -> &mut dyn event::Source {
        &mut self.source
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        world_at_drop(|world| {
            world.selectors.deregister(self.source);
            world.close_backlog(self.id);
        });
    }
}
