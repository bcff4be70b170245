//! What has to hold before each sleep, after each iteration, and at the end.

use super::*;

/// How long listeners and UDP sockets back off after an error.
pub(super) const RETRY_INTERVAL: Micros = 100 * MILLISECOND;

/// The first counter that is wrong: what was counted, and what is right.
fn difference(counted: &Stats, expected: &Stats) -> String {
    let [counted, expected] = [counted, expected].map(|it| format!("{it:?}"));
    let mut pairs = counted.split(", ").zip(expected.split(", "));
    format!("{:?}", pairs.find(|it| it.0 != it.1))
}

/// Counts how often something holds in a row. Returns whether it is more than `max` times.
fn is_repeated(count: &mut u32, holds: bool, max: u32) -> bool {
    *count = if holds { *count + 1 } else { 0 };
    *count > max
}

impl World {
    /// Whether the socket has work.
    fn has_work(&self, socket: &Socket) -> bool {
        let readiness = socket.readiness();
        let accepts = self.has_place() && self.accepts_at < NEVER;
        match socket.id {
            TCP | UNIX => readiness.readable && accepts,
            // During a shutdown there is always work: it has to be closed.
            UDP => readiness.readable || self.is_shutting_down(),
            _ if socket.is_blocked() => readiness.writable,
            // After the drain time it has to end its stream.
            _ => readiness.readable || (self.is_lingering() && !socket.outbound.is_ended),
        }
    }

    /// Checks that nothing is forgotten, before the loop sleeps.
    pub(super) fn check_before_sleep(&self, wakes_at: Micros) {
        // The poll rounds up to milliseconds, so it may wake so much too late.
        let wakes_at = self.now.max(wakes_at.saturating_sub(MILLISECOND));
        for socket in self.open() {
            let may_wait = !socket.is_stream() && wakes_at <= self.retries_at.max(self.now);
            // Edge-triggered events are not repeated.
            let is_forgotten = !may_wait && !self.is_announced(socket) && self.has_work(socket);
            check!(!is_forgotten, "{socket} has work, and the loop sleeps");
            let closes_at = self.closes_at(socket).max(self.now);
            check!(wakes_at <= closes_at, "{socket} expires in the sleep");
        }
    }

    /// The checks after an iteration of the loop.
    pub(super) fn check_iteration(&mut self, stats: &Stats) {
        let lingers_at = self.is_lingering().then_some(self.engine_now);
        self.lingers_at = self.lingers_at.or(lingers_at);
        check!(self.reports.is_empty(), "an event is not reported");
        self.check_counters(stats);
        let open: Vec<_> = self.open().map(|it| it.id).collect();
        for id in open {
            self.check_socket(id);
        }
        let is_polling = !self.plan.config.busy_poll.is_zero();
        let is_idle = self.work == 0 && !self.is_at_rest && !is_polling;
        let spins = is_repeated(&mut self.empty_iterations, is_idle, 100);
        check!(!spins, "the loop iterates without a call or an event");
    }

    /// Limits hold, and the counters of the engine agree with the facts.
    fn check_counters(&self, stats: &Stats) {
        let (held, expected) = (self.held(), &self.expected);
        let max_buffered = self.plan.config.max_buffered as u64;
        check!(held <= max_buffered, "{held} bytes are too many");
        let unsent = expected.datagrams_received - expected.datagrams_sent;
        let expected = Stats {
            active: self.connections().count(),
            buffered: held as usize,
            // A datagram without a reply is in one of three counters. Their sum is checked.
            datagram_errors: unsent.wrapping_sub(stats.send_buffer_drops + stats.dropped.total()),
            send_buffer_drops: stats.send_buffer_drops,
            dropped: stats.dropped,
            // These are not checked.
            accept_errors: stats.accept_errors,
            accept_pauses: stats.accept_pauses,
            iterations: stats.iterations,
            run_queue: stats.run_queue,
            ..*expected
        };
        let are_right = *stats == expected;
        check!(are_right, "{} are different", difference(stats, &expected));
    }

    /// Checks that an error ends a connection, that a connection holds one buffer at most and does not wait too
    /// long for a turn if it has work, and that no socket has turns without an effect. Datagrams get replies,
    /// unless a call returned an error (also `EAGAIN`).
    fn check_socket(&mut self, id: usize) {
        let max_held = self.pipe_size().max(self.plan.config.buffer_size as u64);
        let has_work = self.has_work(&self.sockets[id]);
        // With a limit of turns, all other sockets may have theirs before; also those that are closed now.
        let max = 2 + 2 * (self.sockets.len() / self.plan.config.max_turns) as u32;
        let socket = &mut self.sockets[id];
        let (activity, is_stream) = (&socket.activity, socket.is_stream());
        let is_futile = activity.has_called && !activity.is_woken && !activity.has_progress;
        let waits = has_work && !activity.has_called && socket.changed_at.is_none() && is_stream;
        let spins = is_repeated(&mut socket.futile_iterations, is_futile, 5);
        let starves = is_repeated(&mut socket.starved_iterations, waits, max);
        let survives = is_stream && socket.failure().is_some();
        let may_be_silent = activity.error.is_some() || activity.unreplied.is_empty();
        check!(may_be_silent, "{socket} does not reply, without an error");
        check!(!survives, "{socket} survives an error");
        check!(socket.held <= max_held, "{socket} holds more than a buffer");
        check!(!spins, "{socket} has turns without an effect");
        check!(!starves, "{socket} has work, and gets no turn");
    }

    /// Checks that there is at most one warning a minute of each kind: the text up to a parenthesis, without
    /// digits.
    pub(super) fn check_warnings(&mut self) {
        for (_, line) in log_lines::take().iter().filter(|it| it.0 == Level::Warn) {
            let text = line.split('(').next().unwrap_or_default();
            let kind = text.replace(|it: char| it.is_ascii_digit(), "");
            let last = self.warned_at.insert(kind, self.engine_now);
            let is_early = last.is_some_and(|last| self.engine_now < last + 60 * SECOND);
            check!(!is_early, "{line} is logged twice in a minute");
        }
    }

    /// The checks after the end of the engine.
    pub(super) fn check_end(&mut self) {
        self.check_warnings();
        check!(self.open().count() == 0, "a socket stays open");
        check!(self.pipes == 0, "{} pipes stay open", self.pipes);
    }
}
