//! The application around the engines: it runs each in the loop of [`Server`], and shuts them down.
//! Sometimes it stops for a while, or forgets an iteration.

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

/// More iterations than any run needs.
const MAX_ITERATIONS: u64 = 20_000;

/// Runs a plan. The world stays as it is at the end.
pub(super) fn run(plan: &Plan, registry: &Registry, level: LevelFilter) {
    *world() = World::new(plan);
    log_lines::start(level);
    let engines = (0..plan.services).map(|service| engine(plan, service, registry));
    let engines: Vec<_> = engines.collect();
    // Registering may fail.
    if let Ok(engines) = engines.into_iter().collect() {
        let loops = (0..plan.services).map(|service| {
            let events = Vec::new();
            EventLoop::new(Selector { service, events })
        });
        let loops = loops.collect();
        let mut host = Host { loops, engines };
        while !host.engines.iter().all(Engine::is_finished) {
            host.iterate(plan);
        }
    }
    world().check_end();
}

/// The engine of a service, with its sockets.
fn engine(plan: &Plan, service: usize, registry: &Registry) -> io::Result<Engine<Simulation>> {
    let socket = |socket: &Socket| {
        let (id, endpoint) = (Descriptor(socket.id), socket.endpoint.clone()?);
        let socket = match socket.kind {
            Kind::Udp => EndpointSocket::Udp(DatagramSocket::over(id, endpoint.clone())),
            _ => EndpointSocket::Listener(id),
        };
        Some((endpoint, socket))
    };
    let sockets = world().open(service).filter_map(socket).collect();
    let (config, token) = (plan.config.clone(), Token(Server::USER_TOKENS.end));
    let mut engine = Engine::new(config, sockets, registry, token, now())?;
    engine.set_splice_min(plan.splice_min as usize);
    Ok(engine)
}

/// The application: a loop and an engine for each service.
pub(super) struct Host {
    loops: Vec<EventLoop<Selector>>,
    pub(super) engines: Vec<Engine<Simulation>>,
}

impl Host {
    /// One iteration of one or all loops, and what the host does besides. The shutdown comes in its time,
    /// or when everything has happened.
    fn iterate(&mut self, plan: &Plan) {
        let iteration = world().iteration;
        judge(iteration > MAX_ITERATIONS, &"the run", "does not end");
        let is_asleep = world().is_asleep;
        let was_calm = world().is_calm;
        let is_calm = was_calm || is_asleep || iteration >= plan.iterations;
        if is_calm && !was_calm {
            (0..plan.services).for_each(|service| self.resume(service));
            world().calm_down();
        }
        let has_all_happened = was_calm && is_asleep;
        if has_all_happened {
            world().check_calm();
        }
        if iteration >= plan.shutdown_at || has_all_happened {
            self.shutdown();
        }
        if plan.is_nested {
            self.nested_iterations();
        } else {
            self.run_loop(0, None);
        }
        world().pause(600 * SECOND);
        if !is_calm && world().random.one_in(plan.changes) {
            self.interfere();
        }
    }

    /// An iteration of a loop.
    fn run_loop(&mut self, service: usize, timeout: Option<Duration>) {
        let engine = &mut self.engines[service];
        let requested = || world().begin_shutdown();
        let result = self.loops[service].turn(engine, timeout, requested);
        judge(result.is_err(), &"the loop", "fails");
        for event in engine.connection_events() {
            world().check_event(service, &event);
        }
        world().check_iteration(service, &engine.stats());
    }

    /// Waits as a host does that has other work, and calls each loop that has events or is due.
    fn nested_iterations(&mut self) {
        let loops = self.loops.iter().zip(&self.engines);
        let timeouts = loops.map(|(it, engine)| it.timeout(engine));
        let due_at = timeouts.map(|it| it.map_or(NEVER, |it| world().now + micros(it)));
        let due_at: Vec<_> = due_at.enumerate().collect();
        // After a signal it looks as well.
        let _ = world().sleep(&due_at);
        for (service, due_at) in due_at {
            let is_due = due_at <= world().now;
            let is_called = is_due || world().has_events(service);
            if is_called && !world().pause(10 * MILLISECOND) {
                self.run_loop(service, Some(Duration::ZERO));
            }
        }
    }

    /// Wakes the loop, which notices the shutdown by itself, or calls the engines.
    fn shutdown(&mut self) {
        if world().is_shutting_down() {
            return;
        }
        world().services[0].is_woken = true;
        if self.engines.len() == 1 && world().random.one_in(2) {
            return;
        }
        world().begin_iteration();
        world().begin_shutdown();
        let now = now();
        self.engines.iter_mut().for_each(|it| it.shutdown(now));
    }
}

impl World {
    /// Returns true: the shutdown is requested.
    fn begin_shutdown(&mut self) -> bool {
        tell!(self, "shutdown");
        let drained_at = self.engine_now + micros(self.plan.config.drain_timeout);
        self.drained_at = self.drained_at.min(drained_at);
        self.services.iter_mut().for_each(|it| it.accepts_at = 0);
        true
    }

    /// From here on nothing fails, and all clients read and close.
    fn calm_down(&mut self) {
        self.is_calm = true;
        tell!(self, "from here on nothing fails, and all clients read");
        for id in 0..self.sockets.len() {
            // The system tunes the buffers.
            self.sockets[id].outbound.capacity = self.plan.max_capacity;
            self.report_room(id);
        }
        for client in &mut self.clients {
            client.calm_down(self.now, &self.sockets);
        }
    }

    /// Sometimes the process is stopped, for a time up to `max`. Clients go on.
    fn pause(&mut self, max: Micros) -> bool {
        if self.is_calm || !self.random.one_in(self.plan.pauses) {
            return false;
        }
        let time = self.random.magnitude(max);
        tell!(self, "the process is stopped for {time} µs");
        let end = self.now + time;
        while self.now < end {
            self.step(end);
        }
        true
    }
}
