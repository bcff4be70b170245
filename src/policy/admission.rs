//! Which TCP connections are admitted: the allow list and the limit per source.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

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
#[derive(Debug, Default)]
pub(crate) struct Admission {
    allowed: AllowList,
    /// At least 1. Without it nothing is counted.
    max_per_source: Option<usize>,
    /// The number of connections of each source that has any. The hash has a random key, so that no
    /// peer can choose addresses that collide.
    counts: HashMap<SourceKey, usize>,
}

impl Admission {
    pub(crate) fn new(allowed: AllowList, max_per_source: Option<usize>) -> Self {
        Admission {
            allowed,
            max_per_source,
            counts: HashMap::new(),
        }
    }

    /// Admits a connection, which is to be [released](Admission::release) when it closes.
    pub(crate) fn acquire(&mut self, peer: SocketAddr) -> Result<(), RejectReason> {
        if !self.allowed.contains(peer.ip()) {
            return Err(RejectReason::NotAllowed);
        }
        if let Some(max) = self.max_per_source {
            let open = self.open_from(peer);
            if *open >= max {
                return Err(RejectReason::TooManyFromSource);
            }
            *open += 1;
        }
        Ok(())
    }

    /// Counts a connection that is open, whatever the rules say.
    pub(crate) fn count(&mut self, peer: SocketAddr) {
        if self.max_per_source.is_some() {
            *self.open_from(peer) += 1;
        }
    }

    /// The number of connections from the source of this peer.
    fn open_from(&mut self, peer: SocketAddr) -> &mut usize {
        self.counts.entry(source_key(peer)).or_default()
    }

    /// Counts one connection less. The entry goes with the last one.
    pub(crate) fn release(&mut self, peer: SocketAddr) {
        let key = source_key(peer);
        if let Some(count) = self.counts.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&key);
            }
        }
    }

    /// The number of sources with connections.
    #[cfg(test)]
    pub(crate) fn sources(&self) -> usize {
        self.counts.len()
    }
}

/// Key of the per-source limit: an IP address with a zone. A host can choose all addresses of one key
/// by itself.
type SourceKey = (IpAddr, u32);

pub(crate) fn source_key(peer: SocketAddr) -> SourceKey {
    match (peer.ip().to_canonical(), peer) {
        // All hosts of all links share the first 64 bits. The zone distinguishes the links.
        (ip @ IpAddr::V6(v6), SocketAddr::V6(peer)) if v6.is_unicast_link_local() => {
            (ip, peer.scope_id())
        }
        // The first 64 bits: a host gives itself as many addresses behind them as it likes (RFC 8981).
        (IpAddr::V6(ip), _) => {
            let [a, b, c, d, ..] = ip.segments();
            (Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into(), 0)
        }
        (ip, _) => (ip, 0),
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
        let mut admission = admission(&[], Some(2));
        for (address, has_room) in [
            ("192.0.2.1:1", true),
            ("192.0.2.1:2", true),
            ("192.0.2.1:3", false),
            ("192.0.2.2:1", true),
            ("192.0.2.1:4", false),
        ] {
            let is_admitted = admission.acquire(peer(address)).is_ok();
            assert_eq!(is_admitted, has_room, "{address}");
        }
        // A rejected connection has not been counted.
        admission.release(peer("192.0.2.1:1"));
        assert!(admission.acquire(peer("192.0.2.1:5")).is_ok());
        assert!(admission.acquire(peer("192.0.2.1:6")).is_err());
    }

    #[test]
    fn entry_goes_with_the_last_connection() {
        let mut admission = admission(&[], Some(2));
        for number in 0..100 {
            let peer = peer(&format!("192.0.2.{number}:1"));
            assert!(admission.acquire(peer).is_ok() && admission.acquire(peer).is_ok());
            assert!(admission.acquire(peer).is_err());
            admission.release(peer);
            assert_eq!(admission.sources(), 1);
            admission.release(peer);
            assert_eq!(admission.sources(), 0);
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
            let mut admission = admission(&[], Some(1));
            assert!(admission.acquire(peer(one)).is_ok());
            let is_admitted = admission.acquire(peer(other)).is_ok();
            assert_eq!(is_admitted, !is_same, "{one} and {other}");
        }
    }
}
