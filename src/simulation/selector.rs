//! A selector with edge-triggered events, as epoll(7) describes it, and the clock.
//!
//! A change of a socket is noted once, until an event reports it. The event says what holds when it is
//! reported, so changes are merged. The seed delays and reorders events, and adds some without a cause
//! and some of sockets that were closed.

use super::*;
use crate::server::WAKER;

const ALL: Readiness = Readiness {
    readable: true,
    writable: true,
    read_until_would_block: true,
};

type Event = (Token, Readiness);

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

impl crate::net::Selector for Selector {
    type Event = Event;

    fn select(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.events.clear();
        let mut world = world();
        // mio rounds up to milliseconds.
        let millis = timeout.map(|it| it.as_micros().div_ceil(1000) as Micros);
        let wakes_at = millis.map_or(NEVER, |millis| world.now + millis * MILLISECOND);
        let slept = world.sleep(&[(self.echo, wakes_at)]);
        world.now += 1;
        world.begin_turn();
        world.had_events = true;
        slept.map_err(error)?;
        self.events = world.collect(self.echo);
        world.had_events = !self.events.is_empty();
        for (token, readiness) in &self.events {
            tell!(world, "event of {}: {readiness}", token.0);
        }
        Ok(())
    }

    fn events(&self) -> impl Iterator<Item = &Event> {
        self.events.iter()
    }

    fn token(event: &Event) -> Token {
        event.0
    }

    fn capacity(&self) -> usize {
        world().plan.max_events
    }

    fn now(&self) -> Instant {
        world().instant()
    }
}

impl World {
    /// Whether the descriptor of the selector is readable.
    pub(super) fn has_events(&self, echo: usize) -> bool {
        let is_due = |it: &Socket| it.changed_at <= self.now && it.is_ready();
        self.echoes[echo].is_woken || self.open(echo).any(is_due)
    }

    /// Takes events, in any order.
    fn collect(&mut self, echo: usize) -> Vec<Event> {
        let mut ids: Vec<usize> = self.open(echo).map(|it| it.id).collect();
        ids.sort_by_cached_key(|_| self.random.below(NEVER));
        let max = self.plan.max_events;
        let events = ids.into_iter().filter_map(|id| self.take_event(id));
        let mut events: Vec<_> = events.take(max).collect();
        if mem::take(&mut self.echoes[echo].is_woken) {
            events.push((WAKER, ALL));
        }
        if self.has_trouble(4) {
            events.extend(self.stale_event(echo));
        }
        events
    }

    /// The event of a socket that has changed, and sometimes of another one.
    fn take_event(&mut self, id: usize) -> Option<Event> {
        let is_spurious = self.has_trouble(8);
        let (turn, socket) = (self.turn, &mut self.sockets[id]);
        if socket.changed_at <= self.now {
            socket.changed_at = NEVER;
        } else if !is_spurious {
            return None;
        }
        let token = socket.token.filter(|_| socket.is_ready())?;
        let readiness = socket.readiness();
        // While bytes are pending, only room gives a connection something to do.
        if readiness.writable || !socket.is_blocked {
            socket.event_turn = turn;
        }
        Some((token, readiness))
    }

    /// The event of a socket that was closed. Another one may have its token by now.
    fn stale_event(&mut self, echo: usize) -> Option<Event> {
        let token = self.stale_tokens.pop()?;
        let sockets = self.sockets.iter_mut().filter(|it| it.echo == echo);
        for socket in sockets.filter(|it| it.token == Some(token)) {
            socket.event_turn = self.turn;
        }
        Some((token, ALL))
    }

    /// Sleeps until one of the echoes has an event, or its time has come, or a signal arrives.
    pub(super) fn sleep(&mut self, wakes_at: &[(usize, Micros)]) -> Outcome<()> {
        for &(echo, at) in wakes_at.iter().filter(|(_, at)| *at > self.now) {
            let timeout = (at < NEVER).then(|| at - self.now);
            tell!(self, "echo {echo} sleeps, {timeout:?} µs at most");
            self.check_before_sleep(echo, at);
        }
        self.is_asleep = false;
        let end = wakes_at.iter().map(|(_, at)| *at).min().unwrap_or(NEVER);
        let has_events = |world: &World| wakes_at.iter().any(|(echo, _)| world.has_events(*echo));
        while self.now < end && !self.is_asleep && !has_events(self) {
            if self.has_trouble(4) {
                return Err("EINTR");
            }
            self.step(end);
        }
        Ok(())
    }
}
