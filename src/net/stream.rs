//! Connected stream sockets, TCP and Unix, and the names of their peers.

use std::fmt;
use std::io;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

use mio::event::Source;
use mio::net::TcpStream;
#[cfg(any(target_os = "linux", target_os = "android"))]
use rustix::net::{RecvFlags, SendFlags};
use socket2::SockRef;

use super::Stream;
use super::pipe::SystemPipe;

/// The unit of `TCP_USER_TIMEOUT`.
#[cfg(any(target_os = "linux", target_os = "android"))]
const MILLISECOND: Duration = Duration::from_millis(1);

/// A connected stream socket of any address family.
///
/// Once connected, a Unix socket takes the same calls as a TCP socket: recv(2), send(2), shutdown(2).
/// mio's `TcpStream` is a descriptor with these calls, so it serves for both, and reads and writes need
/// no distinction.
#[derive(Debug)]
pub(crate) struct StreamSocket(pub(crate) TcpStream);

impl Stream for StreamSocket {
    type Pipe = SystemPipe;

    // On Linux without the C library, whose calls are cancellation points of threads: this saves 5 % of
    // the instructions of an echo. Elsewhere by mio, which does more on Windows.
    fn recv(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // The first number is the second, limited once more to the length of the buffer.
        #[cfg(any(target_os = "linux", target_os = "android"))]
        let (_, count) = rustix::net::recv(&self.0, buffer, RecvFlags::empty())?;
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        let count = self.0.read(buffer)?;
        Ok(count)
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        let count = rustix::net::send(&self.0, bytes, SendFlags::NOSIGNAL)?;
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        let count = self.0.write(bytes)?;
        Ok(count)
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        self.0.shutdown(Shutdown::Write)
    }

    fn splice_in(&mut self, pipe: &mut SystemPipe) -> io::Result<usize> {
        pipe.fill(&self.0)
    }

    fn splice_out(&mut self, pipe: &mut SystemPipe) -> io::Result<usize> {
        pipe.drain(&self.0)
    }

    /// Sockets other than TCP's do not have the option, and keep nothing after close(2).
    fn set_user_timeout(&self, limit: Duration) {
        // A value of 0 ms is the system's default of minutes.
        #[cfg(any(target_os = "linux", target_os = "android"))]
        let _ = SockRef::from(&self.0).set_tcp_user_timeout(Some(limit.max(MILLISECOND)));
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        let _ = limit;
    }

    /// The system keeps nothing of the connection: an orderly close waits for the peer's end of the
    /// stream, and then in `TIME_WAIT`.
    fn reset(self) {
        // If this fails, the close is an orderly one.
        let _ = SockRef::from(&self.0).set_linger(Some(Duration::ZERO));
    }

    fn source_mut(&mut self) -> &mut dyn Source {
        &mut self.0
    }
}

/// The other end of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Peer {
    Tcp(SocketAddr),
    /// Peers of a Unix socket rarely have a name, so they are numbered.
    #[cfg_attr(not(unix), allow(dead_code, reason = "no Unix sockets here"))]
    Unix(u64),
}

impl Peer {
    /// The IP address and port; `None` for a Unix socket.
    pub(crate) fn address(self) -> Option<SocketAddr> {
        match self {
            Peer::Tcp(address) => Some(address),
            Peer::Unix(_) => None,
        }
    }

    /// Whether a read can stop short of waiting bytes without an event that announces them. A Unix
    /// socket does so behind a message with descriptors; see `SCM_RIGHTS` in unix(7).
    pub(crate) fn may_read_short(self) -> bool {
        matches!(self, Peer::Unix(_))
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Tcp(address) => write!(f, "{address}"),
            Peer::Unix(number) => write!(f, "unix#{number}"),
        }
    }
}
