//! Peers with random habits: greedy, pinging, slow, silent, never reading, reading after hours,
//! half-closing, resetting, sending urgent data, churning, over TCP, Unix sockets and UDP.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use nix::libc::ECONNRESET;

use super::connections::Phase;
use super::datagrams::{self, Sent};
use super::plan::{HOUR, MILLISECOND, Micros, Plan, SECOND};
use super::random::Random;
use super::selector::Source;
use super::world::World;
use crate::net::udp::packet_info::PacketInfo;

/// How a stream peer ends a connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Ending {
    /// When everything has come back.
    Close,
    /// When everything is sent: ends its stream, and goes on reading.
    HalfClose,
    /// After so many bytes, with a reset.
    Reset(u64),
    /// After so many bytes, without reading the rest.
    Leave(u64),
    #[default]
    Never,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Peer {
    random: Random,
    /// When it acts next; never, if it waits for the echo.
    pub(super) next_at: Option<Micros>,
    is_udp: bool,
    address: Option<SocketAddr>,
    /// The listener that it connects to.
    backlog: usize,
    pub(super) connection: Option<usize>,
    connections_left: u64,
    /// Bytes of a connection, or datagrams.
    total: u64,
    /// The most that it sends, and reads, at once.
    burst: u64,
    reads: u64,
    reads_from: Micros,
    /// It reads when it has sent everything.
    reads_last: bool,
    /// The longest time between two actions.
    think: Micros,
    /// One in so many bursts is urgent; 0 for none.
    urgent: u64,
    ending: Ending,
}

impl Peer {
    pub(super) fn new(plan: &Plan, number: u64) -> Self {
        let mut random = Random::new(plan.seed ^ ((number + 1) << 32));
        let max = 4 * plan.max_capacity.max(plan.config.buffer_size as u64);
        let is_udp = plan.has_udp && random.one_in(2);
        let total = random.magnitude(if is_udp { 60 } else { max });
        let think = random.pick(&[10, 100, MILLISECOND, 50 * MILLISECOND, SECOND, 60 * SECOND]);
        Peer {
            next_at: Some(random.magnitude(think)),
            is_udp,
            address: Some(source_address(&mut random)),
            backlog: random.below((plan.listeners * plan.echoes) as u64) as usize,
            connection: None,
            connections_left: 1 + random.magnitude(4),
            total,
            burst: 1 + random.magnitude(max),
            reads: if random.one_in(8) {
                0
            } else {
                1 + random.magnitude(max)
            },
            reads_from: if random.one_in(6) {
                random.magnitude(HOUR)
            } else {
                0
            },
            reads_last: random.one_in(8),
            think,
            urgent: if random.one_in(4) {
                1 + random.below(4)
            } else {
                0
            },
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

    /// Sends no more, reads, and closes. `sent` is what it has sent.
    pub(super) fn calm_down(&mut self, now: Micros, sent: u64) {
        self.total = sent;
        self.connections_left = 0;
        (self.reads, self.reads_from, self.reads_last) = (u64::MAX, 0, false);
        self.think = self.think.min(MILLISECOND);
        self.next_at = self.connection.map(|_| now + self.think);
        if self.ending == Ending::Never {
            self.ending = Ending::HalfClose;
        }
    }

    fn soon(&mut self, now: Micros) -> Micros {
        now + 1 + self.random.magnitude(self.think)
    }

    /// The echo has read or written, or has closed the connection.
    pub(super) fn wake(&mut self, now: Micros) {
        let soon = self.soon(now);
        self.next_at = Some(self.next_at.map_or(soon, |at| at.min(soon)));
    }

    fn act(&mut self, world: &mut World, index: usize) {
        self.next_at = match self.connection {
            _ if self.is_udp => self.send_datagrams(world),
            None => self.connect(world, index),
            Some(id) => self.talk(world, id),
        };
    }

    fn connect(&mut self, world: &mut World, index: usize) -> Option<Micros> {
        let backlog = &world.backlogs[self.backlog];
        if self.connections_left == 0 || backlog.is_closed || backlog.drops_new_syns {
            return None;
        }
        self.connections_left -= 1;
        self.connection = world.connect(self.backlog, self.address);
        match self.connection {
            Some(id) => {
                world.connections[id].owner = Some(index);
                Some(self.soon(world.now))
            }
            // The SYN is sent again.
            None => Some(world.now + SECOND),
        }
    }

    fn talk(&mut self, world: &mut World, id: usize) -> Option<Micros> {
        let has_read = self.read(world, id);
        if world.connections[id].phase == Phase::Closed {
            self.connection = None;
            return Some(self.soon(world.now));
        }
        let has_sent = self.send(world, id);
        if self.end(world, id) || has_sent || has_read {
            Some(self.soon(world.now))
        } else {
            (world.now < self.reads_from).then_some(self.reads_from)
        }
    }

    fn read(&mut self, world: &mut World, id: usize) -> bool {
        let connection = &mut world.connections[id];
        let waits = self.reads_last && connection.sent < self.total;
        let waiting = connection.echoed - connection.taken;
        if self.reads == 0 || waits || world.now < self.reads_from || waiting == 0 {
            return false;
        }
        let count = (1 + self.random.below(self.reads)).min(waiting);
        connection.taken += count;
        world.tell(|| format!("peer of connection {id} reads {count}"));
        world.report_room(id);
        true
    }

    fn send(&mut self, world: &mut World, id: usize) -> bool {
        let connection = &mut world.connections[id];
        let room = connection.inbound_capacity - connection.unread();
        let left = self.total - connection.sent;
        let count = (1 + self.random.below(self.burst)).min(room).min(left);
        if count == 0 || connection.has_ended {
            return false;
        }
        connection.sent += count;
        let is_urgent = connection.address.is_some() && self.random.one_in(self.urgent);
        if is_urgent && connection.mark.is_none() {
            connection.mark = Some(connection.sent - 1);
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

    fn send_datagrams(&mut self, world: &mut World) -> Option<Micros> {
        let count = (1 + self.random.magnitude(self.burst.min(40))).min(self.total);
        self.total -= count;
        for _ in 0..count {
            let echo = self.random.below(world.plan.echoes as u64) as usize;
            let datagram = self.datagram(echo, world.plan.echoes);
            world.send_datagram(echo, datagram);
        }
        (self.total > 0).then(|| self.soon(world.now))
    }

    fn datagram(&mut self, echo: usize, echoes: usize) -> Sent {
        let random = &mut self.random;
        let own = self.address.unwrap_or(datagrams::address(echo));
        let from = match random.below(16) {
            0 => SocketAddr::new(own.ip(), random.pick(&[0, 7, 1023, 2049, 7007, 7008])),
            1 => SocketAddr::from((random.pick(&[[224, 0, 0, 1], [255; 4], [0; 4]]), 5000)),
            2 | 3 => datagrams::address((echo + 1) % echoes),
            _ => own,
        };
        let is_local_known = random.one_in(4);
        let info = PacketInfo {
            local_ip: is_local_known.then_some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            interface: 0,
            ttl: random.pick(&[None, Some(0), Some(1), Some(2), Some(64), Some(255)]),
            multicast: random.one_in(16),
        };
        let (size, is_unresolved) = (random.magnitude(65_507) as usize, random.one_in(8));
        Sent {
            from,
            info,
            size,
            hops: 0,
            is_unresolved,
        }
    }
}

/// Few sources, some of them outside the allow list.
fn source_address(random: &mut Random) -> SocketAddr {
    let host = 1 + random.below(4) as u8;
    let ip = match random.below(8) {
        0..=4 => IpAddr::V4(Ipv4Addr::new(10, 0, 0, host)),
        5 => IpAddr::V4(Ipv4Addr::new(192, 0, 2, host)),
        _ => IpAddr::V6(Ipv6Addr::new(
            0xfd00,
            0,
            0,
            u16::from(host) / 3,
            0,
            0,
            0,
            host.into(),
        )),
    };
    SocketAddr::new(ip, 10_000 + random.below(1_000) as u16)
}

impl World {
    /// One action of a peer.
    pub(super) fn act(&mut self, index: usize) {
        let mut peer = std::mem::take(&mut self.peers[index]);
        peer.act(self, index);
        self.peers[index] = peer;
    }
}
