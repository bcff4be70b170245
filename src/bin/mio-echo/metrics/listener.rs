//! Where metrics are to be had: sockets that are bound first, and listen when all others are.

use std::io;
use std::net::SocketAddr;

use log::info;
use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use mio_echo::Endpoint;
use socket2::{Domain, Protocol, Socket, Type};

use super::nonblocking;

/// How many clients the system keeps waiting.
const BACKLOG: i32 = 128;

/// Bound sockets, with their endpoints.
pub(crate) struct Bound(Vec<(Endpoint, Socket)>);

impl Bound {
    /// Binds every endpoint, all of which are of TCP. With `dual_stack`, `[::]` is IPv4 as well.
    pub(crate) fn bind(endpoints: &[Endpoint], dual_stack: bool) -> io::Result<Self> {
        let addresses = endpoints.iter().filter_map(Endpoint::address);
        let bound = addresses.map(|address| {
            let bound = bind(address, dual_stack);
            bound.map_err(|error| explained(&Endpoint::Tcp(address), &error))
        });
        Ok(Bound(bound.collect::<io::Result<_>>()?))
    }

    /// Where they are, with their real ports.
    pub(crate) fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.0.iter().map(|(endpoint, _)| endpoint)
    }

    /// Listens, and registers under `first` and the tokens above it.
    pub(super) fn listen(self, registry: &Registry, first: Token) -> io::Result<Vec<Listener>> {
        let listen = |(index, (endpoint, socket)): (usize, (Endpoint, Socket))| {
            let listener = Listener::new(socket, registry, Token(first.0 + index));
            let listener = listener.map_err(|error| explained(&endpoint, &error))?;
            if let Some(address) = endpoint.address() {
                info!("metrics on http://{address}/metrics");
            }
            Ok(listener)
        };
        self.0.into_iter().enumerate().map(listen).collect()
    }
}

fn bind(address: SocketAddr, dual_stack: bool) -> io::Result<(Endpoint, Socket)> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        // The default differs between systems.
        socket.set_only_v6(!dual_stack)?;
    }
    // Answers of an earlier run that linger in TIME_WAIT do not stand in the way. On Windows the
    // option would let two programs take the same port.
    #[cfg(not(windows))]
    socket.set_reuse_address(address.port() != 0)?;
    socket.bind(&address.into())?;
    let real = socket.local_addr()?.as_socket().unwrap_or(address);
    Ok((Endpoint::Tcp(real), socket))
}

fn explained(endpoint: &Endpoint, error: &io::Error) -> io::Error {
    let advice = "choose an address and a free port of this host";
    let message = format!("--metrics: cannot listen on {endpoint}: {error}; {advice}");
    io::Error::new(error.kind(), message)
}

/// A listening socket.
pub(super) struct Listener {
    socket: TcpListener,
    /// Whether somebody may wait to be accepted.
    pub(super) is_ready: bool,
}

impl Listener {
    fn new(socket: Socket, registry: &Registry, token: Token) -> io::Result<Self> {
        socket.listen(BACKLOG)?;
        let mut socket = TcpListener::from_std(socket.into());
        registry.register(&mut socket, token, Interest::READABLE)?;
        Ok(Listener {
            socket,
            is_ready: false,
        })
    }

    /// Whoever waits; `None` where nobody does.
    pub(super) fn accept(&mut self) -> io::Result<Option<(TcpStream, SocketAddr)>> {
        if !self.is_ready {
            return Ok(None);
        }
        let accepted = nonblocking(|| self.socket.accept())?;
        self.is_ready = accepted.is_some();
        Ok(accepted)
    }
}
