//! `mio-echo load` against the service and faulty servers.

use std::fs;
use std::io::{Read, Write};
#[cfg(target_os = "linux")]
use std::net::UdpSocket;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::Stdio;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use mio_echo::Endpoint;
use nix::sys::signal::Signal;
use serde_json::Value;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::common::peers::{
    echo, refusing_address, silent_udp_server, tcp_server, udp_server, unix_server,
};
use crate::common::service::program;
use crate::common::{self, Directory, LIMIT, Outcome, Running, config};
use crate::process::Process;

impl Outcome {
    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

fn start(arguments: &[&str]) -> Process {
    Process::start(program(&[&["load"], arguments].concat()))
}

/// Starts load. Without `-W` it waits long for missing answers, so that a busy machine does not cause a
/// loss.
fn launch(arguments: &str, endpoint: &str) -> Process {
    let mut arguments: Vec<&str> = arguments.split_whitespace().collect();
    arguments.push(endpoint);
    for (name, rest) in [("-W", "20s"), ("-d", "20s")] {
        if !arguments.iter().any(|it| it.starts_with(name)) {
            arguments.extend([name, rest]);
        }
    }
    start(&arguments)
}

fn results(arguments: &str, endpoint: &str) -> (Outcome, Value) {
    let [results] = results_of_each([(arguments, endpoint)]);
    results
}

/// Runs load several times at once, because each waits most of its time.
fn results_of_each<const N: usize>(runs: [(&str, &str); N]) -> [(Outcome, Value); N] {
    let launch = |(arguments, endpoint)| launch(&format!("--json {arguments}"), endpoint);
    runs.map(launch).map(|running| {
        let outcome = running.finish();
        assert_eq!(outcome.stderr, "", "{outcome:?}");
        let json = outcome.json();
        (outcome, json)
    })
}

const FAULTS: [&str; 9] = [
    "lost",
    "lost_in_warmup",
    "late",
    "corrupted",
    "reordered",
    "duplicated",
    "connections_failed",
    "connections_ended_early",
    "unsent",
];

/// Checks that these faults were counted, and no others.
#[track_caller]
fn assert_faults(outcome: &Outcome, faults: &[(&str, u64)]) {
    let json = outcome.json();
    for name in FAULTS {
        let expected = faults.iter().find(|(it, _)| *it == name);
        let expected = expected.map_or(0, |(_, count)| *count);
        assert_eq!(json[name], expected, "{name} of {outcome:?}");
    }
    let is_clean = faults.is_empty();
    assert_eq!(json["is_clean"], is_clean, "{outcome:?}");
    assert_eq!(outcome.status, Some(i32::from(!is_clean)), "{outcome:?}");
}

/// A server at TCP, UDP and Unix endpoints.
fn service() -> (Running, Directory, [String; 3]) {
    let directory = Directory::new();
    let path = directory.file("socket");
    let server = Running::start(
        config()
            .endpoint("udp://127.0.0.1:0".parse().unwrap())
            .endpoint(Endpoint::Unix(path.clone())),
    );
    let endpoints = [
        format!("tcp://{}", server.addresses[0]),
        format!("udp://{}", server.addresses[1]),
        format!("unix:{}", path.display()),
    ];
    (server, directory, endpoints)
}

#[test]
fn each_mode_over_each_transport() {
    let (_server, _directory, endpoints) = service();
    for (arguments, mode) in [
        ("-c5 -n200", "closed loop"),
        ("-c3 -n200 -o7 -s1", "closed loop"),
        ("-c3 -n200 -o7 -s9", "closed loop"),
        ("-c2 -n200 --stream -s9000", "stream"),
        ("-c2 -n200 --stream -o3 -s16384", "stream"),
        ("-c4 -n200 --churn", "churn"),
        ("-c4 -n200 --rate 5000", "open loop"),
    ] {
        for endpoint in &endpoints {
            let (outcome, json) = results(arguments, endpoint);
            assert_faults(&outcome, &[]);
            assert_eq!(json["mode"], mode);
            assert_eq!(json["endpoint"], **endpoint);
            assert_eq!((&json["sent"], &json["echoes"]), (&200.into(), &200.into()));
        }
    }
}

#[test]
fn large_messages_in_pieces() {
    let (_server, _directory, [tcp, _, unix]) = service();
    for endpoint in [&tcp, &unix] {
        let (outcome, json) = results("-c2 -o4 -n40 -s1048576", endpoint);
        assert_faults(&outcome, &[]);
        assert_eq!(json["echoes"], 40);
        let (outcome, _) = results("-c2 -n10 -s1048576 --churn", endpoint);
        assert_faults(&outcome, &[]);
    }
}

#[test]
fn hold_opens_and_keeps_connections() {
    let (server, _directory, endpoints) = service();
    for endpoint in &endpoints {
        let (outcome, json) = results("--hold -c150 -d10ms", endpoint);
        assert_faults(&outcome, &[]);
        assert_eq!(json["held"], 150);
        assert_eq!(json["echoes"], 150);
        assert!(json["hold_s"].as_f64().unwrap() >= 0.01);
    }
    // 150 over TCP and 150 over Unix.
    assert_eq!(server.stop().accepted, 300);
}

#[test]
fn duration_and_warmup() {
    let (_server, _directory, endpoints) = service();
    let runs = endpoints
        .each_ref()
        .map(|it| ("-d200ms -w100ms -c2", &**it));
    for (outcome, json) in results_of_each(runs) {
        assert_faults(&outcome, &[]);
        assert_eq!(json["sent"], json["echoes"]);
        assert!(json["echoes"].as_u64() > Some(0), "{outcome:?}");
        let measured = json["duration_s"].as_f64().unwrap();
        assert!((0.19..10.0).contains(&measured), "{outcome:?}");
        assert_eq!(json["warmup_s"], 0.1);
    }
}

#[test]
fn json_has_all_results_with_units() {
    let (_server, _directory, [tcp, ..]) = service();
    let arguments = "-c2 -n100 -s100B --server-pid";
    let arguments = format!("{arguments} {}", std::process::id());
    let (_, json) = results(&arguments, &tcp);
    assert_eq!(json["connections"], 2);
    assert_eq!(json["size_bytes"], 100);
    for name in ["duration_s", "echoes_per_s", "bytes_per_s", "own_cpu_s"] {
        assert!(json[name].is_number(), "{name} of {json}");
    }
    let bytes = json["bytes_per_s"].as_f64().unwrap();
    let echoes = json["echoes_per_s"].as_f64().unwrap();
    assert!((bytes / echoes - 100.0).abs() < 1.0, "{json}");
    let time = |name: &str| json["latency_ns"][name].as_u64().expect(name);
    let times = ["min", "p50", "p90", "p99", "p999", "max"].map(time);
    assert!(times[0] > 0 && times.is_sorted(), "{json}");
    if cfg!(target_os = "linux") {
        assert!(json["server_cpu_ns_per_echo"].is_number(), "{json}");
        let arguments = format!("--hold -c10 -d0 --server-pid {}", std::process::id());
        let (_, json) = results(&arguments, &tcp);
        for name in ["rss", "rss_anon"] {
            let name = format!("server_{name}_bytes_per_connection");
            assert!(json[&name].is_number(), "{name} of {json}");
        }
        for name in ["hold_own_cpu_s", "hold_server_cpu_s"] {
            assert!(json[name].is_number(), "{name} of {json}");
        }
    }
}

#[test]
fn churn_counts_connections() {
    let (server, _directory, [tcp, ..]) = service();
    let (outcome, json) = results("-c4 -n200 --churn", &tcp);
    assert_faults(&outcome, &[]);
    // Each of the four may have had another one established at the end.
    let connected = json["connected"].as_u64().unwrap();
    assert!((200..=204).contains(&connected), "{json}");
    assert!(json["connections_per_s"].as_f64() > Some(0.0), "{json}");
    assert!(server.stop().accepted >= 200);
    let (_server, _directory, [tcp, ..]) = service();
    let outcome = launch("-c1 -n10 --churn", &tcp).finish();
    let line = "connections 10 established, ";
    assert!(outcome.stdout.contains(line), "{outcome:?}");
}

#[test]
fn losses_in_the_warmup_are_counted_apart() {
    let endpoint = losing(|number| number == 1);
    let (outcome, json) = results("-c1 -n10 -w200ms -W1", &endpoint);
    assert_faults(&outcome, &[("lost", 1), ("lost_in_warmup", 1)]);
    assert_eq!(json["echoes"], 10);
}

#[test]
fn text_has_the_results() {
    let (_server, _directory, [tcp, ..]) = service();
    let outcome = launch("-c2 -n100", &tcp).finish();
    assert_eq!(outcome.status, Some(0), "{outcome:?}");
    for text in [
        "100 sent, 100 echoed",
        " echoes/s, ",
        "p99.9 ",
        "####",
        " % of a core",
        "every byte",
    ] {
        assert!(outcome.stdout.contains(text), "{text:?} in {outcome:?}");
    }
    // Without a terminal there is no progress.
    assert_eq!(outcome.stderr, "");
}

#[test]
fn progress_on_a_terminal_is_one_bar_over_warmup_and_measurement() {
    let (_server, _directory, [tcp, ..]) = service();
    for (arguments, part) in [("-w0.3 -d0.7", " s of 1 s, "), ("-n20000", " of 20000, ")] {
        let terminal = nix::pty::openpty(None, None).unwrap();
        let mut command = program(&["load", "-c1", &tcp]);
        command.args(arguments.split_whitespace());
        command.env("TERM", "xterm").stdout(Stdio::null());
        command.stderr(terminal.slave);
        let mut child = command.spawn().unwrap();
        // It holds the other end of the terminal.
        drop(command);
        let mut shown = Vec::new();
        // Ends with `EIO`, when the last process has closed the terminal.
        let _ = fs::File::from(terminal.master).read_to_end(&mut shown);
        assert!(common::wait(&mut child).success());
        let shown = String::from_utf8_lossy(&shown);
        for text in ["measuring: ", part, " echoes/s"] {
            assert!(shown.contains(text), "{text:?} in {shown:?}");
        }
    }
}

/// A UDP server whose `answer` gets each datagram with its number, from 1 on.
fn numbered(mut answer: impl FnMut(u64, Vec<u8>) -> Vec<Vec<u8>> + Send + 'static) -> String {
    let mut number = 0;
    udp_server(move |datagram| {
        number += 1;
        answer(number, datagram)
    })
}

/// A UDP server that does not answer some datagrams.
fn losing(is_lost: impl Fn(u64) -> bool + Send + 'static) -> String {
    numbered(move |number, datagram| {
        if is_lost(number) {
            Vec::new()
        } else {
            vec![datagram]
        }
    })
}

#[test]
fn loss_is_counted_and_the_next_message_is_sent() {
    let endpoint = losing(|number| number % 5 == 0);
    // One connection waits for each lost answer, both at the same time.
    let (outcome, json) = results("-c2 -n10 -W0.5", &endpoint);
    assert_faults(&outcome, &[("lost", 2)]);
    assert_eq!(json["echoes"], 8);
}

#[test]
fn answer_after_the_timeout_is_late() {
    // The first answer is sent with the second, after the first was counted as lost.
    let mut kept = None;
    let endpoint = numbered(move |number, datagram| match number {
        1 => {
            kept = Some(datagram);
            Vec::new()
        }
        2 => vec![kept.take().unwrap(), datagram],
        _ => vec![datagram],
    });
    let (outcome, _) = results("-c1 -n3 -W0.5", &endpoint);
    assert_faults(&outcome, &[("lost", 1), ("late", 1)]);
}

#[test]
fn datagrams_of_one_byte_are_numbered_uniquely() {
    // The lost one is the oldest in flight until the timeout, while as many are sent as there is room for.
    let endpoint = losing(|number| number == 2);
    let (outcome, json) = results("-c1 -s1 -o64 -n1000 -W0.5", &endpoint);
    assert_faults(&outcome, &[("lost", 1)]);
    assert_eq!(json["echoes"], 999);
}

#[test]
fn changed_byte_in_a_datagram() {
    let flip = |byte: usize| {
        numbered(move |number, mut datagram| {
            if number == 2 {
                datagram[byte] ^= 0x40;
            }
            vec![datagram]
        })
    };
    for byte in [8, 63] {
        let (outcome, json) = results("-c1 -n10", &flip(byte));
        assert_faults(&outcome, &[("corrupted", 1)]);
        assert_eq!(json["echoes"], 9);
    }
    // The answer cannot be matched to its message.
    let endpoints = [0, 7].map(flip);
    let runs = endpoints.each_ref().map(|it| ("-c1 -n10 -W0.5", &**it));
    for (outcome, _) in results_of_each(runs) {
        assert_faults(&outcome, &[("corrupted", 1), ("lost", 1)]);
    }
}

#[test]
fn datagram_of_wrong_length_is_corrupted() {
    let endpoint = numbered(|number, mut datagram| {
        match number {
            2 => datagram.push(0),
            3 => datagram.truncate(63),
            _ => {}
        }
        vec![datagram]
    });
    let (outcome, _) = results("-c1 -n10", &endpoint);
    assert_faults(&outcome, &[("corrupted", 2)]);
}

/// An echo that receives and sends trains of datagrams of 100 bytes. `change` gets each train with its
/// number, from 1 on.
#[cfg(target_os = "linux")]
fn train_server(change: impl Fn(u32, &mut Vec<u8>) + Send + 'static) -> String {
    use nix::sys::socket::{setsockopt, sockopt};

    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    setsockopt(&socket, sockopt::UdpGroSegment, &true).unwrap();
    setsockopt(&socket, sockopt::UdpGsoSegment, &100).unwrap();
    let endpoint = format!("udp://{}", socket.local_addr().unwrap());
    thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        for number in 1.. {
            let Ok((count, peer)) = socket.recv_from(&mut buffer) else {
                return;
            };
            let mut train = buffer[..count].to_vec();
            change(number, &mut train);
            socket.send_to(&train, peer).unwrap();
        }
    });
    endpoint
}

#[cfg(target_os = "linux")]
#[test]
fn segment_sends_and_receives_trains() {
    let endpoint = train_server(|_, train| assert_eq!(train.len(), 64 * 100));
    let (outcome, json) = results("-c1 -n64 -s100 --segment", &endpoint);
    assert_faults(&outcome, &[]);
    assert_eq!(
        (&json["outstanding"], &json["segment"]),
        (&64.into(), &true.into())
    );
    // All were read with one call. A histogram keeps three digits.
    let time = |name: &str| json["latency_ns"][name].as_u64().unwrap();
    assert_eq!(json["echoes"], 64);
    assert!(time("max") - time("min") <= time("max") / 500, "{json}");

    // More than fits into a train, and messages of which one is a train.
    let (_server, _directory, [_, endpoint, _]) = service();
    for arguments in ["-s1", "-s9 -o100", "-s1200 -o60", "-s20000 -o4", "-s40000"] {
        let (outcome, json) = results(&format!("-c1 -n700 --segment {arguments}"), &endpoint);
        assert_faults(&outcome, &[]);
        assert_eq!(json["echoes"], 700);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn faults_in_a_train_are_of_single_datagrams() {
    let endpoint = train_server(|number, train| match number {
        2 => train[150] ^= 1,
        3 => train.truncate(6399),
        4 => train.truncate(6300),
        _ => {}
    });
    let (outcome, json) = results("-c1 -n320 -s100 --segment -W0.5", &endpoint);
    assert_faults(&outcome, &[("corrupted", 2), ("lost", 1)]);
    assert_eq!(json["echoes"], 317);
    // One large datagram is not a train.
    let endpoint = numbered(|_, mut datagram| {
        datagram.resize(200, 0);
        vec![datagram]
    });
    let (outcome, json) = results("-c1 -n1 -s100 --segment", &endpoint);
    assert_faults(&outcome, &[("corrupted", 1)]);
    assert_eq!(json["echoes"], 0);
}

#[cfg(target_os = "linux")]
#[test]
fn segment_with_messages_larger_than_the_mtu_is_an_error() {
    if !common::has_ipv6() {
        return;
    }
    let socket = UdpSocket::bind("[::1]:0").unwrap();
    let endpoint = format!("udp://{}", socket.local_addr().unwrap());
    // Without trains it would be fragmented.
    let (outcome, json) = results("-c1 -s65507 --segment -w0", &endpoint);
    assert_faults(&outcome, &[("connections_ended_early", 1), ("lost", 1)]);
    assert!(
        json["errors"].to_string().contains("larger than the MTU"),
        "{json}"
    );
}

#[test]
fn changed_byte_in_a_stream_does_not_end_it() {
    for place in [64_usize, 71, 72, 127] {
        let address = tcp_server(move |stream| {
            echo(stream, |at, bytes| {
                if let Some(byte) = place.checked_sub(at).and_then(|at| bytes.get_mut(at)) {
                    *byte ^= 1;
                }
            });
        });
        let (outcome, json) = results("-c1 -n10", &format!("tcp://{address}"));
        assert_faults(&outcome, &[("corrupted", 1)]);
        assert_eq!(json["echoes"], 9);
    }
}

#[test]
fn reordering_is_counted() {
    let mut kept = Vec::new();
    let endpoint = numbered(move |_, datagram| {
        kept.insert(0, datagram);
        if kept.len() == 2 {
            std::mem::take(&mut kept)
        } else {
            Vec::new()
        }
    });
    let (outcome, json) = results("-c1 -o2 -n10", &endpoint);
    assert_faults(&outcome, &[("reordered", 5)]);
    assert_eq!(json["echoes"], 10);
}

#[test]
fn duplicates_are_counted() {
    let endpoint = numbered(|number, datagram| match number {
        3 | 5 => vec![datagram.clone(), datagram],
        _ => vec![datagram],
    });
    let (outcome, json) = results("-c1 -n10", &endpoint);
    assert_faults(&outcome, &[("duplicated", 2)]);
    assert_eq!(json["echoes"], 10);
}

#[test]
fn reordering_and_duplication_in_a_stream() {
    // Messages of 64 bytes, two at a time: 0 1 comes as 1 0, and 2 3 as 2 2 3.
    let address = tcp_server(|mut stream| {
        let mut pair = [0; 128];
        let mut number = 0;
        while stream.read_exact(&mut pair).is_ok() {
            let (one, other) = pair.split_at(64);
            let pieces = match number {
                0 => vec![other, one],
                1 => vec![one, one, other],
                _ => vec![one, other],
            };
            number += 1;
            if stream.write_all(&pieces.concat()).is_err() {
                return;
            }
        }
    });
    let (outcome, json) = results("-c1 -o2 -n10", &format!("tcp://{address}"));
    assert_faults(&outcome, &[("reordered", 1), ("duplicated", 1)]);
    assert_eq!(json["echoes"], 10);
}

#[test]
fn early_end_of_connections_is_counted() {
    let serve = |stream: &mut TcpStream| {
        let mut message = [0; 64];
        stream.read_exact(&mut message).unwrap();
        stream.write_all(&message).unwrap();
        stream.read_exact(&mut message).unwrap();
    };
    let address = tcp_server(move |mut stream| serve(&mut stream));
    let (outcome, json) = results("-c1 -n10", &format!("tcp://{address}"));
    assert_faults(&outcome, &[("connections_ended_early", 1), ("lost", 1)]);
    assert_eq!(json["echoes"], 1);
    assert_eq!(json["errors"].as_array().unwrap().len(), 1, "{json}");

    // One of two, while they are held.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("tcp://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        let mut streams = [(); 2].map(|()| listener.accept().unwrap().0);
        let mut message = [0; 64];
        for stream in &mut streams {
            stream.read_exact(&mut message).unwrap();
            stream.write_all(&message).unwrap();
        }
        let [first, mut second] = streams;
        drop(first);
        let _ = second.read(&mut message);
    });
    let (outcome, json) = results("-c2 --hold -d0.3", &endpoint);
    assert_faults(&outcome, &[("connections_ended_early", 1)]);
    assert_eq!(json["held"], 1);
}

#[test]
fn failed_connections_are_counted() {
    let refused = format!("tcp://{}", refusing_address());
    let nowhere = "unix:/there/is/no/such/path".to_owned();
    for endpoint in [refused, nowhere] {
        let modes = [
            "-c3 -d50ms",
            "-c3 -d50ms --rate 100",
            "-c3 -d50ms --stream",
            "-c3 -d50ms --hold",
        ];
        for (outcome, json) in results_of_each(modes.map(|it| (it, &*endpoint))) {
            assert_eq!(json["connections_failed"], 3, "{outcome:?}");
            assert_eq!(outcome.status, Some(1), "{outcome:?}");
            assert_eq!(json["echoes"], 0);
            assert!(json["latency_ns"].is_null(), "{json}");
        }
        let (outcome, json) = results("-c3 -d50ms -w0 --churn", &endpoint);
        assert!(json["connections_failed"].as_u64() >= Some(3), "{json}");
        assert_eq!(outcome.status, Some(1));
    }
    let (outcome, json) = results("-c1 -n2 -W0.1", &format!("udp://{}", refusing_address()));
    assert_faults(&outcome, &[("lost", 2)]);
    assert!(json["errors"].to_string().contains("refused"), "{json}");
}

#[test]
fn run_without_an_echo_is_not_clean() {
    let server = Running::start(config());
    let endpoint = format!("tcp://{}", server.addresses[0]);
    // One message is due in the warm-up, and the next one after the end.
    let (outcome, json) = results("-c1 --rate 1 -w100ms -d50ms", &endpoint);
    assert_eq!(
        (&json["echoes"], &json["is_clean"]),
        (&0.into(), &false.into())
    );
    assert_eq!(outcome.status, Some(1), "{outcome:?}");
}

#[test]
fn it_ends_without_answers() {
    let silent = [(); 3].map(|()| format!("tcp://{}", tcp_server(|stream| read_only(&stream))));
    let datagrams = numbered(|_, _| Vec::new());
    let [one, five, open, churn] = results_of_each([
        ("-c1 -d100ms -w0 -W0.1", &silent[0]),
        ("-c1 -d100ms -w0 -W0.1 -o5", &silent[1]),
        ("-c1 -d100ms -w0 -W0.1 -o5 --rate 100", &silent[2]),
        ("-c1 -d100ms -w0 -W0.1 --churn", &datagrams),
    ]);
    assert_faults(&one.0, &[("lost", 1)]);
    assert_faults(&five.0, &[("lost", 5)]);
    // Messages that were due and could not be sent are counted.
    assert_faults(&open.0, &[("lost", 5), ("unsent", 5)]);
    assert_eq!(open.1["sent"], 10);

    let (outcome, json) = churn;
    assert_eq!(json["lost"], json["sent"], "{outcome:?}");
    assert_eq!(outcome.status, Some(1), "{outcome:?}");
}

/// A listener with a backlog of two connections that accepts none.
fn full(domain: Domain, address: &SockAddr) -> Socket {
    let listener = Socket::new(domain, Type::STREAM, None).unwrap();
    listener.bind(address).unwrap();
    listener.listen(1).unwrap();
    listener
}

#[test]
fn connect_timeout_with_a_full_backlog() {
    for mode in ["-w0", "--hold"] {
        let tcp = full(Domain::IPV4, &SocketAddr::from(([127, 0, 0, 1], 0)).into());
        let address = tcp.local_addr().unwrap().as_socket().unwrap();
        let directory = Directory::new();
        let path = directory.file("socket");
        let _unix = full(Domain::UNIX, &SockAddr::unix(&path).unwrap());
        let endpoints = [
            format!("tcp://{address}"),
            format!("unix:{}", path.display()),
        ];
        let arguments = format!("-c100 -d50ms -W0.1 --connect-timeout 200ms {mode}");
        let runs = endpoints.each_ref().map(|it| (&*arguments, &**it));
        for (outcome, json) in results_of_each(runs) {
            let [failed, lost] =
                ["connections_failed", "lost"].map(|name| json[name].as_u64().unwrap());
            assert!(failed > 0, "{outcome:?}");
            // The others are connected, because they are in the backlog.
            assert_eq!(failed + lost, 100, "{outcome:?}");
            assert_eq!(outcome.status, Some(1), "{outcome:?}");
            let errors = json["errors"].to_string();
            assert!(errors.contains("--connect-timeout"), "{errors}");
        }
    }
}

#[test]
fn processor_time_of_connecting_is_measured_to_its_end() {
    let endpoint = format!("tcp://{}", refusing_address());
    let (_, json) = results("-c50 -d0 --hold --connect-timeout 0", &endpoint);
    // One thread uses one core at most.
    assert!(json["own_cpu_ratio"].as_f64() < Some(2.0), "{json}");
}

#[test]
fn connect_timeout_with_a_slow_listener() {
    // All connections would take a minute.
    const PAUSE: Duration = Duration::from_millis(60);
    let directory = Directory::new();
    let path = directory.file("socket");
    let socket = full(Domain::UNIX, &SockAddr::unix(&path).unwrap());
    let listener = UnixListener::from(OwnedFd::from(socket));
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(|| echo(stream.unwrap(), |_, _| {}));
            thread::sleep(PAUSE);
        }
    });
    let arguments = "-c1000 --hold -d0 -W0.1 --connect-timeout 200ms";
    let (outcome, json) = results(arguments, &format!("unix:{}", path.display()));
    assert_eq!(outcome.status, Some(1), "{outcome:?}");
    let count = |name: &str| json[name].as_u64().unwrap();
    assert!(count("connections_failed") > 0, "{outcome:?}");
    let all = ["connections_failed", "echoes", "lost"].map(count);
    assert_eq!(all.iter().sum::<u64>(), 1000, "{outcome:?}");
}

/// Reads to the end of the stream without an answer.
fn read_only(mut stream: &TcpStream) {
    let mut buffer = [0; 4096];
    while let Ok(1..) = stream.read(&mut buffer) {}
}

/// An echo that stalls once for 300 ms. The pause is what the tests measure.
fn stalling() -> String {
    const STALL: Duration = Duration::from_millis(300);
    let address = tcp_server(|stream| {
        let mut has_stalled = false;
        echo(stream, |at, _| {
            if at >= 6400 && !has_stalled {
                has_stalled = true;
                thread::sleep(STALL);
            }
        });
    });
    format!("tcp://{address}")
}

#[test]
fn latency_counts_from_when_a_message_was_due_in_an_open_loop() {
    let endpoints = [(); 3].map(|()| stalling());
    let [open, without_room, closed] = results_of_each([
        ("-c1 -n1000 --rate 2000", &endpoints[0]),
        // Messages without room are sent late because of the service.
        ("-c1 -n1000 --rate 2000 -o1", &endpoints[1]),
        ("-c1 -n1000", &endpoints[2]),
    ]);
    let time = |json: &Value, name: &str| json["latency_ns"][name].as_u64().unwrap();
    for (outcome, json) in [open, without_room] {
        assert_faults(&outcome, &[]);
        assert_eq!(json["rate_per_s"], 2000);
        assert!(time(&json, "max") >= 299_000_000, "{json}");
        // 600 of 1000 messages were due during the stall. A tenth of all waited for 250 ms or more.
        assert!(time(&json, "p90") >= 240_000_000, "{json}");
    }
    // The closed loop stops sending meanwhile, so only one message is slow.
    let (_, json) = closed;
    assert!(time(&json, "max") >= 299_000_000, "{json}");
    assert!(time(&json, "p90") < 240_000_000, "{json}");
}

#[test]
fn first_message_of_an_open_loop_is_sent_when_it_is_due() {
    let (_server, _directory, [tcp, ..]) = service();
    // One of three, because on a busy machine each can be late. Without a timer it is late by 100 ms.
    let runs = results_of_each([("-c3 -n1 --rate 1", &*tcp); 3]);
    let time = |(_, json): &(_, Value)| json["latency_ns"]["max"].as_u64().unwrap();
    assert!(runs.iter().map(time).min() < Some(50_000_000), "{runs:?}");
}

#[test]
fn signal_ends_it_with_results() {
    let (sender, receiver) = channel();
    let (_directory, endpoint) =
        unix_server(move |stream| echo(stream, |_, _| sender.send(()).unwrap_or_default()));
    let child = start(&["--json", "-c1", "-d10m", "-w0", "-W20", &endpoint]);
    for _ in 0..10 {
        receiver.recv_timeout(LIMIT).unwrap();
    }
    child.signal(Signal::SIGINT);
    let outcome = child.finish();
    assert_faults(&outcome, &[]);
    assert!(outcome.json()["echoes"].as_u64() >= Some(9), "{outcome:?}");
}

#[test]
fn second_signal_ends_it_immediately() {
    let (endpoint, receiver) = silent_udp_server();
    let child = start(&["-c1", "-d10m", "-W10m", &endpoint]);
    receiver.recv_timeout(LIMIT).unwrap();
    // Two different signals, because equal ones are merged.
    child.signal(Signal::SIGINT);
    child.signal(Signal::SIGTERM);
    assert_eq!(child.finish().status, None, "not ended by a signal");
}

#[test]
fn more_connections_than_the_backlog() {
    let directory = Directory::new();
    let path = directory.file("socket");
    // It accepts late.
    let listener = UnixListener::bind(&path).unwrap();
    let child = start(&[
        "--json",
        "--hold",
        "-c300",
        "-d0",
        "-W20",
        &format!("unix:{}", path.display()),
    ]);
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(|| echo(stream.unwrap(), |_, _| {}));
        }
    });
    let outcome = child.finish();
    assert_faults(&outcome, &[]);
    assert_eq!(outcome.json()["held"], 300);
}

#[test]
fn wrong_arguments_get_one_line_and_status_2() {
    for arguments in [
        "",
        "127.0.0.1",
        "127.0.0.1:port",
        "http://127.0.0.1:80",
        "unix:",
        "-c0 127.0.0.1:7",
        "-s0 127.0.0.1:7",
        "-s1048577 127.0.0.1:7",
        "-s65508 udp://127.0.0.1:7",
        "-s1 -o65 udp://127.0.0.1:7",
        "-s1 --rate 10 udp://127.0.0.1:7",
        "-o0 127.0.0.1:7",
        "-n0 127.0.0.1:7",
        "-d soon 127.0.0.1:7",
        "--rate 0 127.0.0.1:7",
        "--rate 10 --hold 127.0.0.1:7",
        "--stream --churn 127.0.0.1:7",
        "--churn -o2 127.0.0.1:7",
        "--segment 127.0.0.1:7",
        "--segment --rate 10 udp://127.0.0.1:7",
        "--hold -n2 127.0.0.1:7",
        "--server-pid 0 127.0.0.1:7",
        "--no-such-option 127.0.0.1:7",
        "-p 7 127.0.0.1",
        "127.0.0.1:7 127.0.0.1:8",
    ] {
        let arguments: Vec<&str> = arguments.split_whitespace().collect();
        let outcome = start(&arguments).finish();
        assert_eq!(outcome.status, Some(2), "{arguments:?}: {outcome:?}");
        assert_eq!(outcome.stdout, "", "{arguments:?}");
        assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
        assert!(outcome.stderr.starts_with("mio-echo: "), "{outcome:?}");
    }
}

#[test]
fn help_explains_each_mode() {
    let outcome = start(&["--help"]).finish();
    assert_eq!(outcome.status, Some(0));
    let modes = ["closed loop", "--stream", "--churn", "--hold", "--rate"];
    for text in [&modes[..], &["--connect-timeout", "at most"]].concat() {
        assert!(outcome.stdout.contains(text), "{text}");
    }
}
