//! The knobs: what each means, its default and its range.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

mod error;

use crate::net::endpoint::Endpoint;
use crate::policy::cidr::Network;

pub use error::ConfigError;

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
    pub(crate) max_buffered: usize,
    pub(crate) socket_buffer: Option<usize>,
    pub(crate) allow: Vec<Network>,
    pub(crate) drain_timeout: Duration,
    pub(crate) dual_stack: bool,
    pub(crate) reuse_port: bool,
    pub(crate) unix_mode: Option<u32>,
    pub(crate) udp_answer_any_port: bool,
    pub(crate) idle_timeout: Duration,
    pub(crate) write_timeout: Duration,
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

    /// The least that [`ConfigBuilder::max_buffered`] may be, in bytes: 256 KiB, which is one pipe of
    /// [`ZeroCopy::Auto`]; and at least one [buffer](ConfigBuilder::buffer_size).
    pub const MIN_MAX_BUFFERED: usize = 256 * 1024;
    /// Default of [`ConfigBuilder::max_buffered`], in bytes: 64 MiB.
    pub const DEFAULT_MAX_BUFFERED: usize = 64 * 1024 * 1024;

    /// Range of [`ConfigBuilder::socket_buffer`], in bytes.
    pub const SOCKET_BUFFER_RANGE: RangeInclusive<usize> = 4 * 1024..=1024 * 1024 * 1024;

    /// Range of [`ConfigBuilder::drain_timeout`]: up to a day.
    pub const DRAIN_TIMEOUT_RANGE: RangeInclusive<Duration> =
        Duration::ZERO..=Duration::from_secs(24 * 60 * 60);
    /// Default of [`ConfigBuilder::drain_timeout`]: 5 s, half of what container engines usually
    /// wait before they kill.
    pub const DEFAULT_DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

    /// Range of [`ConfigBuilder::idle_timeout`] and [`ConfigBuilder::write_timeout`]: up to a day.
    pub const TIMEOUT_RANGE: RangeInclusive<Duration> =
        Duration::ZERO..=Duration::from_secs(24 * 60 * 60);
    /// Default of [`ConfigBuilder::write_timeout`]: 30 s.
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
                max_buffered: Config::DEFAULT_MAX_BUFFERED,
                socket_buffer: None,
                allow: Vec::new(),
                drain_timeout: Config::DEFAULT_DRAIN_TIMEOUT,
                dual_stack: false,
                reuse_port: false,
                unix_mode: None,
                udp_answer_any_port: false,
                idle_timeout: Duration::ZERO,
                write_timeout: Config::DEFAULT_STALL_TIMEOUT,
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

    /// Limits the memory that is held for all peers together that do not take what is echoed, in
    /// bytes: 256 KiB, or [`buffer_size`](ConfigBuilder::buffer_size) if that is larger, or more;
    /// default 64 MiB. What is in the pipes of [`ZeroCopy::Auto`] counts as well.
    ///
    /// When it is reached, the connection is closed whose last byte moved longest ago, to the
    /// hundredth of the [`write_timeout`](ConfigBuilder::write_timeout) (without one: to 6 s). The
    /// system's own buffers are not counted: see [`socket_buffer`](ConfigBuilder::socket_buffer).
    pub fn max_buffered(mut self, bytes: usize) -> Self {
        self.config.max_buffered = bytes;
        self
    }

    /// Fixes the size of the system's send and receive buffer of each connection (`SO_SNDBUF` and
    /// `SO_RCVBUF`), in bytes: 4 KiB to 1 GiB. Default: the system tunes them.
    ///
    /// Linux doubles the value, to have room for its own bookkeeping, and cuts it at
    /// `net.core.wmem_max` and `net.core.rmem_max`; see socket(7). Left to itself it lets the two
    /// buffers of a peer that sends and does not read grow to the last numbers of `tcp_wmem` and
    /// `tcp_rmem` (see tcp(7)), 10 MiB by default. Small buffers bound that, and the throughput of one connection over a
    /// long way: one buffer for each round trip.
    pub fn socket_buffer(mut self, bytes: usize) -> Self {
        self.config.socket_buffer = Some(bytes);
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

    /// The permissions of Unix sockets' files: 0 to 0o777; who may write may connect. A file has
    /// them from the moment it exists. Abstract names have no file, and ignore them. Default: what
    /// the process's umask leaves; see umask(2).
    ///
    /// Binding fails with `InvalidInput` if the umask, or a default ACL of the directory, takes
    /// away some of these permissions. So a host clears its umask while it binds (all threads of
    /// a process share it). On systems other than Linux binding fails with `Unsupported`.
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
    /// closed lab. In either case a reply has the datagram's TTL less one, on Linux, and a datagram
    /// that arrives with a TTL of 1 or less gets none.
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
    pub fn write_timeout(mut self, time: Duration) -> Self {
        self.config.write_timeout = time;
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
        check_memory(&config)?;
        if !Config::DRAIN_TIMEOUT_RANGE.contains(&config.drain_timeout) {
            return Err(ConfigError::DrainTimeout(config.drain_timeout));
        }
        if !Config::TIMEOUT_RANGE.contains(&config.idle_timeout) {
            return Err(ConfigError::IdleTimeout(config.idle_timeout));
        }
        if !Config::TIMEOUT_RANGE.contains(&config.write_timeout) {
            return Err(ConfigError::WriteTimeout(config.write_timeout));
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

fn check_memory(config: &Config) -> Result<(), ConfigError> {
    let least = Config::MIN_MAX_BUFFERED.max(config.buffer_size);
    if config.max_buffered < least {
        let bytes = config.max_buffered;
        return Err(ConfigError::MaxBuffered { bytes, least });
    }
    match config.socket_buffer {
        Some(bytes) if !Config::SOCKET_BUFFER_RANGE.contains(&bytes) => {
            Err(ConfigError::SocketBuffer(bytes))
        }
        _ => Ok(()),
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

#[cfg(test)]
mod tests;
