//! `mio-echo check`: a health check for containers that hold nothing else. Blocking calls in threads,
//! because resolving a name and connecting to a Unix socket have no timeout of their own.

use std::fmt::Display;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
#[cfg(target_os = "linux")]
use std::os::linux::net::SocketAddrExt;
#[cfg(unix)]
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use mio_echo::Endpoint;

use crate::cli::CliError;

/// Overall timeout, so that the result is known within a second.
const TIMEOUT: Duration = Duration::from_millis(800);

const MESSAGE: &[u8] = b"mio-echo check: are you there?";

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// HOST:PORT (TCP and UDP), tcp://HOST:PORT, udp://HOST:PORT, unix:PATH or unix:@NAME
    #[arg(value_name = "ENDPOINT")]
    endpoint: String,
}

/// Succeeds if the endpoint echoes. A name is checked at all of its addresses at once, and one of them
/// is enough. `HOST:PORT` has to echo over both TCP and UDP.
pub(crate) fn check(options: &Options) -> Result<(), CliError> {
    let deadline = Instant::now() + TIMEOUT;
    let (sender, receiver) = channel();
    let text = options.endpoint.clone();
    thread::spawn(move || check_addresses(&text, &sender));
    let mut last_error = failure(&options.endpoint, "no answer in time");
    loop {
        match receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => last_error = error,
            // Timed out, or this was the last result.
            Err(_) => return Err(last_error),
        }
    }
}

/// Sends the result of each address. The channel is closed after the last of them.
fn check_addresses(text: &str, results: &Sender<Result<(), CliError>>) {
    let endpoints = Endpoint::resolve(text).unwrap_or_else(|error| {
        // The check may have timed out: then no result is received.
        let _ = results.send(Err(CliError::failure(error)));
        Vec::new()
    });
    for endpoint in endpoints {
        let results = results.clone();
        thread::spawn(move || {
            let result = echo(&endpoint).map_err(|error| failure(&endpoint, error));
            let _ = results.send(result);
        });
    }
}

fn failure(endpoint: impl Display, problem: impl Display) -> CliError {
    CliError::failure(format!(
        "{endpoint}: {problem}; check that the service runs there"
    ))
}

fn echo(endpoint: &Endpoint) -> io::Result<()> {
    match endpoint {
        Endpoint::TcpAndUdp(address) => {
            echo_stream(TcpStream::connect(address)?)?;
            echo_datagram(*address)
        }
        Endpoint::Tcp(address) => echo_stream(TcpStream::connect(address)?),
        Endpoint::Udp(address) => echo_datagram(*address),
        #[cfg(unix)]
        Endpoint::Unix(path) => echo_stream(UnixStream::connect(path)?),
        #[cfg(target_os = "linux")]
        Endpoint::Abstract(name) => {
            let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
            echo_stream(UnixStream::connect_addr(&address)?)
        }
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}

fn echo_stream(mut stream: impl Read + Write) -> io::Result<()> {
    let mut echoed = [0; MESSAGE.len()];
    stream.write_all(MESSAGE)?;
    stream.read_exact(&mut echoed)?;
    compare(&echoed)
}

fn echo_datagram(address: SocketAddr) -> io::Result<()> {
    let any = match address {
        SocketAddr::V4(_) => SocketAddr::from(([0; 4], 0)),
        SocketAddr::V6(_) => SocketAddr::from(([0; 16], 0)),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(address)?;
    socket.send(MESSAGE)?;
    // One byte more, so that a longer answer is not cut to the right length.
    let mut echoed = [0; MESSAGE.len() + 1];
    let count = socket.recv(&mut echoed)?;
    compare(&echoed[..count])
}

fn compare(echoed: &[u8]) -> io::Result<()> {
    if echoed == MESSAGE {
        Ok(())
    } else {
        Err(io::Error::other("other bytes came back"))
    }
}
