//! Accepting: how many at once, when not, and when again.

use std::io;
use std::time::Instant;

use log::{debug, warn};

use super::{Echo, Slot, Source};
use crate::echo::connection::Connection;
use crate::echo::timers::Timeout;
use crate::net;
use crate::net::listener::Accepted;
use crate::net::stream::{Peer, StreamSocket};

/// How many connections a listener accepts in a turn, before others have theirs.
const ACCEPTS_A_TURN: usize = 32;

impl Echo {
    /// A turn of a listener.
    pub(super) fn accept_some(&mut self, key: usize, now: Instant) {
        self.accept(key, now, ACCEPTS_A_TURN);
    }

    /// Accepts until nobody waits, the budget is spent, or there is no room.
    pub(super) fn accept(&mut self, key: usize, now: Instant, budget: usize) {
        let mut has_peers = false;
        let mut lost = None;
        for _ in 0..budget {
            if !self.gate.is_open() {
                return;
            }
            if self.stats.active >= self.config.max_connections {
                return self.pause_when_full(now);
            }
            let Some(listener) = self.slots[key].listener() else {
                return;
            };
            match listener.accept() {
                Accepted::Connection(stream, peer) => {
                    has_peers = true;
                    if let Err(error) = self.admit(stream, peer, now) {
                        self.count_lost(&error);
                        return self.pause_for_want(&error, now);
                    }
                }
                Accepted::Nobody => return,
                Accepted::Lost(error) => {
                    self.count_lost(&error);
                    lost = Some(error);
                }
                Accepted::Shortage(error) => return self.pause_for_want(&error, now),
            }
        }
        match lost {
            // Nothing but errors: they may go on for ever, which is not to be spun on.
            Some(error) if !has_peers => self.pause_for_want(&error, now),
            _ => self.enqueue(key),
        }
    }

    /// Takes a connection in, or refuses it.
    pub(super) fn admit(
        &mut self,
        stream: StreamSocket,
        peer: Peer,
        now: Instant,
    ) -> io::Result<()> {
        if let Err(denial) = self.admission.enter(peer) {
            self.admission.note(denial, peer, &mut self.stats, now);
            stream.reset();
            return Ok(());
        }
        let opened = self.open(stream, peer, now);
        if opened.is_err() {
            self.admission.leave(peer);
        }
        opened
    }

    /// Takes a connection in. Fails where there is no memory for it, or no room in the selector.
    fn open(&mut self, mut stream: StreamSocket, peer: Peer, now: Instant) -> io::Result<()> {
        self.reserve_slot()?;
        let key = self.slots.vacant_key();
        let token = self.token_of(key);
        self.registry
            .register(&mut stream, token, net::interest())?;
        let connection = Connection::new(stream, peer, now, self.timers.now());
        self.slots.insert(Slot::new(Source::Connection(connection)));
        self.schedule(key, Timeout::Idle);
        self.stats.count_opened();
        debug!("{peer}: opened as {token:?}");
        Ok(())
    }

    /// Makes sure that the slab can grow. Its own way to grow ends the process where there is no
    /// memory; so the allocator is asked first, and a shortage pauses accepting like any other.
    fn reserve_slot(&self) -> io::Result<()> {
        if self.slots.len() < self.slots.capacity() {
            return Ok(());
        }
        let doubled = (2 * self.slots.capacity()).max(4);
        Vec::<Slot>::new().try_reserve_exact(doubled)?;
        Ok(())
    }

    fn count_lost(&mut self, error: &io::Error) {
        self.stats.accept_errors += 1;
        debug!("a connection was lost before it was accepted: {error}");
    }

    fn pause_when_full(&mut self, now: Instant) {
        self.stats.accept_pauses += 1;
        if self.gate.close_when_full(now) && self.is_serving() {
            warn!(
                "at the limit of {} connections: others wait until one of them ends",
                self.config.max_connections
            );
        }
    }

    fn pause_for_want(&mut self, error: &io::Error, now: Instant) {
        self.stats.accept_pauses += 1;
        if self.gate.close_for_a_while(now) {
            warn!(
                "cannot accept ({error}): connections wait until one of the {} ends, or more can \
                 be had; raise the limit on open files if this happens often",
                self.stats.active
            );
        }
    }

    /// Accepts again. Each listener has a turn, because what came meanwhile is not announced; and
    /// another one goes first each time, because there may be room for one connection only.
    pub(super) fn reopen(&mut self, now: Instant) {
        self.gate.reopen(now);
        if !self.listeners.is_empty() {
            self.listeners.rotate_left(1);
        }
        for index in 0..self.listeners.len() {
            self.enqueue(self.listeners[index]);
        }
    }
}
