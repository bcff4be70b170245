//! A client socket: TCP, UDP or Unix.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
#[cfg(target_os = "linux")]
use std::os::{linux::net::SocketAddrExt, unix::net::SocketAddr as UnixSocketAddr};
use std::time::Duration;

#[cfg(unix)]
use mio::net::UnixStream;
use mio::net::{TcpStream, UdpSocket};
use mio::{Events, Poll, event};
use mio_echo::Endpoint;
use socket2::SockRef;

/// A non-blocking socket of any transport.
pub(crate) enum Socket {
    Tcp(TcpStream),
    Udp(UdpSocket),
    #[cfg(unix)]
    Unix(UnixStream),
}

impl Socket {
    /// Starts to connect. Over TCP, [`is_connected`](Socket::is_connected) tells when it is done.
    pub(crate) fn open(endpoint: &Endpoint) -> io::Result<Self> {
        Ok(match endpoint {
            Endpoint::Tcp(address) => Socket::Tcp(TcpStream::connect(*address)?),
            Endpoint::Udp(address) => {
                let any = match address {
                    SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
                    SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
                };
                let socket = UdpSocket::bind(any)?;
                // From now on datagrams from other addresses are dropped, and ICMP errors are
                // reported.
                socket.connect(*address)?;
                Socket::Udp(socket)
            }
            #[cfg(unix)]
            Endpoint::Unix(path) if path.is_dir() => return Err(ErrorKind::IsADirectory.into()),
            #[cfg(unix)]
            Endpoint::Unix(path) => Socket::Unix(UnixStream::connect(path)?),
            #[cfg(target_os = "linux")]
            Endpoint::Abstract(name) => {
                let address = UnixSocketAddr::from_abstract_name(name)?;
                Socket::Unix(UnixStream::connect_addr(&address)?)
            }
            _ => {
                let text = "this system has no such sockets";
                return Err(io::Error::new(ErrorKind::Unsupported, text));
            }
        })
    }

    /// Whether the connection is established, or the error of connect(2). To be called after the
    /// socket became writable.
    pub(crate) fn is_connected(&self) -> io::Result<bool> {
        let Socket::Tcp(stream) = self else {
            return Ok(true);
        };
        // The error of the asynchronous connect(2), in `SO_ERROR`.
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
        match stream.peer_addr() {
            Err(error) if error.kind() == ErrorKind::NotConnected => return Ok(false),
            peer => peer?,
        };
        // Without it a small message would wait for the acknowledgement of the last one (Nagle's
        // algorithm, RFC 896).
        stream.set_nodelay(true)?;
        Ok(true)
    }

    pub(crate) fn source(&mut self) -> &mut dyn event::Source {
        match self {
            Socket::Tcp(stream) => stream,
            Socket::Udp(socket) => socket,
            #[cfg(unix)]
            Socket::Unix(stream) => stream,
        }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.write(bytes),
            Socket::Udp(socket) => socket.send(bytes),
            #[cfg(unix)]
            Socket::Unix(stream) => stream.write(bytes),
        }
    }

    /// Sends the pieces as one.
    pub(crate) fn send_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.write_vectored(pieces),
            Socket::Udp(socket) => socket.try_io(|| SockRef::from(&*socket).send_vectored(pieces)),
            #[cfg(unix)]
            Socket::Unix(stream) => stream.write_vectored(pieces),
        }
    }

    pub(crate) fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.read(buffer),
            Socket::Udp(socket) => socket.recv(buffer),
            #[cfg(unix)]
            Socket::Unix(stream) => stream.read(buffer),
        }
    }
}

/// Waits for events. A signal can end the wait without any.
pub(crate) fn poll_once(
    poll: &mut Poll,
    events: &mut Events,
    timeout: Option<Duration>,
) -> io::Result<()> {
    match poll.poll(events, timeout) {
        Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
        polled => polled,
    }
}
