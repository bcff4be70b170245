//! Listening sockets and their backlogs: what listen(2) and accept(2) say of their calls.

use super::*;
use crate::net::Accept;
use crate::net::endpoint::Endpoint;
use crate::net::stream::Peer;

/// Each service has two listeners, of TCP and of a Unix socket, and a UDP socket. A run has some of them.
pub(super) const SOCKETS: usize = 3;

/// The address of the TCP and UDP sockets of a service.
pub(super) fn address(service: usize) -> SocketAddr {
    SocketAddr::from(([10, 9, 0, 1 + service as u8], 7007 + service as u16))
}

impl Service {
    /// A back-off is over. Only the host resumes accepting after a pause.
    pub(super) fn retry_accepting(&mut self) {
        if self.accepts_at < NEVER {
            self.accepts_at = 0;
        }
    }
}

impl World {
    /// A service, with the sockets that it has from the start.
    pub(super) fn add_service(&mut self, service: usize) {
        self.services.push(Service::default());
        let (address, path) = (address(service), format!("/echo/{service}").into());
        for (kind, endpoint, is_open) in [
            (Kind::Listener, Endpoint::Tcp(address), true),
            (Kind::Listener, Endpoint::Unix(path), self.plan.has_unix),
            (Kind::Udp, Endpoint::Udp(address), self.plan.has_udp),
        ] {
            let state = if is_open { State::Open } else { State::Waiting };
            let (id, address) = (self.sockets.len(), endpoint.address());
            self.sockets.push(Socket {
                id,
                kind,
                state,
                listener: id,
                endpoint: Some(endpoint),
                address,
                moved_at: NEVER,
                ..Socket::default()
            });
        }
    }

    /// All open sockets of a service.
    pub(super) fn open(&self, service: usize) -> impl Iterator<Item = &Socket> {
        let open = self.sockets.iter().filter(|it| it.state == State::Open);
        open.filter(move |it| it.service() == service)
    }

    /// Its open connections.
    pub(super) fn connections(&self, service: usize) -> impl Iterator<Item = &Socket> {
        self.open(service).filter(|it| it.kind == Kind::Stream)
    }

    pub(super) fn listeners(&mut self, service: usize) -> impl Iterator<Item = &mut Socket> {
        self.sockets[service * SOCKETS..][..2].iter_mut()
    }

    /// connect(2) of a client. Returns the connection, or `None` if the system drops the SYN.
    pub(super) fn connect(&mut self, client: usize) -> Option<usize> {
        let (listener, address) = (self.clients[client].listener, self.clients[client].address);
        let (id, socket) = (self.sockets.len(), &mut self.sockets[listener]);
        let is_full = socket.waiting.len() > self.plan.config.backlog as usize;
        if socket.state == State::Closed || socket.drops_new_syns || is_full {
            return None;
        }
        socket.waiting.push_back(id);
        let address = socket.address.and(Some(address));
        let buffer = || 1 + self.random.magnitude(self.plan.max_capacity - 1);
        let mut connection = Socket {
            id,
            listener,
            address,
            client,
            moved_at: self.now,
            ..Socket::default()
        };
        connection.inbound.capacity = buffer();
        connection.outbound.capacity = buffer();
        self.sockets.push(connection);
        tell!(self, "client of {id} connects: {address:?}");
        self.signal(listener);
        Some(id)
    }

    /// A connection leaves the backlog.
    fn take_connection(&mut self, connection: usize) -> (Descriptor, Peer) {
        let socket = &mut self.sockets[connection];
        (socket.state, socket.moved_at) = (State::Open, self.engine_now);
        let unix = Peer::Unix(connection as u64);
        let peer = socket.address.map_or(unix, Peer::Tcp);
        (Descriptor(connection), peer)
    }

    /// accept(2) by the host.
    pub(super) fn take_first(&mut self, service: usize) -> Option<(Descriptor, Peer)> {
        let first = self
            .listeners(service)
            .find_map(|it| it.waiting.pop_front());
        first.map(|connection| self.take_connection(connection))
    }

    /// Whether a service has room for one more connection.
    pub(super) fn has_place(&self, service: usize) -> bool {
        self.connections(service).count() < self.plan.config.max_connections
    }
}

impl Accept for Descriptor {
    type Stream = Descriptor;

    fn accept(&mut self) -> io::Result<(Descriptor, Peer)> {
        self.call("accept", |world, id| {
            let listener = &world.sockets[id];
            let accepts_at = world.services[listener.service()].accepts_at;
            let is_early = world.engine_now < accepts_at && !world.is_shutting_down();
            judge(is_early, listener, "is called during a pause");
            let connection = world.sockets[id].waiting.pop_front().ok_or("EAGAIN")?;
            let lost = world.fail("accept after loss");
            if lost.is_err() {
                world.close(connection);
            }
            lost.map(|()| world.take_connection(connection))
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
