//! The built program under a supervisor, which the test plays.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use nix::sys::signal::Signal;

use super::{LIMIT, signal, wait};

/// The program, to be started by a shell that gives it the descriptors from 3 on. `count` is how
/// many it is told that there are.
pub fn activated(program: &str, sockets: Vec<OwnedFd>, count: usize, arguments: &str) -> Command {
    // The shell's process becomes the program's, so its number is the one that is meant.
    let environment = format!("LISTEN_PID=$$ LISTEN_FDS={count}");
    let dup = ["exec 3<&0", "exec 4<&1"][..sockets.len()].join("; ");
    let script =
        format!("{dup}; exec 0</dev/null 1>&2; export {environment}; exec '{program}' {arguments}");
    let mut command = Command::new("sh");
    command.args(["-c", &script]).env_remove("RUST_LOG");
    let mut sockets = sockets.into_iter();
    if let Some(socket) = sockets.next() {
        command.stdin(socket);
    }
    if let Some(socket) = sockets.next() {
        command.stdout(socket);
    }
    command
}

/// A service that runs; killed at the end of the test if it still does.
pub struct Supervised {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Supervised {
    pub fn start(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let lines = lines_of(child.stderr.take().unwrap());
        Supervised {
            child,
            lines,
            seen: Vec::new(),
        }
    }

    /// Waits for a line of the log with this in it.
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

    /// Waits until it listens, over TCP, and says where.
    pub fn address(&mut self) -> SocketAddr {
        let line = self.wait_for("listening on tcp://");
        line.split("tcp://").nth(1).unwrap().parse().unwrap()
    }

    pub fn signal(&self, which: Signal) {
        signal(&self.child, which);
    }

    /// Waits for its end. Gives its exit status and all that it logged.
    pub fn end(mut self) -> (ExitStatus, Vec<String>) {
        let status = wait(&mut self.child);
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

impl Drop for Supervised {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines_of(stderr: ChildStderr) -> Receiver<String> {
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

/// The program, which tells the socket at that path how it does.
pub fn told(program: &str, path: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_remove("RUST_LOG")
        .env_remove("WATCHDOG_USEC")
        .env_remove("WATCHDOG_PID")
        .env("NOTIFY_SOCKET", path)
        .stdin(Stdio::null());
    command
}
