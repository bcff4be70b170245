//! Checks of each close: which reasons hold, and which one the engine counts.

use std::array;
use std::mem;
use std::net::{IpAddr, SocketAddr};

use nix::libc::{ECONNRESET, ENOTCONN, EPIPE};

use super::checks::tolerance;
use super::connections::Connection;
use super::plan::{Micros, SECOND};
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
fn source(it: &Connection) -> Option<(bool, u64)> {
    match it.address?.ip() {
        IpAddr::V4(ip) => Some((false, u32::from(ip).into())),
        IpAddr::V6(ip) => Some((true, (ip.to_bits() >> 64) as u64)),
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
    pub(super) fn forbids(&self, it: &Connection) -> Option<&'static str> {
        let max = self.plan.config.max_per_source.unwrap_or(usize::MAX);
        let others = self
            .open(it.echo)
            .filter(|other| other.id != it.id && other.is_admitted);
        let is_same = |other: &&Connection| source(other) == source(it);
        match it.address {
            Some(address) if !self.is_allowed(address) => Some("is not in the allow list"),
            Some(_) if others.filter(is_same).count() >= max => {
                Some("is one too many of its source")
            }
            _ => None,
        }
    }

    /// A connection is reset at once.
    pub(super) fn check_rejection(&mut self, id: usize) {
        let it = &self.connections[id];
        if self.forbids(it).is_none() {
            self.fail(format!("{it} is rejected without a reason"));
        }
    }

    /// A connection is closed: one of the reasons has to hold.
    pub(super) fn check_close(&mut self, id: usize) {
        let it = &self.connections[id];
        // Without an admission it was rejected, or could not be registered.
        if self.is_over || !it.is_admitted {
            return;
        }
        let reasons = self.reasons(it);
        if !reasons.contains(&true) {
            self.fail(format!("{it} is closed without a reason"));
        } else if reasons == only(EVICTED) {
            self.check_eviction(id);
        }
        self.judge.closed.push(reasons);
    }

    fn reasons(&self, it: &Connection) -> Reasons {
        let is_lingering = self.is_lingering();
        let age = self.turn_now - it.moved_at;
        let has_unread = it.unread() > 0 && !it.is_blocked && !it.activity.would_block;
        let may_expire = !has_unread && !is_lingering;
        let has_expired = |timeout: Micros| may_expire && timeout > 0 && age > timeout;
        let held = self.open(it.echo).map(|it| it.held);
        let is_full = held.sum::<u64>() > self.plan.config.max_buffered as u64;
        [
            it.has_read_end && it.pending() == 0 && !it.write_closed,
            it.failure.is_some_and(is_reset),
            it.failure.is_some_and(|errno| !is_reset(errno)),
            has_expired(self.idle_timeout()),
            it.is_blocked && has_expired(self.write_timeout()),
            it.is_blocked && is_full,
            is_lingering,
        ]
    }

    /// Evicted is the connection that is blocked longest, to the length of a slot of its timers.
    fn check_eviction(&mut self, id: usize) {
        let it = &self.connections[id];
        let timeout = match self.write_timeout() {
            0 => 600 * SECOND,
            timeout => timeout,
        };
        let blocked = self.open(it.echo).filter(|other| other.is_blocked);
        let longest = blocked.map(|it| it.moved_at).min().unwrap_or(it.moved_at);
        // Older ones share the first slot.
        let first = longest.max(self.turn_now.saturating_sub(timeout));
        if it.moved_at > first + tolerance(timeout) {
            self.fail(format!(
                "{it} is evicted, and another one is blocked for a longer time"
            ));
        }
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
        let before = mem::replace(&mut self.judge.counts[echo], counts);
        let turn = mem::take(&mut self.judge.closed);
        for (reason, (now, before)) in counts.into_iter().zip(before).enumerate() {
            let certain = turn.iter().filter(|it| **it == only(reason)).count();
            let possible = turn.iter().filter(|it| it[reason]).count();
            if !(certain..=possible).contains(&((now - before) as usize)) {
                self.fail(format!(
                    "the reasons of {} closes are counted as {closed:?}",
                    turn.len()
                ));
            }
        }
    }
}
