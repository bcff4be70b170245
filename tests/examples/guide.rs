//! The steps of the guide fail as their pages say, and the next step does not.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal::{SIGCONT, SIGKILL, SIGSTOP, SIGTERM};
use nix::unistd::Pid;

use crate::common::service::{Service, cpu_ticks, output, program, state};
use crate::common::{LIMIT, connect, connect_small, example, is_served, wait_until};

/// For how long nothing may happen, before it counts as never.
const A_WHILE: Duration = Duration::from_millis(500);

/// Runs a step, or the project as step 13, behind a shell that joins its outputs.
fn launch(step: u8, address: &str, limits: &str) -> Service {
    let program = match step {
        13 => program(&[]),
        _ => example(&format!("guide_{step:02}")),
    };
    let mut command = Command::new("sh");
    let script = format!("ulimit {limits} && exec \"$0\" {address} >&2");
    command.arg("-c").arg(script).arg(program.get_program());
    command.env_remove("RUST_LOG").env_remove("NO_COLOR");
    Service::launch(command)
}

fn start(step: u8) -> Service {
    start_with(step, "-n $(ulimit -H -n)")
}

fn start_with(step: u8, limits: &str) -> Service {
    let mut service = launch(step, "127.0.0.1:0", limits);
    service.address = service.listens_at();
    service
}

/// Runs `mio-echo ping`. Returns how many replies came, and their median time in milliseconds, which is
/// infinite without any.
fn ping(service: &Service, options: &str) -> (u64, f64) {
    let mut command = program(&["ping", "-q"]);
    command
        .args(options.split(' '))
        .arg(service.address.to_string());
    let text = String::from_utf8(output(command).stdout).unwrap();
    let received = text.split(" sent, ").nth(1).unwrap();
    let received = received.split(' ').next().unwrap().parse().unwrap();
    let times = text.split("jitter = ").nth(1);
    let median = times.map_or(f64::INFINITY, |times| {
        times.split('/').nth(2).unwrap().parse().unwrap()
    });
    (received, median)
}

/// `mio-echo load`, until it is dropped.
fn load(service: &Service, options: &str) -> Service {
    let mut command = program(&["load", "-q", "-d", "30s"]);
    command
        .args(options.split(' '))
        .arg(service.address.to_string());
    command.stdout(Stdio::null());
    Service::launch(command)
}

/// A number in `proc_pid_status(5)`.
fn status(service: &Service, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/status", service.pid())).unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn open_files(service: &Service) -> usize {
    let files = fs::read_dir(format!("/proc/{}/fd", service.pid()));
    files.unwrap().count()
}

/// Stops a service in its sleep, does something, and lets it go on, so that it finds all of that at once.
fn while_stopped<T>(service: &Service, act: impl FnOnce() -> T) -> T {
    wait_until(|| state(service.pid()) == "S");
    service.signal(SIGSTOP);
    wait_until(|| state(service.pid()) == "T");
    let result = act();
    service.signal(SIGCONT);
    result
}

fn connect_many(service: &Service, count: usize) -> Vec<TcpStream> {
    (0..count).map(|_| connect(service.address)).collect()
}

/// CPU time that `other` uses while `busy` uses at least 30 clock ticks, which are 0.3 s.
fn ticks_meanwhile(busy: Pid, other: Pid) -> u64 {
    let (start, before) = (cpu_ticks(busy), cpu_ticks(other));
    wait_until(|| cpu_ticks(busy) >= start + 30);
    cpu_ticks(other) - before
}

#[test]
fn step_01_serves_one_client_at_a_time() {
    for (step, received) in [(1, 0), (2, 2)] {
        let service = start(step);
        let mut first = connect(service.address);
        assert!(is_served(&mut first));
        assert_eq!(ping(&service, "-c 2 -i 0.1 -W 0.5").0, received, "{step}");
        assert!(is_served(&mut first));
    }
}

#[test]
fn step_02_uses_a_thread_for_each_connection() {
    for (step, threads) in [(2, 101), (3, 1)] {
        let service = start(step);
        let mut clients = connect_many(&service, 100);
        assert!(clients.iter_mut().all(is_served));
        assert_eq!(status(&service, "Threads:"), threads, "{step}");
    }
}

#[test]
fn step_03_uses_cpu_time_without_a_client() {
    let (fault, next) = (start(3), start(4));
    assert!(ticks_meanwhile(fault.pid(), next.pid()) <= 3);
}

/// The faults of steps 05 and 06 hide what epoll(7) saves, so step 07 is the one that passes.
#[test]
fn step_04_costs_more_beside_idle_connections() {
    let [fault, next] = [4, 7].map(|step| {
        let service = start(step);
        let _idle = load(&service, "--hold -c 1000");
        wait_until(|| open_files(&service) > 1000);
        let mut client = connect(service.address);
        assert!(is_served(&mut client));
        let before = cpu_ticks(service.pid());
        for _ in 0..1000 {
            assert!(is_served(&mut client));
        }
        cpu_ticks(service.pid()) - before
    });
    assert!(fault > 3 * (next + 1), "{fault} and {next} clock ticks");
}

#[test]
fn step_05_uses_cpu_time_for_a_silent_client() {
    let services = [start(5), start(6)];
    let _silent = services.each_ref().map(|service| {
        let mut client = connect(service.address);
        assert!(is_served(&mut client));
        client
    });
    assert!(ticks_meanwhile(services[0].pid(), services[1].pid()) <= 3);
}

#[test]
fn step_06_reads_once_for_each_event() {
    for (step, received) in [(6, 0), (7, 1)] {
        let service = start(step);
        assert_eq!(ping(&service, "-c 1 -s 56").0, 1, "{step}");
        assert_eq!(ping(&service, "-c 1 -s 5000 -W 0.5").0, received, "{step}");
    }
}

#[test]
fn step_06_accepts_once_for_each_event() {
    for (step, all_are_served) in [(6, false), (7, true)] {
        let service = start(step);
        let mut clients = while_stopped(&service, || connect_many(&service, 50));
        assert!(is_served(&mut clients[0]));
        if all_are_served {
            assert!(clients.iter_mut().all(is_served));
        } else {
            clients[49].set_read_timeout(Some(A_WHILE)).unwrap();
            clients[49].write_all(b"are you there?").unwrap();
            let error = clients[49].read(&mut [0]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
        }
    }
}

/// Sends so much before it reads that no system's buffers hold it.
fn sends_ahead(stream: &mut TcpStream) -> std::io::Result<()> {
    let bytes = vec![1; 16 << 20];
    stream.write_all(&bytes)?;
    let mut echoed = vec![0; bytes.len()];
    stream.read_exact(&mut echoed)?;
    assert!(echoed == bytes);
    Ok(())
}

#[test]
fn step_07_closes_the_connection_when_a_write_would_block() {
    let mut fault = start(7);
    assert!(sends_ahead(&mut connect_small(fault.address)).is_err());
    fault.wait_for("WouldBlock");
    sends_ahead(&mut connect_small(start(8).address)).unwrap();
}

/// Sends up to 128 MiB and reads nothing. Returns how many bytes were sent, at the end or after a while
/// without progress.
fn send_without_reading(stream: &mut TcpStream) -> usize {
    stream.set_write_timeout(Some(A_WHILE)).unwrap();
    let bytes = vec![0; 1 << 20];
    let mut sent = 0;
    while sent < 128 << 20 {
        match stream.write(&bytes) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
    }
    sent
}

#[test]
fn step_08_keeps_all_that_a_peer_does_not_read() {
    const MEBIBYTE: u64 = 1024; // in the unit of proc_pid_status(5)
    let fault = start(8);
    let mut client = connect_small(fault.address);
    assert!(send_without_reading(&mut client) >= 128 << 20);
    wait_until(|| status(&fault, "VmHWM:") > 64 * MEBIBYTE);

    let next = start(9);
    let mut client = connect_small(next.address);
    assert!(send_without_reading(&mut client) < 128 << 20);
    assert!(status(&next, "VmHWM:") < 32 * MEBIBYTE);
    assert!(is_served(&mut connect(next.address)));
}

#[test]
fn step_09_loses_bytes_at_a_half_close() {
    for (step, echoed) in [(9, &b""[..]), (10, b"hello")] {
        let service = start(step);
        let mut client = connect(service.address);
        assert!(is_served(&mut client));
        while_stopped(&service, || {
            client.write_all(b"hello").unwrap();
            client.shutdown(Shutdown::Write).unwrap();
        });
        let mut bytes = Vec::new();
        // Closing with unread bytes resets the connection.
        let result = client.read_to_end(&mut bytes);
        assert_eq!(bytes, echoed, "{step}: {result:?}");
    }
}

/// The service has a lower priority than its clients. Otherwise, on a busy machine, the streams run out of
/// bytes so often that no ping is delayed.
#[test]
fn step_10_lets_greedy_streams_delay_the_others() {
    let [fault, next] = [10, 11].map(|step| {
        let service = start_with(step, "-n $(ulimit -H -n) && renice -n 10 $$ > /dev/null");
        let greedy = load(&service, "--stream -c 8");
        wait_until(|| cpu_ticks(service.pid()) > 20);
        let (_, median) = ping(&service, "-c 3 -i 0.05 -W 5");
        greedy.signal(SIGKILL);
        median
    });
    assert!(fault > 4.0 * next, "{fault} and {next} ms");
}

#[test]
fn step_11_forgets_the_backlog_when_it_is_out_of_descriptors() {
    for (step, are_served) in [(11, false), (13, true)] {
        let mut service = start_with(step, "-n 64");
        let mut served = vec![connect(service.address)];
        assert!(is_served(&mut served[0]));
        let mut waiting = while_stopped(&service, || connect_many(&service, 100));
        if step == 11 {
            service.wait_for("accept: Too many open files");
        }
        wait_until(|| open_files(&service) > 30);
        served.extend(waiting.drain(..70));
        drop(served);
        let mut last = waiting.pop().unwrap();
        last.set_read_timeout((!are_served).then_some(A_WHILE))
            .unwrap();
        last.write_all(b"hello").unwrap();
        assert_eq!(last.read(&mut [0; 5]).is_ok(), are_served, "{step}");
    }
}

/// Whether no socket is bound to the address. One that was closed may be bound for a moment longer:
/// a process that another test starts has a copy until it executes its program.
fn is_refused(address: SocketAddr) -> bool {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(address).unwrap();
    // Over loopback the ICMP message has arrived when the first send returns.
    socket.send(b"").unwrap();
    socket.send(b"").is_err()
}

#[test]
fn step_12_answers_an_answer() {
    for step in [12, 13] {
        let address_of = |service: &mut Service| {
            let line = service.wait_for("listening on udp://");
            line.split("udp://").nth(1).unwrap().to_owned()
        };
        let endpoint = |address: &str| match step {
            12 => address.to_owned(),
            _ => format!("udp://{address}"),
        };
        let mut first = launch(step, &endpoint("127.0.0.1:0"), "-n 64");
        let address = address_of(&mut first);
        // The datagram is sent from the address of the second service, before this is started.
        let mut second = while_stopped(&first, || {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.send_to(b"hello", &address).unwrap();
            let sender = socket.local_addr().unwrap();
            drop(socket);
            wait_until(|| is_refused(sender));
            let mut second = launch(step, &endpoint(&sender.to_string()), "-n 64");
            address_of(&mut second);
            second
        });
        if step == 12 {
            // A loop that ends after 255 datagrams does not use so much time.
            wait_until(|| cpu_ticks(first.pid()) > 30 && cpu_ticks(second.pid()) > 30);
        } else {
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            client.set_read_timeout(Some(LIMIT)).unwrap();
            client.send_to(b"hello", &address).unwrap();
            assert_eq!(client.recv(&mut [0; 8]).unwrap(), 5);
            let ends = |service: &Service| state(service.pid()) == "S";
            wait_until(|| ends(&first) && ends(&second));
            assert!(cpu_ticks(first.pid()) < 30);
            second.signal(SIGTERM);
            let summary = second.wait_for("stopped after");
            let count = summary.split("echoed; ").nth(1).unwrap();
            let count: u64 = count.split(' ').next().unwrap().parse().unwrap();
            assert!((1..=255).contains(&count), "{summary}");
        }
    }
}
