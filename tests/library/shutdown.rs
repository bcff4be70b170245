//! Shutdown: no new connections, open ones until they close or the drain time ends, and every byte
//! that was read is echoed.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::common::{
    LIMIT, Running, accept_one, bind, config, connect, connect_small, echo, is_served,
    random_bytes, read_to_the_end, small_buffers, turn_until, write_block,
};

#[test]
fn idle_server_stops_immediately() {
    let server = Running::start(config().drain_timeout(LIMIT * 10));
    let handle = server.shutdown_handle();
    assert_eq!(server.stop().accepted, 0);
    handle.shutdown().unwrap(); // No effect after the end.
}

#[test]
fn drain_serves_open_connections_and_refuses_new_ones() {
    let (mut server, address) = bind(config().drain_timeout(LIMIT * 10));
    let mut client = accept_one(&mut server);
    server.shutdown();
    server.shutdown();
    let refused = TcpStream::connect(address).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);

    for round in 1..=3 {
        client.write_all(b"twelve bytes").unwrap();
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
        "the endpoint is still listed"
    );
}

#[test]
fn shutdown_accepts_and_serves_pending_connections() {
    // A full queue: one connection more than the backlog.
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
fn idle_peer_reads_eof_at_the_end_of_the_drain_time() {
    let server = Running::start(config().drain_timeout(Duration::from_millis(50)));
    let mut client = server.connect();
    assert_eq!(echo(&mut client, b"hello"), b"hello");
    let reader = std::thread::spawn(move || read_to_the_end(&mut client));
    let stats = server.stop();
    assert_eq!(reader.join().unwrap(), b"");
    assert_eq!(stats.closed.aborted, 1);
}

#[test]
fn zero_drain_timeout_stops_immediately() {
    let (mut server, _) = bind(config().drain_timeout(Duration::ZERO));
    let client = accept_one(&mut server);
    server.shutdown();
    server.turn(None).unwrap();
    assert!(server.is_finished());
    assert_eq!(server.stats().closed.aborted, 1);
    drop(client);
}

#[test]
fn write_blocked_and_idle_peers_do_not_delay_the_end() {
    let (mut server, address) = bind(small_buffers().drain_timeout(Duration::from_millis(1)));
    let mut blocked = connect_small(address);
    let idle = connect(address);
    let bytes = random_bytes(4 * 1024 * 1024);
    write_block(&mut server, &mut blocked, &bytes);
    server.shutdown();
    turn_until(&mut server, |server| server.is_finished());
    assert_eq!(server.stats().closed.aborted, 2);
    drop(idle);
    // Ends with the end of the stream or a reset, and does not block.
    let _ = blocked.read_to_end(&mut Vec::new());
}
