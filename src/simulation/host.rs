//! The host, which is the program around the engine: it runs the engine in the loop of `Server`, or
//! watches the descriptor of the loop, and requests the shutdown. Sometimes it is stopped for a while, or
//! forgets to call the loop.

use super::*;
use crate::echo::endpoint_sockets::EndpointSocket;
use crate::echo::engine::Engine;
use crate::echo::udp::DatagramSocket;
use crate::net::System;
use crate::net::endpoint::Endpoint;
use crate::server::{EventLoop, Server};

/// The simulated system.
pub(super) enum Simulation {}

impl System for Simulation {
    type Listener = Descriptor;
    type Stream = Descriptor;
    type Datagrams = Descriptor;
}

/// An engine in its loop, and the program around them.
pub(super) struct Host {
    pub(super) service: usize,
    event_loop: EventLoop<SimulatedSelector>,
    pub(super) engine: Engine<Simulation>,
}

impl Host {
    /// Returns `None` if a simulated failure prevents the engine.
    pub(super) fn new(service: usize, registry: &Registry) -> Option<Self> {
        PRESENT.set(service);
        let (address, path) = (address(service), format!("/echo/{service}").into());
        let udp = DatagramSocket::over(Descriptor(UDP), Endpoint::Udp(address));
        let listener = |id| EndpointSocket::Listener(Descriptor(id));
        let sockets = vec![
            (Endpoint::Tcp(address), listener(TCP)),
            (Endpoint::Unix(path), listener(UNIX)),
            (Endpoint::Udp(address), EndpointSocket::Udp(udp)),
        ];
        let (plan, token) = (world().plan.clone(), Token(Server::USER_TOKENS.end));
        let engine = Engine::new(plan.config, sockets, registry, token, now());
        let failed = world().sockets.iter().any(|it| it.failure().is_some());
        check!(engine.is_ok() || failed, "it fails without an error");
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
    pub(super) fn iterate(&mut self, plan: &Plan) {
        let iteration = world().iteration;
        // More than any run needs.
        check!(iteration <= 100_000, "the run does not end");
        // The time in which the other service ran has passed for this one too.
        let other_now = world_of(1 - self.service).now;
        world().advance(other_now);
        world().is_calm |= iteration >= plan.iterations;
        let ends = world().is_at_rest || iteration >= plan.shutdown_at;
        if ends && !world().is_shutting_down() {
            self.shutdown();
        }
        self.wait_and_run(plan);
        world().stop_process(600 * SECOND);
        if world().happens(plan.iterations_per_change) {
            self.change_something(plan);
        }
    }

    fn run_loop(&mut self, timeout: Option<Duration>) {
        let requested = || world().begin_shutdown();
        let result = self.event_loop.turn(&mut self.engine, timeout, requested);
        check!(result.is_ok(), "the loop fails");
        let events = self.engine.connection_events();
        events.for_each(|it| world().check_event(&it));
        world().check_iteration(&self.engine.stats());
    }

    /// Runs the loop. A host that watches its descriptor waits as an outer event loop does, and runs it if the
    /// descriptor is readable or the timeout is over.
    fn wait_and_run(&mut self, plan: &Plan) {
        if !plan.is_nested {
            return self.run_loop(None);
        }
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

    /// Changes one thing.
    fn change_something(&mut self, plan: &Plan) {
        world().begin_iteration();
        let choice = world().random.below(5);
        match choice {
            0 => self.engine.pause_accepting(),
            1 => self.engine.resume_accepting(now()),
            2 => self.close_one(),
            3 => self.adopt_one(),
            _ => self.set_limits(plan),
        }
        // 0 pauses accepting, 1 resumes it.
        if choice < 2 && !world().is_shutting_down() {
            world().accepts_at = [NEVER, 0][choice as usize];
        }
        // Listeners have a turn, whether or not a connection waits.
        world().listeners().for_each(|it| it.futile_iterations = 0);
    }

    fn close_one(&mut self) {
        let first = world().connections().next().map(|it| it.id);
        let Some(id) = first else { return };
        // Each open connection is registered by now.
        let token = world().sockets[id].token.unwrap();
        world().is_host_closing = true;
        let is_known = self.engine.close_connection(token, now());
        world().is_host_closing = false;
        let is_open = world().sockets[id].is_open;
        check!(is_known && !is_open, "a connection is not closed");
    }

    /// Accepts a connection by itself. If adopting fails, its close is checked.
    fn adopt_one(&mut self) {
        let first = world().listeners().find_map(|it| it.waiting.pop_front());
        let Some(connection) = first else { return };
        let (stream, peer) = world().accepted(connection);
        let _ = self.engine.adopt(stream, peer, now());
    }

    /// Sets other limits. Open connections keep their places, and have the new timeouts and share the new
    /// budget.
    fn set_limits(&mut self, plan: &Plan) {
        let mut config = plan.config.clone();
        // The first limit fixes the range of tokens.
        draw_limits(&world().random, config.max_connections as u64, &mut config);
        let changed_at = world().engine_now;
        world().limits_changed_at = changed_at;
        world().plan.config = config.clone();
        world().retry_accepting();
        let result = self.engine.set_limits(&config, now());
        check!(result.is_ok(), "a limit cannot be changed");
    }
}

impl World {
    /// Notes the shutdown. The loop asks by it whether one is requested, when its waker was called, so it returns
    /// true. A second call does not extend the drain time.
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
