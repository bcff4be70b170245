//! When a server can begin: it has a port, and echoes there.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};

use crate::process::ProcessGroup;
use crate::servers::Transport;
use crate::stop::Stop;

const LIMIT: Duration = Duration::from_secs(10);

/// From where to ask. From the server's own address the system might choose the server's port as
/// well, as long as nobody listens there, and the socket would talk to itself.
const FROM: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)), 0);

/// A port that nobody has just now.
pub(crate) fn free_port(transport: Transport) -> Result<u16> {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let address = match transport {
        Transport::Tcp => TcpListener::bind(any).and_then(|it| it.local_addr()),
        Transport::Udp => UdpSocket::bind(any).and_then(|it| it.local_addr()),
    };
    Ok(address.context("a free port")?.port())
}

/// Tries until the server echoes.
pub(crate) fn wait_for(
    server: &ProcessGroup,
    transport: Transport,
    port: u16,
    stop: &Stop,
) -> Result<()> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let begin = Instant::now();
    loop {
        let echoed = match transport {
            Transport::Tcp => echo_in_stream(address),
            Transport::Udp => echo_datagram(address),
        };
        let Err(error) = echoed else {
            return Ok(());
        };
        stop.check()?;
        ensure!(!server.has_ended()?, "the server has ended");
        ensure!(begin.elapsed() < LIMIT, "the server does not echo: {error}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn echo_in_stream(address: SocketAddr) -> io::Result<()> {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&socket, &FROM)?;
    connect(&socket, &address)?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.write_all(b"?")?;
    stream.read_exact(&mut [0])
}

fn echo_datagram(address: SocketAddr) -> io::Result<()> {
    let socket = UdpSocket::bind(FROM)?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    socket.connect(address)?;
    socket.send(b"?")?;
    socket.recv(&mut [0]).map(drop)
}
