//! The application: it runs the engine in the loop of [`Server`], or watches the descriptor of the loop,
//! and shuts it down. Sometimes it is stopped for a while, or forgets an iteration.

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

/// Runs a plan. The worlds stay as they are at the end.
pub(super) fn run(plan: &Plan, registry: &Registry, level: LevelFilter) {
    log_lines::start(level);
    STORY.take();
    for service in 0..2 {
        *world_of(service) = World::new(plan, service);
    }
    let hosts = (0..plan.services).map(|service| Host::new(service, registry));
    // Registering may fail.
    let mut hosts: Vec<_> = hosts.filter_map(Result::ok).collect();
    while hosts.iter().any(|it| !it.engine.is_finished()) {
        for host in hosts.iter_mut().filter(|it| !it.engine.is_finished()) {
            PRESENT.set(host.service);
            host.iterate(plan);
            world().check_warnings();
        }
    }
    for host in hosts {
        PRESENT.set(host.service);
    }
    for service in 0..plan.services {
        world_of(service).check_end();
    }
}

/// A service: an engine in its loop.
pub(super) struct Host {
    service: usize,
    event_loop: EventLoop<SimulatedSelector>,
    pub(super) engine: Engine<Simulation>,
}

impl Host {
    fn new(service: usize, registry: &Registry) -> io::Result<Self> {
        PRESENT.set(service);
        let socket = |socket: &Socket| {
            let (id, endpoint) = (Descriptor(socket.id), socket.endpoint.clone()?);
            let socket = match socket.kind {
                Kind::Udp => EndpointSocket::Udp(DatagramSocket::over(id, endpoint.clone())),
                _ => EndpointSocket::Listener(id),
            };
            Some((endpoint, socket))
        };
        let sockets = world().open().filter_map(socket).collect();
        let (plan, token) = (world().plan.clone(), Token(Server::USER_TOKENS.end));
        let mut engine = Engine::new(plan.config, sockets, registry, token, now())?;
        engine.set_splice_min(plan.splice_min as usize);
        Ok(Host {
            service,
            event_loop: EventLoop::new(SimulatedSelector::default()),
            engine,
        })
    }

    /// One iteration of the loop, and what the application does besides. The shutdown comes in its time,
    /// or when everything has happened.
    fn iterate(&mut self, plan: &Plan) {
        let iteration = world().iteration;
        check!(iteration <= MAX_ITERATIONS, "the run does not end");
        // While the other service ran, the clients of this one went on.
        let others_now = world_of(1 - self.service).now;
        world().advance(others_now);
        let is_asleep = world().is_asleep;
        let is_calm = world().is_calm;
        let has_all_happened = is_calm && is_asleep;
        if has_all_happened {
            world().check_calm();
        } else if !is_calm && (is_asleep || iteration >= plan.iterations) {
            self.resume();
            world().calm_down();
        }
        if iteration >= plan.shutdown_at || has_all_happened {
            self.shutdown();
        }
        if plan.is_nested {
            self.watch_descriptor();
        } else {
            self.run_loop(None);
        }
        world().pause(600 * SECOND);
        let is_changing = world().happens(plan.iterations_per_change);
        if is_changing {
            self.change_something();
        }
    }

    fn run_loop(&mut self, timeout: Option<Duration>) {
        let requested = || world().begin_shutdown();
        let result = self.event_loop.turn(&mut self.engine, timeout, requested);
        check!(result.is_ok(), "the loop fails");
        for event in self.engine.connection_events() {
            world().check_event(&event);
        }
        world().check_iteration(&self.engine.stats());
    }

    /// Waits as a host does that has other work, and runs the loop if it has events or is due.
    fn watch_descriptor(&mut self) {
        let timeout = self.event_loop.timeout(&self.engine);
        let due_at = timeout.map_or(NEVER, |it| world().now + micros(it));
        // After a signal it looks as well.
        let _ = world().sleep(due_at);
        let is_due = due_at <= world().now;
        let is_called = is_due || world().has_events();
        if is_called && !world().pause(10 * MILLISECOND) {
            self.run_loop(Some(Duration::ZERO));
        }
    }

    /// Wakes the loop, which notices the shutdown by itself, or calls the engine.
    fn shutdown(&mut self) {
        if world().is_shutting_down() {
            return;
        }
        world().is_woken = true;
        if world().random.one_in(2) {
            world().begin_iteration();
            world().begin_shutdown();
            self.engine.shutdown(now());
        }
    }
}

impl World {
    /// Returns true: the shutdown is requested.
    fn begin_shutdown(&mut self) -> bool {
        tell!(self, "shutdown");
        let drained_at = self.engine_now + micros(self.plan.config.drain_timeout);
        self.drained_at = self.drained_at.min(drained_at);
        self.accepts_at = 0;
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

    /// Sometimes the process is stopped, for a time up to `max`.
    fn pause(&mut self, max: Micros) -> bool {
        let is_stopped = self.happens(self.plan.iterations_per_pause);
        if is_stopped {
            let time = self.random.magnitude(max);
            tell!(self, "the process is stopped for {time} µs");
            self.advance(self.now + time);
        }
        is_stopped
    }
}
