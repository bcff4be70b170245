//! The datagram sockets' turns.

use std::time::{Duration, Instant};

use log::debug;

use super::{Echo, Slot};
use crate::datagram::Next;

/// After how long to try again when receiving or registering failed: no event announces the end of
/// a shortage.
const RETRY: Duration = Duration::from_millis(100);

impl Echo {
    /// A turn of a datagram socket. Out of the way of connections' turns: each instruction there
    /// is one for every echo.
    #[inline(never)]
    pub(super) fn turn_of_datagrams(&mut self, key: usize, now: Instant) {
        let token = self.token_of(key);
        let Some(socket) = self.slots[key].datagrams() else {
            return;
        };
        let mut next = socket.turn(&mut self.refusals, &mut self.stats, now);
        if let Err(error) = socket.watch(&self.registry, token) {
            debug!("{}: cannot be watched: {error}", socket.endpoint());
            next = Next::Later;
        }
        match next {
            Next::Wait => {}
            Next::Again => self.enqueue(key),
            // Another socket's turn may be due before.
            Next::Later => {
                self.datagrams_at.get_or_insert(now + RETRY);
            }
            Next::Close => self.remove(key),
        }
    }

    /// Gives each datagram socket a turn.
    pub(super) fn retry_datagrams(&mut self) {
        self.datagrams_at = None;
        for key in self.endpoint_keys() {
            if self.slots.get_mut(key).and_then(Slot::datagrams).is_some() {
                self.enqueue(key);
            }
        }
    }
}
