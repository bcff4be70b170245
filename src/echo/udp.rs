//! The datagram side: one socket, many peers. Each datagram goes back to where it came from.
//!
//! A turn receives a batch of datagrams and sends their answers:
//!
//! ```text
//!             readable edge              there may be more
//!   Waiting ───────────────► Answering ─────────────────────► on the run queue ─► Answering
//!      ▲                       │  │ sending would block                  (next turn)
//!      │ nothing more to receive  └───────────► Blocked: the rest of the batch kept, not receiving
//!      └───────────────────────┘                  │ writable edge ─► send the rest ─► Answering
//!   the system is short of memory ─► on the run queue again, a little later
//! ```
//!
//! While datagrams keep coming the selector is not asked about them at all, and each turn simply
//! tries to receive. Events would tell what is known already, and cost something: the selector
//! takes note of each datagram that comes, and of the room that each one leaves when it has gone.
//! Linux does the same with network cards and calls it NAPI.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use log::{debug, trace};
use mio::net::UdpSocket;
use mio::{Interest, Registry, Token};
use socket2::Socket;

use crate::net::bind::{Bound, ListenError};
use crate::net::endpoint::Endpoint;
use crate::net::udp::packet_info::Asked;
use crate::net::{Readiness, nonblocking};
use crate::policy::reply_filter::Refusals;
use crate::stats::Stats;

use crate::net::udp::{BATCH, PacketSocket};

/// Room for one datagram of any size: one of IPv6 has up to 65,527 bytes (RFC 8200, section 3, less
/// UDP's header), one of IPv4 up to 65,507. The odd rest keeps the beginnings of neighbours, which
/// is all that small datagrams use, from competing for the same places in the processor's cache.
pub(crate) const SLOT: usize = 65_536 + 64;

/// How much the system is asked to hold for the socket until it is received. It may grant less;
/// see `net.core.rmem_max` in socket(7).
const RECEIVE_BUFFER: usize = 1024 * 1024;

/// From so many datagrams in one batch on, more are expected right behind it.
pub(crate) const BUSY: usize = if BATCH < 4 { BATCH } else { 4 };

/// How many batches are still received of a socket that is to finish: more than the system holds
/// for it, and not all that somebody may go on sending.
const LAST_BATCHES: usize = 4096 / BATCH;

/// How often a datagram is tried for which the system has no memory, before it is given up: it may
/// be that one alone which is too much.
const SHORTAGES: u32 = 50;

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

    /// Sends the first of the datagrams, and as many more as come from the same address of this
    /// host and can be sent now. Gives how many were sent.
    fn send(&mut self, buffers: &[u8], datagrams: &[Datagram]) -> io::Result<usize>;
}

/// A datagram that was received, and its place in the buffers.
#[derive(Debug, Clone)]
pub(crate) struct Datagram {
    pub(crate) slot: usize,
    pub(crate) size: usize,
    pub(crate) peer: SocketAddr,
    pub(crate) asked: Option<Asked>,
}

impl Datagram {
    pub(crate) fn bytes<'a>(&self, buffers: &'a [u8]) -> &'a [u8] {
        let start = self.slot * SLOT;
        &buffers[start..start + self.size]
    }
}

/// What is known of the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// There is nothing to receive. An event tells of more.
    Exhausted,
    /// There may be more to receive.
    Readable,
    /// Sending would block. An event tells of room; what can be received is not looked at.
    Blocked,
}

impl State {
    /// What an event is needed for. For a socket that becomes registered, or registered for
    /// something else, there is an event if it is ready at that time.
    fn interest(self) -> Option<Interest> {
        match self {
            State::Exhausted => Some(Interest::READABLE),
            // Where each datagram takes a call of its own, so would this.
            State::Readable if BATCH == 1 => Some(Interest::READABLE),
            State::Readable => None,
            State::Blocked => Some(Interest::WRITABLE),
        }
    }
}

/// A bound UDP socket, with the datagrams that it has not yet sent back.
#[derive(Debug)]
pub(crate) struct DatagramSocket<S = PacketSocket> {
    socket: S,
    endpoint: Endpoint,
    /// [`BATCH`] slots. Memory of the system's only as far as there ever were bytes in them.
    buffers: Box<[u8]>,
    /// Received, and to be sent back, in this order.
    unsent: Vec<Datagram>,
    state: State,
    /// What the selector tells of.
    watched: Option<Interest>,
    /// How many batches it still receives, if it is to finish.
    batches_left: Option<usize>,
    /// How often in a row the system was short of memory for the first that is unsent.
    shortages: u32,
}

impl DatagramSocket {
    pub(crate) fn new(bound: Bound, address: SocketAddr) -> Result<Self, ListenError> {
        let Bound {
            endpoint, socket, ..
        } = bound;
        prepare(&socket).map_err(|error| ListenError::new(&endpoint, error))?;
        let socket = PacketSocket::new(UdpSocket::from_std(socket.into()), address);
        Ok(Self::over(socket, endpoint))
    }

    /// Registers for what there is to wait for.
    pub(crate) fn watch(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let wanted = self.state.interest();
        let socket = self.socket.source_mut();
        match (self.watched, wanted) {
            (watched, wanted) if watched == wanted => {}
            (None, Some(interest)) => registry.register(socket, token, interest)?,
            (Some(_), Some(interest)) => registry.reregister(socket, token, interest)?,
            (_, None) => registry.deregister(socket)?,
        }
        self.watched = wanted;
        Ok(())
    }

    /// Takes it out of the selector.
    pub(crate) fn leave(&mut self, registry: &Registry) -> io::Result<()> {
        match self.watched.take() {
            Some(_) => registry.deregister(self.socket.source_mut()),
            None => Ok(()),
        }
    }
}

impl<S: Packets> DatagramSocket<S> {
    fn over(socket: S, endpoint: Endpoint) -> Self {
        DatagramSocket {
            socket,
            endpoint,
            buffers: vec![0; SLOT * BATCH].into(),
            unsent: Vec::with_capacity(BATCH),
            state: State::Exhausted,
            watched: None,
            batches_left: None,
            shortages: 0,
        }
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// How many datagrams are still to be sent back.
    pub(crate) fn unsent(&self) -> usize {
        self.unsent.len()
    }

    /// Takes an event in, and says whether it is worth a turn.
    pub(crate) fn wake(&self, readiness: Readiness) -> bool {
        if self.state == State::Blocked {
            readiness.writable
        } else {
            readiness.readable
        }
    }

    /// From now on answers what has come already, and then asks to be closed.
    pub(crate) fn finish(&mut self) {
        self.batches_left = Some(LAST_BATCHES);
    }

    /// Receives at most a batch, so that others get their turn however many there are; and sends
    /// its answers. Nothing is received before all of the last batch is sent.
    pub(crate) fn turn(
        &mut self,
        refusals: &mut Refusals,
        stats: &mut Stats,
        now: Instant,
    ) -> Next {
        let mut turn = || {
            if self.unsent.is_empty() {
                self.receive(stats)?;
                self.refuse(refusals, stats, now);
            }
            self.answer(stats)
        };
        let next = turn().err().unwrap_or(match self.state {
            State::Exhausted => Next::Wait,
            State::Readable | State::Blocked => Next::Again,
        });
        // Nothing unsent, and nothing to wait for but what comes from now on.
        let is_done = next == Next::Wait && self.unsent.is_empty();
        if is_done && self.batches_left.is_some() {
            return Next::Close;
        }
        next
    }

    fn receive(&mut self, stats: &mut Stats) -> Result<(), Next> {
        match &mut self.batches_left {
            Some(0) => return Err(Next::Wait),
            Some(left) => *left -= 1,
            None => {}
        }
        let (buffers, unsent) = (&mut self.buffers, &mut self.unsent);
        match nonblocking(|| self.socket.receive(buffers, unsent)) {
            Ok(Some(count)) if count >= BUSY || self.is_polled() => self.state = State::Readable,
            Ok(Some(_)) => self.state = State::Exhausted,
            Ok(None) => {
                self.state = State::Exhausted;
                return Err(Next::Wait);
            }
            Err(error) => {
                stats.receive_errors += 1;
                debug!("{}: nothing received: {error}", self.endpoint);
                return Err(if is_of_a_peer(&error) {
                    Next::Again
                } else {
                    Next::Later
                });
            }
        }
        for datagram in &self.unsent {
            trace!("{}: datagram of {} bytes", datagram.peer, datagram.size);
            stats.datagrams_received += 1;
            stats.bytes_received += datagram.size as u64;
        }
        Ok(())
    }

    /// Whether it is tried without events, until there is nothing.
    fn is_polled(&self) -> bool {
        self.state == State::Readable && self.state.interest().is_none()
    }

    /// Leaves out those that get no answer.
    fn refuse(&mut self, refusals: &mut Refusals, stats: &mut Stats, now: Instant) {
        self.unsent.retain(|datagram| {
            let refusal = refusals.of(datagram.peer, datagram.asked);
            if let Some(refusal) = refusal {
                refusals.note(refusal, datagram.peer, stats, now);
            }
            refusal.is_none()
        });
    }

    /// Sends all that is unsent, as far as the system takes it.
    fn answer(&mut self, stats: &mut Stats) -> Result<(), Next> {
        if self.state == State::Blocked {
            self.state = State::Readable;
        }
        while let Some(first) = self.unsent.first() {
            match nonblocking(|| self.socket.send(&self.buffers, &self.unsent)) {
                Ok(Some(count)) => {
                    self.shortages = 0;
                    for datagram in self.unsent.drain(..count) {
                        trace!("{}: sent {} bytes back", datagram.peer, datagram.size);
                        stats.datagrams_sent += 1;
                        stats.bytes_sent += datagram.size as u64;
                    }
                }
                Ok(None) => {
                    trace!("{}: sending would block", self.endpoint);
                    self.state = State::Blocked;
                    return Err(Next::Wait);
                }
                Err(error) if is_shortage(&error) && self.shortages < SHORTAGES => {
                    self.shortages += 1;
                    debug!("{}: cannot send now: {error}", self.endpoint);
                    return Err(Next::Later);
                }
                Err(error) => {
                    debug!("{}: cannot be answered: {error}", first.peer);
                    stats.datagram_errors += 1;
                    self.shortages = 0;
                    self.unsent.remove(0);
                }
            }
        }
        Ok(())
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

    if socket.domain()? == socket2::Domain::IPV4 {
        set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::DONT)?;
    }
    Ok(())
}

/// Elsewhere it is the default.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
#[allow(clippy::unnecessary_wraps, reason = "the same on every system")]
fn let_routers_fragment(_socket: &Socket) -> io::Result<()> {
    Ok(())
}

/// Whether the system is short of memory: a while later it may not be.
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
