//! One datagram with one system call: recvfrom(2) and sendto(2).

use std::io;
use std::net::SocketAddr;

use mio::net::UdpSocket;

use super::{Datagram, Packets};
use crate::packet_info::PacketInfo;

/// How many datagrams are received at once at the most.
pub(super) const BATCH: usize = 1;

/// A UDP socket of any system.
#[derive(Debug)]
pub(crate) struct PacketSocket(UdpSocket);

impl PacketSocket {
    pub(super) fn new(socket: UdpSocket, _address: SocketAddr) -> Self {
        PacketSocket(socket)
    }

    pub(super) fn source_mut(&mut self) -> &mut UdpSocket {
        &mut self.0
    }
}

impl Packets for PacketSocket {
    fn receive(&mut self, buffers: &mut [u8], datagrams: &mut Vec<Datagram>) -> io::Result<usize> {
        let (size, peer) = self.0.recv_from(buffers)?;
        datagrams.push(Datagram {
            slot: 0,
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
}
