//! Inherited sockets: served like those that the server binds, and left open at a shutdown.

#![cfg(unix)]

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::time::{Duration, Instant};

use crate::common::{self, Directory, LIMIT, connect, run_until_idle, turn_until};
use mio::{Events, Poll, Token};
use mio_echo::{BoundSocket, Config, Echo, Endpoint, Server};
use socket2::{Domain, SockRef, Socket, Type};

fn server(sockets: Vec<BoundSocket>) -> Server {
    Server::with_sockets(Config::default(), sockets).unwrap()
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn bound(listener: &TcpListener) -> BoundSocket {
    BoundSocket::new(listener.try_clone().unwrap()).unwrap()
}

/// Asserts that the server echoes to the client, then closes the client.
fn assert_served(server: &mut Server, mut client: impl Read + Write) {
    let (sent, closed) = (server.stats().bytes_sent, server.stats().closed.peer_closed);
    client.write_all(b"hello").unwrap();
    turn_until(server, |server| server.stats().bytes_sent == sent + 5);
    let mut echoed = [0; 5];
    client.read_exact(&mut echoed).unwrap();
    assert_eq!(&echoed, b"hello");
    drop(client);
    turn_until(server, |server| server.stats().closed.peer_closed > closed);
}

#[test]
fn inherited_tcp_udp_and_unix_sockets_are_served() {
    let directory = Directory::new();
    let path = directory.file("socket");
    let (tcp, address) = listener();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let udp_address = udp.local_addr().unwrap();
    let unix = UnixListener::bind(&path).unwrap();
    let mut server = server(vec![
        BoundSocket::new(tcp).unwrap(),
        BoundSocket::new(udp).unwrap(),
        BoundSocket::new(unix).unwrap(),
    ]);
    assert_eq!(
        server.endpoints(),
        [
            Endpoint::Tcp(address),
            Endpoint::Udp(udp_address),
            Endpoint::Unix(path.clone()),
        ]
    );
    assert_served(&mut server, connect(address));
    assert_served(&mut server, UnixStream::connect(&path).unwrap());
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(LIMIT)).unwrap();
    client.send_to(b"hello", udp_address).unwrap();
    turn_until(&mut server, |server| server.stats().datagrams_sent == 1);
    assert_eq!(client.recv_from(&mut [0; 6]).unwrap(), (5, udp_address));

    server.shutdown();
    turn_until(&mut server, |server| server.is_finished());
    assert!(
        path.exists(),
        "the file of an inherited socket was unlinked"
    );
}

#[test]
fn configured_endpoints_are_served_beside_inherited_sockets() {
    let (listener, address) = listener();
    let config = common::config().build().unwrap();
    let mut server = Server::with_sockets(config, vec![bound(&listener)]).unwrap();
    let [Endpoint::Tcp(own), Endpoint::Tcp(second)] = *server.endpoints() else {
        panic!("{:?}", server.endpoints());
    };
    assert_eq!(second, address);
    assert_served(&mut server, connect(own));
    assert_served(&mut server, connect(address));
}

/// As with socket activation: systemd starts the service at the first connection.
#[test]
fn connections_pending_before_the_handover_get_the_socket_options() {
    let (listener, address) = listener();
    let early = connect(address);
    let mut server = server(vec![bound(&listener)]);
    let late = connect(address);
    // With SO_OOBINLINE an urgent byte is echoed in its place.
    for mut client in [early, late] {
        let sent = server.stats().bytes_sent;
        SockRef::from(&client).send_out_of_band(b"!").unwrap();
        client.write_all(b"hello").unwrap();
        turn_until(&mut server, |server| server.stats().bytes_sent == sent + 6);
        let mut echoed = [0; 6];
        client.read_exact(&mut echoed).unwrap();
        assert_eq!(&echoed, b"!hello");
    }
}

/// Over TCP the last echo of a half-closed connection is on its way when the socket is closed. With
/// `SO_LINGER` and a time of 0 the close would reset the connection.
#[test]
fn linger_of_an_inherited_listener_is_off() {
    let (listener, address) = listener();
    SockRef::from(&listener)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    let early = connect(address);
    let mut server = server(vec![bound(&listener)]);
    assert_eq!(SockRef::from(&listener).linger().unwrap(), None);
    let late = connect(address);
    for mut client in [early, late] {
        let closed = server.stats().closed.peer_closed;
        client.write_all(b"hello").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        turn_until(&mut server, |server| {
            server.stats().closed.peer_closed > closed
        });
        assert_eq!(common::read_to_the_end(&mut client), b"hello");
    }
}

/// Sets options that would hold back or end the echo at some time.
#[cfg(target_os = "linux")]
pub(crate) fn set_breaking_options(socket: &impl std::os::fd::AsFd) {
    use nix::sys::socket::{TimestampingFlag, setsockopt, sockopt::Timestamping};

    SockRef::from(socket).set_tcp_cork(true).unwrap();
    let of_sending = TimestampingFlag::SOF_TIMESTAMPING_TX_SOFTWARE;
    setsockopt(socket, Timestamping, &of_sending).unwrap();
}

#[cfg(target_os = "linux")]
pub(crate) fn assert_breaking_options_are_reset(socket: &impl std::os::fd::AsFd) {
    use nix::sys::socket::{getsockopt, sockopt::Timestamping};

    assert!(!SockRef::from(socket).tcp_cork().unwrap());
    let stamps = getsockopt(socket, Timestamping).unwrap();
    assert!(stamps.is_empty(), "{stamps:?}");
}

#[cfg(target_os = "linux")]
#[test]
fn options_that_would_break_an_echo_are_reset_on_an_inherited_listener() {
    let (listener, _) = listener();
    set_breaking_options(&listener);
    let _server = server(vec![bound(&listener)]);
    assert_breaking_options_are_reset(&listener);
}

/// As systemd passes it on with `SocketProtocol=mptcp`. It lacks some options of TCP.
#[cfg(target_os = "linux")]
#[test]
fn mptcp_socket_is_served() {
    let mptcp = socket2::Protocol::from(262); // IPPROTO_MPTCP
    let Ok(listener) = Socket::new(Domain::IPV4, Type::STREAM, Some(mptcp)) else {
        eprintln!("skipped: this kernel has no MPTCP");
        return;
    };
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    listener.bind(&any.into()).unwrap();
    listener.listen(16).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let early = connect(address);
    let mut server = server(vec![BoundSocket::new(listener).unwrap()]);
    assert_served(&mut server, early);
    let late = Socket::new(Domain::IPV4, Type::STREAM, Some(mptcp)).unwrap();
    late.connect(&address.into()).unwrap();
    assert_served(&mut server, TcpStream::from(late));
}

#[test]
fn shutdown_leaves_pending_connections_to_the_next_server() {
    let (listener, address) = listener();
    let mut first = server(vec![bound(&listener)]);
    let mut served = connect(address);
    turn_until(&mut first, |server| server.stats().active == 1);
    let waiting = connect(address);
    first.shutdown();
    let later = connect(address);
    served.shutdown(Shutdown::Write).unwrap();
    turn_until(&mut first, |server| server.is_finished());
    assert_eq!(first.stats().accepted, 1);
    assert_eq!(served.read_to_end(&mut Vec::new()).unwrap(), 0);

    let mut next = server(vec![bound(&listener)]);
    assert_served(&mut next, waiting);
    assert_served(&mut next, later);
}

/// A filter on an inherited socket would also apply to the next server's copy.
#[test]
fn shutdown_with_reuse_port_drops_no_syns_at_an_inherited_socket() {
    let (listener, address) = listener();
    let config = common::config().reuse_port(true).build().unwrap();
    let mut first = Server::with_sockets(config, vec![bound(&listener)]).unwrap();
    first.shutdown();
    turn_until(&mut first, |server| server.is_finished());
    let mut next = server(vec![bound(&listener)]);
    assert_served(
        &mut next,
        TcpStream::connect_timeout(&address, LIMIT).unwrap(),
    );
}

/// close(2) does not deregister an inherited socket, because a copy stays open.
#[test]
fn inherited_sockets_are_deregistered_at_the_end() {
    for is_shut_down in [true, false] {
        let (listener, address) = listener();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let copy = udp.try_clone().unwrap();
        let sockets = vec![bound(&listener), BoundSocket::new(udp).unwrap()];
        let mut poll = Poll::new().unwrap();
        let config = Config::default();
        let mut echo = Echo::with_sockets(config, sockets, poll.registry(), Token(0)).unwrap();
        if is_shut_down {
            let now = Instant::now();
            echo.shutdown(now);
            echo.run(now);
            assert!(echo.is_finished());
        } else {
            drop(echo);
        }
        let _client = connect(address);
        copy.send_to(b"hello", copy.local_addr().unwrap()).unwrap();
        let mut events = Events::with_capacity(1);
        poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
        assert!(events.is_empty(), "{events:?}");
    }
}

#[test]
fn inherited_listener_is_made_nonblocking_and_keeps_its_backlog() {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    listener.bind(&any.into()).unwrap();
    listener.listen(0).unwrap();
    let mut server = server(vec![
        BoundSocket::new(listener.try_clone().unwrap()).unwrap(),
    ]);
    assert!(listener.nonblocking().unwrap());
    run_until_idle(&mut server);
    // The queue has room for one connection, so the handshake of a second is not completed.
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let _first = connect(address);
    let second = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    second.set_nonblocking(true).unwrap();
    let _ = second.connect(&address.into());
    assert_eq!(
        second.peer_addr().unwrap_err().kind(),
        ErrorKind::NotConnected
    );
}

/// The reply has the destination address as its source.
#[cfg(target_os = "linux")]
#[test]
fn datagrams_queued_before_the_handover_are_replied_from_their_destination() {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(LIMIT)).unwrap();
    client.send_to(b"early", ("127.0.0.2", port)).unwrap();
    let mut server = server(vec![BoundSocket::new(socket).unwrap()]);
    client.send_to(b"later", ("127.0.0.3", port)).unwrap();
    turn_until(&mut server, |server| server.stats().datagrams_sent == 2);
    for (text, address) in [(b"early", [127, 0, 0, 2]), (b"later", [127, 0, 0, 3])] {
        let mut echoed = [0; 6];
        let (_, source) = client.recv_from(&mut echoed).unwrap();
        assert_eq!(source, SocketAddr::from((address, port)));
        assert_eq!(&echoed[..5], text);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn dual_stack_listener_serves_ipv4() {
    if !common::has_ipv6() {
        return;
    }
    let listener = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
    listener.set_only_v6(false).unwrap();
    let any: SocketAddr = "[::]:0".parse().unwrap();
    listener.bind(&any.into()).unwrap();
    listener.listen(16).unwrap();
    let port = listener.local_addr().unwrap().as_socket().unwrap().port();
    let mut server = server(vec![BoundSocket::new(listener).unwrap()]);
    assert_served(&mut server, connect(([127, 0, 0, 1], port).into()));
}

/// A dual-stack UDP socket.
#[cfg(target_os = "linux")]
fn dual_stack(address: &str) -> (Socket, u16) {
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, None).unwrap();
    socket.set_only_v6(false).unwrap();
    let address: SocketAddr = address.parse().unwrap();
    socket.bind(&address.into()).unwrap();
    let port = socket.local_addr().unwrap().as_socket().unwrap().port();
    (socket, port)
}

/// Also to datagrams that were queued before the handover.
#[cfg(target_os = "linux")]
#[test]
fn dual_stack_udp_socket_replies_from_the_destination_address() {
    if !common::has_ipv6() {
        return;
    }
    let (socket, port) = dual_stack("[::]:0");
    let [ipv4, ipv6] = ["127.0.0.1", "::1"].map(|host| UdpSocket::bind((host, 0)).unwrap());
    let requests = [("127.0.0.2", &ipv4), ("::1", &ipv6), ("127.0.0.3", &ipv4)];
    let send = || {
        for (host, client) in requests {
            client.send_to(host.as_bytes(), (host, port)).unwrap();
        }
    };
    send();
    let mut server = server(vec![BoundSocket::new(socket).unwrap()]);
    send();
    turn_until(&mut server, |server| server.stats().datagrams_sent == 6);
    for (host, client) in requests.into_iter().chain(requests) {
        let mut echoed = [0; 16];
        client.set_read_timeout(Some(LIMIT)).unwrap();
        let (size, source) = client.recv_from(&mut echoed).unwrap();
        assert_eq!(&echoed[..size], host.as_bytes());
        assert_eq!(source, SocketAddr::new(host.parse().unwrap(), port));
    }
}

/// Replies larger than the path MTU are fragmented by routers.
#[cfg(target_os = "linux")]
#[test]
fn dual_stack_udp_socket_allows_fragmentation() {
    use rustix::net::sockopt::{Ipv4PathMtuDiscovery, ip_mtu_discover};

    if !common::has_ipv6() {
        return;
    }
    let (socket, _) = dual_stack("[::]:0");
    let copy = socket.try_clone().unwrap();
    let _server = server(vec![BoundSocket::new(socket).unwrap()]);
    let discovery = ip_mtu_discover(copy).unwrap();
    assert_eq!(discovery, Ipv4PathMtuDiscovery::DONT);
}

/// The broadcast address of the loopback network, at sockets that are bound to IPv6 addresses.
#[cfg(target_os = "linux")]
#[test]
fn broadcast_to_an_ipv6_udp_socket_gets_no_reply() {
    if !common::has_ipv6() {
        return;
    }
    for address in ["[::]:0", "[::ffff:0.0.0.0]:0", "[::ffff:127.255.255.255]:0"] {
        let (socket, port) = dual_stack(address);
        let mut server = server(vec![BoundSocket::new(socket).unwrap()]);
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_broadcast(true).unwrap();
        client.send_to(b"hello", ("127.255.255.255", port)).unwrap();
        turn_until(&mut server, |server| server.stats().datagrams_received == 1);
        run_until_idle(&mut server);
        let stats = server.stats();
        assert_eq!(stats.dropped.destination, 1, "{address}: {stats:?}");
        assert_eq!(stats.datagrams_sent, 0, "{address}");
    }
}

/// A supervisor may have enabled time stamps (systemd: `Timestamping=`).
#[cfg(target_os = "linux")]
#[test]
fn time_stamps_leave_room_for_other_control_messages() {
    use nix::sys::socket::{setsockopt, sockopt::ReceiveTimestamp};

    if !common::has_ipv6() {
        return;
    }
    let (socket, port) = dual_stack("[::]:0");
    setsockopt(&socket, ReceiveTimestamp, &true).unwrap();
    let mut server = server(vec![BoundSocket::new(socket).unwrap()]);
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_ttl(1).unwrap();
    client.send_to(b"hello", ("127.0.0.1", port)).unwrap();
    turn_until(&mut server, |server| server.stats().datagrams_received == 1);
    run_until_idle(&mut server);
    assert_eq!(server.stats().dropped.hop_limit, 1);
}

/// Has the server reply to so many peers that are gone that the errors would fill a small receive
/// buffer.
#[cfg(target_os = "linux")]
fn reply_to_closed_sockets(server: &mut Server, client: &str, service: SocketAddr) {
    for _ in 0..100 {
        let sent = server.stats().datagrams_sent;
        let client = UdpSocket::bind(client).unwrap();
        client.send_to(b"hello", service).unwrap();
        drop(client);
        turn_until(server, |server| server.stats().datagrams_sent > sent);
    }
}

/// The error queue shares the receive buffer: once it is full, no more datagrams arrive.
#[cfg(target_os = "linux")]
#[test]
fn error_queue_of_an_inherited_udp_socket_stays_empty() {
    use nix::sys::socket::sockopt::{Ipv4RecvErr, Ipv6RecvErr, Timestamping};
    use nix::sys::socket::{TimestampingFlag, setsockopt};

    if !common::has_ipv6() {
        return;
    }
    for client in ["127.0.0.1:0", "[::1]:0"] {
        let (socket, port) = dual_stack("[::]:0");
        setsockopt(&socket, Ipv4RecvErr, &true).unwrap();
        setsockopt(&socket, Ipv6RecvErr, &true).unwrap();
        setsockopt(&socket, Timestamping, &TimestampingFlag::all()).unwrap();
        let copy = socket.try_clone().unwrap();
        let mut server = server(vec![BoundSocket::new(socket).unwrap()]);
        copy.set_recv_buffer_size(16 * 1024).unwrap();
        let service = (client.parse::<SocketAddr>().unwrap().ip(), port).into();
        reply_to_closed_sockets(&mut server, client, service);
    }
}

/// Without the reset, replies leave in pieces of this size.
#[cfg(target_os = "linux")]
#[test]
fn segment_size_of_an_inherited_udp_socket_is_reset() {
    use nix::sys::socket::{setsockopt, sockopt::UdpGsoSegment};

    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    setsockopt(&socket, UdpGsoSegment, &100).unwrap();
    let mut server = server(vec![BoundSocket::new(socket).unwrap()]);
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(LIMIT)).unwrap();
    client.send_to(&[1; 250], address).unwrap();
    turn_until(&mut server, |server| server.stats().datagrams_sent == 1);
    assert_eq!(client.recv_from(&mut [0; 1000]).unwrap(), (250, address));
}

/// Sends more datagrams than the receive buffer has room for. Returns how many.
#[cfg(target_os = "linux")]
fn overflow(client: &UdpSocket, port: u16) -> u64 {
    // Each takes more than 2,000 bytes of a buffer of at most 2 MiB.
    for _ in 0..2000 {
        client.send_to(&[0; 1000], ("127.0.0.1", port)).unwrap();
    }
    2000
}

#[cfg(target_os = "linux")]
#[test]
fn receive_buffer_drops_before_the_handover_are_not_counted() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    overflow(&client, port);
    let mut server = server(vec![BoundSocket::new(socket).unwrap()]);
    run_until_idle(&mut server);
    let before = server.stats().datagrams_received;
    // SO_RXQ_OVFL reports drops with the next datagram.
    client.send_to(b"the next", ("127.0.0.1", port)).unwrap();
    turn_until(&mut server, |server| {
        server.stats().datagrams_received == before + 1
    });
    assert_eq!(server.stats().receive_buffer_drops, 0);

    let sent = overflow(&client, port) + 1;
    run_until_idle(&mut server);
    let queued = server.stats().datagrams_received;
    client.send_to(b"the next", ("127.0.0.1", port)).unwrap();
    turn_until(&mut server, |server| {
        server.stats().datagrams_received > queued
    });
    let stats = server.stats();
    let lost = before + 1 + sent - stats.datagrams_received;
    assert!(lost > 0, "{stats:?}");
    assert_eq!(stats.receive_buffer_drops, lost);
}

/// The error for a socket that is not served, which is one line.
fn error_of(socket: impl Into<OwnedFd>) -> String {
    let error = BoundSocket::new(socket.into()).unwrap_err();
    let text = error.to_string();
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

#[test]
fn unsupported_sockets_are_errors_that_name_the_remedy() {
    let (listener, address) = listener();
    let client = connect(address);
    let (connection, _) = listener.accept().unwrap();
    assert!(error_of(client).contains("Accept=no"));
    assert!(error_of(connection).contains("Accept=no"));
    let (connection, _peer) = UnixStream::pair().unwrap();
    assert!(error_of(connection).contains("Accept=no"));

    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.connect(address).unwrap();
    assert!(error_of(udp).contains("not connected"));
    let unbound = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
    assert!(error_of(unbound).contains("bind it first"));

    let directory = Directory::new();
    let datagrams = UnixDatagram::bind(directory.file("socket")).unwrap();
    assert!(error_of(datagrams).contains("ListenStream="));
    let not_listening = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    not_listening.bind(&any.into()).unwrap();
    #[cfg(target_os = "linux")]
    {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(error_of(not_listening).contains("listen(2)"));
        assert!(error_of(file).contains("ocket"));
        let packets = Socket::new(Domain::UNIX, Type::SEQPACKET, None).unwrap();
        assert!(error_of(packets).contains("neither a TCP"));
    }
    if common::has_ipv6() {
        let ipv6 = UdpSocket::bind("[::1]:0").unwrap();
        SockRef::from(&ipv6).set_only_v6(true).unwrap_or(());
        BoundSocket::new(ipv6).unwrap();
    }
}
