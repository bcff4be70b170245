//! Closes: when a socket has to be closed, which reasons hold, and which one the engine reports.

use super::*;
use crate::echo::ConnectionEvent;
use crate::policy::admission::source_key;

/// What the engine has to report: the close of this connection, for one of these reasons.
pub(super) type Close = (usize, Vec<&'static str>);

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
        let [idle, write] = self.timeouts(socket);
        let time = idle.min(write);
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

    /// Whether the source of a connection is not allowed, or has `max_per_source` other connections.
    pub(super) fn is_forbidden(&self, connection: &Socket) -> bool {
        let source = |it: &Socket| it.address.map(source_key);
        let is_other = |it: &&Socket| it.id != connection.id && it.token.is_some();
        let others = self.connections().filter(is_other);
        let count = others.filter(|it| source(it) == source(connection)).count();
        let max = self.plan.config.max_per_source.unwrap_or(usize::MAX);
        let is_rejected = |it| !self.is_allowed(it) || count >= max;
        connection.address.is_some_and(is_rejected)
    }

    /// Checks that a socket may be closed, while it still counts as open.
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

    /// Checks that an accepted connection has a reason not to be opened: its source is forbidden, a call has
    /// failed, or it was adopted at the limit or during the shutdown.
    fn check_unopened(&self, socket: &Socket) {
        let is_full = self.connections().count() > self.plan.config.max_connections;
        let is_refused = is_full || self.is_shutting_down() || self.is_forbidden(socket);
        let may_close = is_refused || socket.activity.error.is_some();
        check!(may_close, "{socket} is not opened, without a reason");
    }

    /// Checks that a shutdown serves what waited when the iteration began. Excepted: a call has returned an
    /// error (also `EAGAIN`), the drain time is over, there is no place for a connection, or other processes
    /// have copies of the listener.
    fn check_backlog(&self, socket: &Socket) {
        let may_leave = match socket.kind {
            // Two services can reply to each other for more batches than a shutdown receives.
            Kind::Udp => self.is_lingering() || self.plan.services > 1,
            _ => self.plan.is_inherited || !self.has_place(),
        };
        let is_excepted = may_leave || socket.activity.error.is_some() || !self.is_shutting_down();
        let first_new = self.first_new[usize::from(socket.kind == Kind::Udp)];
        let is_served = socket.waiting.front().is_none_or(|it| *it >= first_new);
        check!(is_excepted || is_served, "{socket} leaves a backlog");
    }

    /// Returns the reasons for which a connection may be closed now. At least one has to hold.
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
            ("Evicted", is_blocked && is_over_budget),
            ("Aborted", is_aborted || self.is_host_closing),
        ];
        let reasons: Vec<_> = all.iter().filter(|it| it.1).map(|it| it.0).collect();
        check!(!reasons.is_empty(), "{socket} is closed without reason");
        let is_right = reasons != ["Evicted"] || self.has_oldest_progress(socket);
        check!(is_right, "{socket} is evicted before an older one");
        reasons
    }

    /// Whether no write-blocked connection made its last progress earlier, to the length of a timer's slot.
    fn has_oldest_progress(&self, socket: &Socket) -> bool {
        // Without a write timeout the timers sort the last ten minutes.
        let range = timeout(self.plan.config.write_timeout).min(600 * SECOND);
        let blocked = self.connections().filter(|it| it.is_blocked());
        let oldest = blocked.map(|it| it.moved_at).min().unwrap_or(NEVER);
        // All that is older than the range shares one slot.
        let start = self.engine_now.saturating_sub(range);
        socket.moved_at <= oldest.max(start) + tolerance(range)
    }

    /// Checks what the engine reports. Closes are reported in their order, opened connections are counted.
    pub(super) fn check_event(&mut self, event: &ConnectionEvent) {
        let ConnectionEvent::Closed {
            token,
            peer,
            reason,
            echoed,
            ..
        } = event
        else {
            self.expected.accepted += 1;
            return;
        };
        check!(!self.closes.is_empty(), "a close is reported, and was none");
        let (id, reasons) = self.closes.pop_front().unwrap_or_default();
        let socket = &self.sockets[id];
        let is_same = (socket.token, socket.address) == (Some(*token), *peer);
        let echoes = socket.outbound.sent == *echoed;
        check!(is_same && echoes, "the report of {socket} is wrong");
        let report = format!("{reason:?}");
        let is_right = reasons.iter().any(|it| report.starts_with(it));
        check!(is_right, "{report} is reported as the reason of a close");
        self.expected.closed.count(reason);
    }
}
