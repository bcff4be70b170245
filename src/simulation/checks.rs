//! What has to hold before each sleep, after each turn, and at the end.

use std::collections::HashMap;

use log::Level;

use super::closes::Reasons;
use super::connections::Connection;
use super::plan::{MILLISECOND, Micros, SECOND};
use super::selector::Source;
use super::world::World;
use crate::policy::log_lines;
use crate::stats::Stats;

/// How much too late a timeout may be noticed: by 50 ms or 1 %, and by the rounding of clocks.
pub(super) fn tolerance(timeout: Micros) -> Micros {
    (timeout / 100).max(50 * MILLISECOND) + 2 * MILLISECOND
}

/// The interval at which paused listeners and UDP sockets try again.
pub(super) const RETRY_INTERVAL: Micros = 100 * MILLISECOND;

/// So many turns in a row a socket may have without an effect, or be left out with work to do.
const MAX_IDLE_TURNS: u32 = 2;

/// So many turns of the loop may have no effect at all: a poll may be interrupted.
const MAX_IDLE_LOOPS: u32 = 20;

/// What the checks have to remember.
pub(super) struct Judge {
    /// The reasons of the connections that were closed in this turn.
    pub(super) closed: Vec<Reasons>,
    /// For each echo: how often each reason was counted.
    pub(super) counts: Vec<[u64; 7]>,
    last_turn_at: Vec<Micros>,
    /// The first turn after the drain time.
    lingers_at: Vec<Option<Micros>>,
    /// When an echo logged each kind of warning last.
    warned_at: HashMap<(usize, String), Micros>,
    /// Until when no listener is called after a shortage.
    pub(super) backs_off_until: Vec<Micros>,
    idle_loops: u32,
}

impl Judge {
    pub(super) fn new(echoes: usize) -> Self {
        Judge {
            closed: Vec::new(),
            counts: vec![[0; 7]; echoes],
            last_turn_at: vec![0; echoes],
            lingers_at: vec![None; echoes],
            warned_at: HashMap::new(),
            backs_off_until: vec![0; echoes],
            idle_loops: 0,
        }
    }
}

impl World {
    pub(super) fn idle_timeout(&self) -> Micros {
        self.plan.config.idle_timeout.as_micros() as Micros
    }

    pub(super) fn write_timeout(&self) -> Micros {
        self.plan.config.write_timeout.as_micros() as Micros
    }

    fn drain_timeout(&self) -> Micros {
        self.plan.config.drain_timeout.as_micros() as Micros
    }

    /// Whether the drain time was over at the beginning of this turn.
    pub(super) fn is_lingering(&self) -> bool {
        let until = self.shutdown_at.map(|at| at + self.drain_timeout());
        until.is_some_and(|until| until <= self.turn_now)
    }

    /// When each connection has to be closed: the echo lingers from its first turn after the drain time.
    fn shutdown_ends_at(&self, echo: usize) -> Option<Micros> {
        let drained_at = self.shutdown_at.map(|at| at + self.drain_timeout());
        let lingers_at = self.judge.lingers_at[echo].or(drained_at)?;
        Some(lingers_at + self.drain_timeout().min(SECOND) + tolerance(0))
    }

    /// When the connection has to be closed, if no byte moves.
    fn closes_at(&self, it: &Connection) -> Option<Micros> {
        let write = if it.is_blocked {
            self.write_timeout()
        } else {
            0
        };
        let timeouts = [self.idle_timeout(), write]
            .into_iter()
            .filter(|it| *it > 0);
        let ends = timeouts.map(|timeout| it.moved_at + timeout + tolerance(timeout));
        let ends = ends.filter(|_| !self.is_lingering());
        ends.chain(self.shutdown_ends_at(it.echo)).min()
    }

    /// Whether an echo has room for one more connection.
    pub(super) fn has_place(&self, echo: usize) -> bool {
        self.open(echo).count() < self.plan.config.max_connections
    }

    /// No event will tell the echo about a change of the socket.
    fn is_known(&self, source: Source) -> bool {
        self.selectors.is_registered(source) && !self.selectors.is_changed(source)
    }

    /// An echo is about to sleep: no socket may have work, unless an event is to come.
    pub(super) fn check_before_sleep(&mut self, echo: usize, timeout: Option<Micros>) {
        // The poll rounds up to milliseconds.
        let wakes_at = timeout.map_or(Micros::MAX, |timeout| {
            self.now + timeout - MILLISECOND.min(timeout)
        });
        let retries = wakes_at <= self.now + RETRY_INTERVAL;
        let mut faults = Vec::new();
        for it in self.open(echo) {
            if it.has_work() && self.is_known(Source::Connection(it.id)) {
                faults.push(format!("{it} has work, and the loop sleeps"));
            }
            if self
                .closes_at(it)
                .is_some_and(|at| at.max(self.now) < wakes_at)
            {
                faults.push(format!("the loop sleeps longer than {it} may be open"));
            }
        }
        for (id, it) in self
            .backlogs
            .iter()
            .enumerate()
            .filter(|(_, it)| it.echo == echo)
        {
            let has_work = !it.is_empty() && self.has_place(echo);
            if has_work && self.is_known(Source::Backlog(id)) && !retries {
                faults.push(format!(
                    "connections wait at listener {id}, and the loop sleeps"
                ));
            }
        }
        let udp = Source::Datagrams(echo);
        let is_open = self.selectors.is_registered(udp) || self.shutdown_at.is_none();
        let is_known = is_open && !self.selectors.is_changed(udp);
        if self.datagrams.is_readable(echo) && is_known && !retries {
            faults.push("datagrams wait, and the loop sleeps".to_owned());
        }
        if self.shutdown_at.is_some() && self.selectors.is_registered(udp) && !retries {
            faults.push("a UDP socket is open after the shutdown".to_owned());
        }
        self.fail_all(faults);
    }

    /// A turn of an echo is over.
    pub(super) fn check_turn(&mut self, echo: usize, stats: &Stats) {
        if self.is_lingering() {
            self.judge.lingers_at[echo].get_or_insert(self.turn_now);
        }
        let mut faults = Vec::new();
        let (count, max) = (self.open(echo).count(), self.plan.config.max_connections);
        if stats.active != count || count > max {
            faults.push(format!(
                "{count} connections are open, counted as {}",
                stats.active
            ));
        }
        let (held, max) = (
            self.open(echo).map(|it| it.held).sum(),
            self.plan.config.max_buffered,
        );
        if stats.buffered as u64 != held || stats.buffered > max {
            faults.push(format!(
                "{held} bytes are held, counted as {}",
                stats.buffered
            ));
        }
        for it in self.open(echo) {
            if let Some(reason) = self.forbids(it) {
                faults.push(format!("{it} {reason}"));
            }
            let is_late = self.closes_at(it).is_some_and(|at| at < self.turn_now);
            if is_late && !it.activity.has_progress {
                faults.push(format!("{it} is open for too long"));
            }
            if it.failure.is_some() {
                faults.push(format!("{it} is open after an error of a call"));
            }
        }
        self.fail_all(faults);
        self.check_reasons(echo, &stats.closed);
        self.check_progress(echo);
    }

    /// No spinning, and no starving.
    fn check_progress(&mut self, echo: usize) {
        let now = self.turn_now;
        let since = now - std::mem::replace(&mut self.judge.last_turn_at[echo], now);
        let is_retry = since >= RETRY_INTERVAL / 2;
        let connections = self
            .open(echo)
            .map(|it| (Source::Connection(it.id), it.has_work()));
        let mut sockets: Vec<_> = connections.collect();
        let backlogs = self
            .backlogs
            .iter()
            .enumerate()
            .filter(|(_, it)| it.echo == echo);
        sockets.extend(backlogs.map(|(id, _)| (Source::Backlog(id), false)));
        sockets.extend(
            self.plan
                .has_udp
                .then_some((Source::Datagrams(echo), false)),
        );
        for (source, has_work) in sockets {
            let is_told = is_retry || self.selectors.reported.contains(&source);
            let is_known = self.is_known(source);
            let it = self.activity(source);
            let is_idle = it.had_call && !it.has_progress && !is_told;
            it.idle_turns = if is_idle { it.idle_turns + 1 } else { 0 };
            let is_starved = has_work && is_known && !it.had_call;
            it.starved_turns = if is_starved { it.starved_turns + 1 } else { 0 };
            let (idle_turns, starved_turns) = (it.idle_turns, it.starved_turns);
            if idle_turns > MAX_IDLE_TURNS {
                self.fail(format!("{source:?} has turns without an effect"));
            }
            if starved_turns > MAX_IDLE_TURNS {
                self.fail(format!("{source:?} has work, and gets no turn"));
            }
        }
        let is_told = self.selectors.has_result;
        let is_idle = since < MILLISECOND && self.calls_in_turn == 0 && !is_told;
        self.judge.idle_loops = if is_idle {
            self.judge.idle_loops + 1
        } else {
            0
        };
        if self.judge.idle_loops > MAX_IDLE_LOOPS && self.plan.config.busy_poll.is_zero() {
            self.fail("the loop turns without an effect".to_owned());
        }
    }

    /// At most one warning a minute of each kind.
    pub(super) fn check_warnings(&mut self, echo: usize) {
        for (level, line) in log_lines::take() {
            let kind = line.chars().filter(char::is_ascii_alphabetic).collect();
            if level != Level::Warn {
                continue;
            }
            let last = self.judge.warned_at.insert((echo, kind), self.turn_now);
            if last.is_some_and(|last| self.turn_now < last + 60 * SECOND) {
                self.fail(format!("more than one warning a minute: {line}"));
            }
        }
    }

    /// The engines are gone: everything is closed, and the counters add up.
    pub(super) fn check_end(&mut self, all: &[Stats]) {
        for (echo, stats) in all.iter().enumerate() {
            let of_echo = self.connections.iter().filter(|it| it.echo == echo);
            let received: u64 = of_echo.map(|it| it.received - it.ignored).sum();
            let accounted = stats.bytes_sent + stats.bytes_discarded;
            let datagrams = stats.datagrams_sent
                + stats.datagram_errors
                + stats.send_buffer_drops
                + stats.dropped.total();
            let has_bytes =
                self.plan.has_udp || (stats.bytes_received, accounted) == (received, received);
            let has_closes = stats.accepted == stats.closed.total();
            if !has_bytes || !has_closes || stats.datagrams_received != datagrams {
                self.fail(format!(
                    "counters do not add up: {received} bytes, {stats:?}"
                ));
            }
        }
        let sent: u64 = all.iter().map(|it| it.datagrams_sent).sum();
        let answered = self.datagrams.answered;
        if answered != sent || self.pipes > 0 || self.descriptors > 0 {
            let open = (self.descriptors, self.pipes);
            self.fail(format!(
                "{answered} replies, {sent} counted; open descriptors and pipes: {open:?}"
            ));
        }
    }
}
