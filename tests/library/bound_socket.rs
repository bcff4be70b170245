//! Sockets that the application has bound itself: served as the server's own, and left to others
//! at a shutdown.

#![cfg(unix)]

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::time::{Duration, Instant};

use crate::common::{self, Directory, LIMIT, connect, settle, turn_until};
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

/// Has the client served, from its first byte to its end.
fn talk(server: &mut Server, mut client: impl Read + Write) {
    let (sent, finished) = (server.stats().bytes_sent, server.stats().closed.peer_closed);
    client.write_all(b"hello").unwrap();
    turn_until(server, |server| server.stats().bytes_sent == sent + 5);
    let mut echoed = [0; 5];
    client.read_exact(&mut echoed).unwrap();
    assert_eq!(&echoed, b"hello");
    drop(client);
    turn_until(server, |server| {
        server.stats().closed.peer_closed > finished
    });
}

#[test]
fn tcp_udp_and_unix_sockets_are_served_at_and_nothing_else() {
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
    talk(&mut server, connect(address));
    talk(&mut server, UnixStream::connect(&path).unwrap());
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(LIMIT)).unwrap();
    client.send_to(b"hello", udp_address).unwrap();
    turn_until(&mut server, |server| server.stats().datagrams_sent == 1);
    assert_eq!(client.recv_from(&mut [0; 6]).unwrap(), (5, udp_address));

    server.shutdown();
    turn_until(&mut server, |server| server.is_finished());
    assert!(path.exists(), "it is not this server's file");
}

#[test]
fn endpoints_of_the_configuration_are_served_besides() {
    let (listener, address) = listener();
    let config = common::config().build().unwrap();
    let mut server = Server::with_sockets(config, vec![bound(&listener)]).unwrap();
    let [Endpoint::Tcp(own), Endpoint::Tcp(second)] = *server.endpoints() else {
        panic!("{:?}", server.endpoints());
    };
    assert_eq!(second, address);
    talk(&mut server, connect(own));
    talk(&mut server, connect(address));
}

/// As systemd does, who starts a service when somebody comes.
#[test]
fn who_came_before_is_served_with_the_options_of_an_echo() {
    let (listener, address) = listener();
    let early = connect(address);
    let mut server = server(vec![bound(&listener)]);
    let late = connect(address);
    // A byte that was sent as urgent comes back in its place.
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

#[test]
fn at_a_shutdown_who_waits_is_left_to_the_next() {
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
    assert_eq!(served.read(&mut [0]).unwrap(), 0);

    let mut next = server(vec![bound(&listener)]);
    talk(&mut next, waiting);
    talk(&mut next, later);
}

/// What a process does that leaves a port to others would be done to the next one's socket, too.
#[test]
fn nobody_is_turned_away_where_ports_are_shared_besides() {
    let (listener, address) = listener();
    let config = common::config().reuse_port(true).build().unwrap();
    let mut first = Server::with_sockets(config, vec![bound(&listener)]).unwrap();
    first.shutdown();
    turn_until(&mut first, |server| server.is_finished());
    let mut next = server(vec![bound(&listener)]);
    talk(
        &mut next,
        TcpStream::connect_timeout(&address, LIMIT).unwrap(),
    );
}

/// Its place in the selector goes with the echo, though the socket does not.
#[test]
fn what_comes_later_wakes_nobody() {
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
fn it_does_not_block_and_keeps_its_backlog() {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    listener.bind(&any.into()).unwrap();
    listener.listen(0).unwrap();
    let mut server = server(vec![
        BoundSocket::new(listener.try_clone().unwrap()).unwrap(),
    ]);
    assert!(listener.nonblocking().unwrap());
    settle(&mut server);
    // With room for one in the queue, a second one waits to be let in.
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

/// What came before the service is answered from where it was sent to, as what comes later.
#[cfg(target_os = "linux")]
#[test]
fn datagrams_that_came_before_are_answered_from_the_address_that_was_asked() {
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
fn peers_over_ipv4_at_a_socket_of_both_families_are_served() {
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
    talk(&mut server, connect(([127, 0, 0, 1], port).into()));
}

/// A UDP socket that takes both families.
#[cfg(target_os = "linux")]
fn dual_stack(address: &str) -> (Socket, u16) {
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, None).unwrap();
    socket.set_only_v6(false).unwrap();
    let address: SocketAddr = address.parse().unwrap();
    socket.bind(&address.into()).unwrap();
    let port = socket.local_addr().unwrap().as_socket().unwrap().port();
    (socket, port)
}

/// Also to datagrams that were queued before it was handed over.
#[cfg(target_os = "linux")]
#[test]
fn dual_stack_udp_socket_replies_from_the_address_asked() {
    if !common::has_ipv6() {
        return;
    }
    let (socket, port) = dual_stack("[::]:0");
    let [ipv4, ipv6] = ["127.0.0.1", "::1"].map(|host| UdpSocket::bind((host, 0)).unwrap());
    let questions = [("127.0.0.2", &ipv4), ("::1", &ipv6), ("127.0.0.3", &ipv4)];
    let ask = || {
        for (host, client) in questions {
            client.send_to(host.as_bytes(), (host, port)).unwrap();
        }
    };
    ask();
    let mut server = server(vec![BoundSocket::new(socket).unwrap()]);
    ask();
    turn_until(&mut server, |server| server.stats().datagrams_sent == 6);
    for (host, client) in questions.into_iter().chain(questions) {
        let mut echoed = [0; 16];
        client.set_read_timeout(Some(LIMIT)).unwrap();
        let (size, source) = client.recv_from(&mut echoed).unwrap();
        assert_eq!(&echoed[..size], host.as_bytes());
        assert_eq!(source, SocketAddr::new(host.parse().unwrap(), port));
    }
}

/// To the broadcast address of the loopback network, at sockets whose own addresses are of IPv6.
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
        client
            .send_to(b"hello, all of you", ("127.255.255.255", port))
            .unwrap();
        turn_until(&mut server, |server| server.stats().datagrams_received == 1);
        settle(&mut server);
        let stats = server.stats();
        assert_eq!(stats.dropped.destination, 1, "{address}: {stats:?}");
        assert_eq!(stats.datagrams_sent, 0, "{address}");
    }
}

/// A supervisor may have asked for time stamps (systemd: `Timestamping=`).
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
    settle(&mut server);
    assert_eq!(server.stats().dropped.hop_limit, 1);
}

/// Sends datagrams until the receive buffer has no room for more. Returns how many.
#[cfg(target_os = "linux")]
fn overflow(client: &UdpSocket, port: u16) -> u64 {
    // Each takes more than 2,000 bytes of a buffer of 2 MiB at most.
    for _ in 0..2000 {
        client.send_to(&[0; 1000], ("127.0.0.1", port)).unwrap();
    }
    2000
}

#[cfg(target_os = "linux")]
#[test]
fn receive_buffer_drops_of_before_are_not_counted() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    overflow(&client, port);
    let mut server = server(vec![BoundSocket::new(socket).unwrap()]);
    settle(&mut server);
    let before = server.stats().datagrams_received;
    // The system reports what was dropped beside the next datagram.
    client.send_to(b"the next", ("127.0.0.1", port)).unwrap();
    turn_until(&mut server, |server| {
        server.stats().datagrams_received == before + 1
    });
    assert_eq!(server.stats().receive_buffer_drops, 0);

    let sent = overflow(&client, port) + 1;
    settle(&mut server);
    client.send_to(b"the next", ("127.0.0.1", port)).unwrap();
    settle(&mut server);
    let stats = server.stats();
    let lost = before + 1 + sent - stats.datagrams_received;
    assert!(lost > 0, "{stats:?}");
    assert_eq!(stats.receive_buffer_drops, lost);
}

/// What is wrong with a socket, in one line.
fn complaint(socket: impl Into<OwnedFd>) -> String {
    let error = BoundSocket::new(socket.into()).unwrap_err();
    let text = error.to_string();
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

#[test]
fn sockets_of_other_kinds_are_told_apart() {
    let (listener, address) = listener();
    let client = connect(address);
    let (connection, _) = listener.accept().unwrap();
    assert!(complaint(client).contains("Accept=no"));
    assert!(complaint(connection).contains("Accept=no"));
    let (end, _other) = UnixStream::pair().unwrap();
    assert!(complaint(end).contains("Accept=no"));

    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.connect(address).unwrap();
    assert!(complaint(udp).contains("connection"));
    let unbound = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
    assert!(complaint(unbound).contains("bind it first"));

    let directory = Directory::new();
    let datagrams = UnixDatagram::bind(directory.file("socket")).unwrap();
    assert!(complaint(datagrams).contains("ListenStream="));
    let quiet = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    quiet.bind(&any.into()).unwrap();
    let file = std::fs::File::open("/dev/null").unwrap();
    #[cfg(target_os = "linux")]
    {
        assert!(complaint(quiet).contains("listen(2)"));
        assert!(complaint(file).contains("ocket"));
        let packets = Socket::new(Domain::UNIX, Type::SEQPACKET, None).unwrap();
        assert!(complaint(packets).contains("not served"));
    }
    if common::has_ipv6() {
        let ipv6 = UdpSocket::bind("[::1]:0").unwrap();
        SockRef::from(&ipv6).set_only_v6(true).unwrap_or(());
        BoundSocket::new(ipv6).unwrap();
    }
}
