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
//!   peer half-closed and nothing unsent ─► shutdown(Write) ─► Finished
//!   drain time over ─► Ending: what is unsent is flushed ─► shutdown(Write)
//!                      ─► Lingering: what the peer still sends is read and discarded
//!   any error                           ─► Closed
//! ```

use std::io;
use std::time::Instant;

use log::{Level, log_enabled, trace};

use crate::readiness::{Readiness, SHORT_MEANS_EXHAUSTED, nonblocking};
use crate::send_buffer::SendBuffer;
use crate::stats::{Reason, Stats};
use crate::stream::{Peer, Stream};

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
#[cfg_attr(test, derive(Clone))]
pub(crate) struct Connection<S> {
    stream: S,
    peer: Peer,
    opened: Instant,
    /// How many bytes were written back.
    echoed: u64,
    /// Empty unless Stalled or Ending.
    unsent: SendBuffer,
    state: State,
    /// See [`Readiness::more_behind`] and [`Peer::cuts_reads_short`]; until a read would block.
    more_behind: bool,
}

/// The part of the state that a connection knows; see the top of this page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Or Waiting, where it is not on the run queue.
    Echoing,
    Lingering,
    Stalled,
    /// To linger as soon as nothing is unsent.
    Ending,
}

impl State {
    fn is_reading(self) -> bool {
        matches!(self, State::Echoing | State::Lingering)
    }
}

impl<S: Stream> Connection<S> {
    pub(crate) fn new(stream: S, peer: Peer, now: Instant) -> Self {
        Connection {
            stream,
            peer,
            opened: now,
            echoed: 0,
            unsent: SendBuffer::default(),
            state: State::Echoing,
            more_behind: peer.cuts_reads_short(),
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
    pub(crate) fn turn(&mut self, scratch: &mut [u8], stats: &mut Stats) -> Next {
        let next = match self.state {
            State::Stalled | State::Ending => self.flush(stats),
            State::Echoing | State::Lingering => self.echo(scratch, stats),
        };
        next.unwrap_or_else(|error| Next::Close(Reason::Failed(error)))
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

    pub(crate) fn stream_mut(&mut self) -> &mut S {
        &mut self.stream
    }

    /// What a log says of a connection at its end.
    pub(crate) fn summary(&self, now: Instant) -> String {
        let (echoed, unsent) = (self.echoed, self.unsent.unsent().len());
        let age = now.saturating_duration_since(self.opened);
        format!("{echoed} bytes echoed, {unsent} unsent, after {age:.3?}")
    }

    /// Echoing: what is read is written back. Lingering: it is discarded.
    fn echo(&mut self, scratch: &mut [u8], stats: &mut Stats) -> io::Result<Next> {
        let count = match nonblocking(|| self.stream.read(scratch))? {
            Some(0) => return self.finish(),
            Some(count) => count,
            None => return Ok(self.exhausted()),
        };
        self.trace("read", count, scratch.len());
        if self.state == State::Echoing {
            stats.bytes_received += count as u64;
            let bytes = &scratch[..count];
            let sent = nonblocking(|| self.stream.write(bytes))?.unwrap_or(0);
            self.trace("write", sent, count);
            self.count_sent(sent, stats);
            if sent < count {
                self.unsent = SendBuffer::keeping(&bytes[sent..]);
                self.state = State::Stalled;
                return Ok(self.stall(sent));
            }
        }
        let is_exhausted = SHORT_MEANS_EXHAUSTED && count < scratch.len() && !self.more_behind;
        Ok(if is_exhausted {
            Next::Wait
        } else {
            Next::Again
        })
    }

    /// Stalled: what was kept is written, and nothing is read before all of it is. Ending: the
    /// same, and nothing is written after it.
    fn flush(&mut self, stats: &mut Stats) -> io::Result<Next> {
        if !self.unsent.is_empty() {
            let bytes = self.unsent.unsent();
            let sent = nonblocking(|| self.stream.write(bytes))?.unwrap_or(0);
            self.trace("write", sent, bytes.len());
            self.count_sent(sent, stats);
            self.unsent.consume(sent);
            if !self.unsent.is_empty() {
                return Ok(self.stall(sent));
            }
        }
        if self.state == State::Ending {
            self.shutdown_write()?;
            self.state = State::Lingering;
        } else {
            self.state = State::Echoing;
        }
        Ok(Next::Again)
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
            self.unsent.unsent().len()
        );
        let is_exhausted = SHORT_MEANS_EXHAUSTED || sent == 0;
        if is_exhausted {
            Next::Wait
        } else {
            Next::Again
        }
    }

    /// The peer will send no more, and everything was written back.
    fn finish(&mut self) -> io::Result<Next> {
        trace!("{}: end of stream", self.peer);
        if self.state == State::Lingering {
            return Ok(Next::Close(Reason::Cut));
        }
        self.shutdown_write()?;
        Ok(Next::Close(Reason::Finished))
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        trace!("{}: shutdown of the writing half", self.peer);
        self.stream.shutdown_write()
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
