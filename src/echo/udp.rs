//! UDP: one socket, many peers. Each datagram goes back to where it came from.
//!
//! A turn receives a batch of datagrams, filters it, and replies:
//!
//! ```text
//!             readable               there may be more
//!   Waiting ───────────► Replying ─────────────────────► run queue ─► Replying (next turn)
//!      ▲                    │  │
//!      │ receive would block│  └─ receiving fails, and not for an earlier reply ─► retry timer
//!      └────────────────────┘
//! ```
//!
//! UDP is best effort. A reply that cannot be sent now is dropped and counted, as a router would do,
//! and receiving goes on: all peers share the send buffer of the socket, and replies to neighbours that
//! do not answer ARP stay in it for seconds. Waiting for room would let a few forged datagrams silence
//! the service for all peers.
//!
//! While datagrams keep coming, the socket is not registered, and each turn tries to receive. Events
//! would only repeat what is known, at the cost of the selector's bookkeeping for each datagram. Linux
//! does the same with network cards and calls it NAPI.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use log::{debug, trace, warn};
use mio::event::Source;
use mio::{Interest, Registry, Token};

use super::engine::{Engine, RETRY_INTERVAL};
use crate::net::bind::Bound;
use crate::net::endpoint::Endpoint;
use crate::net::udp::{
    self, BATCH, Datagram, DatagramIo, POLL_THRESHOLD, RECEIVE, SEND, SLOT_SIZE, UdpIo,
};
use crate::net::{System, nonblocking, outcome};
use crate::policy::log_throttle::LogThrottle;
use crate::policy::reply_filter::{DropReason, ReplyFilter};
use crate::stats::{Dropped, Stats};

/// How many batches a socket still receives at a shutdown: more than its receive buffer holds, and not
/// all that peers go on sending.
const MAX_DRAIN_BATCHES: usize = 4096 / BATCH;

/// What all UDP sockets share.
#[derive(Debug)]
pub(super) struct Udp {
    pub(super) filter: ReplyFilter,
    warnings: LogThrottle,
    /// When the sockets get a turn without an event.
    pub(super) retry_at: Option<Instant>,
}

impl Udp {
    pub(super) fn new(filter: ReplyFilter) -> Self {
        Udp {
            filter,
            warnings: LogThrottle::default(),
            retry_at: None,
        }
    }

    /// Whether a datagram gets a reply. If not, counts and logs it.
    fn admits(
        &mut self,
        endpoint: &Endpoint,
        datagram: &Datagram,
        stats: &mut Stats,
        now: Instant,
    ) -> bool {
        let (peer, info) = (datagram.peer, &datagram.info);
        let reason = self.filter.check(peer, info.multicast, info.ttl);
        if let Some(reason) = reason {
            *counter(&mut stats.dropped, reason) += datagram.count() as u64;
            debug!("{peer}: datagram dropped: {reason}");
            if let Some(count) = self.warnings.count(now) {
                warn!(
                    "{endpoint}: {count} datagrams got no reply, the last one from {peer}: {reason}"
                );
            }
        }
        reason.is_none()
    }
}

fn counter(dropped: &mut Dropped, reason: DropReason) -> &mut u64 {
    match reason {
        DropReason::NotAllowed => &mut dropped.not_allowed,
        DropReason::PortZero => &mut dropped.port_zero,
        DropReason::ReservedPort => &mut dropped.reserved_port,
        DropReason::NfsPort => &mut dropped.nfs_port,
        DropReason::OwnPort => &mut dropped.own_port,
        DropReason::SourceAddress => &mut dropped.source_address,
        DropReason::Destination => &mut dropped.destination,
        DropReason::HopLimit => &mut dropped.hop_limit,
    }
}

/// What a socket asks for at the end of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AfterBatch {
    /// Wait for an event.
    WaitReadable,
    /// Another turn: there may be more to receive, and no event will announce it.
    Again,
    /// Another turn after [`RETRY_INTERVAL`]: the system is out of memory.
    Later,
    /// Close the socket: it [finishes](DatagramSocket::finish), and is drained.
    Close,
}

/// A bound UDP socket.
#[derive(Debug)]
pub(crate) struct DatagramSocket<S = UdpIo> {
    socket: S,
    endpoint: Endpoint,
    /// [`BATCH`] slots. The system provides memory for the part that was ever used.
    buffers: Box<[u8]>,
    /// The datagrams of this turn. Empty between turns; kept for its memory.
    batch: Vec<Datagram>,
    /// Whether each turn tries to receive, so that events are not needed.
    is_polled: bool,
    is_registered: bool,
    /// How many batches are still received, if the socket finishes.
    batches_left: Option<usize>,
    /// The last value of [`Datagram::drops`]; `None` until the first on an inherited socket.
    drops: Option<u32>,
}

impl DatagramSocket {
    pub(crate) fn new(bound: Bound, address: SocketAddr) -> Self {
        let mut socket = Self::over(UdpIo::new(bound.socket, address), bound.endpoint);
        socket.drops = (!bound.inherited).then_some(0);
        socket
    }
}

impl<S: DatagramIo> DatagramSocket<S> {
    pub(crate) fn over(socket: S, endpoint: Endpoint) -> Self {
        DatagramSocket {
            socket,
            endpoint,
            buffers: vec![0; SLOT_SIZE * BATCH].into(),
            batch: Vec::with_capacity(BATCH),
            is_polled: false,
            is_registered: false,
            batches_left: None,
            drops: None,
        }
    }

    /// Registers if events are needed, and deregisters if not. Registering a readable socket gives an
    /// event.
    pub(crate) fn update_registration(
        &mut self,
        registry: &Registry,
        token: Token,
    ) -> io::Result<()> {
        let socket = self.socket.source_mut();
        match (self.is_registered, self.is_polled) {
            (false, false) => registry.register(socket, token, Interest::READABLE)?,
            (true, true) => registry.deregister(socket)?,
            _ => return Ok(()),
        }
        self.is_registered = !self.is_registered;
        Ok(())
    }

    pub(super) fn source_mut(&mut self) -> &mut dyn Source {
        self.socket.source_mut()
    }

    /// From now on replies to queued datagrams only, and then asks to be closed.
    pub(crate) fn finish(&mut self) {
        self.batches_left = Some(MAX_DRAIN_BATCHES);
    }

    /// Receives at most one batch, so that no socket keeps the others waiting, and replies to it.
    pub(super) fn turn(&mut self, udp: &mut Udp, stats: &mut Stats, now: Instant) -> AfterBatch {
        let next = self.receive(stats);
        self.batch
            .retain(|datagram| udp.admits(&self.endpoint, datagram, stats, now));
        self.reply(stats);
        match next {
            AfterBatch::WaitReadable if self.batches_left.is_some() => AfterBatch::Close,
            next => next,
        }
    }

    fn receive(&mut self, stats: &mut Stats) -> AfterBatch {
        match &mut self.batches_left {
            Some(0) => return AfterBatch::WaitReadable,
            Some(left) => *left -= 1,
            None => {}
        }
        let (buffers, batch) = (&mut self.buffers, &mut self.batch);
        let result = nonblocking(|| self.socket.receive(buffers, batch));
        let batch_of = |count: &usize| format!(": batch of {count}");
        let endpoint = &self.endpoint;
        trace!(endpoint:%, call = RECEIVE; "{endpoint}: {RECEIVE}{}", outcome(&result, batch_of));
        match result {
            Ok(count) => {
                self.count_received(stats);
                self.after_receive(count)
            }
            Err(error) => {
                stats.receive_errors += 1;
                debug!("{}: nothing received: {error}", self.endpoint);
                if udp::is_about_a_reply(&error) {
                    AfterBatch::Again
                } else {
                    AfterBatch::Later
                }
            }
        }
    }

    fn count_received(&mut self, stats: &mut Stats) {
        for datagram in &self.batch {
            trace!("{}: {datagram}", datagram.peer);
            stats.datagrams_received += datagram.count() as u64;
            stats.bytes_received += datagram.size as u64;
            if let Some(drops) = datagram.drops {
                let before = self.drops.replace(drops).unwrap_or(drops);
                stats.receive_buffer_drops += u64::from(drops.wrapping_sub(before));
            }
        }
    }

    /// `count` is the size of the batch; `None` if receiving would block.
    fn after_receive(&mut self, count: Option<usize>) -> AfterBatch {
        let has_more = count.is_some_and(|count| count >= POLL_THRESHOLD || self.is_polled);
        // Without batches a call that finds nothing costs as much as the event that it saves.
        self.is_polled = has_more && BATCH > 1;
        if has_more {
            AfterBatch::Again
        } else {
            AfterBatch::WaitReadable
        }
    }

    /// Sends the batch back.
    fn reply(&mut self, stats: &mut Stats) {
        while !self.batch.is_empty() {
            let count = group(&mut self.batch);
            let result = nonblocking(|| self.socket.send(&self.buffers, &self.batch[..count]));
            let sent = |sent: &usize| format!(": {sent} of {count} datagrams");
            let endpoint = &self.endpoint;
            trace!(endpoint:%, call = SEND; "{endpoint}: {SEND}{}", outcome(&result, sent));
            match result {
                Ok(Some(count)) => self.count_sent(count, stats),
                Ok(None) => self.drop_batch(&"the send buffer is full", stats),
                Err(error) if udp::is_out_of_memory(&error) => self.drop_batch(&error, stats),
                Err(error) => {
                    let reply = self.batch.remove(0);
                    if reply.count() > 1 && udp::refuses_trains(&error) {
                        self.batch.splice(..0, reply.split());
                        continue;
                    }
                    // An error of this reply alone, such as a peer that cannot be reached.
                    debug!("{}: cannot reply: {error}", reply.peer);
                    stats.datagram_errors += reply.count() as u64;
                }
            }
        }
    }

    fn count_sent(&mut self, count: usize, stats: &mut Stats) {
        for datagram in self.batch.drain(..count) {
            trace!("{}: sent {} bytes back", datagram.peer, datagram.size);
            stats.datagrams_sent += datagram.count() as u64;
            stats.bytes_sent += datagram.size as u64;
        }
    }

    /// Drops the rest of the batch: there is no room for any of it.
    fn drop_batch(&mut self, reason: &dyn fmt::Display, stats: &mut Stats) {
        let count: usize = self.batch.iter().map(Datagram::count).sum();
        debug!("{}: {count} replies dropped: {reason}", self.endpoint);
        stats.send_buffer_drops += count as u64;
        self.batch.clear();
    }
}

/// Moves the datagrams to the front that can be sent back with one call: the first one, and each other
/// with the same control messages that does not overtake one of its own peer. Returns how many.
fn group(datagrams: &mut [Datagram]) -> usize {
    let mut count = 0;
    for index in 0..datagrams.len() {
        let datagram = &datagrams[index];
        let overtaken = &datagrams[count..index];
        let keeps_order = overtaken.iter().all(|it| it.peer != datagram.peer);
        if keeps_order && datagram.replies_like(&datagrams[0]) {
            datagrams[count..=index].rotate_right(1);
            count += 1;
        }
    }
    count
}

impl<S: System> Engine<S> {
    /// A turn of a UDP socket.
    pub(super) fn udp_turn(&mut self, index: usize, now: Instant) {
        let token = self.endpoint_token(index);
        let Some(socket) = self.endpoint_sockets[index].udp_mut() else {
            return;
        };
        let mut next = socket.turn(&mut self.udp, &mut self.stats, now);
        // A socket that closes needs no more events.
        if next != AfterBatch::Close
            && let Err(error) = socket.update_registration(&self.registry, token)
        {
            debug!("{}: cannot register: {error}", socket.endpoint);
            next = AfterBatch::Later;
        }
        match next {
            AfterBatch::WaitReadable => {}
            AfterBatch::Again => self.enqueue_endpoint(index),
            // Another socket may have set an earlier time.
            AfterBatch::Later => {
                self.udp.retry_at.get_or_insert(now + RETRY_INTERVAL);
            }
            AfterBatch::Close => self.close_endpoint(index),
        }
    }

    /// Gives each UDP socket a turn.
    pub(super) fn retry_udp(&mut self, _now: Instant) {
        self.udp.retry_at = None;
        self.queue_udp(|_| {});
    }

    /// Replies to queued datagrams, then closes the sockets.
    pub(super) fn finish_udp(&mut self) {
        self.queue_udp(DatagramSocket::finish);
    }

    fn queue_udp(&mut self, change: impl Fn(&mut DatagramSocket<S::Datagrams>)) {
        for index in 0..self.endpoint_sockets.len() {
            if let Some(socket) = self.endpoint_sockets[index].udp_mut() {
                change(socket);
                self.enqueue_endpoint(index);
            }
        }
    }
}

/// The tests need batches.
#[cfg(all(test, any(target_os = "linux", target_os = "android")))]
mod tests;
