//! The event loop: wait for events, pass each to its owner, give each socket with work a turn.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use log::{Level, log_enabled, trace};
use mio::event::Event;
use mio::{Events, Poll, Registry, Token, Waker};

use crate::config::Config;
use crate::echo::Echo;
use crate::echo::engine::Engine;
use crate::net::bind::BoundSocket;
use crate::net::endpoint::Endpoint;
use crate::net::{Readiness, Selector, System};
use crate::stats::Stats;

/// The token of the waker, which a shutdown uses.
pub(crate) const WAKER: Token = Token(0);

/// The most events that one poll returns. More wait in the selector for the next one.
const EVENTS_CAPACITY: usize = 256;

/// An echo service with its own event loop.
///
/// ```no_run
/// use mio_echo::{Config, Server};
///
/// let mut server = Server::bind(Config::default())?;
/// server.run()?; // until a shutdown
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// A [`ShutdownHandle`] ends it from another thread:
///
/// ```
/// use mio_echo::{Config, Server};
///
/// let config = Config::builder().endpoint("127.0.0.1:0".parse()?).build()?;
/// let mut server = Server::bind(config)?;
/// let handle = server.shutdown_handle();
/// let thread = std::thread::spawn(move || server.run());
/// handle.shutdown()?;
/// thread.join().unwrap()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # In another loop
///
/// - Event sources of your own can be [registered](Server::registry) with the server: each
///   [`turn`](Server::turn) returns their events.
/// - The server can be nested in another loop by its file descriptor (on Unix); see
///   [`turn`](Server::turn).
/// - With a [`mio::Poll`] of your own, use [`Echo`], which needs no second selector.
pub struct Server {
    event_loop: EventLoop<PollSelector>,
    echo: Echo,
    shutdown: ShutdownHandle,
}

impl Server {
    /// The tokens for event sources of your own.
    pub const USER_TOKENS: Range<usize> = WAKER.0 + 1..1024;

    /// Binds every endpoint of `config` and listens. Connections wait in the backlog until the first turn.
    ///
    /// # Errors
    ///
    /// Those of [`Echo::new`], and those of the selector and its waker; see `epoll_create1(2)` and
    /// eventfd(2).
    pub fn bind(config: Config) -> io::Result<Self> {
        Self::with_sockets(config, Vec::new())
    }

    /// As [`bind`](Server::bind), and serves at sockets that are bound already; see
    /// [`Echo::with_sockets`].
    ///
    /// # Errors
    ///
    /// Those of [`bind`](Server::bind).
    pub fn with_sockets(config: Config, sockets: Vec<BoundSocket>) -> io::Result<Self> {
        let poll = Poll::new()?;
        let shutdown = ShutdownHandle {
            requested: Arc::default(),
            waker: Arc::new(Waker::new(poll.registry(), WAKER)?),
        };
        let first_token = Token(Self::USER_TOKENS.end);
        let echo = Echo::with_sockets(config, sockets, poll.registry(), first_token)?;
        let events = Events::with_capacity(EVENTS_CAPACITY);
        Ok(Server {
            event_loop: EventLoop::new(PollSelector { poll, events }),
            echo,
            shutdown,
        })
    }

    /// Runs the loop until a shutdown is complete.
    ///
    /// # Errors
    ///
    /// Those of [`turn`](Server::turn).
    pub fn run(&mut self) -> io::Result<()> {
        while !self.is_finished() {
            self.turn(None)?;
        }
        Ok(())
    }

    /// One turn of the loop: sleeps until there is an event or a deadline, but `timeout` at most, and
    /// does what there is to do. Returns the events of your own event sources, if you have
    /// [registered](Server::registry) any.
    ///
    /// To nest the server in another loop, wait there until its file descriptor is readable or its
    /// [`timeout`](Server::timeout) has passed; then call this with a timeout of zero. The descriptor may
    /// be watched edge-triggered: while events remain behind it, the timeout is zero.
    ///
    /// # Errors
    ///
    /// Those of `epoll_wait(2)`, which no peer can cause. After an interruption by a signal the turn
    /// ends early, without an error.
    pub fn turn(&mut self, timeout: Option<Duration>) -> io::Result<&[Event]> {
        let requested = || self.shutdown.requested.load(Ordering::Acquire);
        self.event_loop.turn(&mut self.echo.0, timeout, requested)
    }

    /// How long another loop may wait before the next turn, if the file descriptor does not become
    /// readable; `None` is without limit.
    #[must_use]
    pub fn timeout(&self) -> Option<Duration> {
        self.event_loop.timeout(&self.echo.0)
    }

    /// The point in time for which another loop may wait: [`timeout`](Server::timeout) for a host with
    /// timers of its own; see [`Echo::deadline`].
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.event_loop.deadline(&self.echo.0)
    }

    /// Wakes the server from any thread: [`turn`](Server::turn) returns, [`run`](Server::run) makes
    /// another turn, and the file descriptor is readable until then. mio allows one waker for each
    /// selector, so this one is there for both.
    #[must_use]
    pub fn waker(&self) -> Arc<Waker> {
        Arc::clone(&self.shutdown.waker)
    }

    /// The service without its loop, for what it can do besides: see [`Echo::connection_events`].
    #[must_use]
    pub fn echo(&self) -> &Echo {
        &self.echo
    }

    /// As [`echo`](Server::echo), to change limits, adopt connections or close some. A host that waits
    /// for the file descriptor has to ask for the [`deadline`](Server::deadline) again after that.
    #[must_use]
    pub fn echo_mut(&mut self) -> &mut Echo {
        &mut self.echo
    }

    /// The registry for event sources of your own, with [`USER_TOKENS`](Server::USER_TOKENS).
    #[must_use]
    pub fn registry(&self) -> &Registry {
        self.event_loop.selector.poll.registry()
    }

    /// See [`Echo::endpoints`].
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        self.echo.endpoints()
    }

    /// See [`Echo::stats`].
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.echo.stats()
    }

    /// See [`Echo::shutdown`]. Makes the file descriptor readable, so that a host which waits for that
    /// gives the server its next [`turn`](Server::turn). From another thread, use a
    /// [`shutdown_handle`](Server::shutdown_handle).
    pub fn shutdown(&mut self) {
        self.echo.shutdown(Instant::now());
        // A host that only waits for the descriptor has to call `turn` once more. No other call can
        // wake the selector if this one fails, and the shutdown has begun all the same.
        let _ = self.shutdown.waker.wake();
    }

    /// See [`Echo::is_finished`].
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.echo.is_finished()
    }

    /// A handle that shuts the server down from another thread.
    #[must_use]
    pub fn shutdown_handle(&self) -> ShutdownHandle {
        self.shutdown.clone()
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("endpoints", &self.endpoints())
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// The loop itself, over any selector and system.
pub(crate) struct EventLoop<P: Selector> {
    pub(crate) selector: P,
    user_events: Vec<P::Event>,
    /// Whether the last call filled the event buffer, so that there may be more.
    more_events: bool,
}

impl<P: Selector> EventLoop<P>
where
    for<'a> &'a P::Event: Into<Readiness>,
{
    pub(crate) fn new(selector: P) -> Self {
        EventLoop {
            selector,
            user_events: Vec::new(),
            more_events: false,
        }
    }

    /// See [`Server::turn`].
    pub(crate) fn turn<S: System>(
        &mut self,
        engine: &mut Engine<S>,
        timeout: Option<Duration>,
        shutdown_requested: impl Fn() -> bool,
    ) -> io::Result<&[P::Event]> {
        let timeout = [timeout, self.timeout(engine)].into_iter().flatten().min();
        let selected = if log_enabled!(Level::Trace) {
            self.traced_select(engine, timeout)
        } else {
            self.selector.select(timeout)
        };
        match selected {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            selected => selected?,
        }
        let now = self.selector.now();
        self.dispatch(engine, now, shutdown_requested);
        engine.run(now);
        Ok(&self.user_events)
    }

    /// Passes each event to its owner.
    // Inlined into its caller it has fewer registers, and takes 3 % more instructions per echo.
    #[inline(never)]
    fn dispatch<S: System>(
        &mut self,
        engine: &mut Engine<S>,
        now: Instant,
        shutdown_requested: impl Fn() -> bool,
    ) {
        self.user_events.clear();
        let mut count = 0;
        for (token, event) in self.selector.events() {
            count += 1;
            if engine.handle(token, event) {
                continue;
            }
            if token != WAKER {
                self.user_events.push(event.clone());
            } else if shutdown_requested() {
                engine.shutdown(now);
            }
        }
        self.more_events = count == self.selector.capacity();
    }

    #[cold]
    fn traced_select<S: System>(
        &mut self,
        engine: &Engine<S>,
        timeout: Option<Duration>,
    ) -> io::Result<()> {
        let (run_queue, stats) = (engine.run_queue.len(), engine.stats());
        trace!(run_queue, active = stats.active, buffered = stats.buffered;
            "{}", self.why_it_waits(run_queue, timeout));
        let selected = self.selector.select(timeout);
        let (count, capacity) = (self.selector.events().count(), self.selector.capacity());
        match &selected {
            Ok(()) => trace!(call = "poll", events = count; "poll {count} of {capacity} events"),
            Err(error) => trace!(call = "poll", events = 0; "poll: {error}"),
        }
        selected
    }

    fn why_it_waits(&self, run_queue: usize, timeout: Option<Duration>) -> String {
        match timeout {
            None => "waiting for events".to_owned(),
            Some(Duration::ZERO) => format!("not sleeping: {}", self.why_it_polls(run_queue)),
            Some(timeout) => format!("waiting for events, {timeout:?} at most"),
        }
    }

    fn why_it_polls(&self, run_queue: usize) -> String {
        match run_queue {
            0 if self.more_events => "the last poll returned as many events as fit".to_owned(),
            0 => "busy polling, or a deadline is due".to_owned(),
            1 => "1 socket has more to do".to_owned(),
            count => format!("{count} sockets have more to do"),
        }
    }

    /// See [`Server::timeout`].
    pub(crate) fn timeout<S: System>(&self, engine: &Engine<S>) -> Option<Duration> {
        if self.more_events {
            Some(Duration::ZERO)
        } else {
            engine.timeout(self.selector.now())
        }
    }

    /// See [`Server::deadline`].
    pub(crate) fn deadline<S: System>(&self, engine: &Engine<S>) -> Option<Instant> {
        if self.more_events {
            Some(engine.now())
        } else {
            engine.deadline()
        }
    }
}

/// The system's selector.
struct PollSelector {
    poll: Poll,
    events: Events,
}

impl Selector for PollSelector {
    type Event = Event;

    fn select(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.poll.poll(&mut self.events, timeout)
    }

    fn events(&self) -> impl Iterator<Item = (Token, &Event)> {
        self.events.iter().map(|it| (it.token(), it))
    }

    fn capacity(&self) -> usize {
        self.events.capacity()
    }

    fn now(&self) -> Instant {
        Instant::now()
    }
}

/// The descriptor of the selector: readable while there are events. See [`Server::turn`].
#[cfg(unix)]
impl std::os::fd::AsFd for Server {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.event_loop.selector.poll.registry().as_fd()
    }
}

/// The descriptor of the selector: readable while there are events. See [`Server::turn`].
#[cfg(unix)]
impl std::os::fd::AsRawFd for Server {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        std::os::fd::AsRawFd::as_raw_fd(&self.event_loop.selector.poll)
    }
}

/// Shuts a [`Server`] down, from any thread. Clones belong to the same server.
#[derive(Debug, Clone)]
pub struct ShutdownHandle {
    requested: Arc<AtomicBool>,
    waker: Arc<Waker>,
}

impl ShutdownHandle {
    /// Wakes the server, which calls [`Echo::shutdown`] in its next turn. Later calls, and calls after
    /// the server's end, change nothing.
    ///
    /// # Errors
    ///
    /// Those of waking the loop; see eventfd(2).
    pub fn shutdown(&self) -> io::Result<()> {
        self.requested.store(true, Ordering::Release);
        self.waker.wake()
    }
}
