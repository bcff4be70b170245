//! The knobs: what each means, its default and its range.

use std::error::Error;
use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::endpoint::Endpoint;
use crate::network::Network;

/// How an [`Echo`](crate::Echo) or a [`Server`](crate::Server) is to work: settings that have been
/// checked.
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
/// assert_eq!(error.to_string(), "a buffer size of 0 is out of range: choose 1 to 16777216 bytes");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// [`Config::default`] has every knob at its default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) backlog: u32,
    pub(crate) buffer_size: usize,
    pub(crate) max_connections: usize,
    pub(crate) max_per_source: Option<usize>,
    pub(crate) allow: Vec<Network>,
    pub(crate) drain_timeout: Duration,
    pub(crate) dual_stack: bool,
    pub(crate) reuse_port: bool,
    pub(crate) unix_mode: Option<u32>,
    pub(crate) udp_answer_any_port: bool,
    pub(crate) idle_timeout: Duration,
    pub(crate) stall_timeout: Duration,
    pub(crate) busy_poll: Duration,
    pub(crate) zero_copy: ZeroCopy,
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
    /// Default of [`ConfigBuilder::max_connections`]: half of the 1,024 files that a process may
    /// usually have open, so that the application around keeps as many.
    pub const DEFAULT_MAX_CONNECTIONS: usize = 512;

    /// Range of [`ConfigBuilder::max_per_source`], which [`ConfigBuilder::max_connections`] is the
    /// end of as well.
    pub const MAX_PER_SOURCE_RANGE: RangeInclusive<usize> = Self::MAX_CONNECTIONS_RANGE;

    /// Range of [`ConfigBuilder::drain_timeout`]: up to a day.
    pub const DRAIN_TIMEOUT_RANGE: RangeInclusive<Duration> =
        Duration::ZERO..=Duration::from_secs(24 * 60 * 60);
    /// Default of [`ConfigBuilder::drain_timeout`]: 5 s, half of what container engines usually
    /// wait before they kill.
    pub const DEFAULT_DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

    /// Range of [`ConfigBuilder::idle_timeout`] and [`ConfigBuilder::stall_timeout`]: up to a day.
    pub const TIMEOUT_RANGE: RangeInclusive<Duration> =
        Duration::ZERO..=Duration::from_secs(24 * 60 * 60);
    /// Default of [`ConfigBuilder::stall_timeout`]: 30 s.
    pub const DEFAULT_STALL_TIMEOUT: Duration = Duration::from_secs(30);

    /// Range of [`ConfigBuilder::busy_poll`]: up to a second.
    pub const BUSY_POLL_RANGE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(1);

    /// Range of [`ConfigBuilder::unix_mode`]: permissions of owner, group and others.
    pub const UNIX_MODE_RANGE: RangeInclusive<u32> = 0..=0o777;

    /// The most bytes that the path or name of a Unix socket may have on this system; see unix(7).
    pub const UNIX_PATH_MAX: usize = unix_path_max();

    /// Starts from the defaults.
    pub fn builder() -> ConfigBuilder {
        ConfigBuilder::new()
    }

    /// What is served where nothing else is.
    pub(crate) fn or_default_endpoint(mut self) -> Self {
        if self.endpoints.is_empty() {
            self.endpoints.push(Endpoint::DEFAULT);
        }
        self
    }

    /// One endpoint for each socket, in groups that share a port.
    pub(crate) fn sockets(&self) -> impl Iterator<Item = Vec<Endpoint>> {
        self.endpoints
            .iter()
            .map(|endpoint| endpoint.sockets(self.dual_stack))
    }
}

/// One byte of the address ends the path, or begins an abstract name.
#[cfg(unix)]
const fn unix_path_max() -> usize {
    use nix::libc::sockaddr_un;

    size_of::<sockaddr_un>() - std::mem::offset_of!(sockaddr_un, sun_path) - 1
}

/// As on Linux, though there is nothing to use it for.
#[cfg(not(unix))]
const fn unix_path_max() -> usize {
    107
}

impl Default for Config {
    fn default() -> Self {
        ConfigBuilder::new().config
    }
}

/// See [`ConfigBuilder::zero_copy`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ZeroCopy {
    /// A stream that has filled the buffer with one read is moved by splice(2) from then on, until
    /// less than 16 KiB come at once. That is on Linux, for buffers of 16 KiB or more, and if
    /// the process ignores `SIGPIPE`, as Rust programs do unless told otherwise: splice(2) raises
    /// that. Elsewhere, and where the system refuses (seccomp(2)), bytes are read and written.
    ///
    /// There are up to 32 pipes, of 256 KiB and two descriptors each: one for all who keep up, and
    /// one for each stream that has unsent bytes in it. Where there are no more, bytes are read and
    /// written.
    #[default]
    Auto,
    /// All bytes are read and written.
    Off,
}

/// Collects settings; [`build`](ConfigBuilder::build) checks them.
#[derive(Debug, Clone)]
#[must_use]
pub struct ConfigBuilder {
    config: Config,
}

impl ConfigBuilder {
    fn new() -> Self {
        ConfigBuilder {
            config: Config {
                endpoints: Vec::new(),
                backlog: Config::DEFAULT_BACKLOG,
                buffer_size: Config::DEFAULT_BUFFER_SIZE,
                max_connections: Config::DEFAULT_MAX_CONNECTIONS,
                max_per_source: None,
                allow: Vec::new(),
                drain_timeout: Config::DEFAULT_DRAIN_TIMEOUT,
                dual_stack: false,
                reuse_port: false,
                unix_mode: None,
                udp_answer_any_port: false,
                idle_timeout: Duration::ZERO,
                stall_timeout: Config::DEFAULT_STALL_TIMEOUT,
                busy_poll: Duration::ZERO,
                zero_copy: ZeroCopy::default(),
            },
        }
    }

    /// Adds a place to serve at. Without any, [`Endpoint::DEFAULT`] is the one, unless there are
    /// [sockets](crate::BoundSocket) that are bound already.
    pub fn endpoint(mut self, endpoint: Endpoint) -> Self {
        self.config.endpoints.push(endpoint);
        self
    }

    /// How many connections the system keeps waiting, established but not yet accepted, for each
    /// listener: 1 to 65,535, default 1,024. The system may have a lower limit of its own
    /// (`net.core.somaxconn` on Linux), which then holds. See listen(2).
    pub fn backlog(mut self, connections: u32) -> Self {
        self.config.backlog = connections;
        self
    }

    /// The size of the one buffer that every connection is read into, and so the most that is
    /// ever held for one peer, unless that is in a [pipe](ZeroCopy::Auto): 1 byte to 16 MiB, default
    /// 64 KiB. Datagrams have buffers of their own: room for 32 of any size (on Linux; elsewhere for
    /// one), 2 MiB, for each UDP socket. The system gives memory for as much of it as is ever used.
    pub fn buffer_size(mut self, bytes: usize) -> Self {
        self.config.buffer_size = bytes;
        self
    }

    /// How many connections may be open at once: 1 to 1,000,000,000, default 512. Each costs one
    /// file descriptor. Beyond that, connections wait in the system's queue (see
    /// [`backlog`](ConfigBuilder::backlog)).
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.config.max_connections = connections;
        self
    }

    /// How many connections one source may have open at once: 1 to
    /// [`max_connections`](ConfigBuilder::max_connections). Default: no limit but that. Those
    /// beyond it are refused, as those are whom [`allow`](ConfigBuilder::allow) leaves out.
    ///
    /// A source is an address of IPv4, and all who share it behind a router that translates
    /// addresses are one. Over IPv6 it is a network of 64 bits, because one host can have all the
    /// addresses of one; but where addresses are link-local (RFC 4291, section 2.5.6) each is a
    /// source. Neither peers of Unix sockets nor datagrams are counted. There is an entry in memory
    /// for each source that has connections, which goes with the last of them.
    pub fn max_per_source(mut self, connections: usize) -> Self {
        self.config.max_per_source = Some(connections);
        self
    }

    /// Adds a network whose peers are served. Without any, everybody is who can reach the service.
    ///
    /// Connections from other addresses are refused: accepted, so that they do not stand in
    /// others' way, and reset at once. Datagrams from there get no answer. Neither takes a place
    /// among the [`max_connections`](ConfigBuilder::max_connections) or has a line in the log for
    /// each but at `debug`; they are counted in [`Stats`](crate::Stats), and warned of once a
    /// minute at the most. While no more connections may be open, those to be refused wait like
    /// the others.
    ///
    /// Peers of Unix sockets have no address, and are always served; see
    /// [`unix_mode`](ConfigBuilder::unix_mode). Who sent a datagram is easily forged, so over UDP
    /// this only says who can be sent answers.
    pub fn allow(mut self, network: Network) -> Self {
        self.config.allow.push(network);
        self
    }

    /// For how long connections are still echoed after
    /// [`Echo::shutdown`](crate::Echo::shutdown): 0 (they are cut at once) to 24 hours, default
    /// 5 s.
    pub fn drain_timeout(mut self, time: Duration) -> Self {
        self.config.drain_timeout = time;
        self
    }

    /// Whether the IPv6 wildcard address `[::]` stands for IPv4's wildcard address as well, by a
    /// second socket at the same port. Default: no, it is IPv6 alone. Both are so on every system,
    /// whatever its own default.
    pub fn dual_stack(mut self, yes: bool) -> Self {
        self.config.dual_stack = yes;
        self
    }

    /// Whether other processes of the same user may serve the same TCP and UDP ports, and the
    /// system spreads connections and datagrams over them (`SO_REUSEPORT`; see socket(7)).
    /// Default: no. Where the system has no such option, nothing can be bound with it. How a process
    /// leaves the others is at [`Echo::shutdown`](crate::Echo::shutdown).
    pub fn reuse_port(mut self, yes: bool) -> Self {
        self.config.reuse_port = yes;
        self
    }

    /// The permissions of Unix sockets' files: 0 to 0o777; who may write may connect. They hold
    /// before anyone can connect. Default: what the process's umask leaves; see umask(2).
    ///
    /// Give that right to those you trust only. Over a Unix socket file descriptors can be sent, as
    /// many as one likes, and they are closed here, by the system, within the call that reads or
    /// closes. To close some of them takes long (a socket with `SO_LINGER`, say), and the whole
    /// loop waits.
    pub fn unix_mode(mut self, mode: u32) -> Self {
        self.config.unix_mode = Some(mode);
        self
    }

    /// Whether datagrams are answered whatever port they come from. Default: no. Then those from
    /// ports of well-known services, or from a port that is served here, get no answer, because
    /// two services can be made to answer each other for ever (CERT CA-1996-01). Meant for a
    /// closed lab.
    pub fn udp_answer_any_port(mut self, yes: bool) -> Self {
        self.config.udp_answer_any_port = yes;
        self
    }

    /// For how long a connection stays open in which nothing moves, in either direction: up to 24
    /// hours, default 0, which is for ever. It is closed later than that by 1 % at the most, or by 50
    /// ms where that is more, and never sooner.
    pub fn idle_timeout(mut self, time: Duration) -> Self {
        self.config.idle_timeout = time;
        self
    }

    /// For how long a connection stays open whose peer takes nothing, while bytes are unsent that
    /// the system would not take: up to 24 hours, default 30 s; 0 is for ever. As exact as
    /// the [`idle_timeout`](ConfigBuilder::idle_timeout).
    pub fn stall_timeout(mut self, time: Duration) -> Self {
        self.config.stall_timeout = time;
        self
    }

    /// For how long after an event the loop goes on asking for the next one before it sleeps: 0
    /// (it sleeps at once) to 1 s, default 0. Whoever answers within that time is served sooner,
    /// because the loop has not to be woken; until then the loop takes all of a core.
    pub fn busy_poll(mut self, time: Duration) -> Self {
        self.config.busy_poll = time;
        self
    }

    /// Whether streams in bulk go through a pipe instead of the buffer, so that their bytes are not
    /// copied. Default: [`ZeroCopy::Auto`].
    pub fn zero_copy(mut self, zero_copy: ZeroCopy) -> Self {
        self.config.zero_copy = zero_copy;
        self
    }

    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// The first setting that is out of its range or that another one leaves without effect, a path
    /// that is too long, or a socket that two endpoints ask for.
    pub fn build(self) -> Result<Config, ConfigError> {
        let config = self.config;
        if !Config::BACKLOG_RANGE.contains(&config.backlog) {
            return Err(ConfigError::Backlog(config.backlog));
        }
        if !Config::BUFFER_SIZE_RANGE.contains(&config.buffer_size) {
            return Err(ConfigError::BufferSize(config.buffer_size));
        }
        if !Config::MAX_CONNECTIONS_RANGE.contains(&config.max_connections) {
            return Err(ConfigError::MaxConnections(config.max_connections));
        }
        check_admission(&config)?;
        if !Config::DRAIN_TIMEOUT_RANGE.contains(&config.drain_timeout) {
            return Err(ConfigError::DrainTimeout(config.drain_timeout));
        }
        if !Config::TIMEOUT_RANGE.contains(&config.idle_timeout) {
            return Err(ConfigError::IdleTimeout(config.idle_timeout));
        }
        if !Config::TIMEOUT_RANGE.contains(&config.stall_timeout) {
            return Err(ConfigError::StallTimeout(config.stall_timeout));
        }
        if !Config::BUSY_POLL_RANGE.contains(&config.busy_poll) {
            return Err(ConfigError::BusyPoll(config.busy_poll));
        }
        match config.unix_mode {
            Some(mode) if !Config::UNIX_MODE_RANGE.contains(&mode) => {
                return Err(ConfigError::UnixMode(mode));
            }
            _ => {}
        }
        if let Some(endpoint) = config.endpoints.iter().find(|it| is_too_long(it)) {
            return Err(ConfigError::LongPath(endpoint.clone()));
        }
        if let Some(endpoint) = config.endpoints.iter().find(|it| has_nul(it)) {
            return Err(ConfigError::NulInPath(endpoint.clone()));
        }
        match repeated(&config) {
            Some(endpoint) => Err(ConfigError::RepeatedEndpoint(endpoint)),
            None => Ok(config),
        }
    }
}

/// Whether the rules about who may connect, and how often, can have an effect.
fn check_admission(config: &Config) -> Result<(), ConfigError> {
    let most = config.max_connections;
    match config.max_per_source {
        Some(count) if !Config::MAX_PER_SOURCE_RANGE.contains(&count) || count > most => {
            return Err(ConfigError::MaxPerSource { count, most });
        }
        _ => {}
    }
    let mut sockets = config.sockets().flatten().peekable();
    // Where there are none, sockets may be handed over.
    let has_none = config.allow.is_empty() || sockets.peek().is_none();
    if has_none || sockets.any(|it| can_be_reached(&it, config)) {
        Ok(())
    } else {
        Err(ConfigError::AllowedFamily)
    }
}

/// Whether an allowed network is of the endpoint's address family.
fn can_be_reached(endpoint: &Endpoint, config: &Config) -> bool {
    let has_family = |address: SocketAddr| {
        let mut allowed = config.allow.iter();
        allowed.any(|network| network.is_ipv4() == address.is_ipv4())
    };
    endpoint.address().is_some_and(has_family)
}

/// The first socket that is there twice. Port 0 is another free port each time.
fn repeated(config: &Config) -> Option<Endpoint> {
    let sockets: Vec<Endpoint> = config.sockets().flatten().collect();
    let is_repeated = |(index, socket): &(usize, &Endpoint)| {
        let is_any_port = socket.address().is_some_and(|address| address.port() == 0);
        !is_any_port && sockets[..*index].contains(socket)
    };
    let (_, socket) = sockets.iter().enumerate().find(is_repeated)?;
    Some(socket.clone())
}

fn is_too_long(endpoint: &Endpoint) -> bool {
    match endpoint {
        Endpoint::Unix(path) => path.as_os_str().len() > Config::UNIX_PATH_MAX,
        Endpoint::Abstract(name) => name.len() > Config::UNIX_PATH_MAX,
        _ => false,
    }
}

/// A zero byte would end the path.
fn has_nul(endpoint: &Endpoint) -> bool {
    match endpoint {
        Endpoint::Unix(path) => path.as_os_str().as_encoded_bytes().contains(&0),
        _ => false,
    }
}

/// A setting that cannot work, with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// Outside [`Config::BACKLOG_RANGE`].
    Backlog(u32),
    /// Outside [`Config::BUFFER_SIZE_RANGE`].
    BufferSize(usize),
    /// Outside [`Config::MAX_CONNECTIONS_RANGE`].
    MaxConnections(usize),
    /// Outside [`Config::MAX_PER_SOURCE_RANGE`], or more than there may be of all.
    MaxPerSource {
        /// How many a source was to have.
        count: usize,
        /// How many connections there may be.
        most: usize,
    },
    /// Networks are allowed, and none that peers of an endpoint could be in: these are of the other
    /// address family, or of Unix sockets alone.
    AllowedFamily,
    /// Outside [`Config::DRAIN_TIMEOUT_RANGE`].
    DrainTimeout(Duration),
    /// Outside [`Config::TIMEOUT_RANGE`].
    IdleTimeout(Duration),
    /// Outside [`Config::TIMEOUT_RANGE`].
    StallTimeout(Duration),
    /// Outside [`Config::BUSY_POLL_RANGE`].
    BusyPoll(Duration),
    /// Outside [`Config::UNIX_MODE_RANGE`].
    UnixMode(u32),
    /// Longer than [`Config::UNIX_PATH_MAX`].
    LongPath(Endpoint),
    /// A path with a zero byte in it.
    NulInPath(Endpoint),
    /// The same socket twice.
    RepeatedEndpoint(Endpoint),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigError::Backlog(value) => write!(
                f,
                "a backlog of {value} is out of range: choose {} to {} connections",
                Config::BACKLOG_RANGE.start(),
                Config::BACKLOG_RANGE.end()
            ),
            ConfigError::BufferSize(value) => write!(
                f,
                "a buffer size of {value} is out of range: choose {} to {} bytes",
                Config::BUFFER_SIZE_RANGE.start(),
                Config::BUFFER_SIZE_RANGE.end()
            ),
            ConfigError::MaxConnections(value) => write!(
                f,
                "a limit of {value} connections is out of range: choose {} to {}",
                Config::MAX_CONNECTIONS_RANGE.start(),
                Config::MAX_CONNECTIONS_RANGE.end()
            ),
            ConfigError::MaxPerSource { count, most } => write!(
                f,
                "a limit of {count} connections per source is out of range: choose 1 to {most}, \
                 the limit of all connections"
            ),
            ConfigError::AllowedFamily => f.write_str(
                "the allowed networks are of no endpoint's address family: allow networks of IPv4 \
                 for endpoints of IPv4, of IPv6 for IPv6, and none for Unix sockets",
            ),
            ConfigError::DrainTimeout(value) => write!(
                f,
                "a drain timeout of {value:?} is out of range: choose 0 to {:?}",
                Config::DRAIN_TIMEOUT_RANGE.end()
            ),
            ConfigError::IdleTimeout(value) => write!(
                f,
                "an idle timeout of {value:?} is out of range: choose 0 to {:?}",
                Config::TIMEOUT_RANGE.end()
            ),
            ConfigError::StallTimeout(value) => write!(
                f,
                "a stall timeout of {value:?} is out of range: choose 0 to {:?}",
                Config::TIMEOUT_RANGE.end()
            ),
            ConfigError::BusyPoll(value) => write!(
                f,
                "a busy poll of {value:?} is out of range: choose 0 to {:?}",
                Config::BUSY_POLL_RANGE.end()
            ),
            ConfigError::UnixMode(mode) => write!(
                f,
                "a Unix socket's mode of {mode:#o} is out of range: choose 0 to {:#o}",
                Config::UNIX_MODE_RANGE.end()
            ),
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
mod tests {
    use super::*;

    fn error(builder: ConfigBuilder) -> ConfigError {
        builder.build().expect_err("an impossible value was taken")
    }

    #[test]
    fn the_ends_of_every_range_are_taken() {
        for builder in [
            Config::builder()
                .backlog(1)
                .buffer_size(1)
                .max_connections(1),
            Config::builder()
                .backlog(65_535)
                .buffer_size(1 << 24)
                .max_connections(1_000_000_000),
            Config::builder().max_per_source(1),
            Config::builder().max_per_source(Config::DEFAULT_MAX_CONNECTIONS),
            Config::builder().drain_timeout(Duration::ZERO),
            Config::builder().drain_timeout(Duration::from_secs(86_400)),
            Config::builder().idle_timeout(Duration::ZERO),
            Config::builder().idle_timeout(Duration::from_secs(86_400)),
            Config::builder().stall_timeout(Duration::ZERO),
            Config::builder().stall_timeout(Duration::from_secs(86_400)),
            Config::builder().busy_poll(Duration::ZERO),
            Config::builder().busy_poll(Duration::from_secs(1)),
            Config::builder().unix_mode(0),
            Config::builder().unix_mode(0o777),
            Config::builder().endpoint(Endpoint::Unix("x".repeat(Config::UNIX_PATH_MAX).into())),
            Config::builder().endpoint(Endpoint::Abstract("x".repeat(Config::UNIX_PATH_MAX))),
        ] {
            builder.build().unwrap();
        }
    }

    #[test]
    fn what_is_out_of_range_is_named() {
        let max = usize::MAX;
        assert_eq!(error(Config::builder().backlog(0)), ConfigError::Backlog(0));
        assert_eq!(
            error(Config::builder().backlog(65_536)),
            ConfigError::Backlog(65_536)
        );
        assert_eq!(
            error(Config::builder().buffer_size(0)),
            ConfigError::BufferSize(0)
        );
        assert_eq!(
            error(Config::builder().buffer_size(max)),
            ConfigError::BufferSize(max)
        );
        assert_eq!(
            error(Config::builder().max_connections(0)),
            ConfigError::MaxConnections(0)
        );
        assert_eq!(
            error(Config::builder().max_connections(max)),
            ConfigError::MaxConnections(max)
        );
        let forever = Duration::MAX;
        assert_eq!(
            error(Config::builder().drain_timeout(forever)),
            ConfigError::DrainTimeout(forever)
        );
        assert_eq!(
            error(Config::builder().idle_timeout(forever)),
            ConfigError::IdleTimeout(forever)
        );
        assert_eq!(
            error(Config::builder().stall_timeout(forever)),
            ConfigError::StallTimeout(forever)
        );
        assert_eq!(
            error(Config::builder().busy_poll(forever)),
            ConfigError::BusyPoll(forever)
        );
        assert_eq!(
            error(Config::builder().unix_mode(0o1000)),
            ConfigError::UnixMode(0o1000)
        );
    }

    #[test]
    fn a_source_may_not_have_more_connections_than_all_may() {
        let builder = |count| Config::builder().max_connections(5).max_per_source(count);
        builder(5).build().unwrap();
        for count in [0, 6, usize::MAX] {
            let error = error(builder(count));
            assert_eq!(error, ConfigError::MaxPerSource { count, most: 5 });
            assert!(error.to_string().contains("choose 1 to 5"), "{error}");
        }
        let count = Config::DEFAULT_MAX_CONNECTIONS + 1;
        error(Config::builder().max_per_source(count));
    }

    #[test]
    fn a_network_is_allowed_where_a_peer_could_be_in_one() {
        let build = |endpoints: &[&str], networks: &[&str], dual_stack| {
            let mut builder = Config::builder().dual_stack(dual_stack);
            for text in endpoints {
                builder = builder.endpoint(text.parse().unwrap());
            }
            for text in networks {
                builder = builder.allow(text.parse().unwrap());
            }
            builder.build().map(|config| config.allow.len())
        };
        for (endpoints, networks, dual_stack) in [
            (&[][..], &["10.0.0.0/8"][..], false),
            (&[], &["::1"], false),
            (&["127.0.0.1:7"], &["::1", "::ffff:127.0.0.1"], false),
            (&["[::]:7"], &["10.0.0.0/8"], true),
            (&["[::]:7", "udp://0.0.0.0:7"], &["10.0.0.0/8"], false),
            (&["unix:@echo", "[::1]:7"], &["::1"], false),
        ] {
            let count = networks.len();
            assert_eq!(build(endpoints, networks, dual_stack), Ok(count));
        }
        for (endpoints, networks, dual_stack) in [
            (&["[::]:7"][..], &["10.0.0.0/8", "192.0.2.1"][..], false),
            (&["0.0.0.0:7"], &["::/0"], true),
            (&["unix:@echo"], &["0.0.0.0/0", "::/0"], true),
            (&["unix:@echo", "[::]:7"], &["10.0.0.0/8"], false),
        ] {
            let result = build(endpoints, networks, dual_stack);
            assert_eq!(result, Err(ConfigError::AllowedFamily), "{endpoints:?}");
        }
    }

    #[test]
    fn a_path_has_no_zero_byte() {
        let endpoint = Endpoint::Unix("/run/echo\0sock".into());
        let error = error(Config::builder().endpoint(endpoint.clone()));
        assert_eq!(error, ConfigError::NulInPath(endpoint));
        assert_eq!(error.to_string().lines().count(), 1);
    }

    #[test]
    fn a_path_that_is_too_long_is_told_how_long_it_may_be() {
        let long = "x".repeat(Config::UNIX_PATH_MAX + 1);
        for endpoint in [
            Endpoint::Unix(long.clone().into()),
            Endpoint::Abstract(long),
        ] {
            let error = error(Config::builder().endpoint(endpoint.clone()));
            assert_eq!(error, ConfigError::LongPath(endpoint));
            #[cfg(target_os = "linux")]
            assert!(error.to_string().contains("107 bytes at most"), "{error}");
        }
    }

    #[test]
    fn a_socket_may_be_there_once() {
        let build = |dual_stack: bool, endpoints: [&str; 2]| {
            let mut builder = Config::builder().dual_stack(dual_stack);
            for text in endpoints {
                builder = builder.endpoint(text.parse().unwrap());
            }
            builder.build()
        };
        for (dual_stack, endpoints, repeated) in [
            (false, ["127.0.0.1:7", "127.0.0.1:7"], "tcp://127.0.0.1:7"),
            (
                false,
                ["127.0.0.1:7", "udp://127.0.0.1:7"],
                "udp://127.0.0.1:7",
            ),
            (false, ["unix:@a", "unix:@a"], "unix:@a"),
            (true, ["0.0.0.0:7", "tcp://[::]:7"], "tcp://0.0.0.0:7"),
        ] {
            assert_eq!(
                build(dual_stack, endpoints),
                Err(ConfigError::RepeatedEndpoint(repeated.parse().unwrap()))
            );
        }
        for (dual_stack, endpoints) in [
            (false, ["tcp://127.0.0.1:7", "udp://127.0.0.1:7"]),
            (false, ["127.0.0.1:7", "[::1]:7"]),
            (false, ["0.0.0.0:7", "[::]:7"]),
            (true, ["127.0.0.1:0", "127.0.0.1:0"]),
        ] {
            assert_eq!(build(dual_stack, endpoints).unwrap().endpoints.len(), 2);
        }
    }

    #[test]
    fn without_an_endpoint_it_is_the_default_one() {
        let config = Config::builder().build().unwrap();
        assert_eq!(config, Config::default());
        assert_eq!(config.or_default_endpoint().endpoints, [Endpoint::DEFAULT]);
        let endpoint: Endpoint = "unix:@a".parse().unwrap();
        let config = Config::builder().endpoint(endpoint.clone()).build();
        assert_eq!(config.unwrap().or_default_endpoint().endpoints, [endpoint]);
    }
}
