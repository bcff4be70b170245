//! Opening sockets: from where, and how many may be open.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use mio::net::TcpStream;
use mio_echo::Endpoint;
use socket2::{Domain, Protocol, SockAddr, Type};

use crate::socket::Socket;

/// How many connections to make from one address. By default Linux has some 28,000 ports for them
/// (`net.ipv4.ip_local_port_range`), of which others need some, too.
const PORTS: usize = 25_000;
/// How many addresses to connect from. After the last of them the first has free ports again.
const SOURCES: usize = 200;

/// How many descriptors there are besides the connections.
const OTHERS: usize = 32;

pub(crate) struct Opener {
    endpoint: Endpoint,
    /// How many sockets were opened from other addresses than the system would choose, or would
    /// have been.
    opened: usize,
    /// Of the loopback network each address is this host's, so there are as many as it takes; but
    /// on other systems than Linux only those that were set up.
    has_sources: bool,
}

impl Opener {
    /// With `many`, more are opened than one address has ports for.
    pub(crate) fn new(endpoint: Endpoint, many: bool) -> Self {
        let is_loopback = matches!(
            &endpoint,
            Endpoint::Tcp(SocketAddr::V4(address)) if address.ip().is_loopback()
        );
        Opener {
            endpoint,
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
        opened.map_err(|error| match self.endpoint {
            Endpoint::Tcp(_) | Endpoint::Udp(_) if is_out_of_ports(&error) => explained(&error),
            _ => error,
        })
    }

    /// Connects from an address that has a port left: another run may have used them just before.
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

/// The address from which that connection is made: 127.0.0.1, and then 127.0.0.2 and so on.
fn source(number: usize) -> IpAddr {
    let last = u8::try_from(1 + number / PORTS % SOURCES).expect("at most 200");
    Ipv4Addr::new(127, 0, 0, last).into()
}

/// What connect(2) says, and over UDP bind(2).
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
    // The port is chosen when it connects, among those that are free for this peer, which is fast.
    // Choosing it here, among those that are free for any, takes longer the more are in use; and
    // those of closed connections are in use for another minute (TIME_WAIT).
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

/// Raises the limit on open files. Fails if it is too low for as many connections.
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
