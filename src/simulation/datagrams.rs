//! UDP sockets: what udp(7), recvmmsg(2) and sendmmsg(2) say of their calls.

use super::*;
use crate::net::udp::{BATCH, DatagramIo, POLL_THRESHOLD, SLOT_SIZE};

/// How many datagrams or trains fit into a receive buffer.
const CAPACITY: usize = 40;

impl World {
    /// sendto(2) of a client, or of the other service: of a datagram, or of a train.
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

    /// A reply leaves. Its place in the buffers, size, addresses and control messages have to be those of a
    /// datagram, in the order of its peer's datagrams, and it has to be the only one.
    fn note_reply(&mut self, mut reply: Datagram, first_byte: u8) {
        let unreplied = &mut self.sockets[UDP].activity.unreplied;
        let is_expected = unreplied.contains(&reply) && first_byte == reply.size as u8;
        check!(is_expected, "a reply to {} is not expected", reply.peer);
        // Earlier datagrams of the same peer get no reply any more.
        unreplied.retain(|it| it.start > reply.start || it.peer != reply.peer);
        self.expected.datagrams_sent += 1;
        self.expected.bytes_sent += reply.size as u64;
        // The sender was the other service, or a client with its address: it gets the reply.
        let other = 1 - self.service;
        if reply.peer == address(other) {
            // An unknown TTL counts as 64 in the reply.
            reply.info.ttl = Some(reply.info.ttl.unwrap_or(65).saturating_sub(1));
            reply.peer = address(self.service);
            world_of(other).send_datagram(reply);
        }
    }

    /// Whether a datagram gets a reply, by the rules of [`ReplyFilter`](crate::policy::reply_filter).
    fn is_wanted(&self, datagram: &Datagram) -> bool {
        let (peer, port, info) = (datagram.peer, datagram.peer.port(), datagram.info);
        let is_reserved = port < 1024 || [2049, address(self.service).port()].contains(&port);
        let is_service = port == 0 || (is_reserved && !self.plan.config.udp_answer_any_port);
        let ip = peer.ip();
        let is_unicast = !ip.is_multicast() && !ip.is_unspecified() && ip != IpAddr::from([255; 4]);
        let is_too_far = info.ttl.is_some_and(|ttl| ttl <= 1);
        self.is_allowed(peer) && is_unicast && !is_service && !info.multicast && !is_too_far
    }

    /// Datagrams were received. Some of them get no reply.
    fn note_received(&mut self, received: &[Datagram]) {
        let mut datagrams: Vec<_> = received.iter().flat_map(Datagram::split).collect();
        self.expected.datagrams_received += datagrams.len() as u64;
        self.expected.bytes_received += datagrams.iter().map(|it| it.size as u64).sum::<u64>();
        datagrams.retain(|it| self.is_wanted(it));
        self.expected.receive_buffer_drops = self.sockets[UDP].drops.into();
        self.sockets[UDP].activity.unreplied = datagrams;
    }
}

impl DatagramIo for Descriptor {
    fn receive(&mut self, buffers: &mut [u8], datagrams: &mut Vec<Datagram>) -> io::Result<usize> {
        self.call("recvmmsg", |world, id| {
            let more = world.random.below((BATCH - POLL_THRESHOLD + 1) as u64);
            let socket = &mut world.sockets[id];
            let count = socket.waiting.len().min(POLL_THRESHOLD + more as usize);
            for number in socket.waiting.drain(..count) {
                let mut datagram = world.datagrams[number].clone();
                datagram.start = datagrams.len() * SLOT_SIZE;
                datagram.drops = Some(socket.drops);
                // Of the content only the first byte is compared.
                let parts = datagram.split();
                parts.for_each(|it| buffers[it.start] = it.size as u8);
                datagrams.push(datagram);
            }
            world.note_received(&datagrams[datagrams.len() - count..]);
            or_would_block(count)
        })
    }

    fn send(&mut self, buffers: &[u8], datagrams: &[Datagram]) -> io::Result<usize> {
        self.call("sendmmsg", |world, _| {
            let are_alike = datagrams.iter().all(|it| it.replies_like(&datagrams[0]));
            check!(are_alike, "replies in one call differ in control messages");
            let part = 1 + world.random.below(datagrams.len() as u64) as usize;
            let count = part * usize::from(world.now >= world.full_until);
            // The neighbour does not answer ARP, and the replies to it fill the send buffer for a time.
            if world.happens(world.plan.calls_per_failure) {
                world.full_until = world.now + world.random.magnitude(3 * SECOND);
            }
            for reply in datagrams[..count].iter().flat_map(Datagram::split) {
                let first_byte = buffers[reply.start];
                world.note_reply(reply, first_byte);
            }
            or_would_block(count)
        })
    }

    fn source_mut(&mut self) -> &mut dyn event::Source {
        self
    }
}
