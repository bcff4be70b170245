//! A selector with edge-triggered events, as epoll(7) describes it, and the clock.
//!
//! A change of a socket is noted once, until an event reports it. The event says what holds when it is
//! reported, so changes are merged. The seed delays and reorders events, and adds some without a cause
//! and some of sockets that were closed.

use std::io;
use std::mem;
use std::time::{Duration, Instant};

use mio::Token;

use super::errors::EINTR;
use super::plan::{MILLISECOND, Micros, NEVER};
use super::sockets::Source;
use super::world::{World, error, world};
use crate::net::{self, Readiness};
use crate::server::WAKER;

const ALL: Readiness = Readiness {
    readable: true,
    writable: true,
    read_until_would_block: true,
};

const READABLE: Readiness = Readiness {
    readable: true,
    writable: false,
    read_until_would_block: false,
};

#[derive(Debug, Clone)]
pub(super) struct Event(Token, Readiness);

impl From<&Event> for Readiness {
    fn from(event: &Event) -> Self {
        event.1
    }
}

/// The selector of one echo.
#[derive(Debug)]
pub(super) struct Selector {
    pub(super) echo: usize,
    pub(super) events: Vec<Event>,
}

impl net::Selector for Selector {
    type Event = Event;

    fn select(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.events.clear();
        world(|world| {
            // mio rounds up to milliseconds.
            let millis = timeout.map(|it| it.as_micros().div_ceil(1000) as Micros);
            let wakes_at = millis.map_or(NEVER, |millis| world.now + millis * MILLISECOND);
            let slept = world.sleep(&[(self.echo, wakes_at)]);
            world.now += 1;
            world.begin_turn();
            world.had_events = true;
            slept?;
            self.events = world.collect(self.echo);
            world.had_events = !self.events.is_empty();
            for Event(token, readiness) in &self.events {
                world.tell(|| format!("event of {}: {readiness}", token.0));
            }
            Ok(())
        })
    }

    fn events(&self) -> impl Iterator<Item = &Event> {
        self.events.iter()
    }

    fn token(event: &Event) -> Token {
        event.0
    }

    fn capacity(&self) -> usize {
        world(|world| world.plan.max_events)
    }

    fn now(&self) -> Instant {
        world(|world| world.instant())
    }
}

impl World {
    fn readiness(&self, source: Source) -> Option<Readiness> {
        let is_readable = match source {
            Source::Connection(id) => return self.connections[id].readiness(),
            Source::Listener(id) => !self.backlogs[id].waiting.is_empty(),
            Source::Udp(echo) => !self.echoes[echo].udp.waiting.is_empty(),
        };
        is_readable.then_some(READABLE)
    }

    /// Whether the descriptor of the selector is readable.
    pub(super) fn has_events(&self, echo: usize) -> bool {
        let mut sockets = self.sockets(echo);
        let has_event = |(source, _)| self.readiness(source).is_some();
        self.echoes[echo].is_woken || sockets.any(|it| it.1.is_due(self.now) && has_event(it))
    }

    /// Takes events, in any order.
    fn collect(&mut self, echo: usize) -> Vec<Event> {
        let sockets = self.sockets(echo).filter(|(_, it)| it.token.is_some());
        let mut sources: Vec<Source> = sockets.map(|(source, _)| source).collect();
        for index in 0..sources.len() {
            sources.swap(index, self.random.below(index as u64 + 1) as usize);
        }
        let mut events = Vec::new();
        for source in sources {
            if events.len() < self.plan.max_events {
                events.extend(self.event(source));
            }
        }
        if mem::take(&mut self.echoes[echo].is_woken) {
            events.push(Event(WAKER, ALL));
        }
        if self.has_trouble(4) {
            events.extend(self.stale_event(echo));
        }
        events
    }

    /// The event of a socket that has changed, and sometimes of another one.
    fn event(&mut self, source: Source) -> Option<Event> {
        let is_spurious = self.has_trouble(8);
        let now = self.now;
        let socket = self.socket_mut(source);
        if socket.is_due(now) {
            socket.changed_at = None;
        } else if !is_spurious {
            return None;
        }
        let readiness = self.readiness(source)?;
        // While bytes are pending, only room gives a connection something to do.
        let needs_room =
            matches!(source, Source::Connection(id) if self.connections[id].is_blocked);
        let socket = self.socket_mut(source);
        socket.in_turn.had_event = readiness.writable || !needs_room;
        Some(Event(socket.token?, readiness))
    }

    /// The event of a socket that was closed. Another one may have its token by now.
    fn stale_event(&mut self, echo: usize) -> Option<Event> {
        let token = self.stale_tokens.pop()?;
        let mut sockets = self.sockets(echo);
        let source = sockets.find_map(|(source, it)| (it.token == Some(token)).then_some(source));
        drop(sockets);
        if let Some(source) = source {
            self.socket_mut(source).in_turn.had_event = true;
        }
        Some(Event(token, ALL))
    }

    /// When something happens next without the engines.
    fn next_happening(&self) -> Micros {
        let peers = self.peers.iter().map(|it| it.next_at);
        let echoes = 0..self.echoes.len();
        let sockets = echoes.flat_map(|echo| self.sockets(echo));
        let changes = sockets.filter_map(|(_, it)| it.changed_at);
        let echoes = self.echoes.iter();
        let unresolved = echoes.filter_map(|it| it.udp.unresolved.front().copied());
        let changes = changes.filter(|at| *at > self.now);
        peers
            .chain(changes)
            .chain(unresolved)
            .min()
            .unwrap_or(NEVER)
    }

    /// Sleeps until one of the echoes has an event, or its time has come, or a signal arrives.
    pub(super) fn sleep(&mut self, wakes_at: &[(usize, Micros)]) -> io::Result<()> {
        for &(echo, at) in wakes_at {
            if at > self.now {
                self.tell(|| {
                    let timeout = (at < NEVER).then(|| at - self.now);
                    format!("echo {echo} sleeps, {timeout:?} µs at most")
                });
                self.check_before_sleep(echo, at);
            }
        }
        self.is_asleep = false;
        let end = wakes_at.iter().map(|(_, at)| *at).min().unwrap_or(NEVER);
        while self.now < end && !wakes_at.iter().any(|&(echo, _)| self.has_events(echo)) {
            let next = self.next_happening().max(self.now + 1).min(end);
            self.is_asleep = next == NEVER;
            if self.is_asleep {
                break;
            }
            if self.has_trouble(4) {
                return error(EINTR);
            }
            self.advance(next);
        }
        Ok(())
    }
}
