//! Metrics over HTTP: what is answered, to whom, and that the echo never waits for it.

use std::io::{ErrorKind, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use crate::common::service::{Service, complaint, program};
#[cfg(target_os = "linux")]
use crate::common::service::{cpu_ticks, limited, state};
use crate::common::{self, LIMIT, connect, echo, is_served, read_to_the_end};
use nix::sys::signal::Signal;

const ASK: &str = "GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n";

/// A service that has metrics, and where.
fn start(arguments: &[&str]) -> (Service, SocketAddr) {
    let metrics = ["--metrics", "tcp://127.0.0.1:0"];
    let mut service = Service::start(&[&metrics, arguments].concat());
    let address = place(&mut service);
    (service, address)
}

fn place(service: &mut Service) -> SocketAddr {
    let line = service.wait_for("metrics on http://");
    let (_, url) = line.split_once("http://").unwrap();
    url.strip_suffix("/metrics").unwrap().parse().unwrap()
}

/// What comes back, to the end of the stream, which is an orderly one.
fn rest(client: &mut TcpStream) -> Answer {
    let text = String::from_utf8(read_to_the_end(client)).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").expect(&text);
    Answer {
        head: head.to_owned(),
        body: body.to_owned(),
    }
}

#[derive(Debug)]
struct Answer {
    head: String,
    body: String,
}

impl Answer {
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

    /// Of one metric.
    fn value(&self, sample: &str) -> u64 {
        let mut lines = self.body.lines();
        let value = lines.find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        value.expect(sample).parse().unwrap()
    }
}

fn ask(address: SocketAddr, request: &str) -> Answer {
    let mut client = connect(address);
    client.write_all(request.as_bytes()).unwrap();
    rest(&mut client)
}

fn get(address: SocketAddr, path: &str) -> Answer {
    ask(
        address,
        &format!("GET {path} HTTP/1.1\r\nHost: here\r\n\r\n"),
    )
}

#[test]
fn the_counters_are_told_as_they_are() {
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

    let answer = get(metrics, "/metrics");
    assert_eq!(answer.status(), "200 OK");
    assert_eq!(
        answer.field("Content-Type"),
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
            answer.value(&format!("mio_echo_{sample}")),
            value,
            "{sample}"
        );
    }
    let iterations = "mio_echo_loop_iterations_total";
    assert!(get(metrics, "/metrics").value(iterations) > answer.value(iterations));
    drop(first);
    service.stop();
}

/// With `[::]` in place of the host, and whether IPv4 finds it there.
#[test]
fn ipv6_leaves_ipv4_alone_unless_told_otherwise() {
    if !common::has_ipv6() {
        return;
    }
    for (options, is_there) in [(&[][..], false), (&["--dual-stack"][..], true)] {
        let arguments = [&["--metrics", "tcp://[::]:0"], options].concat();
        let mut service = Service::start(&arguments);
        let port = place(&mut service).port();
        assert_eq!(
            get((std::net::Ipv6Addr::LOCALHOST, port).into(), "/healthz").body,
            "ok\n"
        );
        let ipv4 = TcpStream::connect(("127.0.0.1", port));
        assert_eq!(ipv4.is_ok(), is_there);
        let lines = service.stop();
        let warning = format!("whoever can reach it: tcp://[::]:{port}");
        assert!(
            lines.iter().any(|line| line.ends_with(&warning)),
            "{lines:#?}"
        );
    }
}

#[test]
fn each_request_gets_its_answer_and_an_orderly_end() {
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
        (ASK, "200 OK", "# HELP mio_echo_connections_active "),
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
            "505 HTTP Version Not Supported",
            "HTTP/1.1",
        ),
        (&field_of(8192), "200 OK", "ok"),
        (
            &field_of(8193),
            "431 Request Header Fields Too Large",
            "8 KiB",
        ),
        (&line_of(9000), "414 URI Too Long", "GET /metrics"),
        (
            &field_of(100_000),
            "431 Request Header Fields Too Large",
            "8 KiB",
        ),
        // Only the first is answered.
        (
            &ASK.repeat(2),
            "200 OK",
            "# HELP mio_echo_connections_active ",
        ),
        (
            &(ASK.to_owned() + "garbage\0"),
            "200 OK",
            "# HELP mio_echo_connections_active ",
        ),
    ] {
        let answer = ask(metrics, request);
        assert_eq!(answer.status(), status, "{request}");
        assert_eq!(answer.length(), answer.body.len(), "{request}");
        assert!(answer.body.contains(body), "{answer:?}");
        assert_eq!(answer.field("Connection"), Some("close"));
        let allowed = status.starts_with("405").then_some("GET, HEAD");
        assert_eq!(answer.field("Allow"), allowed);
        assert!(is_served(&mut peer));
    }
    drop(peer);
    service.stop();
}

#[test]
fn to_head_the_body_is_only_told_of() {
    let (service, metrics) = start(&[]);
    for (path, status) in [
        ("/metrics", "200 OK"),
        ("/healthz", "200 OK"),
        ("/", "404 Not Found"),
    ] {
        let answer = ask(metrics, &format!("HEAD {path} HTTP/1.0\r\n\r\n"));
        assert_eq!(answer.status(), status);
        assert!(answer.length() > 0 && answer.body.is_empty(), "{answer:?}");
    }
    service.stop();
}

/// A socket that is closed with unread input is reset, and the answer with it.
#[test]
fn a_body_is_not_read_and_does_not_cost_the_answer() {
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
    assert_eq!(rest(&mut client).status(), "405 Method Not Allowed");
    service.stop();
}

#[test]
fn a_request_may_come_in_pieces_and_half_close() {
    let (service, metrics) = start(&[]);
    let mut client = connect(metrics);
    client.set_nodelay(true).unwrap();
    for byte in ASK.bytes() {
        client.write_all(&[byte]).unwrap();
    }
    assert_eq!(rest(&mut client).status(), "200 OK");

    for (request, status) in [(ASK, "200 OK"), (&ASK[..20], "400 Bad Request")] {
        let mut client = connect(metrics);
        client.write_all(request.as_bytes()).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(rest(&mut client).status(), status);
    }
    // Who has asked nothing gets no answer.
    let mut client = connect(metrics);
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_the_end(&mut client), b"");
    service.stop();
}

/// From when it is opened until it is answered, the loop wakes for what it sends and for the time.
#[test]
fn who_does_not_finish_its_question_is_told_that_the_time_is_over() {
    let (mut service, metrics) = start(&["-vv"]);
    let start = Instant::now();
    let mut client = connect(metrics);
    client.write_all(&ASK.as_bytes()[..30]).unwrap();
    service.wait_for("client 0 opened");
    let mut waits = 0;
    while !service.wait_for("").contains("is answered 408") {
        waits += 1;
    }
    assert!(
        waits < 20,
        "{waits} lines of log while nothing happens: it spins"
    );
    assert_eq!(rest(&mut client).status(), "408 Request Timeout");
    assert!(start.elapsed() >= Duration::from_secs(5));

    drop(client);
    service.wait_for("client 0 closed: done");
    let line = service.wait_for("waiting for events");
    assert!(
        line.ends_with("waiting for events"),
        "{line}: nobody is left"
    );
    service.stop();
}

/// Who has been answered and stays is closed all the same: its place is for others.
#[test]
fn who_does_not_close_is_closed() {
    let (mut service, metrics) = start(&["-v"]);
    let mut client = connect(metrics);
    client.write_all(ASK.as_bytes()).unwrap();
    rest(&mut client);
    service.wait_for("client 0 closed: done");
    // Of the socket there is nothing left: it answers with a reset.
    common::wait_until(|| match client.write_all(b"more") {
        Ok(()) => false,
        Err(error) => matches!(
            error.kind(),
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
        ),
    });
    service.stop();
}

/// Connects, and waits until the client has its place.
fn open(service: &mut Service, metrics: SocketAddr, key: usize) -> TcpStream {
    let client = connect(metrics);
    service.wait_for(&format!("client {key} opened"));
    client
}

#[test]
fn a_new_client_replaces_the_one_that_has_been_asking_longest() {
    let (mut service, metrics) = start(&["-vv"]);
    let mut silent: Vec<_> = (0..16)
        .map(|key| open(&mut service, metrics, key))
        .collect();
    for (key, client) in silent.iter_mut().take(3).enumerate() {
        let late = open(&mut service, metrics, key);
        assert_eq!(read_to_the_end(client), b"");
        *client = late;
    }
    // The others still have the time that a request may take.
    silent[15].write_all(ASK.as_bytes()).unwrap();
    assert_eq!(rest(&mut silent[15]).status(), "200 OK");
    assert!(is_served(&mut connect(service.address)));
    let mut is_resting = || !service.wait_for("waiting for events, ").contains(", 0ns");
    assert!((0..1000).any(|_| is_resting()), "it spins");
    drop(silent);
    let lines = service.stop();
    let replaced = lines.iter().filter(|line| line.contains("replaced by"));
    assert_eq!(replaced.count(), 3, "{lines:#?}");
}

/// A client that was answered lingers for a second, which is longer than this takes.
#[test]
fn clients_that_are_answered_are_replaced_only_if_no_other_is_asking() {
    let (mut service, metrics) = start(&["-v"]);
    let answered = |service: &mut Service, key| {
        let mut client = open(service, metrics, key);
        client.write_all(ASK.as_bytes()).unwrap();
        rest(&mut client);
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
    let silent: Vec<_> = (0..200).map(|_| connect(metrics)).collect();
    assert_eq!(get(metrics, "/metrics").status(), "200 OK");
    let lines = service.stop();
    let is_timed_out = |line: &String| line.contains("is answered 408");
    assert!(!lines.iter().any(is_timed_out), "it has waited for others");
    drop(silent);
}

/// It was stopped for longer than a request may take, and not the client.
#[cfg(target_os = "linux")]
#[test]
fn a_request_that_arrives_while_the_process_is_stopped_is_answered() {
    let (mut service, metrics) = start(&["-v"]);
    let mut whole = open(&mut service, metrics, 0);
    let mut half = open(&mut service, metrics, 1);
    let mut silent = open(&mut service, metrics, 2);
    half.write_all(&ASK.as_bytes()[..20]).unwrap();
    service.signal(Signal::SIGSTOP);
    common::wait_until(|| state(service.pid()) == "T");
    whole.write_all(ASK.as_bytes()).unwrap();
    half.write_all(&ASK.as_bytes()[20..]).unwrap();
    // The limit is 5 seconds.
    std::thread::sleep(Duration::from_millis(5500));
    service.signal(Signal::SIGCONT);
    assert_eq!(rest(&mut whole).status(), "200 OK");
    assert_eq!(rest(&mut half).status(), "200 OK");
    assert_eq!(rest(&mut silent).status(), "408 Request Timeout");
    drop((whole, half, silent));
    service.stop();
}

#[test]
fn many_clients_are_answered_while_the_echo_serves() {
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
fn while_draining_it_answers_that_it_is_not_well() {
    let (mut service, metrics) = start(&["--drain-timeout", "1h"]);
    let mut peer = connect(service.address);
    assert!(is_served(&mut peer));
    assert_eq!(get(metrics, "/healthz").body, "ok\n");
    service.signal(Signal::SIGTERM);
    service.wait_for("shutting down");
    let health = get(metrics, "/healthz");
    assert_eq!(health.status(), "503 Service Unavailable");
    assert_eq!(health.body, "shutting down\n");
    let answer = get(metrics, "/metrics");
    assert_eq!(answer.value("mio_echo_connections_active"), 1);
    drop(peer);
    assert_eq!(service.end().0.code(), Some(0));
    assert!(TcpStream::connect(metrics).is_err(), "it still listens");
}

#[cfg(target_os = "linux")]
#[test]
fn out_of_descriptors_it_waits_and_warns_once_and_goes_on() {
    let arguments = "--max-connections 1000 --metrics tcp://127.0.0.1:0";
    let mut service = Service::spawn(limited("-n 40", arguments));
    let metrics = place(&mut service);
    let mut peers: Vec<_> = (0..40).map(|_| connect(service.address)).collect();
    service.wait_for("connections wait until one of the");
    let mut client = connect(metrics);
    client.write_all(ASK.as_bytes()).unwrap();
    service.wait_for("who asks for metrics waits");

    // An interval to measure over, as for the echo.
    let before = cpu_ticks(service.pid());
    std::thread::sleep(Duration::from_millis(500));
    let ticks = cpu_ticks(service.pid()) - before;
    assert!(ticks < 10, "{ticks} ticks in half a second: it spins");

    assert!(is_served(&mut peers[0]));
    drop(peers);
    assert_eq!(rest(&mut client).status(), "200 OK");
    let lines = service.stop();
    let warnings = lines
        .iter()
        .filter(|line| line.contains("who asks for metrics"));
    assert_eq!(warnings.count(), 1, "{lines:#?}");
}

#[test]
fn an_endpoint_that_cannot_be_had_is_named_in_one_line() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = format!("tcp://{}", holder.local_addr().unwrap());
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let own = format!("tcp://{}", free.local_addr().unwrap());
    drop(free);
    // The last is of the block for documentation, which no host has (RFC 5737).
    for metrics in [&taken, &own, "tcp://192.0.2.1:9007"] {
        let (line, status) = complaint(program(&["-q", &own, "--metrics", metrics]));
        assert_eq!(status, Some(1), "{line}");
        let told = format!("--metrics: cannot listen on {metrics}: ");
        assert!(line.contains(&told), "{line}");
        assert!(line.contains("a free port of this host"), "{line}");
    }
}
