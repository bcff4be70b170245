//! The sockets of the endpoints: all that are not connections.

use super::udp::DatagramSocket;
use crate::net::System;

/// The socket of an endpoint.
pub(crate) enum EndpointSocket<S: System> {
    Listener(S::Listener),
    Udp(DatagramSocket<S::Datagrams>),
}

pub(super) struct EndpointEntry<S: System> {
    /// `None` once it is closed. The entry stays, because indices do not change.
    pub(super) socket: Option<EndpointSocket<S>>,
    /// Whether it is to have a turn: its key is on the run queue, or among those that have theirs now.
    pub(super) queued: bool,
}

impl<S: System> EndpointEntry<S> {
    pub(super) fn is_open(&self) -> bool {
        self.socket.is_some()
    }

    pub(super) fn listener_mut(&mut self) -> Option<&mut S::Listener> {
        match &mut self.socket {
            Some(EndpointSocket::Listener(listener)) => Some(listener),
            _ => None,
        }
    }

    pub(super) fn udp_mut(&mut self) -> Option<&mut DatagramSocket<S::Datagrams>> {
        match &mut self.socket {
            Some(EndpointSocket::Udp(socket)) => Some(socket),
            _ => None,
        }
    }
}
