//! Who may connect, and how often at once. Who may not gets a reset, and costs neither a place nor
//! anybody's time. Which addresses are of one network or one source is tried in `network.rs`,
//! `allow_list.rs` and `sources.rs`.

// The whole of 127.0.0.0/8 is this host's: each address of it is another peer.
#![cfg(target_os = "linux")]

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use crate::common::{self, bind, config, config_at, connect, settle, turn_until};
use mio_echo::{ConfigBuilder, Server};
use socket2::{Domain, Socket, Type};

/// An address of this host.
fn host(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 2, last)
}

fn allow(config: ConfigBuilder, networks: &[&str]) -> ConfigBuilder {
    let networks = networks.iter().map(|text| text.parse().unwrap());
    networks.fold(config, ConfigBuilder::allow)
}

/// A client whose address is that.
fn connect_from(source: Ipv4Addr, server: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
    socket.connect(&server.into()).unwrap();
    socket.set_read_timeout(Some(common::LIMIT)).unwrap();
    socket.into()
}

/// Whether it is served, by a server that has done all there is to do.
fn is_served(server: &mut Server, client: &mut TcpStream) -> bool {
    // To one that has been reset already it cannot be written.
    let _ = client.write_all(b"hello");
    settle(server);
    let mut answer = [0; 5];
    match client.read_exact(&mut answer) {
        Ok(()) => &answer == b"hello",
        Err(error) => {
            let kinds = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
            assert!(kinds.contains(&error.kind()), "not a reset: {error}");
            false
        }
    }
}

#[test]
fn connections_from_allowed_networks_alone_are_served() {
    let networks = ["127.0.2.1", "127.0.2.64/26", "::1"];
    let (mut server, address) = bind(allow(config(), &networks));
    for (last, allowed) in [(1, true), (2, false), (63, false), (64, true), (127, true)] {
        let mut client = connect_from(host(last), address);
        assert_eq!(is_served(&mut server, &mut client), allowed, "{last}");
    }
    settle(&mut server);
    let stats = server.stats();
    assert_eq!((stats.rejected.not_allowed, stats.rejected.total()), (2, 2));
    assert_eq!(
        (stats.accepted, stats.active, stats.closed.peer_closed),
        (3, 0, 3)
    );
    assert_eq!((stats.closed.error, stats.accept_errors), (0, 0));
}

#[test]
fn who_is_refused_reads_a_reset_whether_something_was_sent_or_not() {
    let (mut server, address) = bind(allow(config(), &["127.0.2.1"]));
    let mut silent = connect_from(host(2), address);
    settle(&mut server);
    let error = silent.read(&mut [0; 1]).expect_err("an orderly end");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);

    let mut eager = connect_from(host(2), address);
    assert!(!is_served(&mut server, &mut eager));
}

#[test]
fn datagrams_from_allowed_networks_alone_are_answered() {
    let (mut server, address) = bind(allow(config_at("udp://127.0.0.1:0"), &["127.0.2.1"]));
    let clients = [1, 2].map(|last| UdpSocket::bind((host(last), 0)).unwrap());
    for (client, answered) in clients.iter().zip([true, false]) {
        client.send_to(b"hello", address).unwrap();
        let received = server.stats().datagrams_received;
        turn_until(&mut server, |server| {
            server.stats().datagrams_received > received
        });
        settle(&mut server);
        client.set_nonblocking(true).unwrap();
        assert_eq!(client.recv(&mut [0; 5]).is_ok(), answered);
    }
    let stats = server.stats();
    assert_eq!(stats.datagrams_sent, 1);
    assert_eq!(stats.dropped.not_allowed, 1);
    assert_eq!(stats.dropped.total(), 1);
}

#[test]
fn a_source_has_as_many_connections_at_once_as_it_may_have() {
    let (mut server, address) = bind(config().max_per_source(2));
    let mut open = [1, 1].map(|last| connect_from(host(last), address));
    for client in &mut open {
        assert!(is_served(&mut server, client));
    }
    let mut beyond = connect_from(host(1), address);
    assert!(!is_served(&mut server, &mut beyond));
    let mut other = connect_from(host(2), address);
    assert!(is_served(&mut server, &mut other), "another source's limit");

    // Those who have ended, in whichever way, make room.
    let [finished, failed] = open;
    drop(finished);
    settle(&mut server);
    let mut next = connect_from(host(1), address);
    assert!(is_served(&mut server, &mut next));
    assert!(!is_served(&mut server, &mut connect_from(host(1), address)));
    common::reset(failed);
    settle(&mut server);
    let mut last = connect_from(host(1), address);
    assert!(is_served(&mut server, &mut last));

    let stats = server.stats();
    assert_eq!(stats.rejected.too_many_from_source, 2);
    assert_eq!(stats.rejected.total(), 2);
    assert_eq!((stats.accepted, stats.active), (5, 3));
}

/// Not even where there is only one.
#[test]
fn who_is_refused_takes_no_place() {
    let config = config().max_connections(1).max_per_source(1);
    let (mut server, address) = bind(allow(config, &["127.0.2.0/28"]));
    let refused: Vec<TcpStream> = (0..100).map(|_| connect_from(host(99), address)).collect();
    let mut client = connect_from(host(1), address);
    assert!(is_served(&mut server, &mut client));
    assert_eq!(server.stats().rejected.not_allowed, 100);
    assert_eq!(server.stats().accepted, 1);
    drop((client, refused));
    settle(&mut server);
    // Nor among those of a source.
    let mut client = connect_from(host(1), address);
    assert!(is_served(&mut server, &mut client));
}

/// Told by turns, not by time.
#[test]
fn a_flood_of_refused_connections_keeps_nobody_waiting_and_then_it_is_quiet() {
    let (mut server, address) = bind(allow(config(), &["127.0.0.0/24"]));
    let mut ping = connect(address);
    turn_until(&mut server, |server| server.stats().active == 1);
    let flood: Vec<TcpStream> = (0..90).map(|_| connect_from(host(1), address)).collect();
    ping.write_all(b"!").unwrap();
    for _ in 0..2 {
        server.turn(Some(Duration::ZERO)).unwrap();
    }
    assert_eq!(server.stats().bytes_sent, 1, "no answer");
    let refused = server.stats().rejected.total();
    assert!(refused < 90, "the flood was refused first");
    turn_until(&mut server, |server| server.stats().rejected.total() == 90);
    settle(&mut server);
    assert_eq!(server.timeout(), None);
    assert_eq!(server.stats().accept_pauses, 0, "no shortage");
    drop(flood);
}

#[test]
fn peers_of_unix_sockets_have_neither_networks_nor_sources() {
    let directory = common::Directory::new();
    let path = directory.file("socket");
    let endpoint = format!("unix:{}", path.display()).parse().unwrap();
    let config = allow(config().endpoint(endpoint), &["127.0.2.1"]);
    let (mut server, address) = bind(config.max_per_source(1));
    let clients = [(); 3].map(|()| std::os::unix::net::UnixStream::connect(&path).unwrap());
    turn_until(&mut server, |server| server.stats().active == 3);
    let mut refused = connect(address);
    assert!(!is_served(&mut server, &mut refused));
    assert_eq!(server.stats().rejected.total(), 1);
    drop(clients);
    turn_until(&mut server, |server| server.stats().closed.peer_closed == 3);
}

#[test]
fn a_shutdown_refuses_those_who_wait_as_well() {
    let config = allow(config().max_per_source(1), &["127.0.2.1"]);
    let (mut server, address) = bind(config);
    let [mut not_allowed, first, mut second] = [2, 1, 1].map(|it| connect_from(host(it), address));
    server.shutdown();
    assert_eq!(server.stats().active, 1);
    assert_eq!(server.stats().rejected.not_allowed, 1);
    assert_eq!(server.stats().rejected.too_many_from_source, 1);
    for refused in [&mut not_allowed, &mut second] {
        let error = refused.read(&mut [0; 1]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    drop(first);
    turn_until(&mut server, |server| server.is_finished());
    assert_eq!(server.stats().closed.peer_closed, 1);
}
