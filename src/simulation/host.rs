//! The host, which is the program around the engine: it runs the engine in the loop of [`Server`], or
//! watches the descriptor of the loop, and requests the shutdown. Sometimes it is stopped for a while, or
//! forgets an iteration.

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

/// Runs a plan: the loops of its services, one iteration after the other.
pub(super) fn run(plan: &Plan, level: LevelFilter) {
    log_lines::start(level);
    STORY.take();
    for service in 0..2 {
        *world_of(service) = World::new(plan, service);
    }
    let poll = Poll::new().unwrap();
    let hosts = (0..plan.services).filter_map(|service| Host::new(service, poll.registry()));
    let mut hosts: Vec<_> = hosts.collect();
    while !hosts.is_empty() {
        hosts.retain_mut(|host| {
            PRESENT.set(host.service);
            host.iterate(plan);
            world().check_warnings();
            !host.engine.is_finished()
        });
    }
    for service in 0..plan.services {
        world_of(service).check_end();
    }
}

/// An engine in its loop, and the program around them.
pub(super) struct Host {
    service: usize,
    event_loop: EventLoop<SimulatedSelector>,
    pub(super) engine: Engine<Simulation>,
}

impl Host {
    /// Returns `None` if a call fails.
    fn new(service: usize, registry: &Registry) -> Option<Self> {
        PRESENT.set(service);
        let socket = |socket: &Socket| {
            let (descriptor, endpoint) = (Descriptor(socket.id), socket.endpoint.clone()?);
            let socket = match socket.kind {
                Kind::Udp => {
                    EndpointSocket::Udp(DatagramSocket::over(descriptor, endpoint.clone()))
                }
                _ => EndpointSocket::Listener(descriptor),
            };
            Some((endpoint, socket))
        };
        let sockets = world().open().filter_map(socket).collect();
        let (plan, token) = (world().plan.clone(), Token(Server::USER_TOKENS.end));
        let engine = Engine::new(plan.config, sockets, registry, token, now());
        let may_be_ok = engine.is_ok() || world().failures > 0;
        check!(may_be_ok, "no call has failed, and there is no engine");
        let mut engine = engine.ok()?;
        engine.set_splice_min(plan.splice_min as usize);
        Some(Host {
            service,
            event_loop: EventLoop::new(SimulatedSelector::default()),
            engine,
        })
    }

    /// One iteration of the loop, and what the host does besides. The shutdown comes in its time,
    /// or when everything has happened.
    fn iterate(&mut self, plan: &Plan) {
        let iteration = world().iteration;
        check!(iteration <= MAX_ITERATIONS, "the run does not end");
        // While the other service ran, the clients of this one went on.
        let others_now = world_of(1 - self.service).now;
        world().advance(others_now);
        let is_at_rest = world().is_at_rest;
        let is_calm = world().is_calm;
        let is_over = is_calm && is_at_rest;
        let open = world().connections().count();
        check!(open == 0 || !is_over, "{open} connections stay open");
        if !is_calm && (is_at_rest || iteration >= plan.iterations) {
            self.resume_accepting();
            world().calm_down();
        }
        let is_due = is_over || iteration >= plan.shutdown_at;
        if is_due && !world().is_shutting_down() {
            self.shutdown();
        }
        if plan.is_nested {
            self.watch_descriptor();
        } else {
            self.run_loop(None);
        }
        world().stop_process(600 * SECOND);
        let is_changing = world().happens(plan.iterations_per_change);
        if is_changing {
            self.change_something(plan);
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
        let is_forgotten = world().stop_process(10 * MILLISECOND);
        if is_called && !is_forgotten {
            self.run_loop(Some(Duration::ZERO));
        }
    }

    /// Wakes the loop, which then notices the shutdown. Half the time it also calls the engine, as
    /// `Server::shutdown` does.
    fn shutdown(&mut self) {
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
            // Larger buffers, so that the rest is echoed in few iterations.
            self.sockets[id].outbound.capacity = self.plan.max_capacity;
            self.report_room(id);
        }
        for client in &mut self.clients {
            client.calm_down(self.now, &self.sockets);
        }
    }

    /// Sometimes the process is stopped, for a time up to `max`.
    fn stop_process(&mut self, max: Micros) -> bool {
        let is_stopped = self.happens(self.plan.iterations_per_stop);
        if is_stopped {
            let time = self.random.magnitude(max);
            tell!(self, "the process is stopped for {time} µs");
            self.advance(self.now + time);
        }
        is_stopped
    }
}
