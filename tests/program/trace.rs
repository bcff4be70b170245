//! The log at the level `trace`: each event, turn and system call.
#![cfg(target_os = "linux")]

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{Shutdown, TcpStream, UdpSocket};

use nix::sys::signal::Signal;

use crate::common::service::{Service, program, state};
use crate::common::{connect, echo, wait_until};

/// A service with a buffer of 4 bytes, and a client that is accepted and known to be writable.
fn traced_client() -> (Service, TcpStream, String) {
    let mut service = Service::start(&["-vv", "--buffer-size", "4", "--zero-copy", "off"]);
    let client = connect(service.address);
    let opened = service.wait_for(&format!("{} (Token ", client.local_addr().unwrap()));
    let name = message(&opened).trim_end_matches(": opened").to_owned();
    service.wait_for(&format!("{name}: event: writable"));
    service.wait_for("waiting for events, ");
    (service, client, name)
}

/// A line of the log without the time stamp, the level and the module.
fn message(line: &str) -> &str {
    line.split_once("] ").unwrap().1
}

/// The messages until the next line with the text; a time that the loop waits at most is left out.
fn messages_until(service: &mut Service, text: &str) -> Vec<String> {
    let mut messages = Vec::new();
    loop {
        let line = service.wait_for("");
        let is_last = line.contains(text);
        messages.push(message(&line).split(", 30").next().unwrap().to_owned());
        if is_last {
            return messages;
        }
    }
}

#[test]
fn trace_logs_each_event_turn_and_call() {
    let (mut service, mut client, name) = traced_client();
    assert_eq!(echo(&mut client, b"hello world"), b"hello world");
    let turn = |count, sent| {
        [
            "run queue: 1".to_owned(),
            format!("{name}: recv {count} of 4 bytes"),
            format!("{name}: send {sent} bytes"),
        ]
    };
    let again = [
        "not sleeping: 1 socket has more to do",
        "poll 0 of 256 events",
    ]
    .map(String::from);
    let expected = [
        &["poll 1 of 256 events".to_owned()][..],
        &[format!("{name}: event: readable, writable")],
        &turn(4, "4 of 4"),
        &again,
        &turn(4, "4 of 4"),
        &again,
        &turn(3, "3 of 3"),
        &["waiting for events".to_owned()],
    ];
    assert_eq!(messages_until(&mut service, "waiting"), expected.concat());

    // A read that fills the buffer does not say whether there is more.
    assert_eq!(echo(&mut client, b"1234"), b"1234");
    let messages = messages_until(&mut service, "waiting");
    assert_eq!(
        messages[7..],
        [
            "run queue: 1",
            &format!("{name}: recv: EAGAIN"),
            "waiting for events"
        ]
    );

    client.shutdown(Shutdown::Write).unwrap();
    let ahead = "event: readable, writable, end of stream or urgent data ahead";
    service.wait_for(&format!("{name}: {ahead}"));
    service.wait_for(&format!("{name}: recv 0 bytes: end of stream"));
    service.wait_for(&format!(
        "{name}: closed: closed by the peer; 15 bytes echoed, 0 pending, after"
    ));
    service.stop();
}

#[test]
fn trace_counts_events_and_the_run_queue() {
    let (mut service, mut first, _) = traced_client();
    let mut second = connect(service.address);
    let peer = second.local_addr().unwrap();
    service.wait_for(&format!("tcp://{}: accept: {}", service.address, peer));
    service.wait_for(&format!("tcp://{}: accept: EAGAIN", service.address));
    while !service
        .wait_for(&format!("{peer} (Token "))
        .ends_with("event: writable")
    {}
    service.signal(Signal::SIGSTOP);
    wait_until(|| state(service.pid()) == "T");
    first.write_all(b"hello").unwrap();
    second.write_all(b"hello").unwrap();
    service.signal(Signal::SIGCONT);
    for line in [
        "poll 2 of 256 events",
        "run queue: 2",
        "not sleeping: 2 sockets have more to do",
        "run queue: 2",
    ] {
        service.wait_for(line);
    }
    // Otherwise the service would wait for them.
    drop((first, second));
    service.stop();

    let mut service = Service::start(&["-vv", "--busy-poll", "1s"]);
    let client = connect(service.address);
    service.wait_for("not sleeping: busy polling");
    drop(client);
    service.stop();
}

#[test]
fn trace_logs_the_calls_for_datagrams_and_of_a_shutdown() {
    let mut service = Service::start(&["-vv", "--drain-timeout", "100ms"]);
    let (tcp, udp) = (
        format!("tcp://{}", service.address),
        format!("udp://{}", service.address),
    );
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.send_to(b"hello", service.address).unwrap();
    let peer = socket.local_addr().unwrap();
    service.wait_for(&format!("{udp}: event: readable"));
    service.wait_for(&format!("{udp}: recvmmsg: batch of 1"));
    service.wait_for(&format!("{peer}: datagram of 5 bytes"));
    service.wait_for(&format!("{udp}: sendmmsg: 1 of 1 datagrams"));

    let client = connect(service.address);
    let name = format!("{} (Token 1026)", client.local_addr().unwrap());
    service.wait_for(&format!("{name}: opened"));
    service.signal(Signal::SIGTERM);
    service.wait_for(&format!("{tcp}: closed"));
    service.wait_for(&format!("{udp}: recvmmsg: EAGAIN"));
    service.wait_for(&format!("{udp}: closed"));
    service.wait_for(&format!("{name}: shutdown(SHUT_WR): 0"));
    drop(client);
    service.wait_for(&format!("{name}: closed: "));
    assert_eq!(service.end().0.code(), Some(0));
}

#[test]
fn trace_has_microseconds_and_no_lines_of_mio_unless_asked_for() {
    let log_of = |variable: &str, argument: &str| {
        let mut command = program(&["127.0.0.1:0", argument]);
        command.env("RUST_LOG", variable);
        Service::spawn(command).stop()
    };
    let digits = |lines: &[String]| {
        let fraction = |line: &String| {
            line.split_once('Z')
                .unwrap()
                .0
                .split_once('.')
                .unwrap()
                .1
                .len()
        };
        lines.iter().map(fraction).collect::<BTreeSet<_>>()
    };
    let of_mio = |lines: &[String]| lines.iter().any(|line| line.contains(" [mio::"));
    let lines = log_of("", "-vv");
    assert!(!of_mio(&lines), "{lines:#?}");
    assert_eq!(digits(&lines), [6].into());
    assert!(of_mio(&log_of("mio=trace", "-vv")));
    assert_eq!(digits(&log_of("", "-v")), [3].into());
}
