//! Allow list and per-source limit. A rejected connection is reset, and costs neither a slot nor
//! other clients' time. Addresses of networks and sources are tested in `policy/cidr.rs` and
//! `policy/admission.rs`.

// On Linux all of 127.0.0.0/8 is this host, so that each address is another source.
#![cfg(target_os = "linux")]

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::common::{
    Directory, accept_one, bind, config, config_at, connect, connect_from, reset, run_until_idle,
    turn_until,
};
use mio_echo::{ConfigBuilder, Server};

/// A source address.
fn source(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 2, last)
}

fn allow(config: ConfigBuilder, networks: &[&str]) -> ConfigBuilder {
    let networks = networks.iter().map(|text| text.parse().unwrap());
    networks.fold(config, ConfigBuilder::allow)
}

/// Whether the server echoes. If not, the connection must have been reset.
fn is_served(server: &mut Server, client: &mut TcpStream) -> bool {
    // Fails if the connection was reset already.
    let _ = client.write_all(b"!");
    client.set_nonblocking(true).unwrap();
    let mut result = Err(ErrorKind::WouldBlock.into());
    turn_until(server, |_| {
        result = client.read(&mut [0; 2]);
        !matches!(&result, Err(error) if error.kind() == ErrorKind::WouldBlock)
    });
    client.set_nonblocking(false).unwrap();
    match result {
        Ok(count) => {
            assert_eq!(count, 1, "an orderly close");
            true
        }
        Err(error) => {
            let kinds = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
            assert!(kinds.contains(&error.kind()), "not a reset: {error}");
            false
        }
    }
}

#[test]
fn only_allowed_networks_are_served() {
    let networks = ["127.0.2.1", "127.0.2.64/26", "::1"];
    let (mut server, address) = bind(allow(config(), &networks));
    for (last, allowed) in [(1, true), (2, false), (63, false), (64, true), (127, true)] {
        let mut client = connect_from(source(last), address);
        assert_eq!(is_served(&mut server, &mut client), allowed, "{last}");
    }
    turn_until(&mut server, |server| server.stats().active == 0);
    let stats = server.stats();
    assert_eq!((stats.rejected.not_allowed, stats.rejected.total()), (2, 2));
    assert_eq!(
        (stats.accepted, stats.active, stats.closed.peer_closed),
        (3, 0, 3)
    );
    assert_eq!((stats.closed.error, stats.accept_errors), (0, 0));
}

#[test]
fn rejected_client_sees_a_reset_with_and_without_sending() {
    let (mut server, address) = bind(allow(config(), &["127.0.2.1"]));
    let mut silent = connect_from(source(2), address);
    turn_until(&mut server, |server| server.stats().rejected.total() == 1);
    let error = silent.read(&mut [0; 1]).expect_err("an orderly close");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);

    let mut sending = connect_from(source(2), address);
    assert!(!is_served(&mut server, &mut sending));
}

#[test]
fn only_datagrams_from_allowed_networks_get_a_reply() {
    let (mut server, address) = bind(allow(config_at("udp://127.0.0.1:0"), &["127.0.2.1"]));
    let clients = [1, 2].map(|last| UdpSocket::bind((source(last), 0)).unwrap());
    for (client, allowed) in clients.iter().zip([true, false]) {
        client.send_to(b"hello", address).unwrap();
        let received = server.stats().datagrams_received;
        turn_until(&mut server, |server| {
            server.stats().datagrams_received > received
        });
        run_until_idle(&mut server);
        client.set_nonblocking(true).unwrap();
        assert_eq!(client.recv(&mut [0; 5]).is_ok(), allowed);
    }
    let stats = server.stats();
    assert_eq!(stats.datagrams_sent, 1);
    assert_eq!(stats.dropped.not_allowed, 1);
    assert_eq!(stats.dropped.total(), 1);
}

#[test]
fn per_source_limit_counts_open_connections() {
    let (mut server, address) = bind(config().max_per_source(2));
    let mut open = [1, 1].map(|last| connect_from(source(last), address));
    for client in &mut open {
        assert!(is_served(&mut server, client));
    }
    let mut beyond = connect_from(source(1), address);
    assert!(!is_served(&mut server, &mut beyond));
    let mut other = connect_from(source(2), address);
    assert!(
        is_served(&mut server, &mut other),
        "limited by another source"
    );

    // A close and a reset both make room.
    let [closed, failed] = open;
    drop(closed);
    turn_until(&mut server, |server| server.stats().active == 2);
    let mut next = connect_from(source(1), address);
    assert!(is_served(&mut server, &mut next));
    let mut beyond = connect_from(source(1), address);
    assert!(!is_served(&mut server, &mut beyond));
    reset(failed);
    turn_until(&mut server, |server| server.stats().active == 2);
    let mut last = connect_from(source(1), address);
    assert!(is_served(&mut server, &mut last));

    let stats = server.stats();
    assert_eq!(stats.rejected.too_many_from_source, 2);
    assert_eq!(stats.rejected.total(), 2);
    assert_eq!((stats.accepted, stats.active), (5, 3));
}

/// Even if there is only one slot.
#[test]
fn rejected_connections_take_no_slot() {
    let config = config().max_connections(1).max_per_source(1);
    let (mut server, address) = bind(allow(config, &["127.0.2.0/28"]));
    let rejected: Vec<TcpStream> = (0..100)
        .map(|_| connect_from(source(99), address))
        .collect();
    let mut client = connect_from(source(1), address);
    assert!(is_served(&mut server, &mut client));
    assert_eq!(server.stats().rejected.not_allowed, 100);
    assert_eq!(server.stats().accepted, 1);
    drop((client, rejected));
    turn_until(&mut server, |server| server.stats().active == 0);
    // The per-source limit has room again, too.
    let mut client = connect_from(source(1), address);
    assert!(is_served(&mut server, &mut client));
}

/// Counts turns, not time.
#[test]
fn flood_of_rejected_connections_delays_no_echo_and_ends_idle() {
    let (mut server, address) = bind(allow(config(), &["127.0.0.0/24"]));
    let mut ping = accept_one(&mut server);
    let flood: Vec<TcpStream> = (0..90).map(|_| connect_from(source(1), address)).collect();
    ping.write_all(b"!").unwrap();
    for _ in 0..2 {
        server.turn(Some(Duration::ZERO)).unwrap();
    }
    assert_eq!(server.stats().bytes_sent, 1, "not echoed");
    let rejected = server.stats().rejected.total();
    assert!(rejected < 90, "the echo waited for the flood");
    turn_until(&mut server, |server| server.stats().rejected.total() == 90);
    run_until_idle(&mut server);
    assert_eq!(server.timeout(), None);
    assert_eq!(server.stats().accept_pauses, 0);
    drop(flood);
}

#[test]
fn unix_socket_peers_are_neither_filtered_nor_limited() {
    let directory = Directory::new();
    let path = directory.file("socket");
    let endpoint = format!("unix:{}", path.display()).parse().unwrap();
    let config = allow(config().endpoint(endpoint), &["127.0.2.1"]);
    let (mut server, address) = bind(config.max_per_source(1));
    let clients = [(); 3].map(|()| UnixStream::connect(&path).unwrap());
    turn_until(&mut server, |server| server.stats().active == 3);
    let mut rejected = connect(address);
    assert!(!is_served(&mut server, &mut rejected));
    assert_eq!(server.stats().rejected.total(), 1);
    drop(clients);
    turn_until(&mut server, |server| server.stats().closed.peer_closed == 3);
}

#[test]
fn shutdown_applies_both_limits_to_pending_connections() {
    let config = allow(config().max_per_source(1), &["127.0.2.1"]);
    let (mut server, address) = bind(config);
    let [mut not_allowed, first, mut second] =
        [2, 1, 1].map(|last| connect_from(source(last), address));
    server.shutdown();
    assert_eq!(server.stats().active, 1);
    assert_eq!(server.stats().rejected.not_allowed, 1);
    assert_eq!(server.stats().rejected.too_many_from_source, 1);
    for rejected in [&mut not_allowed, &mut second] {
        let error = rejected.read(&mut [0; 1]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    drop(first);
    turn_until(&mut server, |server| server.is_finished());
    assert_eq!(server.stats().closed.peer_closed, 1);
}
