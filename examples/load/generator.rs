//! The loop, and the phases of a run.

use std::io;
use std::time::Duration;

use mio::{Events, Interest, Poll, Token};
use mio_echo::Endpoint;

use crate::arguments::Failure;
use crate::connection::{Bench, Connection, State};
use crate::opener::Opener;
use crate::options::{Mode, Options};
use crate::pace::Pace;
use crate::progress::Progress;
use crate::report::{Hold, OpenLoop, Results};
use crate::signals::StopSignals;
use crate::socket::poll_once;
use crate::usage::{Memory, Snapshot, Usage};

const SIGNALS: Token = Token(usize::MAX - 1);
pub(crate) const TIMER: Token = Token(usize::MAX - 2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
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
    pub(crate) options: Options,
    pub(crate) mode: Mode,
    pub(crate) phase: Phase,
    pub(crate) poll: Poll,
    signals: StopSignals,
    is_stopped: bool,
    opener: Opener,
    pub(crate) bench: Bench,
    pub(crate) connections: Vec<Connection>,
    pub(crate) outstanding: usize,
    /// How many of the connections were opened at least once, and how many are about to be.
    opened: usize,
    connecting: usize,
    /// Those to be opened again at the next sweep, and those with more to read than they may in
    /// a turn.
    pub(crate) retries: Vec<usize>,
    again: Vec<usize>,
    pub(crate) pace: Option<Pace>,
    /// The connection that sends next, in the open loop.
    pub(crate) turn: usize,
    /// How many messages may still be sent, of those that count.
    pub(crate) budget: u64,
    /// When the messages begin to count, when they end, and when the present phase does, at the
    /// latest.
    start: u64,
    pub(crate) end: u64,
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
    /// How many connections to begin at a time: a listener's queue is only so long.
    const CONNECTING: usize = 64;
    /// How much longer than for an answer to wait for a connection: where a queue was full all the
    /// same, TCP asks again after 1 s, and after 2 more (RFC 6298).
    const RETRANSMISSIONS: u64 = 3_000_000_000;

    pub(crate) fn new(options: Options, endpoints: &[Endpoint]) -> Result<Self, Failure> {
        let mode = options.mode();
        let endpoint = reachable(endpoints);
        let outstanding = options.outstanding(endpoint);
        let poll = Poll::new()?;
        let usage = Usage::new(options.server_pid).map_err(|error| {
            let pid = options.server_pid.unwrap_or_default();
            Failure::new(format!("--server-pid {pid}: {error}"), 2)
        })?;
        let connection = |number| Connection::new(number, outstanding);
        Ok(Generator {
            mode,
            phase: Phase::Connecting,
            signals: StopSignals::catch(poll.registry(), SIGNALS)?,
            poll,
            is_stopped: false,
            opener: Opener::new(endpoint.clone(), matches!(mode, Mode::Churn | Mode::Hold)),
            bench: Bench::new(options.size(endpoint)),
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
            deadline: nanoseconds(options.timeout) + Self::RETRANSMISSIONS,
            sweep: 0,
            usage,
            first: Snapshot::default(),
            last: Snapshot::default(),
            memory: [None; 2],
            held_since: u64::MAX,
            progress: Progress::new(!options.quiet && !options.json),
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
                    SIGNALS => self.is_stopped |= self.signals.have_come(),
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
                    self.extend_connecting();
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

    /// As long as connections come to be, there is no reason to give up.
    pub(crate) fn extend_connecting(&mut self) {
        if self.phase == Phase::Connecting {
            let timeout = nanoseconds(self.options.timeout);
            self.deadline = self.bench.now() + timeout + Self::RETRANSMISSIONS;
        }
    }

    /// How many connections are coming to be. That they are connected does not say that the service
    /// has accepted them; an echo does.
    fn unfinished(&self) -> usize {
        if self.mode != Mode::Hold {
            return self.connecting;
        }
        let it = &self.bench.tally;
        let finished = it.echoes + it.faults.lost + it.faults.corrupted;
        usize::try_from(it.sent.saturating_sub(finished)).unwrap_or(usize::MAX)
    }

    /// Notes that a connection failed, or ended though it should not have.
    pub(crate) fn fail(&mut self, index: usize, error: &io::Error) {
        let tally = &mut self.bench.tally;
        let connection = &mut self.connections[index];
        tally.note_error(error.to_string());
        if connection.state == State::Connecting {
            self.connecting -= 1;
            tally.faults.failed += 1;
            connection
                .window
                .give_up(u64::MAX, |due| tally.uncount_sent(due));
        } else {
            tally.faults.ended_early += 1;
            connection
                .window
                .give_up(u64::MAX, |_| tally.faults.lost += 1);
        }
        connection.close();
        if self.mode == Mode::Churn {
            // Not at once: where nobody listens that would only be noise.
            self.retries.push(index);
        }
    }

    /// Closes a connection, in whatever state it is.
    pub(crate) fn disconnect(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        self.connecting -= usize::from(connection.state == State::Connecting);
        connection.close();
    }

    /// Begins to connect; or has it tried later, where the queue of a Unix listener is full.
    pub(crate) fn open(&mut self, index: usize) {
        let now = self.bench.now();
        let connection = &mut self.connections[index];
        let token = Token(index);
        let opened = self.opener.open().and_then(|mut socket| {
            let interest = Interest::READABLE | Interest::WRITABLE;
            let registry = self.poll.registry();
            registry.register(socket.source(), token, interest)?;
            Ok(socket)
        });
        match opened {
            Ok(socket) => {
                connection.connect(socket);
                self.connecting += 1;
                if matches!(self.mode, Mode::Churn | Mode::Hold) {
                    self.issue(index, now);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.retries.push(index);
                self.sweep = self.sweep.min(now + 1_000_000);
            }
            Err(error) => {
                self.bench.tally.faults.failed += 1;
                self.bench.tally.note_error(error.to_string());
                if self.mode == Mode::Churn {
                    self.retries.push(index);
                }
            }
        }
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

    fn connect_more(&mut self, now: u64) -> io::Result<()> {
        if self.mode == Mode::Churn {
            // There each connection is a message: they come to be as the load.
            self.opened = self.connections.len();
            return self.begin_to_run(now);
        }
        while self.opened < self.connections.len() && self.unfinished() < Self::CONNECTING {
            self.open(self.opened);
            self.opened += 1;
        }
        if now >= self.deadline {
            self.give_up_connecting();
        } else if self.opened < self.connections.len()
            || self.unfinished() > 0
            || !self.retries.is_empty()
        {
            return Ok(());
        }
        if self.mode == Mode::Hold {
            self.last = self.usage.snapshot(now);
            self.memory[1] = self.usage.server_memory();
            self.phase = Phase::Holding;
            self.held_since = now;
            self.deadline = now + nanoseconds(self.options.duration);
            return Ok(());
        }
        self.begin_to_run(now)
    }

    fn give_up_connecting(&mut self) {
        let unopened = self.connections.len() - self.opened + self.retries.len();
        self.bench.tally.faults.failed += unopened as u64;
        self.opened = self.connections.len();
        self.retries.clear();
        for index in 0..self.connections.len() {
            if self.connections[index].state == State::Connecting {
                self.fail(index, &io::ErrorKind::TimedOut.into());
            }
        }
    }

    fn begin_to_run(&mut self, now: u64) -> io::Result<()> {
        self.phase = Phase::Running;
        self.start = now + nanoseconds(self.options.warmup());
        self.end = self.start + nanoseconds(self.options.duration);
        self.deadline = self.end;
        if self.start == now {
            self.begin_to_count(now);
            self.start = u64::MAX;
        }
        self.kick_off(now)
    }

    fn begin_to_count(&mut self, now: u64) {
        self.bench.tally.start = now;
        self.first = self.usage.snapshot(now);
        self.last = self.first;
    }

    /// Sends no more.
    fn drain(&mut self, now: u64) {
        if self.bench.tally.start == u64::MAX {
            self.begin_to_count(now);
        }
        if self.mode != Mode::Hold || self.phase == Phase::Connecting {
            self.last = self.usage.snapshot(now);
        }
        self.end = self.end.min(now);
        self.phase = Phase::Draining;
        self.deadline = now + nanoseconds(self.options.timeout);
    }

    fn go_on_draining(&mut self, now: u64) {
        self.dispatch();
        // What is due, and not sent, has to wait for room; where nobody is left it need not.
        let has_backlog = self.backlog() > 0;
        let is_missing = |it: &Connection| {
            it.state != State::Closed && (has_backlog || it.window.outstanding() > 0)
        };
        let is_complete = !self.connections.iter().any(is_missing);
        if self.bench.tally.echoes > 0 && self.bench.tally.latest > self.last.at {
            self.last = self.usage.snapshot(now);
        }
        if is_complete || now >= self.deadline {
            self.phase = Phase::Over;
        }
    }

    /// How many messages were due and have not been sent.
    fn backlog(&self) -> u64 {
        let pace = self.pace.as_ref();
        let backlog = pace.map_or(0, |pace| pace.backlog(self.end));
        backlog.min(self.budget)
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

    fn show_progress(&self, now: u64) {
        let tally = &self.bench.tally;
        let (what, done, total) = match self.phase {
            Phase::Connecting => (
                "connecting",
                self.opened as u64,
                self.connections.len() as u64,
            ),
            Phase::Running if tally.start == u64::MAX => {
                let warmup = nanoseconds(self.options.warmup());
                (
                    "warming up",
                    (now + warmup).saturating_sub(self.start),
                    warmup,
                )
            }
            Phase::Running => (
                "measuring",
                now.saturating_sub(tally.start),
                self.end.saturating_sub(tally.start),
            ),
            Phase::Holding => {
                let duration = nanoseconds(self.options.duration);
                (
                    "holding",
                    (now + duration).saturating_sub(self.deadline),
                    duration,
                )
            }
            Phase::Draining | Phase::Over => ("draining", 0, 0),
        };
        let text = || format!("{what}: {} echoes", tally.echoes);
        self.progress.show(text, done, total);
    }

    fn finish(mut self) -> Results {
        let is_open = |it: &&Connection| it.state == State::Open;
        let hold = (self.mode == Mode::Hold).then_some(Hold {
            held: self.connections.iter().filter(is_open).count() as u64,
            time: Duration::from_nanos(self.bench.now().saturating_sub(self.held_since)),
            memory: self.memory,
        });
        let backlog = self.backlog();
        let tally = &mut self.bench.tally;
        tally.sent += backlog;
        tally.faults.unsent = backlog;
        if !self.opener.is_stream() {
            self.receive_the_rest();
        }
        let faults = &mut self.bench.tally.faults;
        for connection in &mut self.connections {
            connection.window.give_up(u64::MAX, |_| faults.lost += 1);
        }
        let open_loop = self.pace.as_ref().map(|pace| OpenLoop {
            sent: pace.sent,
            late: pace.late,
        });
        Results {
            endpoint: self.opener.endpoint().to_string(),
            mode: self.mode,
            connections: self.connections.len() as u64,
            size: self.bench.pattern.size as u64,
            outstanding: self.outstanding as u64,
            warmup: self.options.warmup(),
            first: self.first,
            last: self.last,
            tally: self.bench.tally,
            open_loop,
            hold,
        }
    }

    /// Duplicates that nobody has waited for.
    fn receive_the_rest(&mut self) {
        for connection in &mut self.connections {
            while let Ok((_, true)) = connection.receive(&mut self.bench, true) {}
        }
    }
}

/// That one of a host's addresses where somebody accepts, in the order in which the resolver gave
/// them; the first where nobody does, so that this is said of all connections.
fn reachable(endpoints: &[Endpoint]) -> &Endpoint {
    let accepts = |endpoint: &&Endpoint| match endpoint {
        Endpoint::Tcp(address) => std::net::TcpStream::connect(address).is_ok(),
        _ => true,
    };
    match endpoints {
        [only] => only,
        several => several.iter().find(accepts).unwrap_or(&several[0]),
    }
}

pub(crate) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos())
        .unwrap_or(u64::MAX / 4)
        .min(u64::MAX / 4)
}
