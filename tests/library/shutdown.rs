//! Shutting down: nobody new, those connected until they finish or the drain time is over, and
//! nothing lost that was read.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::common::{
    LIMIT, Running, bind, config, connect, echo, is_served, noise, read_to_the_end, stall,
    turn_until,
};

#[test]
fn an_idle_server_ends_at_once() {
    let server = Running::start(config().drain_timeout(LIMIT * 10));
    let handle = server.shutdown_handle();
    assert_eq!(server.stop().accepted, 0);
    handle.shutdown().unwrap(); // After its end, this changes nothing.
}

#[test]
fn who_is_connected_is_echoed_until_they_finish_and_nobody_else() {
    let (mut server, address) = bind(config().drain_timeout(LIMIT * 10));
    let mut client = connect(address);
    turn_until(&mut server, |server| server.stats().active == 1);
    server.shutdown();
    server.shutdown();
    let refused = TcpStream::connect(address).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);

    for round in 1..=3 {
        client.write_all(b"still there?").unwrap();
        turn_until(&mut server, |server| {
            server.stats().bytes_sent == 12 * round
        });
    }
    assert!(!server.is_finished());
    drop(client);
    turn_until(&mut server, |server| server.is_finished());
    assert_eq!(
        server.endpoints()[0].address().unwrap(),
        address,
        "it still says where it was"
    );
}

#[test]
fn connections_that_wait_to_be_accepted_are_served_too() {
    // As many as wait where the backlog is full; see the test of the backlog.
    let (mut server, address) = bind(config().backlog(10).drain_timeout(LIMIT * 10));
    let clients: Vec<TcpStream> = (0..11).map(|_| connect(address)).collect();
    server.shutdown();
    assert_eq!(server.stats().active, 11);
    let handle = std::thread::spawn(move || {
        for mut client in clients {
            assert!(is_served(&mut client));
        }
    });
    turn_until(&mut server, |server| server.is_finished());
    handle.join().unwrap();
    assert_eq!(server.stats().closed.peer_closed, 11);
}

#[test]
fn an_idle_peer_reads_the_end_of_the_stream_when_the_drain_time_is_over() {
    let server = Running::start(config().drain_timeout(Duration::from_millis(50)));
    let mut client = server.connect();
    assert_eq!(echo(&mut client, b"hello"), b"hello");
    let reader = std::thread::spawn(move || read_to_the_end(&mut client));
    let stats = server.stop();
    assert_eq!(reader.join().unwrap(), b"");
    assert_eq!(stats.closed.aborted, 1);
}

#[test]
fn without_a_drain_time_it_ends_at_once() {
    let (mut server, address) = bind(config().drain_timeout(Duration::ZERO));
    let client = connect(address);
    turn_until(&mut server, |server| server.stats().active == 1);
    server.shutdown();
    server.turn(None).unwrap();
    assert!(server.is_finished());
    assert_eq!(server.stats().closed.aborted, 1);
    drop(client);
}

#[test]
fn a_peer_that_neither_reads_nor_goes_cannot_hold_it_up() {
    let (mut server, address) = bind(config().drain_timeout(Duration::from_millis(1)));
    let mut stalled = connect(address);
    let idle = connect(address);
    stall(&mut server, &mut stalled, &noise(32 * 1024 * 1024));
    server.shutdown();
    turn_until(&mut server, |server| server.is_finished());
    assert_eq!(server.stats().closed.aborted, 2);
    drop(idle);
    let mut rest = Vec::new();
    // Cut off: the end of the stream or a reset, but not for ever.
    let _ = stalled.read_to_end(&mut rest);
}
