//! The counters for Prometheus, and whether the service is well: an HTTP server of two pages, as a
//! guest of the echo's loop.
//!
//! It has the same thread as the echo, and so the same manners: nothing waits, and a turn is small.
//! Whatever a client does is bounded: a [head](connection::HEAD_MAX), an answer, a few seconds, and
//! so many clients at once.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use log::{debug, warn};
use mio::event::Event;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use mio_echo::Stats;
use slab::Slab;

mod connection;
mod http;
mod listener;
mod prometheus;

use connection::{Connection, Next};
use http::{Request, Resource, Response, Status};
pub(crate) use listener::Bound;
use listener::Listener;
use prometheus::Exposition;

/// How many clients are served at once. One more replaces the client that has been sending its request
/// longest, so that clients which connect and send nothing do not keep a scrape waiting.
const MOST_CONNECTIONS: usize = 16;

/// After how long to try again when the system is short of something, such as descriptors.
const RETRY: Duration = Duration::from_millis(100);

/// At most that often a line at `warn`.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// The listeners, and whoever is connected.
pub(crate) struct Metrics {
    registry: Registry,
    first_token: usize,
    /// Their tokens are the first.
    listeners: Vec<Listener>,
    /// The key is the token less those of the listeners.
    connections: Slab<Connection<TcpStream>>,
    /// Until when nobody is accepted, since the system was short of something.
    retry: Option<Instant>,
    warned: Option<Instant>,
    is_draining: bool,
    /// The time of the last turn.
    turned: Instant,
}

impl Metrics {
    /// Listens, and registers under `first` and the tokens above it.
    pub(crate) fn listen(bound: Bound, registry: &Registry, first: Token) -> io::Result<Self> {
        Ok(Metrics {
            registry: registry.try_clone()?,
            first_token: first.0,
            listeners: bound.listen(registry, first)?,
            connections: Slab::new(),
            retry: None,
            warned: None,
            is_draining: false,
            turned: Instant::now(),
        })
    }

    /// From now on the service is not well: it takes nobody in.
    pub(crate) fn drain(&mut self) {
        self.is_draining = true;
    }

    /// When the next turn is due, if no event comes before.
    pub(crate) fn due(&self) -> Option<Instant> {
        let of_connection = |(_, it): (_, &Connection<_>)| it.due().unwrap_or(self.turned);
        let connections = self.connections.iter().map(of_connection).min();
        [connections, self.accepts_at()].into_iter().flatten().min()
    }

    /// Takes an event in. Those of others are ignored.
    pub(crate) fn handle(&mut self, event: &Event) {
        let index = event.token().0.wrapping_sub(self.first_token);
        if let Some(listener) = self.listeners.get_mut(index) {
            listener.is_ready = true;
            return;
        }
        let key = index.wrapping_sub(self.listeners.len());
        if let Some(connection) = self.connections.get_mut(key) {
            connection.wake();
        }
    }

    /// Gives each client that has something to do a turn, and accepts new ones.
    pub(crate) fn run(&mut self, now: Instant, stats: impl Fn() -> Stats) {
        self.turned = now;
        for index in 0..self.listeners.len() {
            // First, and before each new client: one whose request has arrived is not replaced unread.
            self.turn_all(now, &stats);
            if self.accepts_at().is_some_and(|at| at <= now)
                && let Err(error) = self.accept(index, now)
            {
                self.pause(&error, now);
            }
        }
    }

    fn turn_all(&mut self, now: Instant, stats: &impl Fn() -> Stats) {
        // No key is larger: those that are free are used first.
        for key in 0..MOST_CONNECTIONS {
            self.turn(key, now, stats);
        }
    }

    /// When to accept, if a client may be waiting.
    fn accepts_at(&self) -> Option<Instant> {
        let is_ready = self.listeners.iter().any(|it| it.is_ready);
        is_ready.then(|| self.retry.unwrap_or(self.turned))
    }

    /// Accepts one client, if one is waiting at this listener.
    fn accept(&mut self, index: usize, now: Instant) -> io::Result<()> {
        if let Some((stream, peer)) = self.listeners[index].accept()? {
            self.open(stream, peer, now)?;
            self.retry = None;
        }
        Ok(())
    }

    fn open(&mut self, mut stream: TcpStream, peer: SocketAddr, now: Instant) -> io::Result<()> {
        self.make_room();
        let key = self.connections.vacant_key();
        let token = Token(self.first_token + self.listeners.len() + key);
        let both = Interest::READABLE | Interest::WRITABLE;
        self.registry.register(&mut stream, token, both)?;
        debug!("client {key} opened: {peer}");
        self.connections.insert(Connection::new(stream, now));
        Ok(())
    }

    /// Closes the oldest of the clients that are still sending their request, or else the oldest.
    fn make_room(&mut self) {
        if self.connections.len() < MOST_CONNECTIONS {
            return;
        }
        let is_newer = |(_, it): &(usize, &Connection<_>)| (!it.is_asking(), it.opened());
        if let Some((key, _)) = self.connections.iter().min_by_key(is_newer) {
            self.close(key, "replaced by a new client");
        }
    }

    /// Whatever the error is, whoever waits is not announced again: the time has to.
    fn pause(&mut self, error: &io::Error, now: Instant) {
        self.retry = Some(now + RETRY);
        let is_calm = |at| now.saturating_duration_since(at) >= WARNING_INTERVAL;
        if self.warned.is_none_or(is_calm) {
            self.warned = Some(now);
            warn!("cannot accept ({error}): who asks for metrics waits until more can be had");
        }
    }

    fn turn(&mut self, key: usize, now: Instant, stats: &impl Fn() -> Stats) {
        let is_draining = self.is_draining;
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        match connection.turn(now) {
            Ok(Next::Wait) => {}
            Ok(Next::Answer(request)) => {
                let response = response(&request, stats, is_draining);
                debug!("client {key} is answered {}", response.status);
                let bytes = response.to_bytes(request.is_head, SystemTime::now());
                connection.answer(bytes, now);
            }
            Ok(Next::Close) => self.close(key, "done"),
            Err(error) => self.close(key, &error.to_string()),
        }
    }

    fn close(&mut self, key: usize, reason: &str) {
        debug!("client {key} closed: {reason}");
        let mut connection = self.connections.remove(key);
        // Closing takes it out of the selector too, where this fails.
        let _ = self.registry.deregister(connection.stream_mut());
    }
}

fn response(request: &Request, stats: &impl Fn() -> Stats, is_draining: bool) -> Response {
    match request.wanted {
        Ok(Resource::Metrics) => Response {
            status: Status::OK,
            content_type: prometheus::CONTENT_TYPE,
            body: Exposition(&stats()).to_string(),
        },
        Ok(Resource::Health) if is_draining => Response::saying(Status::DRAINING),
        Ok(Resource::Health) => Response::saying(Status::OK),
        Err(refusal) => Response::saying(refusal),
    }
}

/// Makes a non-blocking call, again whenever a signal interrupts it. `None` where it would block.
fn nonblocking<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<Option<T>> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            result => return result.map(Some),
        }
    }
}
