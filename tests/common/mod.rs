//! Shared by the tests: servers on free ports, clients with a time limit, and bytes to send.

#![allow(dead_code, reason = "each test file uses a part of it")]

pub mod host;
pub mod peers;
#[cfg(all(unix, feature = "cli"))]
pub mod service;
#[cfg(all(unix, feature = "cli"))]
pub mod systemd;

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
#[cfg(unix)]
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use mio_echo::{Config, ConfigBuilder, Endpoint, Server, ShutdownHandle, Stats};
use socket2::{Domain, SockRef, Socket, Type};

/// The time limit of each wait. No test needs nearly as long.
pub const LIMIT: Duration = Duration::from_secs(30);

/// A configuration for TCP on a free port of 127.0.0.1.
pub fn config() -> ConfigBuilder {
    config_at("tcp://127.0.0.1:0")
}

pub fn config_at(endpoint: &str) -> ConfigBuilder {
    Config::builder().endpoint(endpoint.parse().unwrap())
}

/// A configuration with small socket buffers, so that connections are soon write-blocked.
pub fn small_buffers() -> ConfigBuilder {
    config().socket_buffer(SMALL_BUFFER)
}

/// In bytes. Linux doubles it, and over loopback less than a segment of 64 KiB costs time.
const SMALL_BUFFER: usize = 64 * 1024;

/// A server whose turns the test makes, in its own thread.
pub fn bind(config: ConfigBuilder) -> (Server, SocketAddr) {
    raise_nofile_limit();
    let server = Server::bind(config.build().unwrap()).unwrap();
    let address = addresses(&server)[0];
    (server, address)
}

/// The IP addresses and ports of all endpoints.
pub fn addresses(server: &Server) -> Vec<SocketAddr> {
    let endpoints = server.endpoints().iter();
    endpoints.filter_map(Endpoint::address).collect()
}

/// Raises the soft limit on open files to 1,024 where it is lower. The tests of one binary run in
/// parallel in one process.
pub fn raise_nofile_limit() {
    #[cfg(unix)]
    {
        use nix::sys::resource::{Resource::RLIMIT_NOFILE, getrlimit, setrlimit};

        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            let (soft, hard) = getrlimit(RLIMIT_NOFILE).unwrap();
            setrlimit(RLIMIT_NOFILE, soft.max(hard.min(1024)), hard).unwrap();
        });
    }
}

/// A `Server`, or an `Echo` in a [`host::Host`].
pub trait Engine {
    /// Waits for events for at most `timeout` and handles them.
    fn turn(&mut self, timeout: Duration);

    fn stats(&self) -> Stats;

    /// Whether the run queue is not empty, so that the loop would not sleep.
    fn has_work(&self) -> bool;
}

impl Engine for Server {
    fn turn(&mut self, timeout: Duration) {
        self.turn(Some(timeout)).unwrap();
    }

    fn stats(&self) -> Stats {
        self.stats()
    }

    fn has_work(&self) -> bool {
        self.timeout() == Some(Duration::ZERO)
    }
}

/// Makes turns until `condition` holds.
pub fn turn_until<E: Engine>(engine: &mut E, mut condition: impl FnMut(&mut E) -> bool) {
    let start = Instant::now();
    while !condition(engine) {
        let stats = engine.stats();
        assert!(start.elapsed() < LIMIT, "timed out with {stats:?}");
        engine.turn(Duration::from_millis(1));
    }
}

/// Makes turns until one of 5 ms changes nothing.
pub fn run_until_idle<E: Engine>(engine: &mut E) {
    turn_until(engine, |engine| {
        let before = engine.stats();
        engine.turn(Duration::from_millis(5));
        let mut after = engine.stats();
        after.iterations = before.iterations;
        !engine.has_work() && after == before
    });
}

/// Connects a client and accepts it.
pub fn accept<E: Engine, C>(engine: &mut E, connect: impl FnOnce() -> C) -> C {
    let accepted = engine.stats().accepted;
    let client = connect();
    turn_until(engine, |engine| engine.stats().accepted == accepted + 1);
    client
}

/// Connects a client to the first endpoint and accepts it.
pub fn accept_one(server: &mut Server) -> TcpStream {
    let address = addresses(server)[0];
    accept(server, || connect(address))
}

/// Sends from `bytes` without reading until the connection is write-blocked and neither side has
/// room. Returns how many bytes were sent.
pub fn write_block(engine: &mut impl Engine, client: &mut TcpStream, bytes: &[u8]) -> usize {
    let start = Instant::now();
    let before = engine.stats().buffered;
    let mut sent = 0;
    loop {
        assert!(
            sent < bytes.len(),
            "more bytes are needed to fill the buffers"
        );
        let count = send_until_blocked(client, &bytes[sent..]);
        run_until_idle(engine);
        sent += count;
        let stats = engine.stats();
        if count == 0 && stats.buffered > before {
            return sent;
        }
        assert!(start.elapsed() < LIMIT, "never write-blocked: {stats:?}");
    }
}

/// A server that runs in a thread of its own until it is dropped.
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

    /// Shuts the server down and waits until it has finished.
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
        // If the test has failed already, its message is the one to show.
        if !thread::panicking() {
            assert!(
                self.end().is_none_or(|end| end.is_ok()),
                "the server panicked"
            );
        }
    }
}

/// Polls for a condition that no event announces.
pub fn wait_until(mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LIMIT, "timed out");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Waits for the exit of a process that is expected to exit by itself.
pub fn wait(child: &mut Child) -> ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if start.elapsed() > LIMIT {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("the process did not exit");
        }
        thread::sleep(Duration::from_millis(1));
    }
}

#[cfg(unix)]
pub fn signal(child: &Child, signal: nix::sys::signal::Signal) {
    let pid = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
    nix::sys::signal::kill(pid, signal).unwrap();
}

/// The command of an example. Cargo builds examples beside the directory of the tests.
pub fn example(name: &str) -> Command {
    let test = std::env::current_exe().unwrap();
    let build = test.parent().unwrap().parent().unwrap();
    let file = format!("{name}{}", std::env::consts::EXE_SUFFIX);
    let path = build.join("examples").join(file);
    assert!(
        path.exists(),
        "{} is not built: cargo build --examples",
        path.display()
    );
    // On another processor, the variable names the emulator; see `tests/system/systems.py`.
    let Some(emulator) = std::env::var_os("EMULATOR") else {
        return Command::new(path);
    };
    let mut command = Command::new(emulator);
    command.arg(path);
    command
}

/// The output and exit status of an example.
#[derive(Debug)]
pub struct Outcome {
    pub status: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Reports a missing requirement of a test, which then skips itself. In continuous integration a
/// missing requirement is a failure.
pub fn is_here(what: &str, is_here: bool) -> bool {
    assert!(
        is_here || std::env::var_os("CI").is_none(),
        "{what} is missing"
    );
    if !is_here {
        eprintln!("skipped: {what} is missing");
    }
    is_here
}

pub fn has_ipv6() -> bool {
    is_here("IPv6", std::net::TcpListener::bind("[::1]:0").is_ok())
}

/// A client whose reads and writes time out after [`LIMIT`].
pub fn connect(address: SocketAddr) -> TcpStream {
    with_timeouts(TcpStream::connect(address).unwrap())
}

/// A client with socket buffers of that many bytes, which the system does not tune.
pub fn connect_with_buffers(address: SocketAddr, receive: usize, send: usize) -> TcpStream {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(receive).unwrap();
    socket.set_send_buffer_size(send).unwrap();
    socket.connect(&address.into()).unwrap();
    with_timeouts(socket.into())
}

/// A client with buffers as those of [`small_buffers`].
pub fn connect_small(address: SocketAddr) -> TcpStream {
    connect_with_buffers(address, SMALL_BUFFER, SMALL_BUFFER)
}

/// A client with another source address.
pub fn connect_from(source: Ipv4Addr, address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
    socket.connect(&address.into()).unwrap();
    with_timeouts(socket.into())
}

fn with_timeouts(stream: TcpStream) -> TcpStream {
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

/// Whether the connection echoes.
pub fn is_served(stream: &mut TcpStream) -> bool {
    echo(stream, b"are you there?") == b"are you there?"
}

/// Sends `bytes` and half-closes, while another thread reads to the end of the stream.
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

/// Sends from `bytes` until a write would block. Returns how many bytes were sent.
pub fn send_until_blocked(stream: &mut TcpStream, bytes: &[u8]) -> usize {
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

/// Reads until a read would block, or to the end of the stream. Returns how many bytes were read.
pub fn read_until_blocked(stream: &mut TcpStream, buffer: &mut [u8]) -> usize {
    stream.set_nonblocking(true).unwrap();
    let mut count = 0;
    while let Ok(more @ 1..) = stream.read(buffer) {
        count += more;
    }
    stream.set_nonblocking(false).unwrap();
    count
}

/// Bytes without a short period, so that a lost, repeated or moved byte is noticed.
pub fn random_bytes(count: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = vec![0; count.next_multiple_of(8)];
    for chunk in bytes.chunks_exact_mut(8) {
        // A xorshift generator.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        chunk.copy_from_slice(&state.to_be_bytes());
    }
    bytes.truncate(count);
    bytes
}

/// Resets the connection.
pub fn reset(stream: TcpStream) {
    SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(stream);
}

/// A temporary directory, removed when it is dropped.
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

/// The permissions of the file itself, and not of one that it links to.
#[cfg(target_os = "linux")]
pub fn mode_of(file: &std::path::Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;

    std::fs::symlink_metadata(file)
        .unwrap()
        .permissions()
        .mode()
        & 0o7777
}
