//! How a process that leaves a shared port has the newcomers knock again, at another's door.
//!
//! With `SO_REUSEPORT` the system assigns each newcomer to one of the listening sockets. Those that
//! are assigned to one that is closed before they are accepted are reset, though another process
//! would serve them. To accept until the queue is empty does not help those who come between that and
//! the close. So before it is closed the socket lets no more first segments in (SYN without ACK;
//! RFC 9293, section 3.5): what is in the middle of its handshake completes it, and who comes now
//! gets no answer. A client sends its first segment again after a second (RFC 6298, section 2),
//! and by then the socket is closed and another one is assigned.

use std::io;
use std::time::Duration;

use socket2::SockRef;

/// For how long the socket stays open, so that handshakes that have begun are completed: more than
/// most round trips, and less than the second after which newcomers knock again.
pub(crate) const HANDSHAKE: Duration = Duration::from_millis(500);

/// Lets no more first segments in. Says whether that can be done.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn turn_away_newcomers(socket: &SockRef<'_>) -> io::Result<bool> {
    use socket2::SockFilter;

    // See "BPF engine and instruction set" in the kernel's Documentation/networking/filter.rst.
    const LOAD_BYTE: u16 = 0x30;
    const AND: u16 = 0x54;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    // Of the TCP header, which is where the segment begins for a filter.
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

/// Not known how here.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
#[allow(clippy::unnecessary_wraps, reason = "the same on every system")]
pub(crate) fn turn_away_newcomers(_socket: &SockRef<'_>) -> io::Result<bool> {
    Ok(false)
}
