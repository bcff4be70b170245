//! The sockets of the endpoints: all that are not connections.

use super::udp::DatagramSocket;
use crate::net::System;

pub(crate) enum EndpointSocket<S: System> {
    Listener(S::Listener),
    Udp(DatagramSocket<S::Datagrams>),
}

pub(super) struct EndpointSlot<S: System> {
    /// `None` once it is closed.
    pub(super) socket: Option<EndpointSocket<S>>,
    /// Whether the key is on the run queue.
    pub(super) queued: bool,
}

impl<S: System> EndpointSlot<S> {
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
