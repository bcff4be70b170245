//! The engine with sockets that fail, and a clock that the tests move.

use super::*;

use std::os::fd::AsRawFd;

use mio::Poll;
use mio::unix::SourceFd;
use socket2::{Domain, Socket, Type};

use crate::config::ConfigBuilder;
use crate::echo::Echo;
use crate::echo::udp::DatagramSocket;
use crate::net::OperatingSystem;
use crate::net::bind::Bound;
use crate::net::stream::{Peer, StreamSocket};
use crate::net::syn_filter::HANDSHAKE_GRACE;
use crate::policy::log_lines::logged;

const RETRY: Duration = Duration::from_millis(100);

fn echo(poll: &Poll, config: ConfigBuilder) -> Engine<OperatingSystem> {
    let config = config.build().unwrap();
    Echo::new(config, poll.registry(), Token(0)).unwrap().0
}

fn tcp() -> ConfigBuilder {
    Config::builder().endpoint("tcp://127.0.0.1:0".parse().unwrap())
}

fn udp() -> ConfigBuilder {
    Config::builder().endpoint("udp://127.0.0.1:0".parse().unwrap())
}

/// Replaces the UDP socket and queues a turn of it. Returns the former one.
fn replace(echo: &mut Engine<OperatingSystem>, socket: Socket) -> EndpointSocket<OperatingSystem> {
    socket.set_nonblocking(true).unwrap();
    let endpoint = echo.endpoints[0].clone();
    let address = endpoint.address().unwrap();
    let bound = Bound {
        endpoint,
        file: None,
        inherited: false,
        socket,
    };
    let socket = DatagramSocket::new(bound, address);
    echo.enqueue_endpoint(0);
    let former = &mut echo.endpoint_sockets[0].socket;
    former.replace(EndpointSocket::Udp(socket)).unwrap()
}

/// Receiving from a TCP socket that is not connected always fails.
#[test]
fn failed_receive_is_retried_every_100_ms() {
    let poll = Poll::new().unwrap();
    let mut echo = echo(&poll, udp());
    let broken = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let working = replace(&mut echo, broken);
    let start = Instant::now();
    let at = |millis| start + Duration::from_millis(millis);
    for (now, errors, timeout) in [
        (0, 1, 100),
        (1, 1, 99),
        (99, 1, 1),
        (100, 2, 100),
        (150, 2, 50),
        (1000, 3, 100),
    ] {
        echo.run(at(now));
        assert_eq!(echo.stats.receive_errors, errors, "after {now} ms");
        let timeout = Duration::from_millis(timeout);
        assert_eq!(echo.timeout(at(now)), Some(timeout), "after {now} ms");
    }
    // A turn for another reason does not postpone the retry.
    echo.enqueue_endpoint(0);
    echo.run(at(1050));
    assert_eq!(echo.timeout(at(1050)), Some(RETRY / 2));

    echo.endpoint_sockets[0].socket = Some(working);
    echo.run(at(1100));
    assert_eq!(echo.stats.receive_errors, 4);
    assert_eq!(echo.timeout(at(1100)), None, "a retry without an error");
}

/// The registration fails, because the socket is registered already.
#[test]
fn failed_registration_is_retried() {
    let poll = Poll::new().unwrap();
    let mut echo = echo(&poll, udp());
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
    let fd = socket.as_raw_fd();
    let mut registered = SourceFd(&fd);
    let registry = poll.registry();
    registry
        .register(&mut registered, Token(7), Interest::READABLE)
        .unwrap();
    replace(&mut echo, socket);
    let start = Instant::now();
    echo.run(start);
    assert_eq!(echo.timeout(start), Some(RETRY));
}

/// Two clients, each with the accepted socket and peer.
fn clients() -> [(std::net::TcpStream, StreamSocket, Peer); 2] {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    [(); 2].map(|()| {
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, peer) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        let stream = mio::net::TcpStream::from_std(stream);
        (client, StreamSocket(stream), Peer::Tcp(peer))
    })
}

#[test]
fn failed_registration_is_not_counted_for_the_source() {
    let poll = Poll::new().unwrap();
    let mut echo = echo(&poll, tcp().max_per_source(1));
    let [(_one, registered, peer), (_other, stream, other_peer)] = clients();
    // The registration fails, because the socket is registered already.
    let fd = registered.0.as_raw_fd();
    let registry = poll.registry();
    registry
        .register(&mut SourceFd(&fd), Token(7), Interest::READABLE)
        .unwrap();
    let now = Instant::now();
    echo.admit(registered, peer, now).unwrap_err();
    assert_eq!(echo.acceptor.admission.sources(), 0);
    echo.admit(stream, other_peer, now).unwrap().unwrap();
    assert_eq!(
        (echo.acceptor.admission.sources(), echo.stats.active),
        (1, 1)
    );
    assert_eq!(echo.stats.rejected.total(), 0);
}

#[test]
fn close_for_any_reason_releases_the_source() {
    let poll = Poll::new().unwrap();
    let mut echo = echo(&poll, tcp().max_per_source(1));
    for reason in [
        CloseReason::PeerClosed,
        CloseReason::Reset,
        CloseReason::Aborted,
    ] {
        let [(_client, stream, peer), (_other, other_stream, other_peer)] = clients();
        let now = Instant::now();
        let key = echo.connections.vacant_key();
        echo.admit(stream, peer, now).unwrap().unwrap();
        let rejected = echo.admit(other_stream, other_peer, now);
        assert!(matches!(rejected, Ok(Err(_))), "{rejected:?}");
        assert_eq!(
            (echo.acceptor.admission.sources(), echo.stats.active),
            (1, 1)
        );
        echo.close(key, reason, now);
        assert_eq!(
            (echo.acceptor.admission.sources(), echo.stats.active),
            (0, 0)
        );
    }
    assert_eq!(echo.stats.rejected.too_many_from_source, 3);
    assert!(echo.connections.is_empty());
}

/// Otherwise a peer that always has more to do would have two turns in each iteration from then on.
#[test]
fn connection_with_the_key_of_a_queued_one_has_one_turn() {
    let poll = Poll::new().unwrap();
    let mut echo = echo(&poll, tcp());
    let [(_client, stream, peer), (_other, other_stream, other_peer)] = clients();
    let now = Instant::now();
    let key = echo.connections.vacant_key();
    echo.admit(stream, peer, now).unwrap().unwrap();
    echo.enqueue(key);
    echo.close(key, CloseReason::Evicted, now);
    assert_eq!(echo.connections.vacant_key(), key);
    echo.admit(other_stream, other_peer, now).unwrap().unwrap();
    echo.enqueue(key);
    echo.run(now);
    assert_eq!(echo.stats.run_queue, 1);
}

#[test]
fn event_without_a_socket_is_ignored_and_that_of_another_source_is_left() {
    let poll = Poll::new().unwrap();
    let mut echo = echo(&poll, tcp());
    let readiness = Readiness {
        readable: true,
        writable: true,
        read_until_would_block: false,
    };
    for (token, is_handled) in [(0, true), (1, true), (echo.token_count, false)] {
        assert_eq!(echo.handle(Token(token), readiness), is_handled, "{token}");
        assert_eq!(echo.run_queue.len(), 1, "only that of the listener");
    }
}

/// It is not announced again.
#[test]
fn queued_listener_has_its_turn_after_a_queued_connection_closed() {
    let poll = Poll::new().unwrap();
    let mut echo = echo(&poll, tcp());
    let [(_client, stream, peer), _] = clients();
    let now = Instant::now();
    let key = echo.connections.vacant_key();
    echo.admit(stream, peer, now).unwrap().unwrap();
    echo.enqueue(key);
    echo.enqueue_endpoint(0);
    echo.close(key, CloseReason::Evicted, now);
    echo.run(now);
    assert_eq!(echo.stats.run_queue, 1);
    assert!(!echo.endpoint_sockets[0].queued);
}

/// The host passed one time that was an hour ahead, and right times before and after.
#[test]
fn busy_polling_ends_after_a_time_too_far_ahead() {
    let poll = Poll::new().unwrap();
    let busy = Duration::from_millis(5);
    let mut echo = echo(&poll, tcp().busy_poll(busy));
    let now = Instant::now();
    echo.enqueue_endpoint(0);
    echo.run(now + Duration::from_secs(3600));
    echo.run(now);
    assert_eq!(echo.timeout(now), Some(Duration::ZERO));
    echo.run(now + busy / 2);
    assert_eq!(echo.timeout(now + busy), None);
    assert_eq!(echo.deadline(), None);
}

/// Their milliseconds would not fit into 64 bits.
#[test]
fn time_ahead_by_any_number_of_seconds_is_accepted() {
    let poll = Poll::new().unwrap();
    let config = tcp().idle_timeout(Duration::from_secs(86_400));
    let config = config.busy_poll(Duration::from_millis(5));
    let mut echo = echo(&poll, config);
    let now = Instant::now();
    let ahead = (0..64).rev().map(|bits| Duration::from_secs(1 << bits));
    let latest = ahead.fold(now, |latest, step| {
        latest.checked_add(step).unwrap_or(latest)
    });
    assert!(latest > now + Duration::from_secs(1 << 62));
    echo.enqueue_endpoint(0);
    echo.run(latest);
    // A connection that is opened then has a deadline.
    let [(_client, stream, peer), _] = clients();
    echo.admit(stream, peer, now).unwrap().unwrap();
    echo.run(now);
    assert!(echo.deadline().is_some_and(|it| it > now));
}

/// A filter that accepts only SYNs simulates a slow network.
#[test]
fn shutdown_with_reuse_port_completes_pending_handshakes() {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use socket2::SockFilter;

    // Drops segments with the flag ACK.
    const ONLY_SYNS: [SockFilter; 4] = [
        SockFilter::new(0x30, 0, 0, 13),
        SockFilter::new(0x45, 0, 1, 0x10),
        SockFilter::new(0x06, 0, 0, 0),
        SockFilter::new(0x06, 0, 0, u32::MAX),
    ];

    let mut poll = Poll::new().unwrap();
    let mut events = mio::Events::with_capacity(16);
    let mut echo = echo(&poll, tcp().reuse_port(true));
    let address = echo.endpoints[0].address().unwrap();
    let listener = echo.endpoint_sockets[0].listener_mut().unwrap();
    let socket = listener.tcp().unwrap();
    socket.attach_filter(&ONLY_SYNS).unwrap();
    let mut client = TcpStream::connect(address).unwrap();

    let start = Instant::now();
    echo.shutdown(start);
    assert_eq!(
        echo.stats.accepted, 0,
        "the handshake was completed already"
    );
    assert_eq!(echo.timeout(start), Some(HANDSHAKE_GRACE));
    // These bytes carry the ACK that completes the handshake.
    client.write_all(b"hello").unwrap();
    while echo.stats.bytes_sent < 5 {
        assert!(start.elapsed() < Duration::from_secs(30), "not accepted");
        poll.poll(&mut events, Some(Duration::from_millis(10)))
            .unwrap();
        for event in &events {
            echo.handle(event.token(), event);
        }
        echo.run(start);
    }
    client.read_exact(&mut [0; 5]).unwrap();

    echo.run(start + HANDSHAKE_GRACE);
    assert!(
        echo.endpoint_sockets[0].socket.is_none(),
        "a listener is still open"
    );
    TcpStream::connect(address).unwrap_err();
}

#[test]
fn pending_handshakes_have_at_most_the_drain_time() {
    for drain in [Duration::ZERO, HANDSHAKE_GRACE / 2] {
        let poll = Poll::new().unwrap();
        let mut echo = echo(&poll, tcp().reuse_port(true).drain_timeout(drain));
        let start = Instant::now();
        echo.shutdown(start);
        assert_eq!(echo.timeout(start), Some(drain));
        echo.run(start + drain);
        assert!(echo.is_finished());
    }
}

#[test]
fn rejections_are_logged_once_a_minute_by_reason() {
    let poll = Poll::new().unwrap();
    let config = tcp().max_per_source(1);
    let mut echo = echo(&poll, config.allow("127.0.0.0/8".parse().unwrap()));
    let start = Instant::now();
    let [(_one, stream, peer), (_other, second, _)] = clients();
    echo.admit(stream, peer, start).unwrap().unwrap();
    let mut sockets = vec![second];
    let outside = Peer::Tcp("192.0.2.1:7".parse().unwrap());
    for (seconds, peer, warning) in [
        (
            0,
            outside,
            Some("1 connections rejected, the last one from 192.0.2.1:7"),
        ),
        (0, peer, Some("1 connections rejected")),
        (1, outside, None),
        (59, peer, None),
        (60, outside, Some("2 connections rejected")),
        (90, peer, Some("2 connections rejected")),
    ] {
        let now = start + Duration::from_secs(seconds);
        let [(_one, stream, _), (_other, next, _)] = clients();
        sockets.push(next);
        let lines = logged(|| assert!(echo.admit(stream, peer, now).unwrap().is_err()));
        assert_eq!(lines[0].0, log::Level::Debug);
        let line = lines.get(1).map_or("", |(_, line)| line.as_str());
        let line = line
            .strip_prefix(&format!("{}: ", echo.name))
            .unwrap_or(line);
        assert!(line.starts_with(warning.unwrap_or("")), "{line}");
        assert_eq!(lines.len(), 1 + usize::from(warning.is_some()), "{lines:?}");
    }
    assert_eq!(echo.stats.rejected.not_allowed, 3);
    assert_eq!(echo.stats.rejected.too_many_from_source, 3);
}
