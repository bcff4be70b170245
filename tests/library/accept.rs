//! Accepting: the backlog, and the connection limit with pause and resume.

use std::net::TcpStream;
use std::time::Duration;

use crate::common::{addresses, bind, config, connect, run_until_idle, turn_until};

#[test]
fn connections_beyond_the_limit_wait_for_a_close() {
    let (mut server, address) = bind(config().max_connections(2));
    let mut clients: Vec<TcpStream> = (0..5).map(|_| connect(address)).collect();
    turn_until(&mut server, |server| server.stats().accept_pauses > 0);
    run_until_idle(&mut server);
    assert_eq!(server.stats().active, 2);
    assert_eq!(server.stats().accept_pauses, 1, "paused more than once");
    assert_eq!(
        server.timeout(),
        None,
        "only a close makes room, so no timer is needed"
    );

    for accepted in 3..=5 {
        drop(clients.remove(0));
        turn_until(&mut server, |server| server.stats().accepted == accepted);
        run_until_idle(&mut server);
        assert_eq!(server.stats().active, 2);
    }
    drop(clients);
    turn_until(&mut server, |server| server.stats().active == 0);

    let late = connect(address);
    turn_until(&mut server, |server| server.stats().accepted == 6);
    drop(late);
}

#[test]
fn listeners_pause_together() {
    let endpoint = || "tcp://127.0.0.1:0".parse().unwrap();
    let config = config().endpoint(endpoint()).endpoint(endpoint());
    let (mut server, _) = bind(config.max_connections(1));
    let clients: Vec<TcpStream> = addresses(&server).into_iter().map(connect).collect();
    turn_until(&mut server, |server| server.stats().accept_pauses > 0);
    run_until_idle(&mut server);
    assert_eq!(server.stats().active, 1);
    assert_eq!(server.stats().accept_pauses, 1);
    drop(clients);
    turn_until(&mut server, |server| server.stats().closed.peer_closed == 3);
}

#[test]
fn listeners_resume_together() {
    let endpoint = "tcp://127.0.0.1:0".parse().unwrap();
    let (mut server, _) = bind(config().endpoint(endpoint).max_connections(1));
    let addresses = addresses(&server);
    let first = connect(addresses[0]);
    turn_until(&mut server, |server| server.stats().active == 1);
    let waiting = [connect(addresses[0]), connect(addresses[1])];
    run_until_idle(&mut server);
    drop(first);
    turn_until(&mut server, |server| server.stats().accepted == 2);
    drop(waiting);
    turn_until(&mut server, |server| {
        server.stats().accepted == 3 && server.stats().active == 0
    });
}

/// Linux queues one connection more than the backlog; see `sk_acceptq_is_full` in its sources.
#[cfg(target_os = "linux")]
#[test]
fn backlog_limits_the_queue_of_pending_connections() {
    use socket2::{Domain, Socket, Type};

    let backlog = 3;
    let (mut server, address) = bind(config().backlog(backlog));
    let clients: Vec<Socket> = (0..20)
        .map(|_| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            // Fails with EINPROGRESS. Only a queued connection has a peer address then.
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

/// More connections than one turn accepts.
#[test]
fn connections_made_before_the_first_turn_are_accepted() {
    let (mut server, address) = bind(config());
    let clients: Vec<TcpStream> = (0..40).map(|_| connect(address)).collect();
    turn_until(&mut server, |server| server.stats().active == 40);
    drop(clients);
    turn_until(&mut server, |server| server.stats().active == 0);
    server.turn(Some(Duration::ZERO)).unwrap();
    assert_eq!(server.stats().closed.peer_closed, 40);
}
