//! The example `client`.

use std::io::{Read, Write};
use std::sync::mpsc::{Sender, channel};

use crate::common::example;
#[cfg(target_os = "linux")]
use crate::common::peers::abstract_echo;
use crate::common::peers::{
    refusing_address, tcp_echo, tcp_server, udp_echo, udp_server, unix_echo,
};
use crate::process::Process;

fn start(arguments: &[&str]) -> Process {
    let mut command = example("client");
    command.args(arguments);
    Process::start(command)
}

#[test]
fn every_transport() {
    let (_directory, unix) = unix_echo();
    let mut endpoints = vec![tcp_echo(), udp_echo(), unix];
    #[cfg(target_os = "linux")]
    endpoints.push(abstract_echo("client"));
    endpoints.push(tcp_echo().replace("tcp://", ""));
    endpoints.push(tcp_echo().replace("127.0.0.1", "localhost"));
    for endpoint in endpoints {
        let mut client = start(&[&endpoint]);
        // Each line comes back before the next one is typed.
        for line in ["one\n", "\n", "three\n"] {
            client.type_in(line.as_bytes());
            client.wait_for(line.trim_end());
        }
        // Without a newline.
        client.type_in(b"the rest");
        let outcome = client.finish();
        assert_eq!(outcome.stdout, "one\n\nthree\nthe rest\n", "{endpoint}");
        assert_eq!(outcome.stderr, "", "{endpoint}");
        assert_eq!(outcome.status, Some(0), "{endpoint}");
    }
}

#[test]
fn end_of_input_half_closes_and_waits_for_the_rest() {
    let address = tcp_server(|mut stream| {
        let mut bytes = Vec::new();
        let mut first = [0; 5];
        stream.read_exact(&mut first).unwrap();
        stream.write_all(&first).unwrap();
        stream.read_to_end(&mut bytes).unwrap();
        stream.write_all(b"goodbye\n").unwrap();
    });
    let mut client = start(&[&format!("tcp://{address}")]);
    client.type_in(b"text\n");
    let outcome = client.finish();
    assert_eq!(outcome.stdout, "text\ngoodbye\n");
    assert_eq!(outcome.status, Some(0), "{outcome:?}");
}

#[test]
fn each_line_is_a_datagram() {
    let (sender, receiver): (Sender<Vec<u8>>, _) = channel();
    let endpoint = udp_server(move |datagram| {
        sender.send(datagram.clone()).unwrap();
        vec![datagram]
    });
    let mut client = start(&[&endpoint]);
    client.type_in(b"a\nbb\n\nccc");
    let outcome = client.finish();
    assert_eq!(outcome.stdout, "a\nbb\n\nccc\n");
    let datagrams: Vec<Vec<u8>> = receiver.try_iter().collect();
    assert_eq!(datagrams, [&b"a\n"[..], b"bb\n", b"\n", b"ccc"]);
}

#[test]
fn line_too_long_for_a_datagram_is_split() {
    let mut client = start(&[&udp_echo()]);
    let line = "x".repeat(100_000);
    client.type_in(line.as_bytes());
    let outcome = client.finish();
    assert_eq!(outcome.status, Some(0), "{:?}", outcome.stderr);
    assert!(outcome.stdout.trim_end() == line);
}

#[test]
fn lost_datagram_is_reported_and_the_next_is_sent() {
    // A duplicate is not mistaken for the next answer.
    let endpoint = udp_server(|datagram| match &datagram[..] {
        b"lost\n" => Vec::new(),
        b"twice\n" => vec![datagram.clone(), datagram],
        _ => vec![datagram],
    });
    let mut client = start(&[&endpoint]);
    client.type_in(b"lost\ntwice\nlast\n");
    let outcome = client.finish();
    assert_eq!(outcome.stdout, "twice\ntwice\nlast\n");
    assert_eq!(outcome.stderr, "no answer\n");
    assert_eq!(outcome.status, Some(1));
}

#[test]
fn error_is_one_line_with_status_1_or_2() {
    let refusing = refusing_address();
    for endpoint in [
        format!("tcp://{refusing}"),
        format!("udp://{refusing}"),
        "unix:/there/is/no/such/path".to_owned(),
        "unix:@there-is-no-such-name".to_owned(),
    ] {
        // Over UDP only a sent datagram can be refused.
        let mut client = start(&[&endpoint]);
        if endpoint.starts_with("udp") {
            client.type_in(b"anybody?\n");
        }
        let outcome = client.finish();
        assert_eq!(outcome.status, Some(1), "{endpoint}: {outcome:?}");
        let start = format!("client: {endpoint}: ");
        assert!(outcome.stderr.starts_with(&start), "{outcome:?}");
        assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
    }
    for arguments in [
        &[][..],
        &["127.0.0.1"],
        &["unix:"],
        &["127.0.0.1:7", "127.0.0.1:7"],
    ] {
        let outcome = start(arguments).finish();
        assert_eq!(outcome.status, Some(2), "{arguments:?}: {outcome:?}");
        assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
    }
}
