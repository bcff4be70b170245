//! The loop: wait for events, hand each to its owner, give whoever has work a turn.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use log::trace;
use mio::event::Event;
use mio::{Events, Poll, Registry, Token, Waker};

use crate::bound_socket::BoundSocket;
use crate::config::Config;
use crate::echo::Echo;
use crate::endpoint::Endpoint;
use crate::stats::Stats;

/// The token of the waker: a shutdown was asked for elsewhere.
const WAKER: Token = Token(0);

/// How many events are taken from the system at once. More wait there for the next turn.
const EVENTS_A_TURN: usize = 256;

/// An echo service with its own loop.
///
/// ```no_run
/// use mio_echo::{Config, Server};
///
/// let mut server = Server::bind(Config::default())?;
/// server.run()?; // for ever
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// A [`ShutdownHandle`] ends it from elsewhere:
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
/// Event sources of your own can be [registered](Server::registry) with it as guests: each
/// [`turn`](Server::turn) gives you their events. Or the whole server can be nested in another
/// loop, by its file descriptor (on Unix): see [`turn`](Server::turn). Where you have a
/// [`mio::Poll`] of your own, [`Echo`] fits into that without a descriptor between them.
pub struct Server {
    poll: Poll,
    events: Events,
    echo: Echo,
    guests: Vec<Event>,
    /// Whether the last turn took all the events it had room for.
    more_events: bool,
    shutdown: Arc<Shutdown>,
}

/// What a server and its handles share.
struct Shutdown {
    asked: AtomicBool,
    waker: Waker,
}

impl Server {
    /// The tokens that are free for event sources of your own.
    pub const GUEST_TOKENS: Range<usize> = WAKER.0 + 1..1024;

    /// Binds every endpoint of `config` and listens there. Connections wait in the system's queue
    /// until the first turn.
    ///
    /// # Errors
    ///
    /// Those of [`Echo::new`], and what the system says where it has no selector to give; see
    /// `epoll_create1(2)` and eventfd(2).
    pub fn bind(config: Config) -> io::Result<Self> {
        Self::with_sockets(config, Vec::new())
    }

    /// Serves at sockets that are bound already as well; see [`Echo::with_sockets`].
    ///
    /// # Errors
    ///
    /// Those of [`bind`](Server::bind).
    pub fn with_sockets(config: Config, sockets: Vec<BoundSocket>) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKER)?;
        let first_token = Token(Self::GUEST_TOKENS.end);
        let echo = Echo::with_sockets(config, sockets, poll.registry(), first_token)?;
        Ok(Server {
            poll,
            events: Events::with_capacity(EVENTS_A_TURN),
            echo,
            guests: Vec::new(),
            more_events: false,
            shutdown: Arc::new(Shutdown {
                asked: AtomicBool::new(false),
                waker,
            }),
        })
    }

    /// Turns until a shutdown is over.
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

    /// One turn of the loop: sleeps until there is an event or something is due, but `timeout` at
    /// most, and does what there is to do. Returns the events of your own event sources, if you
    /// have [registered](Server::registry) any.
    ///
    /// To nest it in another loop, wait there until the server's file descriptor is readable, or
    /// until its [`timeout`](Server::timeout) has passed; then call this with a zero timeout.
    ///
    /// # Errors
    ///
    /// What the system says where it cannot wait; see `epoll_wait(2)`. No peer can bring that
    /// about, and an interruption by a signal is none: the turn then ends early.
    pub fn turn(&mut self, timeout: Option<Duration>) -> io::Result<&[Event]> {
        let timeout = [timeout, self.timeout()].into_iter().flatten().min();
        match timeout {
            Some(timeout) => trace!("waiting for events, {timeout:?} at most"),
            None => trace!("waiting for events"),
        }
        match self.poll.poll(&mut self.events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            polled => polled?,
        }
        let now = Instant::now();
        self.guests.clear();
        let mut count = 0;
        for event in &self.events {
            count += 1;
            if self.echo.owns(event.token()) {
                self.echo.handle(event);
            } else if event.token() != WAKER {
                self.guests.push(event.clone());
            } else if self.shutdown.asked.load(Ordering::Acquire) {
                self.echo.shutdown(now);
            }
        }
        self.more_events = count == EVENTS_A_TURN;
        self.echo.run(now);
        Ok(&self.guests)
    }

    /// For how long another loop may leave the server without a turn, if its file descriptor does
    /// not become readable; `None` is for ever.
    #[must_use]
    pub fn timeout(&self) -> Option<Duration> {
        if self.more_events {
            Some(Duration::ZERO)
        } else {
            self.echo.timeout(Instant::now())
        }
    }

    /// Where event sources of your own can be registered, under
    /// [`GUEST_TOKENS`](Server::GUEST_TOKENS).
    #[must_use]
    pub fn registry(&self) -> &Registry {
        self.poll.registry()
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

    /// What shuts the server down from elsewhere, such as another thread.
    #[must_use]
    pub fn shutdown_handle(&self) -> ShutdownHandle {
        ShutdownHandle {
            shared: Arc::clone(&self.shutdown),
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("echo", &self.echo)
            .finish_non_exhaustive()
    }
}

/// The selector's: readable while there are events. See [`Server::turn`].
#[cfg(unix)]
impl std::os::fd::AsFd for Server {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.poll.registry().as_fd()
    }
}

/// The selector's: readable while there are events. See [`Server::turn`].
#[cfg(unix)]
impl std::os::fd::AsRawFd for Server {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        std::os::fd::AsRawFd::as_raw_fd(&self.poll)
    }
}

/// Shuts a [`Server`] down, from any thread. Clones belong to the same server.
#[derive(Clone)]
pub struct ShutdownHandle {
    shared: Arc<Shutdown>,
}

impl ShutdownHandle {
    /// Has the server call [`Echo::shutdown`] in its next turn, which begins at once. After the
    /// first call, and after the server's end, this changes nothing.
    ///
    /// # Errors
    ///
    /// What the system says where the loop could not be woken; see eventfd(2).
    pub fn shutdown(&self) -> io::Result<()> {
        self.shared.asked.store(true, Ordering::Release);
        self.shared.waker.wake()
    }
}

impl fmt::Debug for ShutdownHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShutdownHandle").finish_non_exhaustive()
    }
}
