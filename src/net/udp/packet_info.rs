//! Control messages of UDP: what the system reports with a datagram, and what a reply is sent with.
//!
//! - **Local address.** A socket that is bound to a wildcard address has all addresses of the host, and
//!   the system would choose the source of a reply. See `IP_PKTINFO` in ip(7) and `IPV6_RECVPKTINFO`
//!   in ipv6(7). A socket that is bound to one address rarely needs it, and it costs CPU time.
//! - **TTL**, or hop limit with IPv6. A reply leaves with one less than the datagram arrived with, so
//!   that a loop between two services ends. See `IP_RECVTTL` and `IPV6_RECVHOPLIMIT`.
//! - **Dropped datagrams.** See `SO_RXQ_OVFL` in socket(7).
//! - **Trains.** Datagrams of one peer that come one behind the other take one walk through the system
//!   together, and so do their replies. See `UDP_GRO` and `UDP_SEGMENT` in udp(7).

use std::net::IpAddr;
use std::num::NonZero;

/// What is known of a datagram, besides its sender. The default is: nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct PacketInfo {
    /// The address to reply from. With `None` the system chooses.
    pub(crate) local_ip: Option<IpAddr>,
    /// The index of the interface to reply through. With 0 the routing table decides, which cannot
    /// distinguish link-local networks.
    pub(crate) interface: u32,
    /// The received TTL or hop limit.
    pub(crate) ttl: Option<u8>,
    /// Whether it was sent to a broadcast or multicast address.
    pub(crate) multicast: bool,
    /// The size of the datagrams of a train; the last one can be shorter.
    pub(crate) segment: Option<NonZero<u16>>,
}

#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) use linux::{Control, enable, receive_space};

#[cfg(any(target_os = "linux", target_os = "android"))]
mod linux {
    use std::io;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
    use std::num::NonZero;

    use nix::cmsg_space;
    use nix::libc::{c_int, in_addr, in_pktinfo, in6_addr, in6_pktinfo, timeval};
    use nix::sys::socket::sockopt::{
        Ipv4PacketInfo, Ipv4RecvTtl, Ipv6RecvHopLimit, Ipv6RecvPacketInfo, RxqOvfl, UdpGroSegment,
    };
    use nix::sys::socket::{ControlMessage, ControlMessageOwned, setsockopt};
    use socket2::Socket;

    use super::PacketInfo;

    /// Enables the control messages that a UDP socket bound to `address` needs.
    ///
    /// With a datagram over IPv4 at an IPv6 socket (the peer's address is mapped, `::ffff:192.0.2.1`)
    /// come the messages of IPv4, which have to be enabled as well.
    pub(crate) fn enable(socket: &Socket, address: SocketAddr) -> io::Result<()> {
        // Best effort: only a counter and speed depend on them.
        let _ = setsockopt(socket, RxqOvfl, &1);
        let _ = setsockopt(socket, UdpGroSegment, &true);
        setsockopt(socket, Ipv4RecvTtl, &true)?;
        let ip = address.ip().to_canonical();
        let needs_local_ip = needs_local_ip(SocketAddr::new(ip, address.port()));
        let is_dual_stack = address.is_ipv6() && ip.is_unspecified();
        let needs_ipv4 = needs_local_ip && (ip.is_ipv4() || is_dual_stack);
        // Disables what a supervisor may have enabled without need: it costs CPU time.
        setsockopt(socket, Ipv4PacketInfo, &needs_ipv4)?;
        if address.is_ipv6() {
            let needs_ipv6 = needs_local_ip && ip.is_ipv6();
            setsockopt(socket, Ipv6RecvPacketInfo, &needs_ipv6)?;
            setsockopt(socket, Ipv6RecvHopLimit, &true)?;
        }
        Ok(())
    }

    /// Whether the bound address does not identify the local address and interface. An IPv4 link-local
    /// address can belong to several interfaces; an IPv6 one is bound with its interface.
    fn needs_local_ip(address: SocketAddr) -> bool {
        let ip = address.ip();
        let is_of_interfaces = address.is_ipv4() && is_link_local(ip);
        ip.is_unspecified() || ip.is_multicast() || is_of_interfaces || is_broadcast(address)
    }

    /// Whether it may be the broadcast address of a network of this host. Only the system knows: without
    /// `SO_BROADCAST` it does not connect to such an address; see ip(7). If sockets are forbidden or
    /// there is no network, the answer is yes, to be on the safe side.
    fn is_broadcast(address: SocketAddr) -> bool {
        let connect = |ip: Ipv4Addr| UdpSocket::bind((ip, 0))?.connect(address);
        address.is_ipv4() && connect(Ipv4Addr::UNSPECIFIED).is_err()
    }

    /// Room for all messages of one datagram, and for a time stamp, which a supervisor may have enabled:
    /// if one message does not fit, none can be read.
    pub(crate) fn receive_space() -> Vec<u8> {
        cmsg_space!(in6_pktinfo, in_pktinfo, c_int, u32, c_int, timeval)
    }

    impl PacketInfo {
        /// Adds what a control message reports of a datagram from `peer`.
        pub(crate) fn add(&mut self, message: &ControlMessageOwned, peer: IpAddr) {
            match *message {
                ControlMessageOwned::Ipv4Ttl(ttl) | ControlMessageOwned::Ipv6HopLimit(ttl) => {
                    self.ttl = ttl.try_into().ok();
                }
                ControlMessageOwned::Ipv4PacketInfo(info) => {
                    let destination = Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes());
                    // The address of this host; the same one, unless the datagram was a broadcast.
                    let own = match Ipv4Addr::from(info.ipi_spec_dst.s_addr.to_ne_bytes()) {
                        // The datagram arrived before the message was enabled, and this is not known.
                        // The system sends nothing from a broadcast address.
                        Ipv4Addr::UNSPECIFIED => destination,
                        own => own,
                    };
                    self.multicast = own != destination
                        || destination.is_multicast()
                        || destination.is_broadcast();
                    // An int here, and an unsigned int with IPv6.
                    self.set_local(own.into(), info.ipi_ifindex.try_into().unwrap_or(0), peer);
                }
                ControlMessageOwned::UdpGroSegments(size) => {
                    self.segment = size.try_into().ok().and_then(NonZero::new);
                }
                // A datagram over IPv4 has this one too, with a mapped address.
                ControlMessageOwned::Ipv6PacketInfo(info) if peer.is_ipv6() => {
                    let destination = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                    self.multicast = destination.is_multicast();
                    self.set_local(destination.into(), info.ipi6_ifindex, peer);
                }
                _ => {}
            }
        }

        fn set_local(&mut self, ip: IpAddr, interface: u32, peer: IpAddr) {
            self.local_ip = Some(ip);
            if is_link_local(ip) || is_link_local(peer) {
                self.interface = interface;
            }
        }
    }

    fn is_link_local(address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => address.is_link_local(),
            IpAddr::V6(address) => address.is_unicast_link_local(),
        }
    }

    /// The control messages of a reply.
    #[derive(Debug)]
    pub(crate) struct Control {
        local_v4: Option<in_pktinfo>,
        local_v6: Option<in6_pktinfo>,
        ttl: Option<c_int>,
        hop_limit: Option<c_int>,
        segment: Option<u16>,
    }

    impl Control {
        /// For a reply to `peer`, whose datagram came with this information.
        pub(crate) fn new(info: PacketInfo, peer: IpAddr) -> Self {
            let ttl = info.ttl.map(|ttl| c_int::from(ttl.saturating_sub(1)));
            let local_v4 = |ip: Ipv4Addr| in_pktinfo {
                ipi_ifindex: info.interface.try_into().unwrap_or(0),
                ipi_spec_dst: in_addr {
                    s_addr: u32::from_ne_bytes(ip.octets()),
                },
                // Ignored when sending.
                ipi_addr: in_addr { s_addr: 0 },
            };
            let local_v6 = |ip: Ipv6Addr| in6_pktinfo {
                ipi6_ifindex: info.interface,
                ipi6_addr: in6_addr {
                    s6_addr: ip.octets(),
                },
            };
            let (ip_v4, ip_v6) = match (peer, info.local_ip) {
                (IpAddr::V4(_), Some(IpAddr::V4(ip))) => (Some(ip), None),
                (IpAddr::V6(_), Some(IpAddr::V6(ip))) => (None, Some(ip)),
                _ => (None, None),
            };
            Control {
                local_v4: ip_v4.map(local_v4),
                local_v6: ip_v6.map(local_v6),
                ttl: ttl.filter(|_| peer.is_ipv4()),
                hop_limit: ttl.filter(|_| peer.is_ipv6()),
                segment: info.segment.map(NonZero::get),
            }
        }

        pub(crate) fn messages(&self) -> Vec<ControlMessage<'_>> {
            let mut messages = Vec::with_capacity(3);
            messages.extend(self.local_v4.iter().map(ControlMessage::Ipv4PacketInfo));
            messages.extend(self.local_v6.iter().map(ControlMessage::Ipv6PacketInfo));
            messages.extend(self.ttl.iter().map(ControlMessage::Ipv4Ttl));
            messages.extend(self.hop_limit.iter().map(ControlMessage::Ipv6HopLimit));
            messages.extend(self.segment.iter().map(ControlMessage::UdpGsoSegments));
            messages
        }

        /// Room for just these messages: the system would take the rest for another one, and reject it.
        pub(crate) fn space(&self) -> Option<Vec<u8>> {
            let mut space = match (self.local_v4, self.local_v6, self.ttl.or(self.hop_limit)) {
                (None, None, None) => Vec::new(),
                (None, None, Some(_)) => cmsg_space!(c_int),
                (Some(_), _, None) => cmsg_space!(in_pktinfo),
                (Some(_), _, Some(_)) => cmsg_space!(in_pktinfo, c_int),
                (None, Some(_), None) => cmsg_space!(in6_pktinfo),
                (None, Some(_), Some(_)) => cmsg_space!(in6_pktinfo, c_int),
            };
            if self.segment.is_some() {
                space = [space, cmsg_space!(u16)].concat();
            }
            (!space.is_empty()).then_some(space)
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        const INTERFACE: u32 = 3;

        fn message(own: &str, destination: &str) -> ControlMessageOwned {
            match (own.parse().unwrap(), destination.parse().unwrap()) {
                (IpAddr::V4(own), IpAddr::V4(destination)) => {
                    let in_addr = |address: Ipv4Addr| in_addr {
                        s_addr: u32::from_ne_bytes(address.octets()),
                    };
                    ControlMessageOwned::Ipv4PacketInfo(in_pktinfo {
                        ipi_ifindex: INTERFACE.try_into().unwrap(),
                        ipi_spec_dst: in_addr(own),
                        ipi_addr: in_addr(destination),
                    })
                }
                (_, IpAddr::V6(destination)) => ControlMessageOwned::Ipv6PacketInfo(in6_pktinfo {
                    ipi6_ifindex: INTERFACE,
                    ipi6_addr: in6_addr {
                        s6_addr: destination.octets(),
                    },
                }),
                _ => panic!("two families"),
            }
        }

        fn info(messages: &[ControlMessageOwned], peer: &str) -> PacketInfo {
            let mut info = PacketInfo::default();
            for message in messages {
                info.add(message, peer.parse().unwrap());
            }
            info
        }

        #[test]
        fn datagram_queued_before_the_option_is_answered_from_its_destination() {
            let received = info(&[message("0.0.0.0", "192.0.2.1")], "127.0.0.1");
            assert_eq!(received.local_ip, Some("192.0.2.1".parse().unwrap()));
            assert!(!received.multicast);
            assert!(info(&[message("0.0.0.0", "224.0.0.1")], "127.0.0.1").multicast);
        }

        #[test]
        fn reply_leaves_from_the_destination_of_the_datagram() {
            for (own, destination, peer, interface, multicast) in [
                ("192.0.2.1", "192.0.2.1", "198.51.100.1", 0, false),
                ("192.0.2.1", "192.0.2.255", "192.0.2.2", 0, true),
                ("192.0.2.1", "255.255.255.255", "192.0.2.2", 0, true),
                ("192.0.2.1", "224.0.0.1", "192.0.2.2", 0, true),
                ("255.255.255.255", "255.255.255.255", "192.0.2.2", 0, true),
                ("224.0.0.1", "224.0.0.1", "192.0.2.2", 0, true),
                ("169.254.0.1", "169.254.0.1", "192.0.2.2", INTERFACE, false),
                ("192.0.2.1", "192.0.2.1", "169.254.0.2", INTERFACE, false),
                ("2001:db8::1", "2001:db8::1", "2001:db8::2", 0, false),
                ("fe80::1", "fe80::1", "2001:db8::2", INTERFACE, false),
                ("2001:db8::1", "2001:db8::1", "fe80::2", INTERFACE, false),
                ("ff02::1", "ff02::1", "fe80::2", INTERFACE, true),
            ] {
                let received = info(&[message(own, destination)], peer);
                let expected = PacketInfo {
                    local_ip: Some(own.parse().unwrap()),
                    interface,
                    ttl: None,
                    multicast,
                    segment: None,
                };
                assert_eq!(received, expected, "{peer} to {destination}");
                // The reply is sent with the same.
                let control = Control::new(received, peer.parse().unwrap());
                let (ip, index) = match (control.local_v4, control.local_v6) {
                    (Some(info), None) => {
                        let ip = info.ipi_spec_dst.s_addr.to_ne_bytes();
                        (IpAddr::from(ip), info.ipi_ifindex.try_into().unwrap())
                    }
                    (None, Some(info)) => (IpAddr::from(info.ipi6_addr.s6_addr), info.ipi6_ifindex),
                    _ => panic!("{control:?}"),
                };
                assert_eq!((Some(ip), index), (expected.local_ip, interface), "{own}");
            }
        }

        #[test]
        fn peer_over_ipv4_at_a_dual_stack_socket_has_the_messages_of_ipv4() {
            let received = info(
                &[
                    message("::ffff:192.0.2.255", "::ffff:192.0.2.255"),
                    ControlMessageOwned::Ipv4Ttl(64),
                    message("192.0.2.1", "192.0.2.255"),
                ],
                "192.0.2.2",
            );
            let expected = PacketInfo {
                local_ip: Some("192.0.2.1".parse().unwrap()),
                interface: 0,
                ttl: Some(64),
                multicast: true,
                segment: None,
            };
            assert_eq!(received, expected);
            let control = Control::new(received, "192.0.2.2".parse().unwrap());
            assert_eq!((control.ttl, control.hop_limit), (Some(63), None));
        }
    }
}
