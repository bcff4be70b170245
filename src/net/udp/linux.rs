//! Many datagrams with one system call: recvmmsg(2) and sendmmsg(2).

use std::array;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use mio::net::UdpSocket;
use nix::sys::socket::{
    ControlMessage, MsgFlags, MultiHeaders, RecvMsg, SockaddrIn, SockaddrIn6, SockaddrLike,
    recvmmsg, sendmmsg,
};

use crate::echo::udp::{BUSY, Datagram, Packets, SLOT};
use crate::net::udp::packet_info::{Control, asked, is_wanted};

/// How many datagrams are received at once at the most.
pub(crate) const BATCH: usize = 32;

/// A UDP socket of Linux.
#[derive(Debug)]
pub(crate) struct PacketSocket {
    socket: UdpSocket,
    is_ipv4: bool,
    /// Whether the system tells where each datagram was sent to.
    has_packet_info: bool,
    /// How many to ask for next. There is some work for each, also for those that do not come.
    expected: usize,
}

impl PacketSocket {
    /// Over a socket that is bound to that address.
    pub(crate) fn new(socket: UdpSocket, address: SocketAddr) -> Self {
        PacketSocket {
            socket,
            is_ipv4: address.is_ipv4(),
            has_packet_info: is_wanted(address),
            expected: BUSY,
        }
    }

    pub(crate) fn source_mut(&mut self) -> &mut UdpSocket {
        &mut self.socket
    }
}

impl Packets for PacketSocket {
    fn receive(&mut self, buffers: &mut [u8], datagrams: &mut Vec<Datagram>) -> io::Result<usize> {
        let count = if self.is_ipv4 {
            self.receive_from::<SockaddrIn>(buffers, datagrams)?
        } else {
            self.receive_from::<SockaddrIn6>(buffers, datagrams)?
        };
        self.expected = (2 * count).clamp(BUSY, BATCH);
        Ok(count)
    }

    fn send(&mut self, buffers: &[u8], datagrams: &[Datagram]) -> io::Result<usize> {
        // One control message serves all that are sent at once.
        let asked = datagrams.first().and_then(|first| first.asked);
        let count = datagrams.iter().take_while(|it| it.asked == asked).count();
        let alike = &datagrams[..count];
        let control = asked.map(Control::from);
        if self.is_ipv4 {
            self.send_to::<SockaddrIn>(buffers, alike, control.as_ref())
        } else {
            self.send_to::<SockaddrIn6>(buffers, alike, control.as_ref())
        }
    }
}

impl PacketSocket {
    fn receive_from<A: Address>(
        &self,
        buffers: &mut [u8],
        datagrams: &mut Vec<Datagram>,
    ) -> io::Result<usize> {
        let space = self.has_packet_info.then(Control::any_space);
        let mut headers = MultiHeaders::<A>::preallocate(self.expected, space);
        let mut slots = buffers.chunks_exact_mut(SLOT);
        let mut slices: [_; BATCH] =
            array::from_fn(|_| [IoSliceMut::new(slots.next().unwrap_or_default())]);
        let flags = MsgFlags::MSG_DONTWAIT;
        let fd = self.socket.as_raw_fd();
        let mut count = 0;
        for (slot, message) in recvmmsg(fd, &mut headers, &mut slices, flags, None)?.enumerate() {
            datagrams.extend(self.datagram(slot, &message));
            count += 1;
        }
        Ok(count)
    }

    /// `None` where the sender has no address, which a datagram over IP always has.
    fn datagram<A: Address>(&self, slot: usize, message: &RecvMsg<'_, '_, A>) -> Option<Datagram> {
        let peer = message.address?.to_address();
        let asked = if self.has_packet_info {
            let mut controls = message.cmsgs().into_iter().flatten();
            controls.find_map(|control| asked(&control, peer.ip()))
        } else {
            None
        };
        Some(Datagram {
            slot,
            size: message.bytes,
            peer,
            asked,
        })
    }

    fn send_to<A: Address>(
        &self,
        buffers: &[u8],
        datagrams: &[Datagram],
        control: Option<&Control>,
    ) -> io::Result<usize> {
        let bytes = |index: usize| datagrams.get(index).map(|it| it.bytes(buffers));
        let slices: [_; BATCH] =
            array::from_fn(|index| [IoSlice::new(bytes(index).unwrap_or_default())]);
        let peers: [_; BATCH] = array::from_fn(|index| A::of_address(datagrams.get(index)?.peer));
        // As many headers as there are datagrams: what is behind them in the arrays is not sent.
        let mut headers = MultiHeaders::preallocate(datagrams.len(), control.map(Control::space));
        let message = control.map(Control::message);
        let messages: &[ControlMessage<'_>] = message.as_slice();
        let flags = MsgFlags::MSG_DONTWAIT;
        let fd = self.socket.as_raw_fd();
        Ok(sendmmsg(fd, &mut headers, &slices, peers, messages, flags)?.count())
    }
}

/// The address of a peer, as the system has it.
trait Address: SockaddrLike + Copy {
    /// `None` where it is of the other family.
    fn of_address(address: SocketAddr) -> Option<Self>;
    fn to_address(self) -> SocketAddr;
}

impl Address for SockaddrIn {
    fn of_address(address: SocketAddr) -> Option<Self> {
        match address {
            SocketAddr::V4(address) => Some(address.into()),
            SocketAddr::V6(_) => None,
        }
    }

    fn to_address(self) -> SocketAddr {
        SocketAddr::V4(self.into())
    }
}

impl Address for SockaddrIn6 {
    fn of_address(address: SocketAddr) -> Option<Self> {
        match address {
            SocketAddr::V4(_) => None,
            SocketAddr::V6(address) => Some(address.into()),
        }
    }

    fn to_address(self) -> SocketAddr {
        SocketAddr::V6(self.into())
    }
}
