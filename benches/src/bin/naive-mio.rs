//! An echo server as one writes it first with mio. `naive-mio tcp ADDRESS`
//!
//! It reads until reading would block, whatever the others wait for; keeps all that it has read;
//! and asks the selector for writability before it writes, and for readability after that.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::env;
use std::io::{self, ErrorKind, Read, Write};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Registry, Token};

const LISTENER: Token = Token(0);

struct Connection {
    stream: TcpStream,
    unsent: Vec<u8>,
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
                let is_over = if event.is_writable() {
                    connection.write(poll.registry(), token)
                } else {
                    connection.read(poll.registry(), token)
                };
                if is_over.unwrap_or(true) {
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
        let unsent = Vec::new();
        connections.insert(*next, Connection { stream, unsent });
    }
}

impl Connection {
    /// Gives whether the connection is over.
    fn read(&mut self, registry: &Registry, token: Token) -> io::Result<bool> {
        let mut buffer = [0; 4096];
        let is_over = loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => break true,
                Ok(count) => self.unsent.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break false,
                Err(error) => return Err(error),
            }
        };
        if !self.unsent.is_empty() {
            registry.reregister(&mut self.stream, token, Interest::WRITABLE)?;
        }
        Ok(is_over)
    }

    fn write(&mut self, registry: &Registry, token: Token) -> io::Result<bool> {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(count) => drop(self.unsent.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        registry.reregister(&mut self.stream, token, Interest::READABLE)?;
        Ok(false)
    }
}
