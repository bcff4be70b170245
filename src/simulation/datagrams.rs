//! UDP sockets: what udp(7), recvmmsg(2) and sendmmsg(2) say of their calls.

use std::num::NonZero;

use super::*;
use crate::net::udp::{BATCH, DatagramIo, POLL_THRESHOLD, SLOT_SIZE};

/// How many datagrams fit into a receive buffer, and into a send buffer.
const CAPACITY: usize = 40;

/// What is compared of the content of a datagram: its number.
fn content(number: usize, size: usize) -> Vec<u8> {
    number.to_le_bytes()[..size.min(8)].to_vec()
}

impl World {
    /// sendto(2) of a client, or of the other service.
    pub(super) fn send_datagram(&mut self, datagram: Datagram) {
        let (number, service) = (self.datagrams.len(), self.service);
        tell!(self, "datagram {number} to service {service}: {datagram:?}");
        self.datagrams.push(datagram);
        let socket = &mut self.sockets[UDP];
        if socket.waiting.len() < CAPACITY {
            socket.waiting.push_back(number);
            self.note_change(UDP);
        } else {
            // The engine counts from the first report on.
            socket.drops += u32::from(self.expected.datagrams_received > 0);
        }
    }

    /// A reply leaves. Its size, addresses, control messages and number have to be those of a datagram, in
    /// the order of its peer's datagrams, and the only one.
    fn note_reply(&mut self, mut reply: Datagram, bytes: &[u8]) {
        let (all, socket) = (&self.datagrams, &mut self.sockets[UDP]);
        let is_replied = |number: &usize| {
            let it = &all[*number];
            let is_same = (it.size, it.peer, it.info) == (reply.size, reply.peer, reply.info);
            is_same && bytes.starts_with(&content(*number, it.size))
        };
        let found = socket.activity.unreplied.iter().copied().find(is_replied);
        check!(found.is_some(), "a reply to {} is not expected", reply.peer);
        let number = found.unwrap_or_default();
        // Earlier datagrams of the same peer get no reply any more.
        let can_follow = |it: &usize| *it > number || all[*it].peer != reply.peer;
        socket.activity.unreplied.retain(can_follow);
        // Some neighbours do not answer ARP, and the reply stays in the send buffer.
        if self.random.one_in(8) {
            socket.unresolved.push(self.now + 3 * SECOND);
        }
        self.expected.datagrams_sent += 1;
        self.expected.bytes_sent += reply.size as u64;
        // The address of the sender was forged.
        let other = 1 - self.service;
        if reply.peer == address(other) {
            // An unknown TTL counts as 64 in the reply.
            reply.info.ttl = Some(reply.info.ttl.unwrap_or(65).saturating_sub(1));
            reply.peer = address(self.service);
            world_of(other).send_datagram(reply);
        }
    }

    /// Whether a datagram gets a reply.
    fn is_wanted(&self, datagram: &Datagram) -> bool {
        let (peer, port, info) = (datagram.peer, datagram.peer.port(), datagram.info);
        let is_reserved = port < 1024 || [2049, address(self.service).port()].contains(&port);
        let is_service = port == 0 || (is_reserved && !self.plan.config.udp_answer_any_port);
        let is_unicast = match peer.ip() {
            IpAddr::V4(ip) => !(ip.is_multicast() || ip.is_broadcast() || ip.is_unspecified()),
            IpAddr::V6(_) => true,
        };
        let is_too_far = info.ttl.is_some_and(|ttl| ttl <= 1);
        self.is_allowed(peer) && is_unicast && !is_service && !info.multicast && !is_too_far
    }

    /// Datagrams were received. Some of them get no reply.
    fn note_received(&mut self, mut received: Vec<usize>) {
        let count = received.len() as u64;
        let bytes: usize = received.iter().map(|it| self.datagrams[*it].size).sum();
        received.retain(|it| self.is_wanted(&self.datagrams[*it]));
        self.expected.datagrams_received += count;
        self.expected.bytes_received += bytes as u64;
        self.unwanted += count - received.len() as u64;
        self.expected.receive_buffer_drops = self.sockets[UDP].drops.into();
        let activity = &mut self.sockets[UDP].activity;
        activity.backlog = activity.backlog.saturating_sub(count as usize);
        activity.unreplied = received;
    }
}

/// `UDP_GRO`: a datagram joins the train before it, if it is from the same peer and none before it was
/// shorter than the first. Returns where its bytes begin.
fn join(train: &mut Datagram, next: &Datagram) -> Option<usize> {
    let segment = train.info.segment.map_or(train.size, |it| it.get().into());
    let (start, end) = (train.start + train.size, train.size + next.size);
    let mut info = train.info;
    info.segment = None;
    let is_alike = (train.peer, info) == (next.peer, next.info);
    let is_whole = train.size.is_multiple_of(segment) && (1..=segment).contains(&next.size);
    let fits = train.count() < 64 && end <= SLOT_SIZE;
    (is_alike && is_whole && fits).then(|| {
        train.info.segment = NonZero::new(segment as u16);
        train.size = end;
        start
    })
}

impl DatagramIo for Descriptor {
    fn receive(&mut self, buffers: &mut [u8], datagrams: &mut Vec<Datagram>) -> io::Result<usize> {
        self.call("recvmmsg", |world, id| {
            let more = world.random.below((BATCH - POLL_THRESHOLD + 1) as u64);
            let (max, has_trains) = (POLL_THRESHOLD + more as usize, world.random.one_in(2));
            let (socket, mut received) = (&mut world.sockets[id], Vec::new());
            while let Some(&number) = socket.waiting.front() {
                let mut datagram = world.datagrams[number].clone();
                let content = content(number, datagram.size);
                datagram.drops = Some(socket.drops);
                let train = datagrams.last_mut().filter(|_| has_trains);
                let mut start = train.and_then(|it| join(it, &datagram));
                if start.is_none() && datagrams.len() < max {
                    datagram.start = datagrams.len() * SLOT_SIZE;
                    start = Some(datagram.start);
                    datagrams.push(datagram);
                }
                let Some(start) = start else { break };
                buffers[start..][..content.len()].copy_from_slice(&content);
                received.extend(socket.waiting.pop_front());
            }
            world.note_received(received);
            or_would_block(datagrams.len())
        })
    }

    fn send(&mut self, buffers: &[u8], datagrams: &[Datagram]) -> io::Result<usize> {
        self.call("sendmmsg", |world, id| {
            let kind = |it: &Datagram| (it.peer.is_ipv4(), it.info);
            let are_alike = datagrams.iter().all(|it| kind(it) == kind(&datagrams[0]));
            check!(are_alike, "replies in one call differ in control messages");
            let unresolved = &mut world.sockets[id].unresolved;
            unresolved.retain(|until| *until > world.now);
            let room = CAPACITY.saturating_sub(unresolved.len());
            let max = 1 + world.random.below(datagrams.len() as u64) as usize;
            let count = max.min(room);
            for reply in datagrams[..count].iter().flat_map(Datagram::split) {
                let bytes = reply.bytes(buffers);
                world.note_reply(reply, bytes);
            }
            or_would_block(count)
        })
    }

    fn source_mut(&mut self) -> &mut dyn event::Source {
        self
    }
}
