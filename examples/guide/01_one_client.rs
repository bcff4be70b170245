//! Step 01, one client at a time: `cargo run --example guide_01`, and `docs/guide/01.md`.

mod arguments;

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};

fn main() -> io::Result<()> {
    // socket(2), bind(2) and listen(2).
    let listener = TcpListener::bind(arguments::address())?;
    println!("listening on tcp://{}", listener.local_addr()?);
    loop {
        let (stream, peer) = listener.accept()?;
        // The fault: the next accept(2) waits until this client has closed.
        if let Err(error) = echo(stream) {
            eprintln!("{peer}: {error}");
        }
    }
}

/// Writes back what it reads, until the end of the stream.
fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        // One write(2) may take only a part. `write_all` calls it until every byte is sent.
        stream.write_all(&buffer[..count])?;
    }
    // close(2), as the stream goes out of scope.
}
