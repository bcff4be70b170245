//! A peer that does not read: at most one buffer is held for it, nothing is read from it, no CPU
//! is used for it, and when it reads again it gets every byte.

use std::io::Read;
use std::time::{Duration, Instant};

use crate::common::{self, bind, config, connect, has_work, noise, send_what_fits, settle, stall};
use mio_echo::Server;

const BUFFER_SIZE: usize = 10_000;

fn held(server: &Server) -> u64 {
    server.stats().bytes_received - server.stats().bytes_sent
}

#[test]
fn one_buffer_is_held_and_no_more_is_read() {
    let (mut server, address) = bind(config().buffer_size(BUFFER_SIZE));
    let mut client = connect(address);
    let bytes = noise(32 * 1024 * 1024);
    let sent = stall(&mut server, &mut client, &bytes);

    assert!(held(&server) > 0, "not stalled");
    assert!(
        held(&server) <= BUFFER_SIZE as u64,
        "{} bytes are held",
        held(&server)
    );
    assert!(
        server.stats().bytes_received < sent as u64,
        "it read on all the same"
    );
}

#[test]
fn a_stalled_peer_does_not_wake_the_loop() {
    let (mut server, address) = bind(config().buffer_size(BUFFER_SIZE));
    let mut client = connect(address);
    let bytes = noise(32 * 1024 * 1024);
    stall(&mut server, &mut client, &bytes);

    let turns = server.stats().iterations;
    let end = Instant::now() + Duration::from_millis(300);
    while Instant::now() < end {
        let rest = end.saturating_duration_since(Instant::now());
        server.turn(Some(rest)).unwrap();
        assert!(!has_work(&server), "it has a place on the run queue");
    }
    // A probe of the closed window may wake it now and then; a loop that spins turns by thousands.
    let turns = server.stats().iterations - turns;
    assert!(turns < 20, "{turns} turns");
}

#[test]
fn what_comes_in_during_a_stall_is_left_alone() {
    // The client has a small receive buffer, so that the server stalls while the client can still
    // send.
    let (mut server, address) = bind(config().buffer_size(BUFFER_SIZE));
    let mut client = connect(address);
    socket2::SockRef::from(&client)
        .set_recv_buffer_size(4096)
        .unwrap();
    let bytes = noise(100_000);
    let start = Instant::now();
    while held(&server) == 0 {
        assert!(start.elapsed() < common::LIMIT);
        send_what_fits(&mut client, &bytes);
        settle(&mut server);
    }
    let received = server.stats().bytes_received;
    for _ in 0..10 {
        assert_eq!(send_what_fits(&mut client, b"more"), 4, "nothing came in");
        server.turn(Some(Duration::from_millis(1))).unwrap();
        assert!(
            !has_work(&server),
            "a readable edge gave it a place on the run queue"
        );
    }
    assert_eq!(server.stats().bytes_received, received);
}

#[test]
fn every_byte_comes_when_the_peer_reads_again() {
    let (mut server, address) = bind(config().buffer_size(BUFFER_SIZE));
    let mut client = connect(address);
    let bytes = noise(32 * 1024 * 1024);
    let sent = stall(&mut server, &mut client, &bytes);

    let reader = std::thread::spawn(move || {
        let mut echoed = vec![0; sent];
        client.read_exact(&mut echoed).unwrap();
        echoed
    });
    common::turn_until(&mut server, |server| {
        server.stats().bytes_sent == sent as u64
    });
    assert!(reader.join().unwrap() == bytes[..sent]);
    assert_eq!(held(&server), 0);
}
