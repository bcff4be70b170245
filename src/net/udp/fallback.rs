//! One datagram with one system call: recvfrom(2) and sendto(2).

use std::io;
use std::net::SocketAddr;

use mio::event::Source;
use mio::net::UdpSocket;
use socket2::Socket;

use super::packet_info::PacketInfo;
use super::{Datagram, DatagramIo};

/// The most datagrams that one call receives.
pub(crate) const BATCH: usize = 1;

/// The names of the calls in the log.
pub(crate) const RECEIVE: &str = "recvfrom";
pub(crate) const SEND: &str = "sendto";

/// The system needs none: it lets routers fragment, and has no control messages that are known here.
#[allow(clippy::unnecessary_wraps, reason = "the same on every system")]
pub(crate) fn set_options(_socket: &Socket, _address: SocketAddr) -> io::Result<()> {
    Ok(())
}

/// There are no trains.
pub(crate) fn refuses_trains(_error: &io::Error) -> bool {
    false
}

/// A UDP socket on any system.
#[derive(Debug)]
pub(crate) struct UdpIo(UdpSocket);

impl UdpIo {
    pub(crate) fn new(socket: Socket, _address: SocketAddr) -> Self {
        UdpIo(UdpSocket::from_std(socket.into()))
    }
}

impl DatagramIo for UdpIo {
    fn receive(&mut self, buffers: &mut [u8], datagrams: &mut Vec<Datagram>) -> io::Result<usize> {
        let (size, peer) = self.0.recv_from(buffers)?;
        datagrams.push(Datagram {
            start: 0,
            size,
            peer,
            info: PacketInfo::default(),
            drops: None,
        });
        Ok(1)
    }

    fn send(&mut self, buffers: &[u8], datagrams: &[Datagram]) -> io::Result<usize> {
        let Some(first) = datagrams.first() else {
            return Ok(0);
        };
        self.0.send_to(first.bytes(buffers), first.peer)?;
        Ok(1)
    }

    fn source_mut(&mut self) -> &mut dyn Source {
        &mut self.0
    }
}
