//! What the system says about a socket: in an event, and in the result of a call.
//!
//! An event is a hint. It may be late, merged with others or about nothing at all; what a call
//! returns is the truth. So an event only decides whether a socket is worth a call.

pub(crate) mod bind;
pub(crate) mod bound_socket;
pub(crate) mod endpoint;
pub(crate) mod listener;
#[cfg_attr(
    not(any(target_os = "linux", target_os = "android")),
    path = "no_pipe.rs"
)]
pub(crate) mod pipe;
pub(crate) mod stream;
pub(crate) mod syn_filter;
pub(crate) mod udp;
#[cfg(unix)]
pub(crate) mod unix_socket;

use std::fmt;
use std::io;

use mio::Interest;
use mio::event::Event;

/// What a connection is registered for, once and for all: registering anew for each message would
/// cost a system call each.
///
/// Urgent data is announced on Linux only; see [`SHORT_MEANS_EXHAUSTED`] for why that matters.
pub(crate) fn interest() -> Interest {
    let both = Interest::READABLE | Interest::WRITABLE;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let both = both | Interest::PRIORITY;
    both
}

/// Whether a read or write that moves less than it was asked to has exhausted the socket, so that
/// an event will come when there is more (epoll(7), question 9 of its "Questions and answers").
///
/// It saves the call that would only say "would block", a third of all calls. It holds where the
/// selector is epoll, and there not at a TCP urgent mark, where a read stops short of what is
/// behind the mark: that is why [`Readiness::more_behind`] is asked as well. Elsewhere reads and
/// writes go on until they would block: mio on Windows announces nothing before that, and kqueue
/// does not announce urgent marks.
pub(crate) const SHORT_MEANS_EXHAUSTED: bool =
    cfg!(any(target_os = "linux", target_os = "android"));

/// Whether closing a socket takes it out of the selector, which saves a call for each connection.
///
/// It is so where the selector is epoll, unless a child process has inherited the socket (epoll(7),
/// question 6). Then there may be events of somebody who is gone, until the child closes it too;
/// they do no harm, as events are hints.
pub(crate) const CLOSING_DEREGISTERS: bool = cfg!(any(target_os = "linux", target_os = "android"));

/// What an event says about a socket.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Readiness {
    /// A read is worth trying: there are bytes, the end of the stream, or an error to be had.
    pub(crate) readable: bool,
    /// A write is worth trying: there is room, or an error to be had.
    pub(crate) writable: bool,
    /// Something stands behind the bytes, and a short read has not reached it: the end of the
    /// stream, or an urgent mark.
    pub(crate) more_behind: bool,
}

impl From<&Event> for Readiness {
    fn from(event: &Event) -> Self {
        let error = event.is_error();
        let read_closed = event.is_read_closed();
        Readiness {
            readable: event.is_readable() || read_closed || error,
            writable: event.is_writable() || event.is_write_closed() || error,
            more_behind: event.is_priority() || read_closed,
        }
    }
}

/// Makes a non-blocking call, again whenever a signal interrupts it. `None` where it would block.
#[inline]
pub(crate) fn nonblocking<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<Option<T>> {
    loop {
        match call() {
            Ok(value) => return Ok(Some(value)),
            Err(error) if is_interruption(&error) => {}
            Err(error) => return would_block_or(error),
        }
    }
}

#[cold]
fn is_interruption(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Interrupted
}

#[cold]
fn would_block_or<T>(error: io::Error) -> io::Result<Option<T>> {
    if error.kind() == io::ErrorKind::WouldBlock {
        Ok(None)
    } else {
        Err(error)
    }
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [
            (self.readable, "readable"),
            (self.writable, "writable"),
            (self.more_behind, "end of stream or urgent mark ahead"),
        ];
        let mut separator = "";
        for (_, name) in all.iter().filter(|(is_so, _)| *is_so) {
            write!(f, "{separator}{name}")?;
            separator = ", ";
        }
        Ok(())
    }
}
