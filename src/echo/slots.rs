//! The sockets of the engine.

use super::connection::Connection;
use super::udp::DatagramSocket;
use crate::net::System;

pub(super) struct Slot<S: System> {
    pub(super) socket: AnySocket<S>,
    /// Whether the key is on the run queue.
    pub(super) queued: bool,
}

/// A socket of the engine. The few that are not connections are boxed, or their size would be that of
/// every connection.
pub(crate) enum AnySocket<S: System> {
    Connection(Connection<S::Stream>),
    Listener(Box<S::Listener>),
    Udp(Box<DatagramSocket<S::Datagrams>>),
}

impl<S: System> Slot<S> {
    pub(super) fn connection(&self) -> Option<&Connection<S::Stream>> {
        match &self.socket {
            AnySocket::Connection(connection) => Some(connection),
            _ => None,
        }
    }

    pub(super) fn listener_mut(&mut self) -> Option<&mut S::Listener> {
        match &mut self.socket {
            AnySocket::Listener(listener) => Some(listener),
            _ => None,
        }
    }

    pub(super) fn udp_mut(&mut self) -> Option<&mut DatagramSocket<S::Datagrams>> {
        match &mut self.socket {
            AnySocket::Udp(socket) => Some(socket),
            _ => None,
        }
    }
}
