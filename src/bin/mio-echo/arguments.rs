//! Arguments and output of `ping` and `load`.

use std::fmt;
use std::io::{self, Write};
use std::time::Duration;

use mio_echo::Endpoint;

use crate::cli::CliError;
use crate::options;

/// The endpoint, once for each address of its host.
pub(crate) fn endpoints(text: &str) -> Result<Vec<Endpoint>, CliError> {
    let mut endpoints = Endpoint::resolve(text)?;
    for endpoint in &mut endpoints {
        // Without a transport the service means TCP and UDP. A client uses TCP.
        if let Endpoint::TcpAndUdp(address) = *endpoint {
            *endpoint = Endpoint::Tcp(address);
        }
    }
    Ok(endpoints)
}

/// Parses a time with a unit, or in seconds as in ping(8).
pub(crate) fn time(text: &str) -> Result<Duration, &'static str> {
    /// An upper limit, so that a time can be added to the present.
    const MAX_TIME: Duration = Duration::from_secs(1_000_000_000);

    let seconds = text.parse().ok();
    let plain = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    plain
        .or_else(|| options::time(text).ok())
        .filter(|time| *time <= MAX_TIME)
        .ok_or("write a number of seconds, or one with a unit, such as 0.2 or 200ms")
}

/// Prints a line to standard output. Fails if its reader has gone, as in `ping ... | head`.
pub(crate) fn print(line: fmt::Arguments) -> io::Result<()> {
    let with_place = |error| io::Error::other(format!("standard output: {error}"));
    writeln!(io::stdout(), "{line}").map_err(with_place)
}
