//! The command line: what may stand there, what it means, and what is said of mistakes.

use std::fmt;
use std::io;
use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::process::ExitCode;
use std::time::Duration;

use bytesize::ByteSize;
use clap::{ArgAction, Parser};
use log::{LevelFilter, warn};
use mio_echo::{
    BoundSocket, Config, ConfigError, Endpoint, EndpointError, EndpointErrorKind, Network, ZeroCopy,
};

use crate::metrics::Bound;

/// An echo service (RFC 862) over TCP, UDP and Unix sockets: whatever a peer sends comes back.
///
/// One thread serves everybody. Memory and CPU are spent only on peers that have something to do,
/// and no peer can keep the others waiting.
#[derive(Debug, Parser)]
#[command(version, after_long_help = MORE_HELP, max_term_width = 100)]
pub(crate) struct Options {
    /// Where to serve: HOST:PORT, tcp://HOST:PORT, udp://HOST:PORT, unix:PATH or unix:@NAME
    ///
    /// Without a transport it is TCP and UDP at the same port. HOST is an IPv4 address, an IPv6
    /// address in brackets, or a name, which stands for all of its addresses that this host
    /// has. Port 0 asks the system for a free port. @NAME is an abstract Unix socket, which has no
    /// file. May be there several times [default: 127.0.0.1:7007, or the sockets that a supervisor
    /// hands over]
    #[arg(value_name = "ENDPOINT")]
    endpoints: Vec<String>,

    /// How many connections may wait to be accepted, per endpoint
    #[arg(long, value_name = "N", default_value_t = Config::DEFAULT_BACKLOG)]
    backlog: u32,

    /// The most to read from a stream at once, and to hold for a peer that does not take it back;
    /// such as 64KiB
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "64KiB")]
    buffer_size: ByteSize,

    /// How many connections may be open at once; others wait
    /// [default: the limit on open files, less a few]
    #[arg(long, value_name = "N")]
    max_connections: Option<usize>,

    /// How many connections one source may have open at once; more are refused [default: no limit]
    ///
    /// A source is an IPv4 address or an IPv6 network of 64 bits, and a link-local address by
    /// itself. Unix sockets and datagrams are not counted.
    #[arg(long, value_name = "N")]
    max_per_source: Option<usize>,

    /// The most to hold for all peers together that do not take what is echoed; such as 256MiB
    ///
    /// When it is reached, the connection is closed whose last byte moved longest ago.
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "256MiB")]
    max_buffered: ByteSize,

    /// The size of the system's send and receive buffer of each connection; such as 64KiB
    /// [default: the system tunes them, to some megabytes for a peer that does not read]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    socket_buffer: Option<ByteSize>,

    /// A network whose peers are served, such as 10.0.0.0/8, or an address; nobody else is
    /// [default: everybody is]
    ///
    /// Connections from elsewhere are reset, and datagrams get no answer. Unix sockets are not
    /// concerned. May be there several times.
    #[arg(long, value_name = "CIDR")]
    pub(crate) allow: Vec<Network>,

    /// For how long to go on echoing after a signal to stop; such as 5s or 1m30s
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "5s")]
    drain_timeout: Duration,

    /// For how long a connection stays open in which nothing moves; such as 5m, and 0s is for ever
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "5m")]
    idle_timeout: Duration,

    /// For how long a connection stays open whose peer does not take what is unsent; 0s is for ever
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "30s")]
    write_timeout: Duration,

    /// For how long after an event to ask for the next one before sleeping; such as 50us
    ///
    /// Peers that answer within that time are served sooner, and until then it takes all of a core.
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "0s")]
    busy_poll: Duration,

    /// Whether streams in bulk are moved without copying them: auto (where the system can) or off
    ///
    /// Of these, up to 256 KiB at once are moved and held, whatever the buffer size.
    #[arg(long, value_name = "WHEN", value_parser = zero_copy, default_value = "auto")]
    zero_copy: ZeroCopy,

    /// Have [::] serve IPv4 as well
    #[arg(long)]
    dual_stack: bool,

    /// Let several processes serve the same port; the system spreads the peers over them
    ///
    /// When one of them is stopped it takes half a second more, in which newcomers find another.
    #[arg(long)]
    reuse_port: bool,

    /// Permissions of Unix sockets: who may write may connect; such as 0660
    /// [default: what the umask leaves]
    ///
    /// Give that right to those you trust only: by sending it file descriptors that take long to
    /// close, they can stop the service.
    #[arg(long, value_name = "MODE", value_parser = mode)]
    pub(crate) unix_mode: Option<u32>,

    /// Answer datagrams from well-known ports and from this service's own, too
    ///
    /// For a closed lab: elsewhere it makes the service a weapon. A forged datagram can have it
    /// and another service answer each other for ever.
    #[arg(long)]
    udp_answer_any_port: bool,

    /// Where to answer GET /metrics, for Prometheus, and GET /healthz over HTTP: tcp://HOST:PORT
    /// [default: nowhere]
    #[arg(long, value_name = "ENDPOINT", value_parser = tcp_endpoint)]
    metrics: Option<String>,

    /// How often to log what was done so far; such as 1m [default: when SIGUSR1 asks]
    #[arg(long, value_name = "TIME", value_parser = stats_interval)]
    pub(crate) stats_interval: Option<Duration>,

    /// Serve nobody: ask the service at ENDPOINT for an echo, and tell by the exit status (0 or 1)
    /// whether it came, within a second
    ///
    /// A health check for containers that have nothing else inside. A service at its connection
    /// limit fails it, because it would keep anybody else waiting too.
    #[arg(long, value_name = "ENDPOINT", exclusive = true)]
    pub(crate) check: Option<String>,

    /// What to log: off, error, warn, info, debug or trace
    /// [default: what the environment says, or else info]
    ///
    /// debug: each connection as it opens and closes. trace: each event, read and write.
    #[arg(long, value_name = "LEVEL", value_parser = level)]
    pub(crate) log_level: Option<LevelFilter>,

    /// Log more: -v is a level more, -vv two
    #[arg(short, long, action = ArgAction::Count)]
    pub(crate) verbose: u8,

    /// Log less: -q is a level less, -qq two
    #[arg(short, long, action = ArgAction::Count)]
    pub(crate) quiet: u8,
}

const MORE_HELP: &str = "\
Examples:
  mio-echo                          serve this host alone, on port 7007
  mio-echo -vv                      the same, and show what the loop does
  mio-echo --dual-stack [::]:7007   serve every host, over IPv4 and IPv6
  mio-echo --allow 10.0.0.0/8 0.0.0.0:7007
                                    serve the hosts of one network, and no others
  mio-echo unix:/run/echo.sock      serve over a Unix socket, and nowhere else
  mio-echo --check 127.0.0.1:7007   is there one that echoes, over TCP and UDP?
  nc 127.0.0.1 7007                 talk to it: what you type comes back
  nc -u 127.0.0.1 7007              the same over UDP
  mio-echo --metrics tcp://127.0.0.1:9007
                                    serve, and count for Prometheus

Environment:
  RUST_LOG   what to log, where --log-level is not given: a level, or several
             of the form MODULE=LEVEL, such as warn,mio_echo::echo=trace
  NO_COLOR   when set, the log has no colours on a terminal either
  LISTEN_FDS, LISTEN_PID, LISTEN_FDNAMES
             sockets that a supervisor such as systemd hands over; they are
             served besides the ENDPOINTs, or alone where there is none
  NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID
             a supervisor that wants to be told that the service listens, how
             many are connected, that the loop turns, and that it stops

Log:
  On standard error, as things happen. Where it cannot be written to, the service
  goes on without; but a reader that keeps it open and does not read stops it.

Signals:
  SIGINT, SIGTERM   listen no more, go on echoing until every peer has finished
                    or --drain-timeout is over, and exit; a second one, however
                    soon, ends the program at once, and leaves the files of Unix
                    sockets to be taken over by the next
  SIGUSR1           log what was done so far
  SIGHUP            end the program at once, as a second signal to stop does

Exit status:
  0   stopped by a signal; with --check, the echo came
  1   could not listen, or could not be set up; with --check, no echo came
  2   the arguments are wrong
  A second signal is the cause of death itself: a shell says 128 and its number.";

/// Why the program ends: one line for people, and the exit status.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    status: u8,
}

impl Failure {
    /// Something that the arguments cannot help.
    pub(crate) fn of_setup(error: impl fmt::Display) -> Self {
        Failure {
            message: error.to_string(),
            status: 1,
        }
    }

    fn of_usage(error: impl fmt::Display) -> Self {
        Failure {
            message: error.to_string(),
            status: 2,
        }
    }

    pub(crate) fn status(&self) -> ExitCode {
        self.status.into()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::of_setup(error)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Failure::of_usage(error)
    }
}

impl From<EndpointError> for Failure {
    fn from(error: EndpointError) -> Self {
        let status = if matches!(error.kind(), EndpointErrorKind::Unresolved(_)) {
            1
        } else {
            2
        };
        Failure {
            message: error.to_string(),
            status,
        }
    }
}

impl Options {
    /// Reads the command line. `None` where it asked for help or the version, which is printed.
    pub(crate) fn read() -> Result<Option<Self>, Failure> {
        match Options::try_parse() {
            Ok(options) => Ok(Some(options)),
            Err(error) if error.use_stderr() => Err(Failure::of_usage(one_line(&error))),
            Err(help) => match help.print() {
                // The reader has seen enough, as `head` has.
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
                _ => Ok(None),
            },
        }
    }

    /// The settings, with host names looked up. `open_files` is how many files the process may
    /// have open, where the system has a limit; `sockets` are those that are served besides.
    pub(crate) fn config(
        &self,
        open_files: Option<usize>,
        sockets: &[BoundSocket],
    ) -> Result<Config, Failure> {
        let mut builder = Config::builder()
            .backlog(self.backlog)
            .buffer_size(bytes(self.buffer_size))
            .max_buffered(bytes(self.max_buffered))
            .drain_timeout(self.drain_timeout)
            .idle_timeout(self.idle_timeout)
            .write_timeout(self.write_timeout)
            .busy_poll(self.busy_poll)
            .zero_copy(self.zero_copy)
            .dual_stack(self.dual_stack)
            .reuse_port(self.reuse_port)
            .udp_answer_any_port(self.udp_answer_any_port);
        if let Some(mode) = self.unix_mode {
            builder = builder.unix_mode(mode);
        }
        if let Some(size) = self.socket_buffer {
            builder = builder.socket_buffer(bytes(size));
        }
        if let Some(connections) = self.max_per_source {
            builder = builder.max_per_source(connections);
        }
        for &network in &self.allow {
            builder = builder.allow(network);
        }
        let endpoints = self.endpoints(sockets)?;
        let most = open_files.map(|files| {
            let sockets = sockets.len() + self.count_sockets(&endpoints);
            most_connections(files, sockets)
        });
        let most = most.transpose()?;
        for endpoint in endpoints {
            builder = builder.endpoint(endpoint);
        }
        if let Some(connections) = self.max_connections.or(most) {
            builder = builder.max_connections(connections);
        }
        let config = builder.build()?;
        match (self.max_connections, most) {
            (Some(asked), Some(most)) if asked > most => warn!(
                "the limit on open files has room for {most} connections, not for {asked}: \
                 raise it (see ulimit -Hn), or others will have to wait"
            ),
            _ => {}
        }
        Ok(config)
    }

    /// Where to serve besides `sockets`, with host names looked up. The default endpoint is among them
    /// if there is no other, so that what contradicts it is found when the configuration is built.
    fn endpoints(&self, sockets: &[BoundSocket]) -> Result<Vec<Endpoint>, Failure> {
        let mut endpoints = Vec::new();
        for text in &self.endpoints {
            endpoints.extend(resolve(text)?);
        }
        if endpoints.is_empty() && sockets.is_empty() {
            endpoints.push(Endpoint::DEFAULT);
        }
        Ok(endpoints)
    }

    /// How many sockets these endpoints and the metrics take.
    fn count_sockets(&self, endpoints: &[Endpoint]) -> usize {
        let is_both = |address: SocketAddr| address.ip() == Ipv6Addr::UNSPECIFIED;
        let count = |endpoint: &Endpoint| {
            let transports = 1 + usize::from(matches!(endpoint, Endpoint::TcpAndUdp(_)));
            let families = self.dual_stack && endpoint.address().is_some_and(is_both);
            transports * (1 + usize::from(families))
        };
        usize::from(self.metrics.is_some()) + endpoints.iter().map(count).sum::<usize>()
    }

    /// Where metrics are to be had, with host names looked up: bound, and not listening yet.
    pub(crate) fn metrics(&self) -> Result<Bound, Failure> {
        let endpoints = self.metrics.as_deref().map(resolve).transpose()?;
        Ok(Bound::bind(
            &endpoints.unwrap_or_default(),
            self.dual_stack,
        )?)
    }
}

/// The endpoints that the text stands for. Of the addresses of a name, those that this host does not
/// have are left out, with a warning each: `localhost` may be `::1` as well where IPv6 is off.
fn resolve(text: &str) -> Result<Vec<Endpoint>, EndpointError> {
    let endpoints = Endpoint::resolve(text)?;
    let missing: Vec<_> = endpoints.iter().map(missing_address).collect();
    // If none is there, binding them tells why.
    if missing.iter().all(Option::is_some) {
        return Ok(endpoints);
    }
    let mut present = Vec::new();
    for (endpoint, missing) in endpoints.into_iter().zip(missing) {
        match missing {
            Some(error) => warn!("{text}: {endpoint} is left out: {error}"),
            None => present.push(endpoint),
        }
    }
    Ok(present)
}

/// The system's error if this host does not have the endpoint's address. Other errors, such as a port
/// in use, are those of the socket that is served at.
fn missing_address(endpoint: &Endpoint) -> Option<io::Error> {
    let mut address = endpoint.address()?;
    address.set_port(0);
    UdpSocket::bind(address).err().filter(means_missing)
}

fn means_missing(error: &io::Error) -> bool {
    #[cfg(unix)]
    if error.raw_os_error() == Some(nix::errno::Errno::EAFNOSUPPORT as i32) {
        return true;
    }
    error.kind() == io::ErrorKind::AddrNotAvailable
}

/// Descriptors of the program itself: standard streams (3), signals (2), the selector and its copies
/// (3), the waker, and the supervisor's socket.
const OWN_DESCRIPTORS: usize = 10;

/// How many connections the limit on open files leaves room for, beside `sockets` that are served at:
/// some files are kept for pipes, the log and the like.
fn most_connections(open_files: usize, sockets: usize) -> Result<usize, Failure> {
    const RESERVE: usize = 128;

    let own = OWN_DESCRIPTORS + sockets;
    let reserve = RESERVE.min(open_files / 2).max(own);
    match open_files.saturating_sub(reserve) {
        0 => Err(Failure::of_setup(format!(
            "the limit on open files is {open_files}, and one connection needs {}: raise it (see \
             ulimit -Hn)",
            own + 1
        ))),
        connections => Ok(connections.min(*Config::MAX_CONNECTIONS_RANGE.end())),
    }
}

fn size(text: &str) -> Result<ByteSize, &'static str> {
    text.parse()
        .map_err(|_| "write a number of bytes, or one with a unit, such as 64KiB")
}

/// More than there can be is out of every range.
fn bytes(size: ByteSize) -> usize {
    usize::try_from(size.as_u64()).unwrap_or(usize::MAX)
}

fn mode(text: &str) -> Result<u32, &'static str> {
    let is_octal = text.bytes().all(|byte| byte.is_ascii_digit());
    let mode = u32::from_str_radix(text, 8).ok().filter(|_| is_octal);
    mode.ok_or("write permissions in octal, such as 0660")
}

fn level(text: &str) -> Result<LevelFilter, &'static str> {
    text.parse()
        .map_err(|_| "write off, error, warn, info, debug or trace")
}

fn zero_copy(text: &str) -> Result<ZeroCopy, &'static str> {
    match text {
        "auto" => Ok(ZeroCopy::Auto),
        "off" => Ok(ZeroCopy::Off),
        _ => Err("write auto or off"),
    }
}

fn time(text: &str) -> Result<Duration, &'static str> {
    humantime::parse_duration(text).map_err(|_| "write a number and a unit, such as 5s or 1m30s")
}

fn tcp_endpoint(text: &str) -> Result<String, &'static str> {
    if text.starts_with("tcp://") {
        Ok(text.to_owned())
    } else {
        Err("write tcp://HOST:PORT, such as tcp://127.0.0.1:9007")
    }
}

fn stats_interval(text: &str) -> Result<Duration, &'static str> {
    let range = Duration::from_millis(100)..=Duration::from_secs(24 * 60 * 60);
    let time = time(text)?;
    if range.contains(&time) {
        Ok(time)
    } else {
        Err("choose 100ms to 1day")
    }
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
        })
        .collect();
    parts.push("see mio-echo --help");
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_arguments_only_idle_timeout_and_max_buffered_differ_from_the_library() {
        let options = Options::parse_from(["mio-echo"]);
        let config = options.config(None, &[]).unwrap();
        let expected = Config::builder()
            .endpoint(Endpoint::DEFAULT)
            .idle_timeout(Duration::from_secs(300))
            .max_buffered(256 * 1024 * 1024);
        assert_eq!(config, expected.build().unwrap());
    }

    #[test]
    fn every_option_reaches_the_configuration() {
        let options = Options::parse_from([
            "mio-echo",
            "127.0.0.2:1",
            "tcp://[::1]:2",
            "unix:@echo",
            "--backlog=3",
            "--buffer-size=4KiB",
            "--max-connections=5",
            "--max-per-source=4",
            "--max-buffered=1MiB",
            "--socket-buffer=64KiB",
            "--allow=10.0.0.0/8",
            "--allow=::1",
            "--drain-timeout=1m6s",
            "--idle-timeout=7s",
            "--write-timeout=8s",
            "--busy-poll=50us",
            "--zero-copy=off",
            "--dual-stack",
            "--reuse-port",
            "--unix-mode=0660",
            "--udp-answer-any-port",
        ]);
        let config = Config::builder()
            .endpoint("127.0.0.2:1".parse().unwrap())
            .endpoint("tcp://[::1]:2".parse().unwrap())
            .endpoint("unix:@echo".parse().unwrap())
            .backlog(3)
            .buffer_size(4096)
            .max_connections(5)
            .max_per_source(4)
            .max_buffered(1024 * 1024)
            .socket_buffer(64 * 1024)
            .allow("10.0.0.0/8".parse().unwrap())
            .allow("::1".parse().unwrap())
            .drain_timeout(Duration::from_secs(66))
            .idle_timeout(Duration::from_secs(7))
            .write_timeout(Duration::from_secs(8))
            .busy_poll(Duration::from_micros(50))
            .zero_copy(ZeroCopy::Off)
            .dual_stack(true)
            .reuse_port(true)
            .unix_mode(0o660)
            .udp_answer_any_port(true)
            .build()
            .unwrap();
        assert_eq!(options.config(Some(20_000), &[]).unwrap(), config);
    }

    #[test]
    fn some_descriptors_are_kept_in_reserve() {
        for (open_files, connections) in [
            (13, 1),
            (20, 8),
            (64, 32),
            (128, 64),
            (256, 128),
            (1024, 896),
            (20_000, 19_872),
        ] {
            let most = most_connections(open_files, 2).unwrap();
            assert_eq!(most, connections, "of {open_files}");
        }
        assert_eq!(most_connections(usize::MAX, 2).unwrap(), 1_000_000_000);
        for open_files in [0, 1, 12] {
            let failure = most_connections(open_files, 2).unwrap_err().to_string();
            assert!(failure.contains("one connection needs 13"), "{failure}");
        }
    }
}
