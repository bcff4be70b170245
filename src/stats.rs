//! Counters, and the reasons that closed connections are counted by.

use std::fmt;
use std::io;

use crate::admission::Denial;
use crate::deadlines::Limit;
use crate::refusal::Refusal;

/// What an [`Echo`](crate::Echo) has done since it was made. Counts only grow; `active` and
/// `run_queue` go both ways.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Connections that are open now.
    pub active: usize,
    /// Connections that were accepted. Those that were refused are not among them, nor among any
    /// others but `refused`.
    pub accepted: u64,
    /// Connections that were reset at once, because their peers may not have them.
    pub refused: Refused,
    /// Connections that were lost before they could be accepted or watched, such as those that
    /// the peer had given up by then.
    pub accept_errors: u64,
    /// How often accepting was paused: at the connection limit, or for want of descriptors or
    /// memory.
    pub accept_pauses: u64,
    /// Connections closed because the peer had finished and everything was written back.
    pub finished: u64,
    /// Connections closed by an error, such as the peer's reset.
    pub failed: u64,
    /// Connections closed because nothing moved in them for the idle timeout.
    pub idle: u64,
    /// Connections closed because the peer took none of what was unsent, for the stall timeout.
    pub stalled: u64,
    /// Connections closed by a shutdown whose drain time was over.
    pub cut: u64,
    /// Datagrams received. Each is counted once more: in `datagrams_sent`, `datagram_errors`,
    /// `send_buffer_drops` or `unanswered`.
    pub datagrams_received: u64,
    /// Datagrams sent back.
    pub datagrams_sent: u64,
    /// Datagrams that could not be sent back, such as to a peer that cannot be reached.
    pub datagram_errors: u64,
    /// Replies dropped because the socket's send buffer was full or the system had no memory for
    /// them: `EAGAIN`, `ENOBUFS` or `ENOMEM` from sendmmsg(2). UDP is best effort; they are not
    /// sent later.
    pub send_buffer_drops: u64,
    /// Datagrams that the system dropped before they could be received, mostly because the receive
    /// buffer was full. They are not among `datagrams_received`. Best effort, on Linux only
    /// (`SO_RXQ_OVFL`, see socket(7)): the system reports them beside the next datagram that it
    /// does not drop, and at a [`BoundSocket`](crate::BoundSocket) what its first report says counts
    /// as dropped before.
    pub receive_buffer_drops: u64,
    /// Errors that the system gave in place of a datagram.
    pub receive_errors: u64,
    /// Datagrams that got no answer by intention.
    pub unanswered: Unanswered,
    /// Bytes read from peers, but for those discarded after the drain time.
    pub bytes_received: u64,
    /// Those of them that were not copied; see [`ZeroCopy`](crate::ZeroCopy).
    pub bytes_zero_copied: u64,
    /// Bytes written back to them.
    pub bytes_sent: u64,
    /// Calls of [`Echo::run`](crate::Echo::run).
    pub turns: u64,
    /// How many were on the run queue in the last of these calls, and had their turn.
    pub run_queue: usize,
}

/// Connections that were refused, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refused {
    /// From an address in no allowed network; see
    /// [`ConfigBuilder::allow`](crate::ConfigBuilder::allow).
    pub not_allowed: u64,
    /// From a source that had as many as it may have; see
    /// [`ConfigBuilder::max_per_source`](crate::ConfigBuilder::max_per_source).
    pub too_many_from_source: u64,
}

impl Refused {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.not_allowed + self.too_many_from_source
    }

    pub(crate) fn count(&mut self, denial: Denial) {
        let counter = match denial {
            Denial::NotAllowed => &mut self.not_allowed,
            Denial::TooManyFromSource => &mut self.too_many_from_source,
        };
        *counter += 1;
    }
}

/// Datagrams that got no answer, by reason; see
/// [`ConfigBuilder::udp_answer_any_port`](crate::ConfigBuilder::udp_answer_any_port).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unanswered {
    /// From an address in no allowed network; see
    /// [`ConfigBuilder::allow`](crate::ConfigBuilder::allow).
    pub not_allowed: u64,
    /// From port 0, where nothing can be sent to.
    pub port_zero: u64,
    /// From a port below 1024.
    pub reserved_port: u64,
    /// From port 2049, which is NFS's.
    pub nfs_port: u64,
    /// From a port that is served here.
    pub own_port: u64,
    /// From a broadcast, multicast or unspecified address.
    pub source_address: u64,
    /// Sent to a broadcast or multicast address.
    pub destination: u64,
    /// Arrived with a TTL (IPv4) or hop limit (IPv6) of 1 or less. A reply leaves with one less
    /// than what arrived, so that two services that answer each other come to an end.
    pub hop_limit: u64,
}

impl Unanswered {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.not_allowed
            + self.port_zero
            + self.reserved_port
            + self.nfs_port
            + self.own_port
            + self.source_address
            + self.destination
            + self.hop_limit
    }

    pub(crate) fn count(&mut self, refusal: Refusal) {
        let counter = match refusal {
            Refusal::NotAllowed => &mut self.not_allowed,
            Refusal::PortZero => &mut self.port_zero,
            Refusal::ReservedPort => &mut self.reserved_port,
            Refusal::NfsPort => &mut self.nfs_port,
            Refusal::OwnPort => &mut self.own_port,
            Refusal::SourceAddress => &mut self.source_address,
            Refusal::Destination => &mut self.destination,
            Refusal::HopLimit => &mut self.hop_limit,
        };
        *counter += 1;
    }
}

impl Stats {
    pub(crate) fn count_opened(&mut self) {
        self.active += 1;
        self.accepted += 1;
    }

    pub(crate) fn count_closed(&mut self, reason: &Reason) {
        self.active -= 1;
        match reason {
            Reason::Finished => self.finished += 1,
            Reason::Failed(_) => self.failed += 1,
            Reason::Idle => self.idle += 1,
            Reason::Stalled => self.stalled += 1,
            Reason::Cut => self.cut += 1,
        }
    }
}

/// Why a connection was closed.
#[derive(Debug)]
pub(crate) enum Reason {
    /// The peer half-closed, and everything was written back.
    Finished,
    /// A read, a write or a shutdown failed.
    Failed(io::Error),
    Cut,
    /// Nothing moved for the idle timeout.
    Idle,
    /// The peer took nothing for the stall timeout.
    Stalled,
}

impl From<Limit> for Reason {
    fn from(limit: Limit) -> Self {
        match limit {
            Limit::Idle => Reason::Idle,
            Limit::Stall => Reason::Stalled,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Finished => f.write_str("the peer finished"),
            Reason::Failed(error) => write!(f, "{error}"),
            Reason::Idle => f.write_str("idle for too long"),
            Reason::Stalled => f.write_str("the peer did not take what was sent"),
            Reason::Cut => f.write_str("the drain time was over"),
        }
    }
}
