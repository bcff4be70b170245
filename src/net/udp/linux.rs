//! Many datagrams with one system call: recvmmsg(2) and sendmmsg(2).

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{SocketAddr, SocketAddrV6};
use std::os::fd::AsRawFd;

use mio::event::Source;
use mio::net::UdpSocket;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, MultiHeaders, RecvMsg, SockaddrIn, SockaddrIn6, SockaddrLike,
    recvmmsg, sendmmsg,
};
use socket2::Socket;

use super::packet_info::{Control, PacketInfo, receive_space};
use super::{Datagram, DatagramIo, POLL_THRESHOLD, SLOT_SIZE};

/// The most datagrams that one call receives.
pub(crate) const BATCH: usize = 32;

/// The names of the calls in the log.
pub(crate) const RECEIVE: &str = "recvmmsg";
pub(crate) const SEND: &str = "sendmmsg";

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

    fn receive_from<A: Address>(
        &self,
        buffers: &mut [u8],
        datagrams: &mut Vec<Datagram>,
    ) -> io::Result<usize> {
        let mut headers = MultiHeaders::<A>::preallocate(self.expected, Some(receive_space()));
        let slots = buffers.chunks_exact_mut(SLOT_SIZE).take(self.expected);
        let mut slices: Vec<_> = slots.map(|slot| [IoSliceMut::new(slot)]).collect();
        let flags = MsgFlags::MSG_DONTWAIT;
        let fd = self.socket.as_raw_fd();
        let mut count = 0;
        for (slot, message) in recvmmsg(fd, &mut headers, &mut slices, flags, None)?.enumerate() {
            datagrams.extend(datagram(slot, &message));
            count += 1;
        }
        Ok(count)
    }

    fn send_to<A: Address>(&self, buffers: &[u8], datagrams: &[Datagram]) -> io::Result<usize> {
        let Some(first) = datagrams.first() else {
            return Ok(0);
        };
        let slices = datagrams.iter().map(|it| [IoSlice::new(it.bytes(buffers))]);
        let slices: Vec<_> = slices.collect();
        let peers: Vec<_> = datagrams.iter().map(|it| A::of_address(it.peer)).collect();
        // The same control messages for all of them.
        let control = Control::new(first.info, first.peer.ip());
        let mut headers = MultiHeaders::preallocate(datagrams.len(), control.space());
        let (fd, flags) = (self.socket.as_raw_fd(), MsgFlags::MSG_DONTWAIT);
        let sent = sendmmsg(fd, &mut headers, &slices, peers, control.messages(), flags)?;
        Ok(sent.count())
    }
}

impl DatagramIo for UdpIo {
    fn receive(&mut self, buffers: &mut [u8], datagrams: &mut Vec<Datagram>) -> io::Result<usize> {
        let count = if self.is_ipv4 {
            self.receive_from::<SockaddrIn>(buffers, datagrams)?
        } else {
            self.receive_from::<SockaddrIn6>(buffers, datagrams)?
        };
        self.expected = (2 * count).clamp(POLL_THRESHOLD, BATCH);
        Ok(count)
    }

    fn send(&mut self, buffers: &[u8], datagrams: &[Datagram]) -> io::Result<usize> {
        if self.is_ipv4 {
            self.send_to::<SockaddrIn>(buffers, datagrams)
        } else {
            self.send_to::<SockaddrIn6>(buffers, datagrams)
        }
    }

    fn source_mut(&mut self) -> &mut dyn Source {
        &mut self.socket
    }
}

/// `None` without the address of the sender, which a datagram over IP always has.
fn datagram<A: Address>(slot: usize, message: &RecvMsg<'_, '_, A>) -> Option<Datagram> {
    let peer = message.address?.to_address();
    let mut info = PacketInfo::default();
    let mut drops = None;
    for control in message.cmsgs().into_iter().flatten() {
        match control {
            ControlMessageOwned::RxqOvfl(count) => drops = Some(count),
            control => info.add(&control, peer.ip()),
        }
    }
    Some(Datagram {
        slot,
        size: message.bytes,
        peer,
        info,
        drops,
    })
}

/// The address of a peer in the system's form.
trait Address: SockaddrLike + Copy {
    /// `None` for an address of the other family.
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

/// A mapped address (`::ffff:192.0.2.1`) is that of a peer over IPv4, and becomes an IPv4 address.
impl Address for SockaddrIn6 {
    fn of_address(address: SocketAddr) -> Option<Self> {
        Some(match address {
            SocketAddr::V4(address) => {
                let ip = address.ip().to_ipv6_mapped();
                SocketAddrV6::new(ip, address.port(), 0, 0).into()
            }
            SocketAddr::V6(address) => address.into(),
        })
    }

    fn to_address(self) -> SocketAddr {
        let address = SocketAddrV6::from(self);
        match address.ip().to_ipv4_mapped() {
            Some(ip) => SocketAddr::from((ip, address.port())),
            None => SocketAddr::V6(address),
        }
    }
}
