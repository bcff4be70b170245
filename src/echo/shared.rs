//! What all connections share: the read buffer and the pool of pipes.

use log::debug;

use super::timers::Millis;
use crate::config::ZeroCopy;
use crate::net::Pipe;

/// The least that one splice has to move, in bytes; with less the connection reads and writes again.
/// That takes two calls for a message that comes alone, and splicing takes four: in, out, in again
/// without a result, and a read that tells why.
const SPLICE_MIN: usize = 16 * 1024;

/// The limit of open pipes. Each has two descriptors.
pub(crate) const MAX_PIPES: usize = 32;

/// Shared by all connections. Neither the buffer nor the spare pipe holds a byte between two turns.
#[derive(Debug)]
pub(crate) struct Shared<P> {
    pub(crate) read_buffer: Box<[u8]>,
    pub(crate) pipes: Pipes<P>,
    /// The time of this turn.
    pub(crate) now: Millis,
}

impl<P: Pipe> Shared<P> {
    pub(crate) fn new(buffer_size: usize, zero_copy: ZeroCopy) -> Self {
        Shared {
            read_buffer: vec![0; buffer_size].into(),
            pipes: Pipes::new(zero_copy),
            now: 0,
        }
    }
}

/// The pool of pipes.
///
/// Whether splice(2) works is found out once, by a trial. Later errors are errors of a connection,
/// because splice(2) also returns the pending error of the socket, such as `EACCES` after an ICMP message.
#[derive(Debug)]
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
