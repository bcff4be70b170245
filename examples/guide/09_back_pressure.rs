//! Step 09, back-pressure: `cargo run --example guide_09`, and `docs/guide/09.md`.

mod arguments;

use std::io::{self, ErrorKind, Read, Write};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

const LISTENER: Token = Token(usize::MAX);

fn main() -> io::Result<()> {
    let mut listener = TcpListener::bind(arguments::address())?;
    println!("listening on tcp://{}", listener.local_addr()?);
    let mut poll = Poll::new()?;
    let (mut events, mut connections) = (Events::with_capacity(256), Slab::new());
    let both = Interest::READABLE | Interest::WRITABLE;
    poll.registry().register(&mut listener, LISTENER, both)?;
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            polled => polled?,
        }
        for event in &events {
            let key = event.token().0;
            if event.token() == LISTENER {
                while let Ok((mut stream, _)) = listener.accept() {
                    let entry = connections.vacant_entry();
                    let token = Token(entry.key());
                    poll.registry().register(&mut stream, token, both)?;
                    entry.insert((stream, Vec::new()));
                }
            } else if event.is_read_closed() {
                // The fault: bytes that arrived before the end may not be read and written yet.
                connections.try_remove(key);
            } else if let Some((stream, pending)) = connections.get_mut(key) {
                match echo(stream, pending) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    _ => drop(connections.remove(key)),
                }
            }
        }
    }
}

/// Writes and reads to the end of the stream, or until one of them fails: with `WouldBlock` to wait.
fn echo(stream: &mut TcpStream, pending: &mut Vec<u8>) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        while !pending.is_empty() {
            let count = stream.write(pending)?;
            pending.drain(..count);
        }
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            count => pending.extend_from_slice(&buffer[..count]),
        }
    }
}
