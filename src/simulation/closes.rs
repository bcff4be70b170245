//! Closes: when a socket has to be closed, which reasons hold, and which one the engine reports.

use super::*;
use crate::echo::ConnectionEvent;
use crate::policy::admission::source_key;

/// How late the engine may notice a timeout: 1 % of it, at least 50 ms, and 2 ms for rounding. So long is a
/// slot of its timers.
fn tolerance(timeout: Micros) -> Micros {
    (timeout / 100).max(50 * MILLISECOND) + 2 * MILLISECOND
}

impl World {
    pub(super) fn is_shutting_down(&self) -> bool {
        self.drained_at < NEVER
    }

    /// Whether the drain time was over at the beginning of this iteration.
    pub(super) fn is_lingering(&self) -> bool {
        self.drained_at <= self.engine_now
    }

    /// The idle timeout and the write timeout, as far as they apply.
    fn timeouts(&self, socket: &Socket) -> [Micros; 2] {
        let config = &self.plan.config;
        let [idle, write] = [config.idle_timeout, config.write_timeout].map(timeout);
        match (self.is_lingering(), socket.is_blocked()) {
            (true, _) => [NEVER; 2],
            (false, true) => [idle, write],
            (false, false) => [idle, NEVER],
        }
    }

    /// For how long connections flush and linger after the drain time.
    fn linger_time(&self) -> Micros {
        micros(self.plan.config.drain_timeout).min(SECOND)
    }

    /// The latest time at which the socket has to be closed, if no byte moves. For listeners and UDP sockets
    /// it is the end of the shutdown.
    pub(super) fn closes_at(&self, socket: &Socket) -> Micros {
        let after = |start: Micros, time| start + time + tolerance(time);
        // The engine lingers from its first iteration after the drain time.
        let lingers_at = self.lingers_at.unwrap_or(self.drained_at);
        let ends_at = after(lingers_at, self.linger_time());
        // A changed timeout counts from the last progress, but never expires before the change.
        let time = self.timeouts(socket).into_iter().fold(NEVER, Micros::min);
        let changed_at = self.limits_changed_at + tolerance(time);
        ends_at.min(after(socket.moved_at, time).max(changed_at))
    }

    /// The bytes that all connections hold, which `max_buffered` limits.
    pub(super) fn held(&self) -> u64 {
        self.connections().map(|it| it.held).sum()
    }

    /// Whether an address is in an allowed network, if there is an allow list.
    pub(super) fn is_allowed(&self, client: SocketAddr) -> bool {
        let allow = &self.plan.config.allow;
        allow.is_empty() || allow.iter().any(|it| it.contains(client.ip()))
    }

    /// Whether the limits allow this connection: there is a place for it, and its source is allowed and has
    /// fewer than `max_per_source` others.
    pub(super) fn may_open(&self, connection: &Socket) -> bool {
        let source = |it: &Socket| it.address.map(source_key);
        let is_other = |it: &&Socket| it.id != connection.id && it.token.is_some();
        let others = self.connections().filter(is_other);
        let count = others.filter(|it| source(it) == source(connection)).count();
        let max = self.plan.config.max_per_source.unwrap_or(usize::MAX);
        let is_admitted = |it| self.is_allowed(it) && count < max;
        let has_place = self.connections().count() <= self.plan.config.max_connections;
        has_place && connection.address.is_none_or(is_admitted)
    }

    /// Checks that a socket may be closed, while it still counts as open.
    pub(super) fn check_close(&mut self, id: usize) {
        let socket = &self.sockets[id];
        if !socket.is_stream() {
            self.check_endpoint(socket);
        } else if socket.token.is_none() {
            // A limit, a call that failed, or the shutdown, in which no connection is adopted.
            let has_failed = socket.activity.error.is_some();
            let is_explained = has_failed || self.is_shutting_down() || !self.may_open(socket);
            check!(is_explained, "{socket} is not opened, without a reason");
        } else {
            let report = (socket.token, self.reasons(socket));
            self.expected.bytes_discarded += socket.pending();
            self.reports.push_back(report);
        }
    }

    /// Checks that a listener or UDP socket is closed only in the shutdown, if the engine could be created, and
    /// taken out of the selector before, if other processes have copies. What waited when the iteration began
    /// has to be served, unless calls fail.
    fn check_endpoint(&self, socket: &Socket) {
        let stays = self.plan.is_inherited && socket.token.is_some();
        let may_close = self.iteration == 0 || (self.is_shutting_down() && !stays);
        check!(may_close, "{socket} is closed too early, or registered");
        let may_leave = match socket.id {
            // Two services can reply to each other for more batches than a shutdown receives.
            UDP => self.is_lingering() || self.plan.services > 1,
            _ => self.plan.is_inherited || !self.has_place(),
        };
        let is_excepted = may_leave || self.plan.calls_per_failure > 0;
        let first_new = self.first_new[usize::from(socket.id == UDP)];
        let is_served = socket.waiting.front().is_none_or(|it| *it >= first_new);
        check!(is_excepted || is_served, "{socket} leaves a backlog");
    }

    /// Returns the reasons for which a connection may be closed now.
    fn reasons(&self, socket: &Socket) -> Vec<&'static str> {
        let (config, is_blocked) = (&self.plan.config, socket.is_blocked());
        let unread = socket.inbound.unread();
        let has_ended = socket.inbound.is_ended && unread == 0 && !is_blocked;
        let is_reset = |it| ["ECONNRESET", "EPIPE", "ENOTCONN"].contains(&it);
        // The engine gives a connection a turn before it closes it for a timeout. So all bytes were read.
        let may_expire = unread == 0 || is_blocked || socket.activity.error.is_some();
        let age = self.engine_now - socket.moved_at;
        let [idle, write] = self.timeouts(socket).map(|it| may_expire && age > it);
        // After the drain time a connection flushes, and reads until its client closes or the time is over.
        let lingers_at = self.lingers_at.unwrap_or(self.engine_now);
        let is_over = lingers_at + self.linger_time() <= self.engine_now;
        let has_lingered = has_ended && socket.outbound.is_ended;
        let is_aborted = self.is_lingering() && (is_over || has_lingered);
        let is_over_budget = self.held() > config.max_buffered as u64;
        let all = [
            // The engine calls shutdown(2) only after the drain time. A close after that is an abort.
            ("PeerClosed", has_ended && !socket.outbound.is_ended),
            ("Reset", socket.failure().is_some_and(is_reset)),
            ("Error", socket.failure().is_some_and(|it| !is_reset(it))),
            ("IdleTimeout", idle),
            ("WriteTimeout", write),
            ("Evicted", is_over_budget && self.is_blocked_longest(socket)),
            ("Aborted", is_aborted || self.is_host_closing),
        ];
        all.iter().filter(|it| it.1).map(|it| it.0).collect()
    }

    /// Whether the connection is write-blocked, and no other such made its last progress earlier, to the length
    /// of a timer's slot.
    fn is_blocked_longest(&self, socket: &Socket) -> bool {
        // Without a write timeout the timers sort the last ten minutes.
        let range = timeout(self.plan.config.write_timeout).min(600 * SECOND);
        let blocked = self.connections().filter(|it| it.is_blocked());
        let oldest = blocked.map(|it| it.moved_at).min().unwrap_or(NEVER);
        // All that is older than the range shares one slot.
        let start = self.engine_now.saturating_sub(range);
        socket.is_blocked() && socket.moved_at <= oldest.max(start) + tolerance(range)
    }

    /// Checks what the engine reports: openings and closes, in their order.
    pub(super) fn check_event(&mut self, event: &ConnectionEvent) {
        let (token, report) = match event {
            ConnectionEvent::Opened { token, .. } => (*token, "Opened".to_owned()),
            ConnectionEvent::Closed { token, reason, .. } => {
                self.expected.closed.count(reason);
                (*token, format!("{reason:?}"))
            }
        };
        let (expected, reports) = self.reports.pop_front().unwrap_or_default();
        let is_right = reports.iter().any(|it| report.starts_with(it));
        check!(is_right, "{report} is reported, and not {reports:?}");
        check!(expected == Some(token), "{token:?} is that of another");
    }
}
