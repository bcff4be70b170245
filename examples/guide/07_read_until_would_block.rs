//! Step 07, read until `WouldBlock`: `cargo run --example guide_07`, and `docs/guide/07.md`.

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
    let mut events = Events::with_capacity(256);
    poll.registry()
        .register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut streams = Slab::new();
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            polled => polled?,
        }
        for event in &events {
            let key = event.token().0;
            if event.token() == LISTENER {
                while let Ok((mut stream, _)) = listener.accept() {
                    let entry = streams.vacant_entry();
                    let (token, interest) = (Token(entry.key()), Interest::READABLE);
                    poll.registry().register(&mut stream, token, interest)?;
                    entry.insert(stream);
                }
            } else if let Some(stream) = streams.get_mut(key) {
                let result = echo(stream);
                if !matches!(result, Ok(true)) {
                    println!("connection {key} closed: {result:?}");
                    streams.remove(key);
                }
            }
        }
    }
}

/// Reads until a read would block, and writes back. Returns whether the connection stays open.
fn echo(stream: &mut TcpStream) -> io::Result<bool> {
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(false),
            // The fault: `write_all` treats a full send buffer as an error.
            Ok(count) => stream.write_all(&buffer[..count])?,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
            Err(error) => return Err(error),
        }
    }
}
