//! The command line: what may stand there, what it means, and what is said of mistakes.

use std::fmt;
use std::io;
use std::time::Duration;

use clap::Parser;
use mio_echo::{Endpoint, EndpointError, EndpointErrorKind};

/// Sends pings to an echo service, and checks and times what comes back, as ping(8) does.
#[derive(Debug, Parser)]
#[command(name = "ping", after_long_help = MORE_HELP, max_term_width = 100)]
pub(crate) struct Options {
    /// Where the service is: HOST:PORT or tcp://HOST:PORT, udp://HOST:PORT, unix:PATH or unix:@NAME
    #[arg(value_name = "ENDPOINT")]
    pub(crate) endpoint: String,

    /// How many to send [default: until a signal]
    #[arg(short, long, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,

    /// The time from one to the next; such as 200ms, or in seconds, 0.2
    ///
    /// 0: the next is sent as soon as the last has come back, or else after 10 ms.
    #[arg(short, long, value_parser = time, default_value = "1s")]
    pub(crate) interval: Duration,

    /// How many bytes each has: 0 to 65507 in datagrams, 1 to 65507 in a stream
    ///
    /// The first 8 are its number. Where there is no room for all of the number, an answer is taken
    /// to be of the latest that it may be of; without any bytes, of the oldest without an answer,
    /// so that after a loss the times are too long.
    #[arg(short, long, value_parser = clap::value_parser!(u16).range(..=65_507), default_value = "56")]
    size: u16,

    /// For how long, after the last is sent, to wait for what is still missing; such as 200ms or 0.2
    #[arg(short = 'W', long, value_name = "TIME", value_parser = time, default_value = "1s")]
    pub(crate) timeout: Duration,

    /// Print the statistics at the end, and no line for each answer
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

const MORE_HELP: &str = "\
Statistics:
  lost        no intact answer came; so the corrupted ones are among them, unless
              an intact answer came as well
  duplicated  the answer came again, intact
  corrupted   what came is not what was sent: each byte is compared
  jitter      the mean absolute difference between each round-trip time and the
              one before it
  median, p99 half of the times, and 99 of 100, are not longer; to three digits

Signals:
  SIGINT, SIGTERM   send no more, wait for what is missing as at the end, and print
                    the statistics; a second one ends the program at once

Exit status:
  0   everything came back as it was sent
  1   something was lost or corrupted, or there was no connection, or not to the end
  2   the arguments are wrong";

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

impl Options {
    /// Reads the command line. `None` where it asked for help, which is printed.
    pub(crate) fn read() -> Result<Option<Self>, Failure> {
        match Options::try_parse() {
            Ok(options) => Ok(Some(options)),
            Err(error) if error.use_stderr() => Err(Failure::new(one_line(&error), 2)),
            Err(help) => {
                help.print()?;
                Ok(None)
            }
        }
    }

    pub(crate) fn size(&self) -> usize {
        self.size.into()
    }

    /// The endpoint, once for each address that its host has.
    pub(crate) fn endpoints(&self) -> Result<Vec<Endpoint>, Failure> {
        let mut endpoints = Endpoint::resolve(&self.endpoint)?;
        for endpoint in &mut endpoints {
            // Without a transport the service means TCP and UDP, but one of them is pinged.
            if let Endpoint::TcpAndUdp(address) = *endpoint {
                *endpoint = Endpoint::Tcp(address);
            }
            if self.size == 0 && !matches!(endpoint, Endpoint::Udp(_)) {
                let message = format!("{}: in a stream, 0 bytes are nothing", self.endpoint);
                return Err(Failure::new(message + "; see ping --help", 2));
            }
        }
        Ok(endpoints)
    }
}

/// A time with its unit, or without one in seconds, as ping(8) has it.
fn time(text: &str) -> Result<Duration, &'static str> {
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
fn one_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let mut parts: Vec<&str> = text
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
    parts.push("see ping --help");
    parts.join("; ")
}
