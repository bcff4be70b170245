//! Metrics for Prometheus and a health check: an HTTP server of two resources in the loop of the
//! service.
//!
//! It runs in the thread of the echo, so no call blocks and a turn is small. What a client can use is
//! limited: the [head](connection::MAX_HEAD) of one request, one response, and a few seconds.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::time::{Duration, Instant, SystemTime};

use log::{debug, info, warn};
use mio::event::Event;
use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use mio_echo::{Endpoint, Stats};
use slab::Slab;

mod connection;
mod http;
mod prometheus;

use self::connection::{Connection, Next};
use self::http::{Request, Resource, Status, response};
use crate::service::METRICS_TOKENS;
use crate::warn_if_public;

/// A client more replaces the one that has been sending its request longest. So clients that connect
/// and send nothing do not keep a scrape waiting.
const MAX_CLIENTS: usize = 16;

/// Pause after an error of accept(2), such as no descriptors.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// The listener and its clients.
pub(crate) struct Metrics {
    registry: Registry,
    listener: TcpListener,
    /// Whether accept(2) has not yet said that it would block.
    is_listener_ready: bool,
    /// No accept before, after an error.
    retry_at: Option<Instant>,
    has_warned: bool,
    clients: Slab<Connection<TcpStream>>,
    is_draining: bool,
    last_run: Instant,
}

impl Metrics {
    /// Listens at the first of the addresses that can be bound.
    pub(crate) fn listen(addresses: &[SocketAddr], registry: &Registry) -> io::Result<Self> {
        let listener = StdListener::bind(addresses)?;
        listener.set_nonblocking(true)?;
        let mut listener = TcpListener::from_std(listener);
        registry.register(&mut listener, METRICS_TOKENS, Interest::READABLE)?;
        let address = listener.local_addr()?;
        info!("metrics on http://{address}/metrics");
        warn_if_public(&[Endpoint::Tcp(address)], &[]);
        Ok(Metrics {
            registry: registry.try_clone()?,
            listener,
            is_listener_ready: false,
            retry_at: None,
            has_warned: false,
            clients: Slab::new(),
            is_draining: false,
            last_run: Instant::now(),
        })
    }

    /// From now on /healthz responds that the service is shutting down.
    pub(crate) fn drain(&mut self) {
        self.is_draining = true;
    }

    /// When `run` has something to do, if no event comes before.
    pub(crate) fn due(&self) -> Option<Instant> {
        let client = |(_, it): (_, &Connection<_>)| it.due().unwrap_or(self.last_run);
        let clients = self.clients.iter().map(client);
        clients.chain(self.accept_at()).min()
    }

    /// Takes an event. Ignores the events of other sources.
    pub(crate) fn handle(&mut self, event: &Event) {
        match event.token().0.checked_sub(METRICS_TOKENS.0) {
            Some(0) => self.is_listener_ready = true,
            Some(index) => {
                if let Some(client) = self.clients.get_mut(index - 1) {
                    client.wake();
                }
            }
            None => {}
        }
    }

    /// Makes a turn for each client that has something to do, and accepts a new one.
    pub(crate) fn run(&mut self, now: Instant, read_counters: impl Fn() -> Stats) {
        self.last_run = now;
        // Before accepting, so that a client whose request has arrived is not replaced unread. No key
        // is larger, because the slab uses free ones first.
        for key in 0..MAX_CLIENTS {
            self.turn(key, now, &read_counters);
        }
        if self.accept_at().is_some_and(|at| at <= now)
            && let Err(error) = self.accept(now)
        {
            self.back_off(&error, now);
        }
    }

    fn accept_at(&self) -> Option<Instant> {
        let at = self.retry_at.unwrap_or(self.last_run);
        self.is_listener_ready.then_some(at)
    }

    fn accept(&mut self, now: Instant) -> io::Result<()> {
        match self.listener.accept() {
            Ok((stream, peer)) => self.open(stream, peer, now)?,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.is_listener_ready = false;
            }
            Err(error) => return Err(error),
        }
        self.retry_at = None;
        Ok(())
    }

    fn open(&mut self, mut stream: TcpStream, peer: SocketAddr, now: Instant) -> io::Result<()> {
        self.make_room();
        let key = self.clients.vacant_key();
        let token = Token(METRICS_TOKENS.0 + 1 + key);
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.registry.register(&mut stream, token, interest)?;
        debug!("client {key} opened: {peer}");
        self.clients.insert(Connection::new(stream, now));
        Ok(())
    }

    /// Closes the oldest of the clients that are still sending their request, or else the oldest.
    fn make_room(&mut self) {
        if self.clients.len() < MAX_CLIENTS {
            return;
        }
        let order = |(_, it): &(usize, &Connection<_>)| (!it.is_reading_request(), it.opened());
        if let Some((key, _)) = self.clients.iter().min_by_key(order) {
            self.close(key, "replaced by a new client");
        }
    }

    /// Retries later, after any error: the waiting clients are not announced again.
    fn back_off(&mut self, error: &io::Error, now: Instant) {
        self.retry_at = Some(now + RETRY_INTERVAL);
        if !self.has_warned {
            self.has_warned = true;
            warn!("cannot accept ({error}): clients of the metrics wait until resources are free");
        }
    }

    fn turn(&mut self, key: usize, now: Instant, read_counters: &impl Fn() -> Stats) {
        let Some(client) = self.clients.get_mut(key) else {
            return;
        };
        match client.turn(now) {
            Ok(Next::Wait) => {}
            Ok(Next::Respond(request)) => {
                let (status, body) = content(request, read_counters, self.is_draining);
                debug!("client {key}: response {}", status.0);
                let bytes = response(status, &body, request.is_head, SystemTime::now());
                client.respond(bytes, now);
            }
            Ok(Next::Close) => self.close(key, "done"),
            Err(error) => self.close(key, &error.to_string()),
        }
    }

    fn close(&mut self, key: usize, reason: &str) {
        debug!("client {key} closed: {reason}");
        let mut client = self.clients.remove(key);
        // If this fails, closing the socket removes it from the selector.
        let _ = self.registry.deregister(client.stream_mut());
    }
}

fn content(
    request: Request,
    read_counters: &impl Fn() -> Stats,
    is_draining: bool,
) -> (Status, String) {
    let status = match request.resource {
        Ok(Resource::Metrics) => return (Status::OK, prometheus::text(&read_counters())),
        Ok(Resource::Health) if is_draining => Status::SHUTTING_DOWN,
        Ok(Resource::Health) => Status::OK,
        Err(status) => status,
    };
    (status, format!("{}\n", status.1))
}
