//! Not a weapon: datagrams that get no answer, so that no two services answer each other for ever.
//! The rules themselves are tried in `refusal.rs`; what has to be sent from other hosts, or to
//! several of them, by `.ci/namespaces.py`.

#![cfg(target_os = "linux")]

mod common;

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU8, Ordering};

use common::{bind, config_at, is_here, settle, turn_until};
use mio_echo::{ConfigBuilder, Server, Unanswered};

fn config() -> ConfigBuilder {
    config_at("udp://127.0.0.1:0")
}

/// What came of a datagram that was sent from that port of another address of this host.
fn sent_from(port: u16, server: &mut Server, to: SocketAddr) -> Unanswered {
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
    server.stats().unanswered
}

#[test]
fn the_service_does_not_talk_to_its_like() {
    let (mut server, address) = bind(config().endpoint("udp://127.0.0.1:0".parse().unwrap()));
    let other = common::addresses(&server)[1];
    let unanswered = sent_from(address.port(), &mut server, address);
    assert_eq!((unanswered.own_port, unanswered.total()), (1, 1));
    // Nor does one of its sockets to another.
    let unanswered = sent_from(other.port(), &mut server, address);
    assert_eq!((unanswered.own_port, unanswered.total()), (2, 2));
    assert_eq!(server.stats().datagrams_sent, 0);
}

#[test]
fn services_of_the_system_get_no_answer() {
    let (mut server, address) = bind(config());
    let unanswered = sent_from(2049, &mut server, address);
    assert_eq!((unanswered.nfs_port, unanswered.total()), (1, 1));

    let is_allowed = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 2), 1023)).is_ok();
    if is_here("the right to send from a reserved port", is_allowed) {
        let unanswered = sent_from(1023, &mut server, address);
        assert_eq!((unanswered.reserved_port, unanswered.total()), (1, 2));
    }
    assert_eq!(server.stats().datagrams_sent, 0);
}

#[test]
fn in_a_closed_lab_they_do() {
    let (mut server, address) = bind(config().udp_answer_any_port(true));
    sent_from(2049, &mut server, address);
    sent_from(address.port(), &mut server, address);
    assert_eq!(server.stats().datagrams_sent, 2);
    assert_eq!(server.stats().unanswered.total(), 0);
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
        assert_eq!(server.stats().unanswered.destination, 1, "{endpoint}");
        assert_eq!(server.stats().datagrams_sent, 0, "{endpoint}");
    }
}
