//! An echo client, as the socket tutorials have it: socket, connect, send, recv, close.
//!
//! `cargo run --example client -- 127.0.0.1:7007` sends what you type, line by line, and prints
//! what comes back. It takes the endpoints that the service prints:
//!
//! - `tcp://HOST:PORT`, or `HOST:PORT` for short, and `unix:PATH` or `unix:@NAME`: a stream. At
//!   the end of the input (Ctrl-D) it half-closes the connection, and waits until the other end
//!   has closed its half too.
//! - `udp://HOST:PORT`: a datagram for each line. One whose answer does not come is reported.
//!
//! It prints what comes back and does not compare it; `ping` does.
//!
//! Exit status: 0 all was sent and answered, 1 something went wrong or was lost, 2 the arguments
//! are wrong.

use std::env;
use std::io::{self, BufRead, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
#[cfg(unix)]
use std::os::unix::net::UnixStream;
#[cfg(target_os = "linux")]
use std::os::{linux::net::SocketAddrExt, unix::net::SocketAddr as UnixSocketAddr};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use mio_echo::{Endpoint, EndpointErrorKind};

/// For how long a datagram's answer is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// The most that a datagram over IPv4 holds: 65,535 bytes less the headers of IP and UDP.
const LARGEST_DATAGRAM: usize = 65_507;

const USAGE: &str = "usage: client HOST:PORT | tcp://HOST:PORT | udp://HOST:PORT | unix:PATH";

fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(1);
    let endpoint = arguments.next().and_then(|text| text.into_string().ok());
    if endpoint.as_deref() == Some("--help") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let (Some(endpoint), None) = (endpoint, arguments.next()) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let endpoints = match Endpoint::resolve(&endpoint) {
        Ok(endpoints) => endpoints,
        Err(error) => {
            eprintln!("client: {error}");
            let is_typo = error.kind() != EndpointErrorKind::Unresolved;
            return ExitCode::from(if is_typo { 2 } else { 1 });
        }
    };
    match connect_to_first(&endpoints).and_then(talk) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_lost) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("client: {endpoint}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A socket that knows its peer: bytes in order, or datagrams that may get lost.
enum Socket {
    Stream(Box<dyn Stream>),
    Datagram(UdpSocket),
}

/// What TCP and Unix streams have in common: once connected, they are used alike.
trait Stream: Read + Write {
    fn half_close(&self) -> io::Result<()>;
}

impl Stream for TcpStream {
    fn half_close(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

#[cfg(unix)]
impl Stream for UnixStream {
    fn half_close(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

/// Tries the addresses of a host in the order in which the resolver gave them, as it meant them.
fn connect_to_first(endpoints: &[Endpoint]) -> io::Result<Socket> {
    let mut result = Err(ErrorKind::NotFound.into());
    for endpoint in endpoints {
        result = connect(endpoint);
        if result.is_ok() {
            break;
        }
    }
    result
}

/// socket(2) and connect(2).
fn connect(endpoint: &Endpoint) -> io::Result<Socket> {
    Ok(match endpoint {
        // Without a transport the service means TCP and UDP, but one of them is enough here.
        Endpoint::TcpAndUdp(address) | Endpoint::Tcp(address) => {
            Socket::Stream(Box::new(TcpStream::connect(address)?))
        }
        Endpoint::Udp(address) => Socket::Datagram(connect_datagram(*address)?),
        #[cfg(unix)]
        Endpoint::Unix(path) => Socket::Stream(Box::new(UnixStream::connect(path)?)),
        #[cfg(target_os = "linux")]
        Endpoint::Abstract(name) => {
            let address = UnixSocketAddr::from_abstract_name(name)?;
            Socket::Stream(Box::new(UnixStream::connect_addr(&address)?))
        }
        _ => {
            let text = "this system has no such sockets";
            return Err(io::Error::new(ErrorKind::Unsupported, text));
        }
    })
}

fn connect_datagram(address: SocketAddr) -> io::Result<UdpSocket> {
    // bind(2): any address of ours, of the same family, and port 0: a free one.
    let socket = match address {
        SocketAddr::V4(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)),
    }?;
    // connect(2) sends nothing here: it notes the peer. From now on send(2) needs no address, as
    // sendto(2) would; datagrams of others are kept out; and where the peer's host answers that
    // nobody listens at that port, the next call says so ("refused").
    socket.connect(address)?;
    Ok(socket)
}

/// Gives how many datagrams were lost. Of a stream nothing is ever lost: it comes, or it fails.
fn talk(socket: Socket) -> io::Result<u64> {
    match socket {
        Socket::Stream(mut stream) => talk_in_a_stream(&mut *stream).map(|()| 0),
        Socket::Datagram(socket) => talk_in_datagrams(&socket),
    }
    // close(2), as the socket goes out of scope.
}

fn talk_in_a_stream(stream: &mut dyn Stream) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let count = io::stdin().read(&mut buffer)?;
        if count == 0 {
            break;
        }
        // "sendall": send(2) may take less than it is given, write_all calls it until all is sent.
        stream.write_all(&buffer[..count])?;
        // What was sent comes back, before more is sent: two ends that only send would soon
        // wait for each other for ever, each for the other to receive.
        receive(stream, count)?;
    }

    // shutdown(2): no more is sent, but what is still on its way can be received. The other end
    // reads an end of stream, and closes when it has sent its last.
    stream.half_close()?;
    receive(stream, usize::MAX)
}

/// Prints what comes, up to `most` bytes or the end of the stream.
fn receive(stream: &mut dyn Stream, most: usize) -> io::Result<()> {
    let mut buffer = [0; 4096];
    let mut left = most;
    let mut stdout = io::stdout();
    while left > 0 {
        // recv(2) gives what is there, which may be a part of what was sent, and waits if there
        // is nothing. Zero bytes are the end of the stream.
        let size = left.min(buffer.len());
        let count = stream.read(&mut buffer[..size])?;
        if count == 0 && most != usize::MAX {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if count == 0 {
            break;
        }
        stdout.write_all(&buffer[..count])?;
        left -= count;
    }
    stdout.flush()
}

/// Gives how many lines got no answer.
fn talk_in_datagrams(socket: &UdpSocket) -> io::Result<u64> {
    let mut stdin = io::stdin().lock();
    let mut lost = 0;
    loop {
        // A line is a datagram, with its end; one that is too long for that is several.
        let mut line = Vec::new();
        let mut start = stdin.by_ref().take(LARGEST_DATAGRAM as u64);
        if start.read_until(b'\n', &mut line)? == 0 {
            // Nothing tells the other end: there is no connection that could be closed.
            return Ok(lost);
        }
        // send(2) takes a datagram whole or not at all: there is no rest to send.
        socket.send(&line)?;
        if !is_answered(socket, &line)? {
            eprintln!("no answer");
            lost += 1;
        }
    }
}

/// Prints what comes, until it is what was sent, or the time is over.
fn is_answered(socket: &UdpSocket, sent: &[u8]) -> io::Result<bool> {
    let mut buffer = vec![0; LARGEST_DATAGRAM];
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        // Without a limit (SO_RCVTIMEO, see socket(7)) one lost datagram would stop it all.
        socket.set_read_timeout(Some(left))?;
        // recv(2) gives one datagram, never a part of it or two at once.
        match socket.recv(&mut buffer) {
            Ok(count) => {
                let mut stdout = io::stdout();
                stdout.write_all(&buffer[..count])?;
                stdout.flush()?;
                // Another one may be late, an answer to an earlier line, or there twice.
                if &buffer[..count] == sent {
                    return Ok(true);
                }
            }
            // The time is over, as Unix says it and as Windows does.
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
