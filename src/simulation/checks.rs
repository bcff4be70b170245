//! What has to hold before each sleep, after each turn, and at the end.

use super::*;

/// The interval at which paused listeners and UDP sockets try again.
pub(super) const RETRY_INTERVAL: Micros = 100 * MILLISECOND;

/// Ends the run if something is wrong. Not a panic, which would be printed: a run is repeated often to
/// make it smaller.
pub(super) fn judge(is_wrong: bool, what: &impl Display, fault: &str) {
    if is_wrong {
        panic::resume_unwind(Box::new(format!("{what} {fault}")));
    }
}

/// The facts of an echo, and what its checks remember.
#[derive(Default)]
pub(super) struct Echo {
    /// Its waker was called.
    pub(super) is_woken: bool,
    /// Until when no listener is called after a shortage.
    pub(super) backs_off_until: Micros,
    /// The host has paused accepting.
    pub(super) is_paused: bool,
    /// The connections that were closed in this turn.
    pub(super) closes: Vec<Close>,
    /// The last turn in which a connection was closed.
    pub(super) close_turn: u64,
    last_turn_at: Micros,
    /// The first turn after the drain time.
    lingers_at: Option<Micros>,
    /// When each kind of warning was logged last.
    warned_at: HashMap<String, Micros>,
    /// Turns in a row without a call or an event.
    idle_turns: u32,
}

/// How much too late a timeout may be noticed: by 50 ms or 1 %, and by the rounding of clocks.
pub(super) fn tolerance(timeout: Micros) -> Micros {
    (timeout / 100).max(50 * MILLISECOND) + 2 * MILLISECOND
}

pub(super) fn micros(duration: Duration) -> Micros {
    duration.as_micros() as Micros
}

/// A timeout of the configuration, where 0 is none.
pub(super) fn timeout(duration: Duration) -> Micros {
    Some(micros(duration)).filter(|it| *it > 0).unwrap_or(NEVER)
}

/// Whether something held more than `max` times in a row.
fn is_repeated(count: &mut u32, holds: bool, max: u32) -> bool {
    *count = if holds { *count + 1 } else { 0 };
    *count > max
}

impl World {
    pub(super) fn is_shutting_down(&self) -> bool {
        self.drained_at < NEVER
    }

    /// Whether the drain time was over at the beginning of this turn.
    pub(super) fn is_lingering(&self) -> bool {
        self.drained_at <= self.turn_now
    }

    /// When the socket has to be closed, if no byte moves.
    fn closes_at(&self, socket: &Socket) -> Micros {
        let config = &self.plan.config;
        let after =
            |start: Micros, time| start.saturating_add(time).saturating_add(tolerance(time));
        // An echo lingers from its first turn after the drain time.
        let lingers_at = self.echoes[socket.echo].lingers_at;
        let linger_time = micros(config.drain_timeout).min(SECOND);
        let ends_at = after(lingers_at.unwrap_or(self.drained_at), linger_time);
        if self.is_lingering() {
            return ends_at;
        }
        let write_timeout = timeout(config.write_timeout);
        let write = if socket.is_blocked {
            write_timeout
        } else {
            NEVER
        };
        let expires_after = write.min(timeout(config.idle_timeout));
        // A new timeout counts from the last progress, and expires after the change.
        let expires_at = after(socket.moved_at, expires_after);
        let changed_at = self.limits_changed_at + tolerance(expires_after);
        ends_at.min(expires_at.max(changed_at))
    }

    /// A call of the engine would have an effect, and no event is to come: it has forgotten the socket,
    /// as edge-triggered events are not repeated.
    fn is_forgotten(&self, socket: &Socket) -> bool {
        let readiness = socket.readiness();
        let has_work = if socket.is_blocked {
            readiness.writable
        } else {
            readiness.readable
        };
        let accepts = self.has_place(socket.echo) && !self.echoes[socket.echo].is_paused;
        let can_work = socket.kind != Kind::Listener || accepts;
        // A shutdown closes it.
        let has_to_end = socket.kind == Kind::Udp && self.is_shutting_down();
        socket.changed_at == NEVER && (has_to_end || (has_work && can_work))
    }

    /// An echo is about to sleep.
    pub(super) fn check_before_sleep(&self, echo: usize, wakes_at: Micros) {
        // The poll rounds up to milliseconds.
        let wakes_at = self.now.max(wakes_at.saturating_sub(MILLISECOND));
        for socket in self.open(echo) {
            // Listeners and UDP sockets can be paused, until the next retry and no longer.
            let is_paused = socket.kind != Kind::Stream && wakes_at <= self.now + RETRY_INTERVAL;
            let is_forgotten = !is_paused && self.is_forgotten(socket);
            judge(is_forgotten, socket, "has work, and the loop sleeps");
            let is_late = self.closes_at(socket).max(self.now) < wakes_at;
            judge(is_late, socket, "expires, and the loop sleeps");
        }
    }

    /// A turn of an echo is over.
    pub(super) fn check_turn(&mut self, echo: usize, stats: &Stats) {
        if self.is_lingering() {
            self.echoes[echo].lingers_at.get_or_insert(self.turn_now);
        }
        let (open, config) = (self.connections(echo).count(), &self.plan.config);
        let exempt = self.connections(echo).filter(|it| it.is_exempt).count();
        judge(
            open > config.max_connections.max(exempt),
            &open,
            "connections are too many",
        );
        judge(open != stats.active, &open, "connections are miscounted");
        let held: u64 = self.connections(echo).map(|it| it.held).sum();
        judge(
            held > config.max_buffered as u64,
            &held,
            "bytes are too many",
        );
        judge(held != stats.buffered as u64, &held, "bytes are miscounted");
        for connection in self.connections(echo) {
            self.check_open(connection);
        }
        self.check_warnings(echo);
        let open: Vec<_> = self.open(echo).map(|it| it.id).collect();
        for id in open {
            self.check_calls(id);
        }
        self.check_loop(echo);
    }

    fn check_open(&self, connection: &Socket) {
        let check = |is_wrong, fault| judge(is_wrong, connection, fault);
        let is_forbidden = !connection.is_exempt && self.is_forbidden(connection);
        check(is_forbidden, "must not be open");
        check(connection.failure.is_some(), "is open after an error");
        let max = self.pipe_size().max(self.plan.config.buffer_size as u64);
        check(connection.held > max, "holds more than a buffer or pipe");
        // With bounded runs it may wait for its turn.
        let had_turn = self.plan.config.max_turns == usize::MAX;
        let is_idle = had_turn && connection.progress_turn < self.turn;
        let is_late = is_idle && self.closes_at(connection) < self.turn_now;
        check(is_late, "is open for too long");
        let is_served = !connection.write_closed && !connection.is_blocked;
        let is_served = had_turn && is_served && self.is_lingering();
        check(is_served, "is served after the drain time");
    }

    /// No socket spins, and no connection starves.
    fn check_calls(&mut self, id: usize) {
        let is_forgotten = self.is_forgotten(&self.sockets[id]);
        let max = 2 + 2 * (self.sockets.len() / self.plan.config.max_turns) as u32;
        let (turn, socket) = (self.turn, &mut self.sockets[id]);
        let close_turn = self.echoes[socket.echo].close_turn;
        let had_call = socket.call_turn == turn;
        let has_place = socket.kind == Kind::Listener && close_turn == turn;
        let has_effect = has_place || [socket.event_turn, socket.progress_turn].contains(&turn);
        let spins = is_repeated(&mut socket.idle_turns, had_call && !has_effect, 2);
        let waits = is_forgotten && !had_call && socket.kind == Kind::Stream;
        let starves = is_repeated(&mut socket.starved_turns, waits, max);
        judge(spins, socket, "has turns without an effect");
        judge(starves, socket, "has work, and gets no turn");
    }

    /// The loop does not spin.
    fn check_loop(&mut self, echo: usize) {
        let (now, facts) = (self.turn_now, &mut self.echoes[echo]);
        let last_turn_at = mem::replace(&mut facts.last_turn_at, now);
        let has_effect = self.calls_in_turn > 0 || self.had_events;
        let is_busy = has_effect || !self.plan.config.busy_poll.is_zero();
        let is_idle = now - last_turn_at < MILLISECOND && !is_busy;
        let spins = is_repeated(&mut facts.idle_turns, is_idle, 20);
        judge(spins, &"the loop", "turns without an effect");
    }

    /// At most one warning a minute of each kind.
    pub(super) fn check_warnings(&mut self, echo: usize) {
        let lines = self.take_log().into_iter();
        for (_, line) in lines.filter(|(level, _)| *level == Level::Warn) {
            let kind = line.chars().filter(char::is_ascii_alphabetic).collect();
            let last = self.echoes[echo].warned_at.insert(kind, self.turn_now);
            let is_early = last.is_some_and(|last| self.turn_now < last + 60 * SECOND);
            judge(is_early, &line, "is logged twice in a minute");
        }
    }

    /// The engines are gone: everything is closed, and the counters add up.
    pub(super) fn check_end(&self, all: &[Stats]) {
        let mut replies = self.replies;
        for (echo, stats) in all.iter().enumerate() {
            let open = self.open(echo).count();
            judge(open > 0, &open, "sockets stay open");
            let open = stats.accepted - stats.closed.total();
            judge(open > 0, &open, "connections are miscounted");
            let sockets = self.sockets.iter().filter(|it| it.echo == echo);
            let bytes: u64 = sockets.map(|it| it.received - it.ignored).sum();
            let accounted = stats.bytes_sent + stats.bytes_discarded;
            // With UDP, the counters of bytes include datagrams.
            let differ = [stats.bytes_received, accounted] != [bytes; 2] && !self.plan.has_udp;
            judge(differ, &bytes, "bytes are miscounted");
            let dropped = stats.datagram_errors + stats.send_buffer_drops + stats.dropped.total();
            let lost = stats.datagrams_received - stats.datagrams_sent - dropped;
            judge(lost > 0, &lost, "datagrams are lost");
            replies -= stats.datagrams_sent;
        }
        let dropped: u64 = all.iter().map(|it| it.dropped.total()).sum();
        let differ = dropped != self.replies_dropped;
        judge(differ, &dropped, "datagrams are dropped without a reason");
        judge(replies > 0, &replies, "replies are not counted");
        judge(self.pipes > 0, &self.pipes, "pipes stay open");
    }
}
