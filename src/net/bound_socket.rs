//! Sockets that are bound already: by a supervisor, or by the application around.

use std::io;
use std::net::SocketAddr;

use socket2::{SockAddr, Socket, Type};

use crate::net::bind::Bound;
use crate::net::endpoint::Endpoint;
use crate::net::udp::packet_info;

/// A socket that somebody else has bound, to be served at; see
/// [`Echo::with_sockets`](crate::Echo::with_sockets).
///
/// ```
/// use std::net::TcpListener;
/// use mio_echo::{BoundSocket, Config, Server};
///
/// let listener = TcpListener::bind("127.0.0.1:0")?;
/// let copy = listener.try_clone()?;
/// let server = Server::with_sockets(Config::default(), vec![BoundSocket::new(listener)?])?;
/// assert_eq!(server.endpoints()[0].address(), Some(copy.local_addr()?));
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Who has it too
///
/// A supervisor that hands a socket over keeps a copy of it, and gives others to those who serve
/// later. So a shutdown accepts nobody more at such a socket: whoever waits in its queue is the next
/// one's. To one whose only copy was given away nobody comes next, and who waits there is reset:
/// keep a copy as long as that matters.
///
/// The file of a Unix socket is never removed here, and the backlog is not changed. Options are
/// set that the echo needs, and with them the copies have these too: they do not block, for one.
#[derive(Debug)]
pub struct BoundSocket(Bound);

impl BoundSocket {
    /// Takes a UDP socket, or a listening socket of TCP or of Unix streams: the standard library's
    /// [`TcpListener`](std::net::TcpListener), [`UdpSocket`](std::net::UdpSocket) and
    /// `UnixListener`, a [`socket2::Socket`], or an `OwnedFd`.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) where it is something else: a connection, a
    /// stream socket that does not listen, a Unix datagram socket, or a UDP socket that is not
    /// bound. Otherwise what the system says; see getsockname(2) and setsockopt(2).
    pub fn new(socket: impl Into<Socket>) -> io::Result<Self> {
        let socket = socket.into();
        let endpoint = endpoint_of(&socket)?;
        socket.set_nonblocking(true)?;
        if let Endpoint::Udp(address) = endpoint {
            packet_info::enable(&socket, address)?;
        }
        Ok(BoundSocket(Bound {
            endpoint,
            #[cfg(unix)]
            file: None,
            inherited: true,
            socket,
        }))
    }

    /// Where it is.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.0.endpoint
    }
}

impl From<BoundSocket> for Bound {
    fn from(socket: BoundSocket) -> Self {
        socket.0
    }
}

fn endpoint_of(socket: &Socket) -> io::Result<Endpoint> {
    let address = socket.local_addr()?;
    if socket.peer_addr().is_ok() {
        return Err(unfit(
            "it is a connection: hand over the listening socket (in a systemd unit: Accept=no)",
        ));
    }
    match (socket.r#type()?, address.as_socket()) {
        (Type::STREAM, Some(address)) => listening(socket, Endpoint::Tcp(address)),
        (Type::STREAM, None) => listening(socket, unix(&address)?),
        (Type::DGRAM, Some(address)) => udp(address),
        (Type::DGRAM, None) if address.is_unix() => Err(unfit(
            "it is a Unix datagram socket: hand over a stream socket (in a systemd unit: \
             ListenStream=)",
        )),
        _ => Err(unfit(NO_SUCH_KIND)),
    }
}

const NO_SUCH_KIND: &str =
    "it is a socket of a kind that is not served: hand over one of TCP, UDP or Unix streams";

fn udp(address: SocketAddr) -> io::Result<Endpoint> {
    if address.port() == 0 {
        return Err(unfit("it is not bound: bind it first"));
    }
    Ok(Endpoint::Udp(address))
}

#[cfg(unix)]
fn unix(address: &SockAddr) -> io::Result<Endpoint> {
    if let Some(path) = address.as_pathname() {
        return Ok(Endpoint::Unix(path.to_owned()));
    }
    match address.as_abstract_namespace() {
        Some(name) => Ok(Endpoint::Abstract(
            String::from_utf8_lossy(name).into_owned(),
        )),
        None => Err(unfit(NO_SUCH_KIND)),
    }
}

#[cfg(not(unix))]
fn unix(_address: &SockAddr) -> io::Result<Endpoint> {
    Err(unfit(NO_SUCH_KIND))
}

fn listening(socket: &Socket, endpoint: Endpoint) -> io::Result<Endpoint> {
    if is_listening(socket)? {
        Ok(endpoint)
    } else {
        Err(unfit("it does not listen: call listen(2) first"))
    }
}

#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
fn is_listening(socket: &Socket) -> io::Result<bool> {
    socket.is_listener()
}

/// Not to be told here: to accept will fail where it does not.
#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
#[allow(clippy::unnecessary_wraps, reason = "the same on every system")]
fn is_listening(_socket: &Socket) -> io::Result<bool> {
    Ok(true)
}

fn unfit(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}
