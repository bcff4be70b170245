//! One client: its question, the answer, and an end that does not cut the answer short.
//!
//! ```text
//!   Asking ─► the head is there, cannot be had, or has taken too long
//!   Answering ─► all of it is sent ─► shutdown(Write)
//!   Lingering ─► the client closes, or has had its time
//! ```

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use mio::net::TcpStream;

use super::http::{Request, Status};
use super::nonblocking;

/// The most bytes that the head of a request may have, its request line and its end among them.
pub(super) const HEAD_MAX: usize = 8 * 1024;

/// For how long a client may take to ask, and then to take the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// For how long a client that was answered may go on sending: what it sends is discarded, because
/// closing a socket with unread input resets the connection, which can destroy the answer on its
/// way (RFC 9112, section 9.6).
const LINGER: Duration = Duration::from_secs(1);

/// What a connection needs of its socket.
pub(super) trait Stream: Read + Write {
    fn shutdown_write(&mut self) -> io::Result<()>;
}

impl Stream for TcpStream {
    fn shutdown_write(&mut self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

/// What a connection wants after a turn.
#[derive(Debug)]
pub(super) enum Next {
    /// Another turn when it is [due](Connection::due).
    Wait,
    /// To be told the answer.
    Answer(Request),
    Close,
}

pub(super) struct Connection<S> {
    stream: S,
    phase: Phase,
    opened: Instant,
    /// When the phase is over.
    until: Instant,
    /// Whether a call is worth a try: none has said "would block" since the last event.
    is_ready: bool,
}

enum Phase {
    Asking { head: Vec<u8> },
    Answering { answer: Vec<u8>, sent: usize },
    Lingering,
}

impl<S: Stream> Connection<S> {
    pub(super) fn new(stream: S, now: Instant) -> Self {
        Connection {
            stream,
            phase: Phase::Asking { head: Vec::new() },
            opened: now,
            until: now + PATIENCE,
            is_ready: true,
        }
    }

    pub(super) fn stream_mut(&mut self) -> &mut S {
        &mut self.stream
    }

    pub(super) fn opened(&self) -> Instant {
        self.opened
    }

    /// Whether its request is not complete yet.
    pub(super) fn is_asking(&self) -> bool {
        matches!(self.phase, Phase::Asking { .. })
    }

    /// When it wants a turn if no event comes before; `None` is at once.
    pub(super) fn due(&self) -> Option<Instant> {
        (!self.is_ready).then_some(self.until)
    }

    /// There was an event: whatever it was, a call tells more.
    pub(super) fn wake(&mut self) {
        self.is_ready = true;
    }

    /// Gives it what to send.
    pub(super) fn answer(&mut self, answer: Vec<u8>, now: Instant) {
        self.enter(Phase::Answering { answer, sent: 0 }, now + PATIENCE);
    }

    /// At most one read or write. A phase whose time is over has its turn first: while the process was
    /// stopped its request may have arrived, and the event for it may still be in the selector.
    pub(super) fn turn(&mut self, now: Instant) -> io::Result<Next> {
        let is_over = self.until <= now;
        let next = if is_over || self.is_ready {
            self.step(now)?
        } else {
            Next::Wait
        };
        // Not if the step began the next phase, which has its own time.
        if is_over && self.until <= now && matches!(next, Next::Wait) {
            return Ok(self.time_is_over());
        }
        Ok(next)
    }

    fn step(&mut self, now: Instant) -> io::Result<Next> {
        match self.phase {
            Phase::Asking { .. } => self.ask(),
            Phase::Answering { .. } => self.send(now),
            Phase::Lingering => self.discard(),
        }
    }

    fn enter(&mut self, phase: Phase, until: Instant) {
        self.phase = phase;
        self.until = until;
        self.is_ready = true;
    }

    fn time_is_over(&self) -> Next {
        match self.phase {
            Phase::Asking { .. } => Next::Answer(Request::refused(Status::TIMEOUT)),
            Phase::Answering { .. } | Phase::Lingering => Next::Close,
        }
    }

    fn ask(&mut self) -> io::Result<Next> {
        let Phase::Asking { head } = &mut self.phase else {
            return Ok(Next::Wait);
        };
        let mut buffer = [0; HEAD_MAX];
        let room = &mut buffer[head.len()..];
        let Some(count) = nonblocking(|| self.stream.read(room))? else {
            self.is_ready = false;
            return Ok(Next::Wait);
        };
        head.extend_from_slice(&room[..count]);
        Ok(match Request::parse(head) {
            Some(request) => Next::Answer(request),
            None if count == 0 && head.is_empty() => Next::Close,
            None if count == 0 => Next::Answer(Request::refused(Status::BAD_REQUEST)),
            None if head.len() == HEAD_MAX => Next::Answer(Request::too_large(head)),
            None => Next::Wait,
        })
    }

    fn send(&mut self, now: Instant) -> io::Result<Next> {
        let Phase::Answering { answer, sent } = &mut self.phase else {
            return Ok(Next::Wait);
        };
        match nonblocking(|| self.stream.write(&answer[*sent..]))? {
            Some(count) => *sent += count,
            None => self.is_ready = false,
        }
        if *sent == answer.len() {
            self.stream.shutdown_write()?;
            self.enter(Phase::Lingering, now + LINGER);
        }
        Ok(Next::Wait)
    }

    fn discard(&mut self) -> io::Result<Next> {
        match nonblocking(|| self.stream.read(&mut [0; HEAD_MAX]))? {
            Some(0) => return Ok(Next::Close),
            Some(_) => {}
            None => self.is_ready = false,
        }
        Ok(Next::Wait)
    }
}

#[cfg(test)]
mod tests;
