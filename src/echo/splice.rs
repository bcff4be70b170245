//! A stream in bulk: through a pipe, and not through this program's memory.

use std::io;
use std::mem;

use log::trace;

use super::connection::{Connection, Next, State};
use crate::echo::pipes::Pipes;
use crate::echo::scratch::Scratch;
use crate::echo::send_buffer::Unsent;
use crate::net::nonblocking;
use crate::net::stream::Stream;
use crate::stats::Stats;

impl<S: Stream> Connection<S> {
    /// A read has filled the buffer: the next bytes may go through a pipe.
    pub(super) fn turn_to_bulk(&mut self, pipes: &Pipes<S::Pipe>, count: usize) {
        if pipes.are_for(count) {
            self.state = State::Bulk;
            self.resumes_as = State::Bulk;
        }
    }

    /// What [`echo`](Connection::echo) does, but without a copy; or `None` where nothing comes into
    /// the pipe, and a read has to be asked why. splice(2) would not say: it comes to nothing at a
    /// TCP urgent mark as well, and if the stream's end is somewhere behind the mark it even says
    /// that this is the end.
    pub(super) fn forward(
        &mut self,
        scratch: &mut Scratch<S::Pipe>,
        stats: &mut Stats,
    ) -> io::Result<Option<Next>> {
        let count = self.fill_pipe(&mut scratch.pipes)?;
        if count == 0 {
            self.give_back(&mut scratch.pipes);
            return Ok(None);
        }
        self.last_progress = scratch.now;
        stats.buffered += count;
        stats.bytes_received += count as u64;
        stats.bytes_zero_copied += count as u64;
        if !scratch.pipes.are_for(count) {
            self.resumes_as = State::Echoing;
        }
        self.state = State::Stalled;
        self.flush(scratch, stats).map(Some)
    }

    /// Gives the number of bytes that are in the pipe then. Without a pipe there are none.
    fn fill_pipe(&mut self, pipes: &mut Pipes<S::Pipe>) -> io::Result<usize> {
        let Some(mut pipe) = pipes.take() else {
            return Ok(0);
        };
        let filled = nonblocking(|| self.stream.splice_in(&mut pipe));
        self.unsent = Unsent::Pipe(pipe);
        let count = filled?.unwrap_or(0);
        trace!("{}: splice {count} bytes in", self.peer);
        Ok(count)
    }

    /// Sends what is in the pipe, as far as it goes.
    pub(super) fn drain_pipe(&mut self) -> io::Result<usize> {
        let Unsent::Pipe(pipe) = &mut self.unsent else {
            return Ok(0);
        };
        let sent = nonblocking(|| self.stream.splice_out(pipe))?.unwrap_or(0);
        trace!("{}: splice {sent} bytes out", self.peer);
        Ok(sent)
    }

    /// Lets go of the pipe, if there is one.
    pub(super) fn give_back(&mut self, pipes: &mut Pipes<S::Pipe>) {
        if let Unsent::Pipe(pipe) = mem::take(&mut self.unsent) {
            pipes.give_back(pipe);
        }
    }
}
