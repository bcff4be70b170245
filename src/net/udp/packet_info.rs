//! Which of this host's addresses a datagram was sent to: its answer is to come from there.
//!
//! A UDP socket that is bound to a wildcard address has every address of the host, and the system
//! would choose the one that an answer comes from. On Linux it can be told, in a control message
//! beside each datagram; see `IP_PKTINFO` in ip(7) and `IPV6_RECVPKTINFO` in ipv6(7). A socket that
//! has one address mostly does without: the messages cost some time.

use std::net::IpAddr;

/// Where a datagram was sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asked {
    /// The address to answer from.
    pub(crate) address: IpAddr,
    /// The index of the interface to answer through. 0 leaves it to the system's routes, which
    /// cannot tell one link-local network from another.
    pub(crate) interface: u32,
    /// Whether it went to several hosts at once: to a broadcast or multicast address.
    pub(crate) is_to_many: bool,
}

#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) use linux::{Control, ask_for_it, asked, is_wanted};

/// Nothing is asked here, and the system chooses.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
#[allow(clippy::unnecessary_wraps, reason = "the same on every system")]
pub(crate) fn ask_for_it(
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
    use nix::libc::{in_addr, in_pktinfo, in6_addr, in6_pktinfo};
    use nix::sys::socket::sockopt::{Ipv4PacketInfo, Ipv6RecvPacketInfo};
    use nix::sys::socket::{ControlMessage, ControlMessageOwned, setsockopt};
    use socket2::Socket;

    use super::Asked;

    /// Has the system tell of each datagram from now on, if that is wanted.
    pub(crate) fn ask_for_it(socket: &Socket, address: SocketAddr) -> io::Result<()> {
        match address {
            _ if !is_wanted(address) => {}
            SocketAddr::V4(_) => setsockopt(socket, Ipv4PacketInfo, &true)?,
            SocketAddr::V6(_) => setsockopt(socket, Ipv6RecvPacketInfo, &true)?,
        }
        Ok(())
    }

    /// Whether it is not enough to know where a socket is bound: it may be one address of this
    /// host, and nobody else's. A link-local one can be that of several interfaces; over IPv6 it is
    /// bound with one of them.
    pub(crate) fn is_wanted(address: SocketAddr) -> bool {
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

    /// What the system told beside a datagram of `peer`.
    pub(crate) fn asked(message: &ControlMessageOwned, peer: IpAddr) -> Option<Asked> {
        let (address, interface, is_to_many) = match message {
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                let destination = Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes());
                // An address of this host: the same one, if the datagram was for this host alone.
                let own = match Ipv4Addr::from(info.ipi_spec_dst.s_addr.to_ne_bytes()) {
                    // It came before the system was asked, and who it was for is not known. The
                    // system sends nothing from an address that is not of this host alone.
                    Ipv4Addr::UNSPECIFIED => destination,
                    own => own,
                };
                let interface = u32::try_from(info.ipi_ifindex).ok()?;
                let is_to_many = own != destination || is_of_many(destination);
                (IpAddr::V4(own), interface, is_to_many)
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => {
                let destination = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                let is_to_many = destination.is_multicast();
                (IpAddr::V6(destination), info.ipi6_ifindex, is_to_many)
            }
            _ => return None,
        };
        let is_on_link = is_link_local(address) || is_link_local(peer);
        Some(Asked {
            address,
            interface: if is_on_link { interface } else { 0 },
            is_to_many,
        })
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

    /// The control message that has an answer come from where the question went.
    #[derive(Debug)]
    pub(crate) enum Control {
        V4(in_pktinfo),
        V6(in6_pktinfo),
    }

    impl Control {
        pub(crate) fn message(&self) -> ControlMessage<'_> {
            match self {
                Control::V4(info) => ControlMessage::Ipv4PacketInfo(info),
                Control::V6(info) => ControlMessage::Ipv6PacketInfo(info),
            }
        }

        /// Room for just that message: what is left over would be taken for another, and refused.
        pub(crate) fn space(&self) -> Vec<u8> {
            match self {
                Control::V4(_) => cmsg_space!(in_pktinfo),
                Control::V6(_) => cmsg_space!(in6_pktinfo),
            }
        }

        /// Room for the message of either family, to receive it.
        pub(crate) fn any_space() -> Vec<u8> {
            cmsg_space!(in6_pktinfo)
        }
    }

    impl From<Asked> for Control {
        fn from(asked: Asked) -> Self {
            match asked.address {
                IpAddr::V4(address) => Control::V4(in_pktinfo {
                    // An int in this one, and an unsigned int in the other.
                    ipi_ifindex: i32::try_from(asked.interface).unwrap_or(0),
                    ipi_spec_dst: in_addr {
                        s_addr: u32::from_ne_bytes(address.octets()),
                    },
                    // Of no meaning here.
                    ipi_addr: in_addr { s_addr: 0 },
                }),
                IpAddr::V6(address) => Control::V6(in6_pktinfo {
                    ipi6_ifindex: asked.interface,
                    ipi6_addr: in6_addr {
                        s6_addr: address.octets(),
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

        #[test]
        fn what_came_before_the_system_was_asked_is_answered_from_where_it_went() {
            let told = asked(&message("0.0.0.0", "192.0.2.1"), Ipv4Addr::LOCALHOST.into());
            let told = told.unwrap();
            assert_eq!(told.address, "192.0.2.1".parse::<IpAddr>().unwrap());
            assert!(!told.is_to_many);
            let told = asked(&message("0.0.0.0", "224.0.0.1"), Ipv4Addr::LOCALHOST.into());
            assert!(told.unwrap().is_to_many);
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
                let told = asked(&message(own, destination), peer.parse().unwrap()).unwrap();
                let expected = Asked {
                    address: own.parse().unwrap(),
                    interface,
                    is_to_many,
                };
                assert_eq!(told, expected, "{peer} to {destination}");
                // And that is what the system is told in its turn.
                let (address, index) = match Control::from(told) {
                    Control::V4(info) => {
                        let address = info.ipi_spec_dst.s_addr.to_ne_bytes();
                        (IpAddr::from(address), info.ipi_ifindex.try_into().unwrap())
                    }
                    Control::V6(info) => (IpAddr::from(info.ipi6_addr.s6_addr), info.ipi6_ifindex),
                };
                assert_eq!((address, index), (expected.address, interface), "{own}");
            }
        }
    }
}
