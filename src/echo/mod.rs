//! The engine and its public face. [`Echo`] has the sockets of the operating system; [`engine`] is the
//! same over any [`System`](crate::net::System), such as the simulated one of the tests.

use std::fmt;
use std::io;
use std::ops::Range;
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::{Registry, Token};

mod accept;
mod connection;
mod control;
pub(crate) mod endpoint_sockets;
pub(crate) mod engine;
mod events;
pub(crate) mod shared;
mod shutdown;
mod splice;
mod timeouts;
mod timers;
pub(crate) mod udp;

pub use events::ConnectionEvent;

use endpoint_sockets::EndpointSocket;
use engine::Engine;
use udp::DatagramSocket;

use crate::config::Config;
use crate::net::bind::{Bound, BoundSocket, bind_group};
use crate::net::endpoint::Endpoint;
use crate::net::listener::{Listener, adopt};
use crate::net::{OperatingSystem, OwnedSocket};
use crate::stats::Stats;

/// An echo service without a loop: a guest in yours.
///
/// Once it is created, it never blocks, sleeps or reads the clock. It starts no thread. It registers
/// its sockets with your [`Registry`], under the first token you give it and [as many
/// above](Echo::tokens) as it needs. You pass it its events and the current time:
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
/// [`stats`](Echo::stats) and logged at `debug`. A logger must not panic: it is called in the middle of
/// the engine's work, and an `Echo` is of no use after that.
///
/// Several of them can share a loop: the first token of the next one is the end of the
/// [`tokens`](Echo::tokens) of the last. If two ranges overlap, events go to the wrong one. In the log, a
/// line about an open connection has its token, and an `info` or `warn` line about the whole echo has an
/// endpoint. Only `no zero copy` has none: splice(2) or a pipe failed when the echo was created, and the
/// echo copies from then on, even if only a descriptor was missing (`EMFILE`). Where each echo has a loop
/// of its own, ranges that do not overlap still keep their connections apart in the log.
///
/// To stop, call [`shutdown`](Echo::shutdown). To drop an `Echo` closes every socket at once.
pub struct Echo(pub(crate) Engine<OperatingSystem>);

impl Echo {
    /// Binds every endpoint of `config`, listens, and registers with `registry` under `first_token`
    /// and the tokens above it.
    ///
    /// To replace the file that a crash left of a Unix socket, it locks the directory (flock(2)), and
    /// waits up to a second while another program has locked it.
    ///
    /// # Errors
    ///
    /// If an endpoint cannot be used, the error names it. For common causes, such as a port in use, it
    /// also says what to do. Its kind is that of the system's error, such as
    /// [`AddrInUse`](io::ErrorKind::AddrInUse),
    /// [`AddrNotAvailable`](io::ErrorKind::AddrNotAvailable) or
    /// [`PermissionDenied`](io::ErrorKind::PermissionDenied); see bind(2) and listen(2). No endpoint
    /// listens before all are bound, and none does after an error. The system's error is the
    /// [`source`](std::error::Error::source), with its
    /// [`raw_os_error`](io::Error::raw_os_error).
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
        let endpoints = match config.endpoints() {
            [] if sockets.is_empty() => &[Endpoint::DEFAULT],
            endpoints => endpoints,
        };
        let mut bound = Vec::new();
        for endpoint in endpoints {
            // The sockets of an endpoint share a port.
            let group = endpoint.sockets(config.dual_stack);
            bound.extend(bind_group(&group, config.bind)?);
        }
        bound.extend(sockets.into_iter().map(|socket| socket.0));
        let sockets = bound.into_iter().map(|it| listen(it, &config));
        let sockets = sockets.collect::<io::Result<_>>()?;
        Engine::new(config, sockets, registry, first_token, Instant::now()).map(Echo)
    }

    /// The bound endpoints: one for each socket, in the order of the configuration, with the real
    /// port instead of 0; then those of inherited sockets. Does not change at a shutdown.
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.0.endpoints
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.0.stats()
    }

    /// Whether events with this token are for [`handle`](Echo::handle): it is one of
    /// [`tokens`](Echo::tokens).
    #[must_use]
    pub fn owns(&self, token: Token) -> bool {
        self.0.owns(token)
    }

    /// The tokens of this echo: from the first token on, one for each socket of its endpoints and for
    /// each connection that the limit allows. All others are yours.
    #[must_use]
    pub fn tokens(&self) -> Range<usize> {
        self.0.first_token..self.0.first_token + self.0.token_count
    }

    /// How long the loop may sleep if no event wakes it: zero while sockets are on the run queue or the
    /// loop is [busy polling](crate::ConfigBuilder::busy_poll), else until the next deadline; `None` if
    /// there is none.
    #[must_use]
    pub fn timeout(&self, now: Instant) -> Option<Duration> {
        self.0.timeout(now)
    }

    /// The point in time until which the loop may sleep: [`timeout`](Echo::timeout) for a host with
    /// timers of its own. A time that has passed says that there is something to do now; `None` is
    /// without limit.
    ///
    /// Ask again after each [`run`](Echo::run) and each other call that takes the time. A timer that is
    /// less exact than this is rounded up: `run` does nothing before a deadline.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.0.deadline()
    }

    /// Notes an event, and makes no system call: a socket with something to do goes to the run queue.
    ///
    /// Events without a socket are ignored: it was closed after the selector reported them.
    pub fn handle(&mut self, event: &Event) {
        self.0.handle(event.token(), event);
    }

    /// Does what is due at `now`, and gives each socket on the run queue one turn, or
    /// [`max_turns`](crate::ConfigBuilder::max_turns) of them. Those with more to do queue again, for the
    /// next call.
    pub fn run(&mut self, now: Instant) {
        self.0.run(now);
    }

    /// Stops listening, and drains the connections.
    ///
    /// - Connections in the backlog are accepted first, as far as the limit allows; the others are
    ///   reset. The files of Unix sockets are removed.
    /// - Datagrams that have arrived get their replies, except with a drain time of 0; later ones are
    ///   not received.
    /// - Connections are echoed until their peers close them or the drain time is over. Then nothing
    ///   more is echoed: pending bytes are sent, the peer reads the end of the stream, and has a
    ///   second, or the drain time if that is shorter, to take them and to close. Connections that
    ///   are left are aborted.
    ///
    /// With [`reuse_port`](crate::ConfigBuilder::reuse_port), on Linux, listeners stay open for half a
    /// second, or the drain time if that is shorter. They complete pending handshakes and drop new
    /// SYNs, so that clients retransmit them after a second and reach another process.
    ///
    /// At an [inherited socket](crate::BoundSocket) no connection is accepted and none is reset: they
    /// wait for the next process.
    ///
    /// Calls after the first change nothing.
    pub fn shutdown(&mut self, now: Instant) {
        self.0.shutdown(now);
    }

    /// Takes over a connection, as if it had been accepted here: it counts for the limits, and its
    /// peer has to be in the allow list. Returns its token.
    ///
    /// For an application that accepts by itself, because several protocols share a port, or because
    /// something such as a PROXY header comes before the bytes to echo. Bytes that were read already
    /// are not echoed.
    ///
    /// `stream` is a connected TCP or Unix stream socket: a [`TcpStream`](std::net::TcpStream) or
    /// `UnixStream` of the standard library, or an `OwnedFd` (on Windows an `OwnedSocket`). Its options
    /// become those of accepted connections: non-blocking, `TCP_NODELAY`, `SO_KEEPALIVE`, without
    /// `SO_LINGER` and `TCP_CORK`. It must not have `SO_RCVLOWAT` above 1 or, on BSD, `TCP_NOPUSH`, which
    /// hold back short echoes and cannot be reset here. A socket of mio has to be deregistered before. No
    /// duplicate of the descriptor may stay open: while there is one, a close neither ends the connection
    /// nor takes it out of the selector (epoll(7), question 6).
    ///
    /// # Errors
    ///
    /// The connection is closed then.
    ///
    /// - [`QuotaExceeded`](io::ErrorKind::QuotaExceeded) at the limit of connections.
    /// - [`PermissionDenied`](io::ErrorKind::PermissionDenied) if the allow list or the limit per source
    ///   rejects the peer; it reads `ECONNRESET`, and is counted.
    /// - [`InvalidInput`](io::ErrorKind::InvalidInput) for a socket that is no stream socket, and
    ///   [`NotConnected`](io::ErrorKind::NotConnected) for one without a peer.
    /// - Those of setsockopt(2) and `epoll_ctl(2)`, and any kind after a shutdown has begun.
    pub fn adopt(&mut self, stream: impl Into<OwnedSocket>, now: Instant) -> io::Result<Token> {
        let (stream, peer) = adopt(stream.into(), self.0.config.socket_buffer)?;
        self.0.adopt(stream, peer, now)
    }

    /// Closes a connection. What was not echoed is lost, and the peer may read `ECONNRESET`.
    ///
    /// Returns whether there was a connection with this token, which is that of its
    /// [events](Echo::connection_events). Take all events before: the token belongs to the connection
    /// until its end, and then to another one.
    pub fn close(&mut self, token: Token, now: Instant) -> bool {
        self.0.close_connection(token, now)
    }

    /// Takes the events of connections, in the order in which they happened. Those that the iterator has
    /// not returned wait for the next call. There are none unless the configuration has [room for
    /// them](crate::ConfigBuilder::connection_events).
    pub fn connection_events(&mut self) -> impl Iterator<Item = ConnectionEvent> {
        self.0.connection_events()
    }

    /// Accepts no more connections until [`resume_accepting`](Echo::resume_accepting): they wait in the
    /// backlog. Open connections and datagrams are echoed. A shutdown resumes accepting, and cannot be
    /// paused.
    pub fn pause_accepting(&mut self) {
        self.0.pause_accepting();
    }

    /// Accepts connections again.
    pub fn resume_accepting(&mut self, now: Instant) {
        self.0.resume_accepting(now);
    }

    /// The configuration of the start, with the changes of [`set_limits`](Echo::set_limits).
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// Replaces the limits of connections, per source and of buffered bytes, the allow list, and both
    /// timeouts. [`allow_list`](crate::ConfigBuilder::allow_list) replaces the list that
    /// [`config`](Echo::config) has, and `max_per_source(None)` removes that limit.
    ///
    /// ```
    /// # use std::time::Instant;
    /// # use mio_echo::{Config, Echo};
    /// # fn lower(echo: &mut Echo) -> Result<(), Box<dyn std::error::Error>> {
    /// let config = echo.config().to_builder().max_connections(100).build()?;
    /// echo.set_limits(&config, Instant::now())?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Open connections stay, also those above a limit or outside the allow list; they count. New
    /// timeouts hold for them too, from their last progress on. If more bytes are pending than
    /// [`max_buffered`](crate::ConfigBuilder::max_buffered) allows, connections are evicted at once.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if another setting differs from that of
    /// [`config`](Echo::config), or if the limit of connections is above that of the start, which
    /// fixed the [tokens](Echo::tokens). Nothing has changed then.
    pub fn set_limits(&mut self, config: &Config, now: Instant) -> io::Result<()> {
        self.0.set_limits(config, now)
    }

    /// Whether a shutdown is complete: no listener, no connection, no UDP socket is left.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

fn listen(
    bound: Bound,
    config: &Config,
) -> io::Result<(Endpoint, EndpointSocket<OperatingSystem>)> {
    let endpoint = bound.endpoint.clone();
    let socket = if let Endpoint::Udp(address) = endpoint {
        EndpointSocket::Udp(DatagramSocket::new(bound, address))
    } else {
        let listener = Listener::listen(bound, config.backlog, config.socket_buffer)?;
        EndpointSocket::Listener(listener)
    };
    Ok((endpoint, socket))
}

impl fmt::Debug for Echo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Echo")
            .field("endpoints", &self.endpoints())
            .field("phase", &self.0.phase)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
