//! One run: the engine in the loop of [`Server`](crate::Server), with a host that behaves as the seed
//! says.

use std::net::SocketAddr;
use std::time::Duration;

use log::LevelFilter::{Trace, Warn};
use mio::{Registry, Token};

use super::connections::Connection;
use super::datagrams;
use super::plan::{MILLISECOND, Micros, NEVER, Plan, SECOND};
use super::selector::Selector;
use super::sockets::{self, Descriptor};
use super::world::{World, world};
use crate::echo::engine::Engine;
use crate::echo::slots::Source;
use crate::echo::udp::DatagramSocket;
use crate::net::System;
use crate::net::endpoint::Endpoint;
use crate::policy::log_lines;
use crate::server::{EventLoop, Server};

/// The simulated system.
enum Simulation {}

impl System for Simulation {
    type Listener = Descriptor;
    type Stream = Descriptor;
    type Datagrams = Descriptor;
}

/// As [`Server`] is: a loop, and the engine in it.
struct Service {
    event_loop: EventLoop<Selector>,
    engine: Engine<Simulation>,
}

/// Turns for everything to be echoed, and for a shutdown to end. More than any run needs.
const MAX_TURNS: u64 = 20_000;

/// Runs a plan. The world stays as it is at the end.
pub(super) fn run(plan: &Plan, registry: &Registry, has_story: bool) {
    world(|world| *world = World::new(plan, has_story));
    log_lines::start(if has_story { Trace } else { Warn });
    let loops = (0..plan.echoes).map(|echo| create(plan, echo, registry));
    // Registering may fail.
    if let Some(loops) = loops.collect() {
        Host::new(loops).run(plan);
    }
}

fn create(plan: &Plan, echo: usize, registry: &Registry) -> Option<Service> {
    let address = datagrams::address(echo);
    let path = format!("/echo/{echo}");
    let mut sources = Vec::new();
    for endpoint in [Endpoint::Tcp(address), Endpoint::Unix(path.into())] {
        if sources.len() < plan.listeners {
            let is_unix = endpoint.address().is_none();
            let listener = world(|world| world.listen(echo, is_unix));
            sources.push((endpoint, Source::Listener(Box::new(listener))));
        }
    }
    if plan.has_udp {
        let endpoint = Endpoint::Udp(address);
        let descriptor = Descriptor(sockets::Source::Udp(echo));
        let socket = DatagramSocket::over(descriptor, endpoint.clone());
        sources.push((endpoint, Source::Udp(Box::new(socket))));
    }
    let first_token = Token(Server::USER_TOKENS.end);
    let now = world(|world| world.instant());
    let config = plan.config.clone();
    let mut engine = Engine::new(config, sources, registry, first_token, now).ok()?;
    engine.set_splice_min(plan.splice_min);
    let events = Vec::new();
    let event_loop = EventLoop::new(Selector { echo, events });
    Some(Service { event_loop, engine })
}

/// The application around the loops.
struct Host {
    loops: Vec<Service>,
    /// When each loop has to be called without an event, if it is nested.
    due_at: Vec<Micros>,
}

impl Host {
    fn new(loops: Vec<Service>) -> Self {
        let due_at = vec![0; loops.len()];
        Host { loops, due_at }
    }

    fn run(mut self, plan: &Plan) {
        world(World::storm);
        self.turns_until(plan.turns, |host| {
            if world(|world| world.turn >= plan.shutdown_turn) {
                host.shutdown();
            }
            false
        });
        world(World::calm_down);
        self.turns_until(MAX_TURNS, |_| world(|world| world.is_at_rest()));
        world(|world| world.check_rest());
        self.shutdown();
        let is_finished = |host: &mut Host| host.loops.iter().all(|it| it.engine.is_finished());
        self.turns_until(MAX_TURNS, is_finished);
        assert!(is_finished(&mut self), "the shutdown does not end");
        world(|world| world.is_over = true);
        let stats: Vec<_> = self.loops.iter().map(|it| it.engine.stats()).collect();
        drop(self);
        world(|world| world.check_end(&stats));
    }

    /// Makes turns until the condition holds, or nothing can happen any more.
    fn turns_until(&mut self, count: u64, is_over: impl Fn(&mut Host) -> bool) {
        for _ in 0..count {
            if is_over(self) {
                return;
            }
            if world(|world| world.plan.is_nested) {
                self.nested_turns();
            } else {
                self.turn(0, None);
            }
            world(|world| world.pause(world.plan.pauses, 600 * SECOND));
            if world(|world| world.is_asleep) {
                return;
            }
        }
    }

    /// A turn of one loop.
    fn turn(&mut self, echo: usize, timeout: Option<Duration>) {
        let Service { event_loop, engine } = &mut self.loops[echo];
        let turned = event_loop.turn(engine, timeout, || world(World::begin_shutdown));
        assert!(turned.is_ok(), "the loop fails: {turned:?}");
        let stats = engine.stats();
        world(|world| world.check_turn(echo, &stats));
    }

    /// Waits as a host does that has other work, and calls each loop that has events or is due.
    fn nested_turns(&mut self) {
        let due_at: Vec<_> = self.due_at.iter().copied().enumerate().collect();
        // After a signal it looks as well.
        let _ = world(|world| world.sleep(&due_at));
        for (echo, due_at) in due_at {
            let is_called = world(|world| {
                let is_due = world.has_events(echo) || due_at <= world.now;
                is_due && !world.pause(world.plan.delays, 10 * MILLISECOND)
            });
            if is_called {
                self.turn(echo, Some(Duration::ZERO));
                let Service { event_loop, engine } = &self.loops[echo];
                let timeout = event_loop.timeout(engine);
                let timeout = timeout.map_or(NEVER, |it| it.as_micros() as Micros);
                self.due_at[echo] = world(|world| world.now.saturating_add(timeout));
            }
        }
    }

    /// Wakes the loop, which notices the shutdown by itself, or calls the engines.
    fn shutdown(&mut self) {
        if world(|world| world.is_shutting_down()) {
            return;
        }
        world(|world| world.echoes[0].is_woken = true);
        if world(|world| world.plan.echoes == 1 && world.random.one_in(2)) {
            return;
        }
        let now = world(|world| {
            world.begin_turn();
            world.begin_shutdown();
            world.instant()
        });
        for (echo, service) in self.loops.iter_mut().enumerate() {
            service.engine.shutdown(now);
            world(|world| world.check_warnings(echo));
        }
        // A host of loops asks for their timeouts again.
        self.due_at.fill(0);
    }
}

impl World {
    /// Returns true: the shutdown is requested.
    fn begin_shutdown(&mut self) -> bool {
        self.tell(|| "shutdown".to_owned());
        self.shutdown_at = self.shutdown_at.min(self.turn_now);
        // Listeners and UDP sockets have a last turn.
        for backlog in &mut self.backlogs {
            backlog.socket.idle_turns = 0;
        }
        for echo in &mut self.echoes {
            echo.udp.socket.idle_turns = 0;
        }
        true
    }

    /// Many clients connect at once, send what fits, and never read.
    fn storm(&mut self) {
        for number in 0..self.plan.storm {
            let address = SocketAddr::from(([10, 0, 0, 1], 20_000 + number));
            if let Some(id) = self.connect(0, address) {
                let connection = &mut self.connections[id];
                connection.sent = connection.inbound_capacity.min(30);
            }
        }
    }

    fn calm_down(&mut self) {
        self.tell(|| "from here on nothing fails, and all peers read and close".to_owned());
        self.is_calm = true;
        for id in 0..self.connections.len() {
            // The system tunes the buffers.
            self.connections[id].outbound_capacity = self.plan.max_capacity;
            self.report_room(id);
        }
        for peer in &mut self.peers {
            let sent = peer.connection.map_or(0, |id| self.connections[id].sent);
            peer.calm_down(self.now, sent);
        }
    }

    /// A connection of a peer with bytes, an end or an error that the echo has not answered.
    fn unanswered(&self) -> Option<&Connection> {
        self.connections.iter().find(|it| {
            let has_input = it.has_ended || it.error.is_some() || it.sent > it.echoed;
            it.owner.is_some() && it.is_open() && !it.write_closed && has_input
        })
    }

    fn is_at_rest(&self) -> bool {
        let can_accept = |echo| self.has_place(echo);
        let mut backlogs = self.backlogs.iter();
        backlogs.all(|it| it.waiting.is_empty() || !can_accept(it.socket.echo))
            && self.unanswered().is_none()
            && self.peers.iter().all(|it| it.next_at == NEVER)
    }

    /// In the end everything that was sent has come back, and what has ended is closed.
    fn check_rest(&self) {
        if let Some(connection) = self.unanswered() {
            panic!("{connection} is not echoed to the end");
        }
    }

    /// Once in `n` times the process is stopped, for a time up to `max`. Peers go on.
    fn pause(&mut self, n: u64, max: Micros) -> bool {
        let is_paused = !self.is_calm && self.random.one_in(n);
        if is_paused {
            let to = self.now + self.random.magnitude(max);
            self.tell(|| format!("the process is stopped until {to}"));
            self.advance(to);
        }
        is_paused
    }
}
