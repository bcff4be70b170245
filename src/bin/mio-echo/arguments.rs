//! Arguments and output of `ping` and `load`.

use std::fmt;
use std::io::{self, Write};
use std::ops::RangeInclusive;
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

/// Parses a time that can be added to the present.
pub(crate) fn time(text: &str) -> Result<Duration, &'static str> {
    const MAX_TIME: Duration = Duration::from_secs(1_000_000_000);

    let time = Some(options::time(text)?).filter(|time| *time <= MAX_TIME);
    time.ok_or("choose 30 years at most")
}

/// Parses a size within a range.
pub(crate) fn size(text: &str, range: RangeInclusive<usize>) -> Result<usize, String> {
    let size = Some(options::size(text)?).filter(|size| range.contains(size));
    size.ok_or_else(|| format!("choose {} to {} bytes", range.start(), range.end()))
}

/// Prints a line to standard output. Fails if its reader has gone, as in `ping ... | head`.
pub(crate) fn print(line: fmt::Arguments) -> io::Result<()> {
    let with_place = |error| io::Error::other(format!("standard output: {error}"));
    writeln!(io::stdout(), "{line}").map_err(with_place)
}
