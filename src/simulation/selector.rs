//! A selector with edge-triggered events, as epoll(7) describes it, and the clock.
//!
//! A change of a socket is noted once, until an event reports it. The event says what holds when it is
//! reported, so changes are merged. The seed delays and reorders events, and adds some without a cause.

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

/// The selector of one service.
pub(super) struct Selector {
    pub(super) service: usize,
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
        let slept = world.sleep(&[(self.service, wakes_at)]);
        world.now += 1;
        world.begin_iteration();
        // A signal counts as an event.
        world.work = slept.is_err().into();
        slept.map_err(error)?;
        self.events = world.collect(self.service);
        world.work += self.events.len() as u64;
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
        now()
    }
}

/// The simulated time, as the engine takes it.
pub(super) fn now() -> Instant {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    *START + Duration::from_micros(world().now)
}

impl World {
    /// An iteration of a loop begins, or the host calls an engine.
    pub(super) fn begin_iteration(&mut self) {
        self.check_warnings();
        self.iteration += 1;
        self.engine_now = self.now;
        self.work = 0;
        for socket in &mut self.sockets {
            socket.present = Activity::default();
        }
    }

    /// A socket has changed. An event reports it, sometimes late.
    pub(super) fn signal(&mut self, id: usize) {
        let delay = || self.random.magnitude(10 * MILLISECOND);
        let at = self.now + self.has_trouble(1).then(delay).unwrap_or(0);
        let socket = &mut self.sockets[id];
        if socket.token.is_some() && socket.state == State::Open {
            socket.changed_at = Some(socket.changed_at.map_or(at, |it| it.min(at)));
        }
    }

    /// The sockets with a change that an event can report.
    fn changed(&self, service: usize) -> impl Iterator<Item = &Socket> {
        let is_due = |it: &&Socket| it.changed_at.is_some_and(|at| at <= self.now);
        self.open(service).filter(is_due)
    }

    /// Whether the descriptor of the selector is readable.
    pub(super) fn has_events(&self, service: usize) -> bool {
        self.services[service].is_woken || self.changed(service).any(Socket::is_ready)
    }

    /// Takes events, in any order.
    fn collect(&mut self, service: usize) -> Vec<Event> {
        let mut ids: Vec<_> = self.changed(service).map(|it| it.id).collect();
        if self.has_trouble(2) {
            ids.push(self.random.below(self.sockets.len() as u64) as usize);
        }
        ids.sort_by_cached_key(|_| self.random.below(NEVER));
        let (ids, max) = (ids.into_iter(), self.plan.max_events);
        let events = ids.filter_map(|id| self.take_event(service, id));
        let mut events: Vec<_> = events.take(max).collect();
        if mem::take(&mut self.services[service].is_woken) {
            events.push((WAKER, ALL));
        }
        events
    }

    /// The event of a socket that has changed, or one without a cause: a spurious one, or if the socket was
    /// closed, a stale one. Another socket may have its token by now.
    fn take_event(&mut self, service: usize, id: usize) -> Option<Event> {
        let is_changed = self.changed(service).any(|it| it.id == id);
        let socket = &mut self.sockets[id];
        let readiness = if is_changed { socket.readiness() } else { ALL };
        socket.changed_at = socket.changed_at.filter(|_| !is_changed);
        let token = socket.token.filter(|_| !is_changed || socket.is_ready())?;
        for it in self.sockets.iter_mut().filter(|it| it.service() == service) {
            // While bytes are pending, only room gives a connection something to do.
            let has_work = readiness.writable || !it.is_blocked();
            it.present.is_woken |= it.token == Some(token) && has_work;
        }
        Some((token, readiness))
    }

    /// Sleeps until one of the services has an event, or its time has come, or a signal arrives.
    pub(super) fn sleep(&mut self, wakes_at: &[(usize, Micros)]) -> Outcome<()> {
        for &(service, at) in wakes_at.iter().filter(|(_, at)| *at > self.now) {
            let timeout = (at < NEVER).then(|| at - self.now);
            tell!(self, "service {service} sleeps, timeout in µs: {timeout:?}");
            self.check_before_sleep(service, at);
        }
        self.is_asleep = false;
        let end = wakes_at.iter().map(|(_, at)| *at).min().unwrap_or(NEVER);
        let has_events = |world: &World| wakes_at.iter().any(|it| world.has_events(it.0));
        while self.now < end && !self.is_asleep && !has_events(self) {
            if self.has_trouble(4) {
                return Err("EINTR");
            }
            self.step(end);
        }
        Ok(())
    }

    /// Moves the clock to the next moment in which something happens without the engines, but not beyond
    /// `end`. Clients act when their time comes.
    pub(super) fn step(&mut self, end: Micros) {
        let actions = self.clients.iter().map(|it| it.next_at);
        let changes = self.sockets.iter().filter_map(|it| it.changed_at);
        let changes = changes.filter(|at| *at > self.now);
        let next = actions.chain(changes).min().unwrap_or(NEVER).min(end);
        self.is_asleep = next >= NEVER;
        if !self.is_asleep {
            self.now = self.now.max(next);
        }
        self.act();
    }

    /// Clients act whose time has come.
    pub(super) fn act(&mut self) {
        for index in 0..self.clients.len() {
            if self.clients[index].next_at <= self.now {
                let mut client = self.clients[index].clone();
                client.next_at = client.act(self, index);
                self.clients[index] = client;
            }
        }
    }
}
