//! A typical first echo server with mio, faults included. `naive-mio tcp ADDRESS`
//!
//! Three traits are typical, and cost time or memory. It reads until `WouldBlock`, however long the other
//! connections wait; keeps every byte it read, without a limit; and registers for writability before it
//! writes, then for readability again.
//!
//! Besides, four faults lose bytes or end the process. Exercise of the guide (`docs/guide/07.md`): find their
//! lines. The end of this file names them.
//!
//! The faults stay, because the comparison measures the server that is often written first. Its loads do
//! not trigger them: they wait for the answer before they close, send no signals, and leave descriptors
//! free.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::env;
use std::io::{self, ErrorKind, Read, Write};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Registry, Token};

const LISTENER: Token = Token(0);

struct Connection {
    stream: TcpStream,
    pending: Vec<u8>,
}

fn main() -> io::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let ["tcp", address] = arguments[..] else {
        return Err(io::Error::other("usage: naive-mio tcp ADDRESS"));
    };
    serve(address)
}

fn serve(address: &str) -> io::Result<()> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(1024);
    let mut listener = TcpListener::bind(address.parse().map_err(io::Error::other)?)?;
    poll.registry()
        .register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut connections = HashMap::new();
    let mut next = LISTENER;
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            let token = event.token();
            if token == LISTENER {
                accept(&listener, poll.registry(), &mut connections, &mut next)?;
            } else if let Some(connection) = connections.get_mut(&token) {
                let closed = if event.is_writable() {
                    connection.write(poll.registry(), token)
                } else {
                    connection.read(poll.registry(), token)
                };
                if closed.unwrap_or(true) {
                    connections.remove(&token);
                }
            }
        }
    }
}

fn accept(
    listener: &TcpListener,
    registry: &Registry,
    connections: &mut HashMap<Token, Connection>,
    next: &mut Token,
) -> io::Result<()> {
    loop {
        let (mut stream, _) = match listener.accept() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            accepted => accepted?,
        };
        stream.set_nodelay(true)?;
        next.0 += 1;
        registry.register(&mut stream, *next, Interest::READABLE)?;
        let pending = Vec::new();
        connections.insert(*next, Connection { stream, pending });
    }
}

impl Connection {
    /// Returns whether the peer has closed the connection.
    fn read(&mut self, registry: &Registry, token: Token) -> io::Result<bool> {
        let mut buffer = [0; 4096];
        let closed = loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => break true,
                Ok(count) => self.pending.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break false,
                Err(error) => return Err(error),
            }
        };
        if !self.pending.is_empty() {
            registry.reregister(&mut self.stream, token, Interest::WRITABLE)?;
        }
        Ok(closed)
    }

    fn write(&mut self, registry: &Registry, token: Token) -> io::Result<bool> {
        while !self.pending.is_empty() {
            match self.stream.write(&self.pending) {
                Ok(count) => drop(self.pending.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        registry.reregister(&mut self.stream, token, Interest::READABLE)?;
        Ok(false)
    }
}

// The four faults:
//
// 1. Half-close loses bytes. If the end of the stream is read in the same event as the bytes before
//    it, the connection is closed with these bytes pending.
// 2. A stalled peer gets an incomplete answer. While a write blocks, the server does not read. If the
//    peer sends more and half-closes meanwhile, both are read in one event afterwards: see 1.
// 3. `EINTR` ends the process. `poll` fails with `ErrorKind::Interrupted` when a signal arrives, and
//    on Linux also after `SIGSTOP` and `SIGCONT` (signal(7)), for example Ctrl-Z and `fg`.
// 4. An error of accept ends the process, for example `EMFILE`: more clients than descriptors.
