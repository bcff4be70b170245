//! UDP sockets: many datagrams with one system call on Linux, one at a time elsewhere.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use mio::event::Source;
use socket2::Socket;

use self::packet_info::PacketInfo;

#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod fallback;
#[cfg(any(target_os = "linux", target_os = "android"))]
mod linux;
pub(crate) mod packet_info;

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) use fallback::{BATCH, RECEIVE, SEND, UdpIo, refuses_trains, set_options};
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) use linux::{BATCH, RECEIVE, SEND, UdpIo, refuses_trains, set_options};

/// Room for one datagram of any size, in bytes: with IPv6 up to 65,527 (RFC 8200, section 3, less the
/// UDP header), with IPv4 up to 65,507. The odd rest keeps the first bytes of neighbours, which is all
/// that small datagrams use, in different sets of the processor's cache.
pub(crate) const SLOT_SIZE: usize = 65_536 + 64;

/// A batch of at least this size has more datagrams right behind it, as a rule.
pub(crate) const POLL_THRESHOLD: usize = if BATCH < 4 { BATCH } else { 4 };

/// The requested size of the receive buffer, in bytes. The system may grant less; see
/// `net.core.rmem_max` in socket(7).
const RECEIVE_BUFFER: usize = 1024 * 1024;

/// A bound UDP socket.
pub(crate) trait DatagramIo {
    /// recvmmsg(2): up to [`BATCH`] datagrams into slots of `buffers`, at least one. Returns how many;
    /// fewer than [`POLL_THRESHOLD`] have drained the socket.
    fn receive(&mut self, buffers: &mut [u8], datagrams: &mut Vec<Datagram>) -> io::Result<usize>;

    /// sendmmsg(2): sends datagrams back to their peers, with the control messages of the first.
    /// Returns how many were sent, at least one. An error is that of the first datagram.
    fn send(&mut self, buffers: &[u8], datagrams: &[Datagram]) -> io::Result<usize>;

    /// The source to register.
    fn source_mut(&mut self) -> &mut dyn Source;
}

/// A received datagram, and its place in the buffers; or a train, which is several datagrams of one peer,
/// one behind the other, that the system received with one call and sends with one.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Datagram {
    /// Where its bytes begin in the buffers.
    pub(crate) start: usize,
    /// The number of its bytes; of a train, of all together.
    pub(crate) size: usize,
    pub(crate) peer: SocketAddr,
    pub(crate) info: PacketInfo,
    /// How many datagrams the system has dropped at this socket, if it reports that: a counter that wraps.
    pub(crate) drops: Option<u32>,
}

impl Datagram {
    pub(crate) fn bytes<'a>(&self, buffers: &'a [u8]) -> &'a [u8] {
        &buffers[self.start..self.start + self.size]
    }

    /// How many datagrams it is.
    pub(crate) fn count(&self) -> usize {
        self.info
            .segment
            .map_or(1, |size| self.size.div_ceil(size.get().into()))
    }

    /// The datagrams of a train, each by itself.
    pub(crate) fn split(&self) -> impl Iterator<Item = Datagram> {
        let size = self
            .info
            .segment
            .map_or(self.size, |size| size.get().into());
        (0..self.count()).map(move |index| {
            let mut datagram = self.clone();
            datagram.start += index * size;
            datagram.size = size.min(self.size - index * size);
            datagram.info.segment = None;
            datagram
        })
    }

    /// Whether a reply has the same control messages, and so can be sent with the same call.
    pub(crate) fn replies_like(&self, other: &Datagram) -> bool {
        self.info == other.info && self.peer.is_ipv4() == other.peer.is_ipv4()
    }
}

impl fmt::Display for Datagram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.count() {
            1 => write!(f, "datagram of {} bytes", self.size),
            count => write!(f, "train of {count} datagrams, {} bytes", self.size),
        }
    }
}

/// Sets the options of a socket that is, or is going to be, bound to `address`.
pub(crate) fn prepare(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    // Best effort: with a larger buffer bursts fit.
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
    set_options(socket, address)
}

/// Whether sending failed because the system is out of memory: `ENOBUFS` or `ENOMEM`.
pub(crate) fn is_out_of_memory(error: &io::Error) -> bool {
    #[cfg(unix)]
    if error.raw_os_error() == Some(nix::errno::Errno::ENOBUFS as i32) {
        return true;
    }
    error.kind() == io::ErrorKind::OutOfMemory
}

/// Whether an error in place of a datagram is about an earlier reply (an ICMP message), so that
/// datagrams can be behind it.
pub(crate) fn is_about_a_reply(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
    )
}
