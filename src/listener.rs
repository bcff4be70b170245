//! Listen, accept, and what it means when the system refuses a connection.

use std::io;
use std::net::{IpAddr, SocketAddr};

use log::debug;
use mio::event::Source;
use mio::net::TcpListener;
#[cfg(unix)]
use mio::net::UnixListener;
use socket2::{SockRef, Socket};

use crate::bind::{Bound, ListenError};
use crate::endpoint::Endpoint;
use crate::readiness::nonblocking;
#[cfg(unix)]
use crate::socket_file::SocketFile;
use crate::stream::{Peer, StreamSocket};
use crate::turned_away::turn_away_newcomers;

/// Whether accepted sockets have the options of their listener, so that these are set once and
/// not with a system call or two for each connection.
const OPTIONS_ARE_INHERITED: bool = cfg!(any(target_os = "linux", target_os = "android"));

/// What an echo wants of each connection's socket.
fn set_options(socket: &SockRef<'_>) -> io::Result<()> {
    // Each answer goes out at once, instead of waiting for the peer to acknowledge the last.
    socket.set_tcp_nodelay(true)?;
    // A byte sent as urgent is a byte of the stream, as RFC 6093, section 6, wants it: it comes
    // back in its place. MPTCP sockets refuse it (EOPNOTSUPP).
    let _ = socket.set_out_of_band_inline(true);
    // A peer that vanished without a word is found out, after two hours or so, and does not keep
    // its place for ever; see tcp(7).
    socket.set_keepalive(true)
}

/// A listening socket.
#[derive(Debug)]
pub(crate) struct Listener {
    endpoint: Endpoint,
    /// Before the socket, so that the file is gone when the socket is closed.
    #[cfg(unix)]
    file: Option<SocketFile>,
    is_shared: bool,
    /// Whether options have to be set on each connection.
    sets_options: bool,
    socket: ListeningSocket,
}

#[derive(Debug)]
enum ListeningSocket {
    Tcp(TcpListener),
    /// With the number of the last peer.
    #[cfg(unix)]
    Unix(UnixListener, u64),
}

/// What the system had when it was asked for a connection.
#[derive(Debug)]
pub(crate) enum Accepted<T> {
    /// A connection and its peer.
    Connection(T, Peer),
    /// None: an event will say when there is one.
    Nobody,
    /// One that was lost on its way: there may be others behind it.
    Lost(io::Error),
    /// One that cannot be had now: it waits, and no event will tell of it again.
    Shortage(io::Error),
}

impl Listener {
    /// listen(2).
    pub(crate) fn listen(bound: Bound, backlog: u32) -> Result<Self, ListenError> {
        let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
        let socket = &bound.socket;
        let is_tcp = matches!(bound.endpoint, Endpoint::Tcp(_));
        let listen = || {
            if is_tcp && OPTIONS_ARE_INHERITED {
                set_options(&SockRef::from(socket))?;
            }
            if bound.is_shared {
                return Ok(());
            }
            socket.listen(backlog)
        };
        listen().map_err(|error| ListenError::new(&bound.endpoint, error))?;
        Ok(Listener {
            endpoint: bound.endpoint,
            #[cfg(unix)]
            file: bound.file,
            is_shared: bound.is_shared,
            // Those who have come before the options were set do not have them.
            sets_options: is_tcp && (bound.is_shared || !OPTIONS_ARE_INHERITED),
            socket: if is_tcp {
                ListeningSocket::Tcp(TcpListener::from_std(bound.socket.into()))
            } else {
                ListeningSocket::unix(bound.socket)
            },
        })
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Leaves the place where it is found. Who has connected can still be accepted.
    pub(crate) fn withdraw(&mut self) {
        #[cfg(unix)]
        drop(self.file.take());
    }

    /// Has newcomers knock again later, where another process may serve them at the same port.
    /// Says whether it does.
    pub(crate) fn turn_away_newcomers(&self) -> bool {
        let Some(socket) = self.tcp() else {
            return false;
        };
        turn_away_newcomers(&socket).unwrap_or_else(|error| {
            debug!("{}: cannot turn newcomers away: {error}", self.endpoint);
            false
        })
    }

    /// The socket, if it is one of TCP.
    pub(crate) fn tcp(&self) -> Option<SockRef<'_>> {
        match &self.socket {
            ListeningSocket::Tcp(socket) => Some(SockRef::from(socket)),
            #[cfg(unix)]
            ListeningSocket::Unix(..) => None,
        }
    }

    /// Whether others have the socket too, and can accept who waits.
    pub(crate) fn is_shared(&self) -> bool {
        self.is_shared
    }

    pub(crate) fn source_mut(&mut self) -> &mut dyn Source {
        match &mut self.socket {
            ListeningSocket::Tcp(socket) => socket,
            #[cfg(unix)]
            ListeningSocket::Unix(socket, _) => socket,
        }
    }

    /// accept(2), once.
    pub(crate) fn accept(&mut self) -> Accepted<StreamSocket> {
        let accepted = accepted(nonblocking(|| self.socket.accept()));
        match &accepted {
            Accepted::Connection(stream, _) if self.sets_options => {
                // Fails where the peer has gone already, which the first read will tell.
                let _ = set_options(&SockRef::from(stream));
            }
            // All who come from now on inherit them.
            Accepted::Nobody => self.sets_options &= !OPTIONS_ARE_INHERITED,
            _ => {}
        }
        accepted
    }
}

impl ListeningSocket {
    #[cfg(unix)]
    fn unix(socket: Socket) -> Self {
        ListeningSocket::Unix(UnixListener::from_std(socket.into()), 0)
    }

    /// Whatever it is that is no TCP socket: nothing of the kind is bound here.
    #[cfg(not(unix))]
    fn unix(_socket: Socket) -> Self {
        unreachable!("no Unix sockets on this system")
    }

    fn accept(&mut self) -> io::Result<(StreamSocket, Peer)> {
        match self {
            ListeningSocket::Tcp(socket) => {
                let (stream, peer) = socket.accept()?;
                Ok((stream.into(), Peer::Tcp(canonical(peer))))
            }
            #[cfg(unix)]
            ListeningSocket::Unix(socket, last) => {
                let (stream, _) = socket.accept()?;
                // Never inherited, and there are no others. Fails where the system has no urgent
                // data on Unix sockets, which is just as well.
                let _ = SockRef::from(&stream).set_out_of_band_inline(true);
                *last += 1;
                Ok((stream.into(), Peer::Unix(*last)))
            }
        }
    }
}

/// A peer over IPv4 by its own address, also where the socket is of both families: one that is bound
/// here never is, but others may be.
fn canonical(peer: SocketAddr) -> SocketAddr {
    match peer.ip().to_canonical() {
        ip @ IpAddr::V4(_) => (ip, peer.port()).into(),
        IpAddr::V6(_) => peer,
    }
}

fn accepted<T>(result: io::Result<Option<(T, Peer)>>) -> Accepted<T> {
    match result {
        Ok(Some((stream, peer))) => Accepted::Connection(stream, peer),
        Ok(None) => Accepted::Nobody,
        Err(error) if is_lost_connection(&error) => Accepted::Lost(error),
        // EMFILE, ENFILE, ENOBUFS, ENOMEM; and whatever is not known here, because to pause and
        // try again later is right for that too, and going on at once could be for ever.
        Err(error) => Accepted::Shortage(error),
    }
}

/// Whether an error of accept(2) is one of the connection it would have given. Linux hands over
/// what was already pending on that connection; see "Error handling" in its manual page.
#[cfg(unix)]
fn is_lost_connection(error: &io::Error) -> bool {
    use nix::errno::Errno;

    #[cfg(any(target_os = "linux", target_os = "android"))]
    if error.raw_os_error() == Some(Errno::ENONET as i32) {
        return true;
    }
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(
            Errno::ECONNABORTED
                | Errno::ECONNRESET
                | Errno::EHOSTDOWN
                | Errno::EHOSTUNREACH
                | Errno::ENETDOWN
                | Errno::ENETUNREACH
                | Errno::ENOPROTOOPT
                | Errno::EOPNOTSUPP
                | Errno::EPROTO
                | Errno::ETIMEDOUT
        )
    )
}

/// Whether an error of accept is one of the connection it would have given.
#[cfg(not(unix))]
fn is_lost_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::config::Config;

    fn listener(text: &str) -> Listener {
        let config = Config::builder().endpoint(text.parse().unwrap());
        let mut bound = Bound::bind_all(&config.build().unwrap()).unwrap();
        Listener::listen(bound.remove(0), 16).unwrap()
    }

    #[cfg(unix)]
    #[test]
    fn an_accepted_socket_has_the_options_of_an_echo() {
        for text in ["tcp://127.0.0.1:0", "tcp://[::1]:0"] {
            if text.contains("::") && !crate::has_ipv6() {
                continue;
            }
            let mut listener = listener(text);
            let address = listener.endpoint().address().unwrap();
            let _client = std::net::TcpStream::connect(address).unwrap();
            let Accepted::Connection(stream, _) = listener.accept() else {
                panic!("connected over loopback, and nobody is there");
            };
            let socket = SockRef::from(&stream);
            assert!(socket.tcp_nodelay().unwrap(), "small answers would wait");
            assert!(
                socket.out_of_band_inline().unwrap(),
                "urgent bytes would be lost"
            );
            assert!(socket.keepalive().unwrap(), "vanished peers would stay");
            assert!(
                socket.nonblocking().unwrap(),
                "one peer could stop the loop"
            );
            assert!(matches!(listener.accept(), Accepted::Nobody));
        }
    }

    /// Over loopback a handshake is over when connect(2) returns, if there is to be one.
    #[cfg(target_os = "linux")]
    #[test]
    fn newcomers_are_turned_away_without_a_word_and_who_is_there_is_not() {
        use socket2::{Domain, Type};

        for text in ["tcp://127.0.0.1:0", "tcp://[::1]:0"] {
            if text.contains("::") && !crate::has_ipv6() {
                continue;
            }
            let mut listener = listener(text);
            let address = listener.endpoint().address().unwrap();
            let _early = std::net::TcpStream::connect(address).unwrap();
            assert!(listener.turn_away_newcomers());
            let late = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
            late.set_nonblocking(true).unwrap();
            late.connect(&address.into()).unwrap_err();
            assert!(matches!(listener.accept(), Accepted::Connection(..)));
            assert!(matches!(listener.accept(), Accepted::Nobody));
            assert!(late.peer_addr().is_err(), "it was let in");
            assert!(late.take_error().unwrap().is_none(), "it was refused");
        }
    }

    #[test]
    fn a_peer_has_the_address_of_its_own_family() {
        for (told, peer) in [
            ("[::ffff:192.0.2.1]:7", "192.0.2.1:7"),
            ("192.0.2.1:7", "192.0.2.1:7"),
            ("[fe80::1%2]:7", "[fe80::1%2]:7"),
        ] {
            assert_eq!(canonical(told.parse().unwrap()).to_string(), peer);
        }
    }

    #[cfg(unix)]
    #[test]
    fn errors_of_a_connection_are_told_from_shortages() {
        use nix::errno::Errno;

        let accept = |errno: Errno| accepted::<()>(Err(io::Error::from_raw_os_error(errno as i32)));
        for errno in [
            Errno::ECONNABORTED,
            Errno::EPROTO,
            Errno::ENETDOWN,
            Errno::EHOSTUNREACH,
        ] {
            assert!(matches!(accept(errno), Accepted::Lost(_)), "{errno}");
        }
        for errno in [
            Errno::EPERM,
            Errno::EMFILE,
            Errno::ENFILE,
            Errno::ENOBUFS,
            Errno::ENOMEM,
            Errno::EINVAL,
        ] {
            assert!(matches!(accept(errno), Accepted::Shortage(_)), "{errno}");
        }
    }
}
