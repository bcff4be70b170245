//! The settings: what each means, its default and its range.

use std::collections::HashSet;
use std::error::Error;
use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::net::bind::BindOptions;
use crate::net::endpoint::Endpoint;
use crate::policy::cidr::Network;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The checked settings of an [`Echo`](crate::Echo) or a [`Server`](crate::Server).
///
/// ```
/// use mio_echo::Config;
///
/// let config = Config::builder()
///     .endpoint("127.0.0.1:0".parse()?)
///     .endpoint("[::1]:0".parse()?)
///     .buffer_size(16 * 1024)
///     .build()?;
///
/// let error = Config::builder().buffer_size(0).build().unwrap_err();
/// assert_eq!(error.to_string(), "buffer size 0 is out of range: choose 1 to 16777216 bytes");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// [`Config::default`] has the default of every setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) backlog: u32,
    pub(crate) buffer_size: usize,
    pub(crate) max_connections: usize,
    pub(crate) max_per_source: Option<usize>,
    pub(crate) max_buffered: usize,
    pub(crate) socket_buffer: Option<usize>,
    pub(crate) allow: Vec<Network>,
    pub(crate) drain_timeout: Duration,
    pub(crate) dual_stack: bool,
    pub(crate) bind: BindOptions,
    pub(crate) udp_answer_any_port: bool,
    pub(crate) idle_timeout: Duration,
    pub(crate) write_timeout: Duration,
    pub(crate) busy_poll: Duration,
    pub(crate) zero_copy: ZeroCopy,
    pub(crate) max_turns: usize,
    pub(crate) connection_events: usize,
}

impl Config {
    /// Range of [`ConfigBuilder::backlog`], in connections.
    pub const BACKLOG_RANGE: RangeInclusive<u32> = 1..=65_535;
    /// Default of [`ConfigBuilder::backlog`], in connections.
    pub const DEFAULT_BACKLOG: u32 = 1024;

    /// Range of [`ConfigBuilder::buffer_size`], in bytes.
    pub const BUFFER_SIZE_RANGE: RangeInclusive<usize> = 1..=16 * 1024 * 1024;
    /// Default of [`ConfigBuilder::buffer_size`], in bytes: 64 KiB.
    pub const DEFAULT_BUFFER_SIZE: usize = 64 * 1024;

    /// Range of [`ConfigBuilder::max_connections`].
    pub const MAX_CONNECTIONS_RANGE: RangeInclusive<usize> = 1..=1_000_000_000;
    /// Default of [`ConfigBuilder::max_connections`]: half of the usual limit of 1,024 open files, so
    /// that the application keeps the other half.
    pub const DEFAULT_MAX_CONNECTIONS: usize = 512;

    /// Range of [`ConfigBuilder::max_per_source`].
    pub const MAX_PER_SOURCE_RANGE: RangeInclusive<usize> = Self::MAX_CONNECTIONS_RANGE;

    /// The minimum of [`ConfigBuilder::max_buffered`], in bytes: 256 KiB, which is one pipe of
    /// [`ZeroCopy::Auto`]; and at least one [buffer](ConfigBuilder::buffer_size).
    pub const MIN_MAX_BUFFERED: usize = 256 * 1024;
    /// Default of [`ConfigBuilder::max_buffered`], in bytes: 64 MiB.
    pub const DEFAULT_MAX_BUFFERED: usize = 64 * 1024 * 1024;

    /// Range of [`ConfigBuilder::socket_buffer`], in bytes.
    pub const SOCKET_BUFFER_RANGE: RangeInclusive<usize> = 4 * 1024..=1024 * 1024 * 1024;

    /// Range of [`ConfigBuilder::drain_timeout`]: up to a day.
    pub const DRAIN_TIMEOUT_RANGE: RangeInclusive<Duration> = Duration::ZERO..=DAY;
    /// Default of [`ConfigBuilder::drain_timeout`]: 5 s, half of the time that container engines
    /// usually wait before they kill a process.
    pub const DEFAULT_DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

    /// Range of [`ConfigBuilder::idle_timeout`] and [`ConfigBuilder::write_timeout`]: up to a day.
    pub const TIMEOUT_RANGE: RangeInclusive<Duration> = Duration::ZERO..=DAY;
    /// Default of [`ConfigBuilder::write_timeout`]: 30 s.
    pub const DEFAULT_WRITE_TIMEOUT: Duration = Duration::from_secs(30);

    /// Range of [`ConfigBuilder::busy_poll`]: up to a second.
    pub const BUSY_POLL_RANGE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(1);

    /// Range of [`ConfigBuilder::unix_mode`]: permissions of owner, group and others.
    pub const UNIX_MODE_RANGE: RangeInclusive<u32> = 0..=0o777;

    /// Range of [`ConfigBuilder::max_turns`].
    pub const MAX_TURNS_RANGE: RangeInclusive<usize> = 1..=usize::MAX;

    /// Range of [`ConfigBuilder::connection_events`].
    pub const CONNECTION_EVENTS_RANGE: RangeInclusive<usize> = 0..=1_000_000;

    /// The maximum length of the path or name of a Unix socket on this system, in bytes; see unix(7).
    pub const UNIX_PATH_MAX: usize = unix_path_max();

    /// Starts from the defaults.
    pub fn builder() -> ConfigBuilder {
        ConfigBuilder::default()
    }

    /// The settings, to change some of them.
    pub fn to_builder(&self) -> ConfigBuilder {
        let config = self.clone();
        ConfigBuilder { config }
    }

    /// Whether all settings are the same but those of [`Echo::set_limits`](crate::Echo::set_limits).
    pub(crate) fn differs_only_in_limits(&self, other: &Config) -> bool {
        let limited = Config {
            max_connections: other.max_connections,
            max_per_source: other.max_per_source,
            max_buffered: other.max_buffered,
            allow: other.allow.clone(),
            idle_timeout: other.idle_timeout,
            write_timeout: other.write_timeout,
            ..self.clone()
        };
        limited == *other
    }

    fn check_ranges(&self) -> Result<(), ConfigError> {
        in_range("backlog", self.backlog, Self::BACKLOG_RANGE, " connections")?;
        let range = Self::MAX_CONNECTIONS_RANGE;
        in_range("limit of connections", self.max_connections, range, "")?;
        if let Some(limit) = self.max_per_source {
            let range = Self::MAX_PER_SOURCE_RANGE;
            in_range("limit of connections per source", limit, range, "")?;
        }
        let range = Self::DRAIN_TIMEOUT_RANGE;
        in_range("drain timeout", self.drain_timeout, range, "")?;
        in_range("idle timeout", self.idle_timeout, Self::TIMEOUT_RANGE, "")?;
        in_range("write timeout", self.write_timeout, Self::TIMEOUT_RANGE, "")?;
        in_range("busy poll", self.busy_poll, Self::BUSY_POLL_RANGE, "")?;
        let range = Self::MAX_TURNS_RANGE;
        in_range("limit of turns", self.max_turns, range, "")?;
        let range = Self::CONNECTION_EVENTS_RANGE;
        in_range(
            "room for connection events",
            self.connection_events,
            range,
            "",
        )?;
        let mode = self.bind.unix_mode.unwrap_or_default();
        check(
            Self::UNIX_MODE_RANGE.contains(&mode),
            "mode of Unix sockets",
            format!("{mode:#o}"),
            format!("0 to {:#o}", Self::UNIX_MODE_RANGE.end()),
        )?;
        let range = Self::BUFFER_SIZE_RANGE;
        in_range("buffer size", self.buffer_size, range, " bytes")?;
        if let Some(bytes) = self.socket_buffer {
            in_range("socket buffer", bytes, Self::SOCKET_BUFFER_RANGE, " bytes")?;
        }
        let min = Self::MIN_MAX_BUFFERED.max(self.buffer_size);
        check(
            self.max_buffered >= min,
            "limit of buffered bytes",
            self.max_buffered.to_string(),
            format!("at least {min} bytes"),
        )
    }
}

/// The settings as they are.
impl Config {
    /// See [`ConfigBuilder::endpoint`].
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// See [`ConfigBuilder::reuse_port`].
    #[must_use]
    pub fn reuse_port(&self) -> bool {
        self.bind.reuse_port
    }

    /// See [`ConfigBuilder::unix_mode`].
    #[must_use]
    pub fn unix_mode(&self) -> Option<u32> {
        self.bind.unix_mode
    }

    /// See [`ConfigBuilder::allow`].
    #[must_use]
    pub fn allow(&self) -> &[Network] {
        &self.allow
    }
}

/// Methods that return a setting, each under the name that it has in [`ConfigBuilder`].
macro_rules! getters {
    ($($setting:ident: $type:ty),+) => {
        impl Config {
            $(
                #[doc = concat!("See [`ConfigBuilder::", stringify!($setting), "`].")]
                #[must_use]
                pub fn $setting(&self) -> $type {
                    self.$setting
                }
            )+
        }
    };
}

getters! {
    backlog: u32,
    buffer_size: usize,
    max_connections: usize,
    max_per_source: Option<usize>,
    max_buffered: usize,
    socket_buffer: Option<usize>,
    drain_timeout: Duration,
    dual_stack: bool,
    udp_answer_any_port: bool,
    idle_timeout: Duration,
    write_timeout: Duration,
    busy_poll: Duration,
    zero_copy: ZeroCopy,
    max_turns: usize,
    connection_events: usize
}

/// One byte of the address terminates the path, or begins an abstract name.
#[cfg(unix)]
const fn unix_path_max() -> usize {
    use nix::libc::sockaddr_un;

    size_of::<sockaddr_un>() - std::mem::offset_of!(sockaddr_un, sun_path) - 1
}

/// As on Linux; there are no Unix sockets here.
#[cfg(not(unix))]
const fn unix_path_max() -> usize {
    107
}

impl Default for Config {
    fn default() -> Self {
        Config {
            endpoints: Vec::new(),
            backlog: Config::DEFAULT_BACKLOG,
            buffer_size: Config::DEFAULT_BUFFER_SIZE,
            max_connections: Config::DEFAULT_MAX_CONNECTIONS,
            max_per_source: None,
            max_buffered: Config::DEFAULT_MAX_BUFFERED,
            socket_buffer: None,
            allow: Vec::new(),
            drain_timeout: Config::DEFAULT_DRAIN_TIMEOUT,
            dual_stack: false,
            bind: BindOptions::default(),
            udp_answer_any_port: false,
            idle_timeout: Duration::ZERO,
            write_timeout: Config::DEFAULT_WRITE_TIMEOUT,
            busy_poll: Duration::ZERO,
            zero_copy: ZeroCopy::default(),
            max_turns: usize::MAX,
            connection_events: 0,
        }
    }
}

/// See [`ConfigBuilder::zero_copy`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ZeroCopy {
    /// A stream that fills the buffer with one read is moved by splice(2) from then on, until less
    /// than 16 KiB come at once. This needs Linux, a buffer of 16 KiB or more, and a process that
    /// ignores `SIGPIPE`, as Rust programs do by default: splice(2) raises it. A trial at the start
    /// decides whether the system allows it (a seccomp(2) filter may not); otherwise bytes are read
    /// and written.
    ///
    /// An application in which `SIGPIPE` is not ignored (a C program, or one with
    /// `-Zon-broken-pipe`) ignores it before it creates an [`Echo`](crate::Echo), and leaves it so:
    /// `signal(SIGPIPE, SIG_IGN)`; see signal(7). Otherwise the start logs a line at `debug`, and all
    /// bytes are read and written. Restored later, the signal ends the process when a peer is gone.
    ///
    /// There are up to 32 pipes, of 256 KiB and two descriptors each: one for all connections that
    /// keep up, and one for each stream with pending bytes in it. Without a free pipe, bytes are read
    /// and written.
    #[default]
    Auto,
    /// All bytes are read and written.
    Off,
}

/// Collects settings; [`build`](ConfigBuilder::build) checks them.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct ConfigBuilder {
    config: Config,
}

impl ConfigBuilder {
    /// Adds an endpoint to serve. The default is [`Endpoint::DEFAULT`], or only the
    /// [inherited sockets](crate::BoundSocket) if there are any.
    pub fn endpoint(mut self, endpoint: Endpoint) -> Self {
        self.config.endpoints.push(endpoint);
        self
    }

    /// The number of established connections that wait to be accepted, for each listener: 1 to
    /// 65,535, default 1,024. The system can have a lower limit (`net.core.somaxconn` on Linux). See
    /// listen(2).
    pub fn backlog(mut self, connections: u32) -> Self {
        self.config.backlog = connections;
        self
    }

    /// The size of the read buffer, which all connections share: 1 byte to 16 MiB, default 64 KiB. It
    /// is also the maximum of pending bytes of one connection, except in a [pipe](ZeroCopy::Auto).
    ///
    /// UDP sockets have buffers of their own: 2 MiB each, room for 32 datagrams or trains of any size
    /// (on other systems than Linux for one). The system provides memory for the part that was ever
    /// used.
    pub fn buffer_size(mut self, bytes: usize) -> Self {
        self.config.buffer_size = bytes;
        self
    }

    /// The limit of open connections: 1 to 1,000,000,000, default 512. Each needs one file
    /// descriptor. At the limit, connections wait in the [backlog](ConfigBuilder::backlog).
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.config.max_connections = connections;
        self
    }

    /// The limit of open connections of one source: 1 to 1,000,000,000, default `None`, which is without
    /// limit. At the limit, further connections are rejected, as those outside
    /// [`allow`](ConfigBuilder::allow). From [`max_connections`](ConfigBuilder::max_connections) on it
    /// has no effect.
    ///
    /// A source is an IPv4 address; all hosts behind one address translator are one source. With IPv6
    /// it is a /64 network, because a host can use all addresses of one; link-local addresses (RFC
    /// 4291, section 2.5.6) are a source each. Unix sockets and datagrams are not counted. Each source
    /// with connections has an entry in memory.
    pub fn max_per_source(mut self, connections: impl Into<Option<usize>>) -> Self {
        self.config.max_per_source = connections.into();
        self
    }

    /// The limit of memory for pending bytes of all connections together, in bytes: at least 256 KiB
    /// and [`buffer_size`](ConfigBuilder::buffer_size), default 64 MiB. What is in the pipes of
    /// [`ZeroCopy::Auto`] counts as well.
    ///
    /// At the limit the connection is evicted whose last byte moved longest ago, to a hundredth of the
    /// [`write_timeout`](ConfigBuilder::write_timeout) (without one: to 6 s). Buffers of the system do
    /// not count; see [`socket_buffer`](ConfigBuilder::socket_buffer).
    pub fn max_buffered(mut self, bytes: usize) -> Self {
        self.config.max_buffered = bytes;
        self
    }

    /// The size of the send and receive buffer of each connection in the system (`SO_SNDBUF` and
    /// `SO_RCVBUF`), in bytes: 4 KiB to 1 GiB, default `None`: the system tunes them.
    ///
    /// Linux doubles the value, for its bookkeeping, and limits it to `net.core.wmem_max` and
    /// `net.core.rmem_max`; see socket(7). Left to itself it lets the two buffers of a peer that sends
    /// and does not read grow to the last numbers of `tcp_wmem` and `tcp_rmem` (see tcp(7)), 10 MiB by
    /// default. Small buffers prevent that, and limit the throughput of one connection over a long
    /// path to one buffer per round trip.
    pub fn socket_buffer(mut self, bytes: impl Into<Option<usize>>) -> Self {
        self.config.socket_buffer = bytes.into();
        self
    }

    /// Adds a network to the allow list. Without any, all peers are served.
    ///
    /// A connection from another address is rejected: accepted, so that it does not fill the backlog,
    /// and immediately reset. A datagram from there gets no reply. Both are counted in
    /// [`Stats`](crate::Stats), logged at `debug`, and warned of at most once a minute. At the limit of
    /// connections, those to be rejected wait as well.
    ///
    /// A list of IPv6 networks alone rejects every IPv4 peer, and one of IPv4 networks every IPv6 peer.
    /// Peers of Unix sockets have no address, and are always served; see
    /// [`unix_mode`](ConfigBuilder::unix_mode). The source of a datagram is easily forged: over UDP
    /// the list only limits where replies are sent to.
    pub fn allow(mut self, network: Network) -> Self {
        self.config.allow.push(network);
        self
    }

    /// Replaces the allow list; see [`allow`](ConfigBuilder::allow). With an empty one, all peers are
    /// served.
    pub fn allow_list(mut self, networks: impl IntoIterator<Item = Network>) -> Self {
        self.config.allow = networks.into_iter().collect();
        self
    }

    /// How long connections are still echoed after [`Echo::shutdown`](crate::Echo::shutdown): 0 (they
    /// are aborted at once, and datagrams that wait get no reply) to 24 hours, default 5 s.
    pub fn drain_timeout(mut self, time: Duration) -> Self {
        self.config.drain_timeout = time;
        self
    }

    /// Whether the IPv6 wildcard address `[::]` includes the IPv4 wildcard address, by a second socket
    /// at the same port. Default: no, on every system.
    pub fn dual_stack(mut self, yes: bool) -> Self {
        self.config.dual_stack = yes;
        self
    }

    /// Whether other processes of the same user can serve the same TCP and UDP ports; the system
    /// distributes connections and datagrams (`SO_REUSEPORT`; see socket(7)). Default: no. Binding
    /// fails on systems without the option. See [`Echo::shutdown`](crate::Echo::shutdown) for how a
    /// process leaves the group.
    pub fn reuse_port(mut self, yes: bool) -> Self {
        self.config.bind.reuse_port = yes;
        self
    }

    /// The permissions of the files of Unix sockets: 0 to 0o777, default `None`: 0o777 less the umask; see
    /// umask(2). Users who may write to the file may connect. Abstract names have no permissions.
    ///
    /// The file has this mode from the moment it exists. If the umask would reduce it, binding fails
    /// with [`InvalidInput`](std::io::ErrorKind::InvalidInput): the umask belongs to the whole process,
    /// so it is the application that clears it meanwhile. On systems other than Linux binding fails
    /// with [`Unsupported`](std::io::ErrorKind::Unsupported).
    ///
    /// Only trusted users should have that right. Peers can send any number of file descriptors over a
    /// Unix socket, which the system closes within the call that reads. Closing some of them takes
    /// long (a socket with `SO_LINGER`, for one), and the whole loop waits.
    pub fn unix_mode(mut self, mode: impl Into<Option<u32>>) -> Self {
        self.config.bind.unix_mode = mode.into();
        self
    }

    /// Whether datagrams get replies whatever port they come from. Default: no. Then those from ports
    /// of well-known services, and from ports that are served here, get none, because two services can
    /// be made to answer each other (CERT CA-1996-01). Meant for a closed lab.
    ///
    /// In either case a reply has the received TTL (hop limit) less one, so that such a loop ends.
    pub fn udp_answer_any_port(mut self, yes: bool) -> Self {
        self.config.udp_answer_any_port = yes;
        self
    }

    /// How long a connection stays open in which no byte moves: up to 24 hours, default 0, which is
    /// without limit. It is closed never earlier, and later by at most 1 % or 50 ms.
    pub fn idle_timeout(mut self, time: Duration) -> Self {
        self.config.idle_timeout = time;
        self
    }

    /// How long a connection stays open whose peer takes no pending byte: up to 24 hours, default 30 s;
    /// 0 is without limit. As exact as the [`idle_timeout`](ConfigBuilder::idle_timeout).
    pub fn write_timeout(mut self, time: Duration) -> Self {
        self.config.write_timeout = time;
        self
    }

    /// How long the loop polls without sleeping after an event: 0 (it sleeps at once) to 1 s, default
    /// 0. A peer that sends within that time has less latency, because the loop is awake; meanwhile it
    /// uses a whole core.
    pub fn busy_poll(mut self, time: Duration) -> Self {
        self.config.busy_poll = time;
        self
    }

    /// Whether streams in bulk go through a pipe instead of the buffer, without a copy. Default:
    /// [`ZeroCopy::Auto`].
    pub fn zero_copy(mut self, zero_copy: ZeroCopy) -> Self {
        self.config.zero_copy = zero_copy;
        self
    }

    /// How many turns one call of [`Echo::run`](crate::Echo::run) gives, so that the application has its
    /// loop back after a bounded time: at least 1, default without limit. Sockets that had none are
    /// the first in the next call, and [`Echo::timeout`](crate::Echo::timeout) is zero until then.
    ///
    /// A turn is one read and one write of a connection, up to 32 calls of accept(2), or 32 messages of
    /// UDP: datagrams, or trains of up to 64 datagrams and 64 KiB. Timeouts, and the phases of a shutdown,
    /// which concern all connections at once, are no turns.
    pub fn max_turns(mut self, turns: usize) -> Self {
        self.config.max_turns = turns;
        self
    }

    /// How many [events of connections](crate::Echo::connection_events) wait for the application: up
    /// to 1,000,000, default 0, which is none. Further ones are lost, and counted in
    /// [`Stats::events_lost`](crate::Stats::events_lost). The memory is reserved at the start, about
    /// 100 bytes each.
    pub fn connection_events(mut self, capacity: usize) -> Self {
        self.config.connection_events = capacity;
        self
    }

    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// The first setting that is out of range, a path that is not possible, or a socket that two
    /// endpoints ask for.
    pub fn build(self) -> Result<Config, ConfigError> {
        let config = self.config;
        config.check_ranges()?;
        let mut sockets = Vec::new();
        for endpoint in &config.endpoints {
            check_path(endpoint)?;
            sockets.extend(endpoint.sockets(config.dual_stack));
        }
        match repeated(&sockets) {
            Some(socket) => Err(ConfigError::RepeatedEndpoint(socket.clone())),
            None => Ok(config),
        }
    }
}

fn in_range<T: Copy + PartialOrd + fmt::Debug>(
    name: &'static str,
    value: T,
    range: RangeInclusive<T>,
    unit: &str,
) -> Result<(), ConfigError> {
    let (start, end) = (format!("{:?}", range.start()), range.end());
    check(
        range.contains(&value),
        name,
        format!("{value:?}"),
        // A duration of zero is "0ns".
        format!("{} to {end:?}{unit}", start.trim_end_matches("ns")),
    )
}

fn check(
    is_valid: bool,
    name: &'static str,
    value: String,
    range: String,
) -> Result<(), ConfigError> {
    if is_valid {
        Ok(())
    } else {
        Err(ConfigError::OutOfRange { name, value, range })
    }
}

fn check_path(endpoint: &Endpoint) -> Result<(), ConfigError> {
    let path = match endpoint {
        Endpoint::Unix(path) => path.as_os_str().as_encoded_bytes(),
        Endpoint::Abstract(name) => name,
        _ => return Ok(()),
    };
    if path.len() > Config::UNIX_PATH_MAX {
        Err(ConfigError::LongPath(endpoint.clone()))
    } else if matches!(endpoint, Endpoint::Unix(_)) && path.contains(&0) {
        Err(ConfigError::NulInPath(endpoint.clone()))
    } else {
        Ok(())
    }
}

/// The first socket that is there twice. Port 0 is a different port each time.
fn repeated(sockets: &[Endpoint]) -> Option<&Endpoint> {
    let mut seen = HashSet::new();
    sockets.iter().find(|socket| {
        let any_port = socket.address().is_some_and(|it| it.port() == 0);
        !any_port && !seen.insert(*socket)
    })
}

/// Settings that cannot work.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// A value is out of range.
    OutOfRange {
        /// The setting.
        name: &'static str,
        /// Its value.
        value: String,
        /// The range, with the unit.
        range: String,
    },
    /// The path is longer than [`Config::UNIX_PATH_MAX`].
    LongPath(Endpoint),
    /// The path contains a zero byte.
    NulInPath(Endpoint),
    /// Two endpoints ask for the same socket.
    RepeatedEndpoint(Endpoint),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigError::OutOfRange { name, value, range } => {
                write!(f, "{name} {value} is out of range: choose {range}")
            }
            ConfigError::LongPath(endpoint) => write!(
                f,
                "{endpoint} is too long: the path or name of a Unix socket has {} bytes at most",
                Config::UNIX_PATH_MAX
            ),
            ConfigError::NulInPath(endpoint) => write!(
                f,
                "{:?} has a zero byte in its path, which no file can have",
                endpoint.to_string()
            ),
            ConfigError::RepeatedEndpoint(endpoint) => {
                write!(f, "{endpoint} is there twice: name each endpoint once")
            }
        }
    }
}

impl Error for ConfigError {}

#[cfg(test)]
mod tests;
