//! Listening sockets and their backlogs: what listen(2) and accept(2) say of their calls.

use super::*;
use crate::net::Accept;
use crate::net::stream::Peer;

/// The address of the TCP and UDP sockets of a service.
pub(super) fn address(service: usize) -> SocketAddr {
    SocketAddr::from(([10, 9, 0, 1 + service as u8], 7007 + service as u16))
}

/// The sockets of a service at the start.
pub(super) fn endpoints(service: usize) -> Vec<Socket> {
    let address = Some(address(service));
    let socket = |(id, address)| Socket {
        id,
        is_open: true,
        address,
        // No timeout applies.
        moved_at: NEVER,
        ..Socket::default()
    };
    let all = [(TCP, address), (UNIX, None), (UDP, address)];
    all.map(socket).into()
}

impl World {
    /// A back-off is over. Only the host resumes accepting after a pause.
    pub(super) fn retry_accepting(&mut self) {
        if self.accepts_at < NEVER {
            self.accepts_at = 0;
        }
    }

    /// connect(2) of a client. Returns the connection, or `None` if the system drops the SYN.
    pub(super) fn connect(&mut self, client: &Client) -> Option<usize> {
        let (listener, address) = (client.endpoint, client.address);
        let (id, socket) = (self.sockets.len(), &mut self.sockets[listener]);
        let is_full = socket.waiting.len() > self.plan.config.backlog as usize;
        if !socket.is_open || is_full {
            return None;
        }
        socket.waiting.push_back(id);
        // Clients of a Unix socket have none.
        let address = socket.address.and(Some(address));
        let max = self.plan.max_capacity;
        let flow = || Flow {
            capacity: self.random.magnitude(max).max(1 + max / 256),
            ..Flow::default()
        };
        self.sockets.push(Socket {
            id,
            address,
            inbound: flow(),
            outbound: flow(),
            ..Socket::default()
        });
        tell!(self, "client of {id} connects: {address:?}");
        self.note_change(listener);
        Some(id)
    }

    /// A connection has left the backlog.
    pub(super) fn accepted(&mut self, connection: usize) -> (Descriptor, Peer) {
        let socket = &mut self.sockets[connection];
        (socket.is_open, socket.moved_at) = (true, self.engine_now);
        let unix = Peer::Unix(connection as u64);
        (
            Descriptor(connection),
            socket.address.map_or(unix, Peer::Tcp),
        )
    }
}

impl Accept for Descriptor {
    type Stream = Descriptor;

    fn accept(&mut self) -> io::Result<(Descriptor, Peer)> {
        self.call("accept", |world, id| {
            let may_accept = world.accepts_at <= world.engine_now;
            let listener = &mut world.sockets[id];
            check!(may_accept, "{listener} is called during a pause");
            let connection = listener.waiting.pop_front().ok_or("EAGAIN")?;
            let lost = world.may_fail("accept after loss");
            lost.inspect_err(|_| world.close(connection))?;
            Ok(world.accepted(connection))
        })
    }

    fn is_inherited(&self) -> bool {
        world().plan.is_inherited
    }

    /// A Unix socket has no SYNs. The filter itself is not simulated.
    fn drop_new_syns(&self) -> bool {
        world().sockets[self.0].address.is_some()
    }

    fn unlink_socket_file(&mut self) {}

    fn source_mut(&mut self) -> &mut dyn event::Source {
        self
    }
}
