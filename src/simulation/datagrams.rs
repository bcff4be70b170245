//! UDP sockets, one for each echo: what udp(7), recvmmsg(2) and sendmmsg(2) say of their calls.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};

use mio::event;

use super::errors::{
    EACCES, EAGAIN, ECONNREFUSED, EHOSTUNREACH, EINTR, EMSGSIZE, ENETUNREACH, ENOBUFS, ENOMEM,
    EPERM,
};
use super::plan::{Micros, SECOND};
use super::sockets::{Descriptor, Socket, Source};
use super::world::{World, error, world};
use crate::net::udp::packet_info::PacketInfo;
use crate::net::udp::{BATCH, Datagram, DatagramIo, POLL_THRESHOLD, SLOT_SIZE};

/// Errors that an ICMP message about an earlier reply causes.
const ICMP: &[i32] = &[ECONNREFUSED, EHOSTUNREACH, ENETUNREACH];
const RECEIVE: &[i32] = &[EINTR, ENOMEM];
const SEND: &[i32] = &[EINTR, ENOBUFS, ENOMEM, EACCES, EPERM, EMSGSIZE];

/// How many datagrams fit into a receive buffer, and into a send buffer.
const CAPACITY: usize = 40;

/// A datagram of a peer.
#[derive(Debug, Clone)]
pub(super) struct SentDatagram {
    pub(super) from: SocketAddr,
    pub(super) info: PacketInfo,
    pub(super) size: usize,
    /// How many echoes have sent it on.
    pub(super) hops: u32,
    /// The neighbour does not answer ARP: the reply stays in the send buffer.
    pub(super) is_unresolved: bool,
}

/// The facts of a UDP socket. Datagrams are numbered.
#[derive(Debug, Clone, Default)]
pub(super) struct Udp {
    pub(super) socket: Socket,
    /// Not received yet.
    pub(super) waiting: VecDeque<usize>,
    /// Received, and not answered yet.
    in_turn: VecDeque<usize>,
    /// Until when replies stay in the send buffer.
    pub(super) unresolved: VecDeque<Micros>,
    drops: u32,
}

/// The address of the UDP socket of an echo.
pub(super) fn address(echo: usize) -> SocketAddr {
    SocketAddr::from(([10, 9, 0, 1 + echo as u8], 7007 + echo as u16))
}

impl World {
    /// sendto(2) of a peer.
    pub(super) fn send_datagram(&mut self, echo: usize, datagram: SentDatagram) {
        let number = self.datagrams.len();
        self.tell(|| format!("datagram {number} to echo {echo}: {datagram:?}"));
        self.datagrams.push(datagram);
        let udp = &mut self.echoes[echo].udp;
        if udp.waiting.len() == CAPACITY {
            udp.drops += 1;
        } else {
            udp.waiting.push_back(number);
            self.signal(Source::Udp(echo));
        }
    }

    /// recvmmsg(2). The content of a datagram is its number.
    fn receive_datagrams(
        &mut self,
        echo: usize,
        buffers: &mut [u8],
        received: &mut Vec<Datagram>,
    ) -> io::Result<usize> {
        let max = POLL_THRESHOLD + self.random.below((BATCH - POLL_THRESHOLD + 1) as u64) as usize;
        let udp = &mut self.echoes[echo].udp;
        if udp.waiting.is_empty() {
            return error(EAGAIN);
        }
        udp.socket.in_turn.has_progress = true;
        udp.in_turn = udp.waiting.drain(..max.min(udp.waiting.len())).collect();
        for (slot, &number) in udp.in_turn.iter().enumerate() {
            let sent = &self.datagrams[number];
            let content = &mut buffers[slot * SLOT_SIZE..][..sent.size.min(8)];
            content.copy_from_slice(&number.to_le_bytes()[..content.len()]);
            received.push(Datagram {
                slot,
                size: sent.size,
                peer: sent.from,
                info: sent.info,
                drops: Some(udp.drops),
            });
        }
        Ok(udp.in_turn.len())
    }

    /// sendmmsg(2).
    fn send_datagrams(
        &mut self,
        echo: usize,
        buffers: &[u8],
        replies: &[Datagram],
    ) -> io::Result<usize> {
        let are_alike = replies.iter().all(|it| it.replies_like(&replies[0]));
        assert!(are_alike, "replies in one call differ in control messages");
        let max = 1 + self.random.below(replies.len() as u64) as usize;
        for (count, reply) in replies[..max].iter().enumerate() {
            if self.echoes[echo].udp.unresolved.len() == CAPACITY {
                return if count == 0 { error(EAGAIN) } else { Ok(count) };
            }
            self.answer(echo, reply, reply.bytes(buffers));
        }
        Ok(max)
    }

    /// A reply leaves. It has to be unchanged, in the order of its peer's datagrams, and the only one.
    fn answer(&mut self, echo: usize, reply: &Datagram, bytes: &[u8]) {
        let (datagrams, udp) = (&self.datagrams, &mut self.echoes[echo].udp);
        let is_answered = |number: &usize| {
            let (it, content) = (&datagrams[*number], &bytes[..bytes.len().min(8)]);
            let is_same = it.from == reply.peer && it.size == reply.size && it.info == reply.info;
            is_same && content == &number.to_le_bytes()[..content.len()]
        };
        let Some(index) = udp.in_turn.iter().position(is_answered) else {
            panic!("a reply to {} without a datagram", reply.peer);
        };
        let datagram = datagrams[udp.in_turn[index]].clone();
        // Earlier datagrams of the same peer cannot be answered any more.
        let later = udp.in_turn.split_off(index + 1);
        udp.in_turn
            .retain(|&other| datagrams[other].from != datagram.from);
        udp.in_turn.extend(later);
        if datagram.is_unresolved {
            udp.unresolved.push_back(self.now + 3 * SECOND);
        }
        self.replies += 1;
        if let Some(reason) = self.forbids_reply(&datagram, address(echo).port()) {
            panic!("a reply to {}, which {reason}", datagram.from);
        }
        self.forward(echo, datagram);
    }

    /// The reply reaches another echo, if the address of the sender was forged.
    fn forward(&mut self, echo: usize, mut datagram: SentDatagram) {
        let mut echoes = 0..self.plan.echoes;
        if let Some(other) = echoes.find(|&other| address(other) == datagram.from) {
            // Where the TTL was not known, the reply leaves with the default.
            let ttl = datagram.info.ttl.map_or(64, |ttl| ttl.saturating_sub(1));
            datagram.info.ttl = Some(ttl);
            datagram.from = address(echo);
            datagram.hops += 1;
            let is_endless = datagram.hops > 256;
            assert!(!is_endless, "two echoes answer each other without end");
            self.send_datagram(other, datagram);
        }
    }

    /// Why a datagram must not be answered.
    fn forbids_reply(&self, datagram: &SentDatagram, own_port: u16) -> Option<&'static str> {
        let port = datagram.from.port();
        let is_reserved = port < 1024 || port == 2049 || port == own_port;
        let is_host = match datagram.from.ip() {
            IpAddr::V4(ip) => !(ip.is_multicast() || ip.is_broadcast() || ip.is_unspecified()),
            IpAddr::V6(_) => true,
        };
        let any_port = self.plan.config.udp_answer_any_port;
        let is_looping = datagram.info.ttl.is_some_and(|ttl| ttl <= 1);
        let reasons = [
            (!self.is_allowed(datagram.from), "is not in the allow list"),
            (!is_host, "is not one host"),
            (datagram.info.multicast, "asked many hosts"),
            (is_looping, "is too far away"),
            (port == 0, "has no port"),
            (is_reserved && !any_port, "has a reserved port"),
        ];
        let reason = reasons.into_iter().find(|(holds, _)| *holds);
        reason.map(|(_, reason)| reason)
    }
}

impl DatagramIo for Descriptor {
    fn receive(&mut self, buffers: &mut [u8], datagrams: &mut Vec<Datagram>) -> io::Result<usize> {
        let errors = [RECEIVE, ICMP].concat();
        let act = |world: &mut World| world.receive_datagrams(self.id(), buffers, datagrams);
        let received = self.call("recvmmsg", &errors, act);
        let errno = received.as_ref().err().and_then(io::Error::raw_os_error);
        let has_message = errno.is_some_and(|it| ICMP.contains(&it));
        world(|world| world.echoes[self.id()].udp.socket.in_turn.has_progress |= has_message);
        received
    }

    fn send(&mut self, buffers: &[u8], datagrams: &[Datagram]) -> io::Result<usize> {
        let errors = [SEND, ICMP].concat();
        let act = |world: &mut World| world.send_datagrams(self.id(), buffers, datagrams);
        self.call("sendmmsg", &errors, act)
    }

    fn source_mut(&mut self) -> &mut dyn event::Source {
        self
    }
}
