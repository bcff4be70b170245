//! One read and one write a connection a turn: nobody waits for those who have much to say.
//!
//! Told by turns, not by time.

use std::io::Write;
use std::net::TcpStream;

use crate::common::{self, bind, config, connect, noise, send_what_fits, turn_until};
use mio_echo::Server;

fn one_turn(server: &mut Server) {
    server.turn(Some(std::time::Duration::ZERO)).unwrap();
}

#[test]
fn a_ping_beside_greedy_streams_is_answered_within_two_turns() {
    let buffer_size = 1000;
    let (mut server, address) = bind(config().buffer_size(buffer_size));
    let mut ping = connect(address);
    let mut greedy: Vec<TcpStream> = (0..8).map(|_| connect(address)).collect();
    turn_until(&mut server, |server| server.stats().active == 9);
    let bytes = noise(100_000);
    for stream in &mut greedy {
        assert!(
            send_what_fits(stream, &bytes) >= 50 * buffer_size,
            "that is not greedy"
        );
    }
    one_turn(&mut server);

    for round in 1..=10 {
        ping.write_all(b"!").unwrap();
        one_turn(&mut server);
        one_turn(&mut server);
        ping.set_nonblocking(true).unwrap();
        let mut answer = [0];
        let count = std::io::Read::read(&mut ping, &mut answer);
        assert_eq!(count.ok(), Some(1), "no answer in round {round}");
    }
    let most = 8 * 22 * buffer_size as u64 + 10;
    let received = server.stats().bytes_received;
    assert!(
        received <= most,
        "{received} bytes in 21 turns: more than one read a turn"
    );
    assert!(
        received > most / 2,
        "{received} bytes in 21 turns: the greedy were left out"
    );
}

#[test]
fn a_flood_of_connections_does_not_keep_a_ping_waiting() {
    let (mut server, address) = bind(config());
    let mut ping = connect(address);
    turn_until(&mut server, |server| server.stats().active == 1);
    let flood: Vec<TcpStream> = (0..90).map(|_| connect(address)).collect();
    ping.write_all(b"!").unwrap();
    one_turn(&mut server);
    one_turn(&mut server);
    assert_eq!(server.stats().bytes_sent, 1, "no answer");
    assert!(server.stats().accepted < 91, "the flood was served first");
    turn_until(&mut server, |server| server.stats().accepted == 91);
    drop(flood);
}

#[test]
fn at_the_limit_the_listeners_take_turns() {
    let endpoint = || "tcp://127.0.0.1:0".parse().unwrap();
    let (mut server, _) = bind(config().endpoint(endpoint()).max_connections(1));
    let addresses: Vec<_> = common::addresses(&server);
    let holder = connect(addresses[0]);
    turn_until(&mut server, |server| server.stats().active == 1);
    let crowd: Vec<TcpStream> = (0..10).map(|_| connect(addresses[0])).collect();
    let mut lonely = connect(addresses[1]);
    drop(holder);
    let mut crowd = crowd.into_iter();
    // Of the crowd two may be served before the one at the other endpoint is.
    for accepted in 2..=3 {
        turn_until(&mut server, |server| server.stats().accepted == accepted);
        lonely.write_all(b"!").unwrap();
        common::settle(&mut server);
        if server.stats().bytes_sent > 0 {
            return;
        }
        drop(crowd.next());
    }
    common::settle(&mut server);
    assert!(
        server.stats().bytes_sent > 0,
        "the crowd at the first endpoint is served first"
    );
}
