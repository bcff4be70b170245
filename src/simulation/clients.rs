//! Clients with random habits: greedy, pinging, slow, silent, never reading, reading after hours,
//! half-closing, resetting, sending urgent data, churning, over TCP, Unix sockets and UDP.

use super::*;
use crate::net::udp::packet_info::PacketInfo;

drawn! {
    /// A client, with one connection at a time.
    Client(plan: &Plan, number: u64):

    random: Random = Random::new(plan.random.seed ^ ((number + 1) << 32));
    /// The socket of the service that it connects or sends to.
    endpoint: usize = random.pick(&[TCP, TCP, TCP, TCP, UNIX, UNIX, UDP]);
    address: SocketAddr = SocketAddr::new(random.word(SOURCES).parse().unwrap(), 10_000 + number as u16);
    connection: Option<usize> = None;
    connections_left: u64 = 1 + random.magnitude(4);
    max: u64 = 4 * plan.max_capacity.max(plan.config.buffer_size as u64);
    /// Bytes of a connection.
    total: u64 = random.magnitude(max);
    /// The most that it sends or reads at once: not so little that a run does not end.
    max_at_once: u64 = 1 + max / 4_096 + random.magnitude(max);
    /// The longest time between two actions.
    think_time: Micros = random.pick(&[10, 100, 1_000, 50_000, SECOND, 60 * SECOND]);
    /// When it acts next; `NEVER` while it waits for the service.
    next_at: Micros = if plan.max_clients == CLIENTS { 0 } else { random.magnitude(think_time) };
    /// When it begins to read, from the start of the run on.
    reads_at: Micros = random.pick(&[0, 0, 0, 0, 0, random.magnitude(36_000 * SECOND), NEVER]);
    /// 0 if no send is urgent.
    sends_per_urgent: u64 = random.either(4, 1 + random.below(4), 0);
    /// How it ends a connection. It reads on after a half-close.
    ending: &'static str = random.word("closes half-closes resets");
    /// How many bytes come back before it ends the connection; `NEVER` if it does not.
    ends_after: u64 = random.pick(&[total, 0, random.below(total + 1), NEVER]);
}

impl Client {
    pub(super) fn soon(&self, now: Micros) -> Micros {
        now + 1 + self.random.magnitude(self.think_time)
    }

    /// One action. Returns when the next one is.
    pub(super) fn act(&mut self, world: &mut World) -> Micros {
        let Some(id) = self.connection else {
            return self.connect(world);
        };
        // All three are tried.
        if self.read(world, id) | self.send(world, id) | self.end(world, id) {
            return self.soon(world.now);
        }
        let begins_at = Some(self.reads_at).filter(|it| *it > world.now);
        begins_at.unwrap_or(NEVER)
    }

    /// Connects, or sends some datagrams. If the system drops the SYN, the client tries again, if it has
    /// connections left.
    fn connect(&mut self, world: &mut World) -> Micros {
        if self.connections_left == 0 || world.is_calm {
            return NEVER;
        }
        self.connections_left -= 1;
        if self.endpoint == UDP {
            let count = 1 + self.random.magnitude(39);
            (0..count).for_each(|_| world.send_datagram(self.datagram()));
        } else {
            self.connection = world.connect(self);
        }
        self.soon(world.now)
    }

    fn read(&self, world: &mut World, id: usize) -> bool {
        let flow = &mut world.sockets[id].outbound;
        let count = flow.unread().min(1 + self.random.below(self.max_at_once));
        if count == 0 || world.now < self.reads_at {
            return false;
        }
        flow.received += count;
        tell!(world, "client of {id} reads {count}");
        // An event follows if a write waits for room, and there is enough now.
        let socket = &mut world.sockets[id];
        if socket.readiness().writable && mem::take(&mut socket.awaits_room) {
            world.note_change(id);
        }
        true
    }

    fn send(&self, world: &mut World, id: usize) -> bool {
        let socket = &mut world.sockets[id];
        let flow = &mut socket.inbound;
        let max = flow.room().min(self.total - flow.sent);
        let count = max.min(1 + self.random.below(self.max_at_once));
        if count == 0 || world.is_calm || flow.is_ended {
            return false;
        }
        flow.sent += count;
        let is_urgent = socket.address.is_some() && self.random.one_in(self.sends_per_urgent);
        if is_urgent {
            socket.mark.get_or_insert(flow.sent - 1);
        }
        tell!(world, "client of {id} sends {count}, urgent: {is_urgent}");
        world.note_change(id);
        true
    }

    /// Ends the connection, if it is time. Returns whether it did.
    fn end(&mut self, world: &mut World, id: usize) -> bool {
        let socket = &mut world.sockets[id];
        let (inbound, outbound) = (&mut socket.inbound, &socket.outbound);
        if outbound.received < self.ends_after || inbound.is_ended {
            return false;
        }
        // A close with unread bytes is a reset. After one without, the first write leads to a reset.
        socket.is_gone = self.ending == "closes";
        let is_reset = self.ending == "resets" || (socket.is_gone && outbound.unread() > 0);
        inbound.is_ended = !is_reset;
        socket.error = is_reset.then_some("ECONNRESET");
        tell!(world, "client of {id} {}", self.ending);
        world.note_change(id);
        self.connection = self.connection.filter(|_| self.ending == "half-closes");
        true
    }

    /// A datagram, or a train of them. Some have a forged source.
    fn datagram(&self) -> Datagram {
        let random = &self.random;
        let forged = random.word(FORGED).parse().unwrap();
        let size = random.magnitude(65_507) as usize;
        let segment = size.div_ceil(2 + random.below(63) as usize) as u16;
        Datagram {
            start: 0,
            size,
            peer: random.either(4, forged, self.address),
            info: PacketInfo {
                local_ip: random.either(4, Some([127, 0, 0, 1].into()), None),
                ttl: random.pick(&[None, Some(0), Some(1), Some(2), Some(64), Some(255)]),
                multicast: random.one_in(16),
                segment: random.either(2, segment.try_into().ok(), None),
                interface: random.below(2) as u32,
            },
            drops: None,
        }
    }
}

/// Few sources. `10.0.0.4`, `192.0.2.1` and `fd00:0:0:1::1` are outside the allow list.
const SOURCES: &str = "10.0.0.1 10.0.0.2 10.0.0.3 10.0.0.4 192.0.2.1 fd00::1 fd00::2 fd00:0:0:1::1";

/// The sources of forged datagrams: the two services of a run (twice, as they reply), ports of other
/// services, and addresses that are not of one host.
const FORGED: &str = "10.9.0.1:7007 10.9.0.2:7008 10.9.0.1:7007 10.9.0.2:7008 10.0.0.1:0 10.0.0.2:7 \
                      10.0.0.3:1023 10.0.0.1:2049 [fd00::1]:7007 [fd00::2]:7008 224.0.0.1:5000 \
                      255.255.255.255:5000 0.0.0.0:5000";
