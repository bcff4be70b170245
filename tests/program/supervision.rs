//! The service under systemd, which the tests play: socket activation and notifications.

use std::io::ErrorKind;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::process::Command;

use crate::common::service::{PROGRAM, Service, error_line, program};
use crate::common::systemd::{activated, notifying};
use crate::common::{Directory, LIMIT, connect, echo, is_served, wait_until};
use crate::near_valid::near_valid;
use nix::sys::signal::Signal;

fn listener() -> (TcpListener, std::net::SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[test]
fn passed_sockets_are_served_and_nothing_else() {
    let (tcp, address) = listener();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let udp_address = udp.local_addr().unwrap();
    let mut command = activated(vec![tcp.into(), udp.into()], 2, "");
    command.env("LISTEN_FDNAMES", "web:datagrams");
    let mut service = Service::launch(command);
    service.wait_for(&format!("descriptor 3 (web) is tcp://{address}"));
    service.wait_for(&format!("descriptor 4 (datagrams) is udp://{udp_address}"));
    service.wait_for(&format!("listening on udp://{udp_address}"));
    assert!(is_served(&mut connect(address)));
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(LIMIT)).unwrap();
    client.send_to(b"hello", udp_address).unwrap();
    assert_eq!(client.recv_from(&mut [0; 6]).unwrap(), (5, udp_address));
    let lines = service.stop();
    let listening = lines.iter().filter(|line| line.contains("listening on"));
    assert_eq!(listening.count(), 2, "{lines:#?}");
}

#[test]
fn endpoints_are_served_in_addition_and_the_passed_socket_file_stays() {
    let directory = Directory::new();
    let path = directory.file("socket");
    let unix = UnixListener::bind(&path).unwrap();
    let own = "tcp://127.0.0.1:0 -v";
    let mut service = Service::launch(activated(vec![unix.into()], 1, own));
    service.wait_for(&format!("descriptor 3 is unix:{}", path.display()));
    let address = service.listens_at();
    assert!(is_served(&mut connect(address)));
    let mut client = UnixStream::connect(&path).unwrap();
    client.set_read_timeout(Some(LIMIT)).unwrap();
    assert_eq!(echo(&mut client, b"hello"), b"hello");
    drop(client);
    service.stop();
    assert!(path.exists());
}

/// `LISTEN_PID` names another process.
#[test]
fn sockets_for_another_process_are_ignored() {
    let mut command = program(&["tcp://127.0.0.1:0"]);
    command.env("LISTEN_PID", "1").env("LISTEN_FDS", "1");
    let mut service = Service::launch(command);
    let address = service.listens_at();
    assert!(is_served(&mut connect(address)));
    let lines = service.stop();
    assert!(!lines.iter().any(|line| line.contains("descriptor")));
}

/// The one line about a passed socket that cannot be served.
fn activation_error(socket: impl Into<OwnedFd>, count: usize) -> String {
    let mut command = activated(vec![socket.into()], count, "");
    command.env("LISTEN_FDNAMES", ["echo.socket"].repeat(count).join(":"));
    let (status, lines) = Service::launch(command).end();
    assert_eq!(status.code(), Some(1), "{lines:#?}");
    let errors = lines.iter().filter(|line| line.starts_with("mio-echo: "));
    let errors: Vec<_> = errors.collect();
    let last = lines.last().unwrap();
    assert!(errors.len() == 1 && errors[0] == last, "{lines:#?}");
    last.clone()
}

#[test]
fn unusable_socket_gets_one_line_that_names_the_descriptor() {
    let (listener, address) = listener();
    let client = connect(address);
    let line = activation_error(listener.accept().unwrap().0, 1);
    assert!(line.contains("descriptor 3 (echo.socket): it has a peer"));
    assert!(line.contains("Accept=no"), "{line}");
    drop(client);

    let directory = Directory::new();
    let datagrams = UnixDatagram::bind(directory.file("socket")).unwrap();
    let line = activation_error(datagrams, 1);
    assert!(line.contains("descriptor 3 (echo.socket): it is a Unix datagram socket"));

    // Two are announced, and one is passed.
    let line = activation_error(listener, 2);
    assert!(
        line.contains("descriptor 4 (echo.socket): it is not open"),
        "{line}"
    );
}

#[test]
fn unusable_socket_is_an_error_in_the_form_of_the_log() {
    for (format, start) in [
        ("journald", "<3>[mio_echo] cannot serve at descriptor 3: "),
        (
            "json",
            r#"{"level":"ERROR","message":"cannot serve at descriptor 3: "#,
        ),
    ] {
        let file = std::fs::File::open("/dev/null").unwrap();
        let arguments = format!("--log-format {format}");
        let command = activated(vec![file.into()], 1, &arguments);
        let (status, lines) = Service::launch(command).end();
        assert_eq!(status.code(), Some(1), "{lines:#?}");
        assert!(
            lines.len() == 1 && lines[0].starts_with(start),
            "{lines:#?}"
        );
    }
}

/// No memory is allocated for them.
#[test]
fn too_many_announced_descriptors_get_one_line() {
    let (listener, _) = listener();
    let mut command = activated(vec![listener.into()], 2_000_000_000, "");
    command.env("LISTEN_FDNAMES", "first:second");
    let (status, lines) = Service::launch(command).end();
    assert_eq!(status.code(), Some(1), "{lines:#?}");
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert!(lines[0].contains("descriptor 4 (second): it is not open"));
}

#[test]
fn malformed_variables_get_one_line() {
    let mut command = program(&[]);
    command.env("LISTEN_PID", "me");
    let (status, lines) = Service::launch(command).end();
    assert_eq!(status.code(), Some(1), "{lines:#?}");
    assert!(lines[0].starts_with("mio-echo: LISTEN_PID and LISTEN_FDS"));
}

#[test]
fn descriptors_are_counted_and_named_by_the_variables() {
    const COUNT: &[&str] = &["0", "1", "02", "-1", "4294967295", "4294967296", ""];
    const NAME: &[&str] = &["", "web", "echo.socket"];

    near_valid(&[COUNT, &["/"], NAME, &[":", ""], NAME], |text, _| {
        let text = text.replace(char::is_control, "");
        let (count, names) = text.split_once('/').unwrap_or((&text, ""));
        let script = "export LISTEN_PID=$$; exec \"$0\" unix:/nonexistent/socket";
        let mut command = Command::new("sh");
        command.args(["-c", script, PROGRAM]).env_remove("RUST_LOG");
        command.envs([("LISTEN_FDS", count), ("LISTEN_FDNAMES", names)]);
        let (line, _) = error_line(command);
        let expected = match (count.parse::<u32>(), names.split(':').next().unwrap()) {
            (Ok(0), _) => "cannot listen on unix:/nonexistent/socket",
            (Ok(_), "") => "cannot serve at descriptor 3: it is not open",
            (Ok(_), name) => &format!("cannot serve at descriptor 3 ({name}): it is not open"),
            (Err(_), _) => "LISTEN_PID and LISTEN_FDS are no numbers",
        };
        assert!(line.contains(expected), "{line}");
        Ok(())
    });
}

/// The socket of the service manager.
struct Manager(UnixDatagram);

impl Manager {
    fn at(path: &std::path::Path) -> Self {
        Manager::over(UnixDatagram::bind(path).unwrap())
    }

    fn over(socket: UnixDatagram) -> Self {
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        Manager(socket)
    }

    fn next(&self) -> String {
        let mut message = [0; 4096];
        let count = loop {
            match self.0.recv(&mut message) {
                // SIGSTOP and SIGCONT interrupt a call with a timeout; see signal(7).
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                received => break received.unwrap(),
            }
        };
        String::from_utf8(message[..count].to_vec()).unwrap()
    }

    fn wait_for(&self, wanted: &str) {
        while self.next() != wanted {}
    }
}

#[test]
fn ready_status_and_stopping_are_sent() {
    let directory = Directory::new();
    let path = directory.file("notify");
    let manager = Manager::at(&path);
    let arguments = ["tcp://127.0.0.1:0", "-vv", "--drain-timeout", "1h"];
    let mut service = Service::launch(notifying(&path, &arguments));
    assert_eq!(manager.next(), "READY=1\nSTATUS=0 connections");
    let address = service.listens_at();
    // It is idle and sleeps without a timeout, which would be in that line.
    assert!(service.wait_for("waiting for events").ends_with("events"));

    let mut client = connect(address);
    assert!(is_served(&mut client));
    assert_eq!(manager.next(), "STATUS=1 connections");
    service.signal(Signal::SIGTERM);
    assert_eq!(manager.next(), "STOPPING=1");
    assert!(is_served(&mut client));
    drop(client);
    let (status, lines) = service.end();
    assert_eq!(status.code(), Some(0), "{lines:#?}");
}

/// READY is sent after all endpoints are bound.
#[test]
fn ready_is_not_sent_after_a_bind_error() {
    let directory = Directory::new();
    let path = directory.file("notify");
    let manager = Manager::at(&path);
    let (_holder, taken) = listener();
    let taken = format!("tcp://{taken}");
    let command = notifying(&path, &["tcp://127.0.0.1:0", &taken]);
    let (status, _) = Service::launch(command).end();
    assert_eq!(status.code(), Some(1));
    manager.0.set_nonblocking(true).unwrap();
    assert!(manager.0.recv(&mut [0; 64]).is_err());
}

#[test]
fn watchdog_is_pinged_also_while_draining() {
    let name = format!("mio-echo-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let manager = Manager::over(UnixDatagram::bind_addr(&address).unwrap());
    let abstract_name = format!("@{name}");
    let watched = |variables: &[(&str, &str)]| {
        let arguments = ["tcp://127.0.0.1:0", "-vv"];
        let mut command = notifying(abstract_name.as_ref(), &arguments);
        command.envs(variables.iter().copied());
        let service = Service::launch(command);
        assert!(manager.next().starts_with("READY=1"));
        service
    };

    // Another process is watched.
    let mut service = watched(&[("WATCHDOG_USEC", "200000"), ("WATCHDOG_PID", "1")]);
    assert!(service.wait_for("waiting for events").ends_with("events"));
    service.stop();
    manager.wait_for("STOPPING=1");

    let mut service = watched(&[("WATCHDOG_USEC", "200000")]);
    for _ in 0..5 {
        assert_eq!(manager.next(), "WATCHDOG=1");
    }
    let address = service.listens_at();
    let client = connect(address);
    service.signal(Signal::SIGTERM);
    manager.wait_for("STOPPING=1");
    manager.wait_for("WATCHDOG=1");
    drop(client);
    let (status, _) = service.end();
    assert_eq!(status.code(), Some(0));
}

/// Waits until the loop sleeps without a timeout. Returns the log until then.
fn lines_until_it_sleeps(service: &mut Service) -> Vec<String> {
    let mut lines = Vec::new();
    loop {
        let line = service.wait_for("");
        lines.push(line.clone());
        if line.ends_with("waiting for events") {
            return lines;
        }
        assert!(lines.len() < 100, "the loop does not sleep: {lines:#?}");
    }
}

fn count(lines: &[String], text: &str) -> usize {
    lines.iter().filter(|line| line.contains(text)).count()
}

/// How often the process has slept so far; see `proc_pid_status(5)`.
fn wakeups(service: &Service) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", service.pid())).unwrap();
    let (_, count) = status.split_once("\nvoluntary_ctxt_switches:").unwrap();
    count.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn dead_notify_socket_is_given_up_with_one_warning_and_the_loop_sleeps() {
    let directory = Directory::new();
    let (missing, refusing) = (directory.file("missing"), directory.file("refusing"));
    drop(UnixDatagram::bind(&refusing).unwrap());
    // A process that another test starts may have a copy until it executes its program.
    let socket = UnixDatagram::unbound().unwrap();
    wait_until(|| socket.connect(&refusing).is_err());
    let services = [missing, refusing].map(|path| {
        let mut command = notifying(&path, &["tcp://127.0.0.1:0", "-vv"]);
        command.env("WATCHDOG_USEC", "60000000");
        Service::launch(command)
    });
    let services = services.map(|mut service| {
        let address = service.listens_at();
        let lines = lines_until_it_sleeps(&mut service);
        assert_eq!(count(&lines, "NOTIFY_SOCKET is dead"), 1, "{lines:#?}");
        assert_eq!(count(&lines, "cannot notify systemd"), 1, "{lines:#?}");
        assert!(is_served(&mut connect(address)));
        lines_until_it_sleeps(&mut service);
        service
    });
    // An interval to measure over.
    let before = services.each_ref().map(wakeups);
    std::thread::sleep(std::time::Duration::from_millis(500));
    for (service, before) in services.into_iter().zip(before) {
        let woken = wakeups(&service) - before;
        assert!(woken <= 1, "the loop woke up {woken} times");
        let lines = service.stop();
        assert_eq!(count(&lines, "cannot notify systemd"), 1, "{lines:#?}");
    }
}

/// The queue of the service manager is full for longer than the phase of fast retries.
#[test]
fn busy_service_manager_receives_all_messages_later() {
    let directory = Directory::new();
    let path = directory.file("notify");
    let manager = Manager::at(&path);
    let filler = UnixDatagram::unbound().unwrap();
    filler.set_nonblocking(true).unwrap();
    while filler.send_to(b"filler", &path).is_ok() {}
    let mut command = notifying(&path, &["tcp://127.0.0.1:0", "-v"]);
    command.env("WATCHDOG_USEC", "400000");
    let mut service = Service::launch(command);
    for _ in 0..12 {
        service.wait_for("cannot notify systemd");
    }
    let mut awaited = vec!["WATCHDOG=1", "READY=1\nSTATUS=0 connections"];
    for _ in 0..100 {
        let message = manager.next();
        awaited.retain(|it| *it != message);
        if awaited.is_empty() {
            break;
        }
    }
    assert!(awaited.is_empty(), "missing: {awaited:?}");
    let lines = service.stop();
    assert_eq!(count(&lines, "WARN"), 0, "{lines:#?}");
}

#[test]
fn invalid_watchdog_timeout_is_ignored_with_one_warning() {
    let directory = Directory::new();
    let path = directory.file("notify");
    let manager = Manager::at(&path);
    for micros in [
        "",
        "0",
        "1",
        "9999",
        "-10000",
        "soon",
        "18446744073709551616",
    ] {
        let mut command = notifying(&path, &["tcp://127.0.0.1:0", "-vv"]);
        command.env("WATCHDOG_USEC", micros);
        let mut service = Service::launch(command);
        manager.wait_for("READY=1\nSTATUS=0 connections");
        lines_until_it_sleeps(&mut service);
        let lines = service.stop();
        let warning = format!("WATCHDOG_USEC={micros} ignored");
        assert_eq!(count(&lines, &warning), 1, "{lines:#?}");
        assert_eq!(count(&lines, "WARN"), 1, "{lines:#?}");
        assert_eq!(manager.next(), "STOPPING=1");
    }

    let mut command = notifying(&path, &["tcp://127.0.0.1:0"]);
    command.env("WATCHDOG_USEC", "10000");
    let service = Service::launch(command);
    manager.wait_for("READY=1\nSTATUS=0 connections");
    manager.wait_for("WATCHDOG=1");
    let lines = service.stop();
    assert_eq!(count(&lines, "WARN"), 0, "{lines:#?}");
}

#[test]
fn nothing_is_sent_without_notify_socket() {
    for socket in [None, Some("")] {
        let mut command = program(&["tcp://127.0.0.1:0", "-vv"]);
        command.env_remove("NOTIFY_SOCKET");
        command.envs(socket.map(|socket| ("NOTIFY_SOCKET", socket)));
        command.env("WATCHDOG_USEC", "1");
        let mut service = Service::launch(command);
        lines_until_it_sleeps(&mut service);
        let lines = service.stop();
        assert_eq!(count(&lines, "systemd"), 0, "{lines:#?}");
        assert_eq!(count(&lines, "WARN"), 0, "{lines:#?}");
    }
}
