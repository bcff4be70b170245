//! Control messages: what the system tells beside a datagram, and is told beside its reply.
//!
//! - **Local address.** A UDP socket that is bound to a wildcard address has every address of the
//!   host, and the system would choose the one that a reply comes from. See `IP_PKTINFO` in ip(7)
//!   and `IPV6_RECVPKTINFO` in ipv6(7). A socket that is bound to one address mostly does without:
//!   the messages cost some time.
//! - **TTL**, or hop limit with IPv6. A reply leaves with one less than what arrived, so that a loop
//!   of two services that answer each other ends. See `IP_RECVTTL` and `IPV6_RECVHOPLIMIT`.
//! - **Dropped datagrams.** See `SO_RXQ_OVFL` in socket(7).

use std::net::IpAddr;

/// What is known of a datagram beyond its sender. By default, nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct PacketInfo {
    /// The address to reply from. `None` leaves the choice to the system.
    pub(crate) local_ip: Option<IpAddr>,
    /// The index of the interface to reply through. 0 leaves it to the system's routes, which
    /// cannot tell one link-local network from another.
    pub(crate) interface: u32,
    /// The TTL or hop limit that it arrived with.
    pub(crate) ttl: Option<u8>,
    /// Whether it went to several hosts at once: to a broadcast or multicast address.
    pub(crate) is_to_many: bool,
}

#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) use linux::{Control, enable, receive_space};

/// Nothing is asked for here. The system chooses the address and the TTL of replies.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
#[allow(clippy::unnecessary_wraps, reason = "the same on every system")]
pub(crate) fn enable(
    _socket: &socket2::Socket,
    _address: std::net::SocketAddr,
) -> std::io::Result<()> {
    Ok(())
}

#[cfg(any(target_os = "linux", target_os = "android"))]
mod linux {
    use std::io;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

    use nix::cmsg_space;
    use nix::libc::{c_int, in_addr, in_pktinfo, in6_addr, in6_pktinfo, timeval};
    use nix::sys::socket::sockopt::{
        Ipv4PacketInfo, Ipv4RecvTtl, Ipv6RecvHopLimit, Ipv6RecvPacketInfo, RxqOvfl,
    };
    use nix::sys::socket::{ControlMessage, ControlMessageOwned, setsockopt};
    use socket2::Socket;

    use super::PacketInfo;

    /// Asks for the control messages that a UDP socket needs which is bound to `address`.
    ///
    /// A peer over IPv4 at an IPv6 socket (its address is mapped, `::ffff:192.0.2.1`) comes with the
    /// messages of IPv4. They have to be asked for as well.
    pub(crate) fn enable(socket: &Socket, address: SocketAddr) -> io::Result<()> {
        // Only a counter depends on it.
        let _ = setsockopt(socket, RxqOvfl, &1);
        setsockopt(socket, Ipv4RecvTtl, &true)?;
        let ip = address.ip().to_canonical();
        let needs_local_ip = needs_local_ip(SocketAddr::new(ip, address.port()));
        let is_dual_stack = address.is_ipv6() && ip.is_unspecified();
        let needs_ipv4 = needs_local_ip && (ip.is_ipv4() || is_dual_stack);
        // Where it is not needed a supervisor may have asked for it, and it costs some time.
        setsockopt(socket, Ipv4PacketInfo, &needs_ipv4)?;
        if address.is_ipv6() {
            let needs_ipv6 = needs_local_ip && ip.is_ipv6();
            setsockopt(socket, Ipv6RecvPacketInfo, &needs_ipv6)?;
            setsockopt(socket, Ipv6RecvHopLimit, &true)?;
        }
        Ok(())
    }

    /// Whether it is not enough to know where a socket is bound: it may be one address of this
    /// host, and nobody else's. A link-local one can be that of several interfaces; over IPv6 it is
    /// bound with one of them.
    fn needs_local_ip(address: SocketAddr) -> bool {
        let ip = address.ip();
        let is_of_interfaces = address.is_ipv4() && is_link_local(ip);
        ip.is_unspecified() || ip.is_multicast() || is_of_interfaces || is_broadcast(address)
    }

    /// Whether it may be the broadcast address of a network of this host: the system alone knows,
    /// and connects nobody to it without `SO_BROADCAST`; see ip(7). It does not say where it has no
    /// sockets to give (a supervisor may forbid them) or no network.
    fn is_broadcast(address: SocketAddr) -> bool {
        let connect = |ip: Ipv4Addr| UdpSocket::bind((ip, 0))?.connect(address);
        address.is_ipv4() && connect(Ipv4Addr::UNSPECIFIED).is_err()
    }

    /// Room for every message that may come beside one datagram, and for a time stamp, which a
    /// supervisor may have asked for: where one message does not fit, none can be read.
    pub(crate) fn receive_space() -> Vec<u8> {
        cmsg_space!(in6_pktinfo, in_pktinfo, c_int, u32, timeval)
    }

    impl PacketInfo {
        /// Takes in a control message beside a datagram of `peer`.
        pub(crate) fn add(&mut self, message: &ControlMessageOwned, peer: IpAddr) {
            match *message {
                ControlMessageOwned::Ipv4Ttl(ttl) | ControlMessageOwned::Ipv6HopLimit(ttl) => {
                    self.ttl = ttl.try_into().ok();
                }
                ControlMessageOwned::Ipv4PacketInfo(info) => self.add_ipv4(info, peer),
                // Also comes, with mapped addresses, beside a datagram over IPv4.
                ControlMessageOwned::Ipv6PacketInfo(info) if peer.is_ipv6() => {
                    self.add_ipv6(info, peer);
                }
                _ => {}
            }
        }

        fn add_ipv4(&mut self, info: in_pktinfo, peer: IpAddr) {
            let destination = Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes());
            // An address of this host: the same one, if the datagram was for this host alone.
            let own = match Ipv4Addr::from(info.ipi_spec_dst.s_addr.to_ne_bytes()) {
                // It came before the system was asked, and who it was for is not known. The
                // system sends nothing from an address that is not of this host alone.
                Ipv4Addr::UNSPECIFIED => destination,
                own => own,
            };
            self.is_to_many = own != destination || is_of_many(destination);
            // An int in this one, and an unsigned int in the other.
            self.set_local(own.into(), info.ipi_ifindex.try_into().unwrap_or(0), peer);
        }

        fn add_ipv6(&mut self, info: in6_pktinfo, peer: IpAddr) {
            let destination = Ipv6Addr::from(info.ipi6_addr.s6_addr);
            self.is_to_many = destination.is_multicast();
            self.set_local(destination.into(), info.ipi6_ifindex, peer);
        }

        fn set_local(&mut self, ip: IpAddr, interface: u32, peer: IpAddr) {
            self.local_ip = Some(ip);
            if is_link_local(ip) || is_link_local(peer) {
                self.interface = interface;
            }
        }
    }

    fn is_of_many(address: Ipv4Addr) -> bool {
        address.is_multicast() || address.is_broadcast()
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
        local: Option<Local>,
        ttl: Option<Ttl>,
    }

    #[derive(Debug)]
    enum Local {
        V4(in_pktinfo),
        V6(in6_pktinfo),
    }

    #[derive(Debug)]
    enum Ttl {
        V4(c_int),
        V6(c_int),
    }

    impl Control {
        /// Those of a reply to `peer` about whose datagram that is known.
        pub(crate) fn new(info: PacketInfo, peer: IpAddr) -> Self {
            let ttl = info.ttl.map(|ttl| c_int::from(ttl.saturating_sub(1)));
            Control {
                local: info.local_ip.map(|ip| Local::new(ip, info.interface)),
                ttl: ttl.map(if peer.is_ipv4() { Ttl::V4 } else { Ttl::V6 }),
            }
        }

        pub(crate) fn messages(&self) -> Vec<ControlMessage<'_>> {
            let local = self.local.as_ref().map(|local| match local {
                Local::V4(info) => ControlMessage::Ipv4PacketInfo(info),
                Local::V6(info) => ControlMessage::Ipv6PacketInfo(info),
            });
            let ttl = self.ttl.as_ref().map(|ttl| match ttl {
                Ttl::V4(ttl) => ControlMessage::Ipv4Ttl(ttl),
                Ttl::V6(ttl) => ControlMessage::Ipv6HopLimit(ttl),
            });
            local.into_iter().chain(ttl).collect()
        }

        /// Room for just these messages: what is left over would be taken for another, and refused.
        pub(crate) fn space(&self) -> Option<Vec<u8>> {
            match (&self.local, &self.ttl) {
                (None, None) => None,
                (None, Some(_)) => Some(cmsg_space!(c_int)),
                (Some(Local::V4(_)), None) => Some(cmsg_space!(in_pktinfo)),
                (Some(Local::V4(_)), Some(_)) => Some(cmsg_space!(in_pktinfo, c_int)),
                (Some(Local::V6(_)), None) => Some(cmsg_space!(in6_pktinfo)),
                (Some(Local::V6(_)), Some(_)) => Some(cmsg_space!(in6_pktinfo, c_int)),
            }
        }
    }

    impl Local {
        fn new(ip: IpAddr, interface: u32) -> Self {
            match ip {
                IpAddr::V4(ip) => Local::V4(in_pktinfo {
                    ipi_ifindex: interface.try_into().unwrap_or(0),
                    ipi_spec_dst: in_addr {
                        s_addr: u32::from_ne_bytes(ip.octets()),
                    },
                    // Of no meaning here.
                    ipi_addr: in_addr { s_addr: 0 },
                }),
                IpAddr::V6(ip) => Local::V6(in6_pktinfo {
                    ipi6_ifindex: interface,
                    ipi6_addr: in6_addr {
                        s6_addr: ip.octets(),
                    },
                }),
            }
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
            let told = info(&[message("0.0.0.0", "192.0.2.1")], "127.0.0.1");
            assert_eq!(told.local_ip, Some("192.0.2.1".parse().unwrap()));
            assert!(!told.is_to_many);
            assert!(info(&[message("0.0.0.0", "224.0.0.1")], "127.0.0.1").is_to_many);
        }

        #[test]
        fn an_answer_comes_from_where_the_question_went() {
            for (own, destination, peer, interface, is_to_many) in [
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
                let told = info(&[message(own, destination)], peer);
                let expected = PacketInfo {
                    local_ip: Some(own.parse().unwrap()),
                    interface,
                    ttl: None,
                    is_to_many,
                };
                assert_eq!(told, expected, "{peer} to {destination}");
                // And that is what the system is told in its turn.
                let control = Control::new(told, peer.parse().unwrap());
                let (ip, index) = match control.local.unwrap() {
                    Local::V4(info) => {
                        let ip = info.ipi_spec_dst.s_addr.to_ne_bytes();
                        (IpAddr::from(ip), info.ipi_ifindex.try_into().unwrap())
                    }
                    Local::V6(info) => (IpAddr::from(info.ipi6_addr.s6_addr), info.ipi6_ifindex),
                };
                assert_eq!((Some(ip), index), (expected.local_ip, interface), "{own}");
            }
        }

        #[test]
        fn peer_over_ipv4_at_a_dual_stack_socket_has_the_messages_of_ipv4() {
            let told = info(
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
                is_to_many: true,
            };
            assert_eq!(told, expected);
            let ttl = Control::new(told, "192.0.2.2".parse().unwrap()).ttl;
            assert!(matches!(ttl, Some(Ttl::V4(63))), "{ttl:?}");
        }
    }
}
