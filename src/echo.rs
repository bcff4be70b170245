//! The engine: listeners, datagram sockets, the slab of connections, and the run queue.

use std::fmt;
use std::io;
use std::mem;
use std::ops::Range;
use std::time::{Duration, Instant};

use log::{debug, info, trace};
use mio::event::Event;
use mio::{Interest, Registry, Token};
use slab::Slab;

mod accepting;
mod datagrams;
mod stopping;
mod timeouts;

use crate::admission::Admission;
use crate::allow_list::AllowList;
use crate::bind::{Bound, ListenError};
use crate::bound_socket::BoundSocket;
use crate::config::Config;
use crate::connection::{Connection, Next};
use crate::datagram::DatagramSocket;
use crate::deadlines::Deadlines;
use crate::endpoint::Endpoint;
use crate::gate::Gate;
use crate::listener::Listener;
use crate::readiness::{CLOSING_DEREGISTERS, Readiness};
use crate::refusal::Refusals;
use crate::scratch::Scratch;
use crate::stats::{Reason, Stats};
use crate::stream::StreamSocket;
use crate::zero_copy::SystemPipe;
use stopping::Phase;

/// An echo service without a loop: a guest in yours.
///
/// It never blocks, sleeps, starts a thread or reads the clock. It registers its sockets with
/// your [`Registry`], under the first token you give it and [as many above](Echo::tokens) as it
/// needs. You hand it its events, give it turns, and tell it the time:
///
/// ```
/// use std::time::Instant;
/// use mio::{Events, Poll, Token};
/// use mio_echo::{Config, Echo};
///
/// let mut poll = Poll::new()?;
/// let mut events = Events::with_capacity(256);
/// let config = Config::builder().endpoint("127.0.0.1:0".parse()?).build()?;
/// let mut echo = Echo::new(config, poll.registry(), Token(10))?;
/// println!("{}", echo.endpoints()[0]); // tcp://127.0.0.1:40123, or so
///
/// # echo.shutdown(Instant::now());
/// let mut now = Instant::now();
/// while !echo.is_finished() {
///     match poll.poll(&mut events, echo.timeout(now)) {
///         Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
///         polled => polled?,
///     }
///     now = Instant::now();
///     for event in &events {
///         if echo.owns(event.token()) {
///             echo.handle(event);
///         } else {
///             // yours
///         }
///     }
///     echo.run(now);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// An error of one connection never reaches you: it ends that connection, is counted in
/// [`stats`](Echo::stats) and logged at `debug`.
///
/// To stop, call [`shutdown`](Echo::shutdown). To drop an `Echo` closes every socket at once.
pub struct Echo {
    registry: Registry,
    first_token: usize,
    token_count: usize,
    config: Config,
    /// One for each socket, with its real port. Their keys are the first.
    endpoints: Vec<Endpoint>,
    /// Sockets of endpoints, and connections; the key is the token less the first one.
    slots: Slab<Slot>,
    /// Keys of those that have something to do, each at most once, first come first.
    run_queue: Vec<usize>,
    /// The part of the run queue that has its turns now. Empty, but for its memory, between runs.
    round: Vec<usize>,
    scratch: Scratch<SystemPipe>,
    deadlines: Deadlines,
    gate: Gate,
    admission: Admission,
    /// Keys of the listeners, in the order that they had their turns when the gate was last opened.
    listeners: Vec<usize>,
    /// When those are closed that a shutdown has left open for handshakes to be completed.
    parting_at: Option<Instant>,
    refusals: Refusals,
    /// When the datagram sockets get a turn, because the system was short of something.
    datagrams_at: Option<Instant>,
    phase: Phase,
    /// Until when to ask for events without sleeping.
    busy_until: Option<Instant>,
    stats: Stats,
}

#[derive(Debug)]
struct Slot {
    source: Source,
    /// Whether the key is on the run queue.
    queued: bool,
}

#[derive(Debug)]
enum Source {
    Connection(Connection<StreamSocket>),
    /// In a box: there are few, and their size would be every connection's.
    Endpoint(Box<EndpointSocket>),
}

/// What serves at an endpoint.
#[derive(Debug)]
enum EndpointSocket {
    Listener(Listener),
    Datagrams(DatagramSocket),
}

impl Slot {
    fn new(source: Source) -> Self {
        Slot {
            source,
            queued: false,
        }
    }

    fn listener(&mut self) -> Option<&mut Listener> {
        match &mut self.source {
            Source::Endpoint(socket) => match &mut **socket {
                EndpointSocket::Listener(listener) => Some(listener),
                EndpointSocket::Datagrams(_) => None,
            },
            Source::Connection(_) => None,
        }
    }

    fn datagrams(&mut self) -> Option<&mut DatagramSocket> {
        match &mut self.source {
            Source::Endpoint(socket) => match &mut **socket {
                EndpointSocket::Datagrams(socket) => Some(socket),
                EndpointSocket::Listener(_) => None,
            },
            Source::Connection(_) => None,
        }
    }
}

impl Echo {
    /// Binds every endpoint of `config`, listens there and registers with `registry`, under
    /// `first_token` and the tokens above it.
    ///
    /// # Errors
    ///
    /// Where an endpoint cannot be had, the error names it and says what to do; its kind is the
    /// system's, such as [`AddrInUse`](io::ErrorKind::AddrInUse),
    /// [`AddrNotAvailable`](io::ErrorKind::AddrNotAvailable) or
    /// [`PermissionDenied`](io::ErrorKind::PermissionDenied); see bind(2) and listen(2). No
    /// endpoint is listened on before all are bound, and after an error none is.
    ///
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) where there are not enough tokens from
    /// `first_token` on for every connection that the limit allows.
    pub fn new(config: Config, registry: &Registry, first_token: Token) -> io::Result<Self> {
        Self::with_sockets(config, Vec::new(), registry, first_token)
    }

    /// Serves at sockets that are bound already as well, or at these alone where `config` names no
    /// endpoint. They come behind those of the configuration in
    /// [`endpoints`](Echo::endpoints).
    ///
    /// Whoever opened them may have copies of them, and does not lose what comes to these; see
    /// [`BoundSocket`].
    ///
    /// # Errors
    ///
    /// Those of [`new`](Echo::new). The sockets are closed then.
    pub fn with_sockets(
        config: Config,
        sockets: Vec<BoundSocket>,
        registry: &Registry,
        first_token: Token,
    ) -> io::Result<Self> {
        let config = if sockets.is_empty() {
            config.or_default_endpoint()
        } else {
            config
        };
        let first = first_token.0;
        let count = config.sockets().flatten().count() + sockets.len() + config.max_connections;
        if first.checked_add(count).is_none() {
            let message = format!("no {count} tokens from {first} on: choose a lower first token");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let mut bound = Bound::bind_all(&config)?;
        bound.extend(sockets.into_iter().map(Bound::from));
        let udp_addresses = bound.iter().filter_map(Bound::udp_address);
        let udp_ports = udp_addresses.map(|address| address.port()).collect();
        let allowed = AllowList::new(&config.allow);
        let mut echo = Echo {
            registry: registry.try_clone()?,
            first_token: first,
            token_count: count,
            endpoints: Vec::new(),
            slots: Slab::new(),
            run_queue: Vec::new(),
            round: Vec::new(),
            scratch: Scratch::new(config.buffer_size, config.zero_copy),
            deadlines: Deadlines::new(config.idle_timeout, config.stall_timeout),
            gate: Gate::default(),
            admission: Admission::new(allowed.clone(), config.max_per_source),
            listeners: Vec::new(),
            parting_at: None,
            refusals: Refusals::new(allowed, udp_ports, config.udp_answer_any_port),
            datagrams_at: None,
            phase: Phase::Serving,
            busy_until: None,
            stats: Stats::default(),
            config,
        };
        let sockets = bound.into_iter().map(|it| echo.socket(it));
        for socket in sockets.collect::<io::Result<Vec<_>>>()? {
            echo.add(socket)?;
        }
        Ok(echo)
    }

    /// Where it serves, in the order of the configuration: an endpoint for each socket, so two for
    /// one of TCP and UDP, and with the real port where 0 was asked for; then that of each socket
    /// that was bound already. Stays the same after a shutdown.
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// What it has done so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Whether events under this token are for [`handle`](Echo::handle): one of
    /// [`tokens`](Echo::tokens).
    #[must_use]
    pub fn owns(&self, token: Token) -> bool {
        self.key_of(token) < self.token_count
    }

    /// The tokens that are this echo's: from the first token on, one for each socket of its
    /// endpoints and for each connection that the limit allows. All others are yours.
    #[must_use]
    pub fn tokens(&self) -> Range<usize> {
        self.first_token..self.first_token + self.token_count
    }

    /// For how long a loop may sleep if no event wakes it: not at all while there is work on the
    /// run queue or it is [polling busily](crate::ConfigBuilder::busy_poll), until the next deadline
    /// if there is one, and else for ever (`None`).
    #[must_use]
    pub fn timeout(&self, now: Instant) -> Option<Duration> {
        let is_busy = self.busy_until.is_some_and(|until| now < until);
        if is_busy || !self.run_queue.is_empty() {
            return Some(Duration::ZERO);
        }
        let deadlines = [
            self.gate.retry_at(),
            self.datagrams_at,
            self.parting_at,
            self.phase_ends_at(),
            self.deadlines.next_at(),
        ];
        let next = deadlines.into_iter().flatten().min()?;
        Some(next.saturating_duration_since(now))
    }

    /// Takes in an event. No system call is made here: whoever has something to do because of it
    /// gets a place on the run queue.
    ///
    /// Events of tokens that nobody has (any more) are ignored.
    pub fn handle(&mut self, event: &Event) {
        let key = self.key_of(event.token());
        let Some(slot) = self.slots.get_mut(key) else {
            trace!("{:?}: event for nobody, ignored", event.token());
            return;
        };
        trace!("{:?}: event: {}", event.token(), Readiness::from(event));
        let has_work = match &mut slot.source {
            Source::Connection(connection) => connection.wake(Readiness::from(event)),
            Source::Endpoint(socket) => match &mut **socket {
                EndpointSocket::Listener(_) => self.gate.is_open(),
                EndpointSocket::Datagrams(_) => Readiness::from(event).readable,
            },
        };
        if has_work && !mem::replace(&mut slot.queued, true) {
            self.run_queue.push(key);
        }
    }

    /// Does what is due at `now`, and gives each of those on the run queue one turn. Those that
    /// have more to do queue up again behind the others, for the next call.
    // Apart from whoever calls it: inlined there it has fewer registers, and a twentieth more
    // instructions for each echo.
    #[inline(never)]
    pub fn run(&mut self, now: Instant) {
        self.stats.turns += 1;
        self.meet_deadlines(now);
        if !self.run_queue.is_empty() && !self.config.busy_poll.is_zero() {
            self.busy_until = Some(now + self.config.busy_poll);
        }
        let mut round = mem::replace(&mut self.run_queue, mem::take(&mut self.round));
        self.stats.run_queue = round.len();
        for key in round.drain(..) {
            self.turn(key, now);
        }
        self.round = round;
        self.close_overdue(now);
    }

    /// One turn of whoever was taken off the run queue.
    fn turn(&mut self, key: usize, now: Instant) {
        let Some(slot) = self.slots.get_mut(key) else {
            return;
        };
        slot.queued = false;
        match &mut slot.source {
            Source::Connection(connection) => {
                match connection.turn(&mut self.scratch, &mut self.stats) {
                    Next::Wait => {}
                    next => self.go_on(key, next, now),
                }
            }
            Source::Endpoint(socket) => match &**socket {
                EndpointSocket::Listener(_) => self.accept_some(key, now),
                EndpointSocket::Datagrams(_) => self.turn_of_datagrams(key, now),
            },
        }
    }

    /// What follows a turn of a connection, where it is not just the next event.
    #[cold]
    fn go_on(&mut self, key: usize, next: Next, now: Instant) {
        match next {
            Next::Wait => {}
            Next::WaitStalled => self.limit_stall(key),
            Next::Again => self.enqueue(key),
            Next::Close(reason) => self.close(key, &reason, now),
        }
    }

    /// Which is nobody's where the token is not of this echo.
    fn key_of(&self, token: Token) -> usize {
        token.0.wrapping_sub(self.first_token)
    }

    fn enqueue(&mut self, key: usize) {
        if !mem::replace(&mut self.slots[key].queued, true) {
            self.run_queue.push(key);
        }
    }

    fn token_of(&self, key: usize) -> Token {
        Token(self.first_token + key)
    }

    /// Keys of the endpoints' sockets, those that are closed among them.
    fn endpoint_keys(&self) -> Range<usize> {
        0..self.endpoints.len()
    }

    fn meet_deadlines(&mut self, now: Instant) {
        self.set_now(now);
        if self.gate.retry_at().is_some_and(|at| at <= now) {
            self.reopen(now);
        }
        if self.datagrams_at.is_some_and(|at| at <= now) {
            self.retry_datagrams();
        }
        if self.parting_at.is_some_and(|at| at <= now) {
            self.part_with_the_last(now);
        }
        self.leave_phase(now);
    }

    /// What serves at a bound socket.
    fn socket(&self, bound: Bound) -> io::Result<EndpointSocket> {
        Ok(match bound.udp_address() {
            Some(address) => EndpointSocket::Datagrams(DatagramSocket::new(bound, address)?),
            None => EndpointSocket::Listener(Listener::listen(bound, self.config.backlog)?),
        })
    }

    fn add(&mut self, mut socket: EndpointSocket) -> io::Result<()> {
        let key = self.slots.vacant_key();
        let token = self.token_of(key);
        let (registered, endpoint) = match &mut socket {
            EndpointSocket::Listener(listener) => {
                self.listeners.push(key);
                let source = listener.source_mut();
                let registered = self.registry.register(source, token, Interest::READABLE);
                (registered, listener.endpoint())
            }
            EndpointSocket::Datagrams(socket) => {
                (socket.watch(&self.registry, token), socket.endpoint())
            }
        };
        registered.map_err(|error| ListenError::new(endpoint, error))?;
        info!("listening on {endpoint}");
        trace!("{endpoint} is {token:?}");
        self.endpoints.push(endpoint.clone());
        self.slots
            .insert(Slot::new(Source::Endpoint(Box::new(socket))));
        Ok(())
    }

    /// Closes the socket of an endpoint.
    fn remove(&mut self, key: usize) {
        if let Source::Endpoint(mut socket) = self.slots.remove(key).source {
            // Closing takes it out of the selector too, where this fails.
            let _ = match &mut *socket {
                EndpointSocket::Listener(it) => self.registry.deregister(it.source_mut()),
                EndpointSocket::Datagrams(socket) => socket.leave(&self.registry),
            };
        }
    }

    fn close(&mut self, key: usize, reason: &Reason, now: Instant) {
        if let Source::Connection(mut connection) = self.slots.remove(key).source {
            debug!(
                "{}: closed: {reason}; {}",
                connection.peer(),
                connection.summary(now)
            );
            connection.give_back(&mut self.scratch.pipes);
            if !CLOSING_DEREGISTERS {
                let _ = self.registry.deregister(connection.stream_mut());
            }
            self.admission.leave(connection.peer());
            self.stats.count_closed(reason);
            self.deadlines.forget(key);
        }
        if !self.gate.is_open() {
            self.reopen(now);
        }
    }
}

/// Takes the sockets of endpoints out of the selector: those that [others have
/// too](crate::BoundSocket) would stay in it, and wake the loop for nobody.
impl Drop for Echo {
    fn drop(&mut self) {
        for key in self.endpoint_keys() {
            if self.slots.contains(key) {
                self.remove(key);
            }
        }
    }
}

impl fmt::Debug for Echo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Echo")
            .field("endpoints", &self.endpoints)
            .field("phase", &self.phase)
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}

/// With the sockets of Linux.
#[cfg(all(test, target_os = "linux"))]
mod tests;
