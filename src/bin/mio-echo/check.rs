//! `mio-echo check`: is a service there, and does it echo? For containers that have nothing else inside.

use std::fmt::Display;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use mio_echo::Endpoint;

use crate::cli::CliError;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// HOST:PORT (TCP and UDP), tcp://HOST:PORT, udp://HOST:PORT, unix:PATH or unix:@NAME
    #[arg(value_name = "ENDPOINT")]
    endpoint: String,
}

/// After how long there is no more to be hoped for: with it, the answer is there within a second.
const LIMIT: Duration = Duration::from_millis(800);

/// What is sent, and is to come back.
const BYTES: &[u8] = b"mio-echo check: are you there?";

/// Checks the endpoint. A name is checked at each of its addresses until one is fine, as clients
/// try them; TCP and UDP have to be fine both where both are meant.
pub(crate) fn check(options: &Options) -> Result<(), CliError> {
    let endpoint = &options.endpoint;
    let deadline = Instant::now() + LIMIT;
    let text = endpoint.clone();
    let resolved = within(LIMIT, move || Endpoint::resolve(&text));
    let resolved = resolved.map_err(|problem| failure(endpoint, problem))?;
    let endpoints = resolved.map_err(CliError::failure)?;
    let mut checked = Ok(());
    for (index, endpoint) in endpoints.iter().enumerate() {
        // Each address has its share of the time: one that is silent leaves some for the others.
        let left = u32::try_from(endpoints.len() - index).unwrap_or(u32::MAX);
        let share = deadline.saturating_duration_since(Instant::now()) / left;
        checked = check_one(endpoint, share);
        if checked.is_ok() {
            break;
        }
    }
    checked
}

fn check_one(endpoint: &Endpoint, limit: Duration) -> Result<(), CliError> {
    let copy = endpoint.clone();
    let problem = match within(limit, move || talk(&copy)) {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => error.to_string(),
        Err(problem) => problem.to_owned(),
    };
    Err(failure(&endpoint.to_string(), problem))
}

/// The result of a call, or why there is none after `limit`. The call has a thread that is not joined:
/// neither the look-up of a name nor connect(2) to a Unix socket has a limit of its own.
fn within<T: Send + 'static>(
    limit: Duration,
    call: impl FnOnce() -> T + Send + 'static,
) -> Result<T, &'static str> {
    let (sender, receiver) = channel();
    thread::spawn(move || sender.send(call()));
    receiver.recv_timeout(limit).map_err(|error| match error {
        RecvTimeoutError::Timeout => "no answer in time",
        RecvTimeoutError::Disconnected => "the check broke off",
    })
}

fn failure(endpoint: &str, problem: impl Display) -> CliError {
    CliError::failure(format!(
        "{endpoint}: {problem}; see whether the service runs there"
    ))
}

fn talk(endpoint: &Endpoint) -> io::Result<()> {
    match endpoint {
        Endpoint::TcpAndUdp(address) => {
            talk_in_a_stream(TcpStream::connect(address)?)?;
            talk_in_datagrams(*address)
        }
        Endpoint::Tcp(address) => talk_in_a_stream(TcpStream::connect(address)?),
        Endpoint::Udp(address) => talk_in_datagrams(*address),
        #[cfg(unix)]
        Endpoint::Unix(path) => talk_in_a_stream(std::os::unix::net::UnixStream::connect(path)?),
        #[cfg(target_os = "linux")]
        Endpoint::Abstract(name) => {
            use std::os::linux::net::SocketAddrExt;
            use std::os::unix::net::{SocketAddr, UnixStream};

            let address = SocketAddr::from_abstract_name(name)?;
            talk_in_a_stream(UnixStream::connect_addr(&address)?)
        }
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}

fn talk_in_a_stream(mut stream: impl Read + Write) -> io::Result<()> {
    let mut echoed = [0; BYTES.len()];
    stream.write_all(BYTES)?;
    stream.read_exact(&mut echoed)?;
    compare(&echoed)
}

fn talk_in_datagrams(address: SocketAddr) -> io::Result<()> {
    // Any port of any address of this host, of the same family.
    let any = match address {
        SocketAddr::V4(_) => SocketAddr::from(([0; 4], 0)),
        SocketAddr::V6(_) => SocketAddr::from(([0; 16], 0)),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(address)?;
    socket.send(BYTES)?;
    // Room for one byte more, so that a longer answer is not taken for the right one.
    let mut echoed = [0; BYTES.len() + 1];
    let count = socket.recv(&mut echoed)?;
    compare(&echoed[..count])
}

fn compare(echoed: &[u8]) -> io::Result<()> {
    if echoed == BYTES {
        Ok(())
    } else {
        Err(io::Error::other("other bytes came back"))
    }
}
