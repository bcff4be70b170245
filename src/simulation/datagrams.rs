//! UDP sockets, one for each echo: what udp(7), recvmmsg(2) and sendmmsg(2) say of their calls.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};

use mio::event;
use nix::libc::{
    EACCES, EAGAIN, ECONNREFUSED, EHOSTUNREACH, EINTR, EMSGSIZE, ENETUNREACH, ENOBUFS, ENOMEM,
    EPERM,
};

use super::plan::{Micros, Plan, SECOND};
use super::selector::Source;
use super::world::{Activity, World, error, system_call, world_at_drop};
use crate::net::udp::packet_info::PacketInfo;
use crate::net::udp::{BATCH, Datagram, DatagramIo, POLL_THRESHOLD, SLOT_SIZE};

const RECEIVE: &[i32] = &[EINTR, ENOMEM, ECONNREFUSED, EHOSTUNREACH, ENETUNREACH];
const SEND: &[i32] = &[
    EINTR,
    ENOBUFS,
    ENOMEM,
    EACCES,
    EPERM,
    EMSGSIZE,
    EHOSTUNREACH,
    ENETUNREACH,
    ECONNREFUSED,
];

/// How many datagrams fit into a receive buffer, and into a send buffer.
const CAPACITY: usize = 40;

/// A datagram that a peer sent.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    pub(super) from: SocketAddr,
    pub(super) info: PacketInfo,
    pub(super) size: usize,
    /// How often it was sent on by an echo to another one.
    pub(super) hops: u32,
    /// The neighbour does not answer ARP: the reply stays in the send buffer.
    pub(super) is_unresolved: bool,
}

/// The socket of one echo.
#[derive(Debug, Clone, Default)]
struct Queue {
    /// Numbers of datagrams that wait.
    waiting: VecDeque<usize>,
    /// Received, and not answered yet.
    in_turn: VecDeque<usize>,
    /// Until when replies stay in the send buffer.
    unresolved: VecDeque<Micros>,
    drops: u32,
    activity: Activity,
}

#[derive(Debug, Clone)]
pub(super) struct Datagrams {
    pub(super) sent: Vec<Sent>,
    queues: Vec<Queue>,
    pub(super) answered: u64,
}

impl Datagrams {
    pub(super) fn new(plan: &Plan) -> Self {
        let count = if plan.has_udp { plan.echoes } else { 0 };
        Datagrams {
            sent: Vec::new(),
            queues: vec![Queue::default(); count],
            answered: 0,
        }
    }

    pub(super) fn begin_turn(&mut self) {
        self.queues
            .iter_mut()
            .for_each(|it| it.activity.begin_turn());
    }

    pub(super) fn is_readable(&self, echo: usize) -> bool {
        self.queues
            .get(echo)
            .is_some_and(|it| !it.waiting.is_empty())
    }

    pub(super) fn activity(&mut self, echo: usize) -> &mut Activity {
        &mut self.queues[echo].activity
    }

    pub(super) fn next_at(&self) -> Option<Micros> {
        self.queues
            .iter()
            .filter_map(|queue| queue.unresolved.front())
            .min()
            .copied()
    }

    /// Replies to neighbours that did not answer ARP are given up.
    pub(super) fn advance(&mut self, now: Micros) {
        self.queues
            .iter_mut()
            .for_each(|queue| queue.unresolved.retain(|until| *until > now));
    }
}

/// The address of the UDP socket of an echo.
pub(super) fn address(echo: usize) -> SocketAddr {
    SocketAddr::from(([10, 9, 0, 1 + echo as u8], 7007 + echo as u16))
}

impl World {
    /// sendto(2) of a peer.
    pub(super) fn send_datagram(&mut self, echo: usize, datagram: Sent) {
        let number = self.datagrams.sent.len();
        self.tell(|| format!("datagram {number} to echo {echo}: {datagram:?}"));
        self.datagrams.sent.push(datagram);
        let queue = &mut self.datagrams.queues[echo];
        if queue.waiting.len() == CAPACITY {
            queue.drops += 1;
            return;
        }
        queue.waiting.push_back(number);
        self.signal(Source::Datagrams(echo));
    }

    fn receive_datagrams(&mut self, echo: usize, buffers: &mut [u8]) -> io::Result<Vec<Datagram>> {
        let asked = POLL_THRESHOLD as u64 + self.random.below((BATCH - POLL_THRESHOLD + 1) as u64);
        let Datagrams { sent, queues, .. } = &mut self.datagrams;
        let queue = &mut queues[echo];
        let count = queue.waiting.len().min(asked as usize);
        if count == 0 {
            return error(EAGAIN);
        }
        queue.activity.has_progress = true;
        queue.in_turn = queue.waiting.drain(..count).collect();
        let mut datagram = |(slot, &number): (usize, &usize)| {
            let Sent {
                from, info, size, ..
            } = sent[number];
            let start = &mut buffers[slot * SLOT_SIZE..][..size.min(8)];
            start.copy_from_slice(&number.to_le_bytes()[..start.len()]);
            Datagram {
                slot,
                size,
                peer: from,
                info,
                drops: Some(queue.drops),
            }
        };
        Ok(queue
            .in_turn
            .iter()
            .enumerate()
            .map(&mut datagram)
            .collect())
    }

    fn send_datagrams(
        &mut self,
        echo: usize,
        buffers: &[u8],
        all: &[Datagram],
    ) -> io::Result<usize> {
        if !all.iter().all(|it| it.replies_like(&all[0])) {
            self.fail("replies in one call have different control messages".to_owned());
        }
        let max = 1 + self.random.below(all.len() as u64) as usize;
        for (count, datagram) in all[..max].iter().enumerate() {
            if self.datagrams.queues[echo].unresolved.len() == CAPACITY {
                return if count == 0 { error(EAGAIN) } else { Ok(count) };
            }
            self.answer(echo, datagram, datagram.bytes(buffers));
        }
        Ok(max)
    }

    /// A reply leaves: in the order of its peer's datagrams, unchanged, and once.
    fn answer(&mut self, echo: usize, reply: &Datagram, bytes: &[u8]) {
        let Datagrams {
            sent,
            queues,
            answered,
        } = &mut self.datagrams;
        let queue = &mut queues[echo];
        let is_it = |number: &usize| {
            let (it, start) = (&sent[*number], &bytes[..bytes.len().min(8)]);
            let is_same = it.from == reply.peer && it.size == reply.size && it.info == reply.info;
            is_same && start == &number.to_le_bytes()[..start.len()]
        };
        let Some(index) = queue.in_turn.iter().position(is_it) else {
            return self.fail(format!("a reply to {} that did not ask", reply.peer));
        };
        let it = sent[queue.in_turn[index]].clone();
        // What is before it of the same peer cannot be answered any more.
        let behind = queue.in_turn.split_off(index + 1);
        queue.in_turn.retain(|&other| sent[other].from != it.from);
        queue.in_turn.extend(behind);
        *answered += 1;
        if it.is_unresolved {
            queue.unresolved.push_back(self.now + 3 * SECOND);
        }
        if let Some(reason) = self.forbids_reply(echo, &it) {
            self.fail(format!("a reply to {}, which {reason}", it.from));
        }
        self.forward(echo, &it);
    }

    /// The reply reaches an echo, if the sender's address was forged.
    fn forward(&mut self, echo: usize, it: &Sent) {
        let Some(other) = (0..self.plan.echoes).find(|&other| address(other) == it.from) else {
            return;
        };
        if it.hops > 255 {
            return self.fail("two echoes answer each other without end".to_owned());
        }
        // Where the TTL was not known, the reply leaves with the system's.
        let ttl = Some(it.info.ttl.map_or(64, |ttl| ttl.saturating_sub(1)));
        let mut next = it.clone();
        (next.from, next.info.ttl, next.hops) = (address(echo), ttl, it.hops + 1);
        self.send_datagram(other, next);
    }

    /// Why no datagram of this kind may be answered.
    fn forbids_reply(&self, echo: usize, it: &Sent) -> Option<&'static str> {
        let port = it.from.port();
        let is_reserved = port < 1024 || port == 2049 || port == address(echo).port();
        let is_host = match it.from.ip() {
            IpAddr::V4(ip) => !(ip.is_multicast() || ip.is_broadcast() || ip.is_unspecified()),
            IpAddr::V6(_) => true,
        };
        match it.info.ttl {
            _ if !self.is_allowed(it.from) => Some("is not in the allow list"),
            _ if !is_host => Some("is not one host"),
            _ if it.info.multicast => Some("asked many"),
            Some(..=1) => Some("is too far away"),
            _ if port == 0 => Some("has no port"),
            _ if is_reserved && !self.plan.config.udp_answer_any_port => {
                Some("has a reserved port")
            }
            _ => None,
        }
    }
}

/// The UDP socket of an echo.
#[derive(Debug)]
pub(super) struct UdpSocket {
    echo: usize,
    source: Source,
}

impl UdpSocket {
    pub(super) fn new(echo: usize) -> Self {
        let source = Source::Datagrams(echo);
        UdpSocket { echo, source }
    }
}

impl DatagramIo for UdpSocket {
    fn receive(&mut self, buffers: &mut [u8], datagrams: &mut Vec<Datagram>) -> io::Result<usize> {
        let received = system_call(self.source, "recvmmsg", RECEIVE, |world| {
            let received = world.receive_datagrams(self.echo, buffers)?;
            datagrams.extend(received.iter().cloned());
            Ok(received.len())
        });
        let errno = received.as_ref().err().and_then(io::Error::raw_os_error);
        // An ICMP message that arrived, and is taken now.
        let is_taken = errno.is_some_and(|it| ![EINTR, ENOMEM, EAGAIN].contains(&it));
        super::world::world(|world| world.activity(self.source).has_progress |= is_taken);
        received
    }

    fn send(&mut self, buffers: &[u8], datagrams: &[Datagram]) -> io::Result<usize> {
        system_call(self.source, "sendmmsg", SEND, |world| {
            world.send_datagrams(self.echo, buffers, datagrams)
        })
    }

    fn source_mut(&mut self) -> &mut dyn event::Source {
        &mut self.source
    }
}

/// close(2).
impl Drop for UdpSocket {
    fn drop(&mut self) {
        world_at_drop(|world| world.selectors.deregister(self.source));
    }
}
