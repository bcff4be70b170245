//! One client: its request, the response, and an end that does not cut the response short.
//!
//! ```text
//!   ReadingRequest  ─► the head is complete, invalid or too large, or REQUEST_TIMEOUT
//!   SendingResponse ─► all is sent ─► shutdown(Write)
//!   Lingering       ─► the client closes, or LINGER_TIMEOUT
//! ```

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use mio::net::TcpStream;

use super::http::{Request, Status};

/// Limit on the bytes of a request's head.
pub(super) const MAX_HEAD: usize = 8 * 1024;

/// Time for the client to send its request, and again to receive the response.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Time for the client to close after the response. Until then its bytes are read and discarded:
/// closing a socket with unread input resets the connection, which can destroy the response in flight
/// (RFC 9112, section 9.6).
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);

/// What a connection needs of its socket.
pub(super) trait Stream: Read + Write {
    fn shutdown_write(&mut self) -> io::Result<()>;
}

impl Stream for TcpStream {
    fn shutdown_write(&mut self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

/// What follows a turn.
#[derive(Debug)]
pub(super) enum Next {
    /// Another turn when it is [due](Connection::due).
    Wait,
    /// [`respond`](Connection::respond) to the request.
    Respond(Request),
    Close,
}

pub(super) struct Connection<S> {
    stream: S,
    phase: Phase,
    opened: Instant,
    /// The end of the phase.
    deadline: Instant,
    /// No call has returned `WouldBlock` since the last event.
    is_ready: bool,
}

enum Phase {
    ReadingRequest { head: Vec<u8> },
    SendingResponse { response: Vec<u8>, sent: usize },
    Lingering,
}

impl<S: Stream> Connection<S> {
    pub(super) fn new(stream: S, now: Instant) -> Self {
        Connection {
            stream,
            phase: Phase::ReadingRequest { head: Vec::new() },
            opened: now,
            deadline: now + REQUEST_TIMEOUT,
            is_ready: true,
        }
    }

    pub(super) fn stream_mut(&mut self) -> &mut S {
        &mut self.stream
    }

    pub(super) fn opened(&self) -> Instant {
        self.opened
    }

    pub(super) fn is_reading_request(&self) -> bool {
        matches!(self.phase, Phase::ReadingRequest { .. })
    }

    /// When the next turn is due if no event comes before; `None` is at once.
    pub(super) fn due(&self) -> Option<Instant> {
        (!self.is_ready).then_some(self.deadline)
    }

    /// After any event: the next call tells what it was.
    pub(super) fn wake(&mut self) {
        self.is_ready = true;
    }

    pub(super) fn respond(&mut self, response: Vec<u8>, now: Instant) {
        let phase = Phase::SendingResponse { response, sent: 0 };
        self.enter(phase, now + REQUEST_TIMEOUT);
    }

    /// Makes at most one read or write.
    pub(super) fn turn(&mut self, now: Instant) -> io::Result<Next> {
        let is_late = self.deadline <= now;
        if !is_late && !self.is_ready {
            return Ok(Next::Wait);
        }
        // Late or not: if the process was stopped, a request may have arrived in time, and its event
        // may still be in the selector.
        let next = match self.step(now) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.is_ready = false;
                Next::Wait
            }
            next => next?,
        };
        // A step into the next phase has set a new deadline.
        match (next, &self.phase) {
            (Next::Wait, Phase::ReadingRequest { .. }) if self.deadline <= now => {
                Ok(Next::Respond(Request::error(Status::TIMEOUT)))
            }
            (Next::Wait, _) if self.deadline <= now => Ok(Next::Close),
            (next, _) => Ok(next),
        }
    }

    fn step(&mut self, now: Instant) -> io::Result<Next> {
        match &mut self.phase {
            Phase::ReadingRequest { head } => read_request(&mut self.stream, head),
            Phase::SendingResponse { response, sent } => {
                *sent += self.stream.write(&response[*sent..])?;
                if *sent == response.len() {
                    self.stream.shutdown_write()?;
                    self.enter(Phase::Lingering, now + LINGER_TIMEOUT);
                }
                Ok(Next::Wait)
            }
            Phase::Lingering => match self.stream.read(&mut [0; MAX_HEAD])? {
                0 => Ok(Next::Close),
                _ => Ok(Next::Wait),
            },
        }
    }

    fn enter(&mut self, phase: Phase, deadline: Instant) {
        self.phase = phase;
        self.deadline = deadline;
        self.is_ready = true;
    }
}

fn read_request(stream: &mut impl Read, head: &mut Vec<u8>) -> io::Result<Next> {
    let mut buffer = [0; MAX_HEAD];
    let room = &mut buffer[head.len()..];
    let count = stream.read(room)?;
    head.extend_from_slice(&room[..count]);
    Ok(match Request::parse(head) {
        Some(request) => Next::Respond(request),
        None if count == 0 && head.is_empty() => Next::Close,
        None if count == 0 => Next::Respond(Request::error(Status::BAD_REQUEST)),
        None if head.len() == MAX_HEAD => Next::Respond(Request::error(Status::TOO_LARGE)),
        None => Next::Wait,
    })
}

#[cfg(test)]
mod tests;
