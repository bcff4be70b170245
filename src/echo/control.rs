//! What the application changes while the engine runs: limits, and single connections.

use std::io;
use std::time::Instant;

use mio::Token;

use super::engine::Engine;
use crate::config::Config;
use crate::net::System;
use crate::net::stream::Peer;
use crate::policy::admission::Admission;
use crate::policy::cidr::AllowList;
use crate::stats::CloseReason;

impl<S: System> Engine<S> {
    /// Opens a connection that the application accepted.
    pub(crate) fn adopt(
        &mut self,
        stream: S::Stream,
        peer: Peer,
        now: Instant,
    ) -> io::Result<Token> {
        if !self.is_serving() {
            let message = "the echo is shutting down: it takes no new connection";
            return Err(io::Error::other(message));
        }
        let limit = self.config.max_connections;
        if self.stats.active >= limit {
            let message = format!("at the limit of {limit} connections: try again when one closes");
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, message));
        }
        self.set_now(now);
        self.admit(stream, peer, now)?.map_err(|reason| {
            let message = format!("{peer} is rejected: {reason}");
            io::Error::new(io::ErrorKind::PermissionDenied, message)
        })
    }

    /// Closes the connection with this token. Returns whether there was one.
    pub(crate) fn close_connection(&mut self, token: Token, now: Instant) -> bool {
        let key = self.key_of(token);
        let is_connection = self.connections.contains(key);
        if is_connection {
            self.set_now(now);
            self.close(key, CloseReason::Aborted, now);
        }
        is_connection
    }

    /// Replaces the limits, and puts them into effect.
    pub(crate) fn set_limits(&mut self, config: &Config, now: Instant) -> io::Result<()> {
        self.check_limits(config)?;
        self.set_now(now);
        self.config = config.clone();
        let allowed = AllowList::new(&config.allow);
        self.udp.filter.allowed = allowed.clone();
        self.acceptor.admission = Admission::new(allowed, config.max_per_source);
        self.timers
            .set_timeouts(config.idle_timeout, config.write_timeout);
        for key in self.connection_keys() {
            self.apply_limits(key);
        }
        self.enforce_budget(now);
        self.retry_accepting(now);
        Ok(())
    }

    fn check_limits(&self, config: &Config) -> io::Result<()> {
        let invalid = |message: String| Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        if !self.config.differs_only_in_limits(config) {
            return invalid(
                "only the limits, the allow list and the timeouts can change: start from the \
                 present configuration"
                    .to_owned(),
            );
        }
        let tokens = self.token_count - self.endpoints.len();
        if config.max_connections > tokens {
            return invalid(format!(
                "the limit of connections cannot be above that of the start, {tokens}, which fixed \
                 the range of tokens"
            ));
        }
        Ok(())
    }

    /// Counts an open connection anew, and schedules its timeouts.
    fn apply_limits(&mut self, key: usize) {
        let connection = &self.connections[key];
        if let Some(address) = connection.name.peer.address() {
            self.acceptor.admission.count(address);
        }
        self.reschedule(key);
    }
}
