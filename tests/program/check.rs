//! `mio-echo check`: the exit status says within a second whether the endpoint echoes.

use std::net::{TcpListener, ToSocketAddrs, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::service::{error_line, output, program};
use crate::common::{Directory, Running, config_at, peers};

fn assert_healthy(endpoint: &str) {
    let output = output(program(&["check", endpoint]));
    assert_eq!(output.status.code(), Some(0), "{endpoint}: {output:?}");
    assert!(output.stdout.is_empty() && output.stderr.is_empty());
}

/// The one line that says what is wrong.
fn failure(endpoint: &str) -> String {
    let start = Instant::now();
    let (line, status) = error_line(program(&["check", endpoint]));
    // 0.8 s, and on a busy machine the start of the process.
    assert!(start.elapsed() < Duration::from_secs(2), "{endpoint}");
    assert_eq!(status, Some(1), "{endpoint}");
    assert!(line.contains(endpoint), "{line}");
    line
}

#[test]
fn every_transport_is_healthy() {
    let directory = Directory::new();
    let unix = format!("unix:{}", directory.file("socket").display());
    let mut config = config_at("127.0.0.1:0").endpoint(unix.parse().unwrap());
    let name = format!("unix:@mio-echo-check-{}", std::process::id());
    if cfg!(target_os = "linux") {
        config = config.endpoint(name.parse().unwrap());
    }
    let server = Running::start(config);
    let address = server.addresses[0];
    assert_healthy(&address.to_string());
    assert_healthy(&format!("tcp://{address}"));
    assert_healthy(&format!("udp://{address}"));
    assert_healthy(&format!("localhost:{}", address.port()));
    assert_healthy(&unix);
    if cfg!(target_os = "linux") {
        assert_healthy(&name);
    }
    let stats = server.stop();
    let closed = &stats.closed;
    assert_eq!(closed.total(), closed.peer_closed, "{stats:?}");
    assert_eq!(stats.datagrams_sent, 3);
}

#[test]
fn one_healthy_address_of_a_name_is_enough() {
    for address in ("localhost", 0).to_socket_addrs().unwrap() {
        let server = Running::start(config_at(&format!("tcp://{address}")));
        let port = server.addresses[0].port();
        assert_healthy(&format!("tcp://localhost:{port}"));
    }
}

#[test]
fn refused_connection_fails() {
    let address = peers::refusing_address();
    assert!(failure(&format!("tcp://{address}")).contains("refused"));
    assert!(failure(&format!("udp://{address}")).contains("refused"));
    let directory = Directory::new();
    failure(&format!("unix:{}", directory.file("socket").display()));
}

#[test]
fn endpoint_without_transport_needs_both_tcp_and_udp() {
    let server = Running::start(config_at("tcp://127.0.0.1:0"));
    let address = server.addresses[0];
    assert_healthy(&format!("tcp://{address}"));
    failure(&address.to_string());
}

#[test]
fn silent_peer_times_out() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("tcp://{}", listener.local_addr().unwrap());
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let also_silent = format!("udp://{}", socket.local_addr().unwrap());
    thread::scope(|scope| {
        for endpoint in [&silent, &also_silent] {
            scope.spawn(move || assert!(failure(endpoint).contains("no answer in time")));
        }
    });
}

#[test]
fn changed_bytes_fail() {
    let address = peers::tcp_server(|stream| {
        peers::echo(stream, |offset, piece| {
            if offset == 0 {
                piece[0] ^= 1;
            }
        });
    });
    assert!(failure(&format!("tcp://{address}")).contains("other bytes"));
    for change in [
        |mut bytes: Vec<u8>| {
            bytes.push(0);
            bytes
        },
        |mut bytes: Vec<u8>| {
            bytes.pop();
            bytes
        },
    ] {
        let server = peers::udp_server(move |bytes| vec![change(bytes)]);
        assert!(failure(&server).contains("other bytes"));
    }
    let address = peers::tcp_server(drop);
    failure(&format!("tcp://{address}"));
}

/// A container that limits its processes also limits threads. Here it is the address space that has no room
/// for the stack of the first or the second thread, because a limit on processes spares root.
#[cfg(target_os = "linux")]
#[test]
fn thread_that_cannot_be_created_is_the_error() {
    use crate::common::service::PROGRAM;

    let server = Running::start(config_at("127.0.0.1:0"));
    let endpoint = server.addresses[0].to_string();
    for mebibytes in [512, 1536] {
        let limited = format!(
            "ulimit -v {} && exec '{PROGRAM}' check {endpoint}",
            mebibytes * 1024
        );
        let mut command = std::process::Command::new("sh");
        command.args(["-c", &limited]);
        command.env("RUST_MIN_STACK", (1 << 30).to_string());
        let (line, status) = error_line(command);
        assert_eq!(status, Some(1), "{line}");
        let start = format!("mio-echo: {endpoint}: cannot create a thread: ");
        assert!(line.starts_with(&start), "{line}");
    }
}

/// With status 1, because Docker reserves 2 for its own use.
#[test]
fn wrong_endpoint_fails_with_status_1() {
    assert!(failure("7007").contains("7007 is a port"));
    assert!(failure("unix:/").contains("is a directory"));
    let name = format!("{}.invalid:7007", "x".repeat(64));
    assert!(failure(&name).contains("does not resolve"));
}
