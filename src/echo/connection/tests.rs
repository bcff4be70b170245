//! A connection over streams that are played: first by a script, call by call; then by a model of
//! an edge-triggered socket, in every order that things can happen.

mod model;
mod scripted;

use std::io;
use std::net::Ipv4Addr;
use std::time::Instant;

use super::{Connection, Shared, Stream, WriteBuffer};
use crate::echo::shared::Pipes;
use crate::net::stream::Peer;
use crate::net::{Pipe, Readiness};

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
fn shared(buffer_size: usize, worth_it: usize) -> Shared<List> {
    Shared {
        read_buffer: vec![u8::MAX; buffer_size].into(),
        pipes: Pipes::with_splice_min(worth_it),
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
    read_until_would_block: false,
};
const WRITABLE: Readiness = Readiness {
    readable: false,
    writable: true,
    read_until_would_block: false,
};
const END_AHEAD: Readiness = Readiness {
    readable: true,
    writable: true,
    read_until_would_block: true,
};

#[test]
fn write_buffer_keeps_order_and_frees_its_memory_with_the_last_byte() {
    let mut buffer = WriteBuffer::copy_of(b"abcdef").unwrap();
    buffer.consume(4);
    assert_eq!(buffer.unsent(), b"ef");
    assert_eq!(buffer.bytes.len(), 6);
    buffer.consume(2);
    assert_eq!(buffer.bytes.len(), 0);
}
