//! The command line: what may stand there, and what it means.

use std::time::Duration;

use clap::Args;
use mio_echo::Endpoint;

use crate::arguments::{self, time};
use crate::cli::CliError;

/// Sends pings to an echo service, and checks and times what comes back, as ping(8) does.
#[derive(Debug, Args)]
#[command(after_long_help = include_str!("help.txt"))]
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
}

impl Options {
    pub(crate) fn size(&self) -> usize {
        self.size.into()
    }

    /// The endpoint, once for each address that its host has.
    pub(crate) fn endpoints(&self) -> Result<Vec<Endpoint>, CliError> {
        let endpoints = arguments::endpoints(&self.endpoint)?;
        let is_stream = |endpoint: &Endpoint| !matches!(endpoint, Endpoint::Udp(_));
        if self.size == 0 && endpoints.iter().any(is_stream) {
            let message = format!("{}: in a stream, 0 bytes are nothing", self.endpoint);
            return Err(CliError::usage(message + "; see mio-echo ping --help"));
        }
        Ok(endpoints)
    }
}
