//! The sockets of the engine, and the run queue.

use std::mem;
use std::ops::Range;

use slab::Slab;

use super::connection::Connection;
use super::udp::DatagramSocket;
use crate::net::System;

/// Keys of the sockets that have something to do: each at most once, in the order of arrival.
#[derive(Debug, Default)]
pub(super) struct RunQueue {
    /// The keys of the next batch.
    keys: Vec<usize>,
    /// The keys that have their turns now.
    batch: Vec<usize>,
    /// How many keys of the batch have had their turn.
    done: usize,
    /// A queued socket was closed. Its key is still there, and can be that of another one by now.
    pub(super) has_stale_keys: bool,
}

impl RunQueue {
    #[inline]
    pub(super) fn push(&mut self, key: usize) {
        self.keys.push(key);
    }

    pub(super) fn len(&self) -> usize {
        self.keys.len() + self.batch.len() - self.done
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes the batch out, and says which of its keys have their turns: the next ones, `max` at most.
    /// A key that is queued meanwhile is in the next batch.
    pub(super) fn take_batch(&mut self, max: usize) -> (Vec<usize>, Range<usize>) {
        if self.done == self.batch.len() {
            self.batch.clear();
            mem::swap(&mut self.keys, &mut self.batch);
            self.done = 0;
        }
        let first = self.done;
        self.done = self.batch.len().min(first.saturating_add(max));
        (mem::take(&mut self.batch), first..self.done)
    }

    /// Puts the batch back, for its remaining keys and its memory.
    pub(super) fn put_back(&mut self, batch: Vec<usize>) {
        self.batch = batch;
    }

    /// Keeps each queued socket once, at its first place. With two keys, a connection that always has
    /// more to do would have two turns in each batch.
    #[cold]
    pub(super) fn remove_stale_keys<S: System>(&mut self, slots: &mut Slab<Slot<S>>) {
        self.batch.drain(..mem::take(&mut self.done));
        for keys in [&mut self.batch, &mut self.keys] {
            keys.retain(|&key| {
                let slot = slots.get_mut(key);
                slot.is_some_and(|slot| mem::take(&mut slot.queued))
            });
        }
        for &key in self.batch.iter().chain(&self.keys) {
            slots[key].queued = true;
        }
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
