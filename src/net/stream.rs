//! Connected stream sockets, TCP and Unix, and what their peers are called.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

use mio::event::Source;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use socket2::SockRef;

use self::calls::{recv, send};
use crate::echo::pipes::Pipe;
use crate::net::pipe::SystemPipe;

/// The unit of `TCP_USER_TIMEOUT`.
#[cfg(any(target_os = "linux", target_os = "android"))]
const MILLISECOND: Duration = Duration::from_millis(1);

/// What a connection needs of its socket. The tests have scripted ones.
pub(crate) trait Stream: Read + Write {
    type Pipe: Pipe;

    /// Ends the writing half: the peer reads the end of the stream. See shutdown(2).
    fn shutdown_write(&mut self) -> io::Result<()>;

    /// Moves bytes that have come into a pipe, as many as there is room for, and says how many. That
    /// there are none does not mean that there is nothing to be read; see splice(2).
    fn splice_in(&mut self, pipe: &mut Self::Pipe) -> io::Result<usize>;

    /// Sends what is in a pipe, and says how many bytes that were.
    fn splice_out(&mut self, pipe: &mut Self::Pipe) -> io::Result<usize>;
}

/// A connected stream socket of whatever address family.
///
/// Once connected, a Unix socket takes the same calls as one of TCP: recv(2), send(2) with
/// `MSG_NOSIGNAL`, shutdown(2). mio's `TcpStream` is a descriptor and these calls, so it serves
/// for both, and nothing has to be told apart at each read and write.
#[derive(Debug)]
pub(crate) struct StreamSocket(TcpStream);

impl From<TcpStream> for StreamSocket {
    fn from(stream: TcpStream) -> Self {
        StreamSocket(stream)
    }
}

#[cfg(unix)]
impl From<mio::net::UnixStream> for StreamSocket {
    fn from(stream: mio::net::UnixStream) -> Self {
        StreamSocket(std::os::fd::OwnedFd::from(stream).into())
    }
}

impl StreamSocket {
    /// Closes it with a reset (`SO_LINGER` of no time; see socket(7)). The peer is told that it is
    /// not served, which the end of a stream would not say; and nothing is left of the connection,
    /// where after an orderly close the system waits for the peer's end of it, and after that in
    /// `TIME_WAIT`.
    pub(crate) fn reset(self) {
        // Where this fails it is closed in order.
        let _ = SockRef::from(&self.0).set_linger(Some(Duration::ZERO));
    }

    /// Limits how long sent bytes stay unacknowledged before the system gives the connection up, also
    /// after close(2); see `TCP_USER_TIMEOUT` in tcp(7). Sockets other than TCP's do not have it, and
    /// keep nothing after close(2).
    pub(crate) fn set_user_timeout(&self, limit: Duration) {
        // A value of 0 ms is the system's default of minutes.
        #[cfg(any(target_os = "linux", target_os = "android"))]
        let _ = SockRef::from(&self.0).set_tcp_user_timeout(Some(limit.max(MILLISECOND)));
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        let _ = limit;
    }
}

#[cfg(unix)]
impl std::os::fd::AsFd for StreamSocket {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Read for StreamSocket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        recv(&self.0, buffer)
    }
}

impl Write for StreamSocket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        send(&self.0, bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Stream for StreamSocket {
    type Pipe = SystemPipe;

    fn shutdown_write(&mut self) -> io::Result<()> {
        self.0.shutdown(Shutdown::Write)
    }

    fn splice_in(&mut self, pipe: &mut SystemPipe) -> io::Result<usize> {
        pipe.fill(&self.0)
    }

    fn splice_out(&mut self, pipe: &mut SystemPipe) -> io::Result<usize> {
        pipe.drain(&self.0)
    }
}

impl Source for StreamSocket {
    fn register(&mut self, registry: &Registry, token: Token, to: Interest) -> io::Result<()> {
        self.0.register(registry, token, to)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, to: Interest) -> io::Result<()> {
        self.0.reregister(registry, token, to)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.0.deregister(registry)
    }
}

/// recv(2) and send(2), called directly: a twentieth fewer instructions for each echo than by way of
/// the C library, whose calls are points where a thread can be cancelled.
#[cfg(any(target_os = "linux", target_os = "android"))]
mod calls {
    use std::io;
    use std::os::fd::AsFd;

    use rustix::net::{RecvFlags, SendFlags};

    pub(super) fn recv(socket: &impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
        let (count, _) = rustix::net::recv(socket, buffer, RecvFlags::empty())?;
        Ok(count)
    }

    /// Without a signal where the peer is gone.
    pub(super) fn send(socket: &impl AsFd, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::net::send(socket, bytes, SendFlags::NOSIGNAL)?)
    }
}

/// As mio has them, which on Windows does more than to call.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod calls {
    use std::io::{self, Read, Write};

    pub(super) fn recv(mut socket: impl Read, buffer: &mut [u8]) -> io::Result<usize> {
        socket.read(buffer)
    }

    pub(super) fn send(mut socket: impl Write, bytes: &[u8]) -> io::Result<usize> {
        socket.write(bytes)
    }
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Peer {
    Tcp(SocketAddr),
    /// Those who connect to a Unix socket hardly ever have a name, so they are numbered.
    #[cfg_attr(not(unix), allow(dead_code, reason = "there are none"))]
    Unix(u64),
}

impl Peer {
    /// Whether a read can stop short of bytes that are there, without an event to tell of them. A
    /// Unix socket does so behind a message that carried descriptors; see `SCM_RIGHTS` in unix(7).
    pub(crate) fn cuts_reads_short(self) -> bool {
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
