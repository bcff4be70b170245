//! Bind, listen, accept, and what to do when the system refuses a connection.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::endpoint::Endpoint;
use crate::readiness::nonblocking;

/// Whether accepted sockets have the options of their listener, so that these are set once and
/// not with a system call or two for each connection.
const OPTIONS_ARE_INHERITED: bool = cfg!(any(target_os = "linux", target_os = "android"));

/// A bound socket that does not listen yet: connecting to it is refused.
///
/// A step of its own, so that of several endpoints none listens before all are bound.
pub(crate) struct Bound {
    socket: Socket,
    endpoint: Endpoint,
}

impl Bound {
    /// socket(2) and bind(2).
    pub(crate) fn bind(endpoint: Endpoint) -> Result<Self, ListenError> {
        let address = endpoint.address();
        let bind = || {
            let socket = Socket::new(
                Domain::for_address(address),
                Type::STREAM,
                Some(Protocol::TCP),
            )?;
            socket.set_nonblocking(true)?;
            if address.is_ipv6() {
                // The default differs between systems, and can be configured on some.
                socket.set_only_v6(true)?;
            }
            // Connections of an earlier run that linger in TIME_WAIT do not stand in the way.
            // On Windows the option would let two programs take the same port.
            #[cfg(not(windows))]
            socket.set_reuse_address(true)?;
            if OPTIONS_ARE_INHERITED {
                set_options(&SockRef::from(&socket))?;
            }
            socket.bind(&address.into())?;
            Ok(socket)
        };
        match bind() {
            Ok(socket) => Ok(Bound { socket, endpoint }),
            Err(error) => Err(ListenError { endpoint, error }),
        }
    }

    /// listen(2).
    pub(crate) fn listen(self, backlog: u32) -> Result<Listener, ListenError> {
        let Bound { socket, endpoint } = self;
        let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
        let listen = || {
            socket.listen(backlog)?;
            let socket = TcpListener::from_std(socket.into());
            // The port that the system chose, where 0 was asked for.
            let endpoint = Endpoint::Tcp(socket.local_addr()?);
            Ok(Listener { socket, endpoint })
        };
        listen().map_err(|error| ListenError { endpoint, error })
    }
}

/// What an echo wants of each connection's socket.
fn set_options(socket: &SockRef<'_>) -> io::Result<()> {
    // Each answer goes out at once, instead of waiting for the peer to acknowledge the last.
    socket.set_tcp_nodelay(true)?;
    // A byte sent as urgent is a byte of the stream, as RFC 6093, section 6, wants it: it comes
    // back in its place.
    socket.set_out_of_band_inline(true)?;
    // A peer that vanished without a word is found out, after two hours or so, and does not keep
    // its place for ever; see tcp(7).
    socket.set_keepalive(true)
}

/// A listening socket.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: TcpListener,
    endpoint: Endpoint,
}

/// What the system had when it was asked for a connection.
#[derive(Debug)]
pub(crate) enum Accepted<T> {
    /// A connection and its peer.
    Connection(T, SocketAddr),
    /// None: an event will say when there is one.
    Nobody,
    /// One that was lost on its way: there may be others behind it.
    Lost(io::Error),
    /// One that cannot be had now: it waits, and no event will tell of it again.
    Shortage(io::Error),
}

impl Listener {
    pub(crate) fn endpoint(&self) -> Endpoint {
        self.endpoint
    }

    pub(crate) fn socket_mut(&mut self) -> &mut TcpListener {
        &mut self.socket
    }

    /// accept(2), once.
    pub(crate) fn accept(&self) -> Accepted<TcpStream> {
        let accepted = accepted(nonblocking(|| self.socket.accept()));
        if let (Accepted::Connection(stream, _), false) = (&accepted, OPTIONS_ARE_INHERITED) {
            // Fails where the peer has gone already, which the first read will tell.
            let _ = set_options(&SockRef::from(stream));
        }
        accepted
    }
}

fn accepted<T>(result: io::Result<Option<(T, SocketAddr)>>) -> Accepted<T> {
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

/// Whether connections are accepted now, or wait in the system's queue.
///
/// While they wait nothing is asked of the system, and since an edge-triggered listener is not
/// announced again, something else has to reopen the gate: a connection that ends, or the time.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: State,
    reopened: Option<Instant>,
}

#[derive(Debug, Default, Clone, Copy)]
enum State {
    #[default]
    Open,
    /// At the connection limit: until one ends.
    Full,
    /// Short of something: until a connection ends or it is time to try again.
    Short { retry: Instant },
}

impl Gate {
    /// After how long to try again when the system is short of something: others may have given
    /// it back, which nobody tells.
    const RETRY: Duration = Duration::from_millis(100);
    /// A pause that soon after another is of the same episode, which is one line in the log.
    const CALM: Duration = Duration::from_secs(60);

    pub(crate) fn is_open(&self) -> bool {
        matches!(self.state, State::Open)
    }

    /// When to open it again, unless something else does before.
    pub(crate) fn retry_at(&self) -> Option<Instant> {
        match self.state {
            State::Short { retry } => Some(retry),
            State::Open | State::Full => None,
        }
    }

    /// Closes it at the connection limit. Says whether an episode begins with this.
    pub(crate) fn close_when_full(&mut self, now: Instant) -> bool {
        self.state = State::Full;
        self.is_episode(now)
    }

    /// Closes it for want of descriptors or memory. Says whether an episode begins with this.
    pub(crate) fn close_for_a_while(&mut self, now: Instant) -> bool {
        self.state = State::Short {
            retry: now + Self::RETRY,
        };
        self.is_episode(now)
    }

    pub(crate) fn reopen(&mut self, now: Instant) {
        self.state = State::Open;
        self.reopened = Some(now);
    }

    fn is_episode(&self, now: Instant) -> bool {
        self.reopened
            .is_none_or(|at| now.saturating_duration_since(at) >= Self::CALM)
    }
}

/// Why nothing could be made to listen at an endpoint. The kind of the [`io::Error`] that carries
/// it is the one of the system's error.
#[derive(Debug)]
pub(crate) struct ListenError {
    endpoint: Endpoint,
    error: io::Error,
}

impl From<ListenError> for io::Error {
    fn from(error: ListenError) -> Self {
        io::Error::new(error.error.kind(), error)
    }
}

/// Without a source: the message has what the system said.
impl Error for ListenError {}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = self.endpoint.address().port();
        write!(f, "cannot listen on {}: {}", self.endpoint, self.error)?;
        match self.error.kind() {
            io::ErrorKind::AddrInUse => {
                f.write_str("; stop the program that has it, or choose another port")
            }
            io::ErrorKind::AddrNotAvailable => {
                f.write_str("; choose an address that this host has")
            }
            io::ErrorKind::PermissionDenied if port < 1024 && cfg!(target_os = "linux") => f
                .write_str(
                    "; port numbers below 1024 are privileged: choose a higher one, \
                     or give the program the capability CAP_NET_BIND_SERVICE",
                ),
            io::ErrorKind::PermissionDenied if port < 1024 => {
                f.write_str("; port numbers below 1024 are privileged: choose a higher one")
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has_ipv6() -> bool {
        let has_it = std::net::TcpListener::bind("[::1]:0").is_ok();
        assert!(
            has_it || std::env::var_os("CI").is_none(),
            "IPv6 is missing"
        );
        has_it
    }

    fn bound(text: &str) -> Result<Listener, ListenError> {
        Bound::bind(text.parse().unwrap())?.listen(1024)
    }

    #[test]
    fn an_accepted_socket_has_the_options_of_an_echo() {
        for text in ["127.0.0.1:0", "[::1]:0"] {
            if text.contains("::") && !has_ipv6() {
                continue;
            }
            let listener = bound(text).unwrap();
            let _client = std::net::TcpStream::connect(listener.endpoint().address()).unwrap();
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
            #[cfg(unix)]
            assert!(
                socket.nonblocking().unwrap(),
                "one peer could stop the loop"
            );
            assert!(matches!(listener.accept(), Accepted::Nobody));
        }
    }

    #[test]
    fn an_ipv6_listener_leaves_ipv4_alone() {
        if has_ipv6() {
            let listener = bound("[::]:0").unwrap();
            let port = listener.endpoint().address().port();
            assert!(SockRef::from(&listener.socket).only_v6().unwrap());
            bound(&format!("0.0.0.0:{port}")).unwrap();
        }
    }

    #[test]
    fn a_bound_socket_refuses_until_it_listens() {
        let bound = Bound::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = bound.socket.local_addr().unwrap().as_socket().unwrap();
        let refused = std::net::TcpStream::connect(address).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        bound.listen(16).unwrap();
    }

    #[test]
    fn what_could_not_listen_says_what_to_do() {
        let taken = bound("127.0.0.1:0").unwrap().endpoint().to_string();
        let holder = std::net::TcpListener::bind(&taken["tcp://".len()..]).unwrap();
        let error = io::Error::from(bound(&taken).unwrap_err());
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        let text = error.to_string();
        assert!(
            text.contains(&taken) && text.contains("choose another port"),
            "{text}"
        );
        drop(holder);

        let denied = ListenError {
            endpoint: "127.0.0.1:7".parse().unwrap(),
            error: io::ErrorKind::PermissionDenied.into(),
        };
        assert!(
            denied.to_string().contains("CAP_NET_BIND_SERVICE"),
            "{denied}"
        );
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

    #[test]
    fn pauses_in_a_row_are_one_episode() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut gate = Gate::default();
        assert!(gate.is_open());

        assert!(
            gate.close_when_full(at(0)),
            "the first pause begins an episode"
        );
        assert!(!gate.is_open());
        assert_eq!(
            gate.retry_at(),
            None,
            "at the limit only the end of a connection helps"
        );
        gate.reopen(at(1000));
        assert!(!gate.close_when_full(at(1000)), "the episode never ended");
        gate.reopen(at(1030));
        assert!(
            !gate.close_for_a_while(at(1060)),
            "half a minute is no calm"
        );
        assert_eq!(gate.retry_at(), Some(at(1060) + Gate::RETRY));
        gate.reopen(at(1061));
        assert!(
            gate.close_for_a_while(at(1061) + Gate::CALM),
            "an episode after a calm"
        );
    }
}
