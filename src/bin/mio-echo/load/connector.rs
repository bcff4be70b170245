//! Opens sockets: source addresses, and the limit on open files.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use mio::net::TcpStream;
use mio_echo::Endpoint;
use socket2::{Domain, Protocol, SockAddr, Type};

use crate::load::train;
use crate::socket::Socket;

/// Connections from one address. Linux has some 28,000 ephemeral ports by default
/// (`net.ipv4.ip_local_port_range`), and other programs need some of them.
const PORTS: usize = 25_000;
/// Source addresses. After the last one, the first has free ports again.
const SOURCES: usize = 200;

/// Descriptors besides those of connections.
const OTHERS: usize = 32;

pub(crate) struct Connector {
    endpoint: Endpoint,
    /// The size of datagrams that are sent in trains.
    segment: Option<usize>,
    /// Sockets that were opened from a chosen source address, or skipped.
    opened: usize,
    /// On Linux every address of 127.0.0.0/8 is local. Other systems have only those that were
    /// configured.
    has_sources: bool,
}

impl Connector {
    /// `many`: more connections than one address has ports for.
    pub(crate) fn new(endpoint: Endpoint, many: bool, segment: Option<usize>) -> Self {
        let is_loopback = matches!(
            &endpoint,
            Endpoint::Tcp(SocketAddr::V4(address)) if address.ip().is_loopback()
        );
        Connector {
            endpoint,
            segment,
            opened: 0,
            has_sources: many && is_loopback && cfg!(target_os = "linux"),
        }
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub(crate) fn is_stream(&self) -> bool {
        !matches!(self.endpoint, Endpoint::Udp(_))
    }

    /// Starts to connect.
    pub(crate) fn open(&mut self) -> io::Result<Socket> {
        let opened = match self.endpoint {
            Endpoint::Tcp(target) if self.has_sources => self.connect(target),
            _ => Socket::open(&self.endpoint),
        };
        if let (Ok(socket), Some(size)) = (&opened, self.segment) {
            train::enable(socket, size)?;
        }
        opened.map_err(|error| match self.endpoint {
            Endpoint::Tcp(_) | Endpoint::Udp(_) if is_out_of_ports(&error) => explained(&error),
            _ => error,
        })
    }

    /// Connects from an address with a free port. An earlier run may have used up those of others.
    fn connect(&mut self, target: SocketAddr) -> io::Result<Socket> {
        let mut opened = connect_from(source(self.opened), target);
        for _ in 1..SOURCES {
            if !opened.as_ref().is_err_and(is_out_of_ports) {
                break;
            }
            self.opened = (self.opened / PORTS + 1) * PORTS;
            opened = connect_from(source(self.opened), target);
        }
        self.opened += 1;
        opened
    }
}

/// The source address of a connection: 127.0.0.1, then 127.0.0.2 and so on.
fn source(number: usize) -> IpAddr {
    let last = u8::try_from(1 + number / PORTS % SOURCES).expect("at most 200");
    Ipv4Addr::new(127, 0, 0, last).into()
}

/// The errors of connect(2), and over UDP of bind(2).
fn is_out_of_ports(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::AddrNotAvailable | ErrorKind::AddrInUse
    )
}

fn explained(error: &io::Error) -> io::Error {
    let text = "no port is left to connect from; over TCP a port is in use for a minute after its \
                connection was closed (TIME_WAIT)";
    io::Error::other(format!("{text}: {error}"))
}

fn connect_from(source: IpAddr, target: SocketAddr) -> io::Result<Socket> {
    let socket = socket2::Socket::new(
        Domain::for_address(target),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_nonblocking(true)?;
    // connect(2) chooses the port among those that are free for this peer, which is fast. bind(2)
    // would choose among those that are free for all peers, and ports of closed connections are
    // taken for another minute (TIME_WAIT).
    #[cfg(target_os = "linux")]
    nix::sys::socket::setsockopt(
        &socket,
        nix::sys::socket::sockopt::IpBindAddressNoPort,
        &true,
    )?;
    socket.bind(&SockAddr::from(SocketAddr::new(source, 0)))?;
    match socket.connect(&target.into()) {
        Err(error) if !is_in_progress(&error) => Err(error),
        _ => Ok(Socket::Tcp(TcpStream::from_std(socket.into()))),
    }
}

fn is_in_progress(error: &io::Error) -> bool {
    #[cfg(unix)]
    let is_so = error.raw_os_error() == Some(nix::errno::Errno::EINPROGRESS as i32);
    #[cfg(not(unix))]
    let is_so = error.kind() == io::ErrorKind::WouldBlock;
    is_so
}

/// Raises the limit on open files. Fails if it is too low for this number of connections.
pub(crate) fn make_room(connections: usize) -> Result<(), String> {
    let limit = crate::raise_nofile_limit().unwrap_or(usize::MAX);
    if limit < connections + OTHERS {
        let most = limit.saturating_sub(OTHERS);
        return Err(format!(
            "{connections} connections are more than the limit of {limit} open files has room for; ask \
             for {most}, or raise it, see ulimit -Hn"
        ));
    }
    Ok(())
}
