//! The host, which is the program around the engine: it runs the engine in the loop of [`Server`], or
//! watches the descriptor of the loop, and requests the shutdown. Sometimes it is stopped for a while, or
//! forgets to call the loop.

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
const MAX_ITERATIONS: u64 = 100_000;

/// Runs a plan: the loops of its services, one iteration after the other.
pub(super) fn run(plan: &Plan, level: LevelFilter) {
    log_lines::start(level);
    STORY.take();
    for service in 0..2 {
        *world_of(service) = World::new(plan, service);
    }
    // Only for its registry, which mio requires.
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
    /// Returns `None` if a simulated failure prevents the engine.
    fn new(service: usize, registry: &Registry) -> Option<Self> {
        PRESENT.set(service);
        let endpoint_socket = |socket: &Socket| {
            let (descriptor, endpoint) = (Descriptor(socket.id), socket.endpoint.clone()?);
            let socket = match socket.kind {
                Kind::Udp => {
                    EndpointSocket::Udp(DatagramSocket::over(descriptor, endpoint.clone()))
                }
                _ => EndpointSocket::Listener(descriptor),
            };
            Some((endpoint, socket))
        };
        let sockets = world().open().filter_map(endpoint_socket).collect();
        let (plan, token) = (world().plan.clone(), Token(Server::USER_TOKENS.end));
        let engine = Engine::new(plan.config, sockets, registry, token, now());
        let is_explained = engine.is_ok() || world().failures > 0;
        check!(is_explained, "no call has failed, and there is no engine");
        let mut engine = engine.ok()?;
        engine.set_splice_min(plan.splice_min as usize);
        Some(Host {
            service,
            event_loop: EventLoop::new(SimulatedSelector::default()),
            engine,
        })
    }

    /// Begins the calm part and the shutdown if it is time, runs the loop at most once, and sometimes stops
    /// the process or changes something.
    fn iterate(&mut self, plan: &Plan) {
        let iteration = world().iteration;
        check!(iteration <= MAX_ITERATIONS, "the run does not end");
        // The time in which the other service ran has passed for this one too.
        let other_now = world_of(1 - self.service).now;
        world().advance(other_now);
        world().is_calm |= iteration >= plan.iterations;
        let ends = world().is_at_rest || iteration >= plan.shutdown_at;
        if ends && !world().is_shutting_down() {
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

    /// Waits as an outer event loop does, and runs the loop if its descriptor is readable or its timeout is
    /// over.
    fn watch_descriptor(&mut self) {
        let timeout = self.event_loop.timeout(&self.engine);
        let due_at = timeout.map_or(NEVER, |it| world().now + micros(it));
        // A signal ends the wait too.
        let _ = world().sleep(due_at);
        let is_due = due_at <= world().now;
        let has_work = is_due || world().has_events();
        let forgets = world().stop_process(10 * MILLISECOND);
        if has_work && !forgets {
            self.run_loop(Some(Duration::ZERO));
        }
    }

    /// Wakes the loop, which then notices the shutdown, as a `ShutdownHandle` does. Half the time it also
    /// calls the engine, as `Server::shutdown` does.
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
    /// Notes the shutdown. The loop asks by it whether one is requested, when its waker was called. A second
    /// call does not extend the drain time.
    fn begin_shutdown(&mut self) -> bool {
        tell!(self, "shutdown");
        let drained_at = self.engine_now + micros(self.plan.config.drain_timeout);
        self.drained_at = self.drained_at.min(drained_at);
        // The last connections are accepted, unless other processes can do it.
        self.accepts_at = if self.plan.is_inherited { NEVER } else { 0 };
        true
    }

    /// Sometimes stops the process for a time up to `max`: clients go on, and the engine does not run.
    /// Returns whether it did.
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
