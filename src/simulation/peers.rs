//! Peers with random habits: greedy, pinging, slow, silent, never reading, reading after hours,
//! half-closing, resetting, sending urgent data, churning, over TCP, Unix sockets and UDP.

use super::*;
use crate::net::udp::packet_info::PacketInfo;

drawn! {
    /// A peer, with one connection at a time.
    Peer(plan: &Plan, number: u64):

    random: Random = Random::new(plan.seed ^ ((number + 1) << 32));
    is_udp: bool = plan.has_udp && random.one_in(2);
    address: SocketAddr = source_address(&random);
    echo: usize = random.below(plan.echoes as u64) as usize;
    /// The listener that it connects to.
    listener: usize = echo * plan.endpoints(echo).len() + random.below(plan.listeners) as usize;
    connection: Option<usize> = None;
    connections_left: u64 = 1 + random.magnitude(4);
    max: u64 = 4 * plan.max_capacity.max(plan.config.buffer_size as u64);
    /// Bytes of a connection, or datagrams.
    total: u64 = random.magnitude(if is_udp { 60 } else { max });
    /// The most that it sends or reads at once.
    max_at_once: u64 = 1 + random.magnitude(max);
    /// The longest time between two actions.
    think_time: Micros = random.pick(&[10, 100, 1_000, 50_000, SECOND, 60 * SECOND]);
    first_at: Micros = random.magnitude(think_time);
    /// When it acts next; `NEVER` while it waits for the echo.
    next_at: Micros = if plan.is_storm { 0 } else { first_at };
    hours: Micros = random.magnitude(HOUR);
    /// When it begins to read.
    reads_at: Micros = random.pick(&[0, 0, 0, 0, 0, hours, NEVER]);
    /// One in so many sends is urgent; 0 for none.
    urgent: u64 = random.either(4, 1 + random.below(4), 0);
    /// How it ends a connection. It reads on after a half-close.
    ending: &'static str = random.pick(&["closes", "half-closes", "resets"]);
    /// How many bytes it sends before it ends the connection; `NEVER` if it does not.
    ends_at: u64 = random.pick(&[total, total, random.below(total + 1), NEVER]);
    /// Before it ends the connection, it waits until everything has come back.
    is_patient: bool = random.one_in(2);
}

impl Peer {
    /// From now on it sends no more, reads, and closes.
    pub(super) fn calm_down(&self, world: &World) -> Self {
        let sent = self.connection.map_or(0, |id| world.sockets[id].sent);
        let mut peer = self.clone();
        (peer.total, peer.connections_left) = (sent, 0);
        (peer.max_at_once, peer.reads_at) = (NEVER, 0);
        peer.ends_at = self.ends_at.min(sent);
        peer.think_time = self.think_time.min(MILLISECOND);
        peer.next_at = self.connection.map_or(NEVER, |_| world.now);
        peer
    }

    fn soon(&self, now: Micros) -> Micros {
        now + 1 + self.random.magnitude(self.think_time)
    }

    /// The echo has read or written, or has closed the connection.
    pub(super) fn wake(&mut self, now: Micros) {
        self.next_at = self.next_at.min(self.soon(now));
    }

    /// One action. Returns when the next one is.
    pub(super) fn act(&mut self, world: &mut World, index: usize) -> Micros {
        if self.is_udp {
            return self.send_datagrams(world);
        }
        let Some(id) = self.connection else {
            return self.connect(world, index);
        };
        let is_closed = world.sockets[id].is_closed;
        let moved = self.read(world, id) + if is_closed { 0 } else { self.send(world, id) };
        if is_closed || self.end(world, id) {
            self.connection = None;
        }
        let is_waiting = moved == 0 && self.connection.is_some();
        let (soon, reads_at) = (self.soon(world.now), Some(self.reads_at));
        let later = reads_at.filter(|at| *at > world.now).unwrap_or(NEVER);
        if is_waiting { later } else { soon }
    }

    fn connect(&mut self, world: &mut World, index: usize) -> Micros {
        if self.connections_left == 0 {
            return NEVER;
        }
        self.connections_left -= 1;
        self.connection = world.connect(index);
        // A SYN that was dropped is sent again.
        let delay = if self.connection.is_some() { 0 } else { SECOND };
        self.soon(world.now + delay)
    }

    fn read(&self, world: &mut World, id: usize) -> u64 {
        let socket = &mut world.sockets[id];
        let available = socket.echoed - socket.taken;
        let count = available.min(1 + self.random.below(self.max_at_once));
        if count == 0 || world.now < self.reads_at {
            return 0;
        }
        socket.taken += count;
        tell!(world, "peer of {id} reads {count}");
        world.report_room(id);
        count
    }

    fn send(&self, world: &mut World, id: usize) -> u64 {
        let socket = &mut world.sockets[id];
        let room = socket.receive_buffer - (socket.sent - socket.received);
        let max = room.min(self.total - socket.sent);
        let count = max.min(1 + self.random.below(self.max_at_once));
        if count == 0 || socket.has_ended {
            return 0;
        }
        socket.sent += count;
        let is_urgent = socket.address.is_some() && self.random.one_in(self.urgent);
        if is_urgent {
            socket.mark.get_or_insert(socket.sent - 1);
        }
        let urgent = if is_urgent { ", urgent" } else { "" };
        tell!(world, "peer of {id} sends {count}{urgent}");
        world.signal(id);
        count
    }

    /// Ends the connection, if it is time. Returns whether the peer is gone.
    fn end(&self, world: &mut World, id: usize) -> bool {
        let socket = &mut world.sockets[id];
        let waits = self.is_patient && socket.taken < socket.sent;
        if waits || socket.sent < self.ends_at || socket.has_ended {
            return false;
        }
        // With unread bytes, a close is a reset, and later each write to the socket leads to one.
        match self.ending {
            "half-closes" => socket.has_ended = true,
            "closes" if socket.echoed == socket.taken => {
                (socket.has_ended, socket.is_gone) = (true, true);
            }
            _ => socket.error = Some("ECONNRESET"),
        }
        tell!(world, "peer of {id} {}", self.ending);
        world.signal(id);
        self.ending != "half-closes"
    }

    fn send_datagrams(&mut self, world: &mut World) -> Micros {
        let max = self.max_at_once.min(40);
        let count = self.total.min(1 + self.random.magnitude(max));
        self.total -= count;
        let echo = self.random.below(world.plan.echoes as u64) as usize;
        let neighbour = address((echo + 1) % world.plan.echoes);
        let mut datagram = self.datagram(neighbour);
        for _ in 0..count {
            // Often the same one again, so that they come as trains.
            datagram = self.random.either(2, self.datagram(neighbour), datagram);
            world.send_datagram(echo, datagram.clone());
        }
        let next_at = self.soon(world.now);
        if self.total > 0 { next_at } else { NEVER }
    }

    /// A datagram. Some have a forged source: the neighbour echo, a service, or many hosts.
    fn datagram(&self, neighbour: SocketAddr) -> Datagram {
        let random = &self.random;
        let service = random.pick(&[0, 7, 1023, 2049, 7007, 7008]);
        let not_host = random.pick(&[[224, 0, 0, 1], [255; 4], [0; 4]]);
        let local_ip = IpAddr::from([127, 0, 0, 1]);
        let peer = match random.below(16) {
            0 => SocketAddr::new(self.address.ip(), service),
            1 => SocketAddr::from((not_host, 5000)),
            2 | 3 => neighbour,
            _ => self.address,
        };
        let info = PacketInfo {
            local_ip: random.either(4, Some(local_ip), None),
            interface: 0,
            ttl: random.pick(&[None, Some(0), Some(1), Some(2), Some(64), Some(255)]),
            multicast: random.one_in(16),
            segment: None,
        };
        let (start, size, drops) = (0, random.magnitude(65_507) as usize, None);
        Datagram {
            start,
            size,
            peer,
            info,
            drops,
        }
    }
}

/// Few sources, some of them outside the allow list.
fn source_address(random: &Random) -> SocketAddr {
    let (host, port) = (1 + random.below(4), 10_000 + random.below(1_000));
    let ip = match random.below(8) {
        0..=4 => format!("10.0.0.{host}"),
        5 => format!("192.0.2.{host}"),
        _ => format!("fd00:0:0:{}::{host}", host / 3),
    };
    SocketAddr::new(ip.parse().unwrap(), port as u16)
}
