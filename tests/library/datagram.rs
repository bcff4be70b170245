//! UDP: each datagram is echoed to its sender as one datagram, byte for byte, from the destination
//! address. What needs several hosts or networks is a system test.

use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, UdpSocket};

use crate::common::{
    self, Running, accept_one, bind, config_at, connect, has_ipv6, is_served, random_bytes,
    run_until_idle, send_until_blocked, turn_until,
};
use mio_echo::Server;

/// A client with a read timeout, at a free loopback port of the address's family.
fn client(server: SocketAddr) -> UdpSocket {
    let any: SocketAddr = if server.is_ipv4() {
        ([127, 0, 0, 1], 0).into()
    } else {
        "[::1]:0".parse().unwrap()
    };
    let socket = UdpSocket::bind(any).unwrap();
    socket.set_read_timeout(Some(common::LIMIT)).unwrap();
    socket
}

/// Receives a datagram and its source.
fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; 65_536];
    let (size, from) = socket.recv_from(&mut buffer).unwrap();
    buffer.truncate(size);
    (buffer, from)
}

/// Asserts that no datagram is queued.
fn assert_nothing_received(socket: &UdpSocket) {
    socket.set_nonblocking(true).unwrap();
    let error = socket.recv_from(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    socket.set_nonblocking(false).unwrap();
}

fn is_echoed(socket: &UdpSocket, server: SocketAddr) -> bool {
    socket.send_to(b"are you there?", server).unwrap();
    receive(socket) == (b"are you there?".to_vec(), server)
}

#[test]
fn datagram_of_any_size_is_echoed_as_one() {
    for endpoint in ["udp://127.0.0.1:0", "udp://[::1]:0"] {
        if endpoint.contains("::") && !has_ipv6() {
            continue;
        }
        let server = Running::start(config_at(endpoint));
        let address = server.addresses[0];
        let client = client(address);
        // The largest payload: 65,535, less 8 for the UDP header and, with IPv4, 20 for the IP header.
        let largest = if address.is_ipv4() { 65_507 } else { 65_527 };
        let sizes = [0, 1, 2, 63, 1472, 1473, 8000, 65_506, 65_507, largest];
        for size in sizes {
            let bytes = random_bytes(size);
            client.send_to(&bytes, address).unwrap();
            let (echoed, from) = receive(&client);
            assert!(echoed == bytes, "{} bytes of {size}", echoed.len());
            assert_eq!(from, address);
        }
        assert_nothing_received(&client);
        let stats = server.stop();
        assert_eq!(stats.datagrams_received, sizes.len() as u64);
        assert_eq!(stats.datagrams_sent, sizes.len() as u64);
        assert_eq!(stats.bytes_sent, sizes.iter().sum::<usize>() as u64);
        assert_eq!(stats.bytes_received, stats.bytes_sent);
        assert_eq!(stats.datagram_errors + stats.dropped.total(), 0);
    }
}

#[test]
fn burst_is_echoed_to_each_sender_in_order() {
    let (mut server, address) = bind(config_at("udp://127.0.0.1:0"));
    let clients: Vec<UdpSocket> = (0..10).map(|_| client(address)).collect();
    // More than a batch, with different sizes and interleaved senders.
    for number in 0..20_u8 {
        for (index, client) in clients.iter().enumerate() {
            let size = 1 + usize::from(number) + index;
            client.send_to(&vec![number; size], address).unwrap();
        }
    }
    turn_until(&mut server, |server| server.stats().datagrams_sent == 200);
    for (index, client) in clients.iter().enumerate() {
        for number in 0..20_u8 {
            let (echoed, _) = receive(client);
            assert_eq!(echoed, vec![number; 1 + usize::from(number) + index]);
        }
        assert_nothing_received(client);
    }
}

#[test]
fn empty_datagrams_are_echoed() {
    let (mut server, address) = bind(config_at("udp://127.0.0.1:0"));
    let client = client(address);
    for _ in 0..100 {
        client.send_to(&[], address).unwrap();
    }
    turn_until(&mut server, |server| server.stats().datagrams_sent == 100);
    for _ in 0..100 {
        assert_eq!(receive(&client), (Vec::new(), address));
    }
}

/// On Linux all of 127.0.0.0/8 is this host.
#[cfg(target_os = "linux")]
#[test]
fn reply_has_the_destination_address_as_its_source() {
    let (mut server, bound) = bind(config_at("udp://0.0.0.0:0"));
    let client = client(([127, 0, 0, 1], 0).into());
    // In one batch, so that replies from several addresses are sent in one turn.
    let destinations = [1, 2, 2, 3, 1, 200, 1].map(|last| std::net::Ipv4Addr::new(127, 0, 0, last));
    for address in destinations {
        let payload = address.octets();
        client.send_to(&payload, (address, bound.port())).unwrap();
    }
    turn_until(&mut server, |server| server.stats().datagrams_sent == 7);
    for address in destinations {
        let (payload, from) = receive(&client);
        assert_eq!(payload, address.octets());
        assert_eq!(from, (address, bound.port()).into());
    }
}

#[test]
fn dual_stack_endpoint_serves_both_families_at_one_port() {
    if !has_ipv6() {
        return;
    }
    let server = Running::start(config_at("[::]:0").dual_stack(true));
    let port = server.addresses[0].port();
    assert_eq!(server.addresses.len(), 4);
    for address in ["127.0.0.1", "::1"].map(|ip| SocketAddr::new(ip.parse().unwrap(), port)) {
        assert!(is_echoed(&client(address), address));
        assert!(is_served(&mut connect(address)));
    }
}

#[test]
fn flood_of_datagrams_does_not_delay_a_connection() {
    let (mut server, address) = bind(config_at("127.0.0.1:0"));
    let mut stream = accept_one(&mut server);
    let flood = client(address);
    let mut sent = 0;
    // Keeps more than a batch queued.
    let mut refill = |server: &Server| {
        while sent < server.stats().datagrams_received + 100 {
            flood.send_to(b"flood", address).unwrap();
            sent += 1;
        }
    };
    refill(&server);
    stream.write_all(b"hello").unwrap();
    for _ in 0..10 {
        server.turn(None).unwrap();
        let stats = server.stats();
        if stats.bytes_sent == 5 * stats.datagrams_sent + 5 {
            return;
        }
        refill(&server);
    }
    panic!("not echoed: {:?}", server.stats());
}

#[test]
fn turn_echoes_at_most_one_batch() {
    let (mut server, address) = bind(config_at("udp://127.0.0.1:0"));
    let client = client(address);
    for _ in 0..200 {
        client.send_to(b"flood", address).unwrap();
    }
    let (mut echoed, mut max) = (0, 0);
    turn_until(&mut server, |server| {
        let count = server.stats().datagrams_sent - echoed;
        (echoed, max) = (echoed + count, max.max(count));
        echoed == 200
    });
    // Only Linux has batches.
    let batch = if cfg!(target_os = "linux") { 32 } else { 1 };
    assert_eq!(max, batch, "in one turn");
}

/// Each way in and out of polling; see `POLL_THRESHOLD`.
#[test]
fn bursts_of_changing_sizes_are_echoed() {
    let (mut server, address) = bind(config_at("udp://127.0.0.1:0"));
    let client = client(address);
    let mut sent = 0;
    for count in [1, 10, 1, 3, 4, 5, 100, 1, 2, 100] {
        for _ in 0..count {
            client.send_to(b"hello", address).unwrap();
        }
        sent += count;
        turn_until(&mut server, |server| server.stats().datagrams_sent == sent);
        run_until_idle(&mut server);
    }
}

#[test]
fn stream_does_not_delay_a_datagram() {
    let (mut server, address) = bind(config_at("127.0.0.1:0"));
    let mut stream = accept_one(&mut server);
    let bytes = random_bytes(64 * 1024);
    let client = client(address);
    client.send_to(b"hello", address).unwrap();
    for _ in 0..10 {
        send_until_blocked(&mut stream, &bytes);
        server.turn(None).unwrap();
        if server.stats().datagrams_sent == 1 {
            return;
        }
    }
    panic!("not echoed: {:?}", server.stats());
}

#[test]
fn icmp_error_of_one_peer_does_not_affect_others() {
    let server = Running::start(config_at("udp://127.0.0.1:0"));
    let address = server.addresses[0];
    let other = client(address);
    for _ in 0..10 {
        // The socket is closed, so that the reply causes an ICMP port unreachable error.
        client(address).send_to(b"bye", address).unwrap();
        assert!(is_echoed(&other, address));
    }
    assert_eq!(server.stop().datagrams_received, 20);
}

#[test]
fn shutdown_echoes_queued_datagrams_and_frees_the_port() {
    // No other test binds to this address, so none takes the port when it is free.
    let own_address = if cfg!(target_os = "linux") {
        "udp://127.0.0.6:0"
    } else {
        "udp://127.0.0.1:0"
    };
    let (mut server, address) = bind(config_at(own_address).drain_timeout(common::LIMIT * 10));
    let client = client(address);
    for _ in 0..100 {
        client.send_to(b"early", address).unwrap();
    }
    server.shutdown();
    turn_until(&mut server, |server| server.is_finished());
    assert_eq!(server.timeout(), None);
    assert_eq!(server.stats().datagrams_sent, 100);
    for _ in 0..100 {
        assert_eq!(receive(&client).0, b"early");
    }
    UdpSocket::bind(address).expect("the port is free again");
}

#[test]
fn idle_udp_socket_needs_no_turns() {
    let (mut server, address) = bind(config_at("udp://127.0.0.1:0"));
    let client = client(address);
    client.send_to(b"hello", address).unwrap();
    turn_until(&mut server, |server| server.stats().datagrams_sent == 1);
    run_until_idle(&mut server);
    assert_eq!(server.timeout(), None);
    assert_eq!(receive(&client).0, b"hello");
}

/// Asserts that each received datagram is counted as exactly one of sent, failed and dropped.
#[cfg(target_os = "linux")]
fn assert_all_counted(server: &Server) {
    let stats = server.stats();
    let counted = stats.datagrams_sent
        + stats.datagram_errors
        + stats.send_buffer_drops
        + stats.dropped.total();
    assert_eq!(stats.datagrams_received, counted, "{stats:?}");
}

/// Receives a datagram and its TTL or hop limit.
#[cfg(target_os = "linux")]
fn receive_with_ttl(socket: &UdpSocket) -> (Vec<u8>, i32) {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg};
    use std::os::fd::AsRawFd;

    let (mut buffer, mut space) = ([0; 64], nix::cmsg_space!(i32));
    let mut slices = [std::io::IoSliceMut::new(&mut buffer)];
    let flags = MsgFlags::empty();
    let fd = socket.as_raw_fd();
    let message = recvmsg::<SockaddrStorage>(fd, &mut slices, Some(&mut space), flags).unwrap();
    let ttl = message.cmsgs().unwrap().find_map(|message| match message {
        ControlMessageOwned::Ipv4Ttl(ttl) | ControlMessageOwned::Ipv6HopLimit(ttl) => Some(ttl),
        _ => None,
    });
    let (size, ttl) = (message.bytes, ttl.unwrap());
    (buffer[..size].to_vec(), ttl)
}

/// Each client changes its TTL from datagram to datagram, which splits batches.
#[cfg(target_os = "linux")]
#[test]
fn replies_have_the_received_ttl_less_one_in_order() {
    use nix::sys::socket::{setsockopt, sockopt};

    let mut endpoints = vec![
        ("udp://127.0.0.1:0", "127.0.0.1"),
        ("udp://0.0.0.0:0", "127.0.0.1"),
    ];
    if has_ipv6() {
        endpoints.extend([("udp://[::1]:0", "::1"), ("udp://[::]:0", "::1")]);
    }
    for (endpoint, host) in endpoints {
        let (mut server, bound) = bind(config_at(endpoint));
        let address = SocketAddr::new(host.parse().unwrap(), bound.port());
        let clients: Vec<UdpSocket> = (0..10).map(|_| client(address)).collect();
        for client in &clients {
            if address.is_ipv4() {
                setsockopt(client, sockopt::Ipv4RecvTtl, &true).unwrap();
            } else {
                setsockopt(client, sockopt::Ipv6RecvHopLimit, &true).unwrap();
            }
        }
        // Clients share some TTLs, and each client returns to an earlier one.
        let ttl = |number: u8, index: u8| 2 + i32::from(number * 7 % 5 + index % 3) * 30;
        for number in 0..20 {
            for (index, client) in (0..).zip(&clients) {
                let ttl = ttl(number, index);
                if address.is_ipv4() {
                    setsockopt(client, sockopt::Ipv4Ttl, &ttl).unwrap();
                } else {
                    setsockopt(client, sockopt::Ipv6Ttl, &ttl).unwrap();
                }
                client.send_to(&[number, index], address).unwrap();
            }
        }
        turn_until(&mut server, |server| server.stats().datagrams_sent == 200);
        for number in 0..20 {
            for (index, client) in (0..).zip(&clients) {
                let expected = (vec![number, index], ttl(number, index) - 1);
                assert_eq!(receive_with_ttl(client), expected, "{endpoint}");
            }
        }
        assert_all_counted(&server);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn receive_buffer_drops_are_counted() {
    let (mut server, address) = bind(config_at("udp://127.0.0.1:0"));
    let client = client(address);
    // Each takes more than 2,000 bytes of a buffer of at most 2 MiB.
    let sent = 2000;
    for _ in 0..sent {
        client.send_to(&[0; 1000], address).unwrap();
    }
    run_until_idle(&mut server);
    // SO_RXQ_OVFL reports drops with the next datagram.
    let queued = server.stats().datagrams_received;
    client.send_to(b"the next", address).unwrap();
    turn_until(&mut server, |server| {
        server.stats().datagrams_received > queued
    });
    let stats = server.stats();
    let lost = sent + 1 - stats.datagrams_received;
    assert!(lost > 0, "{stats:?}");
    assert_eq!(stats.receive_buffer_drops, lost);
    assert_all_counted(&server);
}

/// The client hands several datagrams to the system with one call (`UDP_SEGMENT`), and the server gets them
/// with one (`UDP_GRO`); see udp(7). On the way they are ordinary datagrams.
#[cfg(target_os = "linux")]
#[test]
fn datagrams_of_a_train_come_back_one_by_one_and_in_order() {
    use nix::sys::socket::{setsockopt, sockopt::UdpGsoSegment};

    for endpoint in ["udp://127.0.0.1:0", "udp://0.0.0.0:0", "udp://[::1]:0"] {
        if endpoint.contains("::") && !has_ipv6() {
            continue;
        }
        let (mut server, mut address) = bind(config_at(endpoint));
        if address.ip().is_unspecified() {
            address.set_ip([127, 0, 0, 1].into());
        }
        let client = client(address);
        setsockopt(&client, UdpGsoSegment, &1000).unwrap();
        let bytes = random_bytes(40_500);
        client.send_to(&bytes, address).unwrap();
        turn_until(&mut server, |server| server.stats().datagrams_sent == 41);
        for datagram in bytes.chunks(1000) {
            assert_eq!(receive(&client), (datagram.to_vec(), address));
        }
        let stats = server.stats();
        assert_eq!(
            (stats.datagrams_received, stats.bytes_received),
            (41, 40_500)
        );
        assert_eq!((stats.bytes_sent, stats.datagram_errors), (40_500, 0));

        // One call would take 32 datagrams at most.
        assert_nothing_received(&client);
        let turns = stats.iterations;
        client.send_to(&bytes, address).unwrap();
        server.turn(Some(common::LIMIT)).unwrap();
        let stats = server.stats();
        assert_eq!((stats.datagrams_sent, stats.iterations), (82, turns + 1));
    }
}
