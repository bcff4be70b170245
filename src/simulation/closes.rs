//! Closes: when a socket has to be closed, which reasons hold, and which one the engine reports.

use super::*;
use crate::echo::ConnectionEvent;
use crate::policy::admission::source_key;

/// What the engine has to report: the close of this connection, for one of these reasons.
pub(super) type Close = (usize, Vec<&'static str>);

/// How much too late a timeout may be noticed: by 50 ms or 1 %, and by the rounding of clocks.
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

    /// When the socket has to be closed, if no byte moves.
    pub(super) fn closes_at(&self, socket: &Socket) -> Micros {
        let after = |start: Micros, time| start + time + tolerance(time);
        // A service lingers from its first iteration after the drain time.
        let lingers_at = self.lingers_at.unwrap_or(self.drained_at);
        let ends_at = after(lingers_at, self.linger_time());
        // A new timeout counts from the last progress, and expires after the change.
        let [idle, write] = self.timeouts(socket);
        let time = idle.min(write);
        let changed_at = self.limits_changed_at + tolerance(time);
        ends_at.min(after(socket.moved_at, time).max(changed_at))
    }

    /// What counts for the budget.
    pub(super) fn held(&self) -> u64 {
        self.connections().map(|it| it.held).sum()
    }

    /// Whether an address is in an allowed network, if there is an allow list.
    pub(super) fn is_allowed(&self, client: SocketAddr) -> bool {
        let allow = &self.plan.config.allow;
        allow.is_empty() || allow.iter().any(|it| it.contains(client.ip()))
    }

    /// Whether the source of a connection is not allowed, or at its limit.
    pub(super) fn is_forbidden(&self, connection: &Socket) -> bool {
        let source = |it: &Socket| it.address.map(source_key);
        let is_other = |it: &&Socket| it.id != connection.id && it.token.is_some();
        let others = self.connections().filter(is_other);
        let count = others.filter(|it| source(it) == source(connection)).count();
        let max = self.plan.config.max_per_source.unwrap_or(usize::MAX);
        let is_forbidden = |it| !self.is_allowed(it) || count >= max;
        connection.address.is_some_and(is_forbidden)
    }

    /// A socket is closed.
    pub(super) fn check_close(&mut self, id: usize) {
        let socket = &self.sockets[id];
        if socket.kind != Kind::Stream {
            self.check_backlog(socket);
        } else if socket.token.is_none() {
            self.check_unopened(socket);
        } else {
            let close = (id, self.reasons(socket));
            self.expected.bytes_discarded += socket.pending();
            self.closes.push_back(close);
        }
    }

    /// An accepted connection is rejected, cannot be registered, or is adopted too late.
    fn check_unopened(&self, socket: &Socket) {
        let is_full = self.connections().count() > self.plan.config.max_connections;
        let is_refused = is_full || self.is_shutting_down() || self.is_forbidden(socket);
        let may_close = is_refused || socket.activity.has_error;
        check!(may_close, "{socket} is not opened, without a reason");
    }

    /// A shutdown serves what waited when the iteration began. Other processes accept the rest, if they
    /// have copies of the listener.
    fn check_backlog(&self, socket: &Socket) {
        let is_over = match socket.kind {
            // Two services can go on for more batches than a shutdown receives.
            Kind::Udp => self.is_lingering() || self.plan.services > 1,
            _ => self.plan.is_inherited || !self.has_place(),
        };
        let may_wait = is_over || socket.activity.has_error || !self.is_shutting_down();
        let count = socket.activity.backlog;
        check!(may_wait || count == 0, "{socket} is closed, {count} wait");
    }

    /// A connection is closed: one of the reasons has to hold.
    fn reasons(&self, socket: &Socket) -> Vec<&'static str> {
        let (config, is_blocked) = (&self.plan.config, socket.is_blocked());
        let unread = socket.inbound.unread();
        let has_ended = socket.inbound.is_ended && unread == 0 && !is_blocked;
        let is_reset = |it| ["ECONNRESET", "EPIPE", "ENOTCONN"].contains(&it);
        let may_expire = unread == 0 || is_blocked || socket.activity.has_error;
        let age = self.engine_now - socket.moved_at;
        let [idle, write] = self.timeouts(socket).map(|it| may_expire && age > it);
        // After the drain time it gets time to flush, and its client to close.
        let lingers_at = self.lingers_at.unwrap_or(self.engine_now);
        let is_over = lingers_at + self.linger_time() <= self.engine_now;
        let has_lingered = has_ended && socket.outbound.is_ended;
        let is_aborted = self.is_lingering() && (is_over || has_lingered);
        let is_over_budget = self.held() > config.max_buffered as u64;
        let all = [
            ("PeerClosed", has_ended && !socket.outbound.is_ended),
            ("Reset", socket.failure.is_some_and(is_reset)),
            ("Error", socket.failure.is_some_and(|it| !is_reset(it))),
            ("IdleTimeout", idle),
            ("WriteTimeout", write),
            ("Evicted", is_blocked && is_over_budget),
            ("Aborted", is_aborted || self.is_host_closing),
        ];
        let reasons: Vec<_> = all.iter().filter(|it| it.1).map(|it| it.0).collect();
        check!(!reasons.is_empty(), "{socket} is closed without reason");
        let is_right = reasons != ["Evicted"] || self.is_blocked_longest(socket);
        check!(is_right, "{socket} is evicted, and not blocked longest");
        reasons
    }

    /// The connection that is blocked longest is evicted, to the length of a slot of its timers.
    fn is_blocked_longest(&self, socket: &Socket) -> bool {
        // Without a timeout they are sorted over ten minutes.
        let range = timeout(self.plan.config.write_timeout).min(600 * SECOND);
        let blocked = self.connections();
        let since = blocked.filter(|it| it.is_blocked()).map(|it| it.moved_at);
        // Older ones share the first slot.
        let first = self.engine_now.saturating_sub(range);
        let first = first.max(since.min().unwrap_or(NEVER));
        socket.moved_at <= first + tolerance(range)
    }

    /// The engine reports an opened connection, or a close, in the order of the closes.
    pub(super) fn check_event(&mut self, event: &ConnectionEvent) {
        let ConnectionEvent::Closed {
            token,
            peer,
            reason,
            echoed,
            ..
        } = event
        else {
            self.opened += 1;
            return;
        };
        let (id, reasons) = self.closes.pop_front().unwrap_or_default();
        let socket = &self.sockets[id];
        let is_same = (socket.token, socket.address) == (Some(*token), *peer);
        let echoes = socket.outbound.sent == *echoed;
        check!(is_same && echoes, "the close of {socket} is not reported");
        let report = format!("{reason:?}");
        let is_right = reasons.iter().any(|it| report.starts_with(it));
        check!(is_right, "{report} is reported as the reason of a close");
        self.expected.closed.count(reason);
    }
}
