//! The sockets of the engine, and the run queue.

use std::mem;

use super::connection::Connection;
use super::udp::DatagramSocket;
use crate::net::System;

/// Keys of the sockets that have something to do: each at most once, in the order of arrival.
#[derive(Debug, Default)]
pub(super) struct RunQueue {
    pub(super) keys: Vec<usize>,
    /// A queued socket was closed. Its key is still there, and can be that of another one by now.
    pub(super) has_stale_keys: bool,
    /// The keys that have their turns now. Empty between runs; kept for its memory.
    pub(super) batch: Vec<usize>,
}

impl RunQueue {
    /// Takes the keys out. Keys that are queued meanwhile are in the next batch.
    pub(super) fn take_batch(&mut self) -> Vec<usize> {
        mem::replace(&mut self.keys, mem::take(&mut self.batch))
    }
}

pub(super) struct Slot<S: System> {
    pub(super) source: Source<S>,
    /// Whether the key is on the run queue.
    pub(super) queued: bool,
}

/// A socket of the engine. The few that are not connections are boxed, or their size would be that of
/// every connection.
pub(crate) enum Source<S: System> {
    Connection(Connection<S::Stream>),
    Listener(Box<S::Listener>),
    Udp(Box<DatagramSocket<S::Datagrams>>),
}

impl<S: System> Slot<S> {
    pub(super) fn new(source: Source<S>) -> Self {
        Slot {
            source,
            queued: false,
        }
    }

    pub(super) fn connection(&self) -> Option<&Connection<S::Stream>> {
        match &self.source {
            Source::Connection(connection) => Some(connection),
            _ => None,
        }
    }

    pub(super) fn listener_mut(&mut self) -> Option<&mut S::Listener> {
        match &mut self.source {
            Source::Listener(listener) => Some(listener),
            _ => None,
        }
    }

    pub(super) fn udp_mut(&mut self) -> Option<&mut DatagramSocket<S::Datagrams>> {
        match &mut self.source {
            Source::Udp(socket) => Some(socket),
            _ => None,
        }
    }
}
