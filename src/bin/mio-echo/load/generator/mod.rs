//! The loop: what it has, what it waits for, and what follows from each event.

mod connecting;
mod modes;
mod phases;

use std::io;
use std::time::Duration;

use mio::{Events, Poll, Token};
use mio_echo::Endpoint;

use crate::cli::CliError;
use crate::load::connection::{Bench, Connection, State};
use crate::load::connector::Opener;
use crate::load::options::{Mode, Options};
use crate::load::process_stats::{Memory, Snapshot, Usage};
use crate::load::progress::Progress;
use crate::load::report::Results;
use crate::load::schedule::Pace;
use crate::signals::Signals;
use crate::socket::poll_once;

const SIGNALS: Token = Token(usize::MAX - 1);
const TIMER: Token = Token(usize::MAX - 2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Connecting,
    /// Messages are sent, whether they count yet or not.
    Running,
    /// Nothing is sent; connections are held.
    Holding,
    /// Nothing more is sent, but for what was due before; what is missing may still come.
    Draining,
    Over,
}

pub(crate) struct Generator {
    options: Options,
    mode: Mode,
    phase: Phase,
    poll: Poll,
    signals: Signals,
    is_stopped: bool,
    opener: Opener,
    bench: Bench,
    connections: Vec<Connection>,
    outstanding: usize,
    /// How many of the connections were opened at least once, and how many are about to be.
    opened: usize,
    connecting: usize,
    /// Those to be opened again at the next sweep, and those with more to read than they may in
    /// a turn.
    retries: Vec<usize>,
    again: Vec<usize>,
    pace: Option<Pace>,
    /// The connection that sends next, in the open loop.
    turn: usize,
    /// How many messages may still be sent, of those that count.
    budget: u64,
    /// When the messages begin to count, when they end, and when the present phase does, at the
    /// latest.
    start: u64,
    end: u64,
    deadline: u64,
    /// When to look after what no event tells of.
    sweep: u64,
    usage: Usage,
    first: Snapshot,
    last: Snapshot,
    memory: [Option<Memory>; 2],
    /// Since when the connections are held.
    held_since: u64,
    progress: Progress,
}

impl Generator {
    pub(crate) fn new(
        options: Options,
        is_quiet: bool,
        endpoints: &[Endpoint],
    ) -> Result<Self, CliError> {
        let mode = options.mode();
        // All endpoints are of the same transport. The time to connect begins here.
        let bench = Bench::new(options.size(&endpoints[0]));
        let endpoint = reachable(endpoints, options.connect_timeout());
        let outstanding = options.outstanding(endpoint);
        let poll = Poll::new()?;
        let usage = Usage::new(options.server_pid).map_err(|error| {
            let pid = options.server_pid.unwrap_or_default();
            CliError::usage(format!("--server-pid {pid}: {error}"))
        })?;
        let mut signals = Signals::new()?;
        signals.catch_stops()?;
        signals.register(poll.registry(), SIGNALS)?;
        let connection = |number| Connection::new(number, outstanding);
        Ok(Generator {
            mode,
            phase: Phase::Connecting,
            signals,
            poll,
            is_stopped: false,
            opener: Opener::new(endpoint.clone(), matches!(mode, Mode::Churn | Mode::Hold)),
            bench,
            connections: (0..options.connections()).map(connection).collect(),
            outstanding,
            opened: 0,
            connecting: 0,
            retries: Vec::new(),
            again: Vec::new(),
            pace: None,
            turn: 0,
            budget: options.count.unwrap_or(u64::MAX),
            start: u64::MAX,
            end: u64::MAX,
            deadline: nanoseconds(options.connect_timeout()),
            sweep: 0,
            usage,
            first: Snapshot::default(),
            last: Snapshot::default(),
            memory: [None; 2],
            held_since: u64::MAX,
            progress: Progress::new(!is_quiet && !options.json),
            options,
        })
    }

    pub(crate) fn run(mut self) -> io::Result<Results> {
        let mut events = Events::with_capacity(1024);
        if self.mode == Mode::Hold {
            // The connecting is what is measured.
            self.memory[0] = self.usage.server_memory();
            self.begin_to_count(self.bench.now());
        }
        while self.phase != Phase::Over {
            let timeout = self.timeout();
            poll_once(&mut self.poll, &mut events, Some(timeout))?;
            for event in &events {
                match event.token() {
                    SIGNALS => self.is_stopped |= self.signals.pending().count() > 0,
                    TIMER => self.pace.iter().for_each(Pace::tick),
                    Token(index) => {
                        self.connections[index].note(event);
                        self.attend(index);
                    }
                }
            }
            for index in std::mem::take(&mut self.again) {
                self.attend(index);
            }
            self.after_events()?;
        }
        self.progress.finish();
        Ok(self.finish())
    }

    /// How long the loop may sleep.
    fn timeout(&self) -> Duration {
        if !self.again.is_empty() {
            return Duration::ZERO;
        }
        let mut until = self.sweep.min(self.deadline).min(self.start);
        if let Some(due) = self.pace.as_ref().and_then(Pace::wakes_at) {
            until = until.min(due);
        }
        Duration::from_nanos(until.saturating_sub(self.bench.now()))
    }

    /// Does what is possible on a connection.
    fn attend(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        let done = match connection.state {
            State::Closed => return,
            State::Connecting => match connection.has_connected() {
                Ok(true) => {
                    self.connecting -= 1;
                    Ok(())
                }
                Ok(false) => return,
                Err(error) => Err(error),
            },
            State::Open => Ok(()),
        };
        if let Err(error) = done.and_then(|()| self.exchange(index)) {
            self.fail(index, &error);
        }
    }

    fn exchange(&mut self, index: usize) -> io::Result<()> {
        let connection = &mut self.connections[index];
        let before = connection.window.outstanding();
        let (now, more) = match connection.receive(&mut self.bench, false) {
            // Whoever closes behind the echo does what is done here, and was faster.
            Err(_) if self.mode == Mode::Churn && connection.window.outstanding() < before => {
                (None, false)
            }
            received => received?,
        };
        if more {
            self.again.push(index);
        }
        self.proceed(index, now)
    }

    fn after_events(&mut self) -> io::Result<()> {
        let now = self.bench.now();
        if self.is_stopped && self.phase != Phase::Draining {
            self.drain(now);
        }
        match self.phase {
            Phase::Connecting => self.connect_more(now)?,
            Phase::Running => {
                if now >= self.start {
                    self.begin_to_count(now);
                    self.start = u64::MAX;
                }
                self.dispatch();
                if now >= self.end || self.budget == 0 {
                    self.drain(now);
                }
            }
            Phase::Holding if now >= self.deadline => self.phase = Phase::Over,
            Phase::Holding | Phase::Over => {}
            Phase::Draining => self.go_on_draining(now),
        }
        if now >= self.sweep {
            self.sweep(now);
        }
        Ok(())
    }

    /// Looks after what no event tells of, now and then.
    fn sweep(&mut self, now: u64) {
        let timeout = nanoseconds(self.options.timeout);
        let period = (timeout / 8).clamp(1_000_000, nanoseconds(Progress::PERIOD));
        self.sweep = now + period;
        if self.phase == Phase::Running && (!self.opener.is_stream() || self.mode == Mode::Churn) {
            self.give_up_before(now.saturating_sub(timeout));
        }
        for index in std::mem::take(&mut self.retries) {
            if matches!(self.phase, Phase::Connecting | Phase::Running) {
                self.open(index);
            }
        }
        let is_over = |it: &Connection| it.state == State::Closed;
        let is_running = matches!(self.phase, Phase::Running | Phase::Holding);
        if is_running && self.mode != Mode::Churn && self.connections.iter().all(is_over) {
            self.drain(now);
        }
        self.show_progress(now);
    }
}

/// That one of a host's addresses where somebody accepts, in the order in which the resolver gave
/// them; the first where nobody does within that time, so that this is said of all connections.
fn reachable(endpoints: &[Endpoint], time: Duration) -> &Endpoint {
    let each = time / u32::try_from(endpoints.len()).unwrap_or(u32::MAX);
    let accepts = |endpoint: &&Endpoint| match endpoint {
        Endpoint::Tcp(address) => std::net::TcpStream::connect_timeout(address, each).is_ok(),
        _ => true,
    };
    match endpoints {
        [only] => only,
        several => several.iter().find(accepts).unwrap_or(&several[0]),
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos())
        .unwrap_or(u64::MAX / 4)
        .min(u64::MAX / 4)
}
