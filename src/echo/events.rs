//! What the application learns of connections.

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
