//! Zero copy: bytes that go from a socket to a pipe and from there to a socket, by splice(2), stay
//! in the system's memory; what moves is who owns the pages.

use std::fmt;
use std::io;

use log::debug;

use crate::config::ZeroCopy;

/// How many bytes a move has to have, or else a stream is read and written. That takes two calls for a
/// message that comes alone, and splicing takes four: in, out, in vain, and a read to be told why.
const WORTH_IT: usize = 16 * 1024;

/// How many pipes there may be. Each is two descriptors.
pub(crate) const MOST_PIPES: usize = 32;

/// What zero copy asks of a pipe. The tests have some that are none of the system's.
pub(crate) trait Pipe: Sized + fmt::Debug {
    /// Whether splice(2) works here, found out by a trial. Later errors are errors of a connection:
    /// splice(2) also returns what is pending on the socket, such as `EACCES` after an ICMP message.
    fn is_usable() -> bool;

    /// See pipe(2).
    fn open() -> io::Result<Self>;

    /// How many bytes are in it.
    fn len(&self) -> usize;
}

/// The pipes of an engine. One is enough for all connections that keep up, as it holds nothing
/// between two turns; one that does not keeps the pipe with what its peer has not taken.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(crate) struct Pipes<P> {
    /// From how many bytes in one move on they are used; `usize::MAX` where they are not.
    worth_it: usize,
    /// Empty.
    spare: Option<P>,
    /// Those that connections keep among them.
    open: usize,
}

impl<P: Pipe> Pipes<P> {
    pub(crate) fn new(zero_copy: ZeroCopy) -> Self {
        let is_on = zero_copy == ZeroCopy::Auto && P::is_usable();
        Pipes::for_moves_of(if is_on { WORTH_IT } else { usize::MAX })
    }

    pub(crate) fn for_moves_of(worth_it: usize) -> Self {
        Pipes {
            worth_it,
            spare: None,
            open: 0,
        }
    }

    /// Whether a stream of which so many bytes were moved at once is for a pipe.
    pub(crate) fn are_for(&self, count: usize) -> bool {
        count >= self.worth_it
    }

    /// An empty pipe, unless there are too many, or no descriptor is left for one.
    pub(crate) fn take(&mut self) -> Option<P> {
        if self.spare.is_some() {
            return self.spare.take();
        }
        if !self.is_on() || self.open == MOST_PIPES {
            return None;
        }
        match P::open() {
            Ok(pipe) => {
                self.open += 1;
                Some(pipe)
            }
            Err(error) => {
                debug!("no pipe to be had: {error}");
                None
            }
        }
    }

    /// Takes a pipe back. What is in it is lost.
    pub(crate) fn give_back(&mut self, pipe: P) {
        if self.spare.is_none() && pipe.len() == 0 {
            self.spare = Some(pipe);
        } else {
            self.open -= 1;
        }
    }

    fn is_on(&self) -> bool {
        self.worth_it != usize::MAX
    }
}
