//! The world: what all sockets, peers and checks share. There is one for each thread.
//!
//! It has facts only: which bytes were sent and received, which call returned what, who closed. The
//! checks judge the engine by them, and never by the engine's own state.

use std::cell::RefCell;
use std::fmt::Debug;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc::EMFILE;

use super::checks::Judge;
use super::connections::Connection;
use super::datagrams::Datagrams;
use super::listeners::Backlog;
use super::peers::Peer;
use super::plan::{Micros, Plan};
use super::random::Random;
use super::selector::{Selectors, Source};
use crate::policy::log_lines;

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// Calls `act` with the world of this thread.
pub(super) fn world<T>(act: impl FnOnce(&mut World) -> T) -> T {
    WORLD.with_borrow_mut(|world| act(world.as_mut().expect("created by `World::create`")))
}

/// The same where a value is dropped, unless that is because of a panic.
pub(super) fn world_at_drop(act: impl FnOnce(&mut World)) {
    if !thread::panicking() {
        world(act);
    }
}

/// A system call on a socket: fails with one of these errors of its manual page, if the seed says so.
pub(super) fn system_call<T: Debug>(
    source: Source,
    name: &str,
    errors: &[i32],
    act: impl FnOnce(&mut World) -> io::Result<T>,
) -> io::Result<T> {
    world(|world| {
        let result = world.call(errors).and_then(|()| act(world));
        let activity = world.activity(source);
        activity.had_call = true;
        let errno = result.as_ref().err().and_then(io::Error::raw_os_error);
        activity.would_block |= errno == Some(Errno::EAGAIN as i32);
        world.tell(|| match errno {
            Some(errno) => format!("{source:?}: {name}: {:?}", Errno::from_raw(errno)),
            None => format!("{source:?}: {name}: {result:?}"),
        });
        result
    })
}

pub(super) fn error<T>(errno: i32) -> io::Result<T> {
    Err(io::Error::from_raw_os_error(errno))
}

pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) random: Random,
    start: Instant,
    /// The clock. Only the simulation moves it.
    pub(super) now: Micros,
    /// What the engine was told in its present turn.
    pub(super) turn_now: Micros,
    pub(super) turn: u64,
    /// From here on no call fails, and all peers read and close.
    pub(super) is_calm: bool,
    pub(super) shutdown_at: Option<Micros>,
    /// The engines are dropped.
    pub(super) is_over: bool,
    pub(super) selectors: Selectors,
    pub(super) connections: Vec<Connection>,
    pub(super) backlogs: Vec<Backlog>,
    pub(super) datagrams: Datagrams,
    pub(super) peers: Vec<Peer>,
    /// Descriptors of connections and pipes.
    pub(super) descriptors: usize,
    pub(super) pipes: usize,
    /// No pipe could be opened in this turn.
    pub(super) is_without_pipe: bool,
    pub(super) calls: u64,
    pub(super) calls_in_turn: u64,
    failures: usize,
    pub(super) judge: Judge,
    /// The first broken check.
    pub(super) fault: Option<String>,
    /// One line for each call, event and sleep; written only if asked for.
    story: Option<Vec<String>>,
}

/// More calls than any turn needs.
const MAX_CALLS_IN_TURN: u64 = 20_000;

impl World {
    /// Replaces the world of this thread.
    pub(super) fn create(plan: &Plan, has_story: bool) {
        let peers = plan.peers.iter().map(|&number| Peer::new(plan, number));
        WORLD.set(Some(World {
            random: Random::new(plan.seed ^ (1 << 63)),
            start: Instant::now(),
            now: 0,
            turn_now: 0,
            turn: 0,
            is_calm: false,
            shutdown_at: None,
            is_over: false,
            selectors: Selectors::new(plan.echoes),
            connections: Vec::new(),
            backlogs: Vec::new(),
            datagrams: Datagrams::new(plan),
            peers: peers.collect(),
            descriptors: 0,
            pipes: 0,
            is_without_pipe: false,
            calls: 0,
            calls_in_turn: 0,
            failures: 0,
            judge: Judge::new(plan.echoes),
            fault: None,
            story: has_story.then(Vec::new),
            plan: plan.clone(),
        }));
    }

    /// The story of the last run, also after a panic.
    pub(super) fn take_story() -> Vec<String> {
        WORLD
            .with_borrow_mut(|world| world.as_mut()?.story.take())
            .unwrap_or_default()
    }

    pub(super) fn instant(&self) -> Instant {
        self.start + Duration::from_micros(self.now)
    }

    /// Adds a line to the story, behind what the engine has logged.
    pub(super) fn tell(&mut self, line: impl FnOnce() -> String) {
        if let Some(story) = &mut self.story {
            let lines = log_lines::take().into_iter();
            story.extend(lines.map(|(level, line)| format!("{level:>17} {line}")));
            let (seconds, micros) = (self.now / 1_000_000, self.now % 1_000_000);
            story.push(format!("{seconds:>6}.{micros:06} {}", line()));
        }
    }

    /// A check is broken. The first one counts.
    pub(super) fn fail(&mut self, fault: String) {
        self.tell(|| format!("FAULT: {fault}"));
        self.fault.get_or_insert(fault);
    }

    pub(super) fn fail_all(&mut self, faults: Vec<String>) {
        for fault in faults {
            self.fail(fault);
        }
    }

    /// A turn of an engine begins.
    pub(super) fn begin_turn(&mut self) {
        self.turn += 1;
        self.turn_now = self.now;
        self.calls_in_turn = 0;
        self.is_without_pipe = false;
        self.selectors.reported.clear();
        self.connections
            .iter_mut()
            .for_each(|it| it.activity.begin_turn());
        self.backlogs.iter_mut().for_each(Backlog::begin_turn);
        self.datagrams.begin_turn();
    }

    /// Takes time, and fails if the seed says so. Meanwhile a peer may act.
    pub(super) fn call(&mut self, errors: &[i32]) -> io::Result<()> {
        self.calls += 1;
        self.calls_in_turn += 1;
        assert!(
            self.calls_in_turn < MAX_CALLS_IN_TURN,
            "the turn does not end"
        );
        self.now += self.random.below(3);
        if self.turn > 0 && self.random.one_in(8) && !self.peers.is_empty() {
            let index = self.random.below(self.peers.len() as u64) as usize;
            if self.peers[index].next_at.is_some_and(|at| at <= self.now) {
                self.act(index);
            }
        }
        if self.failures < self.plan.max_failures && self.has_trouble(1) {
            self.failures += 1;
            return error(self.random.pick(errors));
        }
        Ok(())
    }

    /// True so many times less often than calls fail.
    pub(super) fn has_trouble(&mut self, less: u64) -> bool {
        !self.is_calm && self.random.one_in(less * self.plan.trouble)
    }

    /// Takes descriptors, if there are any.
    pub(super) fn open_descriptors(&mut self, count: usize) -> io::Result<()> {
        // They run out and come back.
        let is_short = !self.is_calm && self.random.one_in(2);
        if is_short && self.descriptors + count > self.plan.max_descriptors {
            return error(EMFILE);
        }
        self.descriptors += count;
        Ok(())
    }

    /// Open connections of an echo: accepted, and not closed.
    pub(super) fn open(&self, echo: usize) -> impl Iterator<Item = &Connection> {
        let of_echo = self.connections.iter().filter(move |it| it.echo == echo);
        of_echo.filter(|it| it.is_open())
    }

    /// When something happens next without the engines.
    pub(super) fn next_happening(&self) -> Option<Micros> {
        let peers = self.peers.iter().filter_map(|it| it.next_at);
        let events = self.selectors.next_at(self.now);
        peers.chain(events).chain(self.datagrams.next_at()).min()
    }

    /// Moves the clock, and has the peers act whose time has come.
    pub(super) fn advance(&mut self, to: Micros) {
        loop {
            let peers = self.peers.iter().enumerate();
            let next = peers
                .filter_map(|(index, it)| Some((it.next_at?, index)))
                .min();
            let Some((at, index)) = next.filter(|(at, _)| *at <= to) else {
                break;
            };
            self.now = self.now.max(at);
            self.act(index);
        }
        self.now = self.now.max(to);
        self.datagrams.advance(self.now);
    }

    pub(super) fn activity(&mut self, source: Source) -> &mut Activity {
        match source {
            Source::Connection(id) => &mut self.connections[id].activity,
            Source::Backlog(id) => &mut self.backlogs[id].activity,
            Source::Datagrams(echo) => self.datagrams.activity(echo),
        }
    }
}

/// What a socket did in this turn and in the turns before.
#[derive(Debug, Clone, Default)]
pub(super) struct Activity {
    pub(super) had_call: bool,
    pub(super) has_read: bool,
    pub(super) has_progress: bool,
    pub(super) would_block: bool,
    /// Turns in a row with calls and without progress, and with work and without calls.
    pub(super) idle_turns: u32,
    pub(super) starved_turns: u32,
}

impl Activity {
    pub(super) fn begin_turn(&mut self) {
        *self = Activity {
            idle_turns: self.idle_turns,
            starved_turns: self.starved_turns,
            ..Activity::default()
        };
    }
}
