//! A connection over streams that are played: first by a script, call by call; then by a model of
//! an edge-triggered socket, in every order that things can happen.

mod model;
mod scripted;

use std::io;
use std::net::Ipv4Addr;
use std::time::Instant;

use super::{Connection, Stream};
use crate::echo::pipes::{Pipe, Pipes};
use crate::echo::scratch::Scratch;
use crate::net::Readiness;
use crate::net::stream::Peer;

fn connect<S: Stream>(stream: S) -> Connection<S> {
    Connection::new(
        stream,
        Peer::Tcp((Ipv4Addr::LOCALHOST, 7).into()),
        Instant::now(),
        0,
    )
}

/// A pipe that is a list of bytes.
#[derive(Debug, Clone, Default)]
struct List(Vec<u8>);

impl Pipe for List {
    fn is_usable() -> bool {
        true
    }

    fn open() -> io::Result<Self> {
        Ok(List::default())
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}

/// A buffer of so many bytes, and pipes for moves of so many.
fn scratch(buffer_size: usize, worth_it: usize) -> Scratch<List> {
    Scratch {
        buffer: vec![u8::MAX; buffer_size].into(),
        pipes: Pipes::for_moves_of(worth_it),
        now: 0,
    }
}

/// How many bytes are moved into one at a time.
const PIPE_SIZE: usize = 3;

/// No move is that large.
const NO_PIPES: usize = usize::MAX;

const READABLE: Readiness = Readiness {
    readable: true,
    writable: false,
    more_behind: false,
};
const WRITABLE: Readiness = Readiness {
    readable: false,
    writable: true,
    more_behind: false,
};
const MORE_BEHIND: Readiness = Readiness {
    readable: true,
    writable: true,
    more_behind: true,
};
