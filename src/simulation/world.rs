//! The world: what all sockets, peers and checks share. There is one for each thread.
//!
//! It has facts only: which bytes were sent and received, which call returned what, which end closed.
//! The checks judge the engine by them, by its counters and by its log, and never by its private state.

use std::cell::RefCell;
use std::io;
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use log::Level;
use mio::Token;

use super::checks::Echo;
use super::connections::Connection;
use super::datagrams::SentDatagram;
use super::errors::{EINTR, EMFILE};
use super::listeners::Backlog;
use super::peers::Peer;
use super::plan::{Micros, NEVER, Plan};
use super::random::Random;
use crate::policy::log_lines;

thread_local! {
    static WORLD: RefCell<World> = RefCell::default();
}

/// Calls `act` with the world of this thread.
pub(super) fn world<T>(act: impl FnOnce(&mut World) -> T) -> T {
    WORLD.with_borrow_mut(act)
}

/// The same where a value is dropped, unless that is because of a panic.
pub(super) fn world_at_drop(act: impl FnOnce(&mut World)) {
    if !thread::panicking() {
        world(act);
    }
}

/// The result of a call that fails.
pub(super) fn error<T>(errno: i32) -> io::Result<T> {
    // No number of Windows is of this kind.
    if cfg!(windows) && errno == EINTR {
        return Err(io::ErrorKind::Interrupted.into());
    }
    Err(io::Error::from_raw_os_error(errno))
}

/// The facts of one run.
#[derive(Default)]
pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) random: Random,
    /// The clock. Only the simulation moves it.
    pub(super) now: Micros,
    /// The time that the engine knows in its present turn.
    pub(super) turn_now: Micros,
    /// Turns of all echoes.
    pub(super) turn: u64,
    /// From here on no call fails, and all peers read and close.
    pub(super) is_calm: bool,
    pub(super) shutdown_at: Micros,
    /// The engines are dropped.
    pub(super) is_over: bool,
    /// Nothing can happen any more without the engines, and they wait.
    pub(super) is_asleep: bool,
    /// The last poll returned events, or was interrupted by a signal.
    pub(super) had_events: bool,
    pub(super) echoes: Vec<Echo>,
    pub(super) backlogs: Vec<Backlog>,
    pub(super) connections: Vec<Connection>,
    pub(super) datagrams: Vec<SentDatagram>,
    /// Datagrams that were answered.
    pub(super) replies: u64,
    pub(super) peers: Vec<Peer>,
    /// Tokens of sockets that were closed.
    pub(super) stale_tokens: Vec<Token>,
    /// Open pipes, of two descriptors each.
    pub(super) pipes: usize,
    /// No pipe could be opened in this turn.
    pub(super) lacks_pipe: bool,
    pub(super) calls: u64,
    pub(super) calls_in_turn: u64,
    failures: usize,
    has_story: bool,
    /// One line for each call, event and sleep.
    story: RefCell<Vec<String>>,
}

/// More calls than any turn needs.
const MAX_CALLS_IN_TURN: u64 = 20_000;

impl World {
    pub(super) fn new(plan: &Plan, has_story: bool) -> Self {
        let peers = plan.peers.iter().map(|&number| Peer::new(plan, number));
        let echoes = (0..plan.echoes).map(Echo::new);
        World {
            random: Random::new(plan.seed ^ (1 << 63)),
            shutdown_at: NEVER,
            echoes: echoes.collect(),
            peers: peers.collect(),
            has_story,
            plan: plan.clone(),
            ..World::default()
        }
    }

    pub(super) fn instant(&self) -> Instant {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        *START + Duration::from_micros(self.now)
    }

    /// Adds a line to the story, behind what the engine has logged.
    pub(super) fn tell(&self, line: impl FnOnce() -> String) {
        if self.has_story {
            self.take_log();
            let (seconds, micros) = (self.now / 1_000_000, self.now % 1_000_000);
            let line = format!("{seconds:>6}.{micros:06} {}", line());
            self.story.borrow_mut().push(line);
        }
    }

    /// What the engine has logged since the last call. It becomes a part of the story.
    pub(super) fn take_log(&self) -> Vec<(Level, String)> {
        let lines = log_lines::take();
        if self.has_story {
            let story = lines
                .iter()
                .map(|(level, line)| format!("{level:>17} {line}"));
            self.story.borrow_mut().extend(story);
        }
        lines
    }

    pub(super) fn take_story(&mut self) -> Vec<String> {
        self.take_log();
        self.story.take()
    }

    /// A turn of an echo begins.
    pub(super) fn begin_turn(&mut self) {
        self.turn += 1;
        self.turn_now = self.now;
        self.calls_in_turn = 0;
        self.lacks_pipe = false;
        for connection in &mut self.connections {
            connection.socket.begin_turn();
        }
        for backlog in &mut self.backlogs {
            backlog.begin_turn();
        }
        for echo in &mut self.echoes {
            echo.udp.socket.begin_turn();
        }
    }

    /// A system call takes time, and fails if the seed says so. Meanwhile a peer may act.
    pub(super) fn call(&mut self, errors: &[i32]) -> io::Result<()> {
        self.calls += 1;
        self.calls_in_turn += 1;
        let is_endless = self.calls_in_turn > MAX_CALLS_IN_TURN;
        assert!(!is_endless, "the turn does not end");
        self.now += self.random.below(3);
        if self.turn > 0 && self.random.one_in(8) && !self.peers.is_empty() {
            let index = self.random.below(self.peers.len() as u64) as usize;
            if self.peers[index].next_at <= self.now {
                self.act(index);
            }
        }
        if self.failures < self.plan.max_failures && self.has_trouble(1) {
            self.failures += 1;
            return error(self.random.pick(errors));
        }
        Ok(())
    }

    /// True `less` times less often than calls fail.
    pub(super) fn has_trouble(&self, less: u64) -> bool {
        !self.is_calm && self.random.one_in(less * self.plan.trouble)
    }

    /// Fails if opening `count` descriptors reaches the limit. The limit comes and goes.
    pub(super) fn check_descriptors(&self, count: usize) -> io::Result<()> {
        let connections = self.connections.iter().filter(|it| it.is_open());
        let count = connections.count() + 2 * self.pipes + count;
        let is_limited = !self.is_calm && self.random.one_in(2);
        if is_limited && count > self.plan.max_descriptors {
            return error(EMFILE);
        }
        Ok(())
    }

    /// Open connections of an echo: accepted, and not closed.
    pub(super) fn open(&self, echo: usize) -> impl Iterator<Item = &Connection> {
        let connections = self.connections.iter();
        connections.filter(move |it| it.socket.echo == echo && it.is_open())
    }

    /// Moves the clock. Peers act when their time comes.
    pub(super) fn advance(&mut self, to: Micros) {
        loop {
            let peers = self.peers.iter().enumerate();
            let next = peers.map(|(index, peer)| (peer.next_at, index)).min();
            let Some((at, index)) = next.filter(|(at, _)| *at <= to) else {
                break;
            };
            self.now = self.now.max(at);
            self.act(index);
        }
        self.now = self.now.max(to);
        for echo in &mut self.echoes {
            echo.udp.unresolved.retain(|until| *until > self.now);
        }
    }
}
