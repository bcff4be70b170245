//! What has to hold before each sleep, after each iteration, and at the end.

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

/// Whether something held more than `max` times in a row.
fn is_repeated(count: &mut u32, holds: bool, max: u32) -> bool {
    *count = if holds { *count + 1 } else { 0 };
    *count > max
}

impl World {
    /// A call of the engine would have an effect, and no event is to come: it has forgotten the socket,
    /// as edge-triggered events are not repeated.
    fn is_forgotten(&self, socket: &Socket) -> bool {
        let (service, readiness) = (socket.service(), socket.readiness());
        let accepts = self.has_place(service) && self.services[service].accepts_at < NEVER;
        let has_work = match socket.kind {
            Kind::Stream if socket.is_blocked() => readiness.writable,
            Kind::Stream => readiness.readable,
            Kind::Listener => readiness.readable && accepts,
            // A shutdown closes it.
            Kind::Udp => readiness.readable || self.is_shutting_down(),
        };
        socket.changed_at.is_none() && has_work
    }

    /// A service is about to sleep.
    pub(super) fn check_before_sleep(&self, service: usize, wakes_at: Micros) {
        // The poll rounds up to milliseconds.
        let wakes_at = self.now.max(wakes_at.saturating_sub(MILLISECOND));
        for socket in self.open(service) {
            // Listeners and UDP sockets can be paused, until the next retry and no longer.
            let is_paused = socket.kind != Kind::Stream && wakes_at <= self.now + RETRY_INTERVAL;
            let is_forgotten = !is_paused && self.is_forgotten(socket);
            judge(is_forgotten, socket, "has work, and the loop sleeps");
            let is_late = self.closes_at(socket).max(self.now) < wakes_at;
            judge(is_late, socket, "expires, and the loop sleeps");
        }
    }

    /// An iteration of a loop is over.
    pub(super) fn check_iteration(&mut self, service: usize, stats: &Stats) {
        if self.is_lingering() {
            let at = self.engine_now;
            self.services[service].lingers_at.get_or_insert(at);
        }
        let closes = self.services[service].closes.len();
        judge(closes > 0, &closes, "closes are not reported");
        self.check_counters(service, stats);
        for connection in self.connections(service) {
            self.check_open(connection);
        }
        let open: Vec<_> = self.open(service).map(|it| it.id).collect();
        for id in open {
            self.check_calls(id);
        }
        let is_busy = self.work > 0 || !self.plan.config.busy_poll.is_zero();
        let idle_iterations = &mut self.services[service].idle_iterations;
        let spins = is_repeated(idle_iterations, !is_busy, 100);
        judge(spins, &"the loop", "iterates without an effect");
    }

    /// Limits hold, and the counters of the service agree with the facts.
    fn check_counters(&self, service: usize, stats: &Stats) {
        let (open, held) = (self.connections(service).count(), self.held(service));
        let exempt = self.connections(service).filter(|it| it.is_exempt).count();
        let max_connections = self.plan.config.max_connections.max(exempt);
        judge(open > max_connections, &open, "connections are too many");
        let is_over = held > self.plan.config.max_buffered as u64;
        judge(is_over, &held, "bytes are too many");
        let all = || self.sockets.iter().filter(|it| it.service() == service);
        let received: u64 = all().map(|it| it.inbound.received - it.ignored).sum();
        let sent: u64 = all().map(|it| it.outbound.sent).sum();
        let closed = all().filter(|it| it.state == State::Closed);
        let discarded: u64 = closed.map(Socket::pending).sum();
        let opened = all().filter(|it| it.kind == Kind::Stream && it.token.is_some());
        let (opened, open) = (opened.count() as u64, open as u64);
        let facts = &self.services[service];
        let [received, sent] = [received + facts.received, sent + facts.sent];
        let unsent = stats.send_buffer_drops + stats.datagram_errors;
        let datagrams = facts.replies + facts.unwanted + unsent;
        for (count, fact, what) in [
            (stats.accepted, opened, "connections"),
            (stats.active as u64, open, "open connections"),
            (stats.closed.total(), opened - open, "closes"),
            (stats.rejected.total(), facts.rejected, "rejections"),
            (stats.bytes_received, received, "received bytes"),
            (stats.bytes_sent, sent, "sent bytes"),
            (stats.buffered as u64, held, "bytes"),
            (stats.bytes_discarded, discarded, "discarded bytes"),
            (stats.datagrams_sent, facts.replies, "replies"),
            (stats.dropped.total(), facts.unwanted, "drops"),
            (stats.datagrams_received, datagrams, "datagrams"),
        ] {
            let fault = format!("{what} are counted as {count}");
            judge(count != fact, &fact, &fault);
        }
    }

    fn check_open(&self, connection: &Socket) {
        let check = |is_wrong, fault| judge(is_wrong, connection, fault);
        let is_forbidden = !connection.is_exempt && self.is_forbidden(connection);
        check(is_forbidden, "must not be open");
        check(connection.failure.is_some(), "is open after an error");
        let max = self.pipe_size().max(self.plan.config.buffer_size as u64);
        check(connection.held > max, "holds more than a buffer or pipe");
        // With bounded runs it may wait for its turn.
        if self.plan.config.max_turns == usize::MAX {
            let is_late = self.closes_at(connection) < self.engine_now;
            let has_progress = connection.present.has_progress;
            check(is_late && !has_progress, "is open for too long");
            let is_ending = connection.outbound.is_ended || connection.is_blocked();
            let is_served = self.is_lingering() && !is_ending;
            check(is_served, "is served after the drain time");
        }
    }

    /// No socket spins, no connection starves, and each datagram is answered at once.
    fn check_calls(&mut self, id: usize) {
        let is_forgotten = self.is_forgotten(&self.sockets[id]);
        let max = 2 + 2 * (self.sockets.len() / self.plan.config.max_turns) as u32;
        let socket = &mut self.sockets[id];
        let (present, is_stream) = (&socket.present, socket.kind == Kind::Stream);
        let idles = present.has_called && !present.is_woken && !present.has_progress;
        let waits = is_forgotten && !present.has_called && is_stream;
        let spins = is_repeated(&mut socket.idle_iterations, idles, 5);
        let starves = is_repeated(&mut socket.starved_iterations, waits, max);
        let is_silent = !socket.present.has_error && !socket.unanswered.is_empty();
        judge(is_silent, socket, "does not reply, and no call has failed");
        socket.unanswered.clear();
        judge(spins, socket, "has turns without an effect");
        judge(starves, socket, "has work, and gets no turn");
    }

    /// At most one warning a minute of each kind. The numbers in it differ, but for those of its service.
    pub(super) fn check_warnings(&mut self) {
        let lines = log_lines::take();
        for (_, line) in lines.iter().filter(|it| it.0 == Level::Warn) {
            let (name, text) = line.split_once(' ').unwrap_or_default();
            let kind = [name, &text.replace(|it: char| it.is_ascii_digit(), "")].concat();
            let last = self.warned_at.insert(kind, self.engine_now);
            let is_early = last.is_some_and(|last| self.engine_now < last + 60 * SECOND);
            judge(is_early, line, "is logged twice in a minute");
        }
        self.story.extend(lines);
    }

    /// Nothing can happen any more, and all clients have read.
    pub(super) fn check_calm(&self) {
        for connection in self.sockets.iter().filter(|it| it.state == State::Open) {
            let left = [&connection.inbound, &connection.outbound].map(Flow::unread);
            let is_left = connection.is_blocked() || left != [0, 0];
            judge(
                is_left,
                connection,
                "is not echoed, although all clients read",
            );
        }
    }

    /// The engines are gone.
    pub(super) fn check_end(&mut self) {
        self.check_warnings();
        let is_open = self.sockets.iter().any(|it| it.state == State::Open);
        judge(is_open, &"a socket", "stays open");
        judge(self.pipes > 0, &self.pipes, "pipes stay open");
    }
}
