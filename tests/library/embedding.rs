//! `Echo` as a guest: in a loop of the test's own, at times that the test makes up.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use crate::common::host::{FIRST, Host};
use crate::common::{self, config, connect};
use mio::{Interest, Poll, Token};
use mio_echo::{Config, Echo};

#[test]
fn a_guest_leaves_the_tokens_that_are_not_its_own_to_the_host() {
    let (mut host, address) = Host::new(config());
    let last = Token(FIRST.0 + Config::DEFAULT_MAX_CONNECTIONS);
    assert_eq!(host.echo.tokens(), FIRST.0..last.0 + 1);
    assert!(host.echo.owns(FIRST) && host.echo.owns(last));
    assert!(!host.echo.owns(Token(FIRST.0 - 1)) && !host.echo.owns(Token(last.0 + 1)));

    let own = TcpListener::bind("127.0.0.1:0").unwrap();
    own.set_nonblocking(true).unwrap();
    let mut own = mio::net::TcpListener::from_std(own);
    let token = Token(FIRST.0 - 1);
    host.poll
        .registry()
        .register(&mut own, token, Interest::READABLE)
        .unwrap();
    let _to_own = connect(own.local_addr().unwrap());
    let _to_echo = connect(address);

    let mut others = Vec::new();
    let start = Instant::now();
    while others.is_empty() || host.echo.stats().active == 0 {
        assert!(start.elapsed() < common::LIMIT);
        others.extend(host.handle());
        host.echo.run(host.now);
    }
    assert!(others.iter().all(|event| event.token() == token));
}

#[test]
fn each_socket_and_each_connection_has_a_token() {
    let (host, _) = Host::new(common::config_at("127.0.0.1:0").max_connections(5));
    assert_eq!(host.echo.tokens(), FIRST.0..FIRST.0 + 2 + 5);
}

/// Where datagrams come one at a time each takes an event; where many come there is none while
/// they do, and one again afterwards.
#[cfg(target_os = "linux")]
#[test]
fn a_busy_datagram_socket_leaves_the_selector_and_comes_back() {
    let (mut host, address) = Host::new(common::config_at("udp://127.0.0.1:0"));
    let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let send = |count: usize| {
        for _ in 0..count {
            client.send_to(b"hello", address).unwrap();
        }
    };
    let mut total = 0;
    for _ in 0..3 {
        send(10);
        // The event of the first.
        host.handle();
        assert_eq!(host.events.iter().count(), 1);
        assert_eq!(host.echo.timeout(host.now), Some(Duration::ZERO));
        host.echo.run(host.now);
        assert!(host.echo.stats().datagrams_sent > total);

        // It is busy.
        send(10);
        host.handle();
        assert_eq!(host.events.iter().count(), 0, "an event that tells nothing");
        assert_eq!(host.echo.timeout(host.now), Some(Duration::ZERO));
        total += 20;
        while host.echo.timeout(host.now).is_some() {
            assert_eq!(host.echo.timeout(host.now), Some(Duration::ZERO));
            host.echo.run(host.now);
        }
        assert_eq!(host.echo.stats().datagrams_sent, total);
    }
}

#[test]
fn events_are_only_noted_until_the_run() {
    let (mut host, address) = Host::new(config());
    let mut client = connect(address);
    host.run_until(|echo| echo.stats().active == 1);
    client.write_all(b"hello").unwrap();
    while host.echo.timeout(host.now) != Some(Duration::ZERO) {
        host.handle();
    }
    assert_eq!(host.echo.stats().bytes_received, 0);
    host.echo.run(host.now);
    assert_eq!(host.echo.stats().bytes_sent, 5);
    let now = host.now;
    host.run_until(|echo| echo.timeout(now).is_none());
}

#[test]
fn the_run_queue_is_as_long_as_there_were_turns_in_the_last_run() {
    let (mut host, address) = Host::new(config());
    let mut clients = [connect(address), connect(address)];
    host.run_until(|echo| echo.stats().active == 2);
    while host.echo.timeout(host.now).is_some() {
        host.echo.run(host.now);
    }
    // Both have events before either has a turn.
    for client in &mut clients {
        client.write_all(b"hello").unwrap();
        while host.handle().is_empty() && host.events.is_empty() {}
    }
    host.echo.run(host.now);
    assert_eq!(host.echo.stats().run_queue, 2);
    assert_eq!(host.echo.stats().bytes_sent, 10);
    host.echo.run(host.now);
    assert_eq!(host.echo.stats().run_queue, 0);
}

#[test]
fn after_an_event_it_is_busy_for_as_long_as_the_host_was_told() {
    let busy = Duration::from_secs(1);
    let (mut host, address) = Host::new(config().busy_poll(busy));
    assert_eq!(
        host.echo.timeout(host.now),
        None,
        "nothing has happened yet"
    );
    let mut client = connect(address);
    host.run_until(|echo| echo.stats().active == 1);
    for _ in 0..2 {
        host.now += 2 * busy;
        assert_eq!(host.echo.timeout(host.now), None);
        client.write_all(b"hello").unwrap();
        let sent = host.echo.stats().bytes_sent;
        host.run_until(|echo| echo.stats().bytes_sent == sent + 5);
        host.echo.run(host.now + busy / 2);
        let almost = host.now + busy.mul_f32(0.99);
        assert_eq!(host.echo.timeout(almost), Some(Duration::ZERO));
        assert_eq!(host.echo.timeout(host.now + busy), None);
    }
}

#[test]
fn an_event_that_is_handed_over_again_gives_no_second_turn() {
    let (mut host, address) = Host::new(config().buffer_size(1));
    let mut client = connect(address);
    host.run_until(|echo| echo.stats().active == 1);
    client.write_all(b"hello").unwrap();
    while host.echo.timeout(host.now) != Some(Duration::ZERO) {
        host.handle();
    }
    for event in host.events.iter().chain(host.events.iter()) {
        host.echo.handle(event);
    }
    host.echo.run(host.now);
    assert_eq!(host.echo.stats().bytes_received, 1, "more than one read");
}

#[test]
fn an_event_of_a_token_that_nobody_has_is_ignored() {
    let (mut host, address) = Host::new(config());
    let clients = [connect(address), connect(address)];
    host.run_until(|echo| echo.stats().active == 2);
    // Events of their end, handed over again and again: late ones too.
    drop(clients);
    let mut kept = Vec::new();
    let start = Instant::now();
    while host.echo.stats().active > 0 {
        assert!(start.elapsed() < common::LIMIT);
        host.handle();
        kept.extend(host.events.iter().cloned());
        host.echo.run(host.now);
        for event in &kept {
            host.echo.handle(event);
        }
    }
    assert!(!kept.is_empty());
    let mut client = connect(address);
    client.write_all(b"hello").unwrap();
    host.run_until(|echo| echo.stats().bytes_sent == 5);
    for event in &kept {
        host.echo.handle(event);
    }
    host.echo.run(host.now);
    assert_eq!(
        host.echo.stats().active,
        1,
        "a late event closed somebody else's connection"
    );
}

#[test]
fn the_drain_time_passes_as_the_host_says() {
    let drain = Duration::from_secs(3600);
    let (mut host, address) = Host::new(config().drain_timeout(drain));
    let mut client = connect(address);
    host.run_until(|echo| echo.stats().active == 1);
    assert_eq!(host.echo.timeout(host.now), None);

    let start = host.now;
    host.echo.shutdown(start);
    assert_eq!(host.echo.timeout(start), Some(drain));
    let almost = start + Duration::from_secs(3599);
    host.echo.run(almost);
    assert_eq!(host.echo.stats().active, 1);
    assert_eq!(host.echo.timeout(almost), Some(Duration::from_secs(1)));

    // The drain time is over: the peer is told, and has a second to take what is on its way.
    let end = start + drain;
    host.echo.run(end);
    assert_eq!(
        client.read(&mut [0; 1]).unwrap(),
        0,
        "the end of the stream"
    );
    host.echo.run(end); // The turn of who lingers.
    assert!(!host.echo.is_finished());
    assert_eq!(host.echo.timeout(end), Some(Duration::from_secs(1)));
    let later = end + Duration::from_secs(1);
    host.echo.run(later);
    assert!(host.echo.is_finished());
    assert_eq!(host.echo.stats().closed.aborted, 1);
    assert_eq!(host.echo.timeout(later), None, "the host's loop would spin");
}

#[test]
fn a_shutdown_that_is_over_early_leaves_no_deadline() {
    let (mut host, address) = Host::new(config());
    let client = connect(address);
    host.run_until(|echo| echo.stats().active == 1);
    host.echo.shutdown(host.now);
    drop(client);
    host.run_until(Echo::is_finished);
    assert_eq!(
        host.echo.timeout(host.now + Duration::from_secs(3600)),
        None
    );
}

#[test]
fn what_was_read_before_the_drain_time_was_over_comes_back() {
    // When the connection is ended, much of the echo is in the server's send queue, or still with
    // the server. And there is input that will not be echoed any more, which must not reset the
    // connection.
    let drain = Duration::from_secs(1);
    let (mut host, address) = Host::new(config().drain_timeout(drain));
    let mut client = connect(address);
    let bytes = common::noise(64 * 1024 * 1024);
    let mut sent = 0;
    let mut idle = 0;
    while idle < 10 {
        let more = common::send_what_fits(&mut client, &bytes[sent..]);
        host.handle();
        host.echo.run(host.now);
        sent += more;
        idle = if more == 0 { idle + 1 } else { 0 };
    }
    let stats = host.echo.stats();
    assert!(stats.bytes_sent < stats.bytes_received, "not stalled");
    assert!(stats.bytes_received < sent as u64, "there is no input left");

    host.echo.shutdown(host.now);
    host.now += drain;
    host.echo.run(host.now);
    let reader = std::thread::spawn(move || common::read_to_the_end(&mut client));
    host.run_until(Echo::is_finished);
    let echoed = reader.join().unwrap();
    assert_eq!(echoed.len() as u64, stats.bytes_received);
    assert!(echoed == bytes[..echoed.len()]);
}

#[test]
fn no_more_tokens_than_there_are() {
    let poll = Poll::new().unwrap();
    let config = config().max_connections(100).build().unwrap();
    let error = Echo::new(config, poll.registry(), Token(usize::MAX - 100)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

/// The whole of 127.0.0.0/8 is this host on Linux; elsewhere only 127.0.0.1 need be.
#[cfg(target_os = "linux")]
#[test]
fn where_the_third_endpoint_cannot_be_had_nothing_is_left_listening() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port();
    let endpoint = |host: &str| format!("{host}:{port}").parse().unwrap();
    let config = mio_echo::Config::builder()
        .endpoint(endpoint("127.0.0.2"))
        .endpoint(endpoint("127.0.0.3"))
        .endpoint(endpoint("127.0.0.1"));
    let poll = Poll::new().unwrap();
    let error = Echo::new(config.build().unwrap(), poll.registry(), FIRST).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    assert!(
        error
            .to_string()
            .contains(&format!("tcp://127.0.0.1:{port}")),
        "{error}"
    );
    for host in ["127.0.0.2", "127.0.0.3"] {
        let refused = std::net::TcpStream::connect((host, port)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{host}");
    }
}
