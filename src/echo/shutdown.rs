//! Shutdown: stop listening, drain the connections, linger, abort.

use std::mem;
use std::time::{Duration, Instant};

use log::info;

use super::endpoint_sockets::EndpointEntry;
use super::engine::Engine;
use crate::net::syn_filter::HANDSHAKE_GRACE;
use crate::net::{Accept, System};
use crate::stats::CloseReason;

/// The longest time for which a connection is read and discarded, so that the bytes on their way
/// arrive.
const MAX_LINGER: Duration = Duration::from_secs(1);

/// The phases of the service. After the first, it is finished when no socket is left.
#[derive(Debug, Clone, Copy)]
pub(super) enum Phase {
    Serving,
    /// Connections are echoed. Listeners are closed, some of them later.
    Draining {
        until: Instant,
    },
    /// Nothing is echoed; connections flush and linger.
    Lingering {
        until: Instant,
    },
}

impl<S: System> Engine<S> {
    pub(crate) fn shutdown(&mut self, now: Instant) {
        if !self.is_serving() {
            return;
        }
        self.set_now(now);
        let now = now.max(self.now());
        // Listeners that stay open accept what arrived during a pause.
        self.resume_accepting(now);
        let until = now + self.config.drain_timeout;
        self.phase = Phase::Draining { until };
        let listeners = mem::take(&mut self.acceptor.listeners).into_iter();
        let (later, at_once): (Vec<_>, Vec<_>) =
            listeners.partition(|&index| self.drops_new_syns(index));
        self.close_listeners(at_once, now);
        self.acceptor.listeners = later;
        if !self.acceptor.listeners.is_empty() {
            let grace = HANDSHAKE_GRACE.min(self.config.drain_timeout);
            self.acceptor.listeners_close_at = Some(now + grace);
        }
        self.finish_udp();
        let (name, active) = (&self.name, self.stats.active);
        info!("{name}: shutting down: {active} connections to drain");
    }

    /// Closes the listeners that were kept open for pending handshakes.
    pub(super) fn close_remaining_listeners(&mut self, now: Instant) {
        self.acceptor.listeners_close_at = None;
        let listeners = mem::take(&mut self.acceptor.listeners);
        self.close_listeners(listeners, now);
    }

    /// Accepts what waits at the listeners, and closes them.
    fn close_listeners(&mut self, listeners: Vec<usize>, now: Instant) {
        for &index in &listeners {
            let Some(listener) = self.endpoint_sockets[index].listener_mut() else {
                continue;
            };
            listener.unlink_socket_file();
            if !listener.is_inherited() {
                self.accept_last(index, now);
            }
        }
        for index in listeners {
            self.close_endpoint(index);
        }
    }

    /// Installs the SYN filter if other processes may share the port.
    fn drops_new_syns(&mut self, index: usize) -> bool {
        let reuse_port = self.config.bind.reuse_port;
        let listener = self.endpoint_sockets[index].listener_mut();
        listener.is_some_and(|it| reuse_port && !it.is_inherited() && it.drop_new_syns())
    }

    pub(crate) fn is_finished(&self) -> bool {
        !self.is_serving() && !self.has_sockets()
    }

    fn has_sockets(&self) -> bool {
        !self.connections.is_empty() || self.endpoint_sockets.iter().any(EndpointEntry::is_open)
    }

    pub(super) fn is_serving(&self) -> bool {
        matches!(self.phase, Phase::Serving)
    }

    /// When the phase ends, if anything is left to wait for.
    pub(super) fn phase_ends_at(&self) -> Option<Instant> {
        match self.phase {
            Phase::Draining { until } | Phase::Lingering { until } if self.has_sockets() => {
                Some(until)
            }
            _ => None,
        }
    }

    pub(super) fn advance_phase(&mut self, now: Instant) {
        if matches!(self.phase, Phase::Draining { until } if until <= now) {
            self.linger(now);
        }
        // With a drain time of zero both phases end at once.
        if matches!(self.phase, Phase::Lingering { until } if until <= now) {
            self.abort_all(now);
        }
    }

    /// The drain time is over: ends each connection from this side.
    fn linger(&mut self, now: Instant) {
        let until = now + self.config.drain_timeout.min(MAX_LINGER);
        self.phase = Phase::Lingering { until };
        self.close_endpoints();
        for key in self.connection_keys() {
            self.connections[key].end();
            self.enqueue(key);
        }
    }

    fn abort_all(&mut self, now: Instant) {
        for key in self.connection_keys() {
            self.close(key, CloseReason::Aborted, now);
        }
    }
}
