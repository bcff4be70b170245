//! `--metrics`: responses, limits on clients, and an echo that does not wait for them.

use std::io::{ErrorKind, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use crate::common::peers::free_address;
use crate::common::service::{Service, error_line, program};
#[cfg(target_os = "linux")]
use crate::common::service::{cpu_ticks, limited};
use crate::common::{self, LIMIT, connect, echo, is_served, read_to_the_end};
use nix::sys::signal::Signal;

const REQUEST: &str = "GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n";

/// A service with metrics, and their address.
fn start(arguments: &[&str]) -> (Service, SocketAddr) {
    let metrics = ["--metrics", "tcp://127.0.0.1:0"];
    let mut service = Service::start(&[&metrics, arguments].concat());
    let address = metrics_address(&mut service);
    (service, address)
}

fn metrics_address(service: &mut Service) -> SocketAddr {
    let line = service.wait_for("metrics on http://");
    let (_, url) = line.split_once("http://").unwrap();
    url.strip_suffix("/metrics").unwrap().parse().unwrap()
}

/// Reads the response up to the end of the stream. A reset fails.
fn read_response(client: &mut TcpStream) -> Response {
    let text = String::from_utf8(read_to_the_end(client)).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").expect(&text);
    Response {
        head: head.to_owned(),
        body: body.to_owned(),
    }
}

#[derive(Debug)]
struct Response {
    head: String,
    body: String,
}

impl Response {
    fn status(&self) -> &str {
        let line = self.head.lines().next().unwrap();
        line.strip_prefix("HTTP/1.1 ").unwrap()
    }

    fn field(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    fn length(&self) -> usize {
        self.field("Content-Length").unwrap().parse().unwrap()
    }

    /// The value of a sample.
    fn value(&self, sample: &str) -> u64 {
        let mut lines = self.body.lines();
        let value = lines.find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        value.expect(sample).parse().unwrap()
    }
}

fn send(address: SocketAddr, request: &str) -> Response {
    let mut client = connect(address);
    client.write_all(request.as_bytes()).unwrap();
    read_response(&mut client)
}

fn get(address: SocketAddr, path: &str) -> Response {
    send(
        address,
        &format!("GET {path} HTTP/1.1\r\nHost: here\r\n\r\n"),
    )
}

#[test]
fn counters_are_exposed() {
    let (mut service, metrics) = start(&["-v"]);
    let mut first = connect(service.address);
    assert_eq!(echo(&mut first, b"hello"), b"hello");
    common::reset(connect(service.address));
    service.wait_for("closed: reset by the peer");
    assert!(is_served(&mut connect(service.address)));
    service.wait_for("closed: closed by the peer");
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(LIMIT)).unwrap();
    for _ in 0..4 {
        client.send_to(b"hello", service.address).unwrap();
        client.recv(&mut [0; 5]).unwrap();
    }

    let response = get(metrics, "/metrics");
    assert_eq!(response.status(), "200 OK");
    assert_eq!(
        response.field("Content-Type"),
        Some("text/plain; version=0.0.4; charset=utf-8")
    );
    for (sample, value) in [
        ("connections_active", 1),
        ("connections_accepted_total", 3),
        ("connections_closed_total{reason=\"peer_closed\"}", 1),
        ("connections_closed_total{reason=\"reset\"}", 1),
        ("connections_closed_total{reason=\"error\"}", 0),
        ("connections_closed_total{reason=\"aborted\"}", 0),
        ("received_bytes_total", 39),
        ("sent_bytes_total", 39),
        ("datagrams_received_total", 4),
        ("datagrams_sent_total", 4),
        ("datagrams_dropped_total{reason=\"own_port\"}", 0),
        ("accept_pauses_total", 0),
    ] {
        assert_eq!(
            response.value(&format!("mio_echo_{sample}")),
            value,
            "{sample}"
        );
    }
    let iterations = "mio_echo_loop_iterations_total";
    assert!(get(metrics, "/metrics").value(iterations) > response.value(iterations));
    drop(first);
    service.stop();
}

#[test]
fn ipv6_endpoint_and_warning_of_a_public_one() {
    if !common::has_ipv6() {
        return;
    }
    let mut service = Service::start(&["--metrics", "tcp://[::]:0"]);
    let port = metrics_address(&mut service).port();
    let loopback = (std::net::Ipv6Addr::LOCALHOST, port).into();
    assert_eq!(get(loopback, "/healthz").body, "ok\n");
    let lines = service.stop();
    let warning = format!("open to all hosts that can reach it: tcp://[::]:{port}");
    let is_there = lines.iter().any(|line| line.ends_with(&warning));
    assert!(is_there, "{lines:#?}");
}

/// A socket for both families could not share the port with one for IPv4.
#[test]
fn unspecified_ipv6_address_is_ipv6_only_without_dual_stack() {
    if !common::has_ipv6() {
        return;
    }
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let metrics = format!("tcp://[::]:{}", holder.local_addr().unwrap().port());
    Service::start(&["--metrics", &metrics]).stop();

    let both = ["-q", "tcp://127.0.0.1:0", "--dual-stack"];
    let (line, _) = error_line(program(&[&both[..], &["--metrics", &metrics]].concat()));
    assert!(line.contains("--metrics: cannot listen on"), "{line}");
}

/// `localhost` can be `::1` and `127.0.0.1`: one of them is served.
#[test]
fn host_name_is_resolved() {
    let mut service = Service::start(&["--metrics", "tcp://localhost:0"]);
    let address = metrics_address(&mut service);
    assert_eq!(get(address, "/healthz").body, "ok\n");
    service.stop();
}

#[test]
fn each_request_gets_a_response_and_an_orderly_close() {
    let (service, metrics) = start(&[]);
    let mut peer = connect(service.address);
    let line_of =
        |length: usize| format!("GET /{} HTTP/1.1\r\nHost: here\r\n\r\n", "x".repeat(length));
    let field_of = |length: usize| {
        let head = ["GET /healthz HTTP/1.1\r\nHost: here\r\nX: ", "\r\n\r\n"];
        let length = length - head.concat().len();
        head.join(&"x".repeat(length))
    };
    for (request, status, body) in [
        (REQUEST, "200 OK", "# HELP mio_echo_connections_active "),
        ("GET /healthz HTTP/1.0\r\n\r\n", "200 OK", "ok"),
        ("GET / HTTP/1.0\r\n\r\n", "404 Not Found", "/metrics"),
        (
            "GET /metrics HTTP/1.1\r\n\r\n",
            "400 Bad Request",
            "GET /metrics",
        ),
        (
            "POST /metrics HTTP/1.0\r\n\r\n",
            "405 Method Not Allowed",
            "GET or HEAD",
        ),
        ("hello\r\n\r\n", "400 Bad Request", "GET /metrics"),
        ("\u{16}\u{3}\u{1}\0\u{1}", "400 Bad Request", "GET /metrics"),
        (
            "GET /metrics HTTP/2.0\r\n\r\n",
            "400 Bad Request",
            "GET /metrics",
        ),
        (&field_of(8192), "200 OK", "ok"),
        (
            &field_of(8193),
            "431 Request Header Fields Too Large",
            "8 KiB",
        ),
        (
            &line_of(9000),
            "431 Request Header Fields Too Large",
            "8 KiB",
        ),
        (
            &field_of(100_000),
            "431 Request Header Fields Too Large",
            "8 KiB",
        ),
        // Only the first request gets a response.
        (
            &REQUEST.repeat(2),
            "200 OK",
            "# HELP mio_echo_connections_active ",
        ),
        (
            &(REQUEST.to_owned() + "garbage\0"),
            "200 OK",
            "# HELP mio_echo_connections_active ",
        ),
    ] {
        let response = send(metrics, request);
        assert_eq!(response.status(), status, "{request}");
        assert_eq!(response.length(), response.body.len(), "{request}");
        assert!(response.body.contains(body), "{response:?}");
        assert_eq!(response.field("Connection"), Some("close"));
        let allowed = status.starts_with("405").then_some("GET, HEAD");
        assert_eq!(response.field("Allow"), allowed);
        assert!(is_served(&mut peer));
    }
    drop(peer);
    service.stop();
}

#[test]
fn head_gets_the_length_without_the_body() {
    let (service, metrics) = start(&[]);
    for (path, status) in [
        ("/metrics", "200 OK"),
        ("/healthz", "200 OK"),
        ("/", "404 Not Found"),
    ] {
        let response = send(metrics, &format!("HEAD {path} HTTP/1.0\r\n\r\n"));
        assert_eq!(response.status(), status);
        assert!(
            response.length() > 0 && response.body.is_empty(),
            "{response:?}"
        );
    }
    service.stop();
}

/// Closing a socket with unread input resets the connection, which can destroy the response.
#[test]
fn request_body_is_discarded_without_a_reset() {
    let (service, metrics) = start(&[]);
    let body = vec![b'x'; 10_000_000];
    let head = format!(
        "POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let mut client = connect(metrics);
    client.write_all(head.as_bytes()).unwrap();
    client.write_all(&body).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(
        read_response(&mut client).status(),
        "405 Method Not Allowed"
    );
    service.stop();
}

#[test]
fn request_in_pieces_or_with_half_close() {
    let (service, metrics) = start(&[]);
    let mut client = connect(metrics);
    client.set_nodelay(true).unwrap();
    for byte in REQUEST.bytes() {
        client.write_all(&[byte]).unwrap();
    }
    assert_eq!(read_response(&mut client).status(), "200 OK");

    for (request, status) in [(REQUEST, "200 OK"), (&REQUEST[..20], "400 Bad Request")] {
        let mut client = connect(metrics);
        client.write_all(request.as_bytes()).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_response(&mut client).status(), status);
    }
    // Without a request there is no response.
    let mut client = connect(metrics);
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_the_end(&mut client), b"");
    service.stop();
}

/// Until the response, the loop wakes only for the bytes of the client and for the timeout.
#[test]
fn incomplete_request_times_out() {
    let (mut service, metrics) = start(&["-vv"]);
    let start = Instant::now();
    let mut client = connect(metrics);
    client.write_all(&REQUEST.as_bytes()[..30]).unwrap();
    service.wait_for("client 0 opened");
    let mut waits = 0;
    while !service.wait_for("").contains("response 408") {
        waits += 1;
    }
    assert!(
        waits < 20,
        "{waits} lines of the log without an event: the loop spins"
    );
    assert_eq!(read_response(&mut client).status(), "408 Request Timeout");
    assert!(start.elapsed() >= Duration::from_secs(5));

    drop(client);
    service.wait_for("client 0 closed: done");
    let line = service.wait_for("waiting for events");
    assert!(
        line.ends_with("waiting for events"),
        "{line}: no client is left"
    );
    service.stop();
}

/// After the response the client keeps its connection open.
#[test]
fn client_that_does_not_close_is_closed() {
    let (mut service, metrics) = start(&["-v"]);
    let mut client = connect(metrics);
    client.write_all(REQUEST.as_bytes()).unwrap();
    read_response(&mut client);
    service.wait_for("client 0 closed: done");
    // The socket is closed: the system resets the connection.
    common::wait_until(|| match client.write_all(b"more") {
        Ok(()) => false,
        Err(error) => matches!(
            error.kind(),
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
        ),
    });
    service.stop();
}

/// Connects, and waits until the client is accepted.
fn open(service: &mut Service, metrics: SocketAddr, key: usize) -> TcpStream {
    let client = connect(metrics);
    service.wait_for(&format!("client {key} opened"));
    client
}

#[test]
fn new_client_replaces_the_one_asking_longest() {
    let (mut service, metrics) = start(&["-vv"]);
    let mut silent: Vec<_> = (0..16)
        .map(|key| open(&mut service, metrics, key))
        .collect();
    for (key, client) in silent.iter_mut().take(3).enumerate() {
        let late = open(&mut service, metrics, key);
        assert_eq!(read_to_the_end(client), b"");
        *client = late;
    }
    // The others still have their time.
    silent[15].write_all(REQUEST.as_bytes()).unwrap();
    assert_eq!(read_response(&mut silent[15]).status(), "200 OK");
    assert!(is_served(&mut connect(service.address)));
    let mut is_resting = || service.wait_for("").contains("waiting for events, ");
    assert!((0..10_000).any(|_| is_resting()), "the loop spins");
    drop(silent);
    let lines = service.stop();
    let replaced = lines.iter().filter(|line| line.contains("replaced by"));
    assert_eq!(replaced.count(), 3, "{lines:#?}");
}

/// A client lingers for a second after its response, which is longer than this test takes.
#[test]
fn lingering_clients_are_replaced_only_if_no_client_is_asking() {
    let (mut service, metrics) = start(&["-v"]);
    let answered = |service: &mut Service, key| {
        let mut client = open(service, metrics, key);
        client.write_all(REQUEST.as_bytes()).unwrap();
        read_response(&mut client);
        client
    };
    let first = answered(&mut service, 0);
    let silent = open(&mut service, metrics, 1);
    let others: Vec<_> = (2..16).map(|key| answered(&mut service, key)).collect();
    let late = answered(&mut service, 1);
    let last = answered(&mut service, 0);
    drop((first, silent, others, late, last));
    let lines = service.stop();
    let keys = lines.iter().filter_map(|line| {
        let (client, _) = line.split_once(" closed: replaced by a new client")?;
        client.rsplit(' ').next()
    });
    assert_eq!(keys.collect::<Vec<_>>(), ["1", "0"], "{lines:#?}");
}

#[test]
fn silent_clients_do_not_keep_a_scrape_waiting() {
    let (service, metrics) = start(&["-v"]);
    let silent: Vec<_> = (0..100).map(|_| connect(metrics)).collect();
    assert_eq!(get(metrics, "/metrics").status(), "200 OK");
    let lines = service.stop();
    let is_timed_out = |line: &String| line.contains("response 408");
    assert!(
        !lines.iter().any(is_timed_out),
        "a silent client was waited for"
    );
    drop(silent);
}

#[test]
fn many_clients_beside_the_echo() {
    let (service, metrics) = start(&[]);
    let mut peer = connect(service.address);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..25 {
                    assert_eq!(get(metrics, "/metrics").status(), "200 OK");
                    common::reset(connect(metrics));
                }
            });
        }
        for _ in 0..100 {
            assert!(is_served(&mut peer));
        }
    });
    drop(peer);
    service.stop();
}

#[test]
fn health_check_fails_while_draining() {
    let (mut service, metrics) = start(&["--drain-timeout", "1h"]);
    let mut peer = connect(service.address);
    assert!(is_served(&mut peer));
    assert_eq!(get(metrics, "/healthz").body, "ok\n");
    service.signal(Signal::SIGTERM);
    service.wait_for("shutting down");
    let health = get(metrics, "/healthz");
    assert_eq!(health.status(), "503 Service Unavailable");
    assert_eq!(health.body, "shutting down\n");
    let response = get(metrics, "/metrics");
    assert_eq!(response.value("mio_echo_connections_active"), 1);
    drop(peer);
    assert_eq!(service.end().0.code(), Some(0));
    assert!(
        TcpStream::connect(metrics).is_err(),
        "the metrics still listen"
    );
}

#[cfg(target_os = "linux")]
#[test]
fn out_of_descriptors_it_waits_and_recovers() {
    let arguments = "-v --max-connections 1000 --metrics tcp://127.0.0.1:0";
    let mut service = Service::spawn(limited("-n 40", arguments));
    let metrics = metrics_address(&mut service);
    let mut peers: Vec<_> = (0..40).map(|_| connect(service.address)).collect();
    service.wait_for("cannot accept (");
    let mut client = connect(metrics);
    client.write_all(REQUEST.as_bytes()).unwrap();
    service.wait_for("cannot accept a client: ");

    // An interval to measure over; see `service.rs`.
    let before = cpu_ticks(service.pid());
    std::thread::sleep(Duration::from_millis(500));
    let ticks = cpu_ticks(service.pid()) - before;
    assert!(ticks < 10, "{ticks} ticks in half a second: the loop spins");

    assert!(is_served(&mut peers[0]));
    drop(peers);
    assert_eq!(read_response(&mut client).status(), "200 OK");
    service.stop();
}

#[test]
fn endpoint_that_cannot_be_bound_is_named_in_one_line() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = format!("tcp://{}", holder.local_addr().unwrap());
    let own = format!("tcp://{}", free_address());
    // The last one is an address for documentation, which no host has (RFC 5737).
    for metrics in [&*taken, "tcp://192.0.2.1:9007"] {
        let (line, status) = error_line(program(&["-q", &own, "--metrics", metrics]));
        assert_eq!(status, Some(1), "{line}");
        let expected = format!("--metrics: cannot listen on {metrics}: ");
        assert!(line.contains(&expected), "{line}");
        assert!(line.contains("a free port of this host"), "{line}");
    }
    // The metrics listen first.
    let (line, status) = error_line(program(&["-q", &own, "--metrics", &own]));
    assert_eq!(status, Some(1), "{line}");
    let expected = format!("cannot listen on {own}: ");
    assert!(line.contains(&expected), "{line}");
}
