//! The datagram side: one socket, many peers. Each datagram goes back to where it came from.
//!
//! A turn receives a batch of datagrams and replies to them:
//!
//! ```text
//!             readable edge           there may be more to receive
//!   Waiting ───────────────► Replying ─────────────────────────────► on the run queue ─► Replying
//!      ▲                        │  │                                     (next turn)
//!      │ nothing more to receive│  └─ receiving fails, not because of a peer
//!      └────────────────────────┘        ─► on the run queue again, a little later
//! ```
//!
//! UDP is best effort. A reply that cannot be sent now is dropped and counted, as a router would
//! do, and receiving goes on. The socket has one send buffer for all peers, and replies to
//! neighbours that do not answer ARP stay in it for seconds: to wait for room would let a few
//! forged datagrams silence the service for everybody.
//!
//! While datagrams keep coming the selector is not asked about them at all, and each turn simply
//! tries to receive. Events would tell what is known already, and cost something: the selector
//! takes note of each datagram that comes, and of the room that each one leaves when it has gone.
//! Linux does the same with network cards and calls it NAPI.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use log::{debug, trace};
use mio::net::UdpSocket;
use mio::{Interest, Registry, Token};
use socket2::Socket;

use crate::bind::{Bound, ListenError};
use crate::endpoint::Endpoint;
use crate::packet_info::PacketInfo;
use crate::readiness::nonblocking;
use crate::refusal::Refusals;
use crate::stats::Stats;

#[cfg(any(target_os = "linux", target_os = "android"))]
mod batched;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod single;

#[cfg(any(target_os = "linux", target_os = "android"))]
use batched::{BATCH, PacketSocket};
#[cfg(not(any(target_os = "linux", target_os = "android")))]
use single::{BATCH, PacketSocket};

/// Room for one datagram of any size: one of IPv6 has up to 65,527 bytes (RFC 8200, section 3, less
/// UDP's header), one of IPv4 up to 65,507. The odd rest keeps the beginnings of neighbours, which
/// is all that small datagrams use, from competing for the same places in the processor's cache.
const SLOT: usize = 65_536 + 64;

/// How much the system is asked to hold for the socket until it is received. It may grant less;
/// see `net.core.rmem_max` in socket(7).
const RECEIVE_BUFFER: usize = 1024 * 1024;

/// From so many datagrams in one batch on, more are expected right behind it.
const BUSY: usize = if BATCH < 4 { BATCH } else { 4 };

/// How many batches are still received of a socket that is to finish: more than the system holds
/// for it, and not all that somebody may go on sending.
const LAST_BATCHES: usize = 4096 / BATCH;

/// What a socket asks for at the end of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing until an event.
    Wait,
    /// Another turn: there may be more to receive, and no event will say so.
    Again,
    /// Another turn after a while: the system is short of something.
    Later,
    /// To be closed: it was to [finish](DatagramSocket::finish), and has.
    Close,
}

/// What is wanted of a socket for datagrams. The tests have a scripted one.
pub(crate) trait Packets {
    /// Receives up to [`BATCH`] datagrams into slots of `buffers`, at least one. Gives how many;
    /// fewer than [`BUSY`] are all there were.
    fn receive(&mut self, buffers: &mut [u8], datagrams: &mut Vec<Datagram>) -> io::Result<usize>;

    /// Sends datagrams back to their peers, with the control messages of the first. Returns how
    /// many were sent, at least one; the next one's error is that of the next call.
    fn send(&mut self, buffers: &[u8], datagrams: &[Datagram]) -> io::Result<usize>;
}

/// A datagram that was received, and its place in the buffers.
#[derive(Debug, Clone)]
pub(crate) struct Datagram {
    slot: usize,
    size: usize,
    peer: SocketAddr,
    info: PacketInfo,
    /// How many datagrams the system has dropped at this socket, if it tells: a counter that wraps.
    drops: Option<u32>,
}

impl Datagram {
    fn bytes<'a>(&self, buffers: &'a [u8]) -> &'a [u8] {
        let start = self.slot * SLOT;
        &buffers[start..start + self.size]
    }

    /// Whether a reply has the same control messages, and so can be sent with the same call.
    fn replies_like(&self, other: &Datagram) -> bool {
        self.info == other.info && self.peer.is_ipv4() == other.peer.is_ipv4()
    }
}

/// Moves to the front those that can be sent back with one call: the first one, and each other
/// with the same control messages that does not overtake one of the same peer. Returns how many.
fn gather(datagrams: &mut [Datagram]) -> usize {
    let mut count = 0;
    for index in 0..datagrams.len() {
        let datagram = &datagrams[index];
        let overtaken = &datagrams[count..index];
        let is_next = overtaken.iter().all(|it| it.peer != datagram.peer);
        if is_next && datagram.replies_like(&datagrams[0]) {
            datagrams[count..=index].rotate_right(1);
            count += 1;
        }
    }
    count
}

/// A bound UDP socket.
#[derive(Debug)]
pub(crate) struct DatagramSocket<S = PacketSocket> {
    socket: S,
    endpoint: Endpoint,
    /// [`BATCH`] slots. Memory of the system's only as far as there ever were bytes in them.
    buffers: Box<[u8]>,
    /// Received in this turn. Empty, but for its memory, between turns.
    batch: Vec<Datagram>,
    /// Whether each turn tries to receive, and events are not needed.
    is_polled: bool,
    is_registered: bool,
    /// How many batches it still receives, if it is to finish.
    batches_left: Option<usize>,
    /// The last [`drops`](Datagram::drops). `None` while those from before this service are not
    /// known.
    drops: Option<u32>,
}

impl DatagramSocket {
    pub(crate) fn new(bound: Bound, address: SocketAddr) -> Result<Self, ListenError> {
        let Bound {
            endpoint,
            socket,
            is_shared,
            ..
        } = bound;
        prepare(&socket).map_err(|error| ListenError::new(&endpoint, error))?;
        let socket = PacketSocket::new(UdpSocket::from_std(socket.into()), address);
        let mut socket = Self::over(socket, endpoint);
        socket.drops = (!is_shared).then_some(0);
        Ok(socket)
    }

    /// Registers for events if they are needed, and deregisters if they are not. Registering a
    /// socket that is readable gives an event.
    pub(crate) fn watch(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let socket = self.socket.source_mut();
        match (self.is_registered, self.is_polled) {
            (false, false) => registry.register(socket, token, Interest::READABLE)?,
            (true, true) => registry.deregister(socket)?,
            _ => return Ok(()),
        }
        self.is_registered = !self.is_registered;
        Ok(())
    }

    /// Takes it out of the selector.
    pub(crate) fn leave(&mut self, registry: &Registry) -> io::Result<()> {
        if std::mem::take(&mut self.is_registered) {
            registry.deregister(self.socket.source_mut())?;
        }
        Ok(())
    }
}

impl<S: Packets> DatagramSocket<S> {
    fn over(socket: S, endpoint: Endpoint) -> Self {
        DatagramSocket {
            socket,
            endpoint,
            buffers: vec![0; SLOT * BATCH].into(),
            batch: Vec::with_capacity(BATCH),
            is_polled: false,
            is_registered: false,
            batches_left: None,
            drops: None,
        }
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// From now on answers what has come already, and then asks to be closed.
    pub(crate) fn finish(&mut self) {
        self.batches_left = Some(LAST_BATCHES);
    }

    /// Receives at most a batch, so that others get their turn however many there are, and replies.
    pub(crate) fn turn(
        &mut self,
        refusals: &mut Refusals,
        stats: &mut Stats,
        now: Instant,
    ) -> Next {
        let next = self.receive(stats);
        self.refuse(refusals, stats, now);
        self.reply(stats);
        match next {
            Next::Wait if self.batches_left.is_some() => Next::Close,
            next => next,
        }
    }

    fn receive(&mut self, stats: &mut Stats) -> Next {
        match &mut self.batches_left {
            Some(0) => return Next::Wait,
            Some(left) => *left -= 1,
            None => {}
        }
        let (buffers, batch) = (&mut self.buffers, &mut self.batch);
        match nonblocking(|| self.socket.receive(buffers, batch)) {
            Ok(count) => {
                self.count_received(stats);
                self.after(count)
            }
            Err(error) => {
                stats.receive_errors += 1;
                debug!("{}: nothing received: {error}", self.endpoint);
                if is_of_a_peer(&error) {
                    Next::Again
                } else {
                    Next::Later
                }
            }
        }
    }

    fn count_received(&mut self, stats: &mut Stats) {
        for datagram in &self.batch {
            trace!("{}: datagram of {} bytes", datagram.peer, datagram.size);
            stats.datagrams_received += 1;
            stats.bytes_received += datagram.size as u64;
            if let Some(drops) = datagram.drops {
                let before = self.drops.replace(drops).unwrap_or(drops);
                stats.receive_buffer_drops += u64::from(drops.wrapping_sub(before));
            }
        }
    }

    /// What follows a batch of that size; `None` if there was nothing to receive.
    fn after(&mut self, count: Option<usize>) -> Next {
        let has_more = count.is_some_and(|count| count >= BUSY || self.is_polled);
        // Without batches a turn that finds nothing costs as much as the event that it saves.
        self.is_polled = has_more && BATCH > 1;
        if has_more { Next::Again } else { Next::Wait }
    }

    /// Leaves out those that get no answer.
    fn refuse(&mut self, refusals: &mut Refusals, stats: &mut Stats, now: Instant) {
        self.batch.retain(|datagram| {
            let refusal = refusals.of(datagram.peer, datagram.info);
            if let Some(refusal) = refusal {
                refusals.note(refusal, datagram.peer, stats, now);
            }
            refusal.is_none()
        });
    }

    /// Sends the batch back. An error is that of the first datagram alone, unless there is no room.
    fn reply(&mut self, stats: &mut Stats) {
        while !self.batch.is_empty() {
            let count = gather(&mut self.batch);
            match nonblocking(|| self.socket.send(&self.buffers, &self.batch[..count])) {
                Ok(Some(count)) => self.count_sent(count, stats),
                Ok(None) => self.drop_batch(&"the send buffer is full", stats),
                Err(error) if is_shortage(&error) => self.drop_batch(&error, stats),
                Err(error) => {
                    let datagram = self.batch.remove(0);
                    debug!("{}: cannot be answered: {error}", datagram.peer);
                    stats.datagram_errors += 1;
                }
            }
        }
    }

    fn count_sent(&mut self, count: usize, stats: &mut Stats) {
        for datagram in self.batch.drain(..count) {
            trace!("{}: sent {} bytes back", datagram.peer, datagram.size);
            stats.datagrams_sent += 1;
            stats.bytes_sent += datagram.size as u64;
        }
    }

    /// Drops what is left of the batch: there is no room for any of it.
    fn drop_batch(&mut self, reason: &dyn fmt::Display, stats: &mut Stats) {
        let count = self.batch.len();
        debug!("{}: {count} replies dropped: {reason}", self.endpoint);
        stats.send_buffer_drops += count as u64;
        self.batch.clear();
    }
}

fn prepare(socket: &Socket) -> io::Result<()> {
    // A wish: bursts are received that would not fit otherwise.
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
    let_routers_fragment(socket)
}

/// A datagram may be larger than what a network on its way carries at once; then routers are to
/// divide it, instead of reporting it, which costs the datagram, where the report arrives at all.
/// See `IP_MTU_DISCOVER` in ip(7). Routers of IPv6 never divide (RFC 8200, section 5).
#[cfg(any(target_os = "linux", target_os = "android"))]
fn let_routers_fragment(socket: &Socket) -> io::Result<()> {
    use rustix::net::sockopt::{Ipv4PathMtuDiscovery, set_ip_mtu_discover};

    // Also for peers over IPv4 at an IPv6 socket.
    Ok(set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::DONT)?)
}

/// Elsewhere it is the default.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
#[allow(clippy::unnecessary_wraps, reason = "the same on every system")]
fn let_routers_fragment(_socket: &Socket) -> io::Result<()> {
    Ok(())
}

/// Whether the system is short of memory for what is sent.
fn is_shortage(error: &io::Error) -> bool {
    #[cfg(unix)]
    if error.raw_os_error() == Some(nix::errno::Errno::ENOBUFS as i32) {
        return true;
    }
    error.kind() == io::ErrorKind::OutOfMemory
}

/// Whether an error in place of a datagram is about an earlier answer, and others come behind it.
fn is_of_a_peer(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
    )
}

/// With batches, which the tests are about.
#[cfg(all(test, any(target_os = "linux", target_os = "android")))]
mod tests;
