//! Accepting: as many as the backlog holds wait in the system's queue, as many as the limit allows
//! are open, and who waits is served when others end.

use std::net::TcpStream;
use std::time::Duration;

use crate::common::{self, bind, config, connect, settle, turn_until};

#[test]
fn at_the_limit_others_wait_until_one_ends() {
    let (mut server, address) = bind(config().max_connections(2));
    let mut clients: Vec<TcpStream> = (0..5).map(|_| connect(address)).collect();
    settle(&mut server);
    assert_eq!(server.stats().active, 2);
    assert_eq!(
        server.stats().accept_pauses,
        1,
        "it does not ask again and again"
    );
    assert_eq!(
        server.timeout(),
        None,
        "only the end of a connection makes room"
    );

    for accepted in 3..=5 {
        drop(clients.remove(0));
        turn_until(&mut server, |server| server.stats().accepted == accepted);
        settle(&mut server);
        assert_eq!(server.stats().active, 2);
    }
    drop(clients);
    turn_until(&mut server, |server| server.stats().active == 0);

    let late = connect(address);
    turn_until(&mut server, |server| server.stats().accepted == 6);
    drop(late);
}

#[test]
fn several_listeners_pause_together() {
    let endpoint = || "tcp://127.0.0.1:0".parse().unwrap();
    let config = config().endpoint(endpoint()).endpoint(endpoint());
    let (mut server, _) = bind(config.max_connections(1));
    let addresses: Vec<_> = common::addresses(&server);
    let clients: Vec<TcpStream> = addresses.iter().copied().map(connect).collect();
    settle(&mut server);
    assert_eq!(server.stats().active, 1);
    assert_eq!(server.stats().accept_pauses, 1);
    drop(clients);
    turn_until(&mut server, |server| server.stats().closed.peer_closed == 3);
}

#[test]
fn every_listener_resumes_after_a_pause() {
    let endpoint = "tcp://127.0.0.1:0".parse().unwrap();
    let (mut server, _) = bind(config().endpoint(endpoint).max_connections(1));
    let addresses: Vec<_> = common::addresses(&server);
    let first = connect(addresses[0]);
    turn_until(&mut server, |server| server.stats().active == 1);
    let waiting = [connect(addresses[0]), connect(addresses[1])];
    settle(&mut server);
    drop(first);
    turn_until(&mut server, |server| server.stats().accepted == 2);
    drop(waiting);
    turn_until(&mut server, |server| {
        server.stats().accepted == 3 && server.stats().active == 0
    });
}

/// Linux keeps one more than the backlog; see `sk_acceptq_is_full` in its sources.
#[cfg(target_os = "linux")]
#[test]
fn as_many_wait_as_the_backlog_holds() {
    use socket2::{Domain, Socket, Type};

    let backlog = 3;
    let (mut server, address) = bind(config().backlog(backlog));
    let clients: Vec<Socket> = (0..20)
        .map(|_| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            // In progress, or refused a place: who has one can be told its peer.
            let _ = socket.connect(&address.into());
            socket
        })
        .collect();
    let established = clients
        .iter()
        .filter(|socket| socket.peer_addr().is_ok())
        .count();
    assert_eq!(established, backlog as usize + 1);
    turn_until(&mut server, |server| {
        server.stats().accepted > u64::from(backlog)
    });
}

#[test]
fn connections_made_before_the_first_turn_are_served() {
    let (mut server, address) = bind(config());
    let clients: Vec<TcpStream> = (0..100).map(|_| connect(address)).collect();
    turn_until(&mut server, |server| server.stats().active == 100);
    drop(clients);
    turn_until(&mut server, |server| server.stats().active == 0);
    server.turn(Some(Duration::ZERO)).unwrap();
    assert_eq!(server.stats().closed.peer_closed, 100);
}
