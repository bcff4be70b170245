//! How many connections each source has.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What one host can have addresses of as it likes, and so counts as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Source {
    Ipv4(Ipv4Addr),
    /// The first 64 bits: behind them a host makes itself as many addresses as it likes (RFC 8981).
    Network([u16; 4]),
    /// All hosts of all links have these first bits. The zone tells the links apart.
    LinkLocal(Ipv6Addr, u32),
}

impl From<SocketAddr> for Source {
    fn from(address: SocketAddr) -> Self {
        let zone = match address {
            SocketAddr::V4(_) => 0,
            SocketAddr::V6(address) => address.scope_id(),
        };
        match address.ip().to_canonical() {
            IpAddr::V4(ip) => Source::Ipv4(ip),
            IpAddr::V6(ip) if ip.is_unicast_link_local() => Source::LinkLocal(ip, zone),
            IpAddr::V6(ip) => {
                let [a, b, c, d, ..] = ip.segments();
                Source::Network([a, b, c, d])
            }
        }
    }
}

/// Sources that have connections. There are never more of them than there are connections.
#[derive(Debug)]
pub(crate) struct Sources {
    most: usize,
    /// Hashed with a key that no peer knows, so that none can have all sources in one place.
    counts: HashMap<Source, usize>,
}

impl Sources {
    /// None has more than `most` connections, which is at least one.
    pub(crate) fn new(most: usize) -> Self {
        Sources {
            most,
            counts: HashMap::new(),
        }
    }

    /// Counts one more, if its source may have it.
    pub(crate) fn enter(&mut self, peer: SocketAddr) -> bool {
        let count = self.counts.entry(peer.into()).or_default();
        let has_room = *count < self.most;
        *count += usize::from(has_room);
        has_room
    }

    /// Counts one less.
    pub(crate) fn leave(&mut self, peer: SocketAddr) {
        if let Entry::Occupied(mut entry) = self.counts.entry(peer.into()) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
impl Sources {
    pub(crate) fn len(&self) -> usize {
        self.counts.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enter(sources: &mut Sources, peer: &str) -> bool {
        sources.enter(peer.parse().unwrap())
    }

    fn leave(sources: &mut Sources, peer: &str) {
        sources.leave(peer.parse().unwrap());
    }

    #[test]
    fn each_source_has_its_own_count_whatever_the_port() {
        let mut sources = Sources::new(2);
        for (peer, has_room) in [
            ("192.0.2.1:1", true),
            ("192.0.2.1:2", true),
            ("192.0.2.1:3", false),
            ("192.0.2.2:1", true),
            ("192.0.2.1:4", false),
        ] {
            assert_eq!(enter(&mut sources, peer), has_room, "{peer}");
        }
        // Whom it had no room for has not been counted.
        leave(&mut sources, "192.0.2.1:1");
        assert!(enter(&mut sources, "192.0.2.1:5"));
        assert!(!enter(&mut sources, "192.0.2.1:6"));
    }

    #[test]
    fn the_entry_goes_with_the_last_connection() {
        let mut sources = Sources::new(2);
        for number in 0..100 {
            let peer = format!("192.0.2.{number}:1");
            assert!(enter(&mut sources, &peer) && enter(&mut sources, &peer));
            assert!(!enter(&mut sources, &peer));
            assert_eq!(sources.len(), 1);
            leave(&mut sources, &peer);
            assert_eq!(sources.len(), 1);
            leave(&mut sources, &peer);
            assert_eq!(sources.len(), 0);
        }
    }

    #[test]
    fn one_source_is_what_one_host_has_addresses_of() {
        for (one, other, are_one) in [
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
            let mut sources = Sources::new(1);
            assert!(enter(&mut sources, one));
            assert_eq!(enter(&mut sources, other), !are_one, "{one} and {other}");
            assert_eq!(sources.len(), if are_one { 1 } else { 2 });
        }
    }
}
