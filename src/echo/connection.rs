//! One peer's bytes, from read to write to half-close.
//!
//! A connection is always in one of these states, and each names what moves it on:
//!
//! ```text
//!             readable edge              there may be more to read
//!   Waiting ───────────────► Echoing ──────────────────────────────► on the run queue ─► Echoing
//!      ▲                        │ │ write would block                       (next turn)
//!      │ nothing more to read   │ └───────────► Stalled: unsent bytes kept, not reading
//!      └────────────────────────┘                  │ writable edge ─► flush ─► Echoing
//!   peer half-closed and nothing unsent ─► Finished, and closed
//!   drain time over ─► Ending: what is unsent is flushed ─► shutdown(Write)
//!                      ─► Lingering: what the peer still sends is read and discarded
//!   any error                           ─► Closed
//! ```

use std::io;
use std::time::Instant;

use log::{Level, log_enabled, trace};

use crate::echo::scratch::Scratch;
use crate::echo::send_buffer::{SendBuffer, Unsent};
use crate::echo::timers::{Millis, Timeout};
use crate::net::stream::{Peer, Stream};
use crate::net::{Readiness, SHORT_MEANS_EXHAUSTED, nonblocking};
use crate::stats::{Reason, Stats};

/// What a connection asks for at the end of a turn.
#[derive(Debug)]
pub(crate) enum Next {
    /// Nothing until an event: the system has been read or written as far as it goes.
    Wait,
    /// The same, and bytes are unsent.
    WaitStalled,
    /// Another turn: there may be more to do, and no event will say so.
    Again,
    /// To be closed.
    Close(Reason),
}

/// A connected peer.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(crate) struct Connection<S: Stream> {
    pub(super) stream: S,
    pub(super) peer: Peer,
    opened: Instant,
    /// When a byte was read or written last.
    pub(super) last_progress: Millis,
    /// How many bytes were written back.
    echoed: u64,
    /// Empty unless Stalled or Ending.
    pub(super) unsent: Unsent<S::Pipe>,
    pub(super) state: State,
    /// See [`Readiness::more_behind`] and [`Peer::cuts_reads_short`]; until a read would block.
    more_behind: bool,
    /// What comes after Stalled: Echoing, or Bulk.
    pub(super) resumes_as: State,
}

/// The part of the state that a connection knows; see the top of this page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Or Waiting, where it is not on the run queue.
    Echoing,
    /// The same, through a pipe.
    Bulk,
    Lingering,
    Stalled,
    /// To linger as soon as nothing is unsent.
    Ending,
}

impl State {
    fn is_reading(self) -> bool {
        matches!(self, State::Echoing | State::Bulk | State::Lingering)
    }
}

impl<S: Stream> Connection<S> {
    pub(crate) fn new(stream: S, peer: Peer, now: Instant, last_progress: Millis) -> Self {
        Connection {
            stream,
            peer,
            opened: now,
            last_progress,
            echoed: 0,
            unsent: Unsent::default(),
            state: State::Echoing,
            more_behind: peer.cuts_reads_short(),
            resumes_as: State::Echoing,
        }
    }

    /// Takes an event in, and says whether it is worth a turn.
    ///
    /// A stalled connection has no use for readable edges: it will read anyway once it has
    /// flushed. Were it to take them, a peer that sends and does not read would cost CPU.
    pub(crate) fn wake(&mut self, readiness: Readiness) -> bool {
        self.more_behind |= readiness.more_behind;
        (readiness.readable && self.state.is_reading())
            || (readiness.writable && !self.state.is_reading())
    }

    /// At most one read and one write, so that others get their turn however much there is.
    pub(crate) fn turn(&mut self, scratch: &mut Scratch<S::Pipe>, stats: &mut Stats) -> Next {
        let other = match self.state {
            State::Echoing => None,
            _ => self.other_turn(scratch, stats),
        };
        let next = other.unwrap_or_else(|| self.echo(scratch, stats));
        next.unwrap_or_else(|error| Next::Close(error.into()))
    }

    /// Out of the way of what most turns are.
    #[cold]
    fn other_turn(
        &mut self,
        scratch: &mut Scratch<S::Pipe>,
        stats: &mut Stats,
    ) -> Option<io::Result<Next>> {
        match self.state {
            State::Echoing => None,
            State::Bulk => self.forward(scratch, stats).transpose(),
            State::Lingering => Some(self.discard(scratch)),
            State::Stalled | State::Ending => Some(self.flush(scratch, stats)),
        }
    }

    /// Ends the connection from this side, so that all that was read still comes back: what is
    /// unsent is sent, the peer reads the end of the stream, and what it goes on sending is read
    /// and discarded, because closing a socket with unread input resets the connection (RFC 1122,
    /// section 4.2.2.13), which would destroy what is on its way.
    ///
    /// What there is to do is done in turns. The first is due now.
    pub(crate) fn end(&mut self) {
        self.state = State::Ending;
    }

    pub(crate) fn peer(&self) -> Peer {
        self.peer
    }

    /// When a byte was read or written last.
    pub(crate) fn last_progress(&self) -> Millis {
        self.last_progress
    }

    /// How many bytes were written back.
    pub(crate) fn echoed(&self) -> u64 {
        self.echoed
    }

    /// Whether bytes are pending that the system does not take.
    pub(crate) fn is_write_blocked(&self) -> bool {
        !self.state.is_reading()
    }

    /// Whether the timeout applies in the present state. The end of a shutdown has a deadline of its
    /// own and no other.
    pub(crate) fn is_subject_to(&self, timeout: Timeout) -> bool {
        match (timeout, self.state) {
            (_, State::Ending | State::Lingering) => false,
            (Timeout::Idle, _) => true,
            (Timeout::Write, state) => state == State::Stalled,
        }
    }

    pub(crate) fn stream(&self) -> &S {
        &self.stream
    }

    pub(crate) fn stream_mut(&mut self) -> &mut S {
        &mut self.stream
    }

    /// Gives up what is pending. Every connection does this before it is dropped: the pipe belongs
    /// to all, and the memory counts for the budget.
    pub(crate) fn release(&mut self, scratch: &mut Scratch<S::Pipe>, stats: &mut Stats) {
        stats.buffered -= self.unsent.held();
        self.give_back(&mut scratch.pipes);
    }

    /// What a log says of a connection at its end.
    pub(crate) fn summary(&self, now: Instant) -> String {
        let (echoed, unsent) = (self.echoed, self.unsent.len());
        let age = now.saturating_duration_since(self.opened);
        format!("{echoed} bytes echoed, {unsent} unsent, after {age:.3?}")
    }

    /// Echoing: what is read is written back.
    fn echo(&mut self, scratch: &mut Scratch<S::Pipe>, stats: &mut Stats) -> io::Result<Next> {
        let buffer = &mut scratch.buffer[..];
        let count = match nonblocking(|| self.stream.read(buffer))? {
            Some(0) => return Ok(self.finish(Reason::Finished)),
            Some(count) => count,
            None => return Ok(self.exhausted()),
        };
        self.last_progress = scratch.now;
        stats.bytes_received += count as u64;
        self.trace("read", count, buffer.len());
        let bytes = &buffer[..count];
        let sent = nonblocking(|| self.stream.write(bytes))?.unwrap_or(0);
        self.count_sent(sent, stats);
        self.trace("write", sent, count);
        let is_full = count == buffer.len();
        if is_full {
            self.turn_to_bulk(&scratch.pipes, count);
        }
        if sent < count {
            self.unsent = Unsent::Buffer(SendBuffer::copy_of(&bytes[sent..])?);
            stats.buffered += self.unsent.held();
            self.state = State::Stalled;
            return Ok(self.stall(sent));
        }
        Ok(self.after_reading(is_full))
    }

    /// Lingering: what is read is discarded.
    #[cold]
    fn discard(&mut self, scratch: &mut Scratch<S::Pipe>) -> io::Result<Next> {
        let buffer = &mut scratch.buffer[..];
        let count = match nonblocking(|| self.stream.read(buffer))? {
            Some(0) => return Ok(self.finish(Reason::Cut)),
            Some(count) => count,
            None => return Ok(self.exhausted()),
        };
        self.last_progress = scratch.now;
        self.trace("read", count, buffer.len());
        Ok(self.after_reading(count == buffer.len()))
    }

    /// Stalled: what was kept is written, and nothing is read before all of it is. Ending: the
    /// same, and nothing is written after it.
    pub(super) fn flush(
        &mut self,
        scratch: &mut Scratch<S::Pipe>,
        stats: &mut Stats,
    ) -> io::Result<Next> {
        if self.unsent.len() > 0 {
            let held = self.unsent.held();
            let sent = self.send_unsent()?;
            stats.buffered -= held - self.unsent.held();
            self.count_sent(sent, stats);
            if sent > 0 {
                self.last_progress = scratch.now;
            }
            if self.unsent.len() > 0 {
                return Ok(self.stall(sent));
            }
            self.give_back(&mut scratch.pipes);
        }
        if self.state == State::Ending {
            trace!("{}: shutdown of the writing half", self.peer);
            self.stream.shutdown_write()?;
            self.state = State::Lingering;
        } else {
            self.state = self.resumes_as;
        }
        Ok(Next::Again)
    }

    fn send_unsent(&mut self) -> io::Result<usize> {
        let buffer = match &mut self.unsent {
            Unsent::Buffer(buffer) => buffer,
            Unsent::Pipe(_) => return self.drain_pipe(),
        };
        let unsent = buffer.unsent().len();
        let sent = nonblocking(|| self.stream.write(buffer.unsent()))?.unwrap_or(0);
        buffer.consume(sent);
        self.trace("write", sent, unsent);
        Ok(sent)
    }

    fn after_reading(&self, is_full: bool) -> Next {
        let is_exhausted = SHORT_MEANS_EXHAUSTED && !is_full && !self.more_behind;
        if is_exhausted {
            Next::Wait
        } else {
            Next::Again
        }
    }

    /// A read would block.
    fn exhausted(&mut self) -> Next {
        trace!("{}: a read would block", self.peer);
        self.more_behind = self.peer.cuts_reads_short();
        Next::Wait
    }

    /// A write took only some of the bytes, or none because it would block.
    fn stall(&mut self, sent: usize) -> Next {
        trace!(
            "{}: stalled with {} bytes unsent",
            self.peer,
            self.unsent.len()
        );
        // Of a short splice(2), epoll(7) does not say what it means.
        let is_short_write = matches!(self.unsent, Unsent::Buffer(_)) && SHORT_MEANS_EXHAUSTED;
        let is_exhausted = is_short_write || sent == 0;
        if is_exhausted {
            Next::WaitStalled
        } else {
            Next::Again
        }
    }

    /// The peer will send no more. To close the socket is to tell it that this side will not either.
    fn finish(&mut self, reason: Reason) -> Next {
        trace!("{}: end of stream", self.peer);
        Next::Close(reason)
    }

    fn count_sent(&mut self, sent: usize, stats: &mut Stats) {
        self.echoed += sent as u64;
        stats.bytes_sent += sent as u64;
    }

    fn trace(&self, call: &str, count: usize, size: usize) {
        if log_enabled!(Level::Trace) {
            trace_call(self.peer, call, count, size);
        }
    }
}

/// Out of the way of the calls that it is about.
#[cold]
fn trace_call(peer: Peer, call: &str, count: usize, size: usize) {
    trace!("{peer}: {call} {count} of {size} bytes");
}

#[cfg(test)]
mod tests;
