//! Listening sockets and their backlogs: what listen(2) and accept(2) say of their calls.

use super::*;
use crate::net::Accept;
use crate::net::stream::Peer as Name;

impl World {
    /// connect(2) of a peer. Returns the connection, or `None` if the system drops the SYN.
    pub(super) fn connect(&mut self, peer: usize) -> Option<usize> {
        let (id, max) = (self.sockets.len(), self.plan.max_capacity);
        let (listener, address) = (self.peers[peer].listener, self.peers[peer].address);
        let socket = &mut self.sockets[listener];
        let is_full = socket.waiting.len() > self.plan.config.backlog as usize;
        if socket.drops_new_syns || is_full {
            return None;
        }
        socket.waiting.push_back(id);
        let (echo, is_unix) = (socket.echo, socket.address.is_none());
        let sizes = [0; 2].map(|_| 1 + self.random.magnitude(max - 1));
        let connection = self.add_socket(echo, Kind::Stream);
        (connection.peer, connection.listener) = (peer, listener);
        connection.address = (!is_unix).then_some(address);
        [connection.receive_buffer, connection.send_buffer] = sizes;
        tell!(self, "peer of {id} connects: {address}");
        self.signal(listener);
        Some(id)
    }

    /// A connection leaves the backlog.
    pub(super) fn take_connection(&mut self, connection: usize) -> (Descriptor, Name) {
        let socket = &mut self.sockets[connection];
        (socket.is_accepted, socket.moved_at) = (true, self.turn_now);
        let unix = Name::Unix(connection as u64);
        (
            Descriptor(connection),
            socket.address.map_or(unix, Name::Tcp),
        )
    }

    /// Whether an echo has room for one more connection.
    pub(super) fn has_place(&self, echo: usize) -> bool {
        self.connections(echo).count() < self.plan.config.max_connections
    }
}

impl Accept for Descriptor {
    type Stream = Descriptor;

    fn accept(&mut self) -> io::Result<(Descriptor, Name)> {
        self.call("accept", |world, id| {
            let listener = &world.sockets[id];
            let backs_off = world.turn_now < world.echoes[listener.echo].backs_off_until;
            let is_early = backs_off && !world.is_shutting_down();
            judge(is_early, listener, "is called during a back-off");
            let is_paused = world.echoes[listener.echo].is_paused;
            judge(is_paused, listener, "is called during a pause");
            let first = listener.waiting.front().copied();
            let connection = first.ok_or("EAGAIN")?;
            world.check_descriptors()?;
            world.sockets[id].waiting.pop_front();
            let lost = world.fail("accept after loss");
            if lost.is_err() {
                world.close(connection);
                lost?;
            }
            Ok(world.take_connection(connection))
        })
    }

    fn is_inherited(&self) -> bool {
        world().plan.is_inherited
    }

    fn drop_new_syns(&self) -> bool {
        let listener = &mut world().sockets[self.0];
        listener.drops_new_syns = listener.address.is_some();
        listener.drops_new_syns
    }

    fn unlink_socket_file(&mut self) {}

    fn source_mut(&mut self) -> &mut dyn event::Source {
        self
    }
}
