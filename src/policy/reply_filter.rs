//! Which datagrams get a reply.
//!
//! The source of a datagram can be forged, and the reply then goes to a host that sent nothing. If
//! that is a service that replies in its turn, such as another echo service, the two keep each other
//! busy without end (CERT advisory CA-1996-01). So there is no reply to a port of well-known services,
//! or to an address of more than one host.
//!
//! For services at other ports there is the TTL (hop limit with IPv6): a reply has one less than the
//! datagram, and a datagram with none left gets no reply, so that a loop ends after at most 255 rounds.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::policy::cidr::AllowList;

/// Lower ports are reserved for services of the system (RFC 6335, section 6).
const FIRST_USER_PORT: u16 = 1024;

/// The port of NFS servers is not among them (RFC 7530, section 3.1).
const NFS_PORT: u16 = 2049;

/// Why a datagram gets no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DropReason {
    NotAllowed,
    PortZero,
    ReservedPort,
    NfsPort,
    OwnPort,
    SourceAddress,
    Destination,
    HopLimit,
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DropReason::NotAllowed => "its address is in no allowed network",
            DropReason::PortZero => "port 0 cannot receive a reply",
            DropReason::ReservedPort => "its port is reserved for well-known services",
            DropReason::NfsPort => "its port is that of NFS",
            DropReason::OwnPort => "its port is served here",
            DropReason::SourceAddress => "its address is not that of one host",
            DropReason::Destination => "it was sent to a broadcast or multicast address",
            DropReason::HopLimit => "its TTL or hop limit is 1 or less",
        })
    }
}

/// The rules for datagrams.
#[derive(Debug)]
pub(crate) struct ReplyFilter {
    pub(crate) allowed: AllowList,
    /// The ports of all UDP sockets of this service.
    pub(crate) own_ports: Vec<u16>,
    pub(crate) answer_any_port: bool,
}

impl ReplyFilter {
    /// Returns why a datagram from `source` gets no reply; `None` if it gets one. `multicast` says
    /// that it was sent to a broadcast or multicast address; `ttl` is what it arrived with, if known.
    pub(crate) fn check(
        &self,
        source: SocketAddr,
        multicast: bool,
        ttl: Option<u8>,
    ) -> Option<DropReason> {
        match source.port() {
            _ if !self.allowed.contains(source.ip()) => Some(DropReason::NotAllowed),
            _ if multicast => Some(DropReason::Destination),
            _ if !is_unicast(source.ip()) => Some(DropReason::SourceAddress),
            _ if ttl.is_some_and(|ttl| ttl <= 1) => Some(DropReason::HopLimit),
            0 => Some(DropReason::PortZero),
            _ if self.answer_any_port => None,
            1..FIRST_USER_PORT => Some(DropReason::ReservedPort),
            NFS_PORT => Some(DropReason::NfsPort),
            port if self.own_ports.contains(&port) => Some(DropReason::OwnPort),
            _ => None,
        }
    }
}

fn is_unicast(address: IpAddr) -> bool {
    let is_broadcast = address == IpAddr::V4(Ipv4Addr::BROADCAST);
    !(address.is_unspecified() || address.is_multicast() || is_broadcast)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(networks: &[&str], answer_any_port: bool) -> ReplyFilter {
        let networks: Vec<_> = networks.iter().map(|it| it.parse().unwrap()).collect();
        ReplyFilter {
            allowed: AllowList::new(&networks),
            own_ports: vec![7007, 40_000],
            answer_any_port,
        }
    }

    #[test]
    fn drops_datagrams_by_source_and_destination() {
        let filter = filter(&[], false);
        for (source, reason) in [
            ("192.0.2.1:0", Some(DropReason::PortZero)),
            ("192.0.2.1:1", Some(DropReason::ReservedPort)),
            ("192.0.2.1:7", Some(DropReason::ReservedPort)),
            ("192.0.2.1:1023", Some(DropReason::ReservedPort)),
            ("192.0.2.1:1024", None),
            ("192.0.2.1:2048", None),
            ("192.0.2.1:2049", Some(DropReason::NfsPort)),
            ("192.0.2.1:7007", Some(DropReason::OwnPort)),
            ("[2001:db8::1]:40000", Some(DropReason::OwnPort)),
            ("192.0.2.1:7008", None),
            ("192.0.2.1:65535", None),
            ("[2001:db8::1]:19", Some(DropReason::ReservedPort)),
            ("[2001:db8::1]:50000", None),
            ("255.255.255.255:50000", Some(DropReason::SourceAddress)),
            ("0.0.0.0:50000", Some(DropReason::SourceAddress)),
            ("224.0.0.1:50000", Some(DropReason::SourceAddress)),
            ("239.255.255.255:50000", Some(DropReason::SourceAddress)),
            ("[::]:50000", Some(DropReason::SourceAddress)),
            ("[ff02::1]:50000", Some(DropReason::SourceAddress)),
        ] {
            let address = source.parse().unwrap();
            assert_eq!(filter.check(address, false, None), reason, "{source}");
            assert_eq!(
                filter.check(address, true, None),
                Some(DropReason::Destination)
            );
        }
    }

    #[test]
    fn answer_any_port_lifts_the_rules_for_ports() {
        let filter = filter(&[], true);
        for (source, reason) in [
            ("127.0.0.1:0", Some(DropReason::PortZero)),
            ("127.0.0.1:7", None),
            ("127.0.0.1:2049", None),
            ("127.0.0.1:7007", None),
            ("224.0.0.1:50000", Some(DropReason::SourceAddress)),
        ] {
            assert_eq!(
                filter.check(source.parse().unwrap(), false, None),
                reason,
                "{source}"
            );
        }
        let source = "127.0.0.1:7".parse().unwrap();
        assert_eq!(
            filter.check(source, true, None),
            Some(DropReason::Destination)
        );
    }

    #[test]
    fn allow_list_comes_before_other_rules() {
        let filter = filter(&["192.0.2.0/24"], true);
        for (source, reason) in [
            ("192.0.2.1:7", None),
            ("[::ffff:192.0.2.1]:50000", None),
            ("192.0.2.1:0", Some(DropReason::PortZero)),
            ("192.0.3.1:50000", Some(DropReason::NotAllowed)),
            ("192.0.3.1:0", Some(DropReason::NotAllowed)),
            ("224.0.0.1:50000", Some(DropReason::NotAllowed)),
            ("[2001:db8::1]:50000", Some(DropReason::NotAllowed)),
        ] {
            let address = source.parse().unwrap();
            assert_eq!(filter.check(address, false, None), reason, "{source}");
        }
    }

    /// Also with `answer_any_port`.
    #[test]
    fn expired_ttl_gets_no_reply() {
        let source = "192.0.2.1:50000".parse().unwrap();
        for answer_any_port in [false, true] {
            let filter = filter(&[], answer_any_port);
            for (ttl, reason) in [
                (0, Some(DropReason::HopLimit)),
                (1, Some(DropReason::HopLimit)),
                (2, None),
                (255, None),
            ] {
                let checked = filter.check(source, false, Some(ttl));
                assert_eq!(checked, reason, "{ttl}");
            }
        }
    }
}
