//! Peers with random habits: greedy, pinging, slow, silent, never reading, reading after hours,
//! half-closing, resetting, sending urgent data, churning, over TCP, Unix sockets and UDP.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::connections::Phase;
use super::datagrams::{self, SentDatagram};
use super::errors::ECONNRESET;
use super::plan::{HOUR, MILLISECOND, Micros, NEVER, Plan, SECOND};
use super::random::Random;
use super::sockets::Source;
use super::world::World;
use crate::net::udp::packet_info::PacketInfo;

/// How a peer ends a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// When everything has come back.
    Close,
    /// When everything is sent: ends its stream, and goes on reading.
    HalfClose,
    /// After so many bytes, with a reset.
    Reset(u64),
    /// After so many bytes, without reading the rest.
    Leave(u64),
    Never,
}

#[derive(Debug, Clone)]
pub(super) struct Peer {
    random: Random,
    /// When it acts next; `NEVER` while it waits for the echo.
    pub(super) next_at: Micros,
    is_udp: bool,
    address: SocketAddr,
    /// The listener that it connects to.
    backlog: usize,
    pub(super) connection: Option<usize>,
    connections_left: u64,
    /// Bytes of a connection, or datagrams.
    total: u64,
    /// The most that it sends at once.
    max_send: u64,
    /// The most that it reads at once; 0 if it never reads.
    max_read: u64,
    reads_from: Micros,
    /// It reads when it has sent everything.
    reads_last: bool,
    /// The longest time between two actions.
    think_time: Micros,
    /// One in so many sends is urgent; 0 for none.
    urgent: u64,
    ending: Ending,
}

impl Peer {
    pub(super) fn new(plan: &Plan, number: u64) -> Self {
        let random = Random::new(plan.seed ^ ((number + 1) << 32));
        let max = 4 * plan.max_capacity.max(plan.config.buffer_size as u64);
        let is_udp = plan.has_udp && random.one_in(2);
        let total = random.magnitude(if is_udp { 60 } else { max });
        let think_times = [10, 100, MILLISECOND, 50 * MILLISECOND, SECOND, 60 * SECOND];
        let think_time = random.pick(&think_times);
        Peer {
            next_at: random.magnitude(think_time),
            is_udp,
            address: source_address(&random),
            backlog: random.below((plan.listeners * plan.echoes) as u64) as usize,
            connection: None,
            connections_left: 1 + random.magnitude(4),
            total,
            max_send: 1 + random.magnitude(max),
            max_read: random.either(8, 0, 1 + random.magnitude(max)),
            reads_from: random.either(6, random.magnitude(HOUR), 0),
            reads_last: random.one_in(8),
            think_time,
            urgent: random.either(4, 1 + random.below(4), 0),
            ending: match random.below(8) {
                0..=2 => Ending::Close,
                3 | 4 => Ending::HalfClose,
                5 => Ending::Reset(random.below(total + 1)),
                6 => Ending::Leave(random.below(total + 1)),
                _ => Ending::Never,
            },
            random,
        }
    }

    /// From now on it sends no more than the `sent` bytes, reads, and closes.
    pub(super) fn calm_down(&mut self, now: Micros, sent: u64) {
        self.total = sent;
        self.connections_left = 0;
        (self.max_read, self.reads_from, self.reads_last) = (u64::MAX, 0, false);
        self.think_time = self.think_time.min(MILLISECOND);
        self.next_at = self.connection.map_or(NEVER, |_| now + self.think_time);
        if self.ending == Ending::Never {
            self.ending = Ending::HalfClose;
        }
    }

    fn soon(&self, now: Micros) -> Micros {
        now + 1 + self.random.magnitude(self.think_time)
    }

    /// The echo has read or written, or has closed the connection.
    pub(super) fn wake(&mut self, now: Micros) {
        self.next_at = self.next_at.min(self.soon(now));
    }

    fn connect(&mut self, world: &mut World, index: usize) -> Micros {
        if self.connections_left == 0 || world.backlogs[self.backlog].drops_new_syns {
            return NEVER;
        }
        self.connections_left -= 1;
        self.connection = world.connect(self.backlog, self.address);
        let Some(id) = self.connection else {
            // The SYN is sent again.
            return world.now + SECOND;
        };
        world.connections[id].owner = Some(index);
        self.soon(world.now)
    }

    fn use_connection(&mut self, world: &mut World, id: usize) -> Micros {
        let has_read = self.read(world, id);
        if world.connections[id].phase == Phase::Closed {
            self.connection = None;
            return self.soon(world.now);
        }
        let has_sent = self.send(world, id);
        if self.end(world, id) || has_sent || has_read {
            self.soon(world.now)
        } else if world.now < self.reads_from {
            self.reads_from
        } else {
            NEVER
        }
    }

    fn read(&self, world: &mut World, id: usize) -> bool {
        let connection = &mut world.connections[id];
        let available = connection.echoed - connection.taken;
        let is_sending = self.reads_last && connection.sent < self.total;
        if self.max_read == 0 || is_sending || world.now < self.reads_from || available == 0 {
            return false;
        }
        let count = (1 + self.random.below(self.max_read)).min(available);
        connection.taken += count;
        world.tell(|| format!("peer of connection {id} reads {count}"));
        world.report_room(id);
        true
    }

    fn send(&self, world: &mut World, id: usize) -> bool {
        let connection = &mut world.connections[id];
        let room = connection.inbound_capacity - connection.unread();
        let left = self.total - connection.sent;
        let count = (1 + self.random.below(self.max_send)).min(room).min(left);
        if count == 0 || connection.has_ended {
            return false;
        }
        connection.sent += count;
        let is_urgent = connection.address.is_some() && self.random.one_in(self.urgent);
        if is_urgent {
            connection.mark.get_or_insert(connection.sent - 1);
        }
        let urgent = if is_urgent { ", urgent" } else { "" };
        world.tell(|| format!("peer of connection {id} sends {count}{urgent}"));
        world.signal(Source::Connection(id));
        true
    }

    fn end(&mut self, world: &mut World, id: usize) -> bool {
        let connection = &mut world.connections[id];
        let (sent, taken) = (connection.sent, connection.taken);
        let is_due = match self.ending {
            Ending::Close => taken == self.total,
            Ending::HalfClose => sent == self.total && !connection.has_ended,
            Ending::Reset(at) | Ending::Leave(at) => sent >= at,
            Ending::Never => false,
        };
        if !is_due {
            return false;
        }
        match self.ending {
            Ending::HalfClose => connection.has_ended = true,
            Ending::Reset(_) => connection.error = Some(ECONNRESET),
            // A close with unread bytes is a reset.
            _ if connection.echoed > taken => connection.error = Some(ECONNRESET),
            _ => (connection.has_ended, connection.is_gone) = (true, true),
        }
        if self.ending != Ending::HalfClose {
            self.connection = None;
        }
        world.tell(|| format!("peer of connection {id}: {:?}", self.ending));
        world.signal(Source::Connection(id));
        true
    }

    fn send_datagrams(&mut self, world: &mut World) -> Micros {
        let count = (1 + self.random.magnitude(self.max_send.min(40))).min(self.total);
        self.total -= count;
        for _ in 0..count {
            let echo = self.random.below(world.plan.echoes as u64) as usize;
            world.send_datagram(echo, self.datagram((echo + 1) % world.plan.echoes));
        }
        let next = self.soon(world.now);
        if self.total > 0 { next } else { NEVER }
    }

    /// A datagram. Some have a forged source: the neighbour echo, a service, or many hosts.
    fn datagram(&self, neighbour: usize) -> SentDatagram {
        let random = &self.random;
        let port = random.pick(&[0, 7, 1023, 2049, 7007, 7008]);
        let not_host = random.pick(&[[224, 0, 0, 1], [255; 4], [0; 4]]);
        SentDatagram {
            from: match random.below(16) {
                0 => SocketAddr::new(self.address.ip(), port),
                1 => SocketAddr::from((not_host, 5000)),
                2 | 3 => datagrams::address(neighbour),
                _ => self.address,
            },
            info: PacketInfo {
                local_ip: random.either(4, Some(IpAddr::V4(Ipv4Addr::LOCALHOST)), None),
                interface: 0,
                ttl: random.pick(&[None, Some(0), Some(1), Some(2), Some(64), Some(255)]),
                multicast: random.one_in(16),
            },
            size: random.magnitude(65_507) as usize,
            hops: 0,
            is_unresolved: random.one_in(8),
        }
    }
}

/// Few sources, some of them outside the allow list.
fn source_address(random: &Random) -> SocketAddr {
    let host = 1 + random.below(4);
    let ip = match random.below(8) {
        0..=4 => format!("10.0.0.{host}"),
        5 => format!("192.0.2.{host}"),
        _ => format!("fd00:0:0:{}::{host}", host / 3),
    };
    SocketAddr::new(ip.parse().unwrap(), 10_000 + random.below(1_000) as u16)
}

impl World {
    /// One action of a peer.
    pub(super) fn act(&mut self, index: usize) {
        let mut peer = self.peers[index].clone();
        peer.next_at = match peer.connection {
            _ if peer.is_udp => peer.send_datagrams(self),
            None => peer.connect(self, index),
            Some(id) => peer.use_connection(self, id),
        };
        self.peers[index] = peer;
    }
}
