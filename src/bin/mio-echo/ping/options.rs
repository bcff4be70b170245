//! The arguments of `ping`.

use std::time::Duration;

use clap::Args;
use mio_echo::Endpoint;

use crate::arguments::{self, size, time};
use crate::cli::CliError;
use crate::options::number;

#[derive(Debug, Args)]
#[command(after_long_help = include_str!("help.txt"))]
pub(crate) struct Options {
    /// Where the service is: HOST:PORT or tcp://HOST:PORT, udp://HOST:PORT, unix:PATH or unix:@NAME
    #[arg(value_name = "ENDPOINT")]
    pub(crate) endpoint: String,

    /// Number of pings [default: until a signal]
    #[arg(short, long, value_name = "N", value_parser = |it: &str| number(it, 1..=u64::MAX))]
    pub(crate) count: Option<u64>,

    /// Time between pings; such as 200ms or 0.2
    ///
    /// With 0, a ping is sent when the last one is answered, or after 10 ms.
    #[arg(short, long, value_parser = time, default_value = "1s")]
    pub(crate) interval: Duration,

    /// Bytes of a ping: 0 to 65507 in datagrams, 1 to 65507 in a stream
    ///
    /// The first 8 bytes are its sequence number. If only a part of the number fits, an answer is
    /// matched to the latest ping with that part. Without any bytes it is matched to the oldest
    /// unanswered ping, so the times are too long after a loss.
    #[arg(short, long, value_parser = |it: &str| size(it, 0..=65_507), default_value = "56")]
    size: usize,

    /// Time to wait for missing answers after the last ping; such as 200ms or 0.2
    ///
    /// It also limits connecting to each address of the host.
    #[arg(short = 'W', long, value_name = "TIME", value_parser = time, default_value = "1s")]
    pub(crate) timeout: Duration,
}

impl Options {
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// The endpoint, once for each address of its host.
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
