//! The event loop.

mod connecting;
mod modes;
mod phases;

use std::io;
use std::time::Duration;

use mio::{Events, Poll, Token};
use mio_echo::Endpoint;

use crate::cli::CliError;
use crate::load::connection::{Connection, Shared, State};
use crate::load::connector::Connector;
use crate::load::options::{Mode, Options};
use crate::load::process_stats::{Memory, ProcessStats, Snapshot};
use crate::load::progress::Progress;
use crate::load::report::Results;
use crate::load::schedule::Schedule;
use crate::signals::Signals;
use crate::socket::poll_once;

const SIGNALS: Token = Token(usize::MAX - 1);
const TIMER: Token = Token(usize::MAX - 2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Connecting,
    /// Messages are sent; in the warm-up they do not count yet.
    Running,
    /// Nothing is sent, and connections stay open.
    Holding,
    /// Only messages that are already due are sent, and missing answers are awaited.
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
    connector: Connector,
    shared: Shared,
    connections: Vec<Connection>,
    outstanding: usize,
    /// Connections that were opened at least once, and those that are not yet established.
    opened: usize,
    connecting: usize,
    /// Connections to open again at the next sweep, and those with more to read than one turn
    /// allows.
    retries: Vec<usize>,
    again: Vec<usize>,
    schedule: Option<Schedule>,
    /// The connection that sends the next message, in the open loop.
    turn: usize,
    /// Messages that may still be sent.
    budget: u64,
    /// Start of the load, start and end of the measurement, and the latest end of the phase. All times are in
    /// nanoseconds since the start of the program.
    running_since: u64,
    start: u64,
    end: u64,
    deadline: u64,
    /// When the next sweep is due.
    sweep: u64,
    process_stats: ProcessStats,
    first: Snapshot,
    last: Snapshot,
    memory: [Option<Memory>; 2],
    /// When holding began.
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
        // All endpoints have the same transport. The connect timeout starts here.
        let size = options.size(&endpoints[0]);
        let shared = Shared::new(size, options.segment);
        let endpoint = first_reachable(endpoints, options.connect_timeout());
        let outstanding = options.outstanding(endpoint);
        let poll = Poll::new()?;
        let process_stats = ProcessStats::new(options.server_pid).map_err(|error| {
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
            connector: Connector::new(
                endpoint.clone(),
                matches!(mode, Mode::Churn | Mode::Hold),
                options.segment.then_some(size),
            ),
            shared,
            connections: (0..options.connections()).map(connection).collect(),
            outstanding,
            opened: 0,
            connecting: 0,
            retries: Vec::new(),
            again: Vec::new(),
            schedule: None,
            turn: 0,
            budget: options.count.unwrap_or(u64::MAX),
            running_since: 0,
            start: u64::MAX,
            end: u64::MAX,
            deadline: nanoseconds(options.connect_timeout()),
            sweep: 0,
            process_stats,
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
            // Connecting is measured too.
            self.memory[0] = self.process_stats.server_memory();
            self.start_counting(self.shared.now());
        }
        while self.phase != Phase::Over {
            let timeout = self.timeout();
            poll_once(&mut self.poll, &mut events, Some(timeout))?;
            for event in &events {
                match event.token() {
                    SIGNALS => self.is_stopped |= self.signals.pending().count() > 0,
                    TIMER => self.schedule.iter().for_each(Schedule::tick),
                    Token(index) => {
                        self.connections[index].take_event(event);
                        self.handle_connection(index);
                    }
                }
            }
            for index in std::mem::take(&mut self.again) {
                self.handle_connection(index);
            }
            self.after_events()?;
        }
        self.progress.finish();
        Ok(self.finish())
    }

    /// Time until the loop has something to do without an event.
    fn timeout(&self) -> Duration {
        if !self.again.is_empty() {
            return Duration::ZERO;
        }
        let mut until = self.sweep.min(self.deadline).min(self.start);
        if let Some(due) = self.schedule.as_ref().and_then(Schedule::wakes_at) {
            until = until.min(due);
        }
        Duration::from_nanos(until.saturating_sub(self.shared.now()))
    }

    /// Handles a connection after an event.
    fn handle_connection(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        let done = match connection.state {
            State::Closed => return,
            State::Connecting => match connection.finish_connecting() {
                Ok(true) => {
                    self.connecting -= 1;
                    self.shared.counters.count_connection();
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
        let before = connection.in_flight.outstanding();
        let (now, more) = match connection.receive(&mut self.shared, false) {
            // The service closed after its echo, before load did.
            Err(_) if self.mode == Mode::Churn && connection.in_flight.outstanding() < before => {
                (None, false)
            }
            received => received?,
        };
        if more {
            self.again.push(index);
        }
        self.send_next(index, now)
    }

    fn after_events(&mut self) -> io::Result<()> {
        let now = self.shared.now();
        if self.is_stopped && self.phase != Phase::Draining {
            self.drain(now);
        }
        match self.phase {
            Phase::Connecting => self.open_more(now)?,
            Phase::Running => {
                if now >= self.start {
                    // The loop can be late on a busy machine: the measurement still has its duration.
                    self.end = now + nanoseconds(self.options.duration);
                    self.deadline = self.end;
                    self.start_counting(now);
                    self.start = u64::MAX;
                }
                self.dispatch();
                if now >= self.end || self.budget == 0 {
                    self.drain(now);
                }
            }
            Phase::Holding if now >= self.deadline => self.phase = Phase::Over,
            Phase::Holding | Phase::Over => {}
            Phase::Draining => self.continue_draining(now),
        }
        if now >= self.sweep {
            // Holding may have begun after `now`.
            self.sweep(self.shared.now());
        }
        Ok(())
    }

    /// Handles what no event announces: lost messages, retries, dead connections, progress.
    fn sweep(&mut self, now: u64) {
        let timeout = nanoseconds(self.options.timeout);
        let period = (timeout / 8).clamp(1_000_000, nanoseconds(Progress::PERIOD));
        self.sweep = now + period;
        if self.phase == Phase::Running && (!self.connector.is_stream() || self.mode == Mode::Churn)
        {
            self.give_up_until(now.saturating_sub(timeout));
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

/// The first address of a host that accepts a connection, in the order of the resolver. If none
/// does in time, the first, so that all connections report the error.
fn first_reachable(endpoints: &[Endpoint], time: Duration) -> &Endpoint {
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
