//! Step 06, edge-triggered events of mio: `cargo run --example guide_06`, and `docs/guide/06.md`.

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
                // The fault: further connections in the backlog are not announced again.
                if let Ok((mut stream, _)) = listener.accept() {
                    let entry = streams.vacant_entry();
                    let (token, interest) = (Token(entry.key()), Interest::READABLE);
                    poll.registry().register(&mut stream, token, interest)?;
                    entry.insert(stream);
                }
            } else if let Some(stream) = streams.get_mut(key)
                && !echo(stream).unwrap_or(false)
            {
                streams.remove(key);
            }
        }
    }
}

/// Makes one read and writes back. Returns whether the connection stays open.
fn echo(stream: &mut TcpStream) -> io::Result<bool> {
    let mut buffer = [0; 4096];
    // The fault: bytes beyond these 4,096 are not announced again.
    let count = match stream.read(&mut buffer) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
        read => read?,
    };
    stream.write_all(&buffer[..count])?;
    Ok(count > 0)
}
