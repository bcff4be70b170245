//! listen(2), accept(2), and the errors of accept(2).

use std::io;
#[cfg(unix)]
use std::os::fd::OwnedFd;

use log::debug;
use mio::event::Source;
#[cfg(unix)]
use mio::net::UnixListener;
use mio::net::{TcpListener, TcpStream};
use socket2::{SockRef, Socket, Type};

use super::bind::{Bound, listen_error};
use super::endpoint::Endpoint;
use super::stream::{Peer, StreamSocket};
#[cfg(unix)]
use super::unix_socket::SocketFile;
use super::{Accept, OwnedSocket, canonical, syn_filter};

/// Whether accepted sockets inherit the options of the listener. Then these are set once, without
/// further system calls for each connection.
const OPTIONS_ARE_INHERITED: bool = cfg!(any(target_os = "linux", target_os = "android"));

/// The options that an echo needs on every TCP connection. Resets those that another program may have
/// set, and that would break it.
fn set_options(socket: &SockRef<'_>) -> io::Result<()> {
    // Each echo is sent at once, and does not wait for the acknowledgement of the last one.
    socket.set_tcp_nodelay(true)?;
    // With SO_LINGER close(2) waits, even on a non-blocking socket, or discards what is on its way to
    // the peer; see socket(7).
    socket.set_linger(None)?;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    reset_linux_options(socket);
    // An urgent byte stays in its place in the stream (RFC 6093, section 6). MPTCP sockets refuse the
    // option (EOPNOTSUPP).
    let _ = socket.set_out_of_band_inline(true);
    // A vanished peer is detected after two hours or so, and its place is free again; see tcp(7).
    socket.set_keepalive(true)
}

/// Best effort: a system without an option has nothing to reset.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn reset_linux_options(socket: &SockRef<'_>) {
    use nix::sys::socket::{TimestampingFlag, setsockopt, sockopt::Timestamping};

    // It would hold back an echo for 200 ms, whatever TCP_NODELAY says; see tcp(7).
    let _ = socket.set_tcp_cork(false);
    // Time stamps of sent bytes stay in the error queue, which shares the receive buffer. The echo does
    // not read that queue, and once it is full no more bytes arrive.
    let _ = setsockopt(&**socket, Timestamping, &TimestampingFlag::empty());
}

/// The option that an echo needs on every Unix connection: none inherits it. Fails on systems without
/// urgent data on Unix sockets, where it is not needed.
fn set_unix_options(socket: &SockRef<'_>) {
    let _ = socket.set_out_of_band_inline(true);
}

/// Fixes the size of both buffers; see `SO_RCVBUF` and `SO_SNDBUF` in socket(7). Without a size the
/// system tunes them.
fn set_buffers(socket: &SockRef<'_>, size: Option<usize>) -> io::Result<()> {
    if let Some(size) = size {
        socket.set_recv_buffer_size(size)?;
        socket.set_send_buffer_size(size)?;
    }
    Ok(())
}

/// A listening socket.
#[derive(Debug)]
pub(crate) struct Listener {
    endpoint: Endpoint,
    /// Dropped before the socket, so that the file is gone when the socket closes.
    #[cfg(unix)]
    file: Option<SocketFile>,
    inherited: bool,
    /// Whether options have to be set on each accepted socket.
    sets_options: bool,
    /// The size of the buffers of accepted sockets, in bytes.
    socket_buffer: Option<usize>,
    socket: ListeningSocket,
}

#[derive(Debug)]
enum ListeningSocket {
    Tcp(TcpListener),
    /// With the number of the last peer.
    #[cfg(unix)]
    Unix(UnixListener, u64),
}

impl Listener {
    /// listen(2), except on an inherited socket, which listens already.
    pub(crate) fn listen(
        bound: Bound,
        backlog: u32,
        socket_buffer: Option<usize>,
    ) -> io::Result<Self> {
        let is_tcp = matches!(bound.endpoint, Endpoint::Tcp(_));
        let listen = || {
            let socket = SockRef::from(&bound.socket);
            if is_tcp && OPTIONS_ARE_INHERITED {
                set_options(&socket)?;
            }
            if is_tcp {
                // Before the handshake, which fixes the window scale; see tcp(7).
                set_buffers(&socket, socket_buffer)?;
            }
            if bound.inherited {
                return Ok(());
            }
            socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))
        };
        listen().map_err(|error| listen_error(&bound.endpoint, error))?;
        Ok(Listener {
            #[cfg(unix)]
            file: bound.file,
            inherited: bound.inherited,
            // Connections that came before the options were set do not have them.
            sets_options: is_tcp && (bound.inherited || !OPTIONS_ARE_INHERITED),
            socket_buffer,
            socket: match bound.endpoint {
                #[cfg(unix)]
                Endpoint::Unix(_) | Endpoint::Abstract(_) => {
                    ListeningSocket::Unix(UnixListener::from_std(bound.socket.into()), 0)
                }
                _ => ListeningSocket::Tcp(TcpListener::from_std(bound.socket.into())),
            },
            endpoint: bound.endpoint,
        })
    }

    /// The socket, if it is a TCP socket.
    pub(crate) fn tcp(&self) -> Option<SockRef<'_>> {
        match &self.socket {
            ListeningSocket::Tcp(socket) => Some(SockRef::from(socket)),
            #[cfg(unix)]
            ListeningSocket::Unix(..) => None,
        }
    }
}

impl Accept for Listener {
    type Stream = StreamSocket;

    fn accept(&mut self) -> io::Result<(StreamSocket, Peer)> {
        let accepted = self.socket.accept();
        match &accepted {
            Ok((stream, Peer::Unix(_))) => {
                // Never inherited. The size is best effort.
                let _ = set_buffers(&SockRef::from(&stream.0), self.socket_buffer);
            }
            Ok((stream, Peer::Tcp(_))) if self.sets_options => {
                // Fails if the peer is gone already, which the first read reports.
                let _ = set_options(&SockRef::from(&stream.0));
                let _ = set_buffers(&SockRef::from(&stream.0), self.socket_buffer);
            }
            // The queue is empty. Connections that come from now on inherit the options.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.sets_options &= !OPTIONS_ARE_INHERITED;
            }
            _ => {}
        }
        accepted
    }

    fn is_inherited(&self) -> bool {
        self.inherited
    }

    fn drop_new_syns(&self) -> bool {
        let Some(socket) = self.tcp() else {
            return false;
        };
        syn_filter::drop_new_syns(&socket).unwrap_or_else(|error| {
            debug!("{}: cannot install the SYN filter: {error}", self.endpoint);
            false
        })
    }

    fn unlink_socket_file(&mut self) {
        #[cfg(unix)]
        drop(self.file.take());
    }

    fn source_mut(&mut self) -> &mut dyn Source {
        match &mut self.socket {
            ListeningSocket::Tcp(socket) => socket,
            #[cfg(unix)]
            ListeningSocket::Unix(socket, _) => socket,
        }
    }
}

impl ListeningSocket {
    fn accept(&mut self) -> io::Result<(StreamSocket, Peer)> {
        match self {
            ListeningSocket::Tcp(socket) => {
                let (stream, peer) = socket.accept()?;
                Ok((StreamSocket(stream), Peer::Tcp(canonical(peer))))
            }
            #[cfg(unix)]
            ListeningSocket::Unix(socket, last) => {
                let (stream, _) = socket.accept()?;
                set_unix_options(&SockRef::from(&stream));
                *last += 1;
                let stream = OwnedFd::from(stream).into();
                Ok((StreamSocket(stream), Peer::Unix(*last)))
            }
        }
    }
}

/// A connection that another part of the application accepted, with the options that it would have
/// from here. `socket_buffer` is the size of its buffers.
pub(crate) fn adopt(
    socket: OwnedSocket,
    socket_buffer: Option<usize>,
) -> io::Result<(StreamSocket, Peer)> {
    let socket = Socket::from(socket);
    if socket.r#type()? != Type::STREAM {
        let message = "it is no stream socket: pass on a connected TCP or Unix stream socket";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    let peer = socket.peer_addr()?.as_socket();
    let peer = peer.map_or(Peer::Unix(0), |address| Peer::Tcp(canonical(address)));
    socket.set_nonblocking(true)?;
    let options = SockRef::from(&socket);
    match peer {
        Peer::Tcp(_) => set_options(&options)?,
        Peer::Unix(_) => set_unix_options(&options),
    }
    set_buffers(&options, socket_buffer)?;
    Ok((StreamSocket(TcpStream::from_std(socket.into())), peer))
}

/// Whether accept(2) returned the error of a pending connection, which is lost; see "Error handling"
/// in its manual page. There can be others behind it.
#[cfg(unix)]
pub(crate) fn is_connection_error(error: &io::Error) -> bool {
    use nix::libc::{
        ECONNABORTED, ECONNRESET, EHOSTDOWN, EHOSTUNREACH, ENETDOWN, ENETUNREACH, ENOPROTOOPT,
        EOPNOTSUPP, EPROTO, ETIMEDOUT,
    };

    match error.raw_os_error().unwrap_or_default() {
        ECONNABORTED | ECONNRESET | EHOSTDOWN | EHOSTUNREACH | ENETDOWN | ENETUNREACH
        | ENOPROTOOPT | EOPNOTSUPP | EPROTO | ETIMEDOUT => true,
        #[cfg(any(target_os = "linux", target_os = "android"))]
        nix::libc::ENONET => true,
        _ => false,
    }
}

#[cfg(not(unix))]
pub(crate) fn is_connection_error(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::net::bind::{BindOptions, bind_group};

    fn listener(text: &str) -> Listener {
        let endpoint: Endpoint = text.parse().unwrap();
        let mut bound = bind_group(&[endpoint], BindOptions::default()).unwrap();
        Listener::listen(bound.remove(0), 16, None).unwrap()
    }

    #[test]
    fn accepted_socket_has_the_options_of_an_echo() {
        for text in ["tcp://127.0.0.1:0", "tcp://[::1]:0"] {
            if text.contains("::") && !crate::has_ipv6() {
                continue;
            }
            let mut listener = listener(text);
            let address = listener.endpoint.address().unwrap();
            let _client = std::net::TcpStream::connect(address).unwrap();
            let (stream, _) = listener.accept().unwrap();
            let socket = SockRef::from(&stream.0);
            assert!(
                socket.tcp_nodelay().unwrap(),
                "small echoes would be delayed"
            );
            assert!(
                socket.out_of_band_inline().unwrap(),
                "urgent bytes would be lost"
            );
            assert!(socket.keepalive().unwrap(), "vanished peers would stay");
            #[cfg(unix)]
            assert!(
                socket.nonblocking().unwrap(),
                "one peer could stop the loop"
            );
            let error = listener.accept().unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        }
    }

    /// Over loopback the handshake is complete when connect(2) returns.
    #[cfg(target_os = "linux")]
    #[test]
    fn syn_filter_drops_new_connections_and_keeps_established_ones() {
        use socket2::{Domain, Socket, Type};

        for text in ["tcp://127.0.0.1:0", "tcp://[::1]:0"] {
            if text.contains("::") && !crate::has_ipv6() {
                continue;
            }
            let mut listener = listener(text);
            let address = listener.endpoint.address().unwrap();
            let _early = std::net::TcpStream::connect(address).unwrap();
            assert!(listener.drop_new_syns());
            let late = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
            late.set_nonblocking(true).unwrap();
            late.connect(&address.into()).unwrap_err();
            listener.accept().unwrap();
            let error = listener.accept().unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
            assert!(late.peer_addr().is_err(), "the filter let it in");
            assert!(late.take_error().unwrap().is_none(), "it was reset");
        }
    }

    #[test]
    fn mapped_peer_address_becomes_ipv4() {
        for (reported, peer) in [
            ("[::ffff:192.0.2.1]:7", "192.0.2.1:7"),
            ("192.0.2.1:7", "192.0.2.1:7"),
            ("[fe80::1%2]:7", "[fe80::1%2]:7"),
        ] {
            assert_eq!(canonical(reported.parse().unwrap()).to_string(), peer);
        }
    }

    #[cfg(unix)]
    #[test]
    fn accept_errors_are_classified() {
        use nix::errno::Errno;

        let is_of_connection = |errno: Errno| is_connection_error(&errno.into());
        for errno in [
            Errno::ECONNABORTED,
            Errno::EPROTO,
            Errno::ENETDOWN,
            Errno::EHOSTUNREACH,
        ] {
            assert!(is_of_connection(errno), "{errno}");
        }
        for errno in [
            Errno::EPERM,
            Errno::EMFILE,
            Errno::ENFILE,
            Errno::ENOBUFS,
            Errno::ENOMEM,
            Errno::EINVAL,
        ] {
            assert!(!is_of_connection(errno), "{errno}");
        }
    }
}
