//! Each server of this crate echoes what it receives.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

/// Of each wait in a test.
const TIMEOUT: Duration = Duration::from_secs(20);

struct Server(Child);

impl Server {
    fn start(program: &str, transport: &str, address: SocketAddr) -> Self {
        let mut command = Command::new(program);
        Server(
            command
                .args([transport, &address.to_string()])
                .spawn()
                .unwrap(),
        )
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

/// Returns a loopback address that no other test or run uses; `number` is from 0 to 2.
///
/// A free port of 127.0.0.1 would be unreliable. A process that another test forks holds copies of all
/// sockets that are open here until it calls execve(2). A listener that was closed here meanwhile
/// still accepts connections, and then resets them.
fn loopback(number: u32) -> SocketAddr {
    let host = (std::process::id() << 2 | number) & 0x00ff_ffff;
    let ip = Ipv4Addr::from_bits(Ipv4Addr::LOCALHOST.to_bits() & 0xff00_0000 | host);
    (ip, 7007).into()
}

/// Returns 100,000 pseudo-random bytes: more than the read buffer of any of the servers, but less than
/// the socket buffers hold, because the bare epoll loop drops what a send does not take.
fn noise() -> Vec<u8> {
    let mut state = 1_u32;
    let step = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..100_000).map(step).collect()
}

#[track_caller]
fn assert_echoes_streams(program: &str, number: u32) {
    let address = loopback(number);
    let _server = Server::start(program, "tcp", address);
    let mut first = connect(address);
    let mut second = connect(address);
    let noise = noise();
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

#[track_caller]
fn assert_echoes_datagrams(program: &str, number: u32) {
    let address = loopback(number);
    let _server = Server::start(program, "udp", address);
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
    assert_echoes_streams(env!("CARGO_BIN_EXE_epoll"), 0);
    assert_echoes_datagrams(env!("CARGO_BIN_EXE_epoll"), 0);
}

#[test]
fn tokio_echoes_streams_and_datagrams() {
    assert_echoes_streams(env!("CARGO_BIN_EXE_tokio"), 1);
    assert_echoes_datagrams(env!("CARGO_BIN_EXE_tokio"), 1);
}

#[test]
fn naive_mio_echoes_streams() {
    assert_echoes_streams(env!("CARGO_BIN_EXE_naive-mio"), 2);
}
