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
    /// Another turn after an event, or else at this time.
    Wait(Instant),
    /// [`respond`](Connection::respond) to the request.
    Respond(Request),
    Close,
}

pub(super) struct Connection<S> {
    pub(super) stream: S,
    phase: Phase,
    /// The end of the phase.
    deadline: Instant,
}

enum Phase {
    /// With the part of the head that was read.
    ReadingRequest(Vec<u8>),
    /// With the part of the response that is not sent.
    SendingResponse(Vec<u8>),
    Lingering,
}

impl<S: Stream> Connection<S> {
    pub(super) fn new(stream: S, now: Instant) -> Self {
        Connection {
            stream,
            phase: Phase::ReadingRequest(Vec::new()),
            deadline: now + REQUEST_TIMEOUT,
        }
    }

    /// The order in which clients are replaced: first those that are still sending their request, and
    /// of these, or of the others, the one whose phase ends first.
    pub(super) fn rank(&self) -> (bool, Instant) {
        let is_reading = matches!(self.phase, Phase::ReadingRequest(_));
        (!is_reading, self.deadline)
    }

    pub(super) fn respond(&mut self, response: Vec<u8>, now: Instant) {
        self.phase = Phase::SendingResponse(response);
        self.deadline = now + REQUEST_TIMEOUT;
    }

    /// Makes at most one read or write. Its result tells whether there is something to do, not an event
    /// or the time: if the process was stopped, a request may have arrived before its deadline, and its
    /// event may still be in the selector.
    pub(super) fn turn(&mut self, now: Instant) -> io::Result<Next> {
        let next = match self.step(now) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Next::Wait(self.deadline),
            next => next?,
        };
        // A step into the next phase has set a new deadline.
        match (next, &self.phase) {
            (Next::Wait(_), Phase::ReadingRequest(_)) if self.deadline <= now => {
                Ok(Next::Respond(Request::error(Status::TIMEOUT)))
            }
            (Next::Wait(_), _) if self.deadline <= now => Ok(Next::Close),
            (next, _) => Ok(next),
        }
    }

    fn step(&mut self, now: Instant) -> io::Result<Next> {
        match &mut self.phase {
            Phase::ReadingRequest(head) => read_request(&mut self.stream, head, now),
            Phase::SendingResponse(response) => {
                let count = self.stream.write(response)?;
                response.drain(..count);
                if response.is_empty() {
                    self.stream.shutdown_write()?;
                    self.phase = Phase::Lingering;
                    self.deadline = now + LINGER_TIMEOUT;
                }
                Ok(Next::Wait(now))
            }
            Phase::Lingering => match self.stream.read(&mut [0; MAX_HEAD])? {
                0 => Ok(Next::Close),
                _ => Ok(Next::Wait(now)),
            },
        }
    }
}

fn read_request(stream: &mut impl Read, head: &mut Vec<u8>, now: Instant) -> io::Result<Next> {
    let mut buffer = [0; MAX_HEAD];
    let room = &mut buffer[head.len()..];
    let count = stream.read(room)?;
    head.extend_from_slice(&room[..count]);
    Ok(match Request::parse(head) {
        Some(request) => Next::Respond(request),
        None if count == 0 && head.is_empty() => Next::Close,
        None if count == 0 => Next::Respond(Request::error(Status::BAD_REQUEST)),
        None if head.len() == MAX_HEAD => Next::Respond(Request::error(Status::TOO_LARGE)),
        None => Next::Wait(now),
    })
}

#[cfg(test)]
mod tests;
