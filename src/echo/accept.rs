//! Accepting connections: how many in a turn, when to pause, and when to resume.

use std::io;
use std::time::Instant;

use log::{debug, trace, warn};
use mio::Token;

use super::connection::{Connection, Name};
use super::engine::{Engine, RETRY_INTERVAL, check_memory};
use super::events::ConnectionEvent;
use super::timers::Timeout;
use crate::net::listener::is_connection_error;
use crate::net::stream::Peer;
use crate::net::{self, Accept, Stream, System, nonblocking, outcome};
use crate::policy::admission::{Admission, RejectReason};
use crate::policy::log_throttle::LogThrottle;

/// The most calls of accept(2) in one turn of a listener, so that a flood of new connections does not
/// delay open ones for long.
pub(super) const MAX_ACCEPTS_PER_TURN: usize = 32;

/// The listeners, and whether connections are accepted or wait in the backlog.
#[derive(Debug, Default)]
pub(super) struct Acceptor {
    pub(super) admission: Admission,
    gate: AcceptGate,
    /// Indices of the open listeners, in the order of their turns when accepting last resumed.
    pub(super) listeners: Vec<usize>,
    /// When a shutdown closes the listeners that it left open for pending handshakes.
    pub(super) listeners_close_at: Option<Instant>,
    at_limit: LogThrottle,
    back_offs: LogThrottle,
    not_allowed: LogThrottle,
    too_many_from_source: LogThrottle,
}

impl Acceptor {
    pub(super) fn new(admission: Admission) -> Self {
        Acceptor {
            admission,
            ..Acceptor::default()
        }
    }

    pub(super) fn is_accepting(&self) -> bool {
        matches!(self.gate, AcceptGate::Open)
    }

    /// When accepting resumes, unless a connection closes before.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        match self.gate {
            AcceptGate::BackingOff { retry_at } => Some(retry_at),
            AcceptGate::Open | AcceptGate::Paused | AcceptGate::AtLimit => None,
        }
    }
}

/// While it is not open, no call is made on the listeners. An edge-triggered selector does not announce
/// the waiting connections again, so a connection that closes, or a timer, has to resume accepting.
#[derive(Debug, Clone, Copy, Default)]
enum AcceptGate {
    #[default]
    Open,
    /// The application paused it, and has to resume it.
    Paused,
    /// At the connection limit.
    AtLimit,
    /// After a lack of descriptors or memory, or a turn in which each accept(2) failed.
    BackingOff { retry_at: Instant },
}

impl<S: System> Engine<S> {
    /// Accepts up to `max` connections from the listener at this index, unless accepting is paused.
    ///
    /// Pauses at the connection limit, and backs off without descriptors or memory, or if each call failed.
    /// After `max` calls the listener goes back to the run queue: accept(2) has not yet said that its
    /// queue is empty, and an edge-triggered selector does not announce the rest again.
    pub(super) fn accept(&mut self, index: usize, now: Instant, max: usize) {
        if !self.acceptor.is_accepting() {
            return;
        }
        let mut accepted = 0;
        let mut last_error = None;
        for _ in 0..max {
            if self.stats.active >= self.config.max_connections {
                return self.pause_at_limit(now);
            }
            match self.accept_one(index) {
                Ok(Some((stream, peer))) => {
                    accepted += 1;
                    if let Err(error) = self.admit(stream, peer, now) {
                        self.count_accept_error(&error);
                        return self.back_off(&error, now);
                    }
                }
                // An event announces the next connection.
                Ok(None) => return,
                Err(error) if is_connection_error(&error) => {
                    self.count_accept_error(&error);
                    last_error = Some(error);
                }
                // `EMFILE`, `ENFILE`, `ENOBUFS`, `ENOMEM`: the connection stays in the backlog, and is
                // not announced again. Also errors that are not known here: going on could spin.
                Err(error) => return self.back_off(&error, now),
            }
        }
        match last_error {
            // Every call failed with an error of the pending connection itself. Such errors can
            // repeat without end (a firewall that rejects each handshake), so wait, and do not spin.
            Some(error) if accepted == 0 => self.back_off(&error, now),
            _ => self.enqueue_endpoint(index),
        }
    }

    /// Returns `None` if no connection waits.
    fn accept_one(&mut self, index: usize) -> io::Result<Option<(S::Stream, Peer)>> {
        let Some(listener) = self.endpoint_sockets[index].listener_mut() else {
            return Ok(None);
        };
        let result = nonblocking(|| listener.accept());
        let peer = |it: &(_, Peer)| format!(": {}", it.1);
        let endpoint = &self.endpoints[index];
        trace!(endpoint:%, call = "accept"; "{endpoint}: accept{}", outcome(&result, peer));
        result
    }

    /// Opens or rejects an accepted connection. Fails if there is no memory or no room for it.
    pub(super) fn admit(
        &mut self,
        stream: S::Stream,
        peer: Peer,
        now: Instant,
    ) -> io::Result<Result<Token, RejectReason>> {
        if let Some(address) = peer.address()
            && let Err(reason) = self.acceptor.admission.acquire(address)
        {
            stream.reset();
            self.count_rejected(reason, address, now);
            return Ok(Err(reason));
        }
        let opened = self.open(stream, peer);
        if opened.is_err() {
            self.release_admission(peer);
        }
        opened.map(Ok)
    }

    /// Registers an accepted connection and puts it into the slab. Fails if the slab or the selector has
    /// no memory or no room (`ENOMEM`, `ENOSPC`).
    fn open(&mut self, mut stream: S::Stream, peer: Peer) -> io::Result<Token> {
        if self.connections.len() == self.connections.capacity() {
            // Inserting doubles the slab, and would abort the process.
            check_memory::<S>(2 * self.connections.capacity())?;
        }
        let key = self.connections.vacant_key();
        let token = self.connection_token(key);
        self.registry
            .register(stream.source_mut(), token, net::interest())?;
        let name = Name { peer, token };
        let connection = Connection::new(stream, name, self.timers.now());
        self.connections.insert(connection);
        self.schedule(key, Timeout::Idle);
        self.stats.active += 1;
        self.stats.accepted += 1;
        debug!(token = token.0, peer:%; "{name}: opened");
        self.record_event(|| ConnectionEvent::Opened {
            token,
            peer: peer.address(),
        });
        Ok(token)
    }

    pub(super) fn release_admission(&mut self, peer: Peer) {
        if let Some(address) = peer.address() {
            self.acceptor.admission.release(address);
        }
    }

    fn count_rejected(&mut self, reason: RejectReason, peer: std::net::SocketAddr, now: Instant) {
        let rejected = &mut self.stats.rejected;
        let (counter, throttle) = match reason {
            RejectReason::NotAllowed => (&mut rejected.not_allowed, &mut self.acceptor.not_allowed),
            RejectReason::TooManyFromSource => (
                &mut rejected.too_many_from_source,
                &mut self.acceptor.too_many_from_source,
            ),
        };
        *counter += 1;
        debug!("{peer}: rejected: {reason}");
        if let Some(count) = throttle.count(now) {
            warn!(
                "{}: {count} connections rejected, the last one from {peer}: {reason}",
                self.name
            );
        }
    }

    fn count_accept_error(&mut self, error: &io::Error) {
        self.stats.accept_errors += 1;
        debug!("connection lost before it was opened: {error}");
    }

    fn pause_at_limit(&mut self, now: Instant) {
        self.stats.accept_pauses += 1;
        self.acceptor.gate = AcceptGate::AtLimit;
        // During a shutdown the remaining connections are reset in any case.
        if self.is_serving() && self.acceptor.at_limit.count(now).is_some() {
            warn!(
                "{}: at the limit of {} connections: others wait until one closes",
                self.name, self.config.max_connections
            );
        }
    }

    fn back_off(&mut self, error: &io::Error, now: Instant) {
        self.stats.accept_pauses += 1;
        let retry_at = now + RETRY_INTERVAL;
        self.acceptor.gate = AcceptGate::BackingOff { retry_at };
        if self.acceptor.back_offs.count(now).is_some() {
            warn!(
                "{}: cannot accept ({error}): tries again every {RETRY_INTERVAL:?}, and when one of \
                 {} connections closes; raise the limit on open files if that is the cause",
                self.name, self.stats.active
            );
        }
    }

    /// Accepts no connection until [`resume_accepting`](Self::resume_accepting).
    pub(crate) fn pause_accepting(&mut self) {
        if self.is_serving() {
            self.acceptor.gate = AcceptGate::Paused;
        }
    }

    /// Resumes accepting, unless the application paused it or a limit that was lowered is still exceeded.
    pub(super) fn retry_accepting(&mut self, now: Instant) {
        match self.acceptor.gate {
            AcceptGate::Paused => {}
            AcceptGate::AtLimit if self.stats.active >= self.config.max_connections => {}
            _ => self.resume_accepting(now),
        }
    }

    /// Resumes accepting, whatever paused it.
    pub(crate) fn resume_accepting(&mut self, _now: Instant) {
        if self.acceptor.is_accepting() {
            return;
        }
        self.acceptor.gate = AcceptGate::Open;
        // No event announces connections that arrived during the pause, so each listener gets a turn.
        // The order rotates, because there may be room for only one connection.
        let listeners = &mut self.acceptor.listeners;
        if !listeners.is_empty() {
            listeners.rotate_left(1);
        }
        for index in 0..self.acceptor.listeners.len() {
            self.enqueue_endpoint(self.acceptor.listeners[index]);
        }
    }

    /// Accepts the backlog of a listener that is about to close, even during a back-off, up to the
    /// connection limit.
    pub(super) fn accept_last(&mut self, index: usize, now: Instant) {
        self.acceptor.gate = AcceptGate::Open;
        // More than any queue holds: backlog + 1 on Linux, 1.5 times the backlog on the BSDs.
        self.accept(index, now, self.config.backlog as usize * 2);
    }
}
