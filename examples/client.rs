//! An echo client, as the socket tutorials have it: connect, sendall, recv, close.
//!
//! `cargo run --example client -- 127.0.0.1:7007` sends what you type, line by line, and prints
//! what comes back. At the end of the input (Ctrl-D) it half-closes the connection, and waits
//! until the other end has closed its half too.

use std::env;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(endpoint) = env::args().nth(1) else {
        eprintln!("usage: client HOST:PORT");
        return ExitCode::from(2);
    };
    // The same form as the service prints.
    let address = endpoint.strip_prefix("tcp://").unwrap_or(&endpoint);
    match talk(address) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("client: {endpoint}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn talk(address: &str) -> io::Result<()> {
    // socket(2) and connect(2).
    let mut stream = TcpStream::connect(address)?;

    let mut buffer = [0; 4096];
    loop {
        let count = io::stdin().read(&mut buffer)?;
        if count == 0 {
            break;
        }
        // "sendall": send(2) may take less than it is given, write_all calls it until all is sent.
        stream.write_all(&buffer[..count])?;
        // What was sent comes back, before more is sent: two ends that only send would soon
        // wait for each other for ever, each for the other to receive.
        receive(&mut stream, count)?;
    }

    // shutdown(2): no more is sent, but what is still on its way can be received. The other end
    // reads an end of stream, and closes when it has sent its last.
    stream.shutdown(Shutdown::Write)?;
    receive(&mut stream, usize::MAX)
    // close(2), as the stream goes out of scope.
}

/// Prints what comes, up to `most` bytes or the end of the stream.
fn receive(stream: &mut TcpStream, most: usize) -> io::Result<()> {
    let mut buffer = [0; 4096];
    let mut left = most;
    let mut stdout = io::stdout();
    while left > 0 {
        // recv(2) gives what is there, which may be a part of what was sent, and waits if there
        // is nothing. Zero bytes are the end of the stream.
        let size = left.min(buffer.len());
        let count = stream.read(&mut buffer[..size])?;
        if count == 0 && most != usize::MAX {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if count == 0 {
            break;
        }
        stdout.write_all(&buffer[..count])?;
        left -= count;
    }
    stdout.flush()
}
