//! Many datagrams with one system call: recvmmsg(2) and sendmmsg(2).

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{SocketAddr, SocketAddrV6};
use std::os::fd::AsRawFd;

use mio::event::Source;
use mio::net::UdpSocket;
use nix::errno::Errno;
use nix::sys::socket::sockopt::{Ipv4RecvErr, Ipv6RecvErr, Timestamping, UdpGsoSegment};
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, MultiHeaders, RecvMsg, SockaddrStorage, TimestampingFlag,
    recvmmsg, sendmmsg, setsockopt,
};
use rustix::net::sockopt::{Ipv4PathMtuDiscovery, set_ip_mtu_discover};
use socket2::Socket;

use super::packet_info::{self, Control, PacketInfo, receive_space};
use super::{Datagram, DatagramIo, POLL_THRESHOLD, SLOT_SIZE};
use crate::net::canonical;

/// The most messages that one call receives: datagrams or trains.
pub(crate) const BATCH: usize = 32;

/// The names of the calls in the log.
pub(crate) const RECEIVE: &str = "recvmmsg";
pub(crate) const SEND: &str = "sendmmsg";

/// Enables control messages, and has replies fragmented that are larger than the path MTU.
pub(crate) fn set_options(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    // By default the system forbids routers to fragment, and the reply is lost until the reported MTU
    // arrives, if it does; see `IP_MTU_DISCOVER` in ip(7). With IPv6 routers never fragment (RFC 8200,
    // section 5), but an IPv6 socket has peers over IPv4 too.
    set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::DONT)?;
    reset_options(socket);
    packet_info::enable(socket, address)
}

/// Resets what another program may have set, and what would break an echo. Best effort: a system
/// without an option has nothing to reset, nor has an IPv4 socket those of IPv6.
fn reset_options(socket: &Socket) {
    // The error queue shares the receive buffer. The echo does not read that queue, and once it is full
    // no more datagrams arrive. See `IP_RECVERR` in ip(7); time stamps of replies go there too.
    let _ = setsockopt(socket, Ipv4RecvErr, &false);
    let _ = setsockopt(socket, Ipv6RecvErr, &false);
    let _ = setsockopt(socket, Timestamping, &TimestampingFlag::empty());
    // A reply would leave as several datagrams; see `UDP_SEGMENT` in udp(7).
    let _ = setsockopt(socket, UdpGsoSegment, &0);
}

/// Whether an interface or a path does not take a train: a datagram is larger than the MTU, or the
/// interface computes no checksums. See `UDP_SEGMENT` in udp(7).
pub(crate) fn refuses_trains(error: &io::Error) -> bool {
    let all = [Errno::EINVAL, Errno::EIO, Errno::EMSGSIZE];
    all.iter()
        .any(|it| error.raw_os_error() == Some(*it as i32))
}

/// A UDP socket of Linux.
#[derive(Debug)]
pub(crate) struct UdpIo {
    socket: UdpSocket,
    is_ipv4: bool,
    /// How many to ask for next. Each costs some work, also those that do not come.
    expected: usize,
}

impl UdpIo {
    /// Takes a socket that is bound to `address`.
    pub(crate) fn new(socket: Socket, address: SocketAddr) -> Self {
        UdpIo {
            socket: UdpSocket::from_std(socket.into()),
            is_ipv4: address.is_ipv4(),
            expected: POLL_THRESHOLD,
        }
    }

    /// The address of a peer in the family of the socket. A peer over IPv4 at an IPv6 socket has a mapped
    /// address (`::ffff:192.0.2.1`).
    fn sockaddr(&self, peer: SocketAddr) -> SockaddrStorage {
        match peer {
            SocketAddr::V4(peer) if !self.is_ipv4 => {
                SocketAddrV6::new(peer.ip().to_ipv6_mapped(), peer.port(), 0, 0).into()
            }
            peer => peer.into(),
        }
    }
}

impl DatagramIo for UdpIo {
    fn receive(&mut self, buffers: &mut [u8], datagrams: &mut Vec<Datagram>) -> io::Result<usize> {
        let mut headers = MultiHeaders::preallocate(self.expected, Some(receive_space()));
        let slots = buffers.chunks_exact_mut(SLOT_SIZE).take(self.expected);
        let mut slices: Vec<_> = slots.map(|slot| [IoSliceMut::new(slot)]).collect();
        let (fd, flags) = (self.socket.as_raw_fd(), MsgFlags::MSG_DONTWAIT);
        let mut count = 0;
        for (slot, message) in recvmmsg(fd, &mut headers, &mut slices, flags, None)?.enumerate() {
            datagrams.extend(datagram(slot * SLOT_SIZE, &message));
            count += 1;
        }
        self.expected = (2 * count).clamp(POLL_THRESHOLD, BATCH);
        Ok(count)
    }

    fn send(&mut self, buffers: &[u8], datagrams: &[Datagram]) -> io::Result<usize> {
        let Some(first) = datagrams.first() else {
            return Ok(0);
        };
        let slices = datagrams.iter().map(|it| [IoSlice::new(it.bytes(buffers))]);
        let slices: Vec<_> = slices.collect();
        let peers = datagrams.iter().map(|it| Some(self.sockaddr(it.peer)));
        let peers: Vec<_> = peers.collect();
        // The same control messages for all of them.
        let control = Control::new(first.info, first.peer.ip());
        let mut headers = MultiHeaders::preallocate(datagrams.len(), control.space());
        let (fd, flags) = (self.socket.as_raw_fd(), MsgFlags::MSG_DONTWAIT);
        let sent = sendmmsg(fd, &mut headers, &slices, peers, control.messages(), flags)?;
        Ok(sent.count())
    }

    fn source_mut(&mut self) -> &mut dyn Source {
        &mut self.socket
    }
}

/// `None` without the address of the sender, which a datagram over IP always has.
fn datagram(start: usize, message: &RecvMsg<'_, '_, SockaddrStorage>) -> Option<Datagram> {
    let peer = peer(&message.address?)?;
    let mut info = PacketInfo::default();
    let mut drops = None;
    for control in message.cmsgs().into_iter().flatten() {
        match control {
            ControlMessageOwned::RxqOvfl(count) => drops = Some(count),
            control => info.add(&control, peer.ip()),
        }
    }
    // A single datagram is no train, and need not fit the MTU.
    info.segment = info
        .segment
        .filter(|size| usize::from(size.get()) < message.bytes);
    Some(Datagram {
        start,
        size: message.bytes,
        peer,
        info,
        drops,
    })
}

fn peer(address: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(SocketAddr::V4((*v4).into()));
    }
    let v6 = address.as_sockaddr_in6()?;
    Some(canonical(SocketAddr::V6((*v6).into())))
}
