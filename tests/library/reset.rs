//! A reset closes that connection and no other.

use std::io::Write;

use crate::common::{
    Running, bind, config, connect, connect_small, echo, is_served, random_bytes, reset,
    small_buffers, turn_until, write_block,
};
use mio_echo::Server;

#[test]
fn reset_does_not_affect_other_connections() {
    let server = Running::start(config());
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
fn reset_in_every_state_closes_the_connection() {
    let resets = |server: &mut Server| {
        let stats = server.stats();
        stats.closed.reset + stats.accept_errors
    };
    let (mut server, address) = bind(small_buffers());

    // Before it is accepted: accept(2) or the first read fails.
    let client = connect(address);
    reset(client);
    turn_until(&mut server, |server| resets(server) == 1);

    // With unread bytes.
    let mut client = connect(address);
    client.write_all(b"hello").unwrap();
    reset(client);
    turn_until(&mut server, |server| resets(server) == 2);

    // Write-blocked: no read or write is made before the event of the reset.
    let mut client = connect_small(address);
    write_block(&mut server, &mut client, &random_bytes(4 * 1024 * 1024));
    assert_eq!(server.stats().active, 1);
    reset(client);
    turn_until(&mut server, |server| resets(server) == 3);
    assert_eq!(server.stats().active, 0);
}
