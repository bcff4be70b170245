//! Each loop serves a client, waits without spinning, and ends after a signal.

use std::env;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Of each wait in a test.
const LIMIT: Duration = Duration::from_secs(20);

/// The loops need about ten. One that spins makes more in a fraction of the drain time.
const MAX_TURNS: u32 = 1000;

/// A program, which is killed at the end of the test.
struct Guest {
    child: Child,
    lines: Receiver<String>,
}

impl Guest {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        // Ends with the program.
        thread::spawn(move || {
            let mut lines = stdout.lines().map_while(Result::ok);
            lines.try_for_each(|line| sender.send(line))
        });
        Guest { child, lines }
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(LIMIT).unwrap()
    }

    fn interrupt(&self) {
        let id = i32::try_from(self.child.id()).unwrap();
        kill(Pid::from_raw(id), Signal::SIGINT).unwrap();
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.set_write_timeout(Some(LIMIT)).unwrap();
    stream
}

/// No two parts of it are alike.
fn numbers() -> Vec<u8> {
    (0..250_000_u32).flat_map(u32::to_ne_bytes).collect()
}

/// Sends more than one turn takes, and no further event announces the rest.
fn check_echo(client: &mut TcpStream) {
    let sent = numbers();
    let mut echoed = vec![0; sent.len()];
    thread::scope(|scope| {
        let mut writer = client.try_clone().unwrap();
        let bytes = &sent;
        scope.spawn(move || writer.write_all(bytes).unwrap());
        client.read_exact(&mut echoed).unwrap();
    });
    assert!(echoed == sent);
}

fn check(program: Command) {
    let mut guest = Guest::start(program);
    let line = guest.line();
    let address = line.strip_prefix("listening on tcp://").unwrap();
    let mut client = connect(address);
    check_echo(&mut client);

    // The drain time, a deadline, is what ends the connection.
    guest.interrupt();
    assert_eq!(client.read_to_end(&mut Vec::new()).unwrap(), 0);
    drop(client);
    let line = guest.line();
    assert!(guest.child.wait().unwrap().success());
    let turns: u32 = line.split(' ').rev().nth(1).unwrap().parse().unwrap();
    assert!(turns < MAX_TURNS, "{line}");
}

fn check_program(path: &str) {
    let help = Command::new(path).arg("--help").output().unwrap();
    assert!(help.status.success() && help.stdout.starts_with(b"usage: "));
    let mut command = Command::new(path);
    command.arg("tcp://127.0.0.1:0");
    check(command);
}

#[test]
fn poll() {
    check_program(env!("CARGO_BIN_EXE_poll"));
}

#[test]
fn calloop() {
    check_program(env!("CARGO_BIN_EXE_calloop"));
}

#[test]
fn tokio() {
    check_program(env!("CARGO_BIN_EXE_tokio"));
}

#[test]
fn async_io() {
    check_program(env!("CARGO_BIN_EXE_async_io"));
}

/// Needs `python3`. Cargo builds the library in the folder of this test.
#[test]
fn python() {
    let test = env::current_exe().unwrap();
    let library = test.with_file_name("libmio_echo_c.so");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python.py");
    let mut command = Command::new("python3");
    command.arg(script).arg(library).arg("0");
    check(command);
}
