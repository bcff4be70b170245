//! Streams in bulk go through pipes, and nothing that is promised changes.

#![cfg(any(target_os = "linux", target_os = "android"))]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;

use crate::common::{
    self, Running, bind, config, connect, echo, echo_to_the_end, is_served, noise,
};
use crate::common::{read_to_the_end, reset, send_what_fits, settle, stall, turn_until};
use mio_echo::{Server, ZeroCopy};
use socket2::SockRef;

/// More than what the sockets of a connection hold.
const MUCH: usize = 32 * 1024 * 1024;

/// How many pipes there are at the most.
const PIPES: usize = 32;

/// How many bytes one holds.
const PIPE_SIZE: usize = 256 * 1024;

/// A connection that is in bulk: it has filled the buffer at once.
fn in_bulk(server: &mut Server) -> TcpStream {
    let address = common::addresses(server)[0];
    let mut client = connect(address);
    let before = server.stats();
    let bytes = noise(256 * 1024);
    let mut sent = 0;
    while server.stats().bytes_zero_copied == before.bytes_zero_copied {
        sent += send_what_fits(&mut client, &bytes);
        settle(server);
        read_echo(server, &mut client, before.bytes_sent + sent as u64);
    }
    client
}

/// Reads until so many bytes have been sent back, by all connections together.
fn read_echo(server: &mut Server, client: &mut TcpStream, count: u64) {
    let mut buffer = vec![0; 1024 * 1024];
    client.set_nonblocking(true).unwrap();
    turn_until(server, |server| {
        while client.read(&mut buffer).is_ok() {}
        server.stats().bytes_sent == count
    });
    while client.read(&mut buffer).is_ok() {}
    client.set_nonblocking(false).unwrap();
}

#[test]
fn a_stream_in_bulk_is_not_copied_and_comes_back_whole() {
    let server = Running::start(config());
    let bytes = noise(MUCH);
    assert!(echo_to_the_end(server.connect(), &bytes) == bytes);
    let stats = server.stop();
    assert_eq!(stats.bytes_sent, MUCH as u64);
    assert!(
        stats.bytes_zero_copied > MUCH as u64 / 2,
        "copied all but {}",
        stats.bytes_zero_copied
    );
}

#[test]
fn it_can_be_turned_off() {
    let server = Running::start(config().zero_copy(ZeroCopy::Off));
    let bytes = noise(MUCH);
    assert!(echo_to_the_end(server.connect(), &bytes) == bytes);
    assert_eq!(server.stop().bytes_zero_copied, 0);
}

#[test]
fn small_messages_and_small_buffers_are_not_worth_it() {
    let server = Running::start(config());
    let mut client = server.connect();
    for size in 1..2_000 {
        assert_eq!(echo(&mut client, &noise(size)).len(), size);
    }
    drop(client);
    assert_eq!(server.stop().bytes_zero_copied, 0);

    let server = Running::start(config().buffer_size(16 * 1024 - 1));
    let bytes = noise(1024 * 1024);
    assert!(echo_to_the_end(server.connect(), &bytes) == bytes);
    assert_eq!(server.stop().bytes_zero_copied, 0);
}

#[test]
fn small_messages_are_read_again_after_a_stream_in_bulk() {
    let (mut server, _) = bind(config());
    let mut client = in_bulk(&mut server);
    for round in 0..10 {
        let before = server.stats();
        client.write_all(b"small").unwrap();
        read_echo(&mut server, &mut client, before.bytes_sent + 5);
        let copied = server.stats().bytes_zero_copied == before.bytes_zero_copied;
        assert!(copied || round == 0, "each message goes through a pipe");
    }
}

#[test]
fn urgent_bytes_stay_in_their_places_in_bulk() {
    let server = Running::start(config());
    let bytes = noise(MUCH);
    let mut client = server.connect();
    let mut reader = client.try_clone().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            // The last byte of each piece is urgent, and that of all has the end behind it.
            for piece in bytes.chunks(300_000) {
                let (urgent, rest) = piece.split_last().unwrap();
                client.write_all(rest).unwrap();
                let sent = SockRef::from(&client).send_out_of_band(&[*urgent]);
                assert_eq!(sent.unwrap(), 1);
            }
            client.shutdown(std::net::Shutdown::Write).unwrap();
        });
        assert!(read_to_the_end(&mut reader) == bytes);
    });
    let stats = server.stop();
    assert!(stats.bytes_zero_copied > 0, "never in bulk");
    assert_eq!((stats.closed.peer_closed, stats.closed.error), (1, 0));
}

#[test]
fn who_is_in_bulk_does_not_see_an_end_at_a_mark() {
    let (mut server, _) = bind(config());
    let mut client = in_bulk(&mut server);
    let before = server.stats();
    assert_eq!(SockRef::from(&client).send_out_of_band(b"!").unwrap(), 1);
    client.write_all(b"behind").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    turn_until(&mut server, |server| server.stats().active == 0);
    assert_eq!(server.stats().bytes_sent - before.bytes_sent, 7);
    assert_eq!(read_to_the_end(&mut client), b"!behind");
}

#[test]
fn for_those_who_do_not_read_one_pipe_each_is_held_and_pipes_run_out_for_nobody() {
    let (mut server, address) = bind(config());
    let bytes = noise(MUCH);
    let mut peers = Vec::new();
    for number in 1..=PIPES + 8 {
        let mut client = connect(address);
        let sent = stall(&mut server, &mut client, &bytes);
        peers.push((client, sent));
        let held = server.stats().bytes_received - server.stats().bytes_sent;
        assert!(held <= (number * PIPE_SIZE) as u64, "{held} bytes are held");
    }
    let mut other = connect(address);
    let handle = server.shutdown_handle();
    let server = thread::spawn(move || {
        server.run().unwrap();
        server.stats()
    });
    assert!(is_served(&mut other));
    drop(other);
    for (mut client, sent) in peers {
        let mut echoed = vec![0; sent];
        client.read_exact(&mut echoed).unwrap();
        assert!(echoed == bytes[..sent]);
    }
    handle.shutdown().unwrap();
    let stats = server.join().unwrap();
    assert!(stats.bytes_zero_copied > 0, "never in bulk");
    assert_eq!(
        (stats.closed.peer_closed, stats.closed.error),
        (PIPES as u64 + 9, 0)
    );
}

#[test]
fn pipes_of_those_who_reset_serve_others() {
    let (mut server, address) = bind(config());
    let bytes = noise(MUCH);
    for _ in 0..=PIPES {
        let mut client = connect(address);
        stall(&mut server, &mut client, &bytes);
        reset(client);
        turn_until(&mut server, |server| server.stats().active == 0);
    }
    in_bulk(&mut server);
}
