//! One peer's bytes, from read to write to half-close.
//!
//! A connection is always in one of these states, and each names what moves it on:
//!
//! ```text
//!             readable edge              scratch full, budget spent
//!   Waiting ───────────────► Echoing ──────────────────────────────► on the run queue ─► Echoing
//!      ▲                        │ │ write would block                       (next turn)
//!      │ read would block       │ └───────────► Stalled: unsent bytes kept, not reading
//!      └────────────────────────┘                  │ writable edge ─► flush ─► Echoing
//!   peer half-closed and nothing unsent ─► shutdown(Write) ─► Finished
//!   drain time over and nothing unsent  ─► shutdown(Write) ─► Lingering: read and discarded
//!   any error                           ─► Closed
//! ```

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::Instant;

use log::trace;
use mio::net::TcpStream;

use crate::readiness::{Readiness, SHORT_MEANS_EXHAUSTED, nonblocking};
use crate::send_buffer::SendBuffer;
use crate::stats::{Reason, Stats};

/// What a connection needs of its socket. The tests have scripted ones.
pub(crate) trait Stream: Read + Write {
    /// Ends the writing half: the peer reads the end of the stream. See shutdown(2).
    fn shutdown_write(&mut self) -> io::Result<()>;
}

impl Stream for TcpStream {
    fn shutdown_write(&mut self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

/// What a connection asks for at the end of a turn.
#[derive(Debug)]
pub(crate) enum Next {
    /// Nothing until an event: the system has been read or written as far as it goes.
    Wait,
    /// Another turn: there may be more to do, and no event will say so.
    Again,
    /// To be closed.
    Close(Reason),
}

/// A connected peer.
#[derive(Debug)]
pub(crate) struct Connection<S> {
    stream: S,
    peer: SocketAddr,
    opened: Instant,
    received: u64,
    /// Not empty: Stalled.
    unsent: SendBuffer,
    /// See [`Readiness::more_behind`]; stays until a read would block.
    more_behind: bool,
    lingering: bool,
}

impl<S: Stream> Connection<S> {
    pub(crate) fn new(stream: S, peer: SocketAddr, now: Instant) -> Self {
        Connection {
            stream,
            peer,
            opened: now,
            received: 0,
            unsent: SendBuffer::default(),
            more_behind: false,
            lingering: false,
        }
    }

    /// Takes an event in, and says whether it is worth a turn.
    ///
    /// A stalled connection has no use for readable edges: it will read anyway once it has
    /// flushed. Were it to take them, a peer that sends and does not read would cost CPU.
    pub(crate) fn wake(&mut self, readiness: Readiness) -> bool {
        self.more_behind |= readiness.more_behind;
        if self.is_stalled() {
            readiness.writable
        } else {
            readiness.readable
        }
    }

    /// At most one read and one write, so that others get their turn however much there is.
    pub(crate) fn turn(&mut self, scratch: &mut [u8], stats: &mut Stats) -> Next {
        if self.lingering {
            return self.discard(scratch);
        }
        let next = if self.is_stalled() {
            self.flush(stats)
        } else {
            self.echo(scratch, stats)
        };
        next.unwrap_or_else(|error| Next::Close(Reason::Failed(error)))
    }

    /// Ends the connection from this side, so that all that was written still arrives: the peer
    /// reads the end of the stream, and what it goes on sending is read and discarded, because
    /// closing a socket with unread input resets the connection (RFC 1122, section 4.2.2.13).
    ///
    /// Gives false where that cannot be: the peer does not take what it was sent, or has gone.
    pub(crate) fn linger(&mut self) -> bool {
        self.lingering = !self.is_stalled() && self.stream.shutdown_write().is_ok();
        self.lingering
    }

    pub(crate) fn peer(&self) -> SocketAddr {
        self.peer
    }

    pub(crate) fn stream_mut(&mut self) -> &mut S {
        &mut self.stream
    }

    /// What a log says of a connection at its end.
    pub(crate) fn summary(&self, now: Instant) -> impl fmt::Display {
        let sent = self.received - self.unsent.unsent().len() as u64;
        let age = now.saturating_duration_since(self.opened);
        format!(
            "{} bytes received, {sent} sent, open for {age:.3?}",
            self.received
        )
    }

    fn is_stalled(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Waiting and Echoing: what is read is written back.
    fn echo(&mut self, scratch: &mut [u8], stats: &mut Stats) -> io::Result<Next> {
        let Some(count) = self.read(scratch)? else {
            return Ok(Next::Wait);
        };
        if count == 0 {
            trace!(
                "{}: end of stream, shutting down the writing half",
                self.peer
            );
            self.stream.shutdown_write()?;
            return Ok(Next::Close(Reason::Finished));
        }
        self.received += count as u64;
        stats.bytes_received += count as u64;

        let sent = write(&mut self.stream, self.peer, &scratch[..count])?;
        stats.bytes_sent += sent.unwrap_or(0) as u64;
        if sent == Some(count) {
            return Ok(self.after_read(count, scratch.len()));
        }
        self.unsent = SendBuffer::keeping(&scratch[sent.unwrap_or(0)..count]);
        Ok(self.while_stalled(sent))
    }

    /// Stalled: what was kept is written, and nothing read before all of it is.
    fn flush(&mut self, stats: &mut Stats) -> io::Result<Next> {
        let sent = write(&mut self.stream, self.peer, self.unsent.unsent())?;
        stats.bytes_sent += sent.unwrap_or(0) as u64;
        self.unsent.consume(sent.unwrap_or(0));
        Ok(if self.is_stalled() {
            self.while_stalled(sent)
        } else {
            Next::Again
        })
    }

    /// Lingering: what is read is discarded.
    fn discard(&mut self, scratch: &mut [u8]) -> Next {
        match self.read(scratch) {
            Ok(None) => Next::Wait,
            Ok(Some(0)) | Err(_) => Next::Close(Reason::Cut),
            Ok(Some(count)) => self.after_read(count, scratch.len()),
        }
    }

    /// Whether a read has emptied the socket.
    fn after_read(&self, count: usize, size: usize) -> Next {
        let exhausted = SHORT_MEANS_EXHAUSTED && count < size && !self.more_behind;
        if exhausted { Next::Wait } else { Next::Again }
    }

    /// Whether a write that did not take everything has filled the socket.
    fn while_stalled(&self, sent: Option<usize>) -> Next {
        let exhausted = SHORT_MEANS_EXHAUSTED || sent.is_none();
        trace!(
            "{}: stalled with {} bytes unsent",
            self.peer,
            self.unsent.unsent().len()
        );
        if exhausted { Next::Wait } else { Next::Again }
    }

    /// `None` where it would block, 0 at the end of the stream.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let count = nonblocking(|| self.stream.read(buffer))?;
        match count {
            Some(count) => trace!(
                "{}: read {count} of at most {} bytes",
                self.peer,
                buffer.len()
            ),
            None => trace!("{}: a read would block", self.peer),
        }
        self.more_behind &= count.is_some();
        Ok(count)
    }
}

/// `None` where it would block.
fn write(stream: &mut impl Write, peer: SocketAddr, bytes: &[u8]) -> io::Result<Option<usize>> {
    let count = nonblocking(|| stream.write(bytes))?;
    match count {
        // Not of a socket; but to take it for progress would be to spin.
        Some(0) => return Err(io::ErrorKind::WriteZero.into()),
        Some(count) => trace!("{peer}: wrote {count} of {} bytes", bytes.len()),
        None => trace!("{peer}: a write would block"),
    }
    Ok(count)
}

#[cfg(test)]
mod tests {}
