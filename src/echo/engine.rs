//! The engine: it runs in the loop of its caller, and never blocks, sleeps or reads the clock.
//!
//! Events give sockets a place on the run queue. Each call of `run` gives each socket on it one turn.
//! A socket with more to do goes to the back of the queue, because an edge-triggered selector does not
//! announce the rest again.
//!
//! # Tokens, keys and indices
//!
//! With n endpoints:
//!
//! ```text
//!          listeners and UDP sockets     connections
//! token    first_token + 0 .. n          first_token + n, and above
//! key      -n .. -1, as usize            0 and above: the key in the slab
//! index    0 .. n                        none
//! ```
//!
//! A key is a token less that of the first connection. It wraps around for endpoints, whose keys are in no
//! slab. So the run queue has entries of one kind, and one look-up finds a connection or tells that the
//! socket is another one. The index of an endpoint is its place in two vectors, whose lengths never change.

use std::collections::VecDeque;
use std::io;
use std::iter;
use std::mem;
use std::ops::Range;
use std::time::{Duration, Instant};

use log::{Level, debug, info, log_enabled, trace};
use mio::{Interest, Registry, Token};
use slab::Slab;

use super::accept::{Acceptor, MAX_ACCEPTS_PER_TURN};
use super::connection::{Connection, Name, Next};
use super::endpoint_sockets::{EndpointEntry, EndpointSocket};
use super::events::ConnectionEvent;
use super::shared::Shared;
use super::shutdown::Phase;
use super::timers::{Timeout, Timers};
use super::udp::Udp;
use crate::config::Config;
use crate::net::bind::listen_error;
use crate::net::endpoint::Endpoint;
use crate::net::{Accept, CLOSE_DEREGISTERS, Readiness, Stream, System};
use crate::policy::admission::Admission;
use crate::policy::cidr::AllowList;
use crate::policy::log_throttle::LogThrottle;
use crate::policy::reply_filter::ReplyFilter;
use crate::stats::{CloseReason, Stats};

/// See [`Echo`](super::Echo), whose methods these are.
pub(crate) struct Engine<S: System> {
    pub(super) registry: Registry,
    pub(super) first_token: usize,
    pub(super) token_count: usize,
    pub(super) config: Config,
    /// The first endpoint, which distinguishes several echoes in the log.
    pub(super) name: String,
    /// One for each listener and UDP socket, with its real port.
    pub(super) endpoints: Vec<Endpoint>,
    /// The listener or UDP socket of each endpoint, at the same index.
    pub(super) endpoint_sockets: Vec<EndpointEntry<S>>,
    /// The token of the connection with the key 0.
    first_connection_token: usize,
    pub(super) connections: Slab<Connection<S::Stream>>,
    /// Keys of the sockets that have something to do, in the order of arrival: each once, but for stale
    /// ones.
    pub(crate) run_queue: Vec<usize>,
    /// Whether the run queue may have the key of a closed connection. Another connection can have that key
    /// by now, and be queued a second time.
    has_stale_keys: bool,
    /// An empty run queue, kept for its memory: `run` swaps them.
    spare_queue: Vec<usize>,
    pub(super) shared: Shared<<S::Stream as Stream>::Pipe>,
    pub(super) timers: Timers,
    pub(super) acceptor: Acceptor,
    pub(super) udp: Udp,
    pub(super) phase: Phase,
    /// Until when the loop polls without sleeping.
    pub(super) busy_until: Option<Instant>,
    pub(super) evictions: LogThrottle,
    /// What the application has not taken yet. The memory is reserved, so that an event cannot fail for
    /// lack of it.
    events: VecDeque<ConnectionEvent>,
    pub(super) stats: Stats,
}

/// How long to wait after a call that failed for lack of descriptors or memory: no event announces the end
/// of a shortage.
pub(super) const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// For how many connections the slab has room at the start. Memory that is only reserved costs nothing; to
/// grow, the slab would be copied, and leave holes in the heap.
const RESERVED_CONNECTIONS: usize = 65_536;

impl<S: System> Engine<S> {
    /// For tests with few bytes: a stream that moves so many at once is spliced.
    #[cfg(test)]
    pub(crate) fn set_splice_min(&mut self, bytes: usize) {
        if self.config.zero_copy == crate::config::ZeroCopy::Auto {
            self.shared.pipes = super::shared::Pipes::with_splice_min(bytes);
        }
    }

    /// Takes the sockets of its endpoints, and registers them.
    pub(crate) fn new(
        config: Config,
        sockets: Vec<(Endpoint, EndpointSocket<S>)>,
        registry: &Registry,
        first_token: Token,
        now: Instant,
    ) -> io::Result<Self> {
        let tokens = token_range(sockets.len() + config.max_connections, first_token.0)?;
        let connections = config.max_connections.min(RESERVED_CONNECTIONS);
        check_memory::<S>(connections)?;
        let name = sockets.first().map(|(endpoint, _)| endpoint.to_string());
        let filter = reply_filter(&config, &sockets);
        let admission = Admission::new(filter.allowed.clone(), config.max_per_source);
        let mut events = VecDeque::new();
        events.try_reserve_exact(config.connection_events)?;
        let mut engine = Engine {
            registry: registry.try_clone()?,
            first_token: tokens.start,
            token_count: tokens.len(),
            name: name.unwrap_or_default(),
            endpoints: Vec::new(),
            endpoint_sockets: Vec::new(),
            first_connection_token: tokens.start + sockets.len(),
            connections: Slab::with_capacity(connections),
            run_queue: Vec::new(),
            has_stale_keys: false,
            spare_queue: Vec::new(),
            shared: Shared::new(config.buffer_size, config.zero_copy),
            timers: Timers::new(config.idle_timeout, config.write_timeout, now),
            acceptor: Acceptor::new(admission),
            udp: Udp::new(filter),
            phase: Phase::Serving,
            busy_until: None,
            evictions: LogThrottle::default(),
            events,
            stats: Stats::default(),
            config,
        };
        for (endpoint, socket) in sockets {
            engine.add_endpoint(endpoint, socket)?;
        }
        Ok(engine)
    }

    pub(crate) fn stats(&self) -> Stats {
        self.stats
    }

    pub(crate) fn owns(&self, token: Token) -> bool {
        token.0.wrapping_sub(self.first_token) < self.token_count
    }

    /// How long the loop may sleep if no event wakes it: zero while sockets are on the run queue or the
    /// loop is [busy polling](crate::ConfigBuilder::busy_poll), else until the next deadline; `None` if
    /// there is none.
    pub(crate) fn timeout(&self, now: Instant) -> Option<Duration> {
        let next = self.deadline_at(now)?;
        Some(next.saturating_duration_since(now))
    }

    /// See [`Echo::deadline`](super::Echo::deadline).
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline_at(self.now())
    }

    /// The latest time that was passed in, to a millisecond.
    pub(crate) fn now(&self) -> Instant {
        self.timers.instant()
    }

    fn deadline_at(&self, now: Instant) -> Option<Instant> {
        let is_busy = self.busy_until.is_some_and(|until| now < until);
        if is_busy || !self.run_queue.is_empty() {
            return Some(now);
        }
        self.deadlines().into_iter().flatten().min()
    }

    /// What is done when each of the [deadlines](Self::deadlines) has passed. The order is theirs: listeners
    /// close before the drain time ends. All get the time, so that they have one type.
    const ON_DEADLINE: [fn(&mut Self, Instant); 5] = [
        Self::retry_accepting,
        Self::retry_udp,
        Self::close_remaining_listeners,
        Self::advance_phase,
        Self::queue_expired,
    ];

    /// All deadlines: `timeout` announces the first, `run` acts on those that have passed.
    #[inline]
    fn deadlines(&self) -> [Option<Instant>; 5] {
        let timers = self.timers.next_at();
        [
            self.acceptor.retry_at(),
            self.udp.retry_at,
            self.acceptor.listeners_close_at,
            self.phase_ends_at(),
            // Without a connection, entries of closed ones do not wake the loop.
            timers.filter(|_| self.stats.active > 0),
        ]
    }

    /// Notes an event, and makes no system call: a socket with something to do goes to the run queue.
    ///
    /// Ignores an event whose socket was closed after the selector reported it. Returns whether the token
    /// is one of this echo.
    // Generic and inlined, so that only those flags of the event are computed that `wake` looks at. Else
    // an echo takes a quarter more instructions.
    #[inline]
    pub(crate) fn handle(&mut self, token: Token, event: impl Into<Readiness> + Copy) -> bool {
        let key = self.key_of(token);
        let Some(connection) = self.connections.get_mut(key) else {
            return self.handle_endpoint(token, event.into());
        };
        if log_enabled!(Level::Trace) {
            trace_event(connection.name, event.into());
        }
        if connection.wake(event.into()) {
            self.run_queue.push(key);
        }
        true
    }

    /// An event that belongs to no open connection, but to a listener, a UDP socket, a closed socket or
    /// another source.
    // Not inlined, so that the loop over the events stays small.
    #[inline(never)]
    fn handle_endpoint(&mut self, token: Token, readiness: Readiness) -> bool {
        if !self.owns(token) {
            return false;
        }
        let index = self.endpoint_index(self.key_of(token));
        if self
            .endpoint_sockets
            .get(index)
            .is_some_and(EndpointEntry::is_open)
        {
            let endpoint = &self.endpoints[index];
            trace!(endpoint:%, event:% = readiness; "{endpoint}: event: {readiness}");
            self.enqueue_endpoint(index);
        } else {
            trace!("Token {}: event without a socket, ignored", token.0);
        }
        true
    }

    /// Does what is due at `now`, and gives each socket on the run queue one turn. Those with more to do
    /// queue again, for the next call.
    // Inlined into its caller it has fewer registers, and takes 4 % more instructions per echo.
    #[inline(never)]
    pub(crate) fn run(&mut self, now: Instant) {
        self.stats.iterations += 1;
        self.set_now(now);
        for (at, act) in self.deadlines().into_iter().zip(Self::ON_DEADLINE) {
            if at.is_some_and(|at| at <= now) {
                act(self, now);
            }
        }
        if mem::take(&mut self.has_stale_keys) {
            self.remove_stale_keys();
        }
        if !self.config.busy_poll.is_zero() {
            self.extend_busy_polling(now);
        }
        let mut batch = mem::replace(&mut self.run_queue, mem::take(&mut self.spare_queue));
        let turns = batch.len().min(self.config.max_turns);
        self.stats.run_queue = turns;
        trace!(run_queue = turns; "run queue: {turns}");
        for &key in &batch[..turns] {
            self.turn(key, now);
        }
        if turns < batch.len() {
            self.keep_rest(&mut batch, turns);
        }
        batch.clear();
        self.spare_queue = batch;
        if !self.timers.due.is_empty() {
            self.close_expired(now);
        }
    }

    /// Busy polling lasts from the last work on. After a time that was too far ahead, `busy_until` would be
    /// out of reach: it is never later than `busy_poll` from now.
    #[cold]
    fn extend_busy_polling(&mut self, now: Instant) {
        let end = now.checked_add(self.config.busy_poll);
        if !self.run_queue.is_empty() || self.busy_until > end {
            self.busy_until = end;
        }
    }

    /// Sockets without a turn are the first in the next call.
    #[cold]
    fn keep_rest(&mut self, batch: &mut Vec<usize>, turns: usize) {
        batch.drain(..turns);
        batch.append(&mut self.run_queue);
        mem::swap(batch, &mut self.run_queue);
    }

    /// Removes the keys of closed connections, and second keys. A connection that always has more to do
    /// would keep both, and have two turns in each iteration.
    #[cold]
    fn remove_stale_keys(&mut self) {
        let mut keys = mem::take(&mut self.run_queue);
        // The first key of a connection clears its flag, and a second one finds it cleared.
        keys.retain(|&key| match self.connections.get_mut(key) {
            Some(connection) => mem::take(&mut connection.queued),
            None => self.endpoint_index(key) < self.endpoint_sockets.len(),
        });
        for &key in &keys {
            if let Some(connection) = self.connections.get_mut(key) {
                connection.queued = true;
            }
        }
        self.run_queue = keys;
    }

    /// One turn of the socket with this key. If its connection was closed, the key has no socket, or that of
    /// a new connection, for which one turn more is harmless.
    fn turn(&mut self, key: usize, now: Instant) {
        let Some(connection) = self.connections.get_mut(key) else {
            return self.endpoint_turn(key, now);
        };
        match connection.turn(&mut self.shared, &mut self.stats) {
            Next::WaitReadable => {}
            next => self.apply(key, next, now),
        }
    }

    // Kept out of `turn`: more code there costs instructions for each echo over TCP.
    #[inline(never)]
    fn endpoint_turn(&mut self, key: usize, now: Instant) {
        let index = self.endpoint_index(key);
        let Some(entry) = self.endpoint_sockets.get_mut(index) else {
            return;
        };
        entry.queued = false;
        match entry.socket {
            Some(EndpointSocket::Listener(_)) => self.accept(index, now, MAX_ACCEPTS_PER_TURN),
            Some(EndpointSocket::Udp(_)) => self.udp_turn(index, now),
            None => {}
        }
    }

    /// What follows a turn of a connection, except the usual wait for the next event.
    #[cold]
    fn apply(&mut self, key: usize, next: Next, now: Instant) {
        match next {
            Next::WaitReadable | Next::WaitWritable => {}
            Next::Again => self.enqueue(key),
            Next::Close(reason) => return self.close(key, reason, now),
        }
        self.schedule(key, Timeout::Write);
        self.enforce_budget(now);
    }

    /// See the page of this module.
    pub(super) fn key_of(&self, token: Token) -> usize {
        token.0.wrapping_sub(self.first_connection_token)
    }

    pub(super) fn connection_token(&self, key: usize) -> Token {
        Token(self.first_connection_token + key)
    }

    /// The index of a listener or UDP socket; out of range if the key is that of a connection.
    fn endpoint_index(&self, key: usize) -> usize {
        key.wrapping_add(self.endpoint_sockets.len())
    }

    pub(super) fn endpoint_token(&self, index: usize) -> Token {
        Token(self.first_token + index)
    }

    pub(super) fn enqueue(&mut self, key: usize) {
        if !mem::replace(&mut self.connections[key].queued, true) {
            self.run_queue.push(key);
        }
    }

    pub(super) fn enqueue_endpoint(&mut self, index: usize) {
        if !mem::replace(&mut self.endpoint_sockets[index].queued, true) {
            self.run_queue.push(self.key_of(self.endpoint_token(index)));
        }
    }

    /// The keys of all connections.
    pub(super) fn connection_keys(&self) -> Vec<usize> {
        self.connections.iter().map(|(key, _)| key).collect()
    }

    /// Registers a listener or UDP socket.
    fn add_endpoint(
        &mut self,
        endpoint: Endpoint,
        mut socket: EndpointSocket<S>,
    ) -> io::Result<()> {
        let index = self.endpoint_sockets.len();
        let token = self.endpoint_token(index);
        let registered = match &mut socket {
            EndpointSocket::Listener(listener) => {
                self.acceptor.listeners.push(index);
                let listener = listener.source_mut();
                self.registry.register(listener, token, Interest::READABLE)
            }
            EndpointSocket::Udp(udp) => udp.update_registration(&self.registry, token),
        };
        registered.map_err(|error| listen_error(&endpoint, error))?;
        info!("listening on {endpoint}");
        trace!("{endpoint}: registered as Token {}", token.0);
        self.endpoints.push(endpoint);
        self.endpoint_sockets.push(EndpointEntry {
            socket: Some(socket),
            queued: false,
        });
        Ok(())
    }

    /// Closes a listener or UDP socket.
    pub(super) fn close_endpoint(&mut self, index: usize) {
        let Some(mut socket) = self.endpoint_sockets[index].socket.take() else {
            return;
        };
        // Best effort: closing deregisters too, unless another process has a copy of the socket.
        let _ = match &mut socket {
            EndpointSocket::Listener(listener) => self.registry.deregister(listener.source_mut()),
            EndpointSocket::Udp(socket) => self.registry.deregister(socket.source_mut()),
        };
        trace!("{}: closed", self.endpoints[index]);
    }

    /// Closes all listeners and UDP sockets.
    pub(super) fn close_endpoints(&mut self) {
        for index in 0..self.endpoint_sockets.len() {
            self.close_endpoint(index);
        }
    }

    /// Closes a connection. No other place does.
    pub(super) fn close(&mut self, key: usize, reason: CloseReason, now: Instant) {
        let mut connection = self.connections.remove(key);
        self.has_stale_keys |= connection.queued;
        let name = connection.name;
        debug!(token = name.token.0, closed:% = reason;
            "{name}: closed: {reason}; {}", connection.summary(self.timers.now()));
        self.limit_unacknowledged(&connection);
        connection.release(&mut self.shared, &mut self.stats);
        if !CLOSE_DEREGISTERS {
            let _ = self.registry.deregister(connection.stream.source_mut());
        }
        self.release_admission(name.peer);
        self.stats.active -= 1;
        self.stats.closed.count(&reason);
        let age = connection.age(self.timers.now());
        self.record_event(|| ConnectionEvent::Closed {
            token: name.token,
            peer: name.peer.address(),
            reason,
            echoed: connection.echoed,
            age,
        });
        self.retry_accepting(now);
    }

    /// Keeps an event for the application, if it wants events.
    pub(super) fn record_event(&mut self, event: impl FnOnce() -> ConnectionEvent) {
        let capacity = self.config.connection_events;
        if self.events.len() < capacity {
            self.events.push_back(event());
        } else if capacity > 0 {
            self.stats.events_lost += 1;
        }
    }

    /// See [`Echo::connection_events`](super::Echo::connection_events).
    pub(crate) fn connection_events(&mut self) -> impl Iterator<Item = ConnectionEvent> {
        iter::from_fn(|| self.events.pop_front())
    }
}

#[cold]
fn trace_event(name: Name, readiness: Readiness) {
    trace!(token = name.token.0, event:% = readiness; "{name}: event: {readiness}");
}

/// Fails if there is no memory for so many connections. A slab that grows would abort the process instead.
pub(super) fn check_memory<S: System>(count: usize) -> io::Result<()> {
    Ok(Vec::<Connection<S::Stream>>::new().try_reserve_exact(count)?)
}

fn token_range(count: usize, first: usize) -> io::Result<Range<usize>> {
    let end = first.checked_add(count).ok_or_else(|| {
        let message = format!("no {count} tokens from {first} on: choose a lower first token");
        io::Error::new(io::ErrorKind::InvalidInput, message)
    })?;
    Ok(first..end)
}

fn reply_filter<S: System>(
    config: &Config,
    sockets: &[(Endpoint, EndpointSocket<S>)],
) -> ReplyFilter {
    let port = |(endpoint, _): &(Endpoint, _)| match endpoint {
        Endpoint::Udp(address) => Some(address.port()),
        _ => None,
    };
    ReplyFilter {
        allowed: AllowList::new(&config.allow),
        own_ports: sockets.iter().filter_map(port).collect(),
        answer_any_port: config.udp_answer_any_port,
    }
}

/// Deregisters listeners and UDP sockets: copies of [inherited ones](crate::BoundSocket) would keep them
/// in the selector, and wake the loop without a socket.
impl<S: System> Drop for Engine<S> {
    fn drop(&mut self) {
        self.close_endpoints();
    }
}

/// With the sockets of Linux.
#[cfg(all(test, target_os = "linux"))]
mod tests;
