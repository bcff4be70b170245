//! Back-pressure: for a peer that does not read, at most one buffer is held, nothing is read and no
//! CPU is used. When it reads again it gets every byte.

use std::io::Read;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{
    self, Engine, bind, connect_small, random_bytes, run_until_idle, send_until_blocked,
    small_buffers, turn_until, write_block,
};
use mio_echo::Server;

const BUFFER_SIZE: usize = 10_000;

fn pending(server: &Server) -> u64 {
    server.stats().bytes_received - server.stats().bytes_sent
}

/// A server with a write-blocked connection, its client, and the bytes that were sent.
fn write_blocked() -> (Server, TcpStream, Vec<u8>) {
    let (mut server, address) = bind(small_buffers().buffer_size(BUFFER_SIZE));
    let mut client = connect_small(address);
    let mut bytes = random_bytes(4 * 1024 * 1024);
    let sent = write_block(&mut server, &mut client, &bytes);
    bytes.truncate(sent);
    (server, client, bytes)
}

#[test]
fn write_blocked_connection_holds_one_buffer_and_reads_nothing() {
    let (server, _client, sent) = write_blocked();
    let pending = pending(&server);
    assert!(pending <= BUFFER_SIZE as u64, "{pending} bytes are pending");
    assert!(
        server.stats().bytes_received < sent.len() as u64,
        "everything was read"
    );
}

#[test]
fn write_blocked_connection_does_not_wake_the_loop() {
    let (mut server, _client, _) = write_blocked();
    let turns = server.stats().iterations;
    let end = Instant::now() + Duration::from_millis(300);
    while Instant::now() < end {
        let rest = end.saturating_duration_since(Instant::now());
        server.turn(Some(rest)).unwrap();
    }
    // A zero-window probe may wake the loop now and then; a loop that spins makes thousands of turns.
    let turns = server.stats().iterations - turns;
    assert!(turns < 20, "{turns} turns");
}

#[test]
fn input_while_write_blocked_is_not_read() {
    // Only the client's receive buffer is small, so that the server is write-blocked while the
    // client can still send.
    let (mut server, address) = bind(common::config().buffer_size(BUFFER_SIZE));
    let mut client = common::connect(address);
    socket2::SockRef::from(&client)
        .set_recv_buffer_size(4096)
        .unwrap();
    let bytes = random_bytes(100_000);
    let start = Instant::now();
    while pending(&server) == 0 {
        assert!(start.elapsed() < common::LIMIT);
        send_until_blocked(&mut client, &bytes);
        run_until_idle(&mut server);
    }
    let received = server.stats().bytes_received;
    for _ in 0..10 {
        assert_eq!(send_until_blocked(&mut client, b"more"), 4, "not sent");
        server.turn(Some(Duration::from_millis(1))).unwrap();
        assert!(!server.has_work(), "a readable event gave it a turn");
    }
    assert_eq!(server.stats().bytes_received, received);
}

#[test]
fn every_byte_is_echoed_when_the_peer_reads_again() {
    let (mut server, mut client, sent) = write_blocked();
    let count = sent.len();
    let reader = thread::spawn(move || {
        let mut echoed = vec![0; count];
        client.read_exact(&mut echoed).unwrap();
        echoed
    });
    turn_until(&mut server, |server| {
        server.stats().bytes_sent == count as u64
    });
    assert!(reader.join().unwrap() == sent);
    assert_eq!(pending(&server), 0);
}
