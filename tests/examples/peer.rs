//! The example `peer`: a client that misbehaves.

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use crate::common::peers::{refusing_address, tcp_server};
use crate::common::{LIMIT, Running, config, example, small_buffers};

/// Runs `peer` with these arguments, and returns the line that it prints.
fn peer(arguments: &[&str], address: SocketAddr) -> String {
    let mut command = example("peer");
    command.args(arguments).arg(address.to_string());
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    text.trim_end().to_owned()
}

/// The numbers of bytes that `peer` sent and received, and how its connection ended.
fn outcome(line: &str) -> (u64, u64, &str) {
    let mut parts = line.splitn(3, ", ");
    let mut number = |unit| {
        let part = parts.next().unwrap().strip_suffix(unit).unwrap();
        part.parse().unwrap()
    };
    (
        number(" bytes sent"),
        number(" received"),
        parts.next().unwrap(),
    )
}

const STILL_OPEN: &str = "still open when the time was over";

#[test]
fn that_does_not_read() {
    let limit = Duration::from_millis(300);
    let server = Running::start(small_buffers().write_timeout(limit));
    let line = peer(&["--no-read", "--for", "30s"], server.addresses[0]);
    let (sent, received, end) = outcome(&line);
    assert_eq!((received, end), (0, "reset by the service"), "{line}");
    let stats = server.stop();
    assert_eq!(stats.closed.write_timeout, 1, "{stats:?}");
    assert!(sent >= stats.bytes_received, "{line}: {stats:?}");

    let server = Running::start(small_buffers());
    let start = Instant::now();
    let line = peer(&["--no-read", "--for", "200ms"], server.addresses[0]);
    assert_eq!(outcome(&line).2, STILL_OPEN, "{line}");
    assert!(start.elapsed() >= Duration::from_millis(200));
}

#[test]
fn that_reads_slowly() {
    let server = Running::start(small_buffers());
    let arguments = ["--slow", "4KiB/s", "--for", "1s"];
    let line = peer(&arguments, server.addresses[0]);
    let (sent, received, end) = outcome(&line);
    assert_eq!(end, STILL_OPEN, "{line}");
    assert!(sent > 65_536, "{line}");
    assert!((1024..=16_384).contains(&received), "{line}");
}

#[test]
fn that_half_closes() {
    let server = Running::start(config());
    let line = peer(&["--half-close", "--for", "30s"], server.addresses[0]);
    let (sent, received, end) = outcome(&line);
    assert!(sent > 0 && received == sent, "{line}");
    assert_eq!(end, "closed by the service", "{line}");
    assert_eq!(server.stop().closed.peer_closed, 1);
}

#[test]
fn that_resets() {
    let server = Running::start(config());
    let line = peer(&["--reset"], server.addresses[0]);
    let (sent, received, end) = outcome(&line);
    assert!(sent > 0, "{line}");
    assert_eq!((received, end), (0, "reset by this peer"), "{line}");
    let stats = server.stop();
    assert_eq!(stats.closed.reset, 1, "{stats:?}");

    // Closing with unread input resets as well. Here there is none.
    let (sender, result) = channel();
    let serve = move |mut stream: TcpStream| {
        let _ = sender.send(stream.read_to_end(&mut Vec::new()));
    };
    peer(&["--reset"], tcp_server(serve));
    let error = result.recv_timeout(LIMIT).unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn that_sends_urgent_data() {
    let server = Running::start(config());
    let line = peer(&["--urgent", "--for", "30s"], server.addresses[0]);
    assert_eq!(outcome(&line), (12, 12, "closed by the service"), "{line}");
}

#[test]
fn that_holds_connections() {
    let server = Running::start(config().idle_timeout(Duration::from_millis(200)));
    let line = peer(&["--hold", "3", "--for", "30s"], server.addresses[0]);
    assert_eq!(
        line,
        "3 connections held, 0 bytes sent, 0 received, 3 closed by the service, 0 reset or failed, \
         0 still open when the time was over"
    );
    assert_eq!(server.stop().closed.idle_timeout, 3);

    let server = Running::start(config());
    let line = peer(&["--hold", "2", "--for", "200ms"], server.addresses[0]);
    assert!(
        line.ends_with("2 still open when the time was over"),
        "{line}"
    );
}

#[test]
fn explains_wrong_arguments_in_one_line() {
    let run = |arguments: &[&str]| example("peer").args(arguments).output().unwrap();
    for (arguments, problem) in [
        (
            &["--loud", "127.0.0.1:7007"][..],
            "unknown argument '--loud'",
        ),
        (
            &["--reset", "127.0.0.1:7007", "127.0.0.1:7008"],
            "unknown argument '127.0.0.1:7008'",
        ),
        (
            &["--reset", "--urgent", "127.0.0.1:7007"],
            "'--urgent' is a second behaviour",
        ),
        (
            &["--slow", "1KB", "127.0.0.1:7007"],
            "'1KB' is no value for --slow",
        ),
        (
            &["--for", "5", "127.0.0.1:7007"],
            "'5' is no value for --for",
        ),
        (&["--hold"], "--hold needs a value"),
        (&["--reset"], "no address"),
        (&["127.0.0.1:7007"], "no behaviour"),
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2));
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(text, format!("peer: {problem}; see peer --help\n"));
    }
    let help = run(&["--help"]);
    assert!(help.status.success() && help.stdout.starts_with(b"usage: peer"));

    let address = refusing_address();
    let output = run(&["--reset", &address.to_string()]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.starts_with(&format!("peer: {address}: ")), "{text}");
}
