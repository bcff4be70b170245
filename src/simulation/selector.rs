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

/// The events of the last poll.
pub(super) type SimulatedSelector = Vec<Event>;

impl crate::net::Selector for SimulatedSelector {
    type Event = Event;

    fn select(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.clear();
        let mut world = world();
        // mio rounds up to milliseconds.
        let timeout = timeout.map(|it| micros(it).next_multiple_of(MILLISECOND));
        let wakes_at = timeout.map_or(NEVER, |it| world.now + it);
        let slept = world.sleep(wakes_at);
        world.now += 1;
        world.begin_iteration();
        // An interruption counts as an event.
        world.work = slept.is_err().into();
        slept.map_err(io_error)?;
        *self = world.collect();
        world.work += self.len() as u64;
        Ok(())
    }

    fn events(&self) -> impl Iterator<Item = (Token, &Event)> {
        self.iter().map(|it| (it.0, it))
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
    /// An iteration of the loop begins, or the host calls the engine.
    pub(super) fn begin_iteration(&mut self) {
        self.check_warnings();
        self.iteration += 1;
        self.engine_now = self.now;
        let (service, iteration) = (self.service, self.iteration);
        tell!(self, "service {service}, iteration {iteration}");
        self.work = 0;
        for socket in &mut self.sockets {
            socket.activity = Activity::default();
        }
        self.first_new = [self.sockets.len(), self.datagrams.len()];
    }

    /// A socket has changed. An event reports it if there is something to report, sometimes late.
    pub(super) fn note_change(&mut self, id: usize) {
        self.is_at_rest = false;
        let is_late = self.happens(self.plan.calls_per_failure);
        let max = if is_late { 10 * MILLISECOND } else { 0 };
        let at = self.now + self.random.magnitude(max);
        let socket = &mut self.sockets[id];
        let readiness = socket.readiness();
        let is_event = readiness.readable || readiness.writable;
        if socket.token.is_some() && socket.is_open && is_event {
            socket.changed_at = Some(socket.changed_at.map_or(at, |it| it.min(at)));
        }
    }

    /// The sockets with a change that an event can report.
    fn changed(&self) -> impl Iterator<Item = &Socket> {
        let is_due = |it: &&Socket| it.changed_at.is_some_and(|at| at <= self.now);
        self.open().filter(is_due)
    }

    /// Whether an event is going to report a change. A host that watches the descriptor of the selector does
    /// so edge-triggered: it is not told again of what the last poll left behind.
    pub(super) fn is_announced(&self, socket: &Socket) -> bool {
        // If it is not nested: any change.
        socket.changed_at >= Some(self.polled_at * u64::from(self.plan.is_nested))
    }

    /// Whether the selector has events.
    pub(super) fn has_events(&self) -> bool {
        self.is_woken || self.changed().any(|it| self.is_announced(it))
    }

    /// Takes events, in any order. What is beyond `max_events` stays noted.
    fn collect(&mut self) -> Vec<Event> {
        self.polled_at = self.now;
        let mut ids: Vec<_> = self.changed().map(|it| it.id).collect();
        if self.happens(2 * self.plan.calls_per_failure) {
            ids.push(self.random.below(self.sockets.len() as u64) as usize);
        }
        ids.sort_by_cached_key(|_| self.random.below(NEVER));
        let max = self.plan.max_events;
        let waker = mem::take(&mut self.is_woken).then_some((WAKER, ALL));
        let events = ids.into_iter().filter_map(|id| self.take_event(id));
        waker.into_iter().chain(events).take(max).collect()
    }

    /// Takes the event of a socket. A socket without a change gets a spurious event, and a closed one a
    /// stale event, whose token another socket may have by now.
    fn take_event(&mut self, id: usize) -> Option<Event> {
        let is_changed = self.changed().any(|it| it.id == id);
        let socket = &mut self.sockets[id];
        let readiness = if is_changed { socket.readiness() } else { ALL };
        socket.changed_at = socket.changed_at.filter(|_| !is_changed);
        let token = socket.token?;
        for it in self.sockets.iter_mut().filter(|it| it.token == Some(token)) {
            // While bytes are pending, only room gives a connection something to do.
            it.activity.is_woken |= readiness.writable || !it.is_blocked();
        }
        Some((token, readiness))
    }

    /// Sleeps until there is an event, the time has come, a signal arrives, or nothing can happen any more.
    pub(super) fn sleep(&mut self, wakes_at: Micros) -> Outcome<()> {
        self.is_at_rest = false;
        while self.now < wakes_at && !self.has_events() {
            self.check_before_sleep(wakes_at);
            if self.happens(4 * self.plan.calls_per_failure) {
                return Err("EINTR");
            }
            self.is_at_rest = self.next_at().min(wakes_at) >= NEVER;
            if self.is_at_rest {
                break;
            }
            self.step(wakes_at);
        }
        Ok(())
    }

    /// When something happens next without the engine; `NEVER` if nothing does.
    fn next_at(&self) -> Micros {
        let actions = self.clients.iter().map(|it| it.next_at);
        let changes = self.sockets.iter().filter_map(|it| it.changed_at);
        let changes = changes.filter(|at| *at > self.now);
        actions.chain(changes).min().unwrap_or(NEVER)
    }

    /// Moves the clock to the next moment in which something happens, but not beyond `end`.
    fn step(&mut self, end: Micros) {
        self.now = self.now.max(self.next_at().min(end));
        self.act();
    }

    /// Time passes without the engine.
    pub(super) fn advance(&mut self, end: Micros) {
        while self.now < end {
            self.step(end);
        }
    }

    /// Clients act whose time has come.
    pub(super) fn act(&mut self) {
        let (now, mut clients) = (self.now, mem::take(&mut self.clients));
        for client in clients.iter_mut().filter(|it| it.next_at <= now) {
            client.next_at = client.act(self);
        }
        self.clients = clients;
    }
}
