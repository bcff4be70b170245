//! Zero copy: a stream in bulk goes from its socket into a pipe and back by splice(2). The bytes stay
//! in the system's memory; only the ownership of the pages changes.
//!
//! One pipe serves all connections that keep up, as it is empty between two turns. A connection that
//! is write-blocked keeps its pipe, with the pending bytes in it. Whether splice works is found out
//! once, by a trial: later errors of splice(2) are errors of that connection, because it also returns
//! the pending error of the socket (such as `EACCES` after an ICMP message).

use std::io;
use std::mem;

use log::{debug, trace};

use super::connection::{Connection, Next, Pending, Shared, State};
use crate::config::ZeroCopy;
use crate::net::{Pipe, Stream, nonblocking};
use crate::stats::Stats;

/// The least that one splice has to move, in bytes; with less the connection reads and writes again.
/// That takes two calls for a message that comes alone, and splicing takes four: in, out, in again
/// without a result, and a read that tells why.
const SPLICE_MIN: usize = 16 * 1024;

/// The limit of open pipes. Each has two descriptors.
pub(crate) const MAX_PIPES: usize = 32;

impl<S: Stream> Connection<S> {
    /// Splices into the pipe and out of it, once each. Returns `None` if nothing came in.
    ///
    /// A read has to tell why, then: splice(2) moves nothing at a TCP urgent mark either, and reports
    /// the end of the stream there if the end is anywhere behind the mark.
    pub(super) fn splice_echo(
        &mut self,
        shared: &mut Shared<S::Pipe>,
        stats: &mut Stats,
    ) -> io::Result<Option<Next>> {
        let count = self.splice_in(&mut shared.pipes)?;
        if count == 0 {
            self.release_pipe(&mut shared.pipes);
            return Ok(None);
        }
        self.last_progress = shared.now;
        stats.buffered += count;
        stats.bytes_received += count as u64;
        stats.bytes_zero_copied += count as u64;
        if !shared.pipes.worth_splicing(count) {
            self.resume = State::Reading;
        }
        self.state = State::WriteBlocked;
        self.flush(shared, stats).map(Some)
    }

    /// Returns the number of bytes that came into the pipe; 0 if there is no pipe.
    fn splice_in(&mut self, pipes: &mut Pipes<S::Pipe>) -> io::Result<usize> {
        let Some(mut pipe) = pipes.take() else {
            return Ok(0);
        };
        let moved = nonblocking(|| self.stream.splice_in(&mut pipe));
        self.pending = Pending::Pipe(pipe);
        let count = moved?.unwrap_or(0);
        trace!("{}: splice {count} bytes in", self.peer);
        Ok(count)
    }

    /// Returns the number of bytes that left the pipe.
    pub(super) fn splice_out(&mut self) -> io::Result<usize> {
        let Pending::Pipe(pipe) = &mut self.pending else {
            return Ok(0);
        };
        let count = nonblocking(|| self.stream.splice_out(pipe))?.unwrap_or(0);
        trace!("{}: splice {count} bytes out", self.peer);
        Ok(count)
    }

    /// Returns the pipe, if the connection has one.
    pub(super) fn release_pipe(&mut self, pipes: &mut Pipes<S::Pipe>) {
        if let Pending::Pipe(pipe) = mem::take(&mut self.pending) {
            pipes.give_back(pipe);
        }
    }
}

/// The pool of pipes.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(crate) struct Pipes<P> {
    /// The least number of bytes that is worth a pipe; `usize::MAX` turns splicing off.
    splice_min: usize,
    /// An empty pipe.
    spare: Option<P>,
    /// How many pipes are open, in the pool and in connections.
    open: usize,
}

impl<P: Pipe> Pipes<P> {
    pub(crate) fn new(zero_copy: ZeroCopy) -> Self {
        let is_on = zero_copy == ZeroCopy::Auto && P::is_usable();
        Pipes::with_splice_min(if is_on { SPLICE_MIN } else { usize::MAX })
    }

    pub(crate) fn with_splice_min(splice_min: usize) -> Self {
        Pipes {
            splice_min,
            spare: None,
            open: 0,
        }
    }

    /// Whether a stream that moved so many bytes at once is to be spliced.
    pub(crate) fn worth_splicing(&self, count: usize) -> bool {
        count >= self.splice_min
    }

    /// An empty pipe; `None` at the limit, or without a descriptor or memory for one.
    pub(crate) fn take(&mut self) -> Option<P> {
        if self.spare.is_some() {
            return self.spare.take();
        }
        if self.open == MAX_PIPES {
            return None;
        }
        match P::open() {
            Ok(pipe) => {
                self.open += 1;
                Some(pipe)
            }
            Err(error) => {
                debug!("cannot open a pipe: {error}");
                None
            }
        }
    }

    /// Takes a pipe back. One that holds bytes is closed, and they are lost.
    pub(crate) fn give_back(&mut self, pipe: P) {
        if self.spare.is_none() && pipe.len() == 0 {
            self.spare = Some(pipe);
        } else {
            self.open -= 1;
        }
    }
}
