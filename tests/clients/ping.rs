//! `mio-echo ping` against correct and faulty servers.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::process::Stdio;
use std::sync::mpsc::channel;

use nix::sys::signal::Signal;

#[cfg(target_os = "linux")]
use crate::common::peers::silent_address;
use crate::common::peers::{
    echo, refusing_address, silent_udp_server, tcp_echo, tcp_server, udp_echo, udp_server,
    unix_echo,
};
use crate::common::service::program;
use crate::common::{LIMIT, Outcome};
use crate::process::Process;

impl Outcome {
    /// The number before a word in the statistics.
    fn count(&self, word: &str) -> u64 {
        let summary = self
            .stdout
            .lines()
            .find(|line| line.contains(" sent, "))
            .unwrap_or_else(|| panic!("no statistics: {self:?}"));
        let counts: HashMap<&str, u64> = summary
            .split(", ")
            .filter_map(|part| {
                let mut words = part.split(' ');
                let number = words.next()?.parse().ok()?;
                Some((words.next()?, number))
            })
            .collect();
        counts[word]
    }

    /// Checks the statistics: sent, received, lost, duplicated, corrupted.
    #[track_caller]
    fn assert_counts(&self, counts: [u64; 5]) {
        let words = ["sent", "received", "lost", "duplicated", "corrupted"];
        let is = words.map(|word| self.count(word));
        assert_eq!(is, counts, "{self:?}");
    }

    /// Checks that it succeeded and that everything came back.
    #[track_caller]
    fn assert_clean(&self, count: u64) {
        self.assert_counts([count, count, 0, 0, 0]);
        assert_eq!(self.status, Some(0), "{self:?}");
        assert_eq!(self.stderr, "");
    }
}

fn start(arguments: &[&str]) -> Process {
    Process::start(program(&[&["ping"], arguments].concat()))
}

/// Runs ping to its end. Without `-W` it waits as long as the test does, so that a busy machine does
/// not cause a loss.
fn ping(arguments: &[&str], endpoint: &str) -> Outcome {
    let mut arguments = [arguments, &[endpoint]].concat();
    if !arguments.iter().any(|argument| argument.starts_with("-W")) {
        arguments.push("-W30");
    }
    start(&arguments).finish()
}

#[test]
fn output_is_that_of_ping() {
    let endpoint = tcp_echo();
    let outcome = ping(&["-c2", "-i10ms"], &endpoint);
    outcome.assert_clean(2);
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert_eq!(lines.len(), 6, "{outcome:?}");
    assert_eq!(lines[0], format!("PING {endpoint} with 56 bytes"));
    for (line, seq) in lines[1..3].iter().zip(1..) {
        let start = format!("56 bytes from {endpoint}: seq={seq} time=");
        let time = line.strip_prefix(&start).expect(line);
        let time: f64 = time.strip_suffix(" ms").expect(line).parse().expect(line);
        assert!(time > 0.0);
    }
    assert_eq!(lines[3], format!("--- {endpoint} ping statistics ---"));
    let counts = "2 sent, 2 received, 0 lost (0%), 0 duplicated, 0 corrupted, time ";
    assert!(lines[4].starts_with(counts), "{outcome:?}");
    assert!(lines[4].ends_with(" ms"), "{outcome:?}");
    let times = lines[5]
        .strip_prefix("rtt min/avg/median/p99/max/jitter = ")
        .and_then(|times| times.strip_suffix(" ms"))
        .expect(lines[5]);
    let times: Vec<f64> = times.split('/').map(|time| time.parse().unwrap()).collect();
    let [min, avg, median, p99, max, jitter] = times[..] else {
        panic!("{outcome:?}");
    };
    assert!(min <= avg && avg <= max, "{outcome:?}");
    assert!(min <= median && median <= p99 && p99 <= max, "{outcome:?}");
    // Of two times it is the difference, up to the rounding of each of the three numbers.
    assert!((jitter - (max - min)).abs() < 0.0021, "{outcome:?}");
}

#[test]
fn any_size_over_any_transport() {
    for size in ["1", "7", "8", "9", "56", "1KiB", "65507"] {
        let arguments = ["-c20", "-i0", "-s", size];
        for endpoint in [tcp_echo(), udp_echo()] {
            ping(&arguments, &endpoint).assert_clean(20);
        }
        let (_directory, endpoint) = unix_echo();
        ping(&arguments, &endpoint).assert_clean(20);
    }
    ping(&["-c20", "-i0", "-s0"], &udp_echo()).assert_clean(20);
}

#[test]
fn endpoint_without_transport_is_tcp() {
    let address = tcp_server(|stream| echo(stream, |_, _| {}));
    let outcome = ping(&["-c1"], &address.to_string());
    outcome.assert_clean(1);
    let first = format!("PING tcp://{address} with 56 bytes\n");
    assert!(outcome.stdout.starts_with(&first), "{outcome:?}");
}

#[test]
fn host_name_is_tried_at_each_address() {
    // localhost can be ::1 first, where nothing listens.
    let address = tcp_server(|stream| echo(stream, |_, _| {}));
    let endpoint = format!("localhost:{}", address.port());
    ping(&["-c1"], &endpoint).assert_clean(1);
}

#[cfg(target_os = "linux")]
#[test]
fn abstract_unix_socket() {
    ping(
        &["-c3", "-i0"],
        &crate::common::peers::abstract_echo("ping"),
    )
    .assert_clean(3);
}

#[test]
fn messages_in_pieces() {
    // They are also sent in pieces, because the server reads little at a time.
    let address = tcp_server(|mut stream| {
        let mut buffer = [0; 100];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            stream.write_all(&buffer[..count]).unwrap();
        }
    });
    ping(&["-c50", "-i1ms", "-s30000"], &format!("tcp://{address}")).assert_clean(50);
}

#[test]
fn quiet_prints_only_the_statistics() {
    let outcome = ping(&["-c3", "-i0", "-q"], &udp_echo());
    outcome.assert_clean(3);
    assert_eq!(outcome.stdout.lines().count(), 4, "{outcome:?}");
}

#[test]
fn more_pings_than_are_remembered_and_numbers_that_do_not_fit() {
    let outcome = ping(&["-c66000", "-i0", "-q", "-s1"], &udp_echo());
    outcome.assert_clean(66_000);
}

#[test]
fn loss_is_counted() {
    let mut number = 0;
    let endpoint = udp_server(move |datagram| {
        number += 1;
        if number % 3 == 0 {
            Vec::new()
        } else {
            vec![datagram]
        }
    });
    let outcome = ping(&["-c10", "-i0", "-W0.5"], &endpoint);
    outcome.assert_counts([10, 7, 3, 0, 0]);
    assert_eq!(outcome.status, Some(1));
    assert!(outcome.stdout.contains(" 3 lost (30%), "), "{outcome:?}");
    for seq in 1..=10 {
        let is_there = outcome.stdout.contains(&format!(": seq={seq} "));
        assert_eq!(is_there, seq % 3 != 0, "{outcome:?}");
    }
}

#[test]
fn late_and_reordered_answers_count() {
    // Answers arrive in pairs, the later one first.
    let mut kept = Vec::new();
    let endpoint = udp_server(move |datagram| {
        kept.insert(0, datagram);
        if kept.len() == 2 {
            std::mem::take(&mut kept)
        } else {
            Vec::new()
        }
    });
    let outcome = ping(&["-c4", "-i5ms", "-W30"], &endpoint);
    outcome.assert_clean(4);
    let place = |seq| outcome.stdout.find(&format!(": seq={seq} ")).unwrap();
    assert!(place(2) < place(1) && place(4) < place(3), "{outcome:?}");
}

#[test]
fn duplicates_are_marked() {
    let endpoint = udp_server(|datagram| vec![datagram.clone(), datagram]);
    let outcome = ping(&["-c5", "-i0"], &endpoint);
    assert_eq!(outcome.status, Some(0), "{outcome:?}");
    // It can end before the last duplicate arrives.
    let duplicated = outcome.count("duplicated");
    assert!(duplicated == 4 || duplicated == 5, "{outcome:?}");
    outcome.assert_counts([5, 5, 0, duplicated, 0]);
    for seq in 1..=4 {
        let starts = format!("56 bytes from {endpoint}: seq={seq} time=");
        let mut lines = outcome
            .stdout
            .lines()
            .filter(|line| line.starts_with(&starts));
        assert!(lines.next().unwrap().ends_with(" ms"), "{outcome:?}");
        assert!(lines.next().unwrap().ends_with(" ms (DUP!)"), "{outcome:?}");
    }
}

#[test]
fn changed_byte_in_a_datagram() {
    let start = |byte| {
        let endpoint = udp_server(move |mut datagram: Vec<u8>| {
            datagram[byte] ^= 0x80;
            vec![datagram]
        });
        let running = start(&["-c3", "-i0", "-W0.5", &endpoint]);
        (byte, endpoint, running)
    };
    // In parallel, because each waits for lost answers.
    for (byte, endpoint, running) in [0, 7, 8, 55].map(start) {
        let outcome = running.finish();
        outcome.assert_counts([3, 0, 3, 0, 3]);
        assert_eq!(outcome.status, Some(1));
        let line = if byte < 8 {
            format!("56 bytes from {endpoint}: corrupted, not asked for, or long ago\n")
        } else {
            let place = byte + 1;
            format!("56 bytes from {endpoint}: seq=2 corrupted, from byte {place}\n")
        };
        assert!(outcome.stdout.contains(&line), "{outcome:?}");
        assert!(!outcome.stdout.contains("rtt"), "{outcome:?}");
    }
}

#[test]
fn datagram_of_wrong_length() {
    let endpoint = udp_server(|mut datagram| {
        let mut longer = datagram.clone();
        longer.push(0);
        datagram.pop();
        vec![longer, datagram]
    });
    let outcome = ping(&["-c1", "-W0.5"], &endpoint);
    outcome.assert_counts([1, 0, 1, 0, 2]);
    for size in [55, 57] {
        let line = format!("{size} bytes from {endpoint}: corrupted, 56 bytes were sent\n");
        assert!(outcome.stdout.contains(&line), "{outcome:?}");
    }
}

#[test]
fn changed_byte_in_a_stream_does_not_end_it() {
    let address = tcp_server(|stream| {
        // A byte of the second message.
        echo(stream, |place, bytes| {
            for (_, byte) in (place..).zip(bytes).filter(|(place, _)| *place == 70) {
                *byte ^= 1;
            }
        });
    });
    let endpoint = format!("tcp://{address}");
    let outcome = ping(&["-c4", "-i0"], &endpoint);
    outcome.assert_counts([4, 3, 1, 0, 1]);
    assert_eq!(outcome.status, Some(1));
    let line = format!("56 bytes from {endpoint}: seq=2 corrupted, from byte 15\n");
    assert!(outcome.stdout.contains(&line), "{outcome:?}");
}

#[test]
fn early_end_of_the_connection_is_an_error() {
    let address = tcp_server(|mut stream| {
        let mut message = [0; 56];
        for _ in 0..2 {
            stream.read_exact(&mut message).unwrap();
            stream.write_all(&message).unwrap();
        }
    });
    let endpoint = format!("tcp://{address}");
    let outcome = ping(&["-i10ms"], &endpoint);
    assert_eq!(outcome.status, Some(1));
    assert_eq!(outcome.count("received"), 2, "{outcome:?}");
    // If a ping was in flight, the connection is reset.
    assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
    let start = format!("mio-echo: {endpoint}: ");
    assert!(outcome.stderr.starts_with(&start), "{outcome:?}");
}

#[test]
fn refused_connection_is_an_error() {
    let endpoint = format!("tcp://{}", refusing_address());
    let outcome = ping(&[], &endpoint);
    assert_eq!(outcome.status, Some(1));
    assert_eq!(outcome.stdout, "");
    assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
    assert!(outcome.stderr.contains(&endpoint), "{outcome:?}");
    assert!(outcome.stderr.contains("refused"), "{outcome:?}");
}

#[cfg(target_os = "linux")]
#[test]
fn timeout_limits_connecting() {
    let endpoint = format!("tcp://{}", silent_address());
    let outcome = ping(&["-W0.2"], &endpoint);
    assert_eq!(outcome.status, Some(1));
    assert_eq!(outcome.stdout, "");
    let error = format!("mio-echo: {endpoint}: no connection within the time of --timeout\n");
    assert_eq!(outcome.stderr, error);
}

#[test]
fn refused_datagram_is_lost_and_reported_once() {
    let endpoint = format!("udp://{}", refusing_address());
    let outcome = ping(&["-c4", "-i0", "-W0.1"], &endpoint);
    assert_eq!(outcome.status, Some(1));
    outcome.assert_counts([4, 0, 4, 0, 0]);
    assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
    let start = format!("mio-echo: {endpoint}: Connection refused");
    assert!(outcome.stderr.starts_with(&start), "{outcome:?}");
}

#[test]
fn signal_ends_it_with_statistics() {
    for (signal, interval, endpoint) in [
        (Signal::SIGINT, "10ms", tcp_echo()),
        (Signal::SIGTERM, "0", tcp_echo()),
        (Signal::SIGINT, "0", udp_echo()),
        // During a long sleep.
        (Signal::SIGTERM, "10m", udp_echo()),
    ] {
        let mut running = start(&["-W30", "-i", interval, &endpoint]);
        let until = if interval == "10m" {
            "seq=1 "
        } else {
            "seq=3 "
        };
        running.wait_for(until);
        running.signal(signal);
        let outcome = running.finish();
        outcome.assert_clean(outcome.count("sent"));
        assert!(outcome.stdout.contains("\nrtt "), "{outcome:?}");
    }
}

#[test]
fn second_signal_ends_it_immediately() {
    let (endpoint, receiver) = silent_udp_server();
    let running = start(&["-W10m", &endpoint]);
    receiver.recv_timeout(LIMIT).unwrap();
    // Two different signals, because equal ones are merged.
    running.signal(Signal::SIGINT);
    running.signal(Signal::SIGTERM);
    let outcome = running.finish();
    assert_eq!(outcome.status, None, "not ended by a signal: {outcome:?}");
}

#[test]
fn signal_ends_it_while_the_peer_does_not_read() {
    // The peer keeps the connection open and reads one byte.
    let (sender, receiver) = channel();
    let (end, ended) = channel::<()>();
    let address = tcp_server(move |mut stream| {
        stream.read_exact(&mut [0]).unwrap();
        sender.send(()).unwrap();
        let _ = ended.recv_timeout(LIMIT);
    });
    let endpoint = format!("tcp://{address}");
    let running = start(&["-i1us", "-W0.1", "-s65507", &endpoint]);
    receiver.recv_timeout(LIMIT).unwrap();
    running.signal(Signal::SIGINT);
    let outcome = running.finish();
    drop(end);
    assert_eq!(outcome.count("received"), 0);
    assert_eq!(outcome.status, Some(1), "{outcome:?}");
    assert_eq!(outcome.stderr, "");
}

/// The peer reads nothing until ping sleeps.
#[cfg(target_os = "linux")]
#[test]
fn full_send_buffer_is_waited_for() {
    use crate::common::{peers::unix_server, service::state, wait_until};

    let (sender, receiver) = channel();
    let (read, reads) = channel::<()>();
    let (_directory, endpoint) = unix_server(move |stream| {
        sender.send(()).unwrap();
        reads.recv_timeout(LIMIT).unwrap();
        echo(stream, |_, _| {});
    });
    let running = start(&["-i1us", "-c100", "-q", "-s65507", "-W30", &endpoint]);
    receiver.recv_timeout(LIMIT).unwrap();
    wait_until(|| state(running.pid()) == "S");
    read.send(()).unwrap();
    running.finish().assert_clean(100);
}

#[test]
fn signal_ends_it_while_the_peer_sends_without_end() {
    let address = tcp_server(|mut stream| while stream.write_all(&[b'x'; 4096]).is_ok() {});
    let mut running = start(&["-i1ms", &format!("tcp://{address}")]);
    running.wait_for("corrupted, ");
    running.signal(Signal::SIGINT);
    let outcome = running.finish();
    assert_eq!(outcome.count("received"), 0);
    assert_eq!(outcome.status, Some(1), "{:?}", outcome.stderr);
}

#[test]
fn closed_pipe_of_standard_output_ends_it() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = program(&["ping", "-i0", &tcp_echo()]);
    command.stdout(writer).stderr(Stdio::piped());
    let output = command.spawn().unwrap().wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("standard output"), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn wrong_arguments_get_one_line_and_status_2() {
    for arguments in [
        &[][..],
        &["127.0.0.1"],
        &["127.0.0.1:port"],
        &["http://127.0.0.1:80"],
        &["unix:"],
        &["-c0", "127.0.0.1:7"],
        &["-cx", "127.0.0.1:7"],
        &["-i", "soon", "127.0.0.1:7"],
        &["-i", "inf", "127.0.0.1:7"],
        &["-W", "1e10", "127.0.0.1:7"],
        &["-s", "65508", "udp://127.0.0.1:7"],
        &["-s", "0", "127.0.0.1:7"],
        &["-s", "0", "unix:/nowhere"],
        &["--no-such-option", "127.0.0.1:7"],
        &["127.0.0.1:7", "127.0.0.1:8"],
    ] {
        let outcome = start(arguments).finish();
        assert_eq!(outcome.status, Some(2), "{arguments:?}: {outcome:?}");
        assert_eq!(outcome.stdout, "", "{arguments:?}");
        assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
        assert!(outcome.stderr.starts_with("mio-echo: "), "{outcome:?}");
    }
}
