//! Step 11, a run queue, and one read and write a turn: `cargo run --example guide_11`, and `docs/guide/11.md`.

mod arguments;

use std::io::{self, ErrorKind, Read, Write};
use std::mem;
use std::time::Duration;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Registry, Token};
use slab::Slab;

const LISTENER: usize = usize::MAX;
const MAX_ACCEPTS_PER_TURN: usize = 32;

enum Next {
    Wait,
    Again,
    Close,
}

struct Connection {
    stream: TcpStream,
    pending: Vec<u8>,
    queued: bool,
}

fn main() -> io::Result<()> {
    let mut listener = TcpListener::bind(arguments::address())?;
    println!("listening on tcp://{}", listener.local_addr()?);
    let (mut poll, mut events) = (Poll::new()?, Events::with_capacity(256));
    poll.registry()
        .register(&mut listener, Token(LISTENER), Interest::READABLE)?;
    let mut connections: Slab<Connection> = Slab::new();
    let mut run_queue = Vec::new();
    let mut accepting = false;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        // While there is work, the loop asks for new events but does not sleep.
        let has_work = accepting || !run_queue.is_empty();
        match poll.poll(&mut events, has_work.then_some(Duration::ZERO)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            polled => polled?,
        }
        for event in &events {
            let key = event.token().0;
            accepting |= key == LISTENER;
            if let Some(connection) = connections.get_mut(key)
                && !mem::replace(&mut connection.queued, true)
            {
                run_queue.push(key);
            }
        }
        // Those that queue again in their turn have to wait for the next round.
        for key in mem::take(&mut run_queue) {
            connections[key].queued = false;
            match connections[key].turn(&mut buffer).unwrap_or(Next::Close) {
                Next::Wait => {}
                Next::Again => {
                    connections[key].queued = true;
                    run_queue.push(key);
                }
                Next::Close => drop(connections.remove(key)),
            }
        }
        accepting = accepting && accept(&listener, poll.registry(), &mut connections);
    }
}

/// Accepts up to a limit. Returns whether there may be more.
fn accept(listener: &TcpListener, registry: &Registry, all: &mut Slab<Connection>) -> bool {
    for _ in 0..MAX_ACCEPTS_PER_TURN {
        let entry = all.vacant_entry();
        let (token, interest) = (Token(entry.key()), Interest::READABLE | Interest::WRITABLE);
        let accepted = listener.accept().and_then(|(mut stream, _)| {
            registry.register(&mut stream, token, interest)?;
            Ok(stream)
        });
        match accepted {
            Ok(stream) => entry.insert(Connection {
                stream,
                pending: Vec::new(),
                queued: false,
            }),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(error) => {
                // The fault: those in the backlog are not announced again, and wait without end.
                eprintln!("accept: {error}");
                return false;
            }
        };
    }
    true
}

impl Connection {
    /// Makes at most one read and one write.
    fn turn(&mut self, buffer: &mut [u8]) -> io::Result<Next> {
        if self.pending.is_empty() {
            let count = match self.stream.read(buffer) {
                Ok(0) => return Ok(Next::Close),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Next::Wait),
                read => read?,
            };
            self.pending.extend_from_slice(&buffer[..count]);
        }
        match self.stream.write(&self.pending) {
            Ok(count) => drop(self.pending.drain(..count)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Next::Wait),
            Err(error) => return Err(error),
        }
        Ok(Next::Again)
    }
}
