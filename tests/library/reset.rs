//! A reset ends that connection and nothing else.

use std::io::Write;

use crate::common::{
    self, bind, config, connect, echo, is_served, noise, reset, settle, stall, turn_until,
};

#[test]
fn others_are_served_when_a_waiting_peer_resets() {
    let server = common::Running::start(config());
    let mut other = server.connect();
    let mut client = server.connect();
    assert_eq!(echo(&mut client, b"hello"), b"hello");
    reset(client);
    for _ in 0..10 {
        assert!(is_served(&mut other));
    }
    assert!(is_served(&mut server.connect()));
    drop(other);
    let stats = server.stop();
    assert_eq!((stats.closed.reset, stats.closed.error), (1, 0));
}

#[test]
fn a_reset_in_every_state_closes_the_connection() {
    let (mut server, address) = bind(config());

    // Before it is accepted: then it is lost, or found reset.
    let client = connect(address);
    reset(client);
    settle(&mut server);
    assert_eq!(server.stats().active, 0);

    // With bytes to be read.
    let mut client = connect(address);
    client.write_all(b"hello").unwrap();
    reset(client);
    settle(&mut server);
    assert_eq!(server.stats().active, 0);

    // Stalled: nothing but the edge of the reset can tell.
    let mut client = connect(address);
    stall(&mut server, &mut client, &noise(32 * 1024 * 1024));
    assert_eq!(server.stats().active, 1);
    assert!(
        server.stats().bytes_received > server.stats().bytes_sent,
        "not stalled"
    );
    reset(client);
    turn_until(&mut server, |server| server.stats().active == 0);
    let stats = server.stats();
    assert_eq!(stats.closed.reset + stats.accept_errors, 3, "{stats:?}");
}
