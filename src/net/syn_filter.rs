//! A socket filter that drops new SYNs while a listener at a shared port drains.
//!
//! With `SO_REUSEPORT` the system assigns each new connection to one of the listening sockets. A
//! connection that is assigned to a socket which closes before it is accepted is reset, though another
//! process would serve it. Accepting until the queue is empty does not help connections that come
//! between that and the close. So the socket drops segments with SYN and without ACK first (RFC 9293,
//! section 3.5). Pending handshakes complete. A new client gets no answer, retransmits its SYN after a
//! second (RFC 6298, section 2), and by then the socket is closed and another one is assigned.

use std::io;
use std::time::Duration;

use socket2::SockRef;

/// How long the socket stays open for pending handshakes: more than most round trips, and less than
/// the second after which clients retransmit.
pub(crate) const HANDSHAKE_GRACE: Duration = Duration::from_millis(500);

/// Installs the filter. Returns whether the system has such filters.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn drop_new_syns(socket: &SockRef<'_>) -> io::Result<bool> {
    use socket2::SockFilter;

    // See "BPF engine and instruction set" in the kernel's Documentation/networking/filter.rst.
    const LOAD_BYTE: u16 = 0x30;
    const AND: u16 = 0x54;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    // Offset in the TCP header, where a segment begins for the filter.
    const FLAGS: u32 = 13;
    const SYN: u32 = 0x02;
    const ACK: u32 = 0x10;

    const PROGRAM: [SockFilter; 5] = [
        SockFilter::new(LOAD_BYTE, 0, 0, FLAGS),
        SockFilter::new(AND, 0, 0, SYN | ACK),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, SYN),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ];
    socket.attach_filter(&PROGRAM)?;
    Ok(true)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
#[allow(clippy::unnecessary_wraps, reason = "the same on every system")]
pub(crate) fn drop_new_syns(_socket: &SockRef<'_>) -> io::Result<bool> {
    Ok(false)
}
