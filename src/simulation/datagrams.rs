//! UDP sockets, one for each echo: what udp(7), recvmmsg(2) and sendmmsg(2) say of their calls.

use std::num::NonZero;

use super::*;
use crate::net::udp::packet_info::PacketInfo;
use crate::net::udp::{BATCH, DatagramIo, POLL_THRESHOLD, SLOT_SIZE};

/// How many datagrams fit into a receive buffer, and into a send buffer.
const CAPACITY: usize = 40;

/// The address of the UDP socket of an echo.
pub(super) fn address(echo: usize) -> SocketAddr {
    SocketAddr::from(([10, 9, 0, 1 + echo as u8], 7007 + echo as u16))
}

/// What is compared of the content of a datagram: its number.
fn content(number: usize, size: usize) -> Vec<u8> {
    number.to_le_bytes()[..size.min(8)].to_vec()
}

impl World {
    /// sendto(2) of a peer.
    pub(super) fn send_datagram(&mut self, echo: usize, datagram: Datagram) {
        let number = self.datagrams.len();
        tell!(self, "datagram {number} to echo {echo}: {datagram:?}");
        self.datagrams.push(datagram);
        // The UDP socket is the last endpoint of an echo.
        let id = (echo + 1) * self.plan.endpoints(0).len() - 1;
        let socket = &mut self.sockets[id];
        if socket.waiting.len() < CAPACITY {
            socket.waiting.push_back(number);
            self.signal(id);
        } else {
            socket.drops += 1;
        }
    }

    /// A reply leaves. It has to be unchanged, in the order of its peer's datagrams, and the only one.
    fn answer(&mut self, id: usize, reply: &Datagram, bytes: &[u8]) {
        let (all, socket) = (&self.datagrams, &mut self.sockets[id]);
        let is_answered = |number: &usize| {
            let it = &all[*number];
            let is_same = (it.size, it.peer, it.info) == (reply.size, reply.peer, reply.info);
            is_same && bytes.starts_with(&content(*number, it.size))
        };
        let number = socket.unanswered.iter().copied().find(is_answered);
        let name = format_args!("a reply to {}", reply.peer);
        judge(number.is_none(), &name, "does not answer a datagram");
        let number = number.unwrap_or(0);
        // Earlier datagrams of the same peer cannot be answered any more.
        let is_other = |it: &usize| all[*it].peer != reply.peer;
        socket.unanswered.retain(|it| *it > number || is_other(it));
        let (datagram, echo) = (all[number].clone(), socket.echo);
        // Some neighbours do not answer ARP, and the reply stays in the send buffer.
        if self.random.one_in(8) {
            socket.unresolved.push_back(self.now + 3 * SECOND);
        }
        self.replies += 1;
        let fault = self.fault_of_reply(echo, reply);
        judge(fault.is_some(), &name, fault.unwrap_or_default());
        self.forward(echo, datagram);
    }

    /// The reply reaches another echo, if the address of the sender was forged.
    fn forward(&mut self, echo: usize, mut datagram: Datagram) {
        let mut echoes = 0..self.plan.echoes;
        if let Some(other) = echoes.find(|other| address(*other) == datagram.peer) {
            // Where the TTL was not known, the reply leaves with the default.
            let ttl = datagram.info.ttl.unwrap_or(65);
            datagram.info.ttl = Some(ttl.saturating_sub(1));
            datagram.peer = address(echo);
            self.send_datagram(other, datagram);
        }
    }

    /// Why a datagram must not be answered.
    fn fault_of_reply(&self, echo: usize, datagram: &Datagram) -> Option<&'static str> {
        let (peer, port, info) = (datagram.peer, datagram.peer.port(), datagram.info);
        let is_reserved = port < 1024 || [2049, address(echo).port()].contains(&port);
        let any_port = self.plan.config.udp_answer_any_port;
        let is_host = match peer.ip() {
            IpAddr::V4(ip) => !(ip.is_multicast() || ip.is_broadcast() || ip.is_unspecified()),
            IpAddr::V6(_) => true,
        };
        let all = [
            (!self.is_allowed(peer), "is not allowed"),
            (!is_host, "does not go to one host"),
            (info.multicast, "answers a question to many hosts"),
            (info.ttl.is_some_and(|ttl| ttl <= 1), "goes too far"),
            (port == 0 || (is_reserved && !any_port), "goes to a service"),
        ];
        all.iter().find(|it| it.0).map(|it| it.1)
    }
}

/// `UDP_GRO`: a datagram joins the train before it, if it is from the same peer and none before it was
/// shorter than the first. Returns where its bytes begin.
fn join(train: &mut Datagram, next: &Datagram) -> Option<usize> {
    let segment = train.info.segment.map_or(train.size, |it| it.get().into());
    let info = PacketInfo {
        segment: train.info.segment,
        ..next.info
    };
    let is_alike = (train.peer, train.info) == (next.peer, info);
    let is_short = next.size > segment || next.size == 0 || !train.size.is_multiple_of(segment);
    let end = train.size + next.size;
    if !is_alike || is_short || train.count() == 64 || end > SLOT_SIZE {
        return None;
    }
    train.info.segment = NonZero::new(segment as u16);
    train.size = end;
    Some(train.start + end - next.size)
}

impl DatagramIo for Descriptor {
    fn receive(&mut self, buffers: &mut [u8], datagrams: &mut Vec<Datagram>) -> io::Result<usize> {
        self.call("recvmmsg", |world, id| {
            let more = world.random.below((BATCH - POLL_THRESHOLD + 1) as u64);
            let (max, has_trains) = (POLL_THRESHOLD + more as usize, world.random.one_in(2));
            let socket = &mut world.sockets[id];
            socket.unanswered.clear();
            while let Some(&number) = socket.waiting.front() {
                let mut datagram = world.datagrams[number].clone();
                (datagram.start, datagram.drops) =
                    (datagrams.len() * SLOT_SIZE, Some(socket.drops));
                let train = datagrams.last_mut().filter(|_| has_trains);
                let start = match train.and_then(|it| join(it, &datagram)) {
                    Some(start) => start,
                    None if datagrams.len() == max => break,
                    None => {
                        datagrams.push(datagram.clone());
                        datagram.start
                    }
                };
                let content = content(number, datagram.size);
                buffers[start..][..content.len()].copy_from_slice(&content);
                socket.unanswered.extend(socket.waiting.pop_front());
            }
            let socket = &world.sockets[id];
            let received = socket.unanswered.iter().map(|it| &world.datagrams[*it]);
            let dropped = received.filter(|it| world.fault_of_reply(socket.echo, it).is_some());
            world.replies_dropped += dropped.count() as u64;
            or_would_block(datagrams.len() as u64)
        })
    }

    fn send(&mut self, buffers: &[u8], datagrams: &[Datagram]) -> io::Result<usize> {
        self.call("sendmmsg", |world, id| {
            let differ = datagrams.iter().any(|it| !it.replies_like(&datagrams[0]));
            judge(differ, &"replies in one call", "differ in control messages");
            if datagrams[0].count() > 1 && world.has_trouble(1) {
                return Err("EIO");
            }
            let max = 1 + world.random.below(datagrams.len() as u64) as usize;
            let count = max.min(CAPACITY.saturating_sub(world.sockets[id].unresolved.len()));
            for reply in datagrams[..count].iter().flat_map(Datagram::split) {
                world.answer(id, &reply, reply.bytes(buffers));
            }
            or_would_block(count as u64)
        })
    }

    fn source_mut(&mut self) -> &mut dyn event::Source {
        self
    }
}
