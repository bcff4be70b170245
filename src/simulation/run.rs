//! One run: the engine in the loop of [`Server`](crate::Server), with a host that behaves as the seed
//! says.

use std::net::SocketAddr;
use std::time::Duration;

use log::LevelFilter;
use mio::{Registry, Token};

use super::connections::Connection;
use super::datagrams::{self, UdpSocket};
use super::listeners::Listener;
use super::plan::{MILLISECOND, Micros, Plan, SECOND};
use super::selector::Selector;
use super::streams::Socket;
use super::world::{World, world};
use crate::echo::engine::Engine;
use crate::echo::slots::Source;
use crate::echo::udp::DatagramSocket;
use crate::net::System;
use crate::net::endpoint::Endpoint;
use crate::policy::log_lines;
use crate::server::{EventLoop, Server};
use crate::stats::Stats;

/// The simulated system.
enum Simulation {}

impl System for Simulation {
    type Listener = Listener;
    type Stream = Socket;
    type Datagrams = UdpSocket;
}

type Loop = EventLoop<Selector, Simulation>;

/// Turns for everything to be echoed, and for a shutdown to end. More than any run needs.
const MAX_TURNS: u64 = 20_000;

/// Runs a plan. The world stays as it is at the end.
pub(super) fn run(plan: &Plan, registry: &Registry, has_story: bool) {
    World::create(plan, has_story);
    log_lines::start(if has_story {
        LevelFilter::Trace
    } else {
        LevelFilter::Warn
    });
    let loops = (0..plan.echoes).map(|echo| create(plan, echo, registry));
    // Registering may fail.
    let loops: Option<Vec<Loop>> = loops.collect();
    let stats = loops.map(|loops| {
        Host {
            loops,
            due_at: vec![0; plan.echoes],
        }
        .run()
    });
    world(|world| world.check_end(&stats.unwrap_or_default()));
}

fn create(plan: &Plan, echo: usize, registry: &Registry) -> Option<Loop> {
    let address = datagrams::address(echo);
    let endpoints = [
        Endpoint::Tcp(address),
        Endpoint::Unix(format!("/echo/{echo}").into()),
    ];
    let mut sources = Vec::new();
    for endpoint in endpoints.into_iter().take(plan.listeners) {
        let listener = Listener::new(echo, endpoint.address().is_none());
        sources.push((endpoint, Source::Listener(Box::new(listener))));
    }
    if plan.has_udp {
        let endpoint = Endpoint::Udp(address);
        let socket = DatagramSocket::over(UdpSocket::new(echo), endpoint.clone());
        sources.push((endpoint, Source::Udp(Box::new(socket))));
    }
    let first_token = Token(Server::USER_TOKENS.end);
    let mut engine = Engine::new(plan.config.clone(), sources, registry, first_token).ok()?;
    engine.set_splice_min(plan.splice_min);
    Some(EventLoop::new(Selector::new(echo), engine))
}

/// The application around the loops.
struct Host {
    loops: Vec<Loop>,
    /// When each loop is due without an event.
    due_at: Vec<Micros>,
}

impl Host {
    /// Returns the counters of each echo at its end.
    fn run(mut self) -> Vec<Stats> {
        world(World::storm);
        let plan = world(|world| world.plan.clone());
        self.turns_until(plan.turns, |host| {
            let is_due = world(|world| world.turn >= plan.shutdown_turn);
            if is_due {
                host.shutdown();
            }
            false
        });
        world(World::calm_down);
        self.turns_until(MAX_TURNS, |_| world(|world| world.is_at_rest()));
        world(World::check_rest);
        self.shutdown();
        let is_finished = |host: &mut Host| host.loops.iter().all(|it| it.engine.is_finished());
        self.turns_until(MAX_TURNS, is_finished);
        if !is_finished(&mut self) {
            world(|world| world.fail("the shutdown does not end".to_owned()));
        }
        world(|world| world.is_over = true);
        self.loops.iter().map(|it| it.engine.stats()).collect()
    }

    /// Makes turns until the condition holds, nothing can happen any more, or a check is broken.
    fn turns_until(&mut self, count: u64, is_over: impl Fn(&mut Host) -> bool) {
        for _ in 0..count {
            if world(|world| world.fault.is_some()) || is_over(self) {
                return;
            }
            let is_asleep = if world(|world| world.plan.host.nested) {
                self.nested_turns()
            } else {
                self.turn(0, None)
            };
            if is_asleep {
                return;
            }
            world(World::pause);
        }
    }

    /// A turn of one loop. Returns whether it would sleep for ever.
    fn turn(&mut self, echo: usize, timeout: Option<Duration>) -> bool {
        let it = &mut self.loops[echo];
        let turned = it.turn(timeout, || world(World::begin_shutdown)).map(drop);
        world(|world| {
            if let Err(error) = turned {
                world.fail(format!("the loop fails: {error}"));
            }
            world.check_warnings(echo);
            world.check_turn(echo, &it.engine.stats());
        });
        it.selector.is_asleep
    }

    /// Calls each loop whose descriptor is readable or whose time has come, or waits for that.
    fn nested_turns(&mut self) -> bool {
        let mut has_turn = false;
        for echo in 0..self.loops.len() {
            let is_due = world(|world| world.has_events(echo) || self.due_at[echo] <= world.now);
            if is_due && !world(World::is_forgotten) {
                has_turn = true;
                self.turn(echo, Some(Duration::ZERO));
                let timeout = self.loops[echo].timeout();
                let timeout = timeout.map(|it| it.as_micros() as Micros);
                self.due_at[echo] =
                    timeout.map_or(Micros::MAX, |timeout| world(|world| world.now + timeout));
            }
        }
        !has_turn && self.wait()
    }

    /// Sleeps until a loop may be due. Returns whether that would be for ever.
    fn wait(&mut self) -> bool {
        world(|world| {
            for (echo, &due_at) in self.due_at.iter().enumerate() {
                let timeout = (due_at < Micros::MAX).then(|| due_at.saturating_sub(world.now));
                if timeout != Some(0) {
                    world.check_before_sleep(echo, timeout);
                }
            }
            let due = self.due_at.iter().copied().filter(|at| *at < Micros::MAX);
            let next = due.chain(world.next_happening()).min();
            let to = next.map(|at| at.max(world.now + 1));
            world.tell(|| format!("the host waits until {to:?}"));
            to.is_none_or(|to| {
                world.advance(to);
                false
            })
        })
    }

    fn shutdown(&mut self) {
        if world(|world| world.shutdown_at.is_some()) {
            return;
        }
        let wakes = world(|world| world.plan.echoes == 1 && world.random.one_in(2));
        world(|world| world.selectors.is_woken = true);
        if wakes {
            // The loop notices by itself.
            return;
        }
        for (echo, it) in self.loops.iter_mut().enumerate() {
            let now = world(|world| {
                world.begin_turn();
                world.begin_shutdown();
                world.instant()
            });
            it.engine.shutdown(now);
            world(|world| world.check_warnings(echo));
        }
        // A host of loops asks for their timeouts again.
        self.due_at.fill(0);
    }
}

impl World {
    fn begin_shutdown(&mut self) -> bool {
        self.tell(|| "shutdown".to_owned());
        self.shutdown_at.get_or_insert(self.now);
        for id in 0..self.backlogs.len() {
            self.backlogs[id].activity.idle_turns = 0;
        }
        if self.plan.has_udp {
            (0..self.plan.echoes).for_each(|echo| self.datagrams.activity(echo).idle_turns = 0);
        }
        true
    }

    /// Many clients connect at once, send what fits, and never read.
    fn storm(&mut self) {
        for number in 0..self.plan.storm as u16 {
            let address = SocketAddr::from(([10, 0, 0, 1], 20_000 + number));
            if let Some(id) = self.connect(0, Some(address)) {
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

    /// Connections with bytes or an end that were not echoed.
    fn left(&self) -> Option<&Connection> {
        let mut connections = self.connections.iter();
        let is_reading = |it: &Connection| it.owner.is_some() && it.is_open() && !it.write_closed;
        connections.find(|it| {
            is_reading(it) && (it.has_ended || it.error.is_some() || it.sent > it.echoed)
        })
    }

    fn is_at_rest(&self) -> bool {
        let mut backlogs = self.backlogs.iter();
        let all_accepted = backlogs.all(|it| it.is_empty() || !self.has_place(it.echo));
        all_accepted && self.left().is_none() && self.peers.iter().all(|it| it.next_at.is_none())
    }

    /// In the end everything that was sent has come back, and what has ended is closed.
    fn check_rest(&mut self) {
        if let Some(fault) = self
            .left()
            .map(|it| format!("{it} is not echoed to the end"))
        {
            self.fail(fault);
        }
    }

    /// The process is stopped for a while.
    fn pause(&mut self) {
        if !self.is_calm && self.random.one_in(self.plan.host.pauses) {
            let to = self.now + self.random.magnitude(600 * SECOND);
            self.tell(|| format!("the process is stopped until {to}"));
            self.advance(to);
        }
    }

    /// The host forgets a turn.
    fn is_forgotten(&mut self) -> bool {
        let is_forgotten = !self.is_calm && self.random.one_in(self.plan.host.forgets);
        if is_forgotten {
            let to = self.now + self.random.magnitude(10 * MILLISECOND);
            self.advance(to);
        }
        is_forgotten
    }
}
