//! The options of the service and the configuration that they make.

use std::fmt::Display;
use std::net::{Ipv6Addr, UdpSocket};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use clap::Args;
use log::warn;
use mio_echo::{BoundSocket, Config, ConfigBuilder, Endpoint, EndpointError, Network, ZeroCopy};

use crate::cli::CliError;

#[derive(Debug, Args)]
#[allow(clippy::doc_markdown, reason = "the help is plain text")]
pub(crate) struct ServiceOptions {
    /// Where to serve: HOST:PORT, tcp://HOST:PORT, udp://HOST:PORT, unix:PATH or unix:@NAME
    ///
    /// Can be repeated. Without a transport, TCP and UDP are served at the same port. HOST is an IPv4
    /// address, an IPv6 address in brackets, or a name, which stands for all of its addresses that
    /// this host has. With port 0 the system chooses a free port. @NAME is an abstract Unix socket,
    /// without a file. [default: 127.0.0.1:7007, or the sockets passed by systemd]
    #[arg(value_name = "ENDPOINT")]
    endpoints: Vec<String>,

    /// Backlog of each listener: connections that wait to be accepted
    #[arg(long, value_name = "N", default_value_t = Config::DEFAULT_BACKLOG,
          value_parser = |it: &str| number(it, Config::BACKLOG_RANGE))]
    backlog: u32,

    /// Size of the read buffer, and limit on pending bytes of one connection; such as 64KiB
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "64KiB")]
    buffer_size: usize,

    /// Limit on open connections; more wait in the backlog [default: the limit on open files, less a
    /// reserve]
    #[arg(long, value_name = "N",
          value_parser = |it: &str| number(it, Config::MAX_CONNECTIONS_RANGE))]
    max_connections: Option<usize>,

    /// Limit on open connections of one source; more are rejected [default: no limit]
    ///
    /// A source is an IPv4 address, an IPv6 /64 or a link-local address. Unix sockets and datagrams
    /// are not counted.
    #[arg(long, value_name = "N",
          value_parser = |it: &str| number(it, Config::MAX_PER_SOURCE_RANGE))]
    max_per_source: Option<usize>,

    /// Limit on pending bytes of all connections together; such as 256MiB
    ///
    /// When it is reached, the connection whose last byte moved longest ago is closed.
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "256MiB")]
    max_buffered: usize,

    /// Size of the send and the receive buffer of each socket (SO_SNDBUF, SO_RCVBUF); such as 64KiB
    /// [default: tuned by the system, up to some megabytes for a peer that does not read]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    socket_buffer: Option<usize>,

    /// Allow list of client networks, such as 10.0.0.0/8, or addresses [default: every client]
    ///
    /// Can be repeated. Connections from other addresses are reset, and their datagrams are dropped.
    /// Unix sockets are not affected.
    #[arg(long, value_name = "CIDR")]
    pub(crate) allow: Vec<Network>,

    /// Time to go on echoing after a signal to stop; such as 5s or 1m30s
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "5s")]
    drain_timeout: Duration,

    /// Close a connection on which no byte has moved for this time; such as 5m; 0s: never
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "5m")]
    idle_timeout: Duration,

    /// Close a connection whose peer has taken none of its pending bytes for this time; 0s: never
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "30s")]
    write_timeout: Duration,

    /// Poll for this time after an event, without sleeping; such as 50us
    ///
    /// Lowers the latency of peers that answer within this time. Costs up to a whole core.
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "0s")]
    busy_poll: Duration,

    /// Move bulk streams with splice(2), without copying: auto (if the system can) or off
    ///
    /// A spliced connection has up to 256 KiB pending, whatever the buffer size.
    #[arg(long, value_name = "WHEN", value_parser = ["auto", "off"], default_value = "auto",
          hide_possible_values = true)]
    zero_copy: String,

    /// Serve IPv4 at [::] as well
    #[arg(long)]
    pub(crate) dual_stack: bool,

    /// Share the port with other processes (SO_REUSEPORT): the system spreads the peers over them
    ///
    /// A process that is stopped takes half a second more, in which new clients reach the others.
    #[arg(long)]
    reuse_port: bool,

    /// Permissions of Unix sockets in octal: write permission allows to connect; such as 0660
    /// [default: left by the umask]
    ///
    /// Give it to trusted users only: a client can send file descriptors that take long to close, and
    /// so stop the service.
    #[arg(long, value_name = "MODE", value_parser = mode)]
    pub(crate) unix_mode: Option<u32>,

    /// Reply to datagrams from well-known ports and from the service's own ports, too
    ///
    /// For closed labs only: a forged datagram can start a loop between this service and another one,
    /// which ends only when the TTL is used up.
    #[arg(long)]
    udp_answer_any_port: bool,

    /// Serve GET /metrics, for Prometheus, and GET /healthz over HTTP at tcp://HOST:PORT
    /// [default: off]
    #[arg(long, value_name = "ENDPOINT", value_parser = tcp_endpoint)]
    pub(crate) metrics: Option<String>,

    /// Log a summary of the counters at this interval; such as 1m [default: on SIGUSR1 only]
    #[arg(long, value_name = "TIME", value_parser = stats_interval)]
    pub(crate) stats_interval: Option<Duration>,
}

impl ServiceOptions {
    /// The configuration, with host names resolved. `open_files` is the limit on open files; `sockets`
    /// are served in addition.
    pub(crate) fn config(
        &self,
        open_files: Option<usize>,
        sockets: &[BoundSocket],
    ) -> Result<Config, CliError> {
        let zero_copy = match &*self.zero_copy {
            "off" => ZeroCopy::Off,
            _ => ZeroCopy::Auto,
        };
        let mut builder = Config::builder()
            .backlog(self.backlog)
            .buffer_size(self.buffer_size)
            .max_buffered(self.max_buffered)
            .drain_timeout(self.drain_timeout)
            .idle_timeout(self.idle_timeout)
            .write_timeout(self.write_timeout)
            .busy_poll(self.busy_poll)
            .zero_copy(zero_copy)
            .dual_stack(self.dual_stack)
            .reuse_port(self.reuse_port)
            .udp_answer_any_port(self.udp_answer_any_port)
            .unix_mode(self.unix_mode)
            .socket_buffer(self.socket_buffer)
            .max_per_source(self.max_per_source)
            .allow_list(self.allow.iter().copied());
        let endpoints = self.endpoints(sockets)?;
        if sockets.is_empty() {
            self.check_allow_list(&endpoints)?;
        }
        let sockets = sockets.len() + SOCKETS_PER_ENDPOINT * endpoints.len();
        builder = endpoints.into_iter().fold(builder, ConfigBuilder::endpoint);
        let most = open_files.map(|files| max_connections(files, sockets));
        let most = most.transpose()?;
        let connections = self.max_connections.or(most);
        if let Some(connections) = connections {
            builder = builder.max_connections(connections);
        }
        let config = builder.build().map_err(CliError::usage)?;
        if let Some(most) = most.filter(|most| self.max_connections > Some(*most)) {
            warn!("the limit on open files has room for {most} connections: see ulimit -Hn");
        }
        Ok(config)
    }

    /// The endpoints, with host names resolved, or the default one, which is checked against the allow list
    /// as well.
    fn endpoints(&self, sockets: &[BoundSocket]) -> Result<Vec<Endpoint>, CliError> {
        let mut endpoints = Vec::new();
        for text in &self.endpoints {
            endpoints.extend(resolve(text)?);
        }
        if endpoints.is_empty() && sockets.is_empty() {
            endpoints.push(Endpoint::DEFAULT);
        }
        Ok(endpoints)
    }

    /// Fails if no endpoint can have a peer in an allowed network.
    fn check_allow_list(&self, endpoints: &[Endpoint]) -> Result<(), CliError> {
        let has_endpoint = |network: &Network| {
            let is_ipv4 = network.address().is_ipv4();
            let mut addresses = endpoints.iter().filter_map(Endpoint::address);
            addresses.any(|address| {
                let is_both = self.dual_stack && address.ip() == Ipv6Addr::UNSPECIFIED;
                is_both || address.is_ipv4() == is_ipv4
            })
        };
        if self.allow.is_empty() || self.allow.iter().any(has_endpoint) {
            return Ok(());
        }
        Err(CliError::usage(
            "the allowed networks are of no endpoint's address family: allow IPv4 networks for IPv4 \
             endpoints, IPv6 networks for IPv6, and none for Unix sockets",
        ))
    }
}

/// Resolves an endpoint. Of the addresses of a name, those that this host does not have are left out
/// with a warning: `localhost` can include `::1` on a host without IPv6.
fn resolve(text: &str) -> Result<Vec<Endpoint>, EndpointError> {
    let endpoints = Endpoint::resolve(text)?.into_iter();
    let (present, missing): (Vec<_>, Vec<_>) = endpoints.partition(has_address);
    // If this host has none of them, binding reports why.
    if present.is_empty() {
        return Ok(missing);
    }
    for endpoint in missing {
        warn!("{text}: {endpoint} is left out: this host does not have its address");
    }
    Ok(present)
}

/// Whether this host has the address of the endpoint: whether it can be bound at any port.
fn has_address(endpoint: &Endpoint) -> bool {
    endpoint.address().is_none_or(|mut address| {
        address.set_port(0);
        UdpSocket::bind(address).is_ok()
    })
}

/// Descriptors of the program itself: standard streams (3), signals (2), the selector and its copies
/// (3), the waker, the socket of the service manager, and the listener of the metrics.
const OWN_DESCRIPTORS: usize = 11;

/// TCP and UDP, in one family or both.
const SOCKETS_PER_ENDPOINT: usize = 4;

/// The connections that the limit on open files leaves room for beside `sockets`, with a reserve for
/// pipes, the log and the like.
fn max_connections(open_files: usize, sockets: usize) -> Result<usize, CliError> {
    const RESERVE: usize = 128;

    let own = OWN_DESCRIPTORS + sockets;
    let reserve = RESERVE.min(open_files / 2).max(own);
    match open_files.saturating_sub(reserve) {
        0 => Err(CliError::failure(format!(
            "the limit on open files is {open_files}, and one connection needs {}: raise it (see \
             ulimit -Hn)",
            own + 1
        ))),
        connections => Ok(connections.min(*Config::MAX_CONNECTIONS_RANGE.end())),
    }
}

pub(crate) fn number<T>(text: &str, range: RangeInclusive<T>) -> Result<T, String>
where
    T: FromStr + PartialOrd + Display,
{
    let number = text.parse().ok().filter(|it| range.contains(it));
    number.ok_or_else(|| format!("write a number, {} to {}", range.start(), range.end()))
}

pub(crate) fn size(text: &str) -> Result<usize, &'static str> {
    let size: ByteSize = text
        .parse()
        .map_err(|_| "write a number of bytes, or one with a unit, such as 64KiB")?;
    // A size beyond `usize` is out of every range.
    Ok(usize::try_from(size.as_u64()).unwrap_or(usize::MAX))
}

fn mode(text: &str) -> Result<u32, &'static str> {
    let is_octal = text.bytes().all(|byte| byte.is_ascii_digit());
    let mode = u32::from_str_radix(text, 8).ok().filter(|_| is_octal);
    mode.ok_or("write permissions in octal, such as 0660")
}

pub(crate) fn time(text: &str) -> Result<Duration, &'static str> {
    // A number alone is in seconds, as for ping(8).
    let has_unit = !text.ends_with(|it: char| it.is_ascii_digit());
    let text = format!("{text}{}", if has_unit { "" } else { "s" });
    sum(&text).ok_or("write seconds, or numbers with units, such as 5, 0.2, 200ms or 1m30s")
}

/// Parses each part of a time such as 1m30s alone: the sum of humantime 2.4 can panic at its limit.
fn sum(mut text: &str) -> Option<Duration> {
    let mut sum = Duration::ZERO;
    loop {
        let unit = text.trim_start_matches(|it: char| !it.is_alphabetic());
        let rest = unit.trim_start_matches(char::is_alphabetic);
        let part = &text[..text.len() - rest.len()];
        sum = sum.checked_add(humantime::parse_duration(part).ok()?)?;
        text = rest.trim_start();
        if text.is_empty() {
            return Some(sum);
        }
    }
}

fn tcp_endpoint(text: &str) -> Result<String, &'static str> {
    let endpoint = text.starts_with("tcp://").then(|| text.to_owned());
    endpoint.ok_or("write tcp://HOST:PORT, such as tcp://127.0.0.1:9007")
}

fn stats_interval(text: &str) -> Result<Duration, &'static str> {
    let range = Duration::from_millis(100)..=Duration::from_secs(24 * 60 * 60);
    let time = Some(time(text)?).filter(|time| range.contains(time));
    time.ok_or("choose 100ms to 1day")
}

#[cfg(test)]
mod tests {
    use super::*;

    use clap::Parser;

    use crate::cli::Cli;
    use crate::near_valid::near_valid;

    #[test]
    fn defaults_are_those_of_the_library_but_idle_timeout_and_max_buffered() {
        let options = Cli::parse_from(["mio-echo"]).service;
        let config = options.config(None, &[]).unwrap();
        let expected = Config::builder()
            .endpoint(Endpoint::DEFAULT)
            .idle_timeout(Duration::from_secs(300))
            .max_buffered(256 * 1024 * 1024);
        assert_eq!(config, expected.build().unwrap());
    }

    #[test]
    fn every_option_reaches_the_configuration() {
        let options = Cli::parse_from([
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
        let options = options.service;
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

    fn parse(arguments: &[&str]) -> ServiceOptions {
        Cli::parse_from([&["mio-echo"], arguments].concat()).service
    }

    #[test]
    fn allow_list_needs_an_endpoint_of_its_family() {
        for arguments in [
            &["--allow=10.0.0.0/8"][..],
            &["127.0.0.1:7", "--allow=::1", "--allow=::ffff:127.0.0.1"],
            &["[::]:7", "--allow=10.0.0.0/8", "--dual-stack"],
            &["[::]:7", "udp://0.0.0.0:7", "--allow=10.0.0.0/8"],
            &["unix:@echo", "[::1]:7", "--allow=::1"],
        ] {
            let config = parse(arguments).config(None, &[]);
            assert!(config.is_ok(), "{arguments:?}");
        }
        for arguments in [
            &["--allow=::1"][..],
            &["[::]:7", "--allow=10.0.0.0/8", "--allow=192.0.2.1"],
            &["[::1]:7", "--allow=10.0.0.0/8", "--dual-stack"],
            &["0.0.0.0:7", "--allow=::/0", "--dual-stack"],
            &["unix:@echo", "--allow=0.0.0.0/0", "--allow=::/0"],
            &["unix:@echo", "[::]:7", "--allow=10.0.0.0/8"],
        ] {
            let error = parse(arguments).config(None, &[]).unwrap_err();
            assert!(error.message.contains("allow IPv4"), "{arguments:?}");
        }
        // Sockets of systemd can be of both families.
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let socket = [BoundSocket::new(socket).unwrap()];
        for arguments in [&["--allow=::1"][..], &["unix:@echo", "--allow=127.0.0.1"]] {
            let config = parse(arguments).config(None, &socket);
            assert!(config.is_ok(), "{arguments:?}");
        }
    }

    #[test]
    fn max_connections_leaves_a_reserve_of_open_files() {
        for (open_files, connections) in [
            (13, 1),
            (20, 8),
            (64, 32),
            (128, 64),
            (256, 128),
            (1024, 896),
            (20_000, 19_872),
        ] {
            let most = max_connections(open_files, 1).unwrap();
            assert_eq!(most, connections, "of {open_files}");
        }
        assert_eq!(max_connections(usize::MAX, 1).unwrap(), 1_000_000_000);
        for open_files in [0, 1, 12] {
            let error = max_connections(open_files, 1).unwrap_err().message;
            assert!(error.contains("one connection needs 13"), "{error}");
        }
    }

    #[test]
    fn time_that_overflows_is_an_error() {
        assert_eq!(time("1m 30s"), Ok(Duration::from_secs(90)));
        assert_eq!(time("90"), time("1m30s"));
        assert_eq!(time("0.2"), time("200ms"));
        assert!(time("18446744073709551615s").is_ok());
        assert!(time("18446744073709551615s1000ms").is_err());
    }

    const NUMBERS: &[&str] = &["0", "1", "64", "1.5", "0.25", "18446744073709551615"];

    #[test]
    fn size_is_the_number_times_its_unit() {
        const UNITS: [&str; 7] = ["", "B", "kB", "KiB", " MiB", "g", "EiB"];
        const FACTORS: [u128; 7] = [1, 1, 1000, 1 << 10, 1 << 20, 1_000_000_000, 1 << 60];

        near_valid(&[NUMBERS, &UNITS], |text, _| {
            if let (Ok(size), Some(exact)) = (size(text), sum_of_parts(text, &UNITS, &FACTORS)) {
                let exact = exact.min(usize::MAX as u128);
                // Fractions are floats, rounded down: a byte less at most, below 2^50.
                let error = u128::from(text.contains('.')) * (1 + (exact >> 50));
                assert!(exact.abs_diff(size as u128) <= error, "{exact}");
            }
            Ok(())
        });
    }

    #[test]
    fn time_is_the_sum_of_its_parts() {
        const S: u128 = 1_000_000_000;
        const UNITS: [&str; 8] = ["s", "ms", "us", "ns", " min", "h ", "days", ""];
        const NANOS: [u128; 8] = [S, 1_000_000, 1000, 1, 60 * S, 3600 * S, 86_400 * S, S];

        let groups = [NUMBERS, &UNITS, NUMBERS, &UNITS, &["", "1000ms", "0.5s"]];
        near_valid(&groups, |text, _| {
            if let Ok(time) = time(text) {
                let exact = sum_of_parts(text, &UNITS, &NANOS);
                assert_eq!(exact.unwrap_or(time.as_nanos()), time.as_nanos());
                let printed = humantime::format_duration(time).to_string();
                assert_eq!(super::time(&printed), Ok(time));
            }
            Ok(())
        });
    }

    /// The sum of numbers times their units. `None` if a unit is not among these.
    fn sum_of_parts(text: &str, units: &[&str], factors: &[u128]) -> Option<u128> {
        let text = text.replace(char::is_whitespace, "");
        let (mut sum, mut rest) = (0_u128, text.trim_start_matches('+'));
        while !rest.is_empty() {
            let is_of_unit = |it: char| !it.is_ascii_digit() && it != '.';
            let (number, others) = rest.split_at(rest.find(is_of_unit).unwrap_or(rest.len()));
            let end = others.find(|it: char| it.is_ascii_digit());
            let (unit, others) = others.split_at(end.unwrap_or(others.len()));
            let is_unit = |it: &&str| it.trim().eq_ignore_ascii_case(unit);
            let factor = factors[units.iter().position(is_unit)?];
            let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
            let whole = format!("0{whole}").parse().unwrap_or(u128::MAX);
            let fraction: u128 = format!("{fraction:0<18.18}").parse().ok()?;
            let fraction = fraction * factor / 10_u128.pow(18);
            sum = sum.saturating_add(whole.saturating_mul(factor).saturating_add(fraction));
            rest = others;
        }
        Some(sum)
    }
}
