//! Zero copy: a stream in bulk goes from its socket into a pipe and back by splice(2). The bytes stay
//! in the system's memory; only the ownership of the pages changes.
//!
//! One pipe serves all connections that keep up, as it is empty between two turns. A connection that
//! is write-blocked keeps its pipe, with the pending bytes in it.

use std::io;
use std::mem;

use log::trace;

use super::connection::{Connection, Next, Pending, State};
use super::shared::{Pipes, Shared};
use crate::net::{Pipe, Stream, nonblocking, outcome};
use crate::stats::Stats;

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
        let (name, bytes) = (self.name, pipe.len());
        self.pending = Pending::Pipe(pipe);
        let count = |count: &usize| format!(" {count} bytes");
        trace!(token = name.token.0, call = "splice in", bytes;
            "{name}: splice in{}", outcome(&moved, count));
        Ok(moved?.unwrap_or(0))
    }

    /// Returns the number of bytes that left the pipe.
    pub(super) fn splice_out(&mut self) -> io::Result<usize> {
        let Pending::Pipe(pipe) = &mut self.pending else {
            return Ok(0);
        };
        let pending = pipe.len();
        let count = nonblocking(|| self.stream.splice_out(pipe))?.unwrap_or(0);
        self.trace("splice out", count, pending);
        Ok(count)
    }

    /// Returns the pipe, if the connection has one.
    pub(super) fn release_pipe(&mut self, pipes: &mut Pipes<S::Pipe>) {
        if let Pending::Pipe(pipe) = mem::take(&mut self.pending) {
            pipes.give_back(pipe);
        }
    }
}
