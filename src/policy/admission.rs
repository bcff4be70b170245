//! Which TCP connections are admitted: the allow list and the limit per source.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::policy::cidr::AllowList;

/// Why a connection is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RejectReason {
    NotAllowed,
    TooManyFromSource,
}

impl fmt::Display for RejectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RejectReason::NotAllowed => "its address is in no allowed network",
            RejectReason::TooManyFromSource => "its source is at the limit of connections",
        })
    }
}

/// The rules for TCP connections. Unix sockets have none: the permissions of the file decide.
#[derive(Debug)]
pub(crate) struct Admission {
    allowed: AllowList,
    per_source: Option<PerSourceLimit>,
}

impl Admission {
    pub(crate) fn new(allowed: AllowList, max_per_source: Option<usize>) -> Self {
        Admission {
            allowed,
            per_source: max_per_source.map(PerSourceLimit::new),
        }
    }

    /// Admits a connection, which is to be [released](Admission::release) when it closes.
    pub(crate) fn acquire(&mut self, peer: SocketAddr) -> Result<(), RejectReason> {
        if !self.allowed.contains(peer.ip()) {
            return Err(RejectReason::NotAllowed);
        }
        let per_source = self.per_source.as_mut();
        if per_source.is_none_or(|limit| limit.acquire(peer)) {
            Ok(())
        } else {
            Err(RejectReason::TooManyFromSource)
        }
    }

    pub(crate) fn release(&mut self, peer: SocketAddr) {
        if let Some(limit) = &mut self.per_source {
            limit.release(peer);
        }
    }

    /// The number of sources with connections.
    #[cfg(test)]
    pub(crate) fn sources(&self) -> usize {
        let limit = self.per_source.as_ref();
        limit.map_or(0, |limit| limit.counts.len())
    }
}

/// Key of the per-source limit. A host can choose all addresses of one key by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum SourceKey {
    Ipv4(Ipv4Addr),
    /// The first 64 bits of an IPv6 address: a host gives itself as many addresses behind them as it
    /// likes (RFC 8981).
    Ipv6Network([u16; 4]),
    /// All hosts of all links share the first 64 bits. The zone distinguishes the links.
    LinkLocal(Ipv6Addr, u32),
}

impl From<SocketAddr> for SourceKey {
    fn from(address: SocketAddr) -> Self {
        let zone = match address {
            SocketAddr::V4(_) => 0,
            SocketAddr::V6(address) => address.scope_id(),
        };
        match address.ip().to_canonical() {
            IpAddr::V4(ip) => SourceKey::Ipv4(ip),
            IpAddr::V6(ip) if ip.is_unicast_link_local() => SourceKey::LinkLocal(ip, zone),
            IpAddr::V6(ip) => {
                let [a, b, c, d, ..] = ip.segments();
                SourceKey::Ipv6Network([a, b, c, d])
            }
        }
    }
}

/// The number of connections of each source that has any.
#[derive(Debug)]
struct PerSourceLimit {
    max: usize,
    /// The hash has a random key, so that no peer can choose addresses that collide.
    counts: HashMap<SourceKey, usize>,
}

impl PerSourceLimit {
    /// `max` is at least 1.
    fn new(max: usize) -> Self {
        PerSourceLimit {
            max,
            counts: HashMap::new(),
        }
    }

    /// Counts one more connection, unless its source is at the limit.
    fn acquire(&mut self, peer: SocketAddr) -> bool {
        let count = self.counts.entry(peer.into()).or_default();
        let has_room = *count < self.max;
        *count += usize::from(has_room);
        has_room
    }

    /// Counts one connection less. The entry goes with the last one.
    fn release(&mut self, peer: SocketAddr) {
        if let Entry::Occupied(mut entry) = self.counts.entry(peer.into()) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(networks: &[&str], max_per_source: Option<usize>) -> Admission {
        let networks: Vec<_> = networks.iter().map(|it| it.parse().unwrap()).collect();
        Admission::new(AllowList::new(&networks), max_per_source)
    }

    fn peer(address: &str) -> SocketAddr {
        address.parse().unwrap()
    }

    #[test]
    fn admits_every_peer_without_rules() {
        let mut admission = admission(&[], None);
        for _ in 0..100 {
            assert_eq!(admission.acquire(peer("192.0.2.1:1")), Ok(()));
        }
        admission.release(peer("192.0.2.1:1"));
        assert_eq!(admission.sources(), 0);
    }

    #[test]
    fn peer_outside_the_allow_list_is_not_counted() {
        let mut admission = admission(&["192.0.2.0/24"], Some(1));
        for _ in 0..2 {
            let outside = peer("198.51.100.1:1");
            assert_eq!(admission.acquire(outside), Err(RejectReason::NotAllowed));
        }
        assert_eq!(admission.sources(), 0);
        let inside = peer("[::ffff:192.0.2.1]:1");
        assert_eq!(admission.acquire(inside), Ok(()));
        let again = peer("192.0.2.1:2");
        assert_eq!(
            admission.acquire(again),
            Err(RejectReason::TooManyFromSource)
        );
        admission.release(inside);
        assert_eq!(admission.acquire(again), Ok(()));
        assert_eq!(admission.sources(), 1);
    }

    #[test]
    fn each_source_has_its_own_count_whatever_the_port() {
        let mut limit = PerSourceLimit::new(2);
        for (address, has_room) in [
            ("192.0.2.1:1", true),
            ("192.0.2.1:2", true),
            ("192.0.2.1:3", false),
            ("192.0.2.2:1", true),
            ("192.0.2.1:4", false),
        ] {
            assert_eq!(limit.acquire(peer(address)), has_room, "{address}");
        }
        // A rejected connection has not been counted.
        limit.release(peer("192.0.2.1:1"));
        assert!(limit.acquire(peer("192.0.2.1:5")));
        assert!(!limit.acquire(peer("192.0.2.1:6")));
    }

    #[test]
    fn entry_goes_with_the_last_connection() {
        let mut limit = PerSourceLimit::new(2);
        for number in 0..100 {
            let peer = peer(&format!("192.0.2.{number}:1"));
            assert!(limit.acquire(peer) && limit.acquire(peer));
            assert!(!limit.acquire(peer));
            limit.release(peer);
            assert_eq!(limit.counts.len(), 1);
            limit.release(peer);
            assert_eq!(limit.counts.len(), 0);
        }
    }

    #[test]
    fn addresses_that_one_host_can_choose_are_one_source() {
        for (one, other, is_same) in [
            ("192.0.2.1:1", "192.0.2.2:1", false),
            ("192.0.2.1:1", "[::ffff:192.0.2.1]:1", true),
            ("[::ffff:192.0.2.1]:1", "[::ffff:192.0.2.2]:1", false),
            ("[2001:db8::1]:1", "[2001:db8::ffff:ffff:ffff:ffff]:1", true),
            ("[2001:db8::1]:1", "[2001:db8:0:1::1]:1", false),
            ("[2001:db8::1]:1", "[2001:db9::1]:1", false),
            ("[fe80::1%1]:1", "[fe80::1%1]:2", true),
            ("[fe80::1%1]:1", "[fe80::2%1]:1", false),
            ("[fe80::1%1]:1", "[fe80::1%2]:1", false),
        ] {
            let mut limit = PerSourceLimit::new(1);
            assert!(limit.acquire(peer(one)));
            assert_eq!(limit.acquire(peer(other)), !is_same, "{one} and {other}");
        }
    }
}
