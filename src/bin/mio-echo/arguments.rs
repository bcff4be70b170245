//! Arguments of `ping` and `load`, and their output.

use std::fmt;
use std::io::{self, Write};
use std::time::Duration;

use mio_echo::Endpoint;

use crate::cli::CliError;

/// The endpoint, once for each address that its host has.
pub(crate) fn endpoints(text: &str) -> Result<Vec<Endpoint>, CliError> {
    let mut endpoints = Endpoint::resolve(text)?;
    for endpoint in &mut endpoints {
        // Without a transport the service means TCP and UDP, but one of them is enough here.
        if let Endpoint::TcpAndUdp(address) = *endpoint {
            *endpoint = Endpoint::Tcp(address);
        }
    }
    Ok(endpoints)
}

/// A time with its unit, or without one in seconds, as ping(8) has it.
pub(crate) fn time(text: &str) -> Result<Duration, &'static str> {
    /// More than anybody waits for, and still a point in time when added to now.
    const LONGEST: Duration = Duration::from_secs(1_000_000_000);

    let seconds = text.parse().ok();
    let plain = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    plain
        .or_else(|| humantime::parse_duration(text).ok())
        .filter(|time| *time <= LONGEST)
        .ok_or("write a number of seconds, or one with a unit, such as 0.2 or 200ms")
}

/// Prints to the standard output. Whoever reads it may have gone, as in `ping ... | head`.
pub(crate) fn print(line: fmt::Arguments) -> io::Result<()> {
    let with_place = |error| io::Error::other(format!("standard output: {error}"));
    writeln!(io::stdout(), "{line}").map_err(with_place)
}
