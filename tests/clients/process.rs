//! A client program as a child process.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use nix::sys::signal::Signal;
#[cfg(target_os = "linux")]
use nix::unistd::Pid;

use crate::common::{self, LIMIT, Outcome};

/// A program with pipes for its standard streams; killed when dropped.
pub struct Process {
    child: Child,
    lines: Receiver<String>,
    stderr: Receiver<String>,
    seen: String,
}

impl Process {
    pub fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in stdout.lines() {
                let _ = sender.send(line.unwrap());
            }
        });
        Process {
            lines,
            stderr: read_all(&mut child),
            child,
            seen: String::new(),
        }
    }

    pub fn type_in(&mut self, text: &[u8]) {
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(text).unwrap();
    }

    /// Waits for a line of its output that contains the text.
    pub fn wait_for(&mut self, text: &str) {
        loop {
            let Ok(line) = self.lines.recv_timeout(LIMIT) else {
                panic!("no {text:?} after {:?}", self.seen);
            };
            self.seen += &line;
            self.seen.push('\n');
            if line.contains(text) {
                return;
            }
        }
    }

    #[cfg(target_os = "linux")]
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().unwrap())
    }

    pub fn signal(&self, signal: Signal) {
        common::signal(&self.child, signal);
    }

    /// Closes its input and waits for its exit.
    pub fn finish(mut self) -> Outcome {
        drop(self.child.stdin.take());
        let stderr = self
            .stderr
            .recv_timeout(LIMIT)
            .expect("the process did not exit");
        while let Ok(line) = self.lines.recv_timeout(LIMIT) {
            self.seen += &line;
            self.seen.push('\n');
        }
        // Its outputs are closed, so it has exited or is about to.
        let status = self.child.wait().unwrap();
        Outcome {
            status: status.code(),
            stdout: std::mem::take(&mut self.seen),
            stderr,
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Everything that the process writes to standard error.
fn read_all(child: &mut Child) -> Receiver<String> {
    let mut stderr = child.stderr.take().unwrap();
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut text = String::new();
        stderr.read_to_string(&mut text).unwrap();
        let _ = sender.send(text);
    });
    receiver
}
