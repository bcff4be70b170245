//! Step 03, non-blocking sockets and a busy loop: `cargo run --example guide_03`, and `docs/guide/03.md`.

mod arguments;

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};

fn main() -> io::Result<()> {
    let listener = TcpListener::bind(arguments::address())?;
    // From now on accept(2) returns `EWOULDBLOCK` where it would wait.
    listener.set_nonblocking(true)?;
    println!("listening on tcp://{}", listener.local_addr()?);
    let mut streams = Vec::new();
    // The fault: the loop has no call in which it sleeps.
    loop {
        match listener.accept() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            accepted => {
                let (stream, _) = accepted?;
                stream.set_nonblocking(true)?;
                streams.push(stream);
            }
        }
        streams.retain_mut(|stream| {
            echo(stream).unwrap_or_else(|error| {
                eprintln!("connection closed: {error}");
                false
            })
        });
    }
}

/// Makes one read, if there are bytes, and writes them back. Returns whether the connection stays open.
fn echo(stream: &mut TcpStream) -> io::Result<bool> {
    let mut buffer = [0; 4096];
    let count = match stream.read(&mut buffer) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
        read => read?,
    };
    stream.write_all(&buffer[..count])?;
    Ok(count > 0)
}
