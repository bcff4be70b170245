//! Metrics for Prometheus and a health check: an HTTP server of two resources in the loop of the
//! service.
//!
//! It runs in the thread of the echo, so no call blocks and a turn is small. What a client can use is
//! limited: the [head](connection::MAX_HEAD) of one request, one response, and a few seconds.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::time::{Duration, Instant, SystemTime};

use log::{debug, info};
use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry};
use mio_echo::{Endpoint, Stats};
use slab::Slab;
use socket2::{Domain, Socket, Type};

mod connection;
mod http;
mod prometheus;

use self::connection::{Connection, Next};
use self::http::{Resource, Status, response};
use crate::cli::CliError;
use crate::service::TOKEN;
use crate::{list, warn_if_public};

/// A client more replaces the one that has been sending its request longest. So clients that connect
/// and send nothing do not keep a scrape waiting.
const MAX_CLIENTS: usize = 16;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// Pause after an error of accept(2), such as no descriptors.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// The listener and its clients, all with [`TOKEN`].
pub(crate) struct Metrics {
    registry: Registry,
    listener: TcpListener,
    clients: Slab<Connection<TcpStream>>,
    /// Whether /healthz responds that the service is shutting down.
    pub(crate) is_draining: bool,
    /// When to [run](Metrics::run), if no event comes before.
    pub(crate) due: Option<Instant>,
}

/// Listens at the first address of the endpoint that can be bound.
pub(crate) fn listen(endpoint: &str, dual_stack: bool) -> Result<StdListener, CliError> {
    let resolved = Endpoint::resolve(endpoint);
    let endpoints = resolved.map_err(|error| CliError::from(error).of_option("--metrics"))?;
    let mut result = Err(io::ErrorKind::AddrNotAvailable.into());
    for address in endpoints.iter().filter_map(Endpoint::address) {
        result = result.or_else(|_: io::Error| listen_at(address, dual_stack));
    }
    result.map_err(|error| {
        CliError::failure(format!(
            "--metrics: cannot listen on {}: {error}; choose an address and a free port of this host",
            list(&endpoints)
        ))
    })
}

fn listen_at(address: SocketAddr, dual_stack: bool) -> io::Result<StdListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        // The default differs between systems, and is configurable on some.
        socket.set_only_v6(!dual_stack)?;
    }
    // Connections in TIME_WAIT do not block a restart. On Windows the option would let two programs
    // use the same port.
    socket.set_reuse_address(cfg!(not(windows)))?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

impl Metrics {
    pub(crate) fn new(listener: StdListener, registry: &Registry) -> Result<Self, CliError> {
        let mut listener = TcpListener::from_std(listener);
        let registered = registry.register(&mut listener, TOKEN, Interest::READABLE);
        registered.map_err(CliError::cannot("serve the metrics"))?;
        let address = listener.local_addr()?;
        info!("metrics on http://{address}/metrics");
        warn_if_public(&[Endpoint::Tcp(address)], &[]);
        Ok(Metrics {
            registry: registry.try_clone()?,
            listener,
            clients: Slab::new(),
            is_draining: false,
            due: None,
        })
    }

    /// Makes a turn for each client, and accepts a new one. An event does not say which of them it is
    /// for: there are few, and a call that would block costs little.
    pub(crate) fn run(&mut self, now: Instant, counters: &Stats) {
        // Before accepting, so that a client whose request has arrived is not replaced unread. No key
        // is larger, because the slab uses free ones first.
        let turns = (0..MAX_CLIENTS).filter_map(|key| self.turn(key, now, counters));
        let turn_due = turns.min();
        self.due = self.accept(now).into_iter().chain(turn_due).min();
    }

    /// Accepts a client. Returns when to accept again, if no event comes before.
    fn accept(&mut self, now: Instant) -> Option<Instant> {
        let accepted = self.listener.accept();
        match accepted.and_then(|(stream, peer)| self.open(stream, peer, now)) {
            Ok(()) => Some(now),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            // Retries later, after any error: the waiting clients are not announced again.
            Err(error) => {
                debug!("cannot accept a client: {error}");
                Some(now + RETRY_INTERVAL)
            }
        }
    }

    fn open(&mut self, mut stream: TcpStream, peer: SocketAddr, now: Instant) -> io::Result<()> {
        self.make_room();
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.registry.register(&mut stream, TOKEN, interest)?;
        let key = self.clients.insert(Connection::new(stream, now));
        debug!("client {key} opened: {peer}");
        Ok(())
    }

    fn make_room(&mut self) {
        if self.clients.len() < MAX_CLIENTS {
            return;
        }
        if let Some((key, _)) = self.clients.iter().min_by_key(|(_, it)| it.rank()) {
            self.close(key, "replaced by a new client");
        }
    }

    /// Returns when the client's next turn is due, if no event comes before.
    fn turn(&mut self, key: usize, now: Instant, counters: &Stats) -> Option<Instant> {
        match self.clients.get_mut(key)?.turn(now) {
            Ok(Next::Wait(until)) => return Some(until),
            Ok(Next::Respond(request)) => {
                let (status, body) = self.content(request.resource, counters);
                debug!("client {key}: response {}", status.0);
                let bytes = response(status, &body, request.is_head, SystemTime::now());
                self.clients[key].respond(bytes, now);
                return Some(now);
            }
            Ok(Next::Close) => self.close(key, "done"),
            Err(error) => self.close(key, &error.to_string()),
        }
        None
    }

    fn content(&self, resource: Result<Resource, Status>, counters: &Stats) -> (Status, String) {
        let status = match resource {
            Ok(Resource::Metrics) => return (Status::OK, prometheus::text(counters)),
            Ok(Resource::Health) if self.is_draining => Status::SHUTTING_DOWN,
            Ok(Resource::Health) => Status::OK,
            Err(status) => status,
        };
        (status, format!("{}\n", status.1))
    }

    fn close(&mut self, key: usize, reason: &str) {
        debug!("client {key} closed: {reason}");
        let mut client = self.clients.remove(key);
        // If this fails, closing the socket removes it from the selector.
        let _ = self.registry.deregister(&mut client.stream);
    }
}
