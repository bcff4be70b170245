//! `mio-echo check`: whether there is an echo, told by the exit status, within a second.

use std::net::{TcpListener, ToSocketAddrs, UdpSocket};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::common::service::{complaint as complaint_of, output, program};
use crate::common::{Directory, Running, config_at, peers};

fn check(endpoint: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mio-echo"));
    command.args(["check", endpoint]).stdin(Stdio::null());
    command.env_remove("RUST_LOG");
    command.output().unwrap()
}

fn assert_good(endpoint: &str) {
    let output = check(endpoint);
    assert_eq!(output.status.code(), Some(0), "{endpoint}: {output:?}");
    assert!(output.stdout.is_empty() && output.stderr.is_empty());
}

/// The one line that says what is wrong.
fn complaint(endpoint: &str) -> String {
    let start = Instant::now();
    let output = check(endpoint);
    assert!(start.elapsed() < Duration::from_secs(1), "{endpoint}");
    assert_eq!(output.status.code(), Some(1), "{endpoint}");
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(
        text.starts_with("mio-echo: ") && text.contains(endpoint),
        "{text}"
    );
    text
}

#[test]
fn an_echo_is_good_over_every_transport() {
    let directory = Directory::new();
    let unix = format!("unix:{}", directory.file("socket").display());
    let mut config = config_at("127.0.0.1:0").endpoint(unix.parse().unwrap());
    let name = format!("unix:@mio-echo-check-{}", std::process::id());
    if cfg!(target_os = "linux") {
        config = config.endpoint(name.parse().unwrap());
    }
    let server = Running::start(config);
    let address = server.addresses[0];
    assert_good(&address.to_string());
    assert_good(&format!("tcp://{address}"));
    assert_good(&format!("udp://{address}"));
    assert_good(&format!("localhost:{}", address.port()));
    assert_good(&unix);
    if cfg!(target_os = "linux") {
        assert_good(&name);
    }
    let stats = server.stop();
    assert_eq!(
        stats.closed.reset + stats.closed.error + stats.closed.aborted,
        0,
        "{stats:?}"
    );
    assert_eq!(stats.datagrams_sent, 3);
}

#[test]
fn a_name_is_good_if_one_of_its_addresses_is() {
    for address in ("localhost", 0).to_socket_addrs().unwrap() {
        let server = Running::start(config_at(&format!("tcp://{address}")));
        let port = server.addresses[0].port();
        assert_good(&format!("tcp://localhost:{port}"));
    }
}

#[test]
fn where_nobody_is_it_is_refused() {
    let address = peers::nobody();
    assert!(complaint(&format!("tcp://{address}")).contains("refused"));
    assert!(complaint(&format!("udp://{address}")).contains("mio-echo"));
    let directory = Directory::new();
    complaint(&format!("unix:{}", directory.file("socket").display()));
}

#[test]
fn both_transports_have_to_be_there_where_both_are_meant() {
    let server = Running::start(config_at("tcp://127.0.0.1:0"));
    let address = server.addresses[0];
    assert_good(&format!("tcp://{address}"));
    complaint(&address.to_string());
}

#[test]
fn who_is_there_and_silent_is_not_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("tcp://{}", listener.local_addr().unwrap());
    assert!(complaint(&silent).contains("no answer in time"));
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let silent = format!("udp://{}", socket.local_addr().unwrap());
    assert!(complaint(&silent).contains("no answer in time"));
}

#[test]
fn other_bytes_are_no_echo() {
    let address = peers::tcp_server(|stream| {
        peers::echo(stream, |place, piece| {
            if place == 0 {
                piece[0] ^= 1;
            }
        });
    });
    assert!(complaint(&format!("tcp://{address}")).contains("other bytes"));
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
        assert!(complaint(&server).contains("other bytes"));
    }
    let address = peers::tcp_server(drop);
    complaint(&format!("tcp://{address}"));
}

#[test]
fn what_is_no_endpoint_is_not_healthy_either() {
    assert!(complaint("7007").contains("no port"));
    let name = format!("{}.invalid:7007", "x".repeat(64));
    assert!(complaint(&name).contains("does not resolve"));
}

#[test]
fn options_of_the_service_and_endpoints_before_it_are_an_error() {
    for others in [
        &["127.0.0.1:0"][..],
        &["127.0.0.1:0", "-v"],
        &["--reuse-port"],
        &["--backlog", "5"],
        &["-v", "--metrics", "tcp://127.0.0.1:0"],
    ] {
        let arguments = [others, &["check", "127.0.0.1:7007"]].concat();
        let (line, status) = complaint_of(program(&arguments));
        assert_eq!(status, Some(2), "{others:?}");
        assert!(line.contains("check"), "{line}");
    }
}

#[test]
fn global_options_stand_before_or_behind_it() {
    let server = Running::start(config_at("127.0.0.1:0"));
    let endpoint = server.addresses[0].to_string();
    for arguments in [
        ["-v", "check", &endpoint],
        ["check", "-q", &endpoint],
        ["--log-level=debug", "check", &endpoint],
    ] {
        let status = output(program(&arguments)).status;
        assert_eq!(status.code(), Some(0), "{arguments:?}");
    }
}
