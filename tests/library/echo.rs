//! Every byte comes back, in order, once.

use std::io::{Read, Write};

use crate::common::{
    Running, bind, config, connect, echo, echo_to_the_end, has_ipv6, noise, turn_until,
};
use mio_echo::Config;

#[test]
fn every_byte_comes_back_whatever_the_size_of_the_buffer() {
    for buffer_size in [1, 7, 4096, 64 * 1024] {
        let server = Running::start(config().buffer_size(buffer_size));
        let bytes = noise(10_000 + buffer_size * 30);
        let echoed = echo_to_the_end(server.connect(), &bytes);
        assert!(echoed == bytes, "through a buffer of {buffer_size}");
        let stats = server.stop();
        assert_eq!(stats.bytes_received, bytes.len() as u64);
        assert_eq!(stats.bytes_sent, bytes.len() as u64);
    }
}

#[test]
fn every_byte_comes_back_whatever_the_sizes_of_the_pieces() {
    let server = Running::start(config().buffer_size(4096));
    let mut client = server.connect();
    client.set_nodelay(true).unwrap();
    let bytes = noise(100_000);
    let mut rest = bytes.as_slice();
    for size in [1, 2, 3, 4095, 4096, 4097, 8192, 1, 50_000, 1] {
        let (piece, others) = rest.split_at(size);
        assert!(echo(&mut client, piece) == piece, "a piece of {size}");
        rest = others;
    }
}

#[test]
fn pieces_that_arrive_together_come_back_as_one_stream() {
    let (mut server, address) = bind(config());
    let mut client = connect(address);
    for piece in ["one ", "two ", "three"] {
        client.write_all(piece.as_bytes()).unwrap();
    }
    turn_until(&mut server, |server| server.stats().bytes_sent == 13);
    let mut echoed = [0; 13];
    client.read_exact(&mut echoed).unwrap();
    assert_eq!(&echoed, b"one two three");
}

#[test]
fn peers_get_their_own_bytes() {
    let server = Running::start(config().buffer_size(512));
    let bytes = noise(64 * 2_000);
    std::thread::scope(|scope| {
        for part in bytes.chunks(2_000) {
            let client = server.connect();
            scope.spawn(move || assert!(echo_to_the_end(client, part) == part));
        }
    });
    let stats = server.stop();
    assert_eq!(
        (stats.accepted, stats.closed.peer_closed, stats.active),
        (64, 64, 0)
    );
}

#[test]
fn all_endpoints_are_served() {
    let server = Running::start(config().endpoint("tcp://127.0.0.1:0".parse().unwrap()));
    assert_eq!(server.addresses.len(), 2);
    for address in &server.addresses {
        assert_ne!(address.port(), 0, "the real port is told");
        assert_eq!(echo(&mut connect(*address), b"hello"), b"hello");
    }
}

#[test]
fn ipv6_is_served() {
    if has_ipv6() {
        let server = Running::start(Config::builder().endpoint("tcp://[::1]:0".parse().unwrap()));
        assert!(server.addresses[0].is_ipv6());
        assert_eq!(echo(&mut server.connect(), b"hello"), b"hello");
    }
}
