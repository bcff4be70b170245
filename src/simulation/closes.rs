//! Checks of each close: which reasons hold, and which one the engine reports.

use super::*;
use crate::echo::ConnectionEvent;

/// What the engine has to report of a close: how many bytes it has echoed, and one of these reasons.
pub(super) type Close = (String, Vec<&'static str>);

/// IPv4 addresses, and networks of 64 bits of IPv6, count as one source.
fn source(address: SocketAddr) -> (bool, u64) {
    match address.ip() {
        IpAddr::V4(ip) => (false, u32::from(ip).into()),
        IpAddr::V6(ip) => (true, (ip.to_bits() >> 64) as u64),
    }
}

impl World {
    /// Whether an address is in the allow list, if there is one.
    pub(super) fn is_allowed(&self, peer: SocketAddr) -> bool {
        let is_in = match peer.ip() {
            IpAddr::V4(ip) => ip.octets()[..3] == [10, 0, 0] && ip.octets()[3] < 4,
            IpAddr::V6(ip) => ip.segments()[..4] == [0xfd00, 0, 0, 0],
        };
        self.plan.config.allow.is_empty() || is_in
    }

    /// Whether the source of a connection is not allowed, or at its limit.
    pub(super) fn is_forbidden(&self, connection: &Socket) -> bool {
        let own = connection.address;
        let is_other = |it: &&Socket| it.id != connection.id && it.token.is_some();
        let is_same = |it: &&Socket| it.address.map(source) == own.map(source);
        let others = self.connections(connection.echo).filter(is_other);
        let max = own.and(self.plan.config.max_per_source);
        let is_allowed = own.is_none_or(|address| self.is_allowed(address));
        !is_allowed || max.is_some_and(|max| others.filter(is_same).count() >= max)
    }

    /// A socket is closed.
    pub(super) fn check_close(&mut self, id: usize) {
        let socket = &self.sockets[id];
        if socket.kind == Kind::Listener {
            self.check_listener(socket);
        }
        // A connection without a token was rejected, or could not be registered.
        if socket.kind == Kind::Stream && socket.token.is_some() {
            let bytes = format!("echoed: {},", socket.echoed);
            let (echo, close) = (socket.echo, (bytes, self.reasons(socket)));
            self.echoes[echo].closes.push(close);
        }
    }

    /// A shutdown accepts what waited when the turn began. Other processes accept the rest, if they have
    /// copies of the socket.
    fn check_listener(&self, listener: &Socket) {
        let oldest = listener.waiting.front().map(|it| &self.sockets[*it]);
        let waited = oldest.is_some_and(|it| it.moved_at < self.turn_now);
        let has_failed = listener.error_turn == self.turn;
        let may_leave = has_failed || self.plan.is_inherited || !self.is_shutting_down();
        let is_lost = waited && !may_leave && self.has_place(listener.echo);
        judge(is_lost, listener, "is closed, and connections wait");
    }

    /// A connection is closed: one of the reasons has to hold.
    fn reasons(&self, connection: &Socket) -> Vec<&'static str> {
        let config = &self.plan.config;
        let is_blocked = connection.is_blocked;
        let unread = connection.sent - connection.received;
        let has_ended = connection.has_ended && unread == 0 && connection.pending() == 0;
        let is_reset = |it| ["ECONNRESET", "EPIPE", "ENOTCONN"].contains(&it);
        let would_block = is_blocked || connection.error_turn == self.turn;
        let may_expire = (unread == 0 || would_block) && !self.is_lingering();
        let age = self.turn_now - connection.moved_at;
        let has_expired = |duration: Duration| may_expire && age > timeout(duration);
        let [idle, write] = [config.idle_timeout, config.write_timeout].map(has_expired);
        let held: u64 = self.connections(connection.echo).map(|it| it.held).sum();
        let all = [
            ("PeerClosed", has_ended && !connection.write_closed),
            ("Reset", connection.failure.is_some_and(is_reset)),
            ("Error", connection.failure.is_some_and(|it| !is_reset(it))),
            ("IdleTimeout", idle),
            ("WriteTimeout", is_blocked && write),
            ("Evicted", is_blocked && held > config.max_buffered as u64),
            ("Aborted", self.is_lingering() || self.is_host_closing),
        ];
        let reasons = all.iter().filter(|it| it.1).map(|it| it.0);
        let reasons: Vec<_> = reasons.collect();
        judge(reasons.is_empty(), connection, "is closed without a reason");
        let is_wrong = reasons == ["Evicted"] && !self.is_blocked_longest(connection);
        judge(is_wrong, connection, "is evicted, and not blocked longest");
        reasons
    }

    /// The connection that is blocked longest is evicted, to the length of a slot of its timers.
    fn is_blocked_longest(&self, connection: &Socket) -> bool {
        // Without a timeout they are sorted over ten minutes.
        let range = timeout(self.plan.config.write_timeout).min(600 * SECOND);
        let blocked = self.open(connection.echo).filter(|it| it.is_blocked);
        let longest = blocked.map(|it| it.moved_at).min().unwrap_or(NEVER);
        // Older ones share the first slot.
        let first = longest.max(self.turn_now.saturating_sub(range));
        connection.moved_at <= first.saturating_add(tolerance(range))
    }

    /// The engine reports a close, in the order of the closes: for a reason that holds.
    pub(super) fn check_event(&mut self, echo: usize, event: &ConnectionEvent) {
        let report = format!("{event:?}");
        if matches!(event, ConnectionEvent::Closed { .. }) {
            let (bytes, reasons) = self.echoes[echo].closes.remove(0);
            let is_right = |it: &&str| report.contains(&format!("reason: {it}"));
            let is_right = report.contains(&bytes) && reasons.iter().any(is_right);
            judge(!is_right, &report, "is reported, and is not so");
        }
    }
}
