//! Trains of datagrams: one call sends or receives several, and they take one walk through the system.
//! See `UDP_SEGMENT` and `UDP_GRO` in udp(7).

use std::io;

use crate::load::options::LARGEST_DATAGRAM;
use crate::socket::Socket;

/// The most datagrams of a train; newer kernels take more (`UDP_MAX_SEGMENTS`).
const MAX_SEGMENTS: usize = 64;

/// Datagrams of this size in a train. All together they have to fit into one IP packet.
pub(crate) fn max_len(size: usize) -> usize {
    (LARGEST_DATAGRAM / size).clamp(1, MAX_SEGMENTS)
}

/// Has the kernel cut what is sent into datagrams of this size, and join what arrives.
#[cfg(target_os = "linux")]
pub(crate) fn enable(socket: &Socket, size: usize) -> io::Result<()> {
    use nix::sys::socket::{setsockopt, sockopt};

    if let Socket::Udp(socket) = socket {
        let size = i32::try_from(size).map_err(io::Error::other)?;
        setsockopt(socket, sockopt::UdpGsoSegment, &size)?;
        setsockopt(socket, sockopt::UdpGroSegment, &true)?;
    }
    Ok(())
}

/// Receives a train or a datagram. Returns all bytes, and those of each datagram.
#[cfg(target_os = "linux")]
pub(crate) fn receive(socket: &mut Socket, buffer: &mut [u8]) -> io::Result<(usize, usize)> {
    use std::os::fd::AsRawFd;

    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

    let Socket::Udp(socket) = socket else {
        return socket.receive(buffer).map(|count| (count, count));
    };
    let mut slices = [io::IoSliceMut::new(buffer)];
    let mut space = nix::cmsg_space!(i32);
    let (fd, flags) = (socket.as_raw_fd(), MsgFlags::MSG_DONTWAIT);
    let message = recvmsg::<()>(fd, &mut slices, Some(&mut space), flags)?;
    let segment = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::UdpGroSegments(size) => size.try_into().ok(),
        _ => None,
    });
    let size = segment.unwrap_or(message.bytes).min(message.bytes);
    Ok((message.bytes, size))
}

/// The error of a send that every train of this socket will get, in words.
#[cfg(target_os = "linux")]
pub(crate) fn permanent_error(error: &io::Error) -> Option<io::Error> {
    use nix::errno::Errno;

    let reason = match Errno::from_raw(error.raw_os_error()?) {
        // Which of the two depends on the kernel.
        Errno::EINVAL | Errno::EMSGSIZE => "a message is larger than the MTU",
        Errno::EIO => "the network interface does not compute checksums",
        _ => return None,
    };
    Some(io::Error::other(format!("--segment: {reason}: {error}")))
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn enable(_: &Socket, _: usize) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn receive(socket: &mut Socket, buffer: &mut [u8]) -> io::Result<(usize, usize)> {
    socket.receive(buffer).map(|count| (count, count))
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn permanent_error(_: &io::Error) -> Option<io::Error> {
    None
}
