//! A connection over simulated streams: a script of calls, and a model of an edge-triggered socket in
//! every order of events.

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

/// A pipe in memory.
#[derive(Debug, Clone, Default)]
struct MemoryPipe(Vec<u8>);

impl Pipe for MemoryPipe {
    fn is_usable() -> bool {
        true
    }

    fn open() -> io::Result<Self> {
        Ok(MemoryPipe::default())
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}

/// A read buffer of that size, and pipes for streams that move at least `splice_min` bytes at once.
fn shared(buffer_size: usize, splice_min: usize) -> Shared<MemoryPipe> {
    Shared {
        read_buffer: vec![u8::MAX; buffer_size].into(),
        pipes: Pipes::with_splice_min(splice_min),
        now: 0,
    }
}

/// The most bytes that one splice moves.
const PIPE_SIZE: usize = 3;

/// A value of `splice_min` that disables splicing.
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
const READ_UNTIL_WOULD_BLOCK: Readiness = Readiness {
    readable: true,
    writable: true,
    read_until_would_block: true,
};

#[test]
fn write_buffer_keeps_order_and_frees_memory_with_the_last_byte() {
    let mut buffer = WriteBuffer::copy_of(b"abcdef").unwrap();
    buffer.consume(4);
    assert_eq!(buffer.unsent(), b"ef");
    assert_eq!(buffer.bytes.len(), 6);
    buffer.consume(2);
    assert_eq!(buffer.bytes.len(), 0);
}
