//! `mio-echo check`: a health check for containers that hold nothing else. Blocking calls in threads,
//! because resolving a name and connecting to a Unix socket have no timeout of their own.

use std::fmt::Display;
use std::io::{self, Read, Write};
use std::sync::mpsc::{Sender, channel};
use std::thread::Builder;
use std::time::{Duration, Instant};

use clap::Args;
use mio_echo::Endpoint;
use socket2::{SockAddr, Socket, Type};

use crate::cli::CliError;

/// Overall timeout, so that the result is known within a second.
const TIMEOUT: Duration = Duration::from_millis(800);

const MESSAGE: &[u8] = b"mio-echo check: are you there?";

#[derive(Debug, Args)]
#[command(after_long_help = include_str!("check_help.txt"))]
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
    Builder::new()
        .spawn(move || check_addresses(&text, &sender))
        .map_err(|error| no_thread(&options.endpoint, &error))?;
    let look_up = format!(
        "{}: no answer from the look-up of the name in time",
        options.endpoint
    );
    let mut last_error = CliError::failure(look_up);
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
    // From here on it is the service that has to answer.
    if !endpoints.is_empty() {
        let _ = results.send(Err(failure(text, "no answer in time")));
    }
    for endpoint in endpoints {
        let sender = results.clone();
        let spawned = Builder::new().spawn(move || {
            let result = echo(&endpoint).map_err(|error| failure(&endpoint, error));
            let _ = sender.send(result);
        });
        if let Err(error) = spawned {
            let _ = results.send(Err(no_thread(text, &error)));
        }
    }
}

/// The service may run: a container that limits its processes also limits threads.
fn no_thread(endpoint: &str, error: &io::Error) -> CliError {
    CliError::failure(format!(
        "{endpoint}: cannot create a thread: {error}; raise the limit on processes or memory"
    ))
}

fn failure(endpoint: impl Display, problem: impl Display) -> CliError {
    CliError::failure(format!(
        "{endpoint}: {problem}; check that the service runs there"
    ))
}

fn echo(endpoint: &Endpoint) -> io::Result<()> {
    match endpoint {
        Endpoint::TcpAndUdp(address) => {
            echo_over(Type::STREAM, &(*address).into())?;
            echo_over(Type::DGRAM, &(*address).into())
        }
        Endpoint::Tcp(address) => echo_over(Type::STREAM, &(*address).into()),
        Endpoint::Udp(address) => echo_over(Type::DGRAM, &(*address).into()),
        Endpoint::Unix(path) if path.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        Endpoint::Unix(path) => echo_over(Type::STREAM, &SockAddr::unix(path)?),
        Endpoint::Abstract(name) => {
            // A zero byte marks an abstract name; see unix(7). An argument is UTF-8.
            let name = String::from_utf8_lossy(name);
            echo_over(Type::STREAM, &SockAddr::unix(format!("\0{name}"))?)
        }
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}

fn echo_over(kind: Type, address: &SockAddr) -> io::Result<()> {
    let mut socket = Socket::new(address.domain(), kind, None)?;
    socket.connect(address)?;
    socket.write_all(MESSAGE)?;
    // One byte more, so that a longer datagram is not cut to the right length.
    let mut echoed = [0; MESSAGE.len() + 1];
    let mut count = MESSAGE.len();
    match kind {
        Type::DGRAM => count = socket.read(&mut echoed)?,
        _ => socket.read_exact(&mut echoed[..count])?,
    }
    if echoed[..count] == *MESSAGE {
        Ok(())
    } else {
        Err(io::Error::other("other bytes came back"))
    }
}
