//! A selector with edge-triggered events, as epoll(7) describes it, and the clock.
//!
//! A change of a socket is noted once, until an event reports it. The event says what holds when it is
//! reported, so changes are merged. The seed delays and reorders events, and adds some without a cause
//! and some of sockets that were closed.

use std::io;
use std::mem;
use std::time::{Duration, Instant};

use mio::{Interest, Registry, Token, event};
use nix::libc::{EINTR, ENOMEM, ENOSPC};

use super::plan::{MILLISECOND, Micros};
use super::world::{World, error, system_call, world};
use crate::net::{self, Readiness};
use crate::server::WAKER;

/// A simulated socket, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Connection(usize),
    Backlog(usize),
    Datagrams(usize),
}

/// `epoll_ctl(2)`: what holds already is reported.
impl event::Source for Source {
    fn register(&mut self, _: &Registry, token: Token, _: Interest) -> io::Result<()> {
        let (source, name) = (*self, format!("register as {}", token.0));
        let registered = system_call(source, &name, &[ENOMEM, ENOSPC], |_| Ok(()));
        world(|world| {
            let echo = world.echo_of(source);
            if registered.is_ok() {
                let changed_at = None;
                let registration = Registration {
                    token,
                    source,
                    changed_at,
                };
                world.selectors.registered[echo].push(registration);
                world.signal(source);
            }
            if let Source::Connection(id) = source {
                world.connections[id].is_admitted = registered.is_ok();
                let backlogs = world.backlogs.iter_mut().filter(|it| it.echo == echo);
                backlogs.for_each(|it| it.had_error |= registered.is_err());
            }
        });
        registered
    }

    fn reregister(&mut self, _: &Registry, _: Token, _: Interest) -> io::Result<()> {
        panic!("sockets are registered once")
    }

    fn deregister(&mut self, _: &Registry) -> io::Result<()> {
        world(|world| world.selectors.deregister(*self));
        Ok(())
    }
}

#[derive(Debug, Clone)]
struct Registration {
    token: Token,
    source: Source,
    /// When a change can be reported.
    changed_at: Option<Micros>,
}

/// The selectors of all echoes.
#[derive(Debug)]
pub(super) struct Selectors {
    registered: Vec<Vec<Registration>>,
    /// Tokens of sockets that were closed.
    stale: Vec<Token>,
    /// The waker of the first echo was called.
    pub(super) is_woken: bool,
    /// Of which sockets the events of this turn are.
    pub(super) reported: Vec<Source>,
    /// The last call returned events, or was interrupted by a signal.
    pub(super) has_result: bool,
}

impl Selectors {
    pub(super) fn new(echoes: usize) -> Self {
        Selectors {
            registered: vec![Vec::new(); echoes],
            stale: Vec::new(),
            is_woken: false,
            reported: Vec::new(),
            has_result: false,
        }
    }

    /// When a change can be reported that could not be before.
    pub(super) fn next_at(&self, now: Micros) -> Option<Micros> {
        let all = self.registered.iter().flatten();
        all.filter_map(|it| it.changed_at)
            .filter(|at| *at > now)
            .min()
    }

    pub(super) fn deregister(&mut self, source: Source) {
        for registered in &mut self.registered {
            if let Some(index) = registered.iter().position(|it| it.source == source) {
                self.stale.push(registered.swap_remove(index).token);
            }
        }
    }

    fn find(&self, source: Source) -> Option<&Registration> {
        self.registered
            .iter()
            .flatten()
            .find(|it| it.source == source)
    }

    pub(super) fn is_registered(&self, source: Source) -> bool {
        self.find(source).is_some()
    }

    /// Whether an event is to come.
    pub(super) fn is_changed(&self, source: Source) -> bool {
        self.find(source).is_some_and(|it| it.changed_at.is_some())
    }
}

impl World {
    fn echo_of(&self, source: Source) -> usize {
        match source {
            Source::Connection(id) => self.connections[id].echo,
            Source::Backlog(id) => self.backlogs[id].echo,
            Source::Datagrams(echo) => echo,
        }
    }

    /// A socket has changed.
    pub(super) fn signal(&mut self, source: Source) {
        let is_late = self.has_trouble(1);
        let delay = if is_late {
            self.random.magnitude(10 * MILLISECOND)
        } else {
            0
        };
        let at = self.now + delay;
        let mut all = self.selectors.registered.iter_mut().flatten();
        if let Some(it) = all.find(|it| it.source == source) {
            it.changed_at = Some(it.changed_at.map_or(at, |changed| changed.min(at)));
        }
    }

    fn readiness(&self, source: Source) -> Option<Readiness> {
        let is_readable = match source {
            Source::Connection(id) => return self.connections[id].readiness(),
            Source::Backlog(id) => !self.backlogs[id].is_empty(),
            Source::Datagrams(echo) => self.datagrams.is_readable(echo),
        };
        is_readable.then_some(Readiness {
            writable: false,
            read_until_would_block: false,
            ..ALL
        })
    }

    /// Whether the descriptor of the selector is readable.
    pub(super) fn has_events(&self, echo: usize) -> bool {
        let mut registered = self.selectors.registered[echo].iter();
        let is_due = |at: Option<Micros>| at.is_some_and(|at| at <= self.now);
        (echo == 0 && self.selectors.is_woken)
            || registered.any(|it| is_due(it.changed_at) && self.readiness(it.source).is_some())
    }

    /// Takes events, in any order.
    fn collect(&mut self, echo: usize) -> Vec<Event> {
        let mut events = Vec::new();
        let mut registered = mem::take(&mut self.selectors.registered[echo]);
        for index in 0..registered.len() {
            registered.swap(index, self.random.below(index as u64 + 1) as usize);
        }
        for it in &mut registered {
            let is_due = it.changed_at.is_some_and(|at| at <= self.now);
            if (is_due || self.has_trouble(8)) && events.len() < self.plan.max_events {
                it.changed_at = it.changed_at.filter(|_| !is_due);
                let readiness = self.readiness(it.source);
                events.extend(readiness.map(|readiness| Event(it.token, readiness)));
            }
        }
        if echo == 0 && mem::take(&mut self.selectors.is_woken) {
            events.push(Event(WAKER, ALL));
        }
        if self.has_trouble(4) {
            let stale = self.selectors.stale.pop();
            events.extend(stale.map(|token| Event(token, ALL)));
        }
        // While bytes are pending, only room gives a connection something to do.
        let waits_for_room = |source| match source {
            Source::Connection(id) => self.connections[id].is_blocked,
            _ => false,
        };
        let is_reported = |it: &&Registration| {
            let mut of_it = events.iter().filter(|event| event.0 == it.token);
            of_it.any(|event| event.1.writable || !waits_for_room(it.source))
        };
        let reported = registered.iter().filter(is_reported).map(|it| it.source);
        self.selectors.reported = reported.collect();
        self.selectors.registered[echo] = registered;
        events
    }

    /// Sleeps until an event, a deadline, or a signal. Returns whether the sleep would never end.
    fn sleep(&mut self, echo: usize, timeout: Option<Micros>) -> io::Result<bool> {
        let end = timeout.map(|timeout| self.now + timeout);
        while !self.has_events(echo) {
            let next = self.next_happening().map(|at| at.max(self.now + 1));
            let Some(to) = next.into_iter().chain(end).min() else {
                return Ok(true);
            };
            if self.has_trouble(4) {
                return error(EINTR);
            }
            self.advance(to);
            if end.is_some_and(|end| end <= self.now) {
                break;
            }
        }
        Ok(false)
    }
}

const ALL: Readiness = Readiness {
    readable: true,
    writable: true,
    read_until_would_block: true,
};

#[derive(Debug, Clone)]
pub(super) struct Event(Token, Readiness);

impl From<&Event> for Readiness {
    fn from(event: &Event) -> Self {
        event.1
    }
}

/// The selector of one echo.
#[derive(Debug, Default)]
pub(super) struct Selector {
    echo: usize,
    events: Vec<Event>,
    /// The last call would have slept for ever.
    pub(super) is_asleep: bool,
}

impl Selector {
    pub(super) fn new(echo: usize) -> Self {
        Selector {
            echo,
            ..Selector::default()
        }
    }
}

impl net::Selector for Selector {
    type Event = Event;

    fn select(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.events.clear();
        world(|world| {
            // mio rounds up to milliseconds.
            let timeout = timeout.map(|it| it.as_micros().div_ceil(1000) as Micros * MILLISECOND);
            let slept = if timeout == Some(0) {
                world.now += 1;
                Ok(false)
            } else {
                world.check_before_sleep(self.echo, timeout);
                let slept = world.sleep(self.echo, timeout);
                world.tell(|| {
                    format!(
                        "echo {} slept, {timeout:?} µs at most: {slept:?}",
                        self.echo
                    )
                });
                slept
            };
            world.begin_turn();
            world.selectors.has_result = true;
            self.is_asleep = *slept.as_ref().unwrap_or(&false);
            slept?;
            self.events = world.collect(self.echo);
            world.selectors.has_result = !self.events.is_empty();
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
