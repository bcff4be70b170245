//! The echo state machine of one connection.
//!
//! ```text
//!             readable                  more may be readable
//!   Reading ───────────────► echo ─────────────────────► run queue ─► echo (next turn)
//!      ▲                       │ write would block
//!      │ read would block      └──────► WriteBlocked: pending bytes kept, not reading ─ writable ─► flush ─► Reading
//!   end of stream, nothing pending ─► close          error, reset, timeout, limit ─► close with that reason
//!   end of drain time ─► end(): Flushing ─► shutdown(Write) ─► Lingering (read and discard) ─► close
//! ```
//!
//! `Splicing` is `Reading` without a copy: see [`splice`](super::splice).

use std::fmt;
use std::io;
use std::mem;
use std::time::Duration;

use log::{Level, log_enabled, trace};
use mio::Token;

use super::shared::Shared;
use super::timers::{Millis, Timeout};
use crate::net::stream::Peer;
use crate::net::{EVENT_FOLLOWS_SHORT_IO, Pipe, Readiness, Stream, nonblocking};
use crate::stats::{CloseReason, Stats};

/// What a connection asks for at the end of a turn.
#[derive(Debug)]
pub(crate) enum Next {
    /// Wait for an event: there is nothing more to read.
    WaitReadable,
    /// Wait for an event: a write would block, and bytes are pending.
    WaitWritable,
    /// Another turn: there may be more to do, and no event will announce it.
    Again,
    /// Close the connection.
    Close(CloseReason),
}

/// The states that read come first, so that [`reads`](State::reads) is one comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Reading,
    Splicing,
    /// Reads and discards.
    Lingering,
    /// Bytes are pending, and nothing is read.
    WriteBlocked,
    /// As `WriteBlocked`; lingers as soon as nothing is pending.
    Flushing,
}

impl State {
    fn reads(self) -> bool {
        matches!(self, State::Reading | State::Splicing | State::Lingering)
    }
}

/// The name of a connection in the log. The selector reports only the token.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Name {
    pub(crate) peer: Peer,
    pub(crate) token: Token,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (Token {})", self.peer, self.token.0)
    }
}

/// A connected peer.
#[derive(Debug)]
pub(crate) struct Connection<S: Stream> {
    pub(super) stream: S,
    pub(super) name: Name,
    opened: Millis,
    /// When a byte was last read or written.
    pub(super) last_progress: Millis,
    /// How many bytes were written back.
    pub(super) echoed: u64,
    /// Empty unless `WriteBlocked` or `Flushing`.
    pub(super) pending: Pending<S::Pipe>,
    pub(super) state: State,
    /// What follows `WriteBlocked`: `Reading` or `Splicing`.
    pub(super) resume: State,
    /// Whether to read until `EAGAIN`, even after a short read: always on Unix sockets, elsewhere after
    /// an event with [`Readiness::read_until_would_block`].
    read_until_would_block: bool,
    /// Whether it is to have a turn: its key is on the run queue, or among those that have theirs now.
    pub(super) queued: bool,
}

impl<S: Stream> Connection<S> {
    pub(crate) fn new(stream: S, name: Name, now: Millis) -> Self {
        Connection {
            stream,
            name,
            opened: now,
            last_progress: now,
            echoed: 0,
            pending: Pending::default(),
            state: State::Reading,
            resume: State::Reading,
            read_until_would_block: name.peer.may_read_short(),
            queued: false,
        }
    }

    /// Notes an event. Returns whether the caller has to put the connection on the run queue.
    ///
    /// While bytes are pending, a readable event is ignored: the connection reads anyway once it has
    /// flushed. Otherwise a peer that sends without reading would cost a turn for each segment.
    pub(crate) fn wake(&mut self, readiness: Readiness) -> bool {
        let reads = self.state.reads();
        let has_work = (readiness.readable && reads) || (readiness.writable && !reads);
        // A branch, and after this: `|=` takes 12 % more instructions per echo, the other order 6 %.
        if readiness.read_until_would_block {
            self.read_until_would_block = true;
        }
        has_work && !mem::replace(&mut self.queued, true)
    }

    /// Makes at most one read and one write, so that no peer keeps the others waiting.
    pub(crate) fn turn(&mut self, shared: &mut Shared<S::Pipe>, stats: &mut Stats) -> Next {
        self.queued = false;
        let handled = match self.state {
            State::Reading => None,
            _ => self.turn_in_other_state(shared, stats),
        };
        // The only call of `echo`, so that it is inlined: 20 % fewer instructions per echo.
        let next = handled.unwrap_or_else(|| self.echo(shared, stats));
        next.unwrap_or_else(|error| Next::Close(error.into()))
    }

    /// Returns `None` if [`echo`](Connection::echo) completes the turn.
    #[cold]
    fn turn_in_other_state(
        &mut self,
        shared: &mut Shared<S::Pipe>,
        stats: &mut Stats,
    ) -> Option<io::Result<Next>> {
        match self.state {
            State::Reading => None,
            // If nothing was spliced, `echo` reads, which distinguishes `EAGAIN`, the end of the stream
            // and urgent data.
            State::Splicing => self.splice_echo(shared, stats).transpose(),
            State::Lingering => Some(self.discard(shared)),
            State::WriteBlocked | State::Flushing => Some(self.flush(shared, stats)),
        }
    }

    /// Ends the connection from this side, without losing a byte that was read.
    ///
    /// Pending bytes are sent and the peer reads the end of the stream. What it goes on sending is
    /// read and discarded, because closing a socket with unread input resets the connection (RFC
    /// 1122, section 4.2.2.13), which can destroy the bytes on their way. The caller queues it for a turn.
    pub(crate) fn end(&mut self) {
        self.state = State::Flushing;
    }

    /// Whether the timeout applies in the present state. `Flushing` and `Lingering` have the deadline
    /// of the shutdown phase, and no other.
    pub(crate) fn is_subject_to(&self, timeout: Timeout) -> bool {
        match (timeout, self.state) {
            (_, State::Flushing | State::Lingering) => false,
            (Timeout::Idle, _) => true,
            (Timeout::Write, state) => state == State::WriteBlocked,
        }
    }

    /// Returns the pipe to the pool and the held bytes to the memory budget. Pending bytes are lost.
    /// Called before each drop.
    pub(crate) fn release(&mut self, shared: &mut Shared<S::Pipe>, stats: &mut Stats) {
        stats.buffered -= self.pending.held();
        stats.bytes_discarded += self.pending.len() as u64;
        self.release_pipe(&mut shared.pipes);
    }

    /// What the log says of a connection at its end.
    pub(crate) fn summary(&self, now: Millis) -> String {
        let (echoed, pending) = (self.echoed, self.pending.len());
        let seconds = self.age(now).as_secs_f64();
        format!("{echoed} bytes echoed, {pending} pending, after {seconds:.3}s")
    }

    /// How long the connection has been open.
    pub(crate) fn age(&self, now: Millis) -> Duration {
        Duration::from_millis(now - self.opened)
    }

    /// Writes back what it reads.
    fn echo(&mut self, shared: &mut Shared<S::Pipe>, stats: &mut Stats) -> io::Result<Next> {
        let buffer = &mut shared.read_buffer[..];
        let count = match nonblocking(|| self.stream.recv(buffer))? {
            Some(0) => return Ok(self.end_of_stream(CloseReason::PeerClosed)),
            Some(count) => count,
            None => return Ok(self.read_would_block()),
        };
        self.last_progress = shared.now;
        stats.bytes_received += count as u64;
        self.trace("recv", count, buffer.len());
        let bytes = &buffer[..count];
        let sent = match nonblocking(|| self.stream.send(bytes)) {
            Ok(Some(sent)) => sent,
            Ok(None) => 0,
            Err(error) => return Ok(discard_unsent(count, error, stats)),
        };
        self.count_sent(sent, stats);
        self.trace("send", sent, count);
        let is_full = count == buffer.len();
        if is_full && shared.pipes.worth_splicing(count) {
            self.state = State::Splicing;
            self.resume = State::Splicing;
        }
        if sent < count {
            return Ok(self.keep_pending(&bytes[sent..], sent, stats));
        }
        Ok(self.after_read(is_full))
    }

    /// Keeps what could not be sent. Only now does the connection own a buffer. Peers decide how many such
    /// buffers there are, so a lack of memory must not abort the process.
    #[cold]
    fn keep_pending(&mut self, bytes: &[u8], sent: usize, stats: &mut Stats) -> Next {
        self.pending = match self.stream.allocate(bytes.len() + HEADROOM) {
            Ok(memory) => Pending::copy_of(bytes, memory),
            Err(error) => return discard_unsent(bytes.len(), error, stats),
        };
        stats.buffered += self.pending.held();
        self.state = State::WriteBlocked;
        self.after_short_write(sent)
    }

    /// Reads and discards.
    #[cold]
    fn discard(&mut self, shared: &mut Shared<S::Pipe>) -> io::Result<Next> {
        let buffer = &mut shared.read_buffer[..];
        let count = match nonblocking(|| self.stream.recv(buffer))? {
            // The shutdown ended this connection, and what the peer still sent was discarded.
            Some(0) => return Ok(self.end_of_stream(CloseReason::Aborted)),
            Some(count) => count,
            None => return Ok(self.read_would_block()),
        };
        self.last_progress = shared.now;
        self.trace("recv", count, buffer.len());
        Ok(self.after_read(count == buffer.len()))
    }

    /// Sends pending bytes. After the last of them the connection reads again, or lingers if it is
    /// ending.
    pub(super) fn flush(
        &mut self,
        shared: &mut Shared<S::Pipe>,
        stats: &mut Stats,
    ) -> io::Result<Next> {
        if self.pending.len() > 0 {
            let held = self.pending.held();
            let sent = self.send_pending()?;
            stats.buffered -= held - self.pending.held();
            self.count_sent(sent, stats);
            if sent > 0 {
                self.last_progress = shared.now;
            }
            if self.pending.len() > 0 {
                return Ok(self.after_short_write(sent));
            }
            self.release_pipe(&mut shared.pipes);
        }
        if self.state == State::Flushing {
            self.stream.shutdown_write()?;
            let name = self.name;
            trace!(token = name.token.0, call = "shutdown"; "{name}: shutdown(SHUT_WR): 0");
            self.state = State::Lingering;
        } else {
            self.state = self.resume;
        }
        // While it was blocked, readable events were ignored, so read without one.
        Ok(Next::Again)
    }

    fn send_pending(&mut self) -> io::Result<usize> {
        let Pending::Buffer(Some(buffer)) = &mut self.pending else {
            return self.splice_out();
        };
        let bytes = &buffer.bytes[buffer.sent..];
        let pending = bytes.len();
        let count = nonblocking(|| self.stream.send(bytes))?.unwrap_or(0);
        buffer.sent += count;
        if count == pending {
            self.pending = Pending::default();
        }
        self.trace("send", count, pending);
        Ok(count)
    }

    fn after_read(&self, is_full: bool) -> Next {
        if EVENT_FOLLOWS_SHORT_IO && !is_full && !self.read_until_would_block {
            Next::WaitReadable
        } else {
            Next::Again
        }
    }

    fn read_would_block(&mut self) -> Next {
        self.trace("recv", 0, 0);
        self.read_until_would_block = self.name.peer.may_read_short();
        Next::WaitReadable
    }

    /// A write took some of the bytes, or none.
    fn after_short_write(&self, sent: usize) -> Next {
        let pending = self.pending.len();
        let name = self.name;
        trace!(token = name.token.0, pending; "{name}: write-blocked with {pending} bytes pending");
        // On Linux an event follows a short write(2); see epoll(7). None is promised after splice(2).
        let event_follows = matches!(self.pending, Pending::Buffer(_)) && EVENT_FOLLOWS_SHORT_IO;
        if event_follows || sent == 0 {
            Next::WaitWritable
        } else {
            Next::Again
        }
    }

    /// The peer sends no more, and nothing is pending. Closing the socket passes the end on.
    fn end_of_stream(&self, reason: CloseReason) -> Next {
        let name = self.name;
        trace!(token = name.token.0, call = "recv", bytes = 0; "{name}: recv 0 bytes: end of stream");
        Next::Close(reason)
    }

    fn count_sent(&mut self, sent: usize, stats: &mut Stats) {
        self.echoed += sent as u64;
        stats.bytes_sent += sent as u64;
    }

    /// Logs a call. If a call fails, the line about the close has the error.
    pub(super) fn trace(&self, call: &str, count: usize, size: usize) {
        if log_enabled!(Level::Trace) {
            trace_call(&self.name, call, count, size);
        }
    }
}

/// After an error, closes a connection that has read `count` bytes and not sent them.
#[cold]
fn discard_unsent(count: usize, error: io::Error, stats: &mut Stats) -> Next {
    stats.bytes_discarded += count as u64;
    Next::Close(error.into())
}

/// Not inlined, so that the code of reading and writing stays small.
#[cold]
fn trace_call(name: &Name, call: &str, bytes: usize, size: usize) {
    let token = name.token.0;
    // The end of the stream, where recv(2) returns 0, has a line of its own.
    match bytes {
        0 => trace!(token, call, bytes; "{name}: {call}: EAGAIN"),
        _ => trace!(token, call, bytes; "{name}: {call} {bytes} of {size} bytes"),
    }
}

/// Bytes that were read from a peer and that its socket does not take yet.
#[derive(Debug)]
pub(crate) enum Pending<P> {
    /// In memory, which is freed with the last of them; `None` if nothing is pending.
    Buffer(Option<Box<Buffer>>),
    /// Bytes that were [spliced](super::splice).
    Pipe(P),
}

/// Boxed, because most connections have none.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Box<[u8]>,
    sent: usize,
}

/// Bytes of memory that must be free after a copy of pending bytes: allocations that abort the process
/// on failure, such as those of a log line, need them.
const HEADROOM: usize = 16 * 1024;

impl<P: Pipe> Pending<P> {
    /// Copies `bytes` into memory, and reduces it to just their size.
    fn copy_of(bytes: &[u8], mut memory: Vec<u8>) -> Self {
        memory.extend_from_slice(bytes);
        // The conversion frees the headroom.
        let bytes = memory.into();
        Pending::Buffer(Some(Box::new(Buffer { bytes, sent: 0 })))
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Pending::Buffer(buffer) => buffer.as_ref().map_or(0, |it| it.bytes.len() - it.sent),
            Pending::Pipe(pipe) => pipe.len(),
        }
    }

    /// The bytes of memory that count for the budget. A buffer keeps its size until its last byte is
    /// sent.
    pub(super) fn held(&self) -> usize {
        match self {
            Pending::Buffer(buffer) => buffer.as_ref().map_or(0, |it| it.bytes.len()),
            Pending::Pipe(pipe) => pipe.len(),
        }
    }
}

impl<P> Default for Pending<P> {
    fn default() -> Self {
        Pending::Buffer(None)
    }
}

#[cfg(test)]
mod tests;
