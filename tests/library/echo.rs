//! Every byte is echoed, in order, once.

use std::io::{Read, Write};

use crate::common::{
    Running, bind, config, connect, echo, echo_to_the_end, has_ipv6, random_bytes, turn_until,
};
use mio_echo::Config;

#[test]
fn echoes_every_byte_with_any_buffer_size() {
    for buffer_size in [1, 7, 4096, 64 * 1024] {
        let server = Running::start(config().buffer_size(buffer_size));
        let bytes = random_bytes(10_000 + buffer_size * 30);
        let echoed = echo_to_the_end(server.connect(), &bytes);
        assert!(echoed == bytes, "buffer size {buffer_size}");
        let stats = server.stop();
        assert_eq!(stats.bytes_received, bytes.len() as u64);
        assert_eq!(stats.bytes_sent, bytes.len() as u64);
    }
}

#[test]
fn echoes_messages_of_any_size() {
    let server = Running::start(config().buffer_size(4096));
    let mut client = server.connect();
    client.set_nodelay(true).unwrap();
    let bytes = random_bytes(100_000);
    let mut rest = bytes.as_slice();
    for size in [1, 2, 3, 4095, 4096, 4097, 8192, 1, 50_000, 1] {
        let (message, following) = rest.split_at(size);
        assert!(echo(&mut client, message) == message, "{size} bytes");
        rest = following;
    }
}

#[test]
fn echoes_several_segments_in_order() {
    let (mut server, address) = bind(config());
    let mut client = connect(address);
    for segment in ["one ", "two ", "three"] {
        client.write_all(segment.as_bytes()).unwrap();
    }
    turn_until(&mut server, |server| server.stats().bytes_sent == 13);
    let mut echoed = [0; 13];
    client.read_exact(&mut echoed).unwrap();
    assert_eq!(&echoed, b"one two three");
}

#[test]
fn each_peer_gets_its_own_bytes() {
    let server = Running::start(config().buffer_size(512));
    let bytes = random_bytes(64 * 2_000);
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
fn serves_all_endpoints() {
    let server = Running::start(config().endpoint("tcp://127.0.0.1:0".parse().unwrap()));
    assert_eq!(server.addresses.len(), 2);
    for address in &server.addresses {
        assert_ne!(address.port(), 0, "not the bound port");
        assert_eq!(echo(&mut connect(*address), b"hello"), b"hello");
    }
}

#[test]
fn serves_ipv6() {
    if has_ipv6() {
        let server = Running::start(Config::builder().endpoint("tcp://[::1]:0".parse().unwrap()));
        assert!(server.addresses[0].is_ipv6());
        assert_eq!(echo(&mut server.connect(), b"hello"), b"hello");
    }
}
