//! Command lines: how they are read, and what is said of mistakes.

use std::fmt;
use std::io::{self, Write};
use std::time::Duration;

use clap::Parser;
use mio_echo::{Endpoint, EndpointError, EndpointErrorKind};

/// Why there is nothing to be done: one line for people, and the exit status.
pub(crate) struct Failure {
    message: String,
    pub(crate) status: u8,
}

impl Failure {
    pub(crate) fn new(message: impl fmt::Display, status: u8) -> Self {
        Failure {
            message: message.to_string(),
            status,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::new(error, 1)
    }
}

impl From<EndpointError> for Failure {
    fn from(error: EndpointError) -> Self {
        let is_typo = !matches!(error.kind(), EndpointErrorKind::Unresolved(_));
        Failure::new(error, if is_typo { 2 } else { 1 })
    }
}

/// Reads the command line. `None` where it asked for help, which is printed.
pub(crate) fn read<Options: Parser>() -> Result<Option<Options>, Failure> {
    match Options::try_parse() {
        Ok(options) => Ok(Some(options)),
        Err(error) if error.use_stderr() => {
            let program = Options::command();
            Err(Failure::new(one_line(&error, program.get_name()), 2))
        }
        Err(help) => {
            help.print()?;
            Ok(None)
        }
    }
}

/// The endpoint, once for each address that its host has.
pub(crate) fn endpoints(text: &str) -> Result<Vec<Endpoint>, Failure> {
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

/// clap's message without its usage, which `--help` has.
fn one_line(error: &clap::Error, program: &str) -> String {
    let text = error.render().to_string();
    let parts: Vec<&str> = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"))
        .filter(|line| !line.is_empty())
        .map(|line| {
            line.trim_start_matches("error: ")
                .trim_start_matches("tip: ")
                .trim_end_matches(':')
        })
        .collect();
    format!("{}; see {program} --help", parts.join("; "))
}

/// Prints to the standard output. Whoever reads it may have gone, as in `ping ... | head`.
pub(crate) fn print(line: fmt::Arguments) -> io::Result<()> {
    let with_place = |error| io::Error::other(format!("standard output: {error}"));
    writeln!(io::stdout(), "{line}").map_err(with_place)
}

/// Says what is wrong, in a line.
pub(crate) fn complain(program: &str, what: &dyn fmt::Display) {
    // Where even this cannot be written, the exit status says it.
    let _ = writeln!(io::stderr(), "{program}: {what}");
}
