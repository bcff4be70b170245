//! Waits until a server echoes at its port.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};

use crate::process::ProcessGroup;
use crate::servers::Transport;
use crate::stop::Stop;

const STARTUP_TIMEOUT: Duration = Duration::from_secs(10);

/// Source address of the probes. With the server's address, the kernel could choose the server's port as
/// the source port before the server listens, and the socket would connect to itself.
const SOURCE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)), 0);

/// Returns a port of 127.0.0.1 that is free at present.
pub(crate) fn free_port(transport: Transport) -> Result<u16> {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let address = match transport {
        Transport::Tcp => TcpListener::bind(any).and_then(|it| it.local_addr()),
        Transport::Udp => UdpSocket::bind(any).and_then(|it| it.local_addr()),
    };
    Ok(address.context("no free port")?.port())
}

/// Sends probes until the server echoes.
///
/// Fails if the server exits or does not echo within 10 seconds, or when a signal stops the run.
pub(crate) fn wait_until_ready(
    server: &ProcessGroup,
    transport: Transport,
    port: u16,
    stop: &Stop,
) -> Result<()> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let start = Instant::now();
    loop {
        let echoed = match transport {
            Transport::Tcp => probe_stream(address),
            Transport::Udp => probe_datagram(address),
        };
        let Err(error) = echoed else {
            return Ok(());
        };
        stop.check()?;
        ensure!(!server.has_exited()?, "the server has exited");
        ensure!(
            start.elapsed() < STARTUP_TIMEOUT,
            "the server does not echo: {error}"
        );
        thread::sleep(Duration::from_millis(10));
    }
}

fn probe_stream(address: SocketAddr) -> io::Result<()> {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&socket, &SOURCE)?;
    connect(&socket, &address)?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.write_all(b"?")?;
    stream.read_exact(&mut [0])
}

fn probe_datagram(address: SocketAddr) -> io::Result<()> {
    let socket = UdpSocket::bind(SOURCE)?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    socket.connect(address)?;
    socket.send(b"?")?;
    socket.recv(&mut [0]).map(drop)
}
