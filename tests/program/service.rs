//! The service: arguments, log, signals, limits and exit status.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
#[cfg(target_os = "linux")]
use std::{os::unix::net::UnixListener, process::Command, thread};

#[cfg(target_os = "linux")]
use crate::common::mode_of;
use crate::common::peers::free_address;
#[cfg(target_os = "linux")]
use crate::common::service::{PROGRAM, cpu_ticks, limited};
use crate::common::service::{Service, error_line, lines_of, output, program};
use crate::common::{self, Directory, LIMIT, connect, echo, is_served, read_to_the_end};
use nix::sys::signal::Signal;

/// Whether a connection is reset, by connect(2) or by the first read.
fn is_reset(address: SocketAddr) -> bool {
    let read = |mut client: TcpStream| {
        client.set_read_timeout(Some(LIMIT))?;
        client.read(&mut [0; 1])
    };
    TcpStream::connect(address)
        .and_then(read)
        .is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
}

#[test]
fn host_name_is_served_at_all_its_addresses() {
    let mut service = Service::start(&["localhost:0"]);
    let second = service.wait_for("listening on tcp://");
    assert!(is_served(&mut connect(service.address)));
    let address = second.split("tcp://").nth(1).unwrap().parse().unwrap();
    assert!(is_served(&mut connect(address)));
    let lines = service.stop();
    let count = lines.iter().filter(|line| line.contains(&second)).count();
    assert_eq!(count, 1, "{lines:#?}");
}

#[test]
fn sigint_and_sigterm_stop_it_with_a_summary_and_status_0() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let service = Service::start(&[]);
        let mut client = connect(service.address);
        assert_eq!(echo(&mut client, b"hello"), b"hello");
        client.shutdown(Shutdown::Write).unwrap();
        read_to_the_end(&mut client);
        service.signal(signal);
        let (status, lines) = service.end();
        assert_eq!(status.code(), Some(0), "{lines:#?}");
        assert!(
            lines.iter().any(|line| line.contains(signal.as_str())),
            "{lines:#?}"
        );
        let summary = lines.last().unwrap();
        assert!(
            summary.contains(
                "5 bytes echoed; 0 datagrams, 0 dropped; 1 connections, 0 active, 1 closed"
            ),
            "{summary}"
        );
    }
}

/// Each number is different, so that none can be mistaken for another.
#[cfg(target_os = "linux")]
#[test]
fn summary_counts_every_outcome() {
    let arguments = ["-v", "--drain-timeout", "10ms", "--max-per-source", "1"];
    let mut service = Service::start(&arguments);
    let address = service.address;
    for _ in 0..3 {
        assert!(is_served(&mut connect(address)));
        service.wait_for("closed: closed by the peer");
    }
    for _ in 0..2 {
        common::reset(connect(address));
        service.wait_for("closed: reset by the peer");
    }
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(LIMIT)).unwrap();
    for _ in 0..4 {
        client.send_to(b"hello", address).unwrap();
        client.recv(&mut [0; 5]).unwrap();
    }
    let refused = UdpSocket::bind(("127.0.0.2", address.port())).unwrap();
    for _ in 0..5 {
        refused.send_to(b"hello", address).unwrap();
        service.wait_for("datagram dropped");
    }
    let mut client = connect(address);
    assert!(is_served(&mut client));
    for _ in 0..7 {
        assert!(is_reset(address));
        service.wait_for("rejected: its source is at the limit");
    }
    let lines = service.stop();
    for expected in [
        "shutting down: 1 connections to drain",
        "closed: aborted; 14 bytes echoed, 0 pending, after",
        ": 76 bytes echoed; 4 datagrams, 5 dropped; 6 connections, 0 active, 3 closed by peers, \
         2 reset, 0 failed, 0 timed out, 0 evicted, 1 aborted; 7 rejected; ",
    ] {
        let count = lines.iter().filter(|line| line.contains(expected)).count();
        assert_eq!(count, 1, "{expected:?} in {lines:#?}");
    }
    let (time, _) = lines
        .last()
        .unwrap()
        .split_once(" INFO  [mio_echo::summary] stopped after ")
        .unwrap();
    humantime::parse_rfc3339(time).unwrap();
}

#[test]
fn sigusr1_logs_a_summary() {
    let mut service = Service::start(&["--drain-timeout", "1h"]);
    let mut client = connect(service.address);
    assert_eq!(echo(&mut client, b"hello"), b"hello");
    for bytes in [5, 19] {
        service.signal(Signal::SIGUSR1);
        let line = service.wait_for("running for ");
        let expected = format!(
            ": {bytes} bytes echoed; 0 datagrams, 0 dropped; 1 connections, 1 active, \
             0 closed by peers, 0 reset, 0 failed, 0 timed out, 0 evicted, 0 aborted; \
             0 rejected; 0 accept pauses, "
        );
        assert!(line.contains(&expected), "{line}");
        assert!(is_served(&mut client));
    }
    service.signal(Signal::SIGTERM);
    service.wait_for("shutting down");
    service.signal(Signal::SIGUSR1);
    service.wait_for("running for ");
    drop(client);
    let (status, lines) = service.end();
    assert_eq!(status.code(), Some(0));
    assert!(lines.last().unwrap().contains("stopped after "));
}

/// The signal arrives while the program writes warnings of its environment, more than a pipe holds.
#[test]
fn sigusr1_before_it_listens() {
    let mut command = program(&["127.0.0.1:0"]);
    command.env("RUST_LOG", "info,".to_owned() + &"loud,".repeat(5000));
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    log.read_line(&mut line).unwrap();
    assert!(line.contains("'loud' ignored"), "{line}");
    common::signal(&child, Signal::SIGUSR1);
    while !line.contains("running for ") {
        line.clear();
        assert_ne!(
            log.read_line(&mut line).unwrap(),
            0,
            "the program has ended"
        );
    }
    common::signal(&child, Signal::SIGTERM);
    log.read_to_string(&mut line).unwrap();
    assert_eq!(common::wait(&mut child).code(), Some(0), "{line}");
}

/// How many iterations a summary reports.
fn iterations(line: &str) -> u64 {
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(words.last(), Some(&"iterations"), "{line}");
    words[words.len() - 2].parse().unwrap()
}

#[test]
fn stats_interval_wakes_the_loop_and_nothing_else_does() {
    let mut service = Service::start(&["--stats-interval", "100ms"]);
    let first = iterations(&service.wait_for("running for "));
    for count in 1..=3 {
        let line = service.wait_for("running for ");
        assert_eq!(iterations(&line), first + count, "{line}");
    }
    service.stop();

    let mut service = Service::start(&["-vv", "--stats-interval", "1h"]);
    service.wait_for("waiting for events, 3599.");
    service.stop();

    let mut service = Service::start(&["-vv"]);
    let line = service.wait_for("waiting for events");
    assert!(line.ends_with("waiting for events"), "{line}");
    service.stop();
}

#[test]
fn connections_are_served_while_draining() {
    let mut service = Service::start(&["--drain-timeout", "1h"]);
    let mut client = connect(service.address);
    assert!(is_served(&mut client));
    service.signal(Signal::SIGTERM);
    service.wait_for("shutting down");
    assert!(is_served(&mut client));
    assert!(
        TcpStream::connect(service.address).is_err(),
        "the service still listens"
    );
    drop(client);
    assert_eq!(service.end().0.code(), Some(0));
}

#[test]
fn drain_timeout_aborts_connections() {
    let service = Service::start(&["--drain-timeout", "10ms"]);
    let mut client = connect(service.address);
    assert!(is_served(&mut client));
    let lines = service.stop();
    assert!(lines.last().unwrap().contains("1 aborted"), "{lines:#?}");
    assert_eq!(read_to_the_end(&mut client), b"");
}

#[test]
fn second_signal_ends_it_immediately() {
    for (first, second) in [
        (Signal::SIGINT, Signal::SIGTERM),
        (Signal::SIGTERM, Signal::SIGINT),
    ] {
        let mut service = Service::start(&["--drain-timeout", "1h"]);
        let mut client = connect(service.address);
        assert!(is_served(&mut client));
        service.signal(first);
        service.wait_for("shutting down");
        service.signal(second);
        let (status, lines) = service.end();
        assert_eq!(status.signal(), Some(second as i32), "{lines:#?}");
    }
}

#[test]
fn process_pause_loses_nothing() {
    // Each signal can interrupt epoll_wait(2), even without a handler; see signal(7).
    let service = Service::start(&[]);
    let mut client = connect(service.address);
    for _ in 0..10 {
        service.signal(Signal::SIGSTOP);
        client.write_all(b"during a pause!").unwrap();
        service.signal(Signal::SIGCONT);
        client.read_exact(&mut [0; 15]).unwrap();
        service.signal(Signal::SIGSTOP);
        service.signal(Signal::SIGCONT);
        assert!(is_served(&mut client));
    }
    drop(client);
    service.stop();
}

#[test]
fn wrong_arguments_get_one_line_and_status_2() {
    let long_name = format!("{}.invalid:7007", "x".repeat(64));
    let long_path = format!("unix:{}", "x".repeat(108));
    for (arguments, hint) in [
        (vec!["127.0.0.1:65536"], "a number from 0 to 65535"),
        (vec!["127.0.0.1"], "no port"),
        (vec!["7007"], "7007 is a port: write 127.0.0.1:7007"),
        (
            vec!["-p", "7"],
            "no option '-p': the port is a part of ENDPOINT",
        ),
        (vec!["--port=7"], "no option '--port': the port is a part"),
        (vec!["127.0.0.256:7007"], "not an IP address"),
        (vec!["::1:7007"], "[::1]:7007"),
        (vec!["http://127.0.0.1:7007"], "tcp://HOST:PORT"),
        (vec!["unix:"], "unix:PATH"),
        (vec!["127.0.0.1:7007", "tcp://127.0.0.1:7007"], "twice"),
        (vec!["--buffer-size", "0"], "1 to 16777216 bytes"),
        (vec!["--buffer-size", "10TiB"], "1 to 16777216 bytes"),
        (vec!["--buffer-size", "large"], "64KiB"),
        (vec!["--backlog", "0"], "1 to 65535"),
        (vec!["--backlog=-1"], "-1"),
        (vec!["--backlog", "abc"], "1 to 65535"),
        (vec!["--max-connections", "0"], "1 to 1000000000"),
        (vec!["--max-connections", "many"], "1 to 1000000000"),
        (vec!["--max-per-source", "0"], "1 to 1000000000"),
        (vec!["--allow", "everyone"], "such as 10.0.0.0/8"),
        (
            vec!["--allow", "10.1.2.3/8"],
            "write 10.0.0.0/8, or 10.1.2.3 for that address alone",
        ),
        (vec!["--allow", "10.0.0.0/33"], "0 to 32"),
        (vec!["--allow", "fe80::1%eth0"], "without the %"),
        (vec!["--allow", "::/0"], "none for Unix sockets"),
        (vec!["--drain-timeout", "soon"], "such as 5, 0.2, 200ms"),
        (vec!["--drain-timeout", "2days"], "86400"),
        (vec!["--busy-poll", "2s"], "0 to 1s"),
        (vec!["--unix-mode", "rw"], "0660"),
        (vec!["--unix-mode", "+660"], "0660"),
        (vec!["[::ffff:127.0.0.1]:7007"], "127.0.0.1:7007"),
        (vec!["--unix-mode", "1000"], "0 to 0o777"),
        (vec![&long_path], "107 bytes at most"),
        (
            vec!["[::]:7", "tcp://0.0.0.0:7", "--dual-stack"],
            "tcp://0.0.0.0:7 is there twice",
        ),
        (vec!["--stats-interval", "99ms"], "100ms to 1day"),
        (vec!["--stats-interval", "25h"], "100ms to 1day"),
        (vec!["--metrics", "127.0.0.1:9007"], "tcp://127.0.0.1:9007"),
        (
            vec!["--metrics", "tcp://127.0.0.1"],
            "--metrics: endpoint 'tcp://127.0.0.1': no port",
        ),
        (vec!["--log-level", "loud"], "debug"),
        (vec!["--log-format", "xml"], "text, json, journald"),
        (vec!["--bcklog", "5"], "--backlog"),
        (vec!["--backlog"], "a value is required"),
        (vec!["-x"], "--help"),
    ] {
        let (line, status) = error_line(program(&arguments));
        assert_eq!(status, Some(2), "{arguments:?}: {line}");
        assert!(line.contains(hint), "{arguments:?}: {line}");
    }
    let (line, status) = error_line(program(&[&long_name]));
    assert_eq!(status, Some(1), "{line}");
    assert!(line.contains("does not resolve"), "{line}");
}

/// `-- --port` would make an endpoint of it.
#[test]
fn unknown_option_is_not_suggested_as_an_endpoint() {
    let (line, _) = error_line(program(&["--unheard-of"]));
    assert!(!line.contains("-- --"), "{line}");
}

#[test]
fn bind_error_gets_one_line_and_status_1() {
    let (line, status) = error_line(program(&["-q", "unix:/"]));
    assert_eq!(status, Some(1), "{line}");
    assert!(line.contains("it is a directory"), "{line}");

    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap().to_string();
    let (line, status) = error_line(program(&["-q", "127.0.0.1:0", "127.0.0.1:0", &taken]));
    assert_eq!(status, Some(1), "{line}");
    assert!(
        line.contains(&taken) && line.contains("choose another port"),
        "{line}"
    );

    // An address for documentation, which no host has (RFC 5737).
    let (line, status) = error_line(program(&["192.0.2.1:7007"]));
    assert_eq!(status, Some(1), "{line}");
    assert!(line.contains("an address that this host has"), "{line}");
}

/// A directory that every user can write to.
#[cfg(target_os = "linux")]
fn public_directory() -> Directory {
    let directory = Directory::new();
    fs::set_permissions(directory.file(""), fs::Permissions::from_mode(0o777)).unwrap();
    directory
}

/// The program as an unprivileged user. It is copied to where that user can run it, because the tests
/// may run as root.
#[cfg(target_os = "linux")]
fn without_rights(directory: &Directory, endpoint: &str) -> Command {
    use std::os::unix::process::CommandExt;

    let copy = directory.file("mio-echo");
    // By another process: a file that is open for writing cannot be executed, and the children of
    // other tests inherit what is open here until they execute their own program.
    let copied = Command::new("cp").arg(PROGRAM).arg(&copy).status().unwrap();
    assert!(copied.success());
    let mut command = Command::new(&copy);
    command.arg(endpoint).current_dir("/");
    if nix::unistd::geteuid().is_root() {
        command.uid(65_534).gid(65_534);
    }
    command
}

/// A port below the first unprivileged port.
#[cfg(target_os = "linux")]
#[test]
fn privileged_port_names_the_capability() {
    let first = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    if !common::is_here("a privileged port", first.trim() != "0") {
        return;
    }
    let directory = public_directory();
    let (line, status) = error_line(without_rights(&directory, "127.0.0.1:7"));
    assert_eq!(status, Some(1), "{line}");
    assert!(line.contains("CAP_NET_BIND_SERVICE"), "{line}");
}

/// Without permission to connect, the program cannot know whether the socket is in use.
#[cfg(target_os = "linux")]
#[test]
fn unix_socket_without_permission_is_not_taken_over() {
    let directory = public_directory();
    let path = directory.file("socket");
    let _there = UnixListener::bind(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    let endpoint = format!("unix:{}", path.display());
    let (line, status) = error_line(without_rights(&directory, &endpoint));
    assert_eq!(status, Some(1), "{line}");
    assert!(line.contains("or remove the existing file"), "{line}");
    assert!(path.exists());
}

#[test]
fn help_and_version_are_printed() {
    let help = output(program(&["--help"]));
    assert_eq!(help.status.code(), Some(0));
    let text = String::from_utf8(help.stdout).unwrap();
    for part in [
        "Usage: mio-echo [OPTIONS] [ENDPOINT]...",
        "127.0.0.1:7007",
        "--backlog <N>",
        "[default: 1024]",
        "--buffer-size <SIZE>",
        "[default: 64KiB]",
        "--max-connections <N>",
        "--max-per-source <N>",
        "--allow <CIDR>",
        "--busy-poll <TIME>",
        "--dual-stack",
        "--reuse-port",
        "--unix-mode <MODE>",
        "--udp-answer-any-port",
        "--drain-timeout <TIME>",
        "[default: 5s]",
        "--metrics <ENDPOINT>",
        "--stats-interval <TIME>",
        "--log-level <LEVEL>",
        "--verbose",
        "--quiet",
        "RUST_LOG",
        "SIGTERM",
        "SIGUSR1",
        "Exit status:",
    ] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    let version = output(program(&["--version"]));
    assert_eq!(
        version.stdout,
        format!("mio-echo {}\n", env!("CARGO_PKG_VERSION")).as_bytes()
    );
}

/// As in `mio-echo --help | head`.
#[test]
fn help_with_closed_pipe_is_no_error() {
    for argument in ["--help", "--version"] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = program(&[argument]);
        command.stdout(writer).stderr(Stdio::piped());
        let output = command.spawn().unwrap().wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(output.stderr.is_empty(), "{output:?}");
    }
}

#[test]
fn control_characters_are_escaped_in_errors_and_the_log() {
    for (arguments, escaped) in [
        (&["tcp://\x1b[31mé:1\x07:7007"][..], "\\u{1b}[31mé:1\\u{7}:"),
        (&["\u{9b}2J"], "\\u{9b}2J"),
        (&["unix:/dev/null/\r\n2026 INFO"], "/\\r\\n2026 INFO"),
        (&["--allow", "a\tb"], "a\\tb"),
        // clap removes escape sequences.
        (&["--allow", "\x1b]0;title\x07"], "''"),
        (&["--metrics", "tcp://\x08:1:2"], "\\u{8}:1:2"),
        (&["check", "a\tb"], "a\\tb"),
    ] {
        let (line, _) = error_line(program(arguments));
        assert!(line.contains(escaped), "{line:?}");
        assert!(!line.trim_end().contains(char::is_control), "{line:?}");
    }

    let directory = Directory::new();
    let path = directory.file("a\x1b[2J\nb");
    let mut command = program(&["127.0.0.1:0", &format!("unix:{}", path.display()), "-v"]);
    command.env("RUST_LOG", "\x1b[2Jé");
    let mut service = Service::spawn(command);
    service.wait_for("/a\\u{1b}[2J\\nb");
    let lines = service.stop();
    assert!(lines[0].contains("'\\u{1b}[2Jé' ignored"), "{lines:#?}");
    let has_controls = |line: &String| line.contains(char::is_control);
    assert!(!lines.iter().any(has_controls), "{lines:#?}");
}

#[test]
fn debug_logs_connections_and_no_call() {
    let mut service = Service::start(&["-v"]);
    let client = connect(service.address);
    let peer = client.local_addr().unwrap();
    common::reset(client);
    service.wait_for(&format!("{peer} (Token 1026): closed: reset by the peer"));
    let lines = service.stop();
    assert!(
        !lines.iter().any(|line| line.contains("TRACE")),
        "{lines:#?}"
    );
}

#[test]
fn log_level_from_option_or_environment() {
    let with = |variable: &str, arguments: &[&str]| {
        let mut command = program(&[&["127.0.0.1:0"], arguments].concat());
        command.env("RUST_LOG", variable);
        Service::spawn(command).stop()
    };
    let has = |lines: &[String], level: &str| lines.iter().any(|line| line.contains(level));
    assert!(has(&with("trace", &[]), "TRACE"));
    assert!(
        !has(&with("trace", &["--log-level", "info"]), "TRACE"),
        "the option takes precedence"
    );
    assert!(has(&with("debug", &["-v"]), "TRACE"), "-v adds to it");
    assert!(
        !has(&with("trace", &["-q"]), "TRACE"),
        "-q subtracts from it"
    );

    let lines = with("info,mio_echo::server=trace", &[]);
    assert!(has(&lines, "TRACE [mio_echo::server]") && !has(&lines, "TRACE [mio_echo::echo"));
    let lines = with("info,nonsense", &[]);
    assert!(lines[0].contains("'nonsense' ignored"), "{lines:#?}");

    // It logs nothing, so its port is chosen here, and polled until it listens.
    let address = free_address();
    let mut silent = program(&[&format!("tcp://{address}"), "-qqqq"]);
    let mut child = silent.stderr(Stdio::piped()).spawn().unwrap();
    let lines = lines_of(child.stderr.take().unwrap());
    common::wait_until(|| TcpStream::connect(address).is_ok());
    common::signal(&child, Signal::SIGTERM);
    assert_eq!(common::wait(&mut child).code(), Some(0));
    assert_eq!(lines.iter().collect::<Vec<_>>(), Vec::<String>::new());
}

#[test]
fn log_as_json_has_one_object_a_line() {
    let service = Service::start(&["--log-format=json", "-v"]);
    echo(&mut connect(service.address), b"hello");
    let lines = service.stop();
    let keys = ["level", "message", "target", "time"];
    for line in &lines {
        let json: serde_json::Value = serde_json::from_str(line).expect(line);
        assert!(keys.iter().all(|key| json[key].is_string()), "{line}");
        assert!(json["time"].as_str().unwrap().ends_with('Z'), "{line}");
    }
    assert!(lines[0].contains("listening on tcp://"), "{lines:?}");
    assert!(lines[0].contains(r#""level":"INFO""#), "{lines:?}");
}

#[test]
fn log_as_json_has_the_values_of_a_record() {
    let service = Service::start(&["--log-format=json", "-vv"]);
    echo(&mut connect(service.address), b"hello");
    let lines = service.stop();
    let json = |line: &String| serde_json::from_str::<serde_json::Value>(line).expect(line);
    let received = lines.iter().map(json).find(|it| it["call"] == "recv");
    let received = received.unwrap();
    assert_eq!(received["bytes"], 5, "{received}");
    assert!(received["token"].is_number(), "{received}");
}

#[test]
fn log_for_journald_has_priorities_and_no_time_stamps() {
    let service = Service::start(&["--log-format=journald", "-v"]);
    echo(&mut connect(service.address), b"hello");
    let lines = service.stop();
    let has = |start: &str| lines.iter().any(|line| line.starts_with(start));
    assert!(has("<6>[mio_echo::echo::engine] listening on"), "{lines:?}");
    assert!(has("<7>[mio_echo::echo::accept] 127.0.0.1:"), "{lines:?}");
}

#[test]
fn error_that_ends_the_program_has_the_form_of_the_log() {
    for (format, start) in [
        ("text", "mio-echo: cannot listen on unix:/"),
        ("journald", "<3>[mio_echo] cannot listen on unix:/"),
        (
            "json",
            r#"{"level":"ERROR","message":"cannot listen on unix:/"#,
        ),
    ] {
        let arguments = ["-q", "unix:/", "--log-format", format];
        let output = output(program(&arguments));
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.starts_with(start), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
        assert_eq!(output.status.code(), Some(1));
    }
}

#[test]
fn log_has_colours_only_on_a_terminal() {
    let terminal = nix::pty::openpty(None, None).unwrap();
    let on_terminal = || {
        let mut command = program(&["127.0.0.1:0"]);
        command
            .env("TERM", "xterm")
            .stdout(terminal.slave.try_clone().unwrap());
        command
    };
    let lines = Service::spawn(on_terminal()).stop();
    assert!(
        !lines.iter().any(|line| line.contains('\u{1b}')),
        "{lines:#?}"
    );

    let mut command = on_terminal();
    let mut child = command
        .stderr(terminal.slave.try_clone().unwrap())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(fs::File::from(terminal.master)).lines();
    let line = lines.next().unwrap().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(
        line.contains("listening on") && line.contains('\u{1b}'),
        "{line:?}"
    );
}

#[test]
fn public_address_is_warned_of() {
    let mut service = Service::start(&["0.0.0.0:0"]);
    let line = service.wait_for("listening on udp://0.0.0.0:");
    let (_, address) = line.split_once("udp://").unwrap();
    service.wait_for("WARN");
    let lines = service.stop();
    let warnings: Vec<_> = lines.iter().filter(|line| line.contains("WARN")).collect();
    let expected =
        format!(" open to all hosts that can reach it: tcp://{address}, udp://{address}");
    assert!(
        warnings.len() == 1 && warnings[0].ends_with(&expected),
        "{warnings:#?}"
    );
}

#[test]
fn public_address_with_allow_list_is_not_warned_of() {
    let allowed = ["--allow", "127.0.0.0/8", "--allow", "192.0.2.1"];
    let arguments = [&["tcp://0.0.0.0:0"], &allowed[..]].concat();
    let mut service = Service::spawn(program(&arguments));
    let port = service.address.port();
    assert!(is_served(&mut connect(([127, 0, 0, 1], port).into())));
    service.wait_for(&format!(
        "INFO  [mio_echo] open to other hosts, limited to 127.0.0.0/8, 192.0.2.1: \
         tcp://0.0.0.0:{port}"
    ));
    let lines = service.stop();
    assert!(
        !lines.iter().any(|line| line.contains("WARN")),
        "{lines:#?}"
    );
}

#[test]
fn rejected_connections_are_logged_at_debug_and_warned_of_once() {
    for (level, logged) in [("-v", 3), ("--log-level=info", 0)] {
        let service = Service::start(&[level, "--allow", "192.0.2.0/24"]);
        for _ in 0..3 {
            assert!(is_reset(service.address));
        }
        let address = service.address;
        let lines = service.stop();
        let reason = "its address is in no allowed network";
        let count = |text: &str| {
            let is_match = |line: &&String| line.contains(text) && line.ends_with(reason);
            lines.iter().filter(is_match).count()
        };
        assert_eq!(count(": rejected: "), logged, "{lines:#?}");
        let warning = format!(
            "WARN  [mio_echo::echo::accept] tcp://{address}: 1 connections rejected, the last one \
             from 127.0.0.1:"
        );
        assert_eq!(count(&warning), 1, "{lines:#?}");
        assert!(
            lines.last().unwrap().contains("; 3 rejected; "),
            "{lines:#?}"
        );
    }
}

#[test]
fn tcp_and_udp_at_one_port() {
    let mut service = Service::start(&[]);
    let address = service.address;
    service.wait_for(&format!("listening on udp://{address}"));
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(LIMIT)).unwrap();
    client.send_to(b"hello", address).unwrap();
    let mut echoed = [0; 6];
    assert_eq!(client.recv_from(&mut echoed).unwrap(), (5, address));
    assert!(is_served(&mut connect(address)));
    service.stop();
}

/// From another address of this host, and the port of the service.
#[cfg(target_os = "linux")]
#[test]
fn dropped_datagrams_are_logged_at_debug_and_warned_of_once() {
    let mut service = Service::start(&["-v"]);
    let (address, port) = (service.address, service.address.port());
    let client = UdpSocket::bind(("127.0.0.2", port)).unwrap();
    for _ in 0..3 {
        client.send_to(b"hello", address).unwrap();
        let reason = format!("127.0.0.2:{port}: datagram dropped: its port is served");
        assert!(service.wait_for(&reason).contains("DEBUG"));
    }
    let lines = service.stop();
    let warnings: Vec<_> = lines.iter().filter(|line| line.contains("WARN")).collect();
    assert!(
        warnings.len() == 1 && warnings[0].contains("its port is served"),
        "{warnings:#?}"
    );

    let mut service = Service::start(&["--udp-answer-any-port"]);
    let (address, port) = (service.address, service.address.port());
    service.wait_for("listening on udp://");
    let client = UdpSocket::bind(("127.0.0.2", port)).unwrap();
    client.set_read_timeout(Some(LIMIT)).unwrap();
    client.send_to(b"hello", address).unwrap();
    assert_eq!(client.recv_from(&mut [0; 6]).unwrap(), (5, address));
    service.stop();
}

#[test]
fn unix_socket_file_is_created_taken_over_and_removed() {
    let directory = Directory::new();
    let path = directory.file("socket");
    let endpoint = format!("unix:{}", path.display());
    let start = || Service::start(&[&endpoint, "--unix-mode", "0660", "-v"]);
    let talk = || {
        let mut client = UnixStream::connect(&path).unwrap();
        client.set_read_timeout(Some(LIMIT)).unwrap();
        assert_eq!(echo(&mut client, b"hello"), b"hello");
    };

    let mut killed = start();
    killed.wait_for(&format!("listening on {endpoint}"));
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    talk();
    let (line, status) = error_line(program(&[&endpoint]));
    assert_eq!(status, Some(1), "{line}");
    assert!(line.contains("address in use; another program"), "{line}");

    killed.signal(Signal::SIGKILL);
    assert_eq!(killed.end().0.signal(), Some(Signal::SIGKILL as i32));
    assert!(path.exists(), "the file was removed");

    let mut service = start();
    service.wait_for(&format!("listening on {endpoint}"));
    for number in 1..=2 {
        talk();
        service.wait_for(&format!(
            "unix#{number} (Token 1027): closed: closed by the peer"
        ));
    }
    let lines = service.stop();
    let taken_over = format!("{endpoint}: takes over the file of a process that is gone");
    assert!(
        lines.iter().any(|line| line.contains(&taken_over)),
        "{lines:#?}"
    );
    assert!(!path.exists());
}

#[test]
fn it_outlives_the_reader_of_its_log() {
    let mut command = program(&["127.0.0.1:0", "-vv"]);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("listening on") {
        line.clear();
        log.read_line(&mut line).unwrap();
    }
    let address = line.trim().split("tcp://").nth(1).unwrap().parse().unwrap();
    drop(log);
    for _ in 0..3 {
        assert!(is_served(&mut connect(address)));
    }
    common::signal(&child, Signal::SIGTERM);
    assert_eq!(common::wait(&mut child).code(), Some(0));
}

/// A write beyond the limit raises SIGXFSZ, which ends a process by default.
#[cfg(target_os = "linux")]
#[test]
fn it_outlives_the_limit_on_the_size_of_its_log() {
    let directory = Directory::new();
    let log = directory.file("log");
    let address = free_address();
    let arguments = format!("tcp://{address} -vv 2>'{}'", log.display());
    // In blocks of 512 bytes.
    let service = Service::launch(limited("-f 4", &arguments));
    common::wait_until(|| TcpStream::connect(address).is_ok());
    while fs::metadata(&log).unwrap().len() < 4 * 512 {
        assert!(is_served(&mut connect(address)));
    }
    assert!(is_served(&mut connect(address)));
    service.stop();
}

/// A line is lost if the pipe has no room for it. A shorter one is the next in the log.
#[cfg(target_os = "linux")]
#[test]
fn line_without_room_in_a_non_blocking_pipe_is_lost_without_a_trace() {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};

    let (reader, mut writer) = std::io::pipe().unwrap();
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    let filler = [b"x".repeat(4095), b"\n".to_vec()].concat();
    while writer.write(&filler).is_ok() {}
    let mut log = BufReader::with_capacity(filler.len(), reader);
    let mut line = String::new();
    log.read_line(&mut line).unwrap();
    // A line of up to a page is written as a whole or not at all; see pipe(7).
    writer.write_all(&filler[1096..]).unwrap();
    let address = free_address();
    let mut command = program(&[&format!("tcp://{address}")]);
    command.env("RUST_LOG", "x".repeat(2000)).stderr(writer);
    let mut child = command.spawn().unwrap();
    // Otherwise the test would never read the end of the log.
    drop(command);
    common::wait_until(|| TcpStream::connect(address).is_ok());
    common::signal(&child, Signal::SIGTERM);
    assert_eq!(common::wait(&mut child).code(), Some(0));
    let lines: Vec<_> = log.lines().map(Result::unwrap).collect();
    let own = lines.iter().find(|line| !line.ends_with('x'));
    assert!(own.unwrap().contains("listening on tcp://"), "{own:?}");
}

#[cfg(target_os = "linux")]
#[test]
fn limit_on_open_files_is_raised_and_limits_connections() {
    let service = Service::spawn(limited("-Sn 60 && ulimit -Hn 300", ""));
    let limits = fs::read_to_string(format!("/proc/{}/limits", service.pid())).unwrap();
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .unwrap();
    let fields: Vec<_> = line.split_whitespace().collect();
    assert_eq!((fields[3], fields[4]), ("300", "300"), "{line}");
    service.stop();

    // 300 files leave room for 172 connections: more wait in the backlog, and none is lost.
    let mut service = Service::spawn(limited("-Sn 60 && ulimit -Hn 300", ""));
    let mut clients: Vec<_> = (0..180).map(|_| connect(service.address)).collect();
    service.wait_for("at the limit of 172 connections");
    clients.drain(..10);
    for client in &mut clients {
        assert!(is_served(client));
    }
    drop(clients);
    service.stop();
}

#[cfg(target_os = "linux")]
#[test]
fn out_of_descriptors_it_waits_warns_once_and_recovers() {
    let mut service = Service::spawn(limited("-n 40", "--max-connections 1000"));
    let mut clients: Vec<_> = (0..100).map(|_| connect(service.address)).collect();
    service.wait_for("cannot accept (");

    // An interval to measure over. A loop that spins takes 100 ticks a second, or half of that on a
    // busy machine; ten retries a second take less than one.
    let before = cpu_ticks(service.pid());
    thread::sleep(std::time::Duration::from_millis(500));
    let ticks = cpu_ticks(service.pid()) - before;
    assert!(ticks < 10, "{ticks} ticks in half a second: the loop spins");

    // Accepted clients are served, and as they close, so are all the others.
    while let Some(mut client) = (!clients.is_empty()).then(|| clients.remove(0)) {
        assert!(is_served(&mut client));
    }
    let lines = service.stop();
    let count = |text: &str| lines.iter().filter(|line| line.contains(text)).count();
    assert_eq!(count("cannot accept ("), 1, "{lines:#?}");
    assert_eq!(
        count("the limit on open files has room for 20 connections"),
        1,
        "{lines:#?}"
    );
    assert!(
        lines.last().unwrap().contains("100 connections"),
        "{lines:#?}"
    );
}

/// The number of descriptors that a child inherits besides the standard streams.
#[cfg(target_os = "linux")]
fn inherited() -> usize {
    let listed = Command::new("ls").arg("/proc/self/fd").output().unwrap();
    let is_inherited = |line: &&str| line.parse::<u32>().unwrap() > 2;
    let listed = String::from_utf8(listed.stdout).unwrap();
    // One of them is the directory itself.
    listed.lines().filter(is_inherited).count() - 1
}

#[cfg(target_os = "linux")]
#[test]
fn it_starts_with_the_open_files_that_one_connection_needs() {
    for (arguments, needed) in [
        ("", 16),
        ("--max-connections 1000", 16),
        ("tcp://127.0.0.1:0 udp://127.0.0.1:0", 24),
        ("--metrics tcp://127.0.0.1:0", 16),
    ] {
        let (line, status) = error_line(limited(&format!("-n {}", needed - 1), arguments));
        assert_eq!(status, Some(1), "{line}");
        let expected = format!("one connection needs {needed}");
        assert!(line.contains(&expected), "{line}");
        assert!(line.contains("ulimit -Hn"), "{line}");

        let limits = format!("-n {}", needed + inherited());
        let service = Service::spawn(limited(&limits, arguments));
        assert!(is_served(&mut connect(service.address)));
        service.stop();
    }
}

/// The program clears the umask only while it binds.
#[cfg(target_os = "linux")]
#[test]
fn socket_file_has_configured_mode_under_any_umask() {
    let directory = Directory::new();
    let start = |name: &str, mode: &str| {
        let path = directory.file(name);
        let endpoint = format!("unix:{}", path.display());
        let mut command = Command::new("sh");
        command.arg("-c");
        command.arg(format!("umask 077; exec '{PROGRAM}' '{endpoint}' {mode}"));
        let mut service = Service::launch(command);
        service.wait_for(&format!("listening on {endpoint}"));
        // That line is logged before the umask is restored; an echo comes after that.
        echo(&mut UnixStream::connect(&path).unwrap(), b"hello");
        let status = fs::read_to_string(format!("/proc/{}/status", service.pid())).unwrap();
        assert!(status.contains("Umask:\t0077\n"), "{status}");
        mode_of(&path)
    };
    assert_eq!(start("with", "--unix-mode 0666"), 0o666);
    assert_eq!(start("without", ""), 0o700);
}
