//! The counters, and the reasons for which connections are closed.

use std::fmt;
use std::io;
use std::ops::Sub;

/// What an [`Echo`](crate::Echo) has done since it was created. Counters only grow, except `active`,
/// `buffered` and `run_queue`, which are the present values.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Open connections.
    pub active: usize,
    /// Accepted connections, without rejected ones. Each is either active or counted in `closed`.
    pub accepted: u64,
    /// Connections that were accepted and immediately reset.
    pub rejected: Rejected,
    /// Connections that were lost before they could be opened, such as those that the peer reset while
    /// they were waiting.
    pub accept_errors: u64,
    /// Pauses of accepting: at the connection limit, or without descriptors or memory.
    pub accept_pauses: u64,
    /// Closed connections.
    pub closed: Closed,
    /// Received datagrams. Each is counted once more: in `datagrams_sent`, `datagram_errors`,
    /// `send_buffer_drops` or `dropped`.
    pub datagrams_received: u64,
    /// Datagrams sent back.
    pub datagrams_sent: u64,
    /// Replies that failed with an error, such as those to a peer that cannot be reached.
    pub datagram_errors: u64,
    /// Replies dropped because the send buffer of the socket was full or the system had no memory:
    /// `EAGAIN`, `ENOBUFS` or `ENOMEM` from sendmmsg(2). UDP is best effort: they are not sent later.
    pub send_buffer_drops: u64,
    /// Datagrams that the system dropped before they could be received, usually because the receive
    /// buffer was full; not among `datagrams_received`.
    ///
    /// Best effort, and on Linux only (`SO_RXQ_OVFL`; see socket(7)): the system reports them with the
    /// next datagram that it does not drop. At a [`BoundSocket`](crate::BoundSocket) the first report
    /// counts as dropped before.
    pub receive_buffer_drops: u64,
    /// Errors that were received instead of a datagram.
    pub receive_errors: u64,
    /// Datagrams that got no reply, by a rule.
    pub dropped: Dropped,
    /// Bytes received from peers, without those that arrive after the drain time. Those of streams are
    /// counted once more: in `bytes_sent` or `bytes_discarded`, or they are pending.
    pub bytes_received: u64,
    /// Those of them that were not copied; see [`ZeroCopy`](crate::ZeroCopy).
    pub bytes_zero_copied: u64,
    /// Bytes sent back.
    pub bytes_sent: u64,
    /// Bytes of streams that were received and not sent back, because the connection was closed before.
    pub bytes_discarded: u64,
    /// Bytes of memory and pipes that are held for peers that do not take what is echoed: at most
    /// [`max_buffered`](crate::ConfigBuilder::max_buffered).
    pub buffered: usize,
    /// Calls of [`Echo::run`](crate::Echo::run).
    pub iterations: u64,
    /// How many sockets had a turn in the last of these calls.
    pub run_queue: usize,
    /// Events of connections that were lost, because their queue was full; see
    /// [`ConfigBuilder::connection_events`](crate::ConfigBuilder::connection_events).
    pub events_lost: u64,
}

/// Rejected connections, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rejected {
    /// From an address in no allowed network; see
    /// [`ConfigBuilder::allow`](crate::ConfigBuilder::allow).
    pub not_allowed: u64,
    /// From a source at its limit; see
    /// [`ConfigBuilder::max_per_source`](crate::ConfigBuilder::max_per_source).
    pub too_many_from_source: u64,
}

/// Closed connections, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Closed {
    /// The peer sent the end of the stream, and everything was echoed.
    pub peer_closed: u64,
    /// The peer reset the connection, as health checks of load balancers do.
    pub reset: u64,
    /// Another error, such as a timeout of the network.
    pub error: u64,
    /// No byte moved for the [idle timeout](crate::ConfigBuilder::idle_timeout).
    pub idle_timeout: u64,
    /// The peer took no pending byte for the [write timeout](crate::ConfigBuilder::write_timeout).
    pub write_timeout: u64,
    /// Pending bytes reached [`max_buffered`](crate::ConfigBuilder::max_buffered), and in this
    /// connection no byte had moved for the longest time.
    pub evicted: u64,
    /// The drain time of a shutdown was over before the peer closed, or the application [closed
    /// it](crate::Echo::close).
    pub aborted: u64,
}

impl Closed {
    pub(crate) fn count(&mut self, reason: &CloseReason) {
        let counter = match reason {
            CloseReason::PeerClosed => &mut self.peer_closed,
            CloseReason::Reset => &mut self.reset,
            CloseReason::Error(_) => &mut self.error,
            CloseReason::IdleTimeout => &mut self.idle_timeout,
            CloseReason::WriteTimeout => &mut self.write_timeout,
            CloseReason::Evicted => &mut self.evicted,
            CloseReason::Aborted => &mut self.aborted,
        };
        *counter += 1;
    }
}

/// Datagrams without a reply, by reason; see
/// [`ConfigBuilder::udp_answer_any_port`](crate::ConfigBuilder::udp_answer_any_port).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Dropped {
    /// From an address in no allowed network; see
    /// [`ConfigBuilder::allow`](crate::ConfigBuilder::allow).
    pub not_allowed: u64,
    /// From port 0, which cannot receive a reply.
    pub port_zero: u64,
    /// From a port below 1024.
    pub reserved_port: u64,
    /// From port 2049, that of NFS.
    pub nfs_port: u64,
    /// From a port that is served here.
    pub own_port: u64,
    /// From a broadcast, multicast or unspecified address.
    pub source_address: u64,
    /// Sent to a broadcast or multicast address.
    pub destination: u64,
    /// Received with a TTL or hop limit of 1 or less: the reply would have one less.
    pub hop_limit: u64,
}

/// The sum of a group of counters, and their differences.
macro_rules! group {
    ($group:ident { $($counter:ident),+ }) => {
        impl $group {
            /// The sum.
            #[must_use]
            pub fn total(&self) -> u64 {
                0 $(+ self.$counter)+
            }
        }

        impl Sub for $group {
            type Output = $group;

            fn sub(self, earlier: $group) -> $group {
                $group { $($counter: self.$counter.saturating_sub(earlier.$counter)),+ }
            }
        }
    };
}

group!(Rejected {
    not_allowed,
    too_many_from_source
});
group!(Closed {
    peer_closed,
    reset,
    error,
    idle_timeout,
    write_timeout,
    evicted,
    aborted
});
group!(Dropped {
    not_allowed,
    port_zero,
    reserved_port,
    nfs_port,
    own_port,
    source_address,
    destination,
    hop_limit
});

/// What has happened since an earlier moment: the differences of the counters, and the present values
/// as they are.
///
/// ```
/// # let [before, after] = [mio_echo::Stats::default(); 2];
/// let echoed = (after - before).bytes_sent;
/// ```
impl Sub for Stats {
    type Output = Stats;

    fn sub(self, earlier: Stats) -> Stats {
        let since = |counter: fn(&Stats) -> u64| counter(&self).saturating_sub(counter(&earlier));
        Stats {
            accepted: since(|it| it.accepted),
            rejected: self.rejected - earlier.rejected,
            accept_errors: since(|it| it.accept_errors),
            accept_pauses: since(|it| it.accept_pauses),
            closed: self.closed - earlier.closed,
            datagrams_received: since(|it| it.datagrams_received),
            datagrams_sent: since(|it| it.datagrams_sent),
            datagram_errors: since(|it| it.datagram_errors),
            send_buffer_drops: since(|it| it.send_buffer_drops),
            receive_buffer_drops: since(|it| it.receive_buffer_drops),
            receive_errors: since(|it| it.receive_errors),
            dropped: self.dropped - earlier.dropped,
            bytes_received: since(|it| it.bytes_received),
            bytes_zero_copied: since(|it| it.bytes_zero_copied),
            bytes_sent: since(|it| it.bytes_sent),
            bytes_discarded: since(|it| it.bytes_discarded),
            iterations: since(|it| it.iterations),
            events_lost: since(|it| it.events_lost),
            active: self.active,
            buffered: self.buffered,
            run_queue: self.run_queue,
        }
    }
}

/// Why a connection was closed. [`Closed`] explains and counts each reason.
#[derive(Debug)]
#[non_exhaustive]
pub enum CloseReason {
    /// See [`Closed::peer_closed`].
    PeerClosed,
    /// See [`Closed::reset`].
    Reset,
    /// See [`Closed::error`].
    Error(io::Error),
    /// See [`Closed::idle_timeout`].
    IdleTimeout,
    /// See [`Closed::write_timeout`].
    WriteTimeout,
    /// See [`Closed::evicted`].
    Evicted,
    /// See [`Closed::aborted`].
    Aborted,
}

impl From<io::Error> for CloseReason {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, NotConnected};

        // After a reset recv(2), send(2) and shutdown(2) return different errors.
        match error.kind() {
            ConnectionReset | BrokenPipe | NotConnected => CloseReason::Reset,
            _ => CloseReason::Error(error),
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CloseReason::PeerClosed => f.write_str("closed by the peer"),
            CloseReason::Reset => f.write_str("reset by the peer"),
            CloseReason::Error(error) => write!(f, "{error}"),
            CloseReason::IdleTimeout => f.write_str("idle timeout"),
            CloseReason::WriteTimeout => f.write_str("write timeout"),
            CloseReason::Evicted => f.write_str("evicted, at the limit of buffered bytes"),
            CloseReason::Aborted => f.write_str("aborted"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_close_is_counted_by_its_reason() {
        for (reason, counter) in [
            (
                CloseReason::PeerClosed,
                (|it| it.peer_closed) as fn(&Closed) -> u64,
            ),
            (io::ErrorKind::ConnectionReset.into(), |it| it.reset),
            (io::ErrorKind::BrokenPipe.into(), |it| it.reset),
            (io::ErrorKind::NotConnected.into(), |it| it.reset),
            (io::ErrorKind::TimedOut.into(), |it| it.error),
            (CloseReason::IdleTimeout, |it| it.idle_timeout),
            (CloseReason::WriteTimeout, |it| it.write_timeout),
            (CloseReason::Evicted, |it| it.evicted),
            (CloseReason::Aborted, |it| it.aborted),
        ] {
            let mut closed = Closed::default();
            closed.count(&reason);
            assert_eq!((counter(&closed), closed.total()), (1, 1), "{reason}");
        }
    }

    #[test]
    fn counters_are_subtracted_and_present_values_kept() {
        let mut earlier = Stats {
            active: 5,
            accepted: 7,
            ..Stats::default()
        };
        earlier.closed.reset = 2;
        let mut later = Stats {
            active: 1,
            accepted: 10,
            bytes_sent: 3,
            ..earlier
        };
        later.closed.reset = 6;
        let difference = later - earlier;
        let counters = (
            difference.accepted,
            difference.bytes_sent,
            difference.closed.total(),
        );
        assert_eq!((difference.active, counters), (1, (3, 3, 4)));
        assert_eq!(later - Stats::default(), later);
    }

    impl From<io::ErrorKind> for CloseReason {
        fn from(kind: io::ErrorKind) -> Self {
            io::Error::from(kind).into()
        }
    }
}
