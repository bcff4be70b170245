//! What the tests share: servers on free ports, clients that give up, and bytes to send.

#![allow(dead_code, reason = "each test file uses a part of it")]

pub mod host;
pub mod peers;
#[cfg(all(unix, feature = "cli"))]
pub mod service;
#[cfg(all(unix, feature = "cli"))]
pub mod systemd;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use mio_echo::{Config, ConfigBuilder, Endpoint, Server, ShutdownHandle, Stats};

/// After how long a test fails that waits for something. Nothing takes nearly as long.
pub const LIMIT: Duration = Duration::from_secs(30);

/// A configuration for TCP on a free port of 127.0.0.1.
pub fn config() -> ConfigBuilder {
    config_at("tcp://127.0.0.1:0")
}

pub fn config_at(endpoint: &str) -> ConfigBuilder {
    Config::builder().endpoint(endpoint.parse().unwrap())
}

/// A server whose turns the test makes itself, in its own thread.
pub fn bind(config: ConfigBuilder) -> (Server, SocketAddr) {
    let server = Server::bind(config.build().unwrap()).unwrap();
    let address = addresses(&server)[0];
    (server, address)
}

/// Where the server listens: IP addresses and ports.
pub fn addresses(server: &Server) -> Vec<SocketAddr> {
    let endpoints = server.endpoints().iter();
    endpoints.filter_map(Endpoint::address).collect()
}

/// Gives the server turns until `condition` holds.
pub fn turn_until(server: &mut Server, mut condition: impl FnMut(&mut Server) -> bool) {
    let start = Instant::now();
    while !condition(server) {
        assert!(
            start.elapsed() < LIMIT,
            "in vain, after {:?}",
            server.stats()
        );
        server.turn(Some(Duration::from_millis(1))).unwrap();
    }
}

/// Gives the server turns until nothing happens any more.
pub fn settle(server: &mut Server) {
    turn_until(server, |server| {
        let before = server.stats();
        server.turn(Some(Duration::from_millis(10))).unwrap();
        let mut after = server.stats();
        after.iterations = before.iterations;
        !has_work(server) && after == before
    });
}

/// Whether somebody has a place on the run queue, so that the loop would not sleep.
pub fn has_work(server: &Server) -> bool {
    server.timeout() == Some(Duration::ZERO)
}

/// Sends from `bytes`, and lets the server echo, until neither side has room, because nobody reads
/// what comes back. Gives how many bytes were sent.
pub fn stall(server: &mut Server, client: &mut TcpStream, bytes: &[u8]) -> usize {
    let mut sent = 0;
    loop {
        let more = send_what_fits(client, &bytes[sent..]);
        settle(server);
        sent += more;
        if more == 0 {
            assert!(
                sent < bytes.len(),
                "buffers as large as that cannot be filled"
            );
            return sent;
        }
    }
}

/// A server that runs in a thread of its own, until it is dropped.
pub struct Running {
    pub addresses: Vec<SocketAddr>,
    handle: ShutdownHandle,
    thread: Option<JoinHandle<Stats>>,
}

impl Running {
    pub fn start(config: ConfigBuilder) -> Self {
        let (mut server, _) = bind(config);
        Running {
            addresses: addresses(&server),
            handle: server.shutdown_handle(),
            thread: Some(thread::spawn(move || {
                server.run().unwrap();
                server.stats()
            })),
        }
    }

    pub fn connect(&self) -> TcpStream {
        connect(self.addresses[0])
    }

    pub fn shutdown_handle(&self) -> ShutdownHandle {
        self.handle.clone()
    }

    /// Shuts it down, and waits until it has finished.
    pub fn stop(mut self) -> Stats {
        self.end().unwrap().unwrap()
    }

    fn end(&mut self) -> Option<thread::Result<Stats>> {
        let thread = self.thread.take()?;
        self.handle.shutdown().unwrap();
        wait_until(|| thread.is_finished());
        Some(thread.join())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Where the test has failed already, its message is the one to see.
        if !thread::panicking() {
            assert!(
                self.end().is_none_or(|end| end.is_ok()),
                "the server panicked"
            );
        }
    }
}

/// Waits for something that nobody announces.
pub fn wait_until(mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LIMIT, "in vain");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Waits for the end of a process, which it should come to by itself.
pub fn wait(child: &mut Child) -> ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if start.elapsed() > LIMIT {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("it did not end");
        }
        thread::sleep(Duration::from_millis(1));
    }
}

#[cfg(unix)]
pub fn signal(child: &Child, signal: nix::sys::signal::Signal) {
    let pid = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
    nix::sys::signal::kill(pid, signal).unwrap();
}

/// An example, which lies beside the directory of the tests.
pub fn example(name: &str) -> Command {
    let test = std::env::current_exe().unwrap();
    let build = test.parent().unwrap().parent().unwrap();
    let path = build.join("examples").join(name);
    assert!(
        path.exists(),
        "{} is not built: cargo build --examples",
        path.display()
    );
    Command::new(path)
}

/// What an example printed, and how it ended. Each test file asks it what it wants to know.
#[derive(Debug)]
pub struct Outcome {
    pub status: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Whether what a test needs is here. Where it is not the test is left out, and says so; but not
/// in continuous integration, where nothing must be missing.
pub fn is_here(what: &str, is_here: bool) -> bool {
    assert!(
        is_here || std::env::var_os("CI").is_none(),
        "{what} is missing"
    );
    if !is_here {
        eprintln!("left out: {what} is missing");
    }
    is_here
}

pub fn has_ipv6() -> bool {
    is_here("IPv6", std::net::TcpListener::bind("[::1]:0").is_ok())
}

/// A client whose reads and writes give up after [`LIMIT`].
pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.set_write_timeout(Some(LIMIT)).unwrap();
    stream
}

/// Sends `bytes` and reads as many.
pub fn echo(stream: &mut (impl Read + Write), bytes: &[u8]) -> Vec<u8> {
    stream.write_all(bytes).unwrap();
    let mut echoed = vec![0; bytes.len()];
    stream.read_exact(&mut echoed).unwrap();
    echoed
}

/// Whether bytes come back over the connection.
pub fn is_served(stream: &mut TcpStream) -> bool {
    echo(stream, b"are you there?") == b"are you there?"
}

/// Sends `bytes`, half-closes, and meanwhile reads to the end of the stream.
pub fn echo_to_the_end(stream: TcpStream, bytes: &[u8]) -> Vec<u8> {
    let mut reader = stream.try_clone().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            (&stream).write_all(bytes).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
        });
        read_to_the_end(&mut reader)
    })
}

pub fn read_to_the_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

/// Sends from `bytes` what the system takes without waiting.
pub fn send_what_fits(stream: &mut TcpStream, bytes: &[u8]) -> usize {
    stream.set_nonblocking(true).unwrap();
    let mut sent = 0;
    while sent < bytes.len() {
        match stream.write(&bytes[sent..]) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
    }
    stream.set_nonblocking(false).unwrap();
    sent
}

/// Bytes without a short period (a xorshift generator), so that none is mistaken for another.
pub fn noise(count: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_be_bytes()[0]
    };
    (0..count).map(|_| next()).collect()
}

/// Closes so that the peer's connection is reset.
pub fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(stream);
}

/// A directory of a test's own, gone at its end.
pub struct Directory(PathBuf);

impl Directory {
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("mio-echo-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Directory(path)
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
