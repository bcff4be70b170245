//! What has to hold before each sleep, after each turn, and at the end.

use std::collections::HashMap;
use std::time::Duration;

use log::Level;

use super::closes::Reasons;
use super::connections::Connection;
use super::datagrams::Udp;
use super::plan::{MILLISECOND, Micros, NEVER, SECOND};
use super::sockets::Source;
use super::world::World;
use crate::stats::Stats;

/// The interval at which paused listeners and UDP sockets try again.
pub(super) const RETRY_INTERVAL: Micros = 100 * MILLISECOND;

/// How many turns of the loop in a row a socket may make calls without an effect (it spins), or have work
/// and make no call (it starves).
const MAX_IDLE_TURNS: u32 = 2;

/// How many turns of the loop in a row may have neither a call nor an event.
const MAX_IDLE_LOOPS: u32 = 20;

/// The facts of an echo, and what its checks remember.
#[derive(Debug, Default)]
pub(super) struct Echo {
    pub(super) udp: Udp,
    /// Its waker was called.
    pub(super) is_woken: bool,
    /// Until when no listener is called after a shortage.
    pub(super) backs_off_until: Micros,
    /// The reasons of each connection that was closed in this turn.
    pub(super) closes: Vec<Reasons>,
    /// How often each reason was counted.
    pub(super) counts: [u64; 7],
    last_turn_at: Micros,
    /// The first turn after the drain time.
    lingers_at: Option<Micros>,
    /// When each kind of warning was logged last.
    warned_at: HashMap<String, Micros>,
    /// Turns in a row without a call or an event.
    idle_loops: u32,
}

impl Echo {
    pub(super) fn new(number: usize) -> Self {
        let mut echo = Echo::default();
        echo.udp.socket.echo = number;
        echo
    }
}

/// How much too late a timeout may be noticed: by 50 ms or 1 %, and by the rounding of clocks.
pub(super) fn tolerance(timeout: Micros) -> Micros {
    (timeout / 100).max(50 * MILLISECOND) + 2 * MILLISECOND
}

/// A timeout of the configuration, where 0 is none.
pub(super) fn timeout(duration: Duration) -> Micros {
    let micros = duration.as_micros() as Micros;
    if micros == 0 { NEVER } else { micros }
}

/// Counts how often in a row something holds.
fn count_in_a_row(count: &mut u32, holds: bool) -> u32 {
    *count = if holds { *count + 1 } else { 0 };
    *count
}

impl World {
    pub(super) fn is_shutting_down(&self) -> bool {
        self.shutdown_at < NEVER
    }

    fn drain_timeout(&self) -> Micros {
        self.plan.config.drain_timeout.as_micros() as Micros
    }

    /// Whether the drain time was over at the beginning of this turn.
    pub(super) fn is_lingering(&self) -> bool {
        self.shutdown_at.saturating_add(self.drain_timeout()) <= self.turn_now
    }

    /// When the connection has to be closed, if no byte moves.
    fn closes_at(&self, connection: &Connection) -> Micros {
        let config = &self.plan.config;
        let expires_at = |duration: Duration| {
            let timeout = timeout(duration);
            let age = timeout.saturating_add(tolerance(timeout));
            connection.moved_at.saturating_add(age)
        };
        // An echo lingers from its first turn after the drain time.
        let drained_at = self.shutdown_at.saturating_add(self.drain_timeout());
        let lingers_at = self.echoes[connection.socket.echo].lingers_at;
        let linger_time = self.drain_timeout().min(SECOND) + tolerance(0);
        let ends_at = lingers_at.unwrap_or(drained_at).saturating_add(linger_time);
        let mut closes_at = ends_at.min(expires_at(config.idle_timeout));
        if connection.is_blocked {
            closes_at = closes_at.min(expires_at(config.write_timeout));
        }
        if self.is_lingering() {
            ends_at
        } else {
            closes_at
        }
    }

    /// Whether an echo has room for one more connection.
    pub(super) fn has_place(&self, echo: usize) -> bool {
        self.open(echo).count() < self.plan.config.max_connections
    }

    /// An echo is about to sleep: no socket may have work, unless an event is to come.
    pub(super) fn check_before_sleep(&self, echo: usize, wakes_at: Micros) {
        // The poll rounds up to milliseconds.
        let wakes_at = self.now.max(wakes_at.saturating_sub(MILLISECOND));
        for connection in self.open(echo) {
            let has_work = connection.has_work() && connection.socket.is_settled();
            let is_late = self.closes_at(connection).max(self.now) < wakes_at;
            assert!(!has_work, "{connection} has work, and the loop sleeps");
            assert!(!is_late, "{connection} expires, and the loop sleeps");
        }
        if wakes_at > self.now + RETRY_INTERVAL {
            self.check_endpoints_before_sleep(echo);
        }
    }

    /// A paused listener or UDP socket may leave work waiting until its next retry, and no longer.
    fn check_endpoints_before_sleep(&self, echo: usize) {
        let is_shutting_down = self.is_shutting_down();
        for listener in self.backlogs.iter().filter(|it| it.socket.echo == echo) {
            let can_accept = !listener.waiting.is_empty() && self.has_place(echo);
            let has_work = can_accept && listener.socket.is_settled();
            assert!(!has_work, "connections wait, and the loop sleeps");
        }
        let udp = &self.echoes[echo].udp;
        let outlives_shutdown = udp.socket.token.is_some() && is_shutting_down;
        // While datagrams keep coming, the socket is polled, and not registered.
        let has_work = !udp.waiting.is_empty() && udp.socket.changed_at.is_none();
        let has_work = has_work && !is_shutting_down;
        assert!(!has_work, "datagrams wait, and the loop sleeps");
        assert!(
            !outlives_shutdown,
            "a UDP socket is open after the shutdown"
        );
    }

    /// A turn of an echo is over.
    pub(super) fn check_turn(&mut self, echo: usize, stats: &Stats) {
        if self.is_lingering() {
            self.echoes[echo].lingers_at.get_or_insert(self.turn_now);
        }
        let (counted, max) = (stats.active, self.plan.config.max_connections);
        let open = self.open(echo).count();
        let is_counted = counted == open && open <= max;
        assert!(
            is_counted,
            "{open} of {max} connections are open, {counted} counted"
        );
        let (counted, max) = (stats.buffered, self.plan.config.max_buffered);
        let held = self.open(echo).map(|it| it.held as usize).sum::<usize>();
        let is_counted = counted == held && held <= max;
        assert!(
            is_counted,
            "{held} of {max} bytes are held, {counted} counted"
        );
        for connection in self.open(echo) {
            self.check_open(connection);
        }
        self.check_warnings(echo);
        self.check_reasons(echo, &stats.closed);
        self.check_sockets(echo);
        self.check_loop(echo);
    }

    fn check_open(&self, connection: &Connection) {
        if let Some(reason) = self.forbids(connection) {
            panic!("{connection} {reason}");
        }
        let is_due = self.closes_at(connection) < self.turn_now;
        let is_late = is_due && !connection.socket.in_turn.has_progress;
        assert!(!is_late, "{connection} is open for too long");
        let max = self.plan.config.buffer_size.max(self.pipe_size());
        let is_bounded = connection.held <= max as u64;
        assert!(is_bounded, "{connection} holds more than {max} bytes");
        let has_failed = connection.socket.failure.is_some();
        assert!(!has_failed, "{connection} is open after an error");
    }

    /// No socket spins, and no connection starves.
    fn check_sockets(&mut self, echo: usize) {
        let is_retry = self.since_last_turn(echo) >= RETRY_INTERVAL / 2;
        let sources: Vec<Source> = self.sockets(echo).map(|(source, _)| source).collect();
        for source in sources {
            let has_work =
                matches!(source, Source::Connection(id) if self.connections[id].has_work());
            let socket = self.socket_mut(source);
            let in_turn = &socket.in_turn;
            let has_cause = in_turn.has_progress || in_turn.had_event || is_retry;
            let is_idle = in_turn.had_call && !has_cause;
            let is_starved = has_work && socket.is_settled() && !in_turn.had_call;
            let idle_turns = count_in_a_row(&mut socket.idle_turns, is_idle);
            let starved_turns = count_in_a_row(&mut socket.starved_turns, is_starved);
            let (spins, starves) = (idle_turns > MAX_IDLE_TURNS, starved_turns > MAX_IDLE_TURNS);
            assert!(!spins, "{source:?} has turns without an effect");
            assert!(!starves, "{source:?} has work, and gets no turn");
        }
    }

    /// The loop does not spin.
    fn check_loop(&mut self, echo: usize) {
        let has_effect = self.calls_in_turn > 0 || self.had_events;
        let is_idle = self.since_last_turn(echo) < MILLISECOND && !has_effect;
        self.echoes[echo].last_turn_at = self.turn_now;
        let idle_loops = count_in_a_row(&mut self.echoes[echo].idle_loops, is_idle);
        let spins = idle_loops > MAX_IDLE_LOOPS && self.plan.config.busy_poll.is_zero();
        assert!(!spins, "the loop turns without an effect");
    }

    fn since_last_turn(&self, echo: usize) -> Micros {
        self.turn_now - self.echoes[echo].last_turn_at
    }

    /// At most one warning a minute of each kind.
    pub(super) fn check_warnings(&mut self, echo: usize) {
        let lines = self.take_log().into_iter();
        for (_, line) in lines.filter(|(level, _)| *level == Level::Warn) {
            let kind = line.chars().filter(char::is_ascii_alphabetic).collect();
            let last = self.echoes[echo].warned_at.insert(kind, self.turn_now);
            let is_due = last.is_none_or(|last| self.turn_now >= last + 60 * SECOND);
            assert!(is_due, "more than one warning a minute: {line}");
        }
    }

    /// The engines are gone: everything is closed, and the counters add up.
    pub(super) fn check_end(&self, all: &[Stats]) {
        for (echo, stats) in all.iter().enumerate() {
            let connections = self.connections.iter();
            let connections = connections.filter(|it| it.socket.echo == echo);
            let received = connections.map(|it| it.received - it.ignored).sum();
            let accounted = stats.bytes_sent + stats.bytes_discarded;
            let datagrams = stats.datagrams_sent
                + stats.datagram_errors
                + stats.send_buffer_drops
                + stats.dropped.total();
            let has_bytes = [stats.bytes_received, accounted] == [received, received];
            // With UDP, the counters of bytes include datagrams.
            let has_closes = stats.accepted == stats.closed.total();
            let has_datagrams = stats.datagrams_received == datagrams;
            let has_all = (has_bytes || self.plan.has_udp) && has_closes && has_datagrams;
            assert!(
                has_all,
                "{received} bytes, counters do not add up: {stats:?}"
            );
        }
        let sent: u64 = all.iter().map(|it| it.datagrams_sent).sum();
        let (replies, pipes) = (self.replies, self.pipes);
        assert!(replies == sent, "{replies} replies, counted as {sent}");
        assert!(pipes == 0, "{pipes} pipes stay open");
        let open = self.connections.iter().find(|it| it.is_open());
        assert!(open.is_none(), "{open:?} stays open");
    }
}
