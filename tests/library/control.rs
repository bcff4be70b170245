//! What an application controls while it runs an `Echo`: its limits, accepting, and connections.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use crate::common::host::Host;
use crate::common::{
    self, Engine, config, connect, connect_from, connect_small, random_bytes, read_to_the_end,
    reset, run_until_idle, small_buffers, wait_until, write_block,
};
use mio::{Poll, Token};
use mio_echo::{CloseReason, Config, ConfigBuilder, ConnectionEvent, Echo};
use socket2::SockRef;

/// A timeout is at most so late.
const LATE_AT_MOST: Duration = Duration::from_millis(51);

/// Has the echo serve while a client waits for its bytes.
fn is_echoed(host: &mut Host, client: &mut TcpStream) -> bool {
    client.write_all(b"hello").unwrap();
    run_until_idle(host);
    let mut bytes = [0; 5];
    client.read_exact(&mut bytes).is_ok() && &bytes == b"hello"
}

/// Both ends of a connection that the application accepted.
fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = connect(listener.local_addr().unwrap());
    (client, listener.accept().unwrap().0)
}

fn adopt(host: &mut Host) -> TcpStream {
    let (client, stream) = pair();
    host.echo.adopt(stream, host.now).unwrap();
    client
}

fn set_limits(host: &mut Host, change: impl FnOnce(ConfigBuilder) -> ConfigBuilder) {
    let config = change(host.echo.config().to_builder()).build().unwrap();
    host.echo.set_limits(&config, host.now).unwrap();
}

#[test]
fn run_gives_at_most_max_turns_in_the_order_of_arrival() {
    let mut host = Host::new(config().max_turns(2));
    let mut clients: Vec<_> = (0..5).map(|_| host.connect()).collect();
    run_until_idle(&mut host);
    for client in &mut clients {
        client.write_all(b"hello").unwrap();
    }
    let mut events = 0;
    while events < clients.len() {
        host.handle(common::LIMIT);
        events += host.events.iter().count();
    }
    for echoed in [10, 20, 25] {
        assert_eq!(host.echo.timeout(host.now), Some(Duration::ZERO));
        assert!(host.echo.deadline().unwrap() <= host.now);
        host.echo.run(host.now);
        let stats = host.echo.stats();
        assert_eq!(stats.bytes_sent, echoed);
        assert!(stats.run_queue <= 2, "{stats:?}");
    }
    // Without epoll each connection has another turn, in which a read would block.
    run_until_idle(&mut host);
    assert_eq!(host.echo.timeout(host.now), None);
    assert_eq!(host.echo.deadline(), None);
}

/// The process was stopped for longer than the timeout, and no event was reported yet.
#[test]
fn connection_that_waits_for_its_turn_is_not_closed() {
    let idle = Duration::from_millis(500);
    let mut host = Host::new(config().max_turns(3).idle_timeout(idle));
    let _silent = host.connect();
    let mut clients: Vec<_> = (0..40).map(|_| host.connect()).collect();
    for client in &mut clients {
        client.write_all(b"hello").unwrap();
    }
    host.now += idle * 3;
    let mut runs = 0;
    while host.has_work() || runs == 0 {
        host.echo.run(host.now);
        runs += 1;
    }
    let stats = host.echo.stats();
    assert_eq!((stats.bytes_sent, stats.active), (5 * 40, 40));
    assert_eq!(stats.closed.idle_timeout, 1);
    assert!(runs >= 41 / 3, "{runs} runs");
}

#[test]
fn deadline_is_the_next_timeout_as_a_point_in_time() {
    let idle = Duration::from_secs(10);
    let mut host = Host::new(config().idle_timeout(idle));
    assert_eq!(host.echo.deadline(), None);
    let _client = host.connect();
    run_until_idle(&mut host);
    let timeout = host.echo.timeout(host.now).unwrap();
    assert_eq!(host.echo.deadline(), Some(host.now + timeout));
    host.now += timeout;
    host.echo.run(host.now);
    assert_eq!(host.echo.stats().closed.idle_timeout, 1);
}

#[test]
fn adopted_connection_is_echoed_and_counted() {
    let mut host = Host::new(config().connection_events(10));
    let mut client = adopt(&mut host);
    assert!(is_echoed(&mut host, &mut client));
    assert_eq!((host.active(), host.echo.stats().accepted), (1, 1));
    drop(client);
    host.run_until(|echo| echo.stats().active == 0);
    let address = |event: &ConnectionEvent| match event {
        ConnectionEvent::Opened { peer, .. } | ConnectionEvent::Closed { peer, .. } => *peer,
        event => panic!("{event:?}"),
    };
    let events: Vec<_> = host.echo.connection_events().collect();
    assert!(events.len() == 2 && events.iter().all(|it| address(it).is_some()));
}

/// They arrived before the application passed the socket on, so no change announces them.
#[test]
fn bytes_that_wait_in_an_adopted_connection_are_echoed() {
    let mut host = Host::new(config());
    let (mut client, stream) = pair();
    client.write_all(b"hello").unwrap();
    wait_until(|| stream.peek(&mut [0; 5]).unwrap() == 5);
    host.echo.adopt(stream, host.now).unwrap();
    host.run_until(|echo| echo.stats().bytes_sent == 5);
}

#[cfg(unix)]
#[test]
fn unix_stream_can_be_adopted() {
    let mut host = Host::new(config());
    let (mut client, stream) = std::os::unix::net::UnixStream::pair().unwrap();
    let copy = stream.try_clone().unwrap();
    host.echo.adopt(stream, host.now).unwrap();
    assert!(SockRef::from(&copy).nonblocking().unwrap());
    client.write_all(b"hello").unwrap();
    host.run_until(|echo| echo.stats().bytes_sent == 5);
    client.read_exact(&mut [0; 5]).unwrap();
}

/// With `SO_LINGER` and a time of 0 the close would reset the connection.
#[test]
fn linger_of_an_adopted_connection_is_off() {
    let mut host = Host::new(config());
    let (mut client, stream) = pair();
    let linger = Some(Duration::ZERO);
    SockRef::from(&stream).set_linger(linger).unwrap();
    let copy = stream.try_clone().unwrap();
    host.echo.adopt(stream, host.now).unwrap();
    assert_eq!(SockRef::from(&copy).linger().unwrap(), None);
    drop(copy);
    client.write_all(b"hello").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    host.run_until(|echo| echo.stats().closed.peer_closed == 1);
    assert_eq!(read_to_the_end(&mut client), b"hello");
}

#[cfg(target_os = "linux")]
#[test]
fn options_that_would_break_an_echo_are_reset_on_an_adopted_connection() {
    use crate::bound_socket::{assert_breaking_options_are_reset, set_breaking_options};

    let mut host = Host::new(config());
    let (_client, stream) = pair();
    set_breaking_options(&stream);
    let copy = stream.try_clone().unwrap();
    host.echo.adopt(stream, host.now).unwrap();
    assert_breaking_options_are_reset(&copy);
}

fn adopt_error(host: &mut Host, stream: TcpStream) -> ErrorKind {
    host.echo.adopt(stream, host.now).unwrap_err().kind()
}

#[test]
fn limits_and_allow_list_hold_for_adopted_connections() {
    let mut host = Host::new(config().max_connections(2).max_per_source(1));
    let _first = adopt(&mut host);
    let (mut client, stream) = pair();
    assert_eq!(adopt_error(&mut host, stream), ErrorKind::PermissionDenied);
    let error = client.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    set_limits(&mut host, |it| it.max_per_source(2));
    let _second = adopt(&mut host);
    let (_client, stream) = pair();
    assert_eq!(adopt_error(&mut host, stream), ErrorKind::QuotaExceeded);
    let stats = host.echo.stats();
    assert_eq!((stats.active, stats.rejected.too_many_from_source), (2, 1));

    let mut host = Host::new(config().allow("127.0.0.2".parse().unwrap()));
    let (_client, stream) = pair();
    assert_eq!(adopt_error(&mut host, stream), ErrorKind::PermissionDenied);
    assert_eq!(host.echo.stats().rejected.not_allowed, 1);
}

#[test]
fn what_is_no_connection_cannot_be_adopted() {
    let mut host = Host::new(config());
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let error = host.echo.adopt(udp, host.now).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let error = host.echo.adopt(listener, host.now).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotConnected);
    host.echo.shutdown(host.now);
    let (_client, stream) = pair();
    let error = host.echo.adopt(stream, host.now).unwrap_err();
    assert!(error.to_string().contains("shutting down"), "{error}");
    assert_eq!(host.echo.stats().accepted, 0);
}

#[test]
fn events_tell_of_each_connection() {
    let mut host = Host::new(config().connection_events(10));
    let mut client = host.connect();
    let address = client.local_addr().unwrap();
    assert!(is_echoed(&mut host, &mut client));
    reset(client);
    host.run_until(|echo| echo.stats().active == 0);
    let events: Vec<_> = host.echo.connection_events().collect();
    let [
        ConnectionEvent::Opened { token, peer },
        ConnectionEvent::Closed {
            token: closed,
            peer: closed_peer,
            reason,
            echoed,
            ..
        },
    ] = &events[..]
    else {
        panic!("{events:?}");
    };
    assert!(host.echo.owns(*token) && token == closed);
    assert_eq!((*peer, *closed_peer), (Some(address), Some(address)));
    assert!(matches!(reason, CloseReason::Reset), "{reason}");
    assert_eq!(*echoed, 5);
    assert_eq!(host.echo.connection_events().count(), 0);
}

#[test]
fn events_that_do_not_fit_are_counted() {
    for (capacity, kept, lost) in [(3, 3, 1), (0, 0, 0)] {
        let mut host = Host::new(config().connection_events(capacity));
        let clients = [host.connect(), host.connect()];
        drop(clients);
        host.run_until(|echo| echo.stats().active == 0);
        assert_eq!(host.echo.connection_events().count(), kept);
        assert_eq!(host.echo.stats().events_lost, lost);
    }
}

#[test]
fn events_that_were_not_taken_wait() {
    let mut host = Host::new(config().connection_events(10));
    let _clients = [host.connect(), host.connect()];
    let mut next = || host.echo.connection_events().next();
    assert!(next().is_some() && next().is_some() && next().is_none());
}

#[test]
fn paused_echo_accepts_nothing_until_it_resumes() {
    let mut host = Host::new(config().max_connections(1));
    let first = host.connect();
    let mut waiting = connect(host.address());
    // At the limit: the close below would resume accepting.
    host.run_until(|echo| echo.stats().accept_pauses == 1);
    host.echo.pause_accepting();
    drop(first);
    host.run_until(|echo| echo.stats().active == 0);
    run_until_idle(&mut host);
    assert_eq!(host.echo.stats().accepted, 1);
    host.echo.resume_accepting(host.now);
    assert!(is_echoed(&mut host, &mut waiting));
}

#[test]
fn connections_are_echoed_during_a_pause_and_the_rest_accepted_at_a_shutdown() {
    let mut host = Host::new(config());
    let mut client = host.connect();
    host.echo.pause_accepting();
    let mut waiting = connect(host.address());
    assert!(is_echoed(&mut host, &mut client));
    assert_eq!(host.active(), 1);
    host.echo.shutdown(host.now);
    assert!(is_echoed(&mut host, &mut waiting));
}

#[test]
fn limit_of_connections_can_change() {
    let mut host = Host::new(config().max_connections(3));
    let first = host.connect();
    let _second = host.connect();
    set_limits(&mut host, |it| it.max_connections(1));
    let mut waiting = connect(host.address());
    run_until_idle(&mut host);
    drop(first);
    host.run_until(|echo| echo.stats().active == 1);
    run_until_idle(&mut host);
    let stats = host.echo.stats();
    assert_eq!(stats.accepted, 2, "it is at the new limit");
    assert_eq!(stats.accept_pauses, 1, "the close made no room");
    set_limits(&mut host, |it| it.max_connections(2));
    assert!(is_echoed(&mut host, &mut waiting));
}

#[test]
fn limit_per_source_counts_connections_that_are_open() {
    let mut host = Host::new(config());
    let _clients = [host.connect(), host.connect()];
    set_limits(&mut host, |it| it.max_per_source(2));
    let _rejected = connect(host.address());
    host.run_until(|echo| echo.stats().rejected.too_many_from_source == 1);
    let address = host.address();
    let other = Ipv4Addr::new(127, 0, 0, 2);
    let _other = common::accept(&mut host, || connect_from(other, address));
}

#[test]
fn allow_list_can_change_for_connections_and_datagrams() {
    let mut host = Host::new(common::config_at("127.0.0.1:0"));
    let mut client = host.connect();
    set_limits(&mut host, |it| it.allow("127.0.0.2".parse().unwrap()));
    assert!(is_echoed(&mut host, &mut client), "it was open before");
    let _rejected = connect(host.address());
    host.run_until(|echo| echo.stats().rejected.not_allowed == 1);
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.send_to(b"hello", host.address()).unwrap();
    host.run_until(|echo| echo.stats().dropped.not_allowed == 1);
}

#[test]
fn limits_can_be_removed_again() {
    let allow = |text: &str| config().allow(text.parse().unwrap());
    // An IPv6 list is of no use for these peers, and the start of the next change all the same.
    for config in [config().max_per_source(1), allow("127.0.0.2"), allow("::1")] {
        let mut host = Host::new(config.max_connections(10));
        set_limits(&mut host, |it| it.max_per_source(None).allow_list([]));
        let _clients = [host.connect(), host.connect()];
        assert_eq!(host.echo.stats().rejected.total(), 0);
    }
    let mut host = Host::new(config().max_per_source(5));
    set_limits(&mut host, |it| it.max_connections(1));
}

#[test]
fn new_timeout_holds_for_open_connections() {
    let mut host = Host::new(config());
    let _client = host.connect();
    let idle = Duration::from_secs(1);
    host.now += idle * 3;
    set_limits(&mut host, |it| it.idle_timeout(idle));
    host.advance(LATE_AT_MOST);
    assert_eq!(host.echo.stats().closed.idle_timeout, 1);

    let mut host = Host::new(config().idle_timeout(idle));
    let _client = host.connect();
    set_limits(&mut host, |it| it.idle_timeout(Duration::ZERO));
    assert_eq!(host.echo.deadline(), None);
    host.advance(idle * 3);
    assert_eq!(host.active(), 1);
}

#[test]
fn write_timeout_can_change_while_bytes_are_pending() {
    let mut host = Host::new(small_buffers().write_timeout(Duration::ZERO));
    let address = host.address();
    let mut client = common::accept(&mut host, || connect_small(address));
    write_block(&mut host, &mut client, &random_bytes(4 << 20));
    let write = Duration::from_secs(1);
    host.advance(write * 3);
    assert_eq!(host.active(), 1);
    set_limits(&mut host, |it| it.write_timeout(write));
    host.advance(LATE_AT_MOST);
    assert_eq!(host.echo.stats().closed.write_timeout, 1);
}

#[test]
fn lower_limit_of_buffered_bytes_evicts_at_once() {
    let size = 512 * 1024;
    let drain = Duration::from_secs(10);
    // At the end of a shutdown as well, where the write timeout does not apply.
    for is_lingering in [false, true] {
        let config = small_buffers().buffer_size(256 * 1024).drain_timeout(drain);
        let mut host = Host::new(config.max_buffered(2 * size));
        let address = host.address();
        let mut clients = Vec::new();
        while host.echo.stats().buffered <= size {
            let mut client = common::accept(&mut host, || connect_small(address));
            write_block(&mut host, &mut client, &random_bytes(4 << 20));
            clients.push(client);
        }
        if is_lingering {
            host.echo.shutdown(host.now);
            host.advance(drain);
        }
        assert_eq!(host.echo.stats().closed.total(), 0);
        set_limits(&mut host, |it| it.max_buffered(size));
        let stats = host.echo.stats();
        assert!(
            stats.buffered <= size && stats.closed.evicted > 0,
            "{stats:?}"
        );
    }
}

#[test]
fn other_settings_and_more_tokens_are_errors() {
    let mut host = Host::new(config().max_connections(10));
    let config = host.echo.config().clone();
    for (changed, text) in [
        (config.to_builder().buffer_size(1), "only the limits"),
        (
            config.to_builder().max_connections(11),
            "that of the start, 10",
        ),
    ] {
        let changed = changed.max_buffered(1 << 20).build().unwrap();
        let error = host.echo.set_limits(&changed, host.now).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains(text), "{error}");
        assert_eq!(*host.echo.config(), config);
    }
}

/// Where another process has taken the default endpoint, its error names it.
#[test]
fn default_endpoint_is_served_and_not_added_to_the_configuration() {
    let poll = Poll::new().unwrap();
    let now = Instant::now();
    match Echo::new(Config::default(), poll.registry(), Token(0)) {
        Ok(mut echo) => {
            assert_eq!(echo.endpoints()[0].to_string(), "tcp://127.0.0.1:7007");
            echo.set_limits(&Config::default(), now).unwrap();
            assert_eq!(*echo.config(), Config::default());
        }
        Err(error) => assert!(error.to_string().contains("127.0.0.1:7007"), "{error}"),
    }
}

#[test]
fn application_can_close_a_connection() {
    let mut host = Host::new(config().connection_events(10));
    let mut client = host.connect();
    let Some(ConnectionEvent::Opened { token, .. }) = host.echo.connection_events().next() else {
        panic!("no event");
    };
    assert!(host.echo.close(token, host.now));
    assert_eq!(client.read_to_end(&mut Vec::new()).unwrap(), 0);
    assert!(!host.echo.close(token, host.now), "it is closed");
    assert!(!host.echo.close(Token(host.echo.tokens().start), host.now));
    assert!(!host.echo.close(Token(0), host.now));
    assert_eq!(host.echo.stats().closed.aborted, 1);
    let end = host.echo.connection_events().next();
    assert!(matches!(end, Some(ConnectionEvent::Closed { token: it, .. }) if it == token));
}

#[test]
fn server_gives_access_to_its_echo_and_its_waker() {
    let (mut server, address) = common::bind(config().connection_events(10));
    let waker = server.waker();
    let thread = std::thread::spawn(move || waker.wake());
    // Without the waker it would wait for as long.
    let start = Instant::now();
    server.turn(Some(common::LIMIT)).unwrap();
    assert!(start.elapsed() < common::LIMIT);
    thread.join().unwrap().unwrap();
    assert!(server.deadline().is_none() && !server.is_finished());

    let _client = common::accept(&mut server, || connect(address));
    let opened = server.echo_mut().connection_events().count();
    assert_eq!((opened, server.echo().stats().active), (1, 1));
}
