//! A `Server` in another event loop, by its file descriptor, and user sources in its own loop.

#![cfg(unix)]

use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{
    self, accept_one, bind, config, connect, random_bytes, run_until_idle, turn_until,
};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use mio_echo::Server;

/// A poll that waits for the descriptor of the server.
fn poll_for(server: &Server) -> Poll {
    let poll = Poll::new().unwrap();
    let fd = server.as_raw_fd();
    poll.registry()
        .register(&mut SourceFd(&fd), Token(0), Interest::READABLE)
        .unwrap();
    poll
}

/// mio watches edge-triggered: it reports the descriptor once, however many events remain behind it.
#[test]
fn server_nested_in_another_poll_echoes() {
    const CLIENTS: usize = 8;
    let (mut server, address) = bind(config().buffer_size(1000).max_turns(3));
    assert_eq!(server.as_fd().as_raw_fd(), server.as_raw_fd());
    let mut outer = poll_for(&server);
    let mut events = Events::with_capacity(4);

    let bytes = random_bytes(100_000);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let bytes = bytes.clone();
            thread::spawn(move || common::echo_to_the_end(connect(address), &bytes))
        })
        .collect();
    // Makes turns only after an event of the outer poll or at the server's own deadline.
    while server.stats().closed.peer_closed < CLIENTS as u64 {
        let until = |deadline: Instant| deadline.saturating_duration_since(Instant::now());
        let timeout = server.deadline().map_or(common::LIMIT, until);
        outer.poll(&mut events, Some(timeout)).unwrap();
        assert!(
            !events.is_empty() || timeout == Duration::ZERO,
            "never readable"
        );
        server.turn(Some(Duration::ZERO)).unwrap();
    }
    for client in clients {
        assert!(client.join().unwrap() == bytes);
    }
}

/// For hosts that wait for the descriptor only, as calloop, glib and asyncio do.
#[test]
fn shutdown_makes_the_descriptor_readable() {
    let (mut server, _) = bind(config());
    let mut outer = poll_for(&server);
    let mut events = Events::with_capacity(4);
    run_until_idle(&mut server);
    outer.poll(&mut events, Some(Duration::ZERO)).unwrap();
    server.shutdown();
    outer.poll(&mut events, Some(common::LIMIT)).unwrap();
    assert!(!events.is_empty(), "never readable");
    server.turn(Some(Duration::ZERO)).unwrap();
    assert!(server.is_finished());
}

#[test]
fn events_beyond_the_capacity_are_handled_in_the_next_turn() {
    let (mut server, address) = bind(config());
    let mut clients: Vec<_> = (0..260).map(|_| connect(address)).collect();
    turn_until(&mut server, |server| server.stats().active == 260);
    run_until_idle(&mut server);
    for client in &mut clients {
        client.write_all(b"!").unwrap();
    }
    server.turn(Some(Duration::ZERO)).unwrap();
    assert!(
        server.stats().bytes_sent < 260,
        "all events fit into one turn"
    );
    assert_eq!(
        server.timeout(),
        Some(Duration::ZERO),
        "the remaining events would wait"
    );
    assert!(server.deadline().unwrap() <= Instant::now());
    server.turn(Some(Duration::ZERO)).unwrap();
    assert_eq!(server.stats().bytes_sent, 260);
    turn_until(&mut server, |server| server.timeout().is_none());
}

#[test]
fn turn_returns_the_events_of_user_sources() {
    let (mut server, _) = bind(config());
    let (near, mut far) = std::os::unix::net::UnixStream::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    let mut near = mio::net::UnixStream::from_std(near);
    let token = Token(Server::USER_TOKENS.start);
    server
        .registry()
        .register(&mut near, token, Interest::READABLE)
        .unwrap();

    let mut client = accept_one(&mut server);
    assert!(server.turn(Some(Duration::ZERO)).unwrap().is_empty());
    far.write_all(b"to the user source").unwrap();
    client.write_all(b"to the echo").unwrap();
    let tokens: Vec<Token> = server
        .turn(Some(common::LIMIT))
        .unwrap()
        .iter()
        .map(mio::event::Event::token)
        .collect();
    assert_eq!(tokens, [token]);
    turn_until(&mut server, |server| server.stats().bytes_sent == 11);

    let mut received = [0; 18];
    near.read_exact(&mut received).unwrap();
    assert_eq!(&received, b"to the user source");
}
