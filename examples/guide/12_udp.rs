//! Step 12, UDP: `cargo run --example guide_12`, and `docs/guide/12.md`.

mod arguments;

use std::io::{self, ErrorKind};
use std::time::Duration;

use mio::net::UdpSocket;
use mio::{Events, Interest, Poll, Token};

/// The most bytes of a datagram over IPv4.
const MAX_DATAGRAM: usize = 65_507;
const MAX_DATAGRAMS_PER_TURN: usize = 32;

fn main() -> io::Result<()> {
    // No listen(2) and no accept(2): one socket receives from all peers.
    let mut socket = UdpSocket::bind(arguments::address())?;
    println!("listening on udp://{}", socket.local_addr()?);
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(1);
    poll.registry()
        .register(&mut socket, Token(0), Interest::READABLE)?;
    let mut buffer = vec![0; MAX_DATAGRAM];
    let mut has_more = false;
    loop {
        match poll.poll(&mut events, has_more.then_some(Duration::ZERO)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            polled => polled?,
        }
        has_more = turn(&socket, &mut buffer);
    }
}

/// Answers up to a limit of datagrams. Returns whether there may be more.
fn turn(socket: &UdpSocket, buffer: &mut [u8]) -> bool {
    for _ in 0..MAX_DATAGRAMS_PER_TURN {
        match socket.recv_from(buffer) {
            // The fault: the sender may be a server that answers the answer. If the reply cannot be
            // sent it is lost: a datagram may get lost anyway, and to keep it would delay the others.
            Ok((count, peer)) => drop(socket.send_to(&buffer[..count], peer)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            // An error of an earlier reply, such as an ICMP message from its receiver.
            Err(_) => {}
        }
    }
    true
}
