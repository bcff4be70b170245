//! The engine: it runs in the loop of its caller, and never blocks, sleeps or reads the clock.
//!
//! Events give sockets a place on the run queue. Each call of `run` gives each socket on it one turn.
//! A socket with more to do goes to the back of the queue, because an edge-triggered selector does not
//! announce the rest again.

use std::fmt;
use std::io;
use std::mem;
use std::ops::Range;
use std::time::{Duration, Instant};

use log::{debug, info, trace};
use mio::event::Event;
use mio::{Interest, Registry, Token};
use slab::Slab;

mod accept;
mod connection;
mod shared;
mod shutdown;
mod slots;
mod splice;
mod timeouts;
mod timers;
mod udp;

use accept::{Acceptor, MAX_ACCEPTS_PER_TURN};
use connection::{Connection, Next};
use shared::Shared;
use shutdown::Phase;
use slots::{RunQueue, Slot, Source};
use timers::{Timeout, Timers};
use udp::{DatagramSocket, Udp};

use crate::config::Config;
use crate::net::bind::{BindOptions, Bound, BoundSocket, ListenError};
use crate::net::endpoint::Endpoint;
use crate::net::listener::Listener;
use crate::net::pipe::SystemPipe;
use crate::net::{CLOSE_DEREGISTERS, Readiness};
use crate::policy::admission::Admission;
use crate::policy::cidr::AllowList;
use crate::policy::log_throttle::LogThrottle;
use crate::policy::reply_filter::ReplyFilter;
use crate::stats::{CloseReason, Stats};

/// An echo service without a loop: a guest in yours.
///
/// It never blocks, sleeps, starts a thread or reads the clock. It registers its sockets with
/// your [`Registry`], under the first token you give it and [as many above](Echo::tokens) as it
/// needs. You pass it its events and the current time:
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
    /// All sockets. A token is the key plus the first token.
    slots: Slab<Slot>,
    run_queue: RunQueue,
    shared: Shared<SystemPipe>,
    timers: Timers,
    acceptor: Acceptor,
    udp: Udp,
    phase: Phase,
    /// Until when the loop polls without sleeping.
    busy_until: Option<Instant>,
    evictions: LogThrottle,
    stats: Stats,
}

/// How many slots are reserved at the start. The system provides memory for those that are used; a slab
/// that grows step by step is copied, and leaves holes in the heap.
const RESERVED_SLOTS: usize = 65_536;

impl Echo {
    /// Binds every endpoint of `config`, listens, and registers with `registry` under `first_token`
    /// and the tokens above it.
    ///
    /// # Errors
    ///
    /// If an endpoint cannot be used, the error names it and says what to do. Its kind is that of the
    /// system's error, such as [`AddrInUse`](io::ErrorKind::AddrInUse),
    /// [`AddrNotAvailable`](io::ErrorKind::AddrNotAvailable) or
    /// [`PermissionDenied`](io::ErrorKind::PermissionDenied); see bind(2) and listen(2). No endpoint
    /// listens before all are bound, and none does after an error.
    ///
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if there are too few tokens from `first_token` on
    /// for all connections that the limit allows.
    pub fn new(config: Config, registry: &Registry, first_token: Token) -> io::Result<Self> {
        Self::with_sockets(config, Vec::new(), registry, first_token)
    }

    /// As [`new`](Echo::new), and serves at sockets that are bound already; at these alone if `config`
    /// has no endpoint. In [`endpoints`](Echo::endpoints) they follow those of the configuration.
    ///
    /// Other processes may have copies of these sockets, and lose nothing to this one; see
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
        let tokens = token_range(&config, sockets.len(), first_token.0)?;
        let slots = tokens.len().min(RESERVED_SLOTS);
        check_memory(slots)?;
        let options = BindOptions {
            reuse_port: config.reuse_port,
            unix_mode: config.unix_mode,
        };
        let mut bound = Bound::bind_all(config.sockets(), options)?;
        bound.extend(sockets.into_iter().map(Bound::from));
        let udp_addresses = bound.iter().filter_map(Bound::udp_address);
        let udp_ports = udp_addresses.map(|address| address.port()).collect();
        let allowed = AllowList::new(&config.allow);
        let filter = ReplyFilter::new(allowed.clone(), udp_ports, config.udp_answer_any_port);
        let mut echo = Echo {
            registry: registry.try_clone()?,
            first_token: tokens.start,
            token_count: tokens.len(),
            endpoints: Vec::new(),
            slots: Slab::with_capacity(slots),
            run_queue: RunQueue::default(),
            shared: Shared::new(config.buffer_size, config.zero_copy),
            timers: Timers::new(config.idle_timeout, config.write_timeout),
            acceptor: Acceptor::new(Admission::new(allowed, config.max_per_source)),
            udp: Udp::new(filter),
            phase: Phase::Serving,
            busy_until: None,
            evictions: LogThrottle::default(),
            stats: Stats::default(),
            config,
        };
        let sources = bound.into_iter().map(|it| echo.source(it));
        for source in sources.collect::<io::Result<Vec<_>>>()? {
            echo.add(source)?;
        }
        Ok(echo)
    }

    /// The bound endpoints: one for each socket, in the order of the configuration, with the real
    /// port instead of 0; then those of inherited sockets. Does not change at a shutdown.
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Whether events with this token are for [`handle`](Echo::handle): it is one of
    /// [`tokens`](Echo::tokens).
    #[must_use]
    pub fn owns(&self, token: Token) -> bool {
        self.key_of(token) < self.token_count
    }

    /// The tokens of this echo: from the first token on, one for each socket of its endpoints and for
    /// each connection that the limit allows. All others are yours.
    #[must_use]
    pub fn tokens(&self) -> Range<usize> {
        self.first_token..self.first_token + self.token_count
    }

    /// How long the loop may sleep if no event wakes it: zero while sockets are on the run queue or the
    /// loop is [busy polling](crate::ConfigBuilder::busy_poll), else until the next deadline; `None` if
    /// there is none.
    #[must_use]
    pub fn timeout(&self, now: Instant) -> Option<Duration> {
        let is_busy = self.busy_until.is_some_and(|until| now < until);
        if is_busy || !self.run_queue.keys.is_empty() {
            return Some(Duration::ZERO);
        }
        let next = self.deadlines().into_iter().flatten().min()?;
        Some(next.saturating_duration_since(now))
    }

    /// What is done when the [deadlines](Echo::deadlines) have passed.
    const ON_DEADLINE: [fn(&mut Echo, Instant); 5] = [
        Echo::resume_accepting,
        Echo::retry_udp,
        Echo::close_remaining_listeners,
        Echo::advance_phase,
        Echo::queue_expired,
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
            // Entries of closed connections do not wake the loop.
            timers.filter(|_| self.stats.active > 0),
        ]
    }

    /// Notes an event, and makes no system call: a socket with something to do goes to the run queue.
    ///
    /// Events without a socket are ignored: it was closed after the selector reported them.
    pub fn handle(&mut self, event: &Event) {
        let key = self.key_of(event.token());
        let Some(slot) = self.slots.get_mut(key) else {
            trace!("{:?}: event without a socket, ignored", event.token());
            return;
        };
        trace!("{:?}: event: {}", event.token(), Readiness::from(event));
        let has_work = match &mut slot.source {
            Source::Connection(connection) => connection.wake(Readiness::from(event)),
            Source::Listener(_) | Source::Udp(_) => true,
        };
        if has_work && !mem::replace(&mut slot.queued, true) {
            self.run_queue.keys.push(key);
        }
    }

    /// Does what is due at `now`, and gives each socket on the run queue one turn. Those with more to do
    /// queue again, for the next call.
    // Inlined into its caller it has fewer registers, and takes 5 % more instructions per echo.
    #[inline(never)]
    pub fn run(&mut self, now: Instant) {
        self.stats.iterations += 1;
        self.set_now(now);
        for (at, act) in self.deadlines().into_iter().zip(Self::ON_DEADLINE) {
            if at.is_some_and(|at| at <= now) {
                act(self, now);
            }
        }
        if !self.run_queue.keys.is_empty() && !self.config.busy_poll.is_zero() {
            self.busy_until = Some(now + self.config.busy_poll);
        }
        let mut batch = self.run_queue.take_batch();
        self.stats.run_queue = batch.len();
        for key in batch.drain(..) {
            self.turn(key, now);
        }
        self.run_queue.batch = batch;
        if !self.timers.due().is_empty() {
            self.close_expired(now);
        }
    }

    /// One turn of a socket that was taken off the run queue.
    fn turn(&mut self, key: usize, now: Instant) {
        let Some(slot) = self.slots.get_mut(key) else {
            return;
        };
        slot.queued = false;
        match &mut slot.source {
            Source::Connection(connection) => {
                match connection.turn(&mut self.shared, &mut self.stats) {
                    Next::WaitReadable => {}
                    next => self.apply(key, next, now),
                }
            }
            Source::Listener(_) | Source::Udp(_) => self.endpoint_turn(key, now),
        }
    }

    // Kept out of `turn`: more code there costs instructions for each echo over TCP.
    #[inline(never)]
    fn endpoint_turn(&mut self, key: usize, now: Instant) {
        match &self.slots[key].source {
            Source::Listener(_) => self.accept(key, now, MAX_ACCEPTS_PER_TURN),
            Source::Udp(_) => self.udp_turn(key, now),
            Source::Connection(_) => {}
        }
    }

    /// What follows a turn of a connection, except the usual wait for the next event.
    #[cold]
    fn apply(&mut self, key: usize, next: Next, now: Instant) {
        match next {
            Next::WaitReadable | Next::WaitWritable => {}
            Next::Again => self.enqueue(key),
            Next::Close(reason) => return self.close(key, &reason, now),
        }
        self.schedule(key, Timeout::Write);
        self.enforce_budget(now);
    }

    /// A key out of range if the token belongs to another source.
    fn key_of(&self, token: Token) -> usize {
        token.0.wrapping_sub(self.first_token)
    }

    fn token_of(&self, key: usize) -> Token {
        Token(self.first_token + key)
    }

    fn enqueue(&mut self, key: usize) {
        if !mem::replace(&mut self.slots[key].queued, true) {
            self.run_queue.keys.push(key);
        }
    }

    /// Keys of listeners and UDP sockets, also of those that are closed.
    fn endpoint_keys(&self) -> Range<usize> {
        0..self.endpoints.len()
    }

    fn source(&self, bound: Bound) -> io::Result<Source> {
        if let Some(address) = bound.udp_address() {
            let socket = DatagramSocket::new(bound, address)?;
            return Ok(Source::Udp(Box::new(socket)));
        }
        let config = &self.config;
        let listener = Listener::listen(bound, config.backlog, config.socket_buffer)?;
        Ok(Source::Listener(Box::new(listener)))
    }

    /// Registers a listener or UDP socket.
    fn add(&mut self, mut source: Source) -> io::Result<()> {
        let key = self.slots.vacant_key();
        let token = self.token_of(key);
        let (registered, endpoint) = match &mut source {
            Source::Listener(listener) => {
                self.acceptor.listeners.push(key);
                let source = listener.source_mut();
                let registered = self.registry.register(source, token, Interest::READABLE);
                (registered, listener.endpoint())
            }
            Source::Udp(socket) => (
                socket.update_registration(&self.registry, token),
                socket.endpoint(),
            ),
            Source::Connection(_) => return Ok(()),
        };
        registered.map_err(|error| ListenError::new(endpoint, error))?;
        info!("listening on {endpoint}");
        trace!("{endpoint} is {token:?}");
        self.endpoints.push(endpoint.clone());
        self.slots.insert(Slot::new(source));
        Ok(())
    }

    /// Closes a listener or UDP socket.
    fn remove(&mut self, key: usize) {
        // Closing deregisters as well if this fails.
        let _ = match &mut self.slots.remove(key).source {
            Source::Listener(listener) => self.registry.deregister(listener.source_mut()),
            Source::Udp(socket) => socket.deregister(&self.registry),
            Source::Connection(_) => Ok(()),
        };
    }

    /// Closes a connection. No other place does.
    fn close(&mut self, key: usize, reason: &CloseReason, now: Instant) {
        if let Source::Connection(mut connection) = self.slots.remove(key).source {
            debug!(
                "{}: closed: {reason}; {}",
                connection.peer(),
                connection.summary(now)
            );
            self.limit_unacknowledged(&connection);
            connection.release(&mut self.shared, &mut self.stats);
            if !CLOSE_DEREGISTERS {
                let _ = self.registry.deregister(connection.stream_mut());
            }
            self.release_admission(connection.peer());
            self.stats.active -= 1;
            self.stats.closed.count(reason);
        }
        self.resume_accepting(now);
    }
}

/// Fails if there is no memory for so many slots. A slab that grows would abort the process instead.
fn check_memory(slots: usize) -> io::Result<()> {
    Ok(Vec::<Slot>::new().try_reserve_exact(slots)?)
}

/// The tokens of all sockets that there can be.
fn token_range(config: &Config, inherited: usize, first: usize) -> io::Result<Range<usize>> {
    let count = config.sockets().flatten().count() + inherited + config.max_connections;
    let end = first.checked_add(count).ok_or_else(|| {
        let message = format!("no {count} tokens from {first} on: choose a lower first token");
        io::Error::new(io::ErrorKind::InvalidInput, message)
    })?;
    Ok(first..end)
}

/// Deregisters listeners and UDP sockets: copies of [inherited ones](crate::BoundSocket) would keep them
/// in the selector, and wake the loop without a socket.
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
