//! The arguments of `load`.

use std::time::Duration;

use clap::Args;
use mio_echo::Endpoint;

use crate::arguments::{self, size, time};
use crate::cli::CliError;
use crate::load::train;
use crate::options::number;

#[derive(Debug, Args)]
#[command(after_long_help = include_str!("help.txt"))]
pub(crate) struct Options {
    /// Where the service is: HOST:PORT or tcp://HOST:PORT, udp://HOST:PORT, unix:PATH or unix:@NAME
    #[arg(value_name = "ENDPOINT")]
    pub(crate) endpoint: String,

    #[command(flatten)]
    mode: ModeOptions,

    /// Connections or UDP sockets at a time: 1 to 1000000
    #[arg(short = 'c', long, value_name = "N", default_value = "50",
          value_parser = |it: &str| number(it, 1..=1_000_000_u32))]
    connections: u32,

    /// Size of a message: 1 byte to 1MiB in a stream, to 65507 in datagrams; such as 64KiB
    ///
    /// [default: 64; with --stream 65536, in datagrams 8192]
    #[arg(short, long, value_name = "SIZE", value_parser = |it: &str| size(it, 1..=1_048_576))]
    size: Option<usize>,

    /// Messages in flight on each connection: 1 to 4096
    ///
    /// At most 64 if they are datagrams of 1 byte, which cannot number more.
    ///
    /// [default: 1; with --stream 64, in datagrams 8; with --segment a train; with --rate 256]
    #[arg(short, long, value_name = "N", conflicts_with_all = ["churn", "hold"],
          value_parser = |it: &str| number(it, 1..=4096_u16))]
    outstanding: Option<u16>,

    /// Linux: send and receive datagrams in trains (GSO, GRO)
    ///
    /// One call sends as many of the messages that are due as fit into a train: 64 datagrams, and 65507
    /// bytes. A message has to fit the MTU.
    #[arg(long, conflicts_with_all = ["churn", "hold", "rate"])]
    pub(crate) segment: bool,

    /// Duration of the measurement, or with --hold of holding; such as 500ms or 0.5
    #[arg(short, long, value_name = "TIME", value_parser = time, default_value = "10s")]
    pub(crate) duration: Duration,

    /// Load before the measurement, which does not count [default: 1s; 0 with --count, --hold]
    #[arg(short, long, value_name = "TIME", value_parser = time, conflicts_with = "hold")]
    warmup: Option<Duration>,

    /// End after this number of messages, if the duration is not over
    #[arg(short = 'n', long, value_name = "N", conflicts_with = "hold",
          value_parser = |it: &str| number(it, 1..=u64::MAX))]
    pub(crate) count: Option<u64>,

    /// Time to wait for a missing answer; then the message is lost
    ///
    /// In a stream, messages are lost only at the end of the run or of the connection.
    #[arg(short = 'W', long, value_name = "TIME", value_parser = time, default_value = "1s")]
    pub(crate) timeout: Duration,

    /// Time to establish all connections; the others have failed
    ///
    /// With --hold it includes the first echo. With --churn, --timeout limits connecting. [default:
    /// 10s, and 1ms more for each connection]
    #[arg(long, value_name = "TIME", value_parser = time, conflicts_with = "churn")]
    connect_timeout: Option<Duration>,

    /// Linux: measure CPU time and memory of this process, the server
    #[arg(long, value_name = "PID")]
    pub(crate) server_pid: Option<u32>,

    /// Print the results as one JSON object, with units in its names, and no progress
    #[arg(short, long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[group(multiple = false)]
struct ModeOptions {
    /// Bulk streams: many large messages in flight
    #[arg(long)]
    stream: bool,

    /// Connect, echo one message, close, and again
    #[arg(long)]
    churn: bool,

    /// Open all connections, echo one message on each, and hold them
    #[arg(long)]
    hold: bool,

    /// Messages per second on all connections together: 1 to 1000000
    ///
    /// A message is due whether or not the last one has come back, and its latency counts from
    /// then. So if the service stalls, all messages that are due meanwhile count as slow, and not
    /// only one of each connection (coordinated omission).
    #[arg(short, long, value_name = "PER_SECOND",
          value_parser = |it: &str| number(it, 1..=1_000_000_u32))]
    rate: Option<u32>,
}

/// The kind of load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Sends the next message when one has come back.
    Closed,
    Stream,
    Churn,
    Hold,
    /// Sends as many messages per second, whatever comes back.
    Open(u32),
}

impl Mode {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Mode::Closed => "closed loop",
            Mode::Stream => "stream",
            Mode::Churn => "churn",
            Mode::Hold => "hold",
            Mode::Open(_) => "open loop",
        }
    }
}

/// Datagrams of 1 byte in flight: the messages that are remembered for them have 256 numbers.
const MAX_OF_ONE_BYTE: usize = 64;

/// The maximum payload of a datagram over IPv4: 65,535 bytes less the headers of IP and UDP.
pub(crate) const LARGEST_DATAGRAM: usize = 65_507;

impl Options {
    pub(crate) fn mode(&self) -> Mode {
        match &self.mode {
            ModeOptions { stream: true, .. } => Mode::Stream,
            ModeOptions { churn: true, .. } => Mode::Churn,
            ModeOptions { hold: true, .. } => Mode::Hold,
            ModeOptions {
                rate: Some(rate), ..
            } => Mode::Open(*rate),
            _ => Mode::Closed,
        }
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections as usize
    }

    pub(crate) fn size(&self, endpoint: &Endpoint) -> usize {
        let default = match (self.mode(), endpoint) {
            (Mode::Stream, Endpoint::Udp(_)) => 8192,
            (Mode::Stream, _) => 65_536,
            _ => 64,
        };
        self.size.unwrap_or(default)
    }

    pub(crate) fn outstanding(&self, endpoint: &Endpoint) -> usize {
        let default = match (self.mode(), endpoint) {
            _ if self.segment => train::max_len(self.size(endpoint)),
            (Mode::Stream, Endpoint::Udp(_)) => 8,
            (Mode::Stream, _) => 64,
            (Mode::Open(_), _) => 256,
            _ => 1,
        };
        self.outstanding.map_or(default, usize::from)
    }

    pub(crate) fn warmup(&self) -> Duration {
        let is_exact = self.count.is_some() || self.mode() == Mode::Hold;
        let default = Duration::from_secs((!is_exact).into());
        self.warmup.unwrap_or(default)
    }

    pub(crate) fn connect_timeout(&self) -> Duration {
        let default = match self.mode() {
            Mode::Churn => self.timeout,
            _ => Duration::from_secs(10) + Duration::from_millis(self.connections.into()),
        };
        self.connect_timeout.unwrap_or(default)
    }

    /// The endpoint, once for each address of its host.
    pub(crate) fn endpoints(&self) -> Result<Vec<Endpoint>, CliError> {
        let endpoints = arguments::endpoints(&self.endpoint)?;
        let is_datagram = |endpoint: &Endpoint| matches!(endpoint, Endpoint::Udp(_));
        let with_hint = |message| CliError::usage(format!("{message}; see mio-echo load --help"));
        if self.size > Some(LARGEST_DATAGRAM) && endpoints.iter().any(is_datagram) {
            let message = format!("no datagram has more than {LARGEST_DATAGRAM} bytes");
            return Err(with_hint(message));
        }
        let is_ambiguous = |endpoint: &Endpoint| {
            is_datagram(endpoint)
                && self.size(endpoint) == 1
                && self.outstanding(endpoint) > MAX_OF_ONE_BYTE
        };
        if endpoints.iter().any(is_ambiguous) {
            let max = MAX_OF_ONE_BYTE;
            return Err(with_hint(format!(
                "datagrams of 1 byte number at most {max} in flight: choose -o {max} or -s 2"
            )));
        }
        if self.segment && !(cfg!(target_os = "linux") && endpoints.iter().all(is_datagram)) {
            let message = "--segment needs Linux, and an endpoint udp://HOST:PORT";
            return Err(CliError::usage(message));
        }
        Ok(endpoints)
    }
}
