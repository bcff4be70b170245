//! What is said of settings that cannot work.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use super::Config;
use crate::net::endpoint::Endpoint;

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
    /// Less than one peer may need.
    MaxBuffered {
        /// How many bytes were to be held at most.
        bytes: usize,
        /// How many bytes one peer may need.
        least: usize,
    },
    /// Outside [`Config::SOCKET_BUFFER_RANGE`].
    SocketBuffer(usize),
    /// Networks are allowed, and none that peers of an endpoint could be in: these are of the other
    /// address family, or of Unix sockets alone.
    AllowedFamily,
    /// Outside [`Config::DRAIN_TIMEOUT_RANGE`].
    DrainTimeout(Duration),
    /// Outside [`Config::TIMEOUT_RANGE`].
    IdleTimeout(Duration),
    /// Outside [`Config::TIMEOUT_RANGE`].
    WriteTimeout(Duration),
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
            ConfigError::MaxBuffered { bytes, least } => write!(
                f,
                "a limit of {bytes} buffered bytes is out of range: choose at least {least}, \
                 what one peer may need"
            ),
            ConfigError::SocketBuffer(value) => write!(
                f,
                "a socket buffer of {value} is out of range: choose {} to {} bytes",
                Config::SOCKET_BUFFER_RANGE.start(),
                Config::SOCKET_BUFFER_RANGE.end()
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
            ConfigError::WriteTimeout(value) => write!(
                f,
                "a write timeout of {value:?} is out of range: choose 0 to {:?}",
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
