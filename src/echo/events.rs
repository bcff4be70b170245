//! What the application learns of connections: a bounded queue of events.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use mio::Token;

use crate::stats::CloseReason;

/// A connection was opened or closed; see [`Echo::connection_events`](crate::Echo::connection_events).
#[derive(Debug)]
#[non_exhaustive]
pub enum ConnectionEvent {
    /// A connection was accepted, or [adopted](crate::Echo::adopt).
    Opened {
        /// Its token. After its end, the next connection can have the same.
        token: Token,
        /// The address of the peer; `None` at a Unix socket.
        peer: Option<SocketAddr>,
    },
    /// A connection was closed.
    Closed {
        /// Its token.
        token: Token,
        /// The address of the peer; `None` at a Unix socket.
        peer: Option<SocketAddr>,
        /// Why it was closed.
        reason: CloseReason,
        /// How many bytes were sent back.
        echoed: u64,
        /// How long it was open, to a millisecond.
        age: Duration,
    },
}

/// The events that the application has not taken yet.
#[derive(Debug)]
pub(super) struct ConnectionEvents {
    queue: VecDeque<ConnectionEvent>,
    capacity: usize,
}

impl ConnectionEvents {
    /// Reserves the memory, so that a later event cannot fail for lack of it.
    pub(super) fn with_capacity(capacity: usize) -> io::Result<Self> {
        let mut queue = VecDeque::new();
        queue.try_reserve_exact(capacity)?;
        Ok(ConnectionEvents { queue, capacity })
    }

    /// Whether the application wants events.
    pub(super) fn is_on(&self) -> bool {
        self.capacity > 0
    }

    /// Returns whether there was room for the event.
    pub(super) fn push(&mut self, event: ConnectionEvent) -> bool {
        let has_room = self.queue.len() < self.capacity;
        if has_room {
            self.queue.push_back(event);
        }
        has_room
    }

    pub(super) fn drain(&mut self) -> impl Iterator<Item = ConnectionEvent> {
        self.queue.drain(..)
    }
}
