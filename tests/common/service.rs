//! The built program as a child of the test.

#[cfg(target_os = "linux")]
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, ChildStderr, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::LIMIT;

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_mio-echo");

/// The program with arguments, without the logging variables of the tester's environment.
pub fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command
        .args(arguments)
        .env_remove("RUST_LOG")
        .env_remove("NO_COLOR")
        .stdin(Stdio::null());
    command
}

/// A running service; killed when dropped.
pub struct Service {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
    /// The address of the first TCP listener, after [`listens_at`](Service::listens_at).
    pub address: SocketAddr,
}

impl Service {
    pub fn start(arguments: &[&str]) -> Self {
        Service::spawn(program(&[&["127.0.0.1:0"], arguments].concat()))
    }

    /// Starts it and waits until it listens.
    pub fn spawn(command: Command) -> Self {
        let mut service = Service::launch(command);
        service.address = service.listens_at();
        service
    }

    pub fn launch(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let lines = lines_of(child.stderr.take().unwrap());
        Service {
            child,
            lines,
            seen: Vec::new(),
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
        }
    }

    /// Waits until it listens over TCP. Returns the address.
    pub fn listens_at(&mut self) -> SocketAddr {
        let line = self.wait_for("listening on tcp://");
        let rest = line.split("tcp://").nth(1).unwrap();
        // As JSON, the line goes on.
        rest.split('"').next().unwrap().parse().unwrap()
    }

    /// Waits for a line of the log that contains the text.
    pub fn wait_for(&mut self, text: &str) -> String {
        loop {
            let Ok(line) = self.lines.recv_timeout(LIMIT) else {
                panic!("no line with {text:?} in {:#?}", self.seen);
            };
            self.seen.push(line.clone());
            if line.contains(text) {
                return line;
            }
        }
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().unwrap())
    }

    pub fn signal(&self, signal: Signal) {
        super::signal(&self.child, signal);
    }

    /// Waits for its exit. Returns the exit status and the whole log.
    pub fn end(mut self) -> (ExitStatus, Vec<String>) {
        let status = super::wait(&mut self.child);
        let mut seen = std::mem::take(&mut self.seen);
        seen.extend(self.lines.iter());
        (status, seen)
    }

    pub fn stop(self) -> Vec<String> {
        self.signal(Signal::SIGTERM);
        let (status, lines) = self.end();
        assert_eq!(status.code(), Some(0), "{lines:#?}");
        lines
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn lines_of(stderr: ChildStderr) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Runs a command that exits by itself.
pub fn output(mut command: Command) -> Output {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    super::wait(&mut child);
    child.wait_with_output().unwrap()
}

/// The one line of an error, and the exit status.
pub fn error_line(command: Command) -> (String, Option<i32>) {
    let output = output(command);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(text.lines().count(), 1, "not one line: {text}");
    assert!(text.starts_with("mio-echo: "), "{text}");
    assert!(output.stdout.is_empty());
    (text, output.status.code())
}

/// The program with limits on open files, which a shell sets.
#[cfg(target_os = "linux")]
pub fn limited(limits: &str, arguments: &str) -> Command {
    let mut command = Command::new("sh");
    command.env_remove("RUST_LOG").stdin(Stdio::null());
    command.args([
        "-c",
        &format!("ulimit {limits} && exec '{PROGRAM}' 127.0.0.1:0 {arguments}"),
    ]);
    command
}

/// User and system time of a process in clock ticks.
#[cfg(target_os = "linux")]
pub fn cpu_ticks(pid: Pid) -> u64 {
    let fields = stat(pid);
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// The state of a process, in one letter; `T` is stopped by a signal.
#[cfg(target_os = "linux")]
pub fn state(pid: Pid) -> String {
    stat(pid).swap_remove(0)
}

/// The fields after the command's name in `proc_pid_stat(5)`.
#[cfg(target_os = "linux")]
fn stat(pid: Pid) -> Vec<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields = stat.rsplit(')').next().unwrap().split_whitespace();
    fields.map(str::to_owned).collect()
}
