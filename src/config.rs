//! The knobs: what each means, its default and its range.

use std::error::Error;
use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::endpoint::Endpoint;

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
    pub(crate) drain_timeout: Duration,
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

    /// Range of [`ConfigBuilder::drain_timeout`]: up to a day.
    pub const DRAIN_TIMEOUT_RANGE: RangeInclusive<Duration> =
        Duration::ZERO..=Duration::from_secs(24 * 60 * 60);
    /// Default of [`ConfigBuilder::drain_timeout`]: 5 s, half of what container engines usually
    /// wait before they kill.
    pub const DEFAULT_DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

    /// Starts from the defaults.
    pub fn builder() -> ConfigBuilder {
        ConfigBuilder::new()
    }
}

impl Default for Config {
    fn default() -> Self {
        ConfigBuilder::new().with_default_endpoint()
    }
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
                drain_timeout: Config::DEFAULT_DRAIN_TIMEOUT,
            },
        }
    }

    /// Adds a place to listen. Without any, [`Endpoint::DEFAULT`] is the one.
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
    /// ever held for one peer: 1 byte to 16 MiB, default 64 KiB.
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

    /// For how long connections are still echoed after
    /// [`Echo::shutdown`](crate::Echo::shutdown): 0 (they are cut at once) to 24 hours, default
    /// 5 s.
    pub fn drain_timeout(mut self, time: Duration) -> Self {
        self.config.drain_timeout = time;
        self
    }

    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// The first setting that is out of its range, or an endpoint that is there twice.
    pub fn build(self) -> Result<Config, ConfigError> {
        let config = self.with_default_endpoint();
        if !Config::BACKLOG_RANGE.contains(&config.backlog) {
            return Err(ConfigError::Backlog(config.backlog));
        }
        if !Config::BUFFER_SIZE_RANGE.contains(&config.buffer_size) {
            return Err(ConfigError::BufferSize(config.buffer_size));
        }
        if !Config::MAX_CONNECTIONS_RANGE.contains(&config.max_connections) {
            return Err(ConfigError::MaxConnections(config.max_connections));
        }
        if !Config::DRAIN_TIMEOUT_RANGE.contains(&config.drain_timeout) {
            return Err(ConfigError::DrainTimeout(config.drain_timeout));
        }
        match repeated(&config.endpoints) {
            Some(endpoint) => Err(ConfigError::RepeatedEndpoint(endpoint)),
            None => Ok(config),
        }
    }

    fn with_default_endpoint(self) -> Config {
        let mut config = self.config;
        if config.endpoints.is_empty() {
            config.endpoints.push(Endpoint::DEFAULT);
        }
        config
    }
}

/// The first endpoint that is there twice. Port 0 is another free port each time.
fn repeated(endpoints: &[Endpoint]) -> Option<Endpoint> {
    let is_repeated = |(index, endpoint): &(usize, &Endpoint)| {
        endpoint.address().port() != 0 && endpoints[..*index].contains(endpoint)
    };
    endpoints
        .iter()
        .enumerate()
        .find(is_repeated)
        .map(|(_, endpoint)| *endpoint)
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
    /// Outside [`Config::DRAIN_TIMEOUT_RANGE`].
    DrainTimeout(Duration),
    /// The same endpoint twice.
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
            ConfigError::DrainTimeout(value) => write!(
                f,
                "a drain timeout of {value:?} is out of range: choose 0 to {:?}",
                Config::DRAIN_TIMEOUT_RANGE.end()
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
            Config::builder().drain_timeout(Duration::ZERO),
            Config::builder().drain_timeout(Duration::from_secs(86_400)),
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
    }

    #[test]
    fn an_endpoint_may_be_there_once() {
        let endpoint = |text: &str| text.parse::<Endpoint>().unwrap();
        let twice = Config::builder()
            .endpoint(endpoint("127.0.0.1:7007"))
            .endpoint(endpoint("[::1]:7007"))
            .endpoint(endpoint("tcp://127.0.0.1:7007"));
        assert_eq!(
            error(twice),
            ConfigError::RepeatedEndpoint(endpoint("127.0.0.1:7007"))
        );

        let any_port = Config::builder()
            .endpoint(endpoint("127.0.0.1:0"))
            .endpoint(endpoint("127.0.0.1:0"));
        assert_eq!(any_port.build().unwrap().endpoints.len(), 2);
    }

    #[test]
    fn without_an_endpoint_it_is_the_default_one() {
        assert_eq!(
            Config::builder().build().unwrap().endpoints,
            [Endpoint::DEFAULT]
        );
        assert_eq!(Config::default().endpoints, [Endpoint::DEFAULT]);
    }
}
