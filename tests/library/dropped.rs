//! Datagrams that get no reply, so that two services do not reply to each other without end. All
//! rules are tested in `policy/reply_filter.rs`; what needs several hosts is a system test.

#![cfg(target_os = "linux")]

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use crate::common::{self, bind, config_at, has_ipv6, is_here, run_until_idle, turn_until};
use mio_echo::{BoundSocket, Config, ConfigBuilder, Dropped, Server};
use socket2::{Domain, SockRef, Socket, Type};

fn config() -> ConfigBuilder {
    config_at("udp://127.0.0.1:0")
}

/// Sends a datagram from that port of another address of this host. Returns all drops so far.
fn sent_from(port: u16, server: &mut Server, to: SocketAddr) -> Dropped {
    // A new address each time, because tests in parallel bind to the same port.
    static HOST: AtomicU8 = AtomicU8::new(2);
    let host = Ipv4Addr::new(127, 0, 1, HOST.fetch_add(1, Ordering::Relaxed));
    let client = UdpSocket::bind((host, port)).unwrap();
    let before = server.stats().datagrams_received;
    client.send_to(b"hello", to).unwrap();
    turn_until(server, |server| {
        server.stats().datagrams_received == before + 1
    });
    run_until_idle(server);
    server.stats().dropped
}

#[test]
fn datagram_from_an_own_port_gets_no_reply() {
    let (mut server, address) = bind(config().endpoint("udp://127.0.0.1:0".parse().unwrap()));
    let other = common::addresses(&server)[1];
    let dropped = sent_from(address.port(), &mut server, address);
    assert_eq!((dropped.own_port, dropped.total()), (1, 1));
    // Nor does one from the port of another endpoint.
    let dropped = sent_from(other.port(), &mut server, address);
    assert_eq!((dropped.own_port, dropped.total()), (2, 2));
    assert_eq!(server.stats().datagrams_sent, 0);
}

#[test]
fn datagram_from_a_service_port_gets_no_reply() {
    let (mut server, address) = bind(config());
    let dropped = sent_from(2049, &mut server, address);
    assert_eq!((dropped.nfs_port, dropped.total()), (1, 1));

    let is_permitted = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 2), 1023)).is_ok();
    if is_here("permission to bind to a reserved port", is_permitted) {
        let dropped = sent_from(1023, &mut server, address);
        assert_eq!((dropped.reserved_port, dropped.total()), (1, 2));
    }
    assert_eq!(server.stats().datagrams_sent, 0);
}

#[test]
fn answer_any_port_lifts_the_port_rules() {
    let (mut server, address) = bind(config().udp_answer_any_port(true));
    sent_from(2049, &mut server, address);
    sent_from(address.port(), &mut server, address);
    assert_eq!(server.stats().datagrams_sent, 2);
    assert_eq!(server.stats().dropped.total(), 0);
}

/// The loopback network has a broadcast address, and routes multicast.
#[test]
fn broadcast_and_multicast_get_no_reply() {
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
        let destination = (group, bound.port());
        client.send_to(b"hello", destination).unwrap();
        turn_until(&mut server, |server| server.stats().datagrams_received == 1);
        run_until_idle(&mut server);
        assert_eq!(server.stats().dropped.destination, 1, "{endpoint}");
        assert_eq!(server.stats().datagrams_sent, 0, "{endpoint}");
    }
}

/// A UDP socket at a free port; dual-stack with an IPv6 address.
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

/// Makes turns of both servers until a TTL is used up. Returns how many datagrams were received.
fn rounds(mut servers: [Server; 2]) -> u64 {
    let start = Instant::now();
    loop {
        for server in &mut servers {
            server.turn(Some(Duration::ZERO)).unwrap();
        }
        let stats = servers.each_ref().map(Server::stats);
        let received = stats.iter().map(|it| it.datagrams_received).sum();
        if stats.iter().any(|it| it.dropped.hop_limit > 0) {
            servers.iter_mut().for_each(run_until_idle);
            let after = servers.each_ref().map(Server::stats);
            let after: u64 = after.iter().map(|it| it.datagrams_received).sum();
            assert_eq!(after, received, "the loop goes on");
            return received;
        }
        assert!(received <= 255, "the loop does not end");
        assert!(start.elapsed() < common::LIMIT, "timed out with {stats:?}");
    }
}

/// Two services at different ports, and a datagram with the address of one of them as its source: it
/// is sent from a copy of that socket. Also with `udp_answer_any_port`.
#[test]
fn ttl_ends_a_loop_of_two_services() {
    let mut pairs = vec![("127.0.0.1:0", "127.0.0.1:0", "127.0.0.1")];
    if has_ipv6() {
        pairs.extend([
            ("[::1]:0", "[::1]:0", "::1"),
            // IPv4-mapped addresses on either side.
            ("127.0.0.1:0", "[::]:0", "127.0.0.1"),
            ("127.0.0.1:0", "[::ffff:127.0.0.1]:0", "127.0.0.1"),
            ("[::ffff:127.0.0.1]:0", "[::]:0", "::ffff:127.0.0.1"),
            ("[::1]:0", "[::]:0", "::1"),
        ]);
    }
    for (first, second, target) in pairs {
        for answer_any_port in [false, true] {
            let (first, second) = (socket(first), socket(second));
            let forger = first.try_clone().unwrap();
            let target = SocketAddr::new(target.parse().unwrap(), port(&second));
            let config = || Config::builder().udp_answer_any_port(answer_any_port);
            let servers = [serve(first, config()), serve(second, config())];
            forger.set_ttl_v4(255).unwrap();
            if target.is_ipv6() {
                forger.set_unicast_hops_v6(255).unwrap();
            }
            forger.send_to(b"hello", &target.into()).unwrap();
            assert_eq!(rounds(servers), 255, "{target}");
        }
    }
}

#[test]
fn expired_ttl_gets_no_reply() {
    for (endpoint, host) in [
        ("udp://127.0.0.1:0", "127.0.0.1"),
        ("udp://0.0.0.0:0", "127.0.0.1"),
        ("udp://[::1]:0", "::1"),
    ] {
        if host == "::1" && !has_ipv6() {
            continue;
        }
        let (mut server, bound) = bind(config_at(endpoint).udp_answer_any_port(true));
        let client = UdpSocket::bind((host, 0)).unwrap();
        let server_address = SocketAddr::new(host.parse().unwrap(), bound.port());
        for ttl in [1_u8, 2] {
            if host == "::1" {
                let hops = ttl.into();
                SockRef::from(&client).set_unicast_hops_v6(hops).unwrap();
            } else {
                client.set_ttl(ttl.into()).unwrap();
            }
            client.send_to(&[ttl], server_address).unwrap();
        }
        turn_until(&mut server, |server| server.stats().datagrams_received == 2);
        run_until_idle(&mut server);
        let stats = server.stats();
        assert_eq!((stats.dropped.hop_limit, stats.datagrams_sent), (1, 1));
        let mut echoed = [0];
        client.set_read_timeout(Some(common::LIMIT)).unwrap();
        client.recv(&mut echoed).unwrap();
        assert_eq!(echoed, [2], "{endpoint}");
    }
}
