//! Each server of this crate echoes what it receives.

#[path = "../src/native.rs"]
#[expect(dead_code, reason = "the comparison also uses the versions")]
mod native;

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

/// Of each wait in a test.
const TIMEOUT: Duration = Duration::from_secs(20);

struct Server(Child);

impl Server {
    fn start(program: impl AsRef<OsStr>, arguments: &[&str]) -> Self {
        let mut command = Command::new(program);
        Server(command.args(arguments).spawn().unwrap())
    }

    /// Builds and starts a server in C or Go.
    fn start_native(name: &str, transport: &str, address: SocketAddr) -> Self {
        let native = native::NATIVE.iter().find(|it| it.name == name).unwrap();
        let program = native.build().unwrap();
        let [host, port] = [address.ip().to_string(), address.port().to_string()];
        Server::start(program, &[transport, &host, &port])
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let start = Instant::now();
    loop {
        match TcpStream::connect(address) {
            Ok(stream) => return stream,
            Err(error) => assert!(start.elapsed() < TIMEOUT, "{error}"),
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Returns a loopback address that no other test or run uses; `number` is from 0 to 7.
///
/// A free port of 127.0.0.1 would be unreliable. A process that another test forks holds copies of all
/// sockets that are open here until it calls execve(2). A listener that was closed here meanwhile
/// still accepts connections, and then resets them.
fn loopback(number: u32) -> SocketAddr {
    let host = (std::process::id() << 3 | number) & 0x00ff_ffff;
    let ip = Ipv4Addr::from_bits(Ipv4Addr::LOCALHOST.to_bits() & 0xff00_0000 | host);
    (ip, 7007).into()
}

/// Returns pseudo-random bytes: 100,000 are more than the read buffer of any of the servers, but less than
/// the socket buffers hold. The bare epoll loop drops what a send does not take.
fn noise(count: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let step = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..count).map(step).collect()
}

#[track_caller]
fn assert_echoes_streams(program: &str, number: u32) {
    let address = loopback(number);
    let _server = Server::start(program, &["tcp", &address.to_string()]);
    let mut first = connect(address);
    let mut second = connect(address);
    let noise = noise(100_000);
    for _ in 0..3 {
        for stream in [&mut first, &mut second] {
            stream.set_read_timeout(Some(TIMEOUT)).unwrap();
            stream.write_all(&noise).unwrap();
            let mut reply = vec![0; noise.len()];
            stream.read_exact(&mut reply).unwrap();
            assert!(reply == noise);
        }
    }
    // Only now that everything has come back: the naive server loses pending bytes at a half-close.
    first.shutdown(Shutdown::Write).unwrap();
    assert_eq!(first.read(&mut [0]).unwrap(), 0);
}

/// Sends 16 MiB, which is more than the socket buffers hold, and half-closes, beside a connection that sends as
/// much and does not read yet: its echoes are more than a send takes.
#[track_caller]
fn assert_echoes_before_the_end_of_a_half_closed_stream(address: SocketAddr) {
    let noise = noise(16 << 20);
    let [waiting, reading] = [(); 2].map(|()| send_and_half_close(address, noise.clone()));
    for mut stream in [reading, waiting] {
        let mut reply = Vec::new();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream.read_to_end(&mut reply).unwrap();
        assert_eq!(reply.len(), noise.len());
        assert!(reply == noise);
    }
}

/// Sends in a thread of its own, because sending blocks until the echoes are read.
fn send_and_half_close(address: SocketAddr, bytes: Vec<u8>) -> TcpStream {
    let stream = connect(address);
    let mut writer = stream.try_clone().unwrap();
    thread::spawn(move || {
        writer.write_all(&bytes).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    stream
}

#[track_caller]
fn assert_echoes_datagrams(address: SocketAddr) {
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(address).unwrap();
    client
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    let start = Instant::now();
    let mut reply = [0; 8];
    let count = loop {
        let sent = client.send(b"hello");
        match sent.and_then(|_| client.recv(&mut reply)) {
            Ok(count) => break count,
            Err(error) => assert!(start.elapsed() < TIMEOUT, "{error}"),
        }
    };
    assert_eq!(&reply[..count], b"hello");
}

#[test]
fn epoll_echoes_streams_and_datagrams() {
    let (program, address) = (env!("CARGO_BIN_EXE_epoll"), loopback(0));
    assert_echoes_streams(program, 0);
    let _server = Server::start(program, &["udp", &address.to_string()]);
    assert_echoes_datagrams(address);
}

#[test]
fn tokio_echoes_streams_and_datagrams() {
    let (program, address) = (env!("CARGO_BIN_EXE_tokio"), loopback(1));
    assert_echoes_streams(program, 1);
    let _tcp = Server::start(program, &["tcp", &address.to_string()]);
    assert_echoes_before_the_end_of_a_half_closed_stream(address);
    let _udp = Server::start(program, &["udp", &address.to_string()]);
    assert_echoes_datagrams(address);
}

#[test]
fn naive_mio_echoes_streams() {
    assert_echoes_streams(env!("CARGO_BIN_EXE_naive-mio"), 2);
}

#[test]
fn libuv_echoes_streams_and_datagrams() {
    let address = loopback(3);
    let _tcp = Server::start_native("libuv_echo", "tcp", address);
    assert_echoes_before_the_end_of_a_half_closed_stream(address);
    let _udp = Server::start_native("libuv_echo", "udp", address);
    assert_echoes_datagrams(address);
}

#[test]
fn io_uring_echoes_streams() {
    let address = loopback(4);
    let _server = Server::start_native("uring_echo", "tcp", address);
    assert_echoes_before_the_end_of_a_half_closed_stream(address);
}

#[test]
fn go_echoes_streams_and_datagrams() {
    let address = loopback(5);
    let _tcp = Server::start_native("go_echo", "tcp", address);
    assert_echoes_before_the_end_of_a_half_closed_stream(address);
    let _udp = Server::start_native("go_echo", "udp", address);
    assert_echoes_datagrams(address);
}
