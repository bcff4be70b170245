//! The engine: listeners, the slab of connections, and the run queue.

use std::fmt;
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use log::{debug, info, trace, warn};
use mio::event::Event;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use slab::Slab;

use crate::config::Config;
use crate::connection::{Connection, Next};
use crate::endpoint::Endpoint;
use crate::listener::{Accepted, Bound, Gate, Listener};
use crate::readiness::{self, Readiness};
use crate::stats::{Reason, Stats};

/// How many connections a listener accepts in a turn, before others have theirs.
const ACCEPTS_A_TURN: usize = 32;

/// For how long at most a connection that is cut at the end of a shutdown is still read from, so
/// that what was written to it arrives.
const LINGER: Duration = Duration::from_secs(1);

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
    /// Where the listeners are, with their real ports.
    endpoints: Vec<Endpoint>,
    /// Listeners and connections; the key is the token less the first one.
    slots: Slab<Slot>,
    /// Keys of those that have something to do, each at most once, first come first.
    run_queue: Vec<usize>,
    /// The part of the run queue that has its turns now. Empty, but for its memory, between runs.
    round: Vec<usize>,
    /// What every connection reads into. It holds nothing between two turns.
    scratch: Box<[u8]>,
    gate: Gate,
    /// Key of the listener that went first when the gate was last opened.
    first_listener: usize,
    phase: Phase,
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
    Listener(Listener),
    Connection(Connection<TcpStream>),
}

/// Where in its life the service is.
#[derive(Debug, Clone, Copy)]
enum Phase {
    Serving,
    /// No listeners; connections are echoed.
    Draining {
        until: Instant,
    },
    /// Connections are read to their end, and what is read discarded.
    Lingering {
        until: Instant,
    },
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
        let (first, count) = (
            first_token.0,
            config.endpoints.len() + config.max_connections,
        );
        if first.checked_add(count).is_none() {
            let message = format!("no {count} tokens from {first} on: choose a lower first token");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let bound = config.endpoints.iter().copied().map(Bound::bind);
        let bound = bound.collect::<Result<Vec<_>, _>>()?;
        let mut echo = Echo {
            registry: registry.try_clone()?,
            first_token: first,
            token_count: count,
            endpoints: Vec::new(),
            slots: Slab::new(),
            run_queue: Vec::new(),
            round: Vec::new(),
            scratch: vec![0; config.buffer_size].into(),
            gate: Gate::default(),
            first_listener: 0,
            phase: Phase::Serving,
            stats: Stats::default(),
            config,
        };
        let listen = |bound: Bound| bound.listen(echo.config.backlog);
        for listener in bound
            .into_iter()
            .map(listen)
            .collect::<Result<Vec<_>, _>>()?
        {
            echo.add_listener(listener)?;
        }
        Ok(echo)
    }

    /// Where it listens, in the order of the configuration, with the real port where 0 was asked
    /// for. Stays the same after a shutdown.
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

    /// The tokens that are this echo's: from the first token on, one for each endpoint and for
    /// each connection that the limit allows. All others are yours.
    #[must_use]
    pub fn tokens(&self) -> Range<usize> {
        self.first_token..self.first_token + self.token_count
    }

    /// For how long a loop may sleep if no event wakes it: not at all while there is work on the
    /// run queue, until the next deadline if there is one, and else for ever (`None`).
    #[must_use]
    pub fn timeout(&self, now: Instant) -> Option<Duration> {
        if !self.run_queue.is_empty() {
            return Some(Duration::ZERO);
        }
        let shutdown = match self.phase {
            Phase::Draining { until } | Phase::Lingering { until } if self.stats.active > 0 => {
                Some(until)
            }
            _ => None,
        };
        let deadline = [self.gate.retry_at(), shutdown]
            .into_iter()
            .flatten()
            .min()?;
        Some(deadline.saturating_duration_since(now))
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
            Source::Listener(_) => self.gate.is_open(),
            Source::Connection(connection) => connection.wake(Readiness::from(event)),
        };
        if has_work && !mem::replace(&mut slot.queued, true) {
            self.run_queue.push(key);
        }
    }

    /// Does what is due at `now`, and gives each of those on the run queue one turn. Those that
    /// have more to do queue up again behind the others, for the next call.
    pub fn run(&mut self, now: Instant) {
        self.stats.turns += 1;
        self.meet_deadlines(now);
        let mut round = mem::replace(&mut self.run_queue, mem::take(&mut self.round));
        for key in round.drain(..) {
            self.turn(key, now);
        }
        self.round = round;
    }

    /// Stops listening. Connections that the system has already established are accepted first, as
    /// far as the limit allows; the others are reset.
    ///
    /// Those who are connected are echoed until they finish or the drain time is over. Then no
    /// more is echoed: each is sent what was kept for it and the end of the stream, and has a
    /// second to take that and to close, or the drain time where that is shorter. Who has not by
    /// then is cut off.
    ///
    /// Calls after the first change nothing.
    pub fn shutdown(&mut self, now: Instant) {
        if !matches!(self.phase, Phase::Serving) {
            return;
        }
        let until = now + self.config.drain_timeout;
        self.phase = Phase::Draining { until };
        for key in 0..self.endpoints.len() {
            // Systems keep some more than they are told to: Linux one, the BSDs half as many.
            self.accept(key, now, self.config.backlog as usize * 2);
        }
        for key in 0..self.endpoints.len() {
            self.remove_listener(key);
        }
        info!("shutting down: {} connections to finish", self.stats.active);
    }

    /// Whether a shutdown is over: nothing is listened on, and nobody is connected.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        !matches!(self.phase, Phase::Serving) && self.stats.active == 0
    }

    /// One turn of a listener or connection that was taken off the run queue.
    fn turn(&mut self, key: usize, now: Instant) {
        let Some(slot) = self.slots.get_mut(key) else {
            return;
        };
        slot.queued = false;
        match &mut slot.source {
            Source::Listener(_) => self.accept(key, now, ACCEPTS_A_TURN),
            Source::Connection(connection) => {
                match connection.turn(&mut self.scratch, &mut self.stats) {
                    Next::Wait => {}
                    Next::Again => self.enqueue(key),
                    Next::Close(reason) => self.close(key, &reason, now),
                }
            }
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

    fn meet_deadlines(&mut self, now: Instant) {
        if self.gate.retry_at().is_some_and(|at| at <= now) {
            self.reopen(now);
        }
        if matches!(self.phase, Phase::Draining { until } if until <= now) {
            self.linger(now);
        }
        if matches!(self.phase, Phase::Lingering { until } if until <= now) {
            self.cut(now);
        }
    }

    fn add_listener(&mut self, mut listener: Listener) -> io::Result<()> {
        self.endpoints.push(listener.endpoint());
        let vacant = self.slots.vacant_entry();
        let token = Token(self.first_token + vacant.key());
        self.registry
            .register(listener.socket_mut(), token, Interest::READABLE)?;
        info!("listening on {}", listener.endpoint());
        trace!("{} is {token:?}", listener.endpoint());
        vacant.insert(Slot {
            source: Source::Listener(listener),
            queued: false,
        });
        Ok(())
    }

    fn remove_listener(&mut self, key: usize) {
        if let Source::Listener(listener) = &mut self.slots[key].source {
            // Closing takes it out of the selector too, where this fails.
            let _ = self.registry.deregister(listener.socket_mut());
            self.slots.remove(key);
        }
    }

    /// Accepts until nobody waits, the budget is spent, or there is no room.
    fn accept(&mut self, key: usize, now: Instant, budget: usize) {
        let accepted_before = self.stats.accepted;
        let mut lost = None;
        for _ in 0..budget {
            if !self.gate.is_open() {
                return;
            }
            if self.stats.active >= self.config.max_connections {
                return self.pause_when_full(now);
            }
            let Source::Listener(listener) = &self.slots[key].source else {
                return;
            };
            match listener.accept() {
                Accepted::Connection(stream, peer) => {
                    if let Err(error) = self.open(stream, peer, now) {
                        self.count_lost(&error);
                        return self.pause_for_want(&error, now);
                    }
                }
                Accepted::Nobody => return,
                Accepted::Lost(error) => {
                    self.count_lost(&error);
                    lost = Some(error);
                }
                Accepted::Shortage(error) => return self.pause_for_want(&error, now),
            }
        }
        match lost {
            // Nothing but errors: they may go on for ever, which is not to be spun on.
            Some(error) if self.stats.accepted == accepted_before => {
                self.pause_for_want(&error, now);
            }
            _ => self.enqueue(key),
        }
    }

    /// Takes a connection in. Fails where the selector has no room for it.
    fn open(&mut self, mut stream: TcpStream, peer: SocketAddr, now: Instant) -> io::Result<()> {
        let vacant = self.slots.vacant_entry();
        let token = Token(self.first_token + vacant.key());
        self.registry
            .register(&mut stream, token, readiness::interest())?;
        let source = Source::Connection(Connection::new(stream, peer, now));
        vacant.insert(Slot {
            source,
            queued: false,
        });
        self.stats.count_opened();
        debug!("{peer}: opened as {token:?}");
        Ok(())
    }

    fn count_lost(&mut self, error: &io::Error) {
        self.stats.accept_errors += 1;
        debug!("a connection was lost before it was accepted: {error}");
    }

    fn close(&mut self, key: usize, reason: &Reason, now: Instant) {
        if let Source::Connection(mut connection) = self.slots.remove(key).source {
            debug!(
                "{}: closed: {reason}; {}",
                connection.peer(),
                connection.summary(now)
            );
            // Closing takes it out of the selector too, where this fails.
            let _ = self.registry.deregister(connection.stream_mut());
            self.stats.count_closed(reason);
        }
        if !self.gate.is_open() {
            self.reopen(now);
        }
    }

    fn pause_when_full(&mut self, now: Instant) {
        self.stats.accept_pauses += 1;
        if self.gate.close_when_full(now) && matches!(self.phase, Phase::Serving) {
            warn!(
                "at the limit of {} connections: others wait until one of them ends",
                self.config.max_connections
            );
        }
    }

    fn pause_for_want(&mut self, error: &io::Error, now: Instant) {
        self.stats.accept_pauses += 1;
        if self.gate.close_for_a_while(now) {
            warn!(
                "cannot accept ({error}): connections wait until one of the {} ends, or more can \
                 be had; raise the limit on open files if this happens often",
                self.stats.active
            );
        }
    }

    /// Accepts again. Each listener has a turn, because what came meanwhile is not announced; and
    /// another one goes first each time, because there may be room for one connection only.
    fn reopen(&mut self, now: Instant) {
        self.gate.reopen(now);
        if matches!(self.phase, Phase::Serving) {
            let count = self.endpoints.len();
            self.first_listener = (self.first_listener + 1) % count;
            for key in (self.first_listener..count).chain(0..self.first_listener) {
                self.enqueue(key);
            }
        }
    }

    /// The drain time is over: ends each connection from this side.
    fn linger(&mut self, now: Instant) {
        let until = now + self.config.drain_timeout.min(LINGER);
        self.phase = Phase::Lingering { until };
        for key in self.keys() {
            if let Source::Connection(connection) = &mut self.slots[key].source {
                connection.end();
                self.enqueue(key);
            }
        }
    }

    fn cut(&mut self, now: Instant) {
        self.run_queue.clear();
        for key in self.keys() {
            self.close(key, &Reason::Cut, now);
        }
    }

    fn keys(&self) -> Vec<usize> {
        self.slots.iter().map(|(key, _)| key).collect()
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
