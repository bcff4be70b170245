//! A `Server` in another loop, by its file descriptor, and other sources in its own.

#![cfg(unix)]

use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use crate::common::{self, bind, config, connect, noise};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use mio_echo::Server;

#[test]
fn a_server_nested_in_another_poll_echoes() {
    let (mut server, address) = bind(config().buffer_size(1000));
    assert_eq!(server.as_fd().as_raw_fd(), server.as_raw_fd());
    let mut outer = Poll::new().unwrap();
    let mut events = Events::with_capacity(4);
    let fd = server.as_raw_fd();
    outer
        .registry()
        .register(&mut SourceFd(&fd), Token(0), Interest::READABLE)
        .unwrap();

    let bytes = noise(200_000);
    let echoed = std::thread::spawn({
        let bytes = bytes.clone();
        move || common::echo_to_the_end(connect(address), &bytes)
    });
    // It has turns only when the outer poll says so, or its own timeout.
    while server.stats().closed.peer_closed == 0 {
        let timeout = server.timeout().unwrap_or(common::LIMIT);
        outer.poll(&mut events, Some(timeout)).unwrap();
        assert!(
            !events.is_empty() || timeout == Duration::ZERO,
            "it was never readable"
        );
        server.turn(Some(Duration::ZERO)).unwrap();
    }
    assert!(echoed.join().unwrap() == bytes);
}

#[test]
fn more_events_than_a_turn_takes_are_not_forgotten() {
    let limit = nix::sys::resource::Resource::RLIMIT_NOFILE;
    let (soft, hard) = nix::sys::resource::getrlimit(limit).unwrap();
    if soft < 1024 {
        nix::sys::resource::setrlimit(limit, hard.min(1024), hard).unwrap();
    }
    let (mut server, address) = bind(config());
    let mut clients: Vec<_> = (0..300).map(|_| connect(address)).collect();
    common::turn_until(&mut server, |server| server.stats().active == 300);
    common::settle(&mut server);
    for client in &mut clients {
        client.write_all(b"!").unwrap();
    }
    server.turn(Some(Duration::ZERO)).unwrap();
    assert!(
        server.stats().bytes_sent < 300,
        "all events were taken at once"
    );
    assert_eq!(
        server.timeout(),
        Some(Duration::ZERO),
        "there are more events"
    );
    server.turn(Some(Duration::ZERO)).unwrap();
    assert_eq!(server.stats().bytes_sent, 300);
    common::turn_until(&mut server, |server| server.timeout().is_none());
}

#[test]
fn a_turn_gives_the_events_of_guests() {
    let (mut server, address) = bind(config());
    let (near, mut far) = std::os::unix::net::UnixStream::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    let mut near = mio::net::UnixStream::from_std(near);
    let token = Token(Server::GUEST_TOKENS.start);
    server
        .registry()
        .register(&mut near, token, Interest::READABLE)
        .unwrap();

    let mut client = connect(address);
    common::turn_until(&mut server, |server| server.stats().active == 1);
    assert!(server.turn(Some(Duration::ZERO)).unwrap().is_empty());
    far.write_all(b"to the guest").unwrap();
    client.write_all(b"to the echo").unwrap();
    let guests: Vec<Token> = server
        .turn(Some(common::LIMIT))
        .unwrap()
        .iter()
        .map(mio::event::Event::token)
        .collect();
    assert_eq!(guests, [token]);
    common::turn_until(&mut server, |server| server.stats().bytes_sent == 11);

    let mut heard = [0; 12];
    near.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"to the guest");
}
