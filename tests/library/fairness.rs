//! One read and one write per connection and turn, so that a greedy peer does not delay others.
//! The tests count turns, not time.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::common::{
    accept_one, addresses, bind, config, connect, random_bytes, send_until_blocked, turn_until,
};
use mio_echo::Server;

fn one_turn(server: &mut Server) {
    server.turn(Some(std::time::Duration::ZERO)).unwrap();
}

#[test]
fn small_message_beside_greedy_streams_is_echoed_within_two_turns() {
    let buffer_size = 1000;
    let (mut server, address) = bind(config().buffer_size(buffer_size));
    let mut ping = connect(address);
    let mut greedy: Vec<TcpStream> = (0..8).map(|_| connect(address)).collect();
    turn_until(&mut server, |server| server.stats().active == 9);
    let bytes = random_bytes(100_000);
    for stream in &mut greedy {
        assert!(
            send_until_blocked(stream, &bytes) >= 50 * buffer_size,
            "too little for the test"
        );
    }
    one_turn(&mut server);

    for round in 1..=10 {
        ping.write_all(b"!").unwrap();
        one_turn(&mut server);
        one_turn(&mut server);
        ping.set_nonblocking(true).unwrap();
        let count = ping.read(&mut [0]);
        assert_eq!(count.ok(), Some(1), "not echoed in round {round}");
    }
    let max = 8 * 22 * buffer_size as u64 + 10;
    let received = server.stats().bytes_received;
    assert!(
        received <= max,
        "{received} bytes in 21 turns: more than one read per turn"
    );
    assert!(
        received > max / 2,
        "{received} bytes in 21 turns: the greedy streams starve"
    );
}

#[test]
fn flood_of_connections_does_not_delay_an_echo() {
    let (mut server, address) = bind(config());
    let mut ping = accept_one(&mut server);
    let flood: Vec<TcpStream> = (0..90).map(|_| connect(address)).collect();
    ping.write_all(b"!").unwrap();
    one_turn(&mut server);
    one_turn(&mut server);
    assert_eq!(server.stats().bytes_sent, 1, "not echoed");
    assert!(
        server.stats().accepted < 91,
        "the echo waited for the flood"
    );
    turn_until(&mut server, |server| server.stats().accepted == 91);
    drop(flood);
}

#[test]
fn listeners_take_turns_at_the_connection_limit() {
    let endpoint = || "tcp://127.0.0.1:0".parse().unwrap();
    let (mut server, _) = bind(config().endpoint(endpoint()).max_connections(1));
    let addresses = addresses(&server);
    let first = accept_one(&mut server);
    let mut crowd: Vec<TcpStream> = (0..10).map(|_| connect(addresses[0])).collect();
    let mut single = connect(addresses[1]);
    for client in crowd.iter_mut().chain([&mut single]) {
        client.write_all(b"!").unwrap();
        client.set_nonblocking(true).unwrap();
    }
    let is_echoed = |client: &mut TcpStream| client.read(&mut [0]).is_ok();
    drop(first);
    // At most two of the crowd are accepted before the single client of the other endpoint.
    for mut client in crowd.drain(..2) {
        let mut is_single = false;
        turn_until(&mut server, |_| {
            is_single = is_echoed(&mut single);
            is_single || is_echoed(&mut client)
        });
        if is_single {
            return;
        }
    }
    turn_until(&mut server, |_| is_echoed(&mut single));
}
