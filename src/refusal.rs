//! Which datagrams get no answer, so that the service is no weapon.
//!
//! The source of a datagram can be forged. An answer then goes to somebody who has not asked; and
//! if that is a service that answers in its turn, such as another echo service, the two keep each
//! other busy for ever (CERT advisory CA-1996-01). So there is no answer to a port where services
//! are, nor to an address that is of many hosts at once; nor to those who may not come at all.
//!
//! That leaves services at other ports. A reply has a TTL (with IPv6, a hop limit) of one less than
//! the datagram, and one that has none left gets no answer: so a loop ends after 255 rounds at most.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use log::{debug, warn};

use crate::allow_list::AllowList;
use crate::digest::Digest;
use crate::packet_info::PacketInfo;
use crate::stats::Stats;

/// Ports below are reserved for services of the system (RFC 6335, section 6).
const FIRST_FREE_PORT: u16 = 1024;

/// The NFS server's port, which is above those (RFC 7530, section 3.1).
const NFS_PORT: u16 = 2049;

/// Why a datagram gets no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    NotAllowed,
    PortZero,
    ReservedPort,
    NfsPort,
    OwnPort,
    SourceAddress,
    Destination,
    HopLimit,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::NotAllowed => "its address is in no network that is allowed",
            Refusal::PortZero => "nothing can be sent to port 0",
            Refusal::ReservedPort => "its port is one of well-known services",
            Refusal::NfsPort => "its port is NFS's",
            Refusal::OwnPort => "its port is served here",
            Refusal::SourceAddress => "its address is of no single host",
            Refusal::Destination => "it was sent to many hosts at once",
            Refusal::HopLimit => "its TTL or hop limit is 1 or less",
        })
    }
}

/// The rules, and how much came of them.
#[derive(Debug)]
pub(crate) struct Refusals {
    allowed: AllowList,
    /// Every port that this service has datagrams at.
    own_ports: Vec<u16>,
    answers_any_port: bool,
    digest: Digest,
}

impl Refusals {
    pub(crate) fn new(allowed: AllowList, own_ports: Vec<u16>, answers_any_port: bool) -> Self {
        Refusals {
            allowed,
            own_ports,
            answers_any_port,
            digest: Digest::default(),
        }
    }

    /// Why a datagram from `source` gets no answer; `None` if it gets one.
    pub(crate) fn of(&self, source: SocketAddr, info: PacketInfo) -> Option<Refusal> {
        if !self.allowed.has(source.ip()) {
            return Some(Refusal::NotAllowed);
        }
        if info.is_to_many {
            return Some(Refusal::Destination);
        }
        if is_of_no_single_host(source.ip()) {
            return Some(Refusal::SourceAddress);
        }
        // A reply has one less, with which nothing can be sent.
        if info.ttl.is_some_and(|ttl| ttl <= 1) {
            return Some(Refusal::HopLimit);
        }
        match source.port() {
            0 => Some(Refusal::PortZero),
            _ if self.answers_any_port => None,
            1..FIRST_FREE_PORT => Some(Refusal::ReservedPort),
            NFS_PORT => Some(Refusal::NfsPort),
            port if self.own_ports.contains(&port) => Some(Refusal::OwnPort),
            _ => None,
        }
    }

    /// Counts it, and logs it.
    pub(crate) fn note(
        &mut self,
        refusal: Refusal,
        source: SocketAddr,
        stats: &mut Stats,
        now: Instant,
    ) {
        stats.unanswered.count(refusal);
        debug!("{source}: a datagram gets no answer: {refusal}");
        if let Some(count) = self.digest.count(now) {
            warn!("{count} datagrams got no answer, the last one from {source}: {refusal}");
        }
    }
}

fn is_of_no_single_host(address: IpAddr) -> bool {
    let is_broadcast = address == IpAddr::V4(std::net::Ipv4Addr::BROADCAST);
    address.is_unspecified() || address.is_multicast() || is_broadcast
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::time::Duration;

    use log::Level;

    use crate::log_lines::logged;
    use crate::stats::Unanswered;

    const UNKNOWN: PacketInfo = PacketInfo {
        local_ip: None,
        interface: 0,
        ttl: None,
        is_to_many: false,
    };

    const TO_MANY: PacketInfo = PacketInfo {
        is_to_many: true,
        ..UNKNOWN
    };

    #[test]
    fn who_gets_no_answer() {
        let refusals = Refusals::new(AllowList::default(), vec![7007, 40_000], false);
        for (source, refusal) in [
            ("192.0.2.1:0", Some(Refusal::PortZero)),
            ("192.0.2.1:1", Some(Refusal::ReservedPort)),
            ("192.0.2.1:7", Some(Refusal::ReservedPort)),
            ("192.0.2.1:1023", Some(Refusal::ReservedPort)),
            ("192.0.2.1:1024", None),
            ("192.0.2.1:2048", None),
            ("192.0.2.1:2049", Some(Refusal::NfsPort)),
            ("192.0.2.1:7007", Some(Refusal::OwnPort)),
            ("[2001:db8::1]:40000", Some(Refusal::OwnPort)),
            ("192.0.2.1:7008", None),
            ("192.0.2.1:65535", None),
            ("[2001:db8::1]:19", Some(Refusal::ReservedPort)),
            ("[2001:db8::1]:50000", None),
            ("255.255.255.255:50000", Some(Refusal::SourceAddress)),
            ("0.0.0.0:50000", Some(Refusal::SourceAddress)),
            ("224.0.0.1:50000", Some(Refusal::SourceAddress)),
            ("239.255.255.255:50000", Some(Refusal::SourceAddress)),
            ("[::]:50000", Some(Refusal::SourceAddress)),
            ("[ff02::1]:50000", Some(Refusal::SourceAddress)),
        ] {
            let address = source.parse().unwrap();
            assert_eq!(refusals.of(address, UNKNOWN), refusal, "{source}");
            assert_eq!(refusals.of(address, TO_MANY), Some(Refusal::Destination));
        }
    }

    #[test]
    fn in_a_closed_lab_any_port_is_answered_that_can_be() {
        let refusals = Refusals::new(AllowList::default(), vec![7007], true);
        for (source, refusal) in [
            ("127.0.0.1:0", Some(Refusal::PortZero)),
            ("127.0.0.1:7", None),
            ("127.0.0.1:2049", None),
            ("127.0.0.1:7007", None),
            ("224.0.0.1:50000", Some(Refusal::SourceAddress)),
        ] {
            assert_eq!(
                refusals.of(source.parse().unwrap(), UNKNOWN),
                refusal,
                "{source}"
            );
        }
        let source = "127.0.0.1:7".parse().unwrap();
        assert_eq!(refusals.of(source, TO_MANY), Some(Refusal::Destination));
    }

    /// Whatever else may be said of it.
    #[test]
    fn who_is_not_allowed_gets_none() {
        let allowed = AllowList::new(&["192.0.2.0/24".parse().unwrap()]);
        let refusals = Refusals::new(allowed, vec![7007], true);
        for (source, refusal) in [
            ("192.0.2.1:7", None),
            ("[::ffff:192.0.2.1]:50000", None),
            ("192.0.2.1:0", Some(Refusal::PortZero)),
            ("192.0.3.1:50000", Some(Refusal::NotAllowed)),
            ("192.0.3.1:0", Some(Refusal::NotAllowed)),
            ("224.0.0.1:50000", Some(Refusal::NotAllowed)),
            ("[2001:db8::1]:50000", Some(Refusal::NotAllowed)),
        ] {
            let address = source.parse().unwrap();
            assert_eq!(refusals.of(address, UNKNOWN), refusal, "{source}");
        }
    }

    /// Also where any port is answered.
    #[test]
    fn used_up_ttl_gets_no_reply() {
        let source = "192.0.2.1:50000".parse().unwrap();
        for answers_any_port in [false, true] {
            let refusals = Refusals::new(AllowList::default(), vec![7007], answers_any_port);
            for (ttl, refusal) in [
                (0, Some(Refusal::HopLimit)),
                (1, Some(Refusal::HopLimit)),
                (2, None),
                (255, None),
            ] {
                let info = PacketInfo {
                    ttl: Some(ttl),
                    ..UNKNOWN
                };
                assert_eq!(refusals.of(source, info), refusal, "{ttl}");
            }
        }
    }

    #[test]
    fn each_is_counted_by_its_reason_and_told_and_one_a_minute_is_a_warning() {
        let mut refusals = Refusals::new(AllowList::default(), vec![7007], false);
        let mut stats = Stats::default();
        let source = "192.0.2.1:7".parse().unwrap();
        let start = Instant::now();
        let note = |refusals: &mut Refusals, stats: &mut Stats, refusal, seconds| {
            let now = start + Duration::from_secs(seconds);
            logged(|| refusals.note(refusal, source, stats, now))
        };
        let debug = |refusal: Refusal| {
            let line = format!("192.0.2.1:7: a datagram gets no answer: {refusal}");
            (Level::Debug, line)
        };
        let warn = |count: u32, refusal: Refusal| {
            let line = format!(
                "{count} datagrams got no answer, the last one from 192.0.2.1:7: {refusal}"
            );
            (Level::Warn, line)
        };
        for (seconds, refusal, warning) in [
            (0, Refusal::PortZero, Some(1)),
            (1, Refusal::ReservedPort, None),
            (2, Refusal::NfsPort, None),
            (59, Refusal::OwnPort, None),
            (60, Refusal::SourceAddress, Some(4)),
            (61, Refusal::Destination, None),
            (119, Refusal::Destination, None),
            (1000, Refusal::Destination, Some(3)),
            (1001, Refusal::NotAllowed, None),
        ] {
            let mut lines = vec![debug(refusal)];
            lines.extend(warning.map(|count| warn(count, refusal)));
            assert_eq!(note(&mut refusals, &mut stats, refusal, seconds), lines);
        }
        let counted = Unanswered {
            not_allowed: 1,
            port_zero: 1,
            reserved_port: 1,
            nfs_port: 1,
            own_port: 1,
            source_address: 1,
            destination: 3,
            hop_limit: 0,
        };
        assert_eq!(stats.unanswered, counted);
        assert_eq!(stats.unanswered.total(), 9);

        // Each by itself, because a sum of ones does not tell which.
        for (refusal, counter) in [
            (
                Refusal::PortZero,
                (|it| it.port_zero) as fn(&Unanswered) -> u64,
            ),
            (Refusal::NotAllowed, |it| it.not_allowed),
            (Refusal::ReservedPort, |it| it.reserved_port),
            (Refusal::NfsPort, |it| it.nfs_port),
            (Refusal::OwnPort, |it| it.own_port),
            (Refusal::SourceAddress, |it| it.source_address),
            (Refusal::Destination, |it| it.destination),
            (Refusal::HopLimit, |it| it.hop_limit),
        ] {
            let mut unanswered = Unanswered::default();
            unanswered.count(refusal);
            assert_eq!((counter(&unanswered), unanswered.total()), (1, 1));
        }
    }
}
