//! Checks of each close: which reasons hold, and which one the engine counts.

use std::array;
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::checks::{timeout, tolerance};
use super::connections::Connection;
use super::errors::{ECONNRESET, ENOTCONN, EPIPE};
use super::plan::{NEVER, SECOND};
use super::world::World;
use crate::stats::Closed;

/// The reasons of a close, in the order of [`Closed`]: those that hold.
pub(super) type Reasons = [bool; 7];

const EVICTED: usize = 5;

fn only(reason: usize) -> Reasons {
    array::from_fn(|index| index == reason)
}

fn is_reset(errno: i32) -> bool {
    [ECONNRESET, EPIPE, ENOTCONN].contains(&errno)
}

/// IPv4 addresses, and networks of 64 bits of IPv6, count as one source.
fn source(address: SocketAddr) -> (bool, u64) {
    match address.ip() {
        IpAddr::V4(ip) => (false, u32::from(ip).into()),
        IpAddr::V6(ip) => (true, (ip.to_bits() >> 64) as u64),
    }
}

impl World {
    pub(super) fn is_allowed(&self, peer: SocketAddr) -> bool {
        let is_in = match peer.ip() {
            IpAddr::V4(ip) => ip.octets()[..3] == [10, 0, 0] && ip.octets()[3] < 4,
            IpAddr::V6(ip) => ip.segments()[..4] == [0xfd00, 0, 0, 0],
        };
        self.plan.config.allow.is_empty() || is_in
    }

    /// Why a connection must not be open, if other connections are.
    pub(super) fn forbids(&self, connection: &Connection) -> Option<&'static str> {
        let address = connection.address?;
        if !self.is_allowed(address) {
            return Some("is not in the allow list");
        }
        let max = self.plan.config.max_per_source?;
        let others = self.open(connection.socket.echo).filter(|other| {
            let is_admitted = other.id != connection.id && other.socket.token.is_some();
            is_admitted && other.address.map(source) == Some(source(address))
        });
        (others.count() >= max).then_some("is one too many of its source")
    }

    /// A connection is reset instead of served.
    pub(super) fn check_rejection(&self, id: usize) {
        let connection = &self.connections[id];
        let is_forbidden = self.forbids(connection).is_some();
        assert!(is_forbidden, "{connection} is rejected without a reason");
    }

    /// A connection is closed: one of the reasons has to hold.
    pub(super) fn check_close(&mut self, id: usize) {
        let connection = &self.connections[id];
        // Without a token it was rejected, or could not be registered.
        if self.is_over || connection.socket.token.is_none() {
            return;
        }
        let reasons = self.reasons(connection);
        let has_reason = reasons.contains(&true);
        assert!(has_reason, "{connection} is closed without a reason");
        if reasons == only(EVICTED) {
            self.check_eviction(connection);
        }
        let echo = connection.socket.echo;
        self.echoes[echo].closes.push(reasons);
    }

    fn reasons(&self, connection: &Connection) -> Reasons {
        let config = &self.plan.config;
        let (failure, is_blocked) = (connection.socket.failure, connection.is_blocked);
        let is_lingering = self.is_lingering();
        let would_block = is_blocked || connection.socket.in_turn.would_block;
        let may_expire = (connection.unread() == 0 || would_block) && !is_lingering;
        let age = self.turn_now - connection.moved_at;
        let has_expired = |duration: Duration| may_expire && age > timeout(duration);
        let held = self.open(connection.socket.echo).map(|it| it.held);
        let is_full = held.sum::<u64>() > config.max_buffered as u64;
        [
            connection.has_read_end && connection.pending() == 0 && !connection.write_closed,
            failure.is_some_and(is_reset),
            failure.is_some_and(|errno| !is_reset(errno)),
            has_expired(config.idle_timeout),
            is_blocked && has_expired(config.write_timeout),
            is_blocked && is_full,
            is_lingering,
        ]
    }

    /// The connection that is blocked longest is evicted, to the length of a slot of its timers.
    fn check_eviction(&self, connection: &Connection) {
        let timeout = match timeout(self.plan.config.write_timeout) {
            NEVER => 600 * SECOND,
            timeout => timeout,
        };
        let open = self.open(connection.socket.echo);
        let blocked = open.filter(|other| other.is_blocked);
        let longest = blocked.map(|it| it.moved_at).min().unwrap_or(NEVER);
        // Older ones share the first slot.
        let first = longest.max(self.turn_now.saturating_sub(timeout));
        let is_first = connection.moved_at <= first.saturating_add(tolerance(timeout));
        assert!(is_first, "{connection} is evicted, and not blocked longest");
    }

    /// Counted are reasons that held.
    pub(super) fn check_reasons(&mut self, echo: usize, closed: &Closed) {
        let counts = [
            closed.peer_closed,
            closed.reset,
            closed.error,
            closed.idle_timeout,
            closed.write_timeout,
            closed.evicted,
            closed.aborted,
        ];
        let before = mem::replace(&mut self.echoes[echo].counts, counts);
        let all = mem::take(&mut self.echoes[echo].closes);
        for (reason, (now, before)) in counts.into_iter().zip(before).enumerate() {
            let certain = all.iter().filter(|it| **it == only(reason)).count();
            let possible = all.iter().filter(|it| it[reason]).count();
            let is_possible = (certain..=possible).contains(&((now - before) as usize));
            assert!(
                is_possible,
                "the reasons of {} closes are counted as {closed:?}",
                all.len()
            );
        }
    }
}
