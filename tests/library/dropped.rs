//! Not a weapon: datagrams that get no answer, so that no two services answer each other for ever.
//! The rules themselves are tried in `refusal.rs`; what has to be sent from other hosts, or to
//! several of them, by `.ci/namespaces.py`.

#![cfg(target_os = "linux")]

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use crate::common::{self, bind, config_at, has_ipv6, is_here, settle, turn_until};
use mio_echo::{BoundSocket, Config, ConfigBuilder, Dropped, Server};
use socket2::{Domain, SockRef, Socket, Type};

fn config() -> ConfigBuilder {
    config_at("udp://127.0.0.1:0")
}

/// What came of a datagram that was sent from that port of another address of this host.
fn sent_from(port: u16, server: &mut Server, to: SocketAddr) -> Dropped {
    // Another one each time, because the tests run at the same time and have the same port.
    static HOST: AtomicU8 = AtomicU8::new(2);
    let host = Ipv4Addr::new(127, 0, 1, HOST.fetch_add(1, Ordering::Relaxed));
    let client = UdpSocket::bind((host, port)).unwrap();
    let before = server.stats().datagrams_received;
    client.send_to(b"hello", to).unwrap();
    turn_until(server, |server| {
        server.stats().datagrams_received == before + 1
    });
    settle(server);
    server.stats().dropped
}

#[test]
fn the_service_does_not_talk_to_its_like() {
    let (mut server, address) = bind(config().endpoint("udp://127.0.0.1:0".parse().unwrap()));
    let other = common::addresses(&server)[1];
    let dropped = sent_from(address.port(), &mut server, address);
    assert_eq!((dropped.own_port, dropped.total()), (1, 1));
    // Nor does one of its sockets to another.
    let dropped = sent_from(other.port(), &mut server, address);
    assert_eq!((dropped.own_port, dropped.total()), (2, 2));
    assert_eq!(server.stats().datagrams_sent, 0);
}

#[test]
fn services_of_the_system_get_no_answer() {
    let (mut server, address) = bind(config());
    let dropped = sent_from(2049, &mut server, address);
    assert_eq!((dropped.nfs_port, dropped.total()), (1, 1));

    let is_allowed = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 2), 1023)).is_ok();
    if is_here("the right to send from a reserved port", is_allowed) {
        let dropped = sent_from(1023, &mut server, address);
        assert_eq!((dropped.reserved_port, dropped.total()), (1, 2));
    }
    assert_eq!(server.stats().datagrams_sent, 0);
}

#[test]
fn in_a_closed_lab_they_do() {
    let (mut server, address) = bind(config().udp_answer_any_port(true));
    sent_from(2049, &mut server, address);
    sent_from(address.port(), &mut server, address);
    assert_eq!(server.stats().datagrams_sent, 2);
    assert_eq!(server.stats().dropped.total(), 0);
}

/// The loopback network has a broadcast address, and multicast can be sent over it.
#[test]
fn what_was_sent_to_many_gets_no_answer() {
    let broadcast = Ipv4Addr::new(127, 255, 255, 255);
    let all_hosts = Ipv4Addr::new(224, 0, 0, 1);
    for (endpoint, group) in [
        ("udp://0.0.0.0:0", broadcast),
        ("udp://127.255.255.255:0", broadcast),
        ("udp://224.0.0.1:0", all_hosts),
    ] {
        let (mut server, bound) = bind(config_at(endpoint));
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_broadcast(true).unwrap();
        socket2::SockRef::from(&client)
            .set_multicast_if_v4(&Ipv4Addr::LOCALHOST)
            .unwrap();
        let to_many = (group, bound.port());
        client.send_to(b"hello, all of you", to_many).unwrap();
        turn_until(&mut server, |server| server.stats().datagrams_received == 1);
        settle(&mut server);
        assert_eq!(server.stats().dropped.destination, 1, "{endpoint}");
        assert_eq!(server.stats().datagrams_sent, 0, "{endpoint}");
    }
}

/// A UDP socket at a free port, bound by the test. With `[::]` it takes IPv4 too.
fn socket(address: &str) -> Socket {
    let address: SocketAddr = address.parse().unwrap();
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None).unwrap();
    if address.is_ipv6() {
        socket.set_only_v6(false).unwrap();
    }
    socket.bind(&address.into()).unwrap();
    socket
}

fn serve(socket: Socket, config: ConfigBuilder) -> Server {
    let sockets = vec![BoundSocket::new(socket).unwrap()];
    Server::with_sockets(config.build().unwrap(), sockets).unwrap()
}

fn port(socket: &Socket) -> u16 {
    socket.local_addr().unwrap().as_socket().unwrap().port()
}

/// Gives both servers turns until a datagram has no hops left. Returns how many were received.
fn rounds(mut servers: [Server; 2]) -> u64 {
    let start = Instant::now();
    loop {
        for server in &mut servers {
            server.turn(Some(Duration::from_millis(1))).unwrap();
        }
        let stats = servers.each_ref().map(Server::stats);
        let received = stats.iter().map(|it| it.datagrams_received).sum();
        if stats.iter().any(|it| it.dropped.hop_limit > 0) {
            servers.iter_mut().for_each(settle);
            let after = servers.each_ref().map(Server::stats);
            let after: u64 = after.iter().map(|it| it.datagrams_received).sum();
            assert_eq!(after, received, "it goes on");
            return received;
        }
        assert!(
            received <= 255,
            "the services answer each other without end"
        );
        assert!(start.elapsed() < common::LIMIT, "in vain: {stats:?}");
    }
}

/// Two services at different ports, and one datagram whose source is forged: it is sent from a copy
/// of a socket that one of them serves at. With `--udp-answer-any-port` too.
#[test]
fn two_services_answer_each_other_for_255_rounds_at_most() {
    let mut pairs = vec![("127.0.0.1:0", "127.0.0.1:0", "127.0.0.1")];
    if has_ipv6() {
        pairs.extend([
            ("[::1]:0", "[::1]:0", "::1"),
            // IPv4 peers with mapped addresses, on either side.
            ("127.0.0.1:0", "[::]:0", "127.0.0.1"),
            ("127.0.0.1:0", "[::ffff:127.0.0.1]:0", "127.0.0.1"),
            ("[::ffff:127.0.0.1]:0", "[::]:0", "::ffff:127.0.0.1"),
            ("[::1]:0", "[::]:0", "::1"),
        ]);
    }
    for (first, second, target) in pairs {
        for answers_any_port in [false, true] {
            let (first, second) = (socket(first), socket(second));
            let forger = first.try_clone().unwrap();
            let target = SocketAddr::new(target.parse().unwrap(), port(&second));
            let config = || Config::builder().udp_answer_any_port(answers_any_port);
            let servers = [serve(first, config()), serve(second, config())];
            forger.set_ttl_v4(255).unwrap();
            if target.is_ipv6() {
                forger.set_unicast_hops_v6(255).unwrap();
            }
            forger.send_to(b"for ever?", &target.into()).unwrap();
            assert_eq!(rounds(servers), 255, "by way of {target}");
        }
    }
}

#[test]
fn used_up_ttl_gets_no_reply() {
    for endpoint in ["udp://127.0.0.1:0", "udp://0.0.0.0:0", "udp://[::1]:0"] {
        let host = if endpoint.contains("::") {
            "::1"
        } else {
            "127.0.0.1"
        };
        if host == "::1" && !has_ipv6() {
            continue;
        }
        let (mut server, bound) = bind(config_at(endpoint).udp_answer_any_port(true));
        let client = UdpSocket::bind((host, 0)).unwrap();
        let server_address = SocketAddr::new(host.parse().unwrap(), bound.port());
        for ttl in [1, 2] {
            if host == "::1" {
                SockRef::from(&client).set_unicast_hops_v6(ttl).unwrap();
            } else {
                client.set_ttl(ttl).unwrap();
            }
            client.send_to(&[ttl as u8], server_address).unwrap();
        }
        turn_until(&mut server, |server| server.stats().datagrams_received == 2);
        settle(&mut server);
        let stats = server.stats();
        assert_eq!((stats.dropped.hop_limit, stats.datagrams_sent), (1, 1));
        let mut echoed = [0];
        client.set_read_timeout(Some(common::LIMIT)).unwrap();
        client.recv(&mut echoed).unwrap();
        assert_eq!(echoed, [2], "{endpoint}");
    }
}
