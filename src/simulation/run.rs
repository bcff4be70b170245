//! One run: the engine in the loop of [`Server`], with a host that behaves as the seed says.

use super::*;
use crate::echo::endpoint_sockets::EndpointSocket;
use crate::echo::engine::Engine;
use crate::echo::udp::DatagramSocket;
use crate::net::System;
use crate::server::{EventLoop, Server};

/// The simulated system.
pub(super) enum Simulation {}

impl System for Simulation {
    type Listener = Descriptor;
    type Stream = Descriptor;
    type Datagrams = Descriptor;
}

/// More turns than any run needs.
const MAX_TURNS: u64 = 20_000;

/// Runs a plan. The world stays as it is at the end.
pub(super) fn run(plan: &Plan, registry: &Registry, level: LevelFilter) {
    *world() = World::new(plan);
    log_lines::start(level);
    let services = (0..plan.echoes).map(|echo| Service::new(plan, echo, registry));
    // Registering may fail.
    if let Ok(services) = services.collect() {
        serve(services, plan);
    }
}

/// As [`Server`] is: a loop, and the engine in it.
pub(super) struct Service {
    event_loop: EventLoop<Selector>,
    pub(super) engine: Engine<Simulation>,
}

impl Service {
    fn new(plan: &Plan, echo: usize, registry: &Registry) -> io::Result<Self> {
        let endpoints = plan.endpoints(echo);
        let first = echo * endpoints.len();
        let sockets = endpoints.into_iter().zip(first..).map(|(endpoint, id)| {
            let (descriptor, name) = (Descriptor(id), endpoint.clone());
            let socket = match endpoint {
                Endpoint::Udp(_) => EndpointSocket::Udp(DatagramSocket::over(descriptor, name)),
                _ => EndpointSocket::Listener(descriptor),
            };
            (endpoint, socket)
        });
        let (config, sockets) = (plan.config.clone(), sockets.collect());
        let (first_token, now) = (Token(Server::USER_TOKENS.end), world().instant());
        let mut engine = Engine::new(config, sockets, registry, first_token, now)?;
        engine.set_splice_min(plan.splice_min);
        let events = Vec::new();
        let event_loop = EventLoop::new(Selector { echo, events });
        Ok(Service { event_loop, engine })
    }

    /// When it has to be called without an event, if it is nested.
    fn due_at(&self) -> Micros {
        let timeout = self.event_loop.timeout(&self.engine);
        world().now.saturating_add(timeout.map_or(NEVER, micros))
    }

    /// A turn of the loop.
    fn turn(&mut self, echo: usize, timeout: Option<Duration>) {
        let requested = || world().begin_shutdown();
        let turned = self.event_loop.turn(&mut self.engine, timeout, requested);
        judge(turned.is_err(), &"the loop", "fails");
        for event in self.engine.connection_events() {
            world().check_event(echo, &event);
        }
        world().check_turn(echo, &self.engine.stats());
    }
}

/// The application around the loops. The shutdown comes in its turn, or when everything has happened.
fn serve(mut services: Vec<Service>, plan: &Plan) {
    while !services.iter().all(|it| it.engine.is_finished()) {
        let turn = world().turn;
        let is_asleep = world().is_asleep;
        judge(turn > MAX_TURNS, &"the run", "does not end");
        let is_calm = turn >= plan.turns || is_asleep;
        if is_calm && !world().is_calm {
            let engines = services.iter_mut().map(|it| &mut it.engine);
            engines
                .enumerate()
                .for_each(|(echo, engine)| resume(echo, engine));
        }
        let is_over = is_calm && world().calm_down() && is_asleep;
        if turn >= plan.shutdown_turn || is_over {
            shutdown(&mut services);
        }
        if plan.is_nested {
            nested_turns(&mut services, plan);
        } else {
            services[0].turn(0, None);
        }
        world().pause(plan.pauses, 600 * SECOND);
        if !is_calm && world().random.one_in(plan.changes) {
            interfere(&mut services, plan);
        }
    }
    let stats: Vec<_> = services.iter().map(|it| it.engine.stats()).collect();
    drop(services);
    world().check_end(&stats);
}

/// Waits as a host does that has other work, and calls each loop that has events or is due.
fn nested_turns(services: &mut [Service], plan: &Plan) {
    let due_at: Vec<_> = services.iter().map(Service::due_at).enumerate().collect();
    // After a signal it looks as well.
    let _ = world().sleep(&due_at);
    for (echo, due_at) in due_at {
        let is_due = due_at <= world().now;
        let is_called = is_due || world().has_events(echo);
        if is_called && !world().pause(plan.pauses, 10 * MILLISECOND) {
            services[echo].turn(echo, Some(Duration::ZERO));
        }
    }
}

/// Wakes the loop, which notices the shutdown by itself, or calls the engines.
fn shutdown(services: &mut [Service]) {
    if world().is_shutting_down() {
        return;
    }
    world().echoes[0].is_woken = true;
    if services.len() == 1 && world().random.one_in(2) {
        return;
    }
    world().begin_turn();
    world().begin_shutdown();
    let now = world().instant();
    for (echo, service) in services.iter_mut().enumerate() {
        service.engine.shutdown(now);
        world().check_warnings(echo);
    }
}

impl World {
    /// Returns true: the shutdown is requested.
    fn begin_shutdown(&mut self) -> bool {
        tell!(self, "shutdown");
        let drained_at = self.turn_now + micros(self.plan.config.drain_timeout);
        self.drained_at = self.drained_at.min(drained_at);
        self.echoes.iter_mut().for_each(|it| it.is_paused = false);
        // Listeners and UDP sockets have a last turn.
        self.sockets.iter_mut().for_each(|it| it.idle_turns = 0);
        true
    }

    /// From here on nothing fails, and all peers read and close. Returns whether it was so before.
    fn calm_down(&mut self) -> bool {
        if mem::replace(&mut self.is_calm, true) {
            return true;
        }
        tell!(self, "from here on nothing fails, and all peers read");
        for id in 0..self.sockets.len() {
            // The system tunes the buffers.
            self.sockets[id].send_buffer = self.plan.max_capacity;
            self.report_room(id);
        }
        self.peers = self.peers.iter().map(|it| it.calm_down(self)).collect();
        false
    }

    /// Once in `n` times the process is stopped, for a time up to `max`. Peers go on.
    fn pause(&mut self, n: u64, max: Micros) -> bool {
        let is_paused = !self.is_calm && self.random.one_in(n);
        let to = self.now + self.random.magnitude(max);
        if is_paused {
            tell!(self, "the process is stopped until {to}");
        }
        while is_paused && self.now < to {
            self.step(to);
        }
        is_paused
    }
}
