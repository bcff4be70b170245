//! Sockets and the operating system: no policy, no counters, no `Config`.
//!
//! The traits in this file are the interface between the engine and the system: the list of all system
//! calls that the engine makes. A method returns the system's result. What an error means is decided by
//! the engine, where it can be tested.

pub(crate) mod bind;
pub(crate) mod endpoint;
pub(crate) mod listener;
pub(crate) mod pipe;
pub(crate) mod stream;
pub(crate) mod syn_filter;
pub(crate) mod udp;
#[cfg(unix)]
pub(crate) mod unix_socket;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use mio::event::{Event, Source};
use mio::{Interest, Token};

/// An owned socket of the system.
#[cfg(unix)]
pub(crate) use std::os::fd::OwnedFd as OwnedSocket;
#[cfg(windows)]
pub(crate) use std::os::windows::io::OwnedSocket;

use self::listener::Listener;
use self::stream::{Peer, StreamSocket};
use self::udp::{DatagramIo, UdpIo};

/// The kinds of sockets that the engine works with.
///
/// `epoll_ctl(2)` is called through [`Source`], and close(2) by dropping a socket.
pub(crate) trait System {
    type Listener: Accept<Stream = Self::Stream>;
    type Stream: Stream;
    type Datagrams: DatagramIo;
}

/// The operating system.
pub(crate) enum OperatingSystem {}

impl System for OperatingSystem {
    type Listener = Listener;
    type Stream = StreamSocket;
    type Datagrams = UdpIo;
}

/// A selector and a clock, for the loop around the engine.
pub(crate) trait Selector {
    type Event: Clone;

    /// `epoll_wait(2)`: waits for events, and at most for the timeout.
    fn select(&mut self, timeout: Option<Duration>) -> io::Result<()>;

    /// What the last call has returned.
    fn events(&self) -> impl Iterator<Item = (Token, &Self::Event)>;

    /// How many events one call returns at most.
    fn capacity(&self) -> usize;

    /// `clock_gettime(2)` of a clock that never goes back.
    fn now(&self) -> Instant;
}

/// A listening socket.
pub(crate) trait Accept {
    type Stream;

    /// accept(2), once; and setsockopt(2) for options that the new socket does not inherit.
    fn accept(&mut self) -> io::Result<(Self::Stream, Peer)>;

    /// Whether other processes have copies of the socket, and can accept what is in its queue.
    fn is_inherited(&self) -> bool;

    /// setsockopt(2) of `SO_ATTACH_FILTER`: drops new SYNs, so that clients retransmit them and reach
    /// another process at the same port. Returns whether the system does so.
    fn drop_new_syns(&self) -> bool;

    /// unlink(2) of the file of a Unix socket. Connections in the queue can still be accepted.
    fn unlink_socket_file(&mut self);

    /// The source to register.
    fn source_mut(&mut self) -> &mut dyn Source;
}

/// A connected stream socket.
pub(crate) trait Stream {
    type Pipe: Pipe;

    /// recv(2).
    fn recv(&mut self, buffer: &mut [u8]) -> io::Result<usize>;

    /// send(2) with `MSG_NOSIGNAL`.
    fn send(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// malloc(3) for pending bytes: an empty vector with room for `size` bytes. It is a part of the
    /// interface so that the simulation can let it fail.
    fn allocate(&self, size: usize) -> io::Result<Vec<u8>> {
        let mut memory = Vec::new();
        memory.try_reserve_exact(size)?;
        Ok(memory)
    }

    /// shutdown(2) of the write half: the peer reads the end of the stream.
    fn shutdown_write(&mut self) -> io::Result<()>;

    /// splice(2) from the socket into the pipe, as much as fits. A result of 0 does not mean that
    /// there is nothing to read.
    fn splice_in(&mut self, pipe: &mut Self::Pipe) -> io::Result<usize>;

    /// splice(2) from the pipe into the socket.
    fn splice_out(&mut self, pipe: &mut Self::Pipe) -> io::Result<usize>;

    /// setsockopt(2) of `TCP_USER_TIMEOUT`, best effort: how long sent bytes stay unacknowledged before
    /// the system gives the connection up, also after close(2).
    fn set_user_timeout(&self, limit: Duration);

    /// setsockopt(2) of `SO_LINGER` with a time of 0, and close(2): the peer reads `ECONNRESET`.
    fn reset(self);

    /// The source to register.
    fn source_mut(&mut self) -> &mut dyn Source;
}

/// A pipe for splice(2).
pub(crate) trait Pipe: Sized + fmt::Debug {
    /// Whether splice(2) works here; found out by a trial.
    fn is_usable() -> bool;

    /// pipe(2).
    fn open() -> io::Result<Self>;

    /// How many bytes are in it.
    fn len(&self) -> usize;
}

/// What a connection is registered for, once: another registration for each change of state would
/// cost a system call each.
///
/// Urgent data is announced on Linux only; see [`EVENT_FOLLOWS_SHORT_IO`] for why that matters.
pub(crate) fn interest() -> Interest {
    let both = Interest::READABLE | Interest::WRITABLE;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let both = both | Interest::PRIORITY;
    both
}

/// Whether a read or write that moves less than asked has drained or filled the socket, so that an
/// event announces more (epoll(7), question 9 of "Questions and answers").
///
/// This saves the call that would return `EAGAIN`, a third of all calls. It holds for epoll, except
/// where [`Readiness::read_until_would_block`] says otherwise. Elsewhere calls are made until they
/// would block: mio on Windows announces nothing before, and kqueue does not announce urgent data.
pub(crate) const EVENT_FOLLOWS_SHORT_IO: bool =
    cfg!(any(target_os = "linux", target_os = "android"));

/// Whether close(2) takes a socket out of the selector, which saves a call for each connection.
///
/// It does for epoll, unless a child process has inherited the socket (epoll(7), question 6). Then
/// stale events can follow until the child closes it too; they are harmless, as events are hints.
pub(crate) const CLOSE_DEREGISTERS: bool = cfg!(any(target_os = "linux", target_os = "android"));

/// What an event says about a socket. It is a hint: late, merged with others, or stale. What a call
/// returns is the truth.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Readiness {
    /// A read can return bytes, the end of the stream, or an error.
    pub(crate) readable: bool,
    /// A write can succeed, or return an error.
    pub(crate) writable: bool,
    /// A short read does not drain the socket: the end of the stream or a TCP urgent mark is behind
    /// the bytes, and no other event announces it.
    pub(crate) read_until_would_block: bool,
}

impl From<&Event> for Readiness {
    fn from(event: &Event) -> Self {
        let error = event.is_error();
        let read_until_would_block = event.is_priority() || event.is_read_closed();
        Readiness {
            readable: read_until_would_block || event.is_readable() || error,
            writable: event.is_writable() || event.is_write_closed() || error,
            read_until_would_block,
        }
    }
}

/// The IPv4 address of a peer over IPv4, which a socket of both families reports as a mapped one
/// (`::ffff:192.0.2.1`).
pub(crate) fn canonical(peer: SocketAddr) -> SocketAddr {
    match peer.ip().to_canonical() {
        ip @ IpAddr::V4(_) => (ip, peer.port()).into(),
        IpAddr::V6(_) => peer,
    }
}

/// Makes a non-blocking call, and repeats it after `EINTR`. Returns `None` if it would block.
#[inline]
pub(crate) fn nonblocking<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<Option<T>> {
    loop {
        match call() {
            Ok(value) => return Ok(Some(value)),
            Err(error) => {
                if let Some(result) = failed(error) {
                    return result;
                }
            }
        }
    }
}

/// The result of a non-blocking call that failed; `None` if it has to be repeated.
#[cold]
fn failed<T>(error: io::Error) -> Option<io::Result<Option<T>>> {
    match error.kind() {
        io::ErrorKind::Interrupted => None,
        io::ErrorKind::WouldBlock => Some(Ok(None)),
        _ => Some(Err(error)),
    }
}

/// What a [non-blocking](nonblocking) call has returned, for the log.
pub(crate) fn outcome<T>(result: &io::Result<Option<T>>, success: impl Fn(&T) -> String) -> String {
    match result {
        Ok(Some(value)) => success(value),
        Ok(None) => ": EAGAIN".to_owned(),
        Err(error) => format!(": {error}"),
    }
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [
            self.readable.then_some("readable"),
            self.writable.then_some("writable"),
            self.read_until_would_block
                .then_some("end of stream or urgent data ahead"),
        ];
        let names: Vec<_> = all.into_iter().flatten().collect();
        f.write_str(&names.join(", "))
    }
}
