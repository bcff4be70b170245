//! `Echo` in an event loop of the application, which also keeps the clock.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::host::{FIRST_TOKEN, Host};
use crate::common::{
    self, Engine, accept, config, connect, connect_small, random_bytes, read_to_the_end,
    run_until_idle, small_buffers, write_block,
};
use mio::{Interest, Poll, Token};
use mio_echo::{Config, Echo};

#[test]
fn events_of_other_tokens_are_left_to_the_application() {
    let mut host = Host::new(config());
    let address = host.address();
    let last = Token(FIRST_TOKEN.0 + Config::DEFAULT_MAX_CONNECTIONS);
    assert_eq!(host.echo.tokens(), FIRST_TOKEN.0..last.0 + 1);
    assert!(host.echo.owns(FIRST_TOKEN) && host.echo.owns(last));
    assert!(!host.echo.owns(Token(FIRST_TOKEN.0 - 1)) && !host.echo.owns(Token(last.0 + 1)));

    let own = TcpListener::bind("127.0.0.1:0").unwrap();
    own.set_nonblocking(true).unwrap();
    let mut own = mio::net::TcpListener::from_std(own);
    let token = Token(FIRST_TOKEN.0 - 1);
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
        others.extend(host.handle(Duration::from_millis(1)));
        host.echo.run(host.now);
    }
    assert!(others.iter().all(|event| event.token() == token));
}

#[test]
fn tokens_cover_each_socket_and_each_connection() {
    let host = Host::new(common::config_at("127.0.0.1:0").max_connections(5));
    assert_eq!(host.echo.tokens(), FIRST_TOKEN.0..FIRST_TOKEN.0 + 2 + 5);
}

/// A large batch switches the socket to polling, without events; a small one switches it back.
#[cfg(target_os = "linux")]
#[test]
fn busy_udp_socket_is_deregistered_until_it_is_drained() {
    let mut host = Host::new(common::config_at("udp://127.0.0.1:0"));
    let address = host.address();
    let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let send = |count: usize| {
        for _ in 0..count {
            client.send_to(b"hello", address).unwrap();
        }
    };
    let mut total = 0;
    for _ in 0..3 {
        send(10);
        host.handle(Duration::from_millis(10));
        assert_eq!(host.events.iter().count(), 1);
        assert_eq!(host.echo.timeout(host.now), Some(Duration::ZERO));
        host.echo.run(host.now);
        assert!(host.echo.stats().datagrams_sent > total);

        // Polled now.
        send(10);
        host.handle(Duration::from_millis(10));
        assert_eq!(host.events.iter().count(), 0, "still registered");
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
fn handle_only_queues_and_run_echoes() {
    let mut host = Host::new(config());
    let mut client = host.connect();
    client.write_all(b"hello").unwrap();
    host.handle_until_work();
    assert_eq!(host.echo.stats().bytes_received, 0);
    host.echo.run(host.now);
    assert_eq!(host.echo.stats().bytes_sent, 5);
    let now = host.now;
    host.run_until(|echo| echo.timeout(now).is_none());
}

#[test]
fn run_queue_counts_the_turns_of_the_last_run() {
    let mut host = Host::new(config());
    let address = host.address();
    let mut clients = [connect(address), connect(address)];
    host.run_until(|echo| echo.stats().active == 2);
    run_until_idle(&mut host);
    // Both connections have an event before either has a turn.
    for client in &mut clients {
        client.write_all(b"hello").unwrap();
        host.handle(common::LIMIT);
    }
    host.echo.run(host.now);
    assert_eq!(host.echo.stats().run_queue, 2);
    assert_eq!(host.echo.stats().bytes_sent, 10);
    // Without epoll each connection has another turn, in which a read would block.
    host.echo.run(host.now);
    host.echo.run(host.now);
    assert_eq!(host.echo.stats().run_queue, 0);
}

#[test]
fn busy_poll_lasts_from_the_last_event() {
    let busy = Duration::from_secs(1);
    let mut host = Host::new(config().busy_poll(busy));
    let address = host.address();
    assert_eq!(
        host.echo.timeout(host.now),
        None,
        "busy before the first event"
    );
    let mut client = connect(address);
    host.run_until(|echo| echo.stats().active == 1);
    for _ in 0..2 {
        host.now += 2 * busy;
        assert_eq!(host.echo.timeout(host.now), None);
        client.write_all(b"hello").unwrap();
        let sent = host.echo.stats().bytes_sent;
        host.run_until(|echo| echo.stats().bytes_sent == sent + 5);
        // Without epoll the connection has another turn, in which a read would block.
        host.echo.run(host.now);
        host.echo.run(host.now + busy / 2);
        let almost = host.now + busy.mul_f32(0.99);
        assert_eq!(host.echo.timeout(almost), Some(Duration::ZERO));
        assert_eq!(host.echo.timeout(host.now + busy), None);
    }
}

#[test]
fn repeated_event_gives_no_second_turn() {
    let mut host = Host::new(config().buffer_size(1));
    let mut client = host.connect();
    client.write_all(b"hello").unwrap();
    host.handle_until_work();
    for event in host.events.iter().chain(host.events.iter()) {
        host.echo.handle(event);
    }
    host.echo.run(host.now);
    assert_eq!(host.echo.stats().bytes_received, 1, "more than one turn");
}

#[test]
fn stale_event_is_ignored() {
    let mut host = Host::new(config());
    let address = host.address();
    let clients = [connect(address), connect(address)];
    host.run_until(|echo| echo.stats().active == 2);
    // The events of both closes are repeated, during and after the closes.
    drop(clients);
    let mut kept = Vec::new();
    let start = Instant::now();
    while host.echo.stats().active > 0 {
        assert!(start.elapsed() < common::LIMIT);
        host.handle(Duration::from_millis(1));
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
        "a stale event closed another connection"
    );
}

#[test]
fn drain_time_follows_the_clock_of_the_application() {
    let drain = Duration::from_secs(3600);
    let mut host = Host::new(config().drain_timeout(drain));
    let mut client = host.connect();
    assert_eq!(host.echo.timeout(host.now), None);

    let start = host.now;
    host.echo.shutdown(start);
    assert_eq!(host.echo.timeout(start), Some(drain));
    let almost = start + Duration::from_secs(3599);
    host.echo.run(almost);
    assert_eq!(host.echo.stats().active, 1);
    assert_eq!(host.echo.timeout(almost), Some(Duration::from_secs(1)));

    // The peer reads the end of the stream, and has a second to receive what is in flight.
    let end = start + drain;
    host.echo.run(end);
    assert_eq!(
        client.read(&mut [0; 1]).unwrap(),
        0,
        "the end of the stream"
    );
    host.echo.run(end); // The turn of the lingering connection.
    assert!(!host.echo.is_finished());
    assert_eq!(host.echo.timeout(end), Some(Duration::from_secs(1)));
    let later = end + Duration::from_secs(1);
    host.echo.run(later);
    assert!(host.echo.is_finished());
    assert_eq!(host.echo.stats().closed.aborted, 1);
    assert_eq!(
        host.echo.timeout(later),
        None,
        "the application's loop would spin"
    );
}

#[test]
fn early_end_of_the_shutdown_leaves_no_deadline() {
    let mut host = Host::new(config());
    let client = host.connect();
    host.echo.shutdown(host.now);
    drop(client);
    host.run_until(Echo::is_finished);
    assert_eq!(
        host.echo.timeout(host.now + Duration::from_secs(3600)),
        None
    );
}

/// At the end of the drain time bytes are pending and in flight, and input is unread, which must not
/// reset the connection.
#[test]
fn drain_timeout_echoes_what_was_read() {
    let drain = Duration::from_secs(1);
    let mut host = Host::new(small_buffers().drain_timeout(drain));
    let address = host.address();
    let mut client = accept(&mut host, || connect_small(address));
    let bytes = random_bytes(16 * 1024 * 1024);
    let sent = write_block(&mut host, &mut client, &bytes);
    let stats = host.stats();
    assert!(
        stats.bytes_sent < stats.bytes_received,
        "nothing is pending"
    );
    assert!(stats.bytes_received < sent as u64, "all input was read");

    host.echo.shutdown(host.now);
    host.now += drain;
    host.echo.run(host.now);
    let reader = thread::spawn(move || read_to_the_end(&mut client));
    host.run_until(Echo::is_finished);
    let echoed = reader.join().unwrap();
    assert_eq!(echoed.len() as u64, stats.bytes_received);
    assert!(echoed == bytes[..echoed.len()]);
}

#[test]
fn token_range_past_the_end_of_usize_is_an_error() {
    let poll = Poll::new().unwrap();
    let config = config().max_connections(100).build().unwrap();
    let error = Echo::new(config, poll.registry(), Token(usize::MAX - 100)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

/// On Linux all of 127.0.0.0/8 is this host.
#[cfg(target_os = "linux")]
#[test]
fn bind_error_closes_the_sockets_bound_before() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let endpoint = |host: &str| format!("{host}:{port}").parse().unwrap();
    let config = mio_echo::Config::builder()
        .endpoint(endpoint("127.0.0.2"))
        .endpoint(endpoint("127.0.0.3"))
        .endpoint(endpoint("127.0.0.1"));
    let poll = Poll::new().unwrap();
    let error = Echo::new(config.build().unwrap(), poll.registry(), FIRST_TOKEN).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    let system = std::error::Error::source(&error).unwrap();
    let system = system.downcast_ref::<std::io::Error>().unwrap();
    let again = TcpListener::bind(taken.local_addr().unwrap()).unwrap_err();
    assert_eq!(system.raw_os_error(), again.raw_os_error());
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
