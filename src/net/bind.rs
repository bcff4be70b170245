//! socket(2) and bind(2): endpoints become sockets, some of them with a common port; and sockets that
//! were bound by another program.

use std::error::Error;
#[cfg(any(target_os = "linux", target_os = "android"))]
use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::net::SocketAddr;
#[cfg(any(target_os = "linux", target_os = "android"))]
use std::os::unix::ffi::OsStrExt;

#[cfg(unix)]
use socket2::SockAddr;
use socket2::{Domain, Socket, Type};

use super::OwnedSocket;
use super::endpoint::Endpoint;
use super::udp;
#[cfg(unix)]
use super::unix_socket::SocketFile;

/// How many ports are tried for sockets that share a port which the system chooses. The system knows
/// which ports are free for TCP, and not which of those are free for UDP too.
const MAX_PORTS_TRIED: usize = 64;

/// The options of sockets that are bound here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct BindOptions {
    /// `SO_REUSEPORT`
    pub(crate) reuse_port: bool,
    /// The mode of the files of Unix sockets.
    #[cfg_attr(not(unix), allow(dead_code, reason = "no Unix sockets here"))]
    pub(crate) unix_mode: Option<u32>,
}

/// A bound socket. A stream socket does not listen yet: connecting to it is refused. So of several
/// endpoints none listens before all are bound.
#[derive(Debug)]
pub(crate) struct Bound {
    /// With the real port.
    pub(crate) endpoint: Endpoint,
    /// Dropped before the socket, so that the file is gone when the socket closes.
    #[cfg(unix)]
    pub(crate) file: Option<SocketFile>,
    /// Whether another program bound the socket, and can have copies of it. An inherited stream socket
    /// listens already.
    pub(crate) inherited: bool,
    pub(crate) socket: Socket,
}

impl Bound {
    fn new(endpoint: Endpoint, socket: Socket, inherited: bool) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        // Before bind(2), after which datagrams can arrive.
        if let Endpoint::Udp(address) = endpoint {
            udp::prepare(&socket, address)?;
        }
        Ok(Bound {
            endpoint,
            #[cfg(unix)]
            file: None,
            inherited,
            socket,
        })
    }

    /// `any_port` says that the system chooses the port, or has just chosen it.
    fn bind(endpoint: &Endpoint, any_port: bool, options: BindOptions) -> io::Result<Self> {
        let domain = endpoint.address().map_or(Domain::UNIX, Domain::for_address);
        let is_udp = matches!(endpoint, Endpoint::Udp(_));
        let kind = if is_udp { Type::DGRAM } else { Type::STREAM };
        let socket = Socket::new(domain, kind, None)?;
        let mut bound = Bound::new(endpoint.clone(), socket, false)?;
        match endpoint {
            Endpoint::Tcp(address) | Endpoint::Udp(address) => {
                bound.bind_ip(*address, any_port, options)?;
            }
            #[cfg(unix)]
            Endpoint::Unix(path) => {
                bound.file = Some(SocketFile::bind(&bound.socket, path, options.unix_mode)?);
            }
            #[cfg(any(target_os = "linux", target_os = "android"))]
            Endpoint::Abstract(name) => {
                // A zero byte marks an abstract name; see unix(7).
                let path = [b"\0", &name[..]].concat();
                bound
                    .socket
                    .bind(&SockAddr::unix(OsStr::from_bytes(&path))?)?;
            }
            Endpoint::TcpAndUdp(_) => unreachable!("split by Endpoint::sockets"),
            #[cfg(not(any(target_os = "linux", target_os = "android")))]
            _ => return Err(io::ErrorKind::Unsupported.into()),
        }
        Ok(bound)
    }

    fn bind_ip(
        &mut self,
        address: SocketAddr,
        any_port: bool,
        options: BindOptions,
    ) -> io::Result<()> {
        let socket = &self.socket;
        if address.is_ipv6() {
            // The default differs between systems, and is configurable on some.
            socket.set_only_v6(true)?;
        }
        if options.reuse_port {
            #[cfg(all(unix, not(any(target_os = "solaris", target_os = "illumos"))))]
            socket.set_reuse_port(true)?;
            #[cfg(not(all(unix, not(any(target_os = "solaris", target_os = "illumos")))))]
            return Err(io::ErrorKind::Unsupported.into());
        }
        if cfg!(not(windows)) && matches!(self.endpoint, Endpoint::Tcp(_)) {
            // A restart does not have to wait for connections in TIME_WAIT. Not with a port that the
            // system chooses: with SO_REUSEADDR another socket can have bound it too, and only
            // listen(2) fails then. On Windows the option would let two programs use the same port.
            socket.set_reuse_address(!any_port)?;
        }
        socket.bind(&address.into())?;
        let real = socket.local_addr()?.as_socket().unwrap_or(address);
        self.endpoint = self.endpoint.at(real);
        Ok(())
    }
}

/// Binds all sockets at the port of the first.
pub(crate) fn bind_group(sockets: &[Endpoint], options: BindOptions) -> io::Result<Vec<Bound>> {
    let first = sockets.first().and_then(Endpoint::address);
    let any_port = first.is_some_and(|address| address.port() == 0);
    // Ports that are not free for all are held until one is: the system would choose them again.
    let mut held = Vec::new();
    'port: loop {
        let may_retry = any_port && held.len() + 1 < MAX_PORTS_TRIED;
        let mut bound: Vec<Bound> = Vec::new();
        for socket in sockets {
            let mut endpoint = socket.clone();
            let first = bound.first().and_then(|first| first.endpoint.address());
            if let (Some(mut address), Some(first)) = (socket.address(), first) {
                address.set_port(first.port());
                endpoint = socket.at(address);
            }
            match Bound::bind(&endpoint, any_port, options) {
                Ok(socket) => bound.push(socket),
                Err(error) if may_retry && error.kind() == io::ErrorKind::AddrInUse => {
                    held.push(bound);
                    continue 'port;
                }
                Err(error) => return Err(listen_error(&endpoint, error)),
            }
        }
        return Ok(bound);
    }
}

/// A socket that was bound by another program, such as a supervisor, or by the application; see
/// [`Echo::with_sockets`](crate::Echo::with_sockets).
///
/// ```
/// use std::net::TcpListener;
/// use mio_echo::{BoundSocket, Config, Server};
///
/// let listener = TcpListener::bind("127.0.0.1:0")?;
/// let copy = listener.try_clone()?;
/// let server = Server::with_sockets(Config::default(), vec![BoundSocket::new(listener)?])?;
/// assert_eq!(server.endpoints()[0].address(), Some(copy.local_addr()?));
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Copies
///
/// A supervisor keeps a copy of each socket that it passes on, and gives it to the next process. So a
/// shutdown accepts no connection at such a socket: they wait in its queue for the next process. If
/// there is no copy, they are reset when the socket closes; keep one as long as that matters.
///
/// The file of a Unix socket is not removed, and the backlog does not change. Copies share the options
/// that are set here, such as non-blocking mode.
#[derive(Debug)]
pub struct BoundSocket(pub(crate) Bound);

impl BoundSocket {
    /// Takes a bound UDP socket, or a listening TCP or Unix stream socket: a
    /// [`TcpListener`](std::net::TcpListener), [`UdpSocket`](std::net::UdpSocket) or `UnixListener` of
    /// the standard library, or an `OwnedFd` (on Windows an `OwnedSocket`).
    ///
    /// Options that would break an echo are reset, such as `SO_LINGER`, `TCP_CORK` and `IP_RECVERR`. The
    /// socket must not have three that cannot be reset here: `SO_RCVLOWAT` above 1 and, on BSD,
    /// `TCP_NOPUSH` hold back short echoes, and `UDP_CORK` holds back every reply.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) for any other socket: a connection, a stream socket
    /// that does not listen, a Unix datagram socket, a UDP socket that is not bound or that is
    /// connected. Otherwise the errors of getsockname(2), such as `ENOTSOCK` for a file, and of
    /// setsockopt(2).
    pub fn new(socket: impl Into<OwnedSocket>) -> io::Result<Self> {
        let socket = Socket::from(socket.into());
        let endpoint = endpoint_of(&socket)?;
        Ok(BoundSocket(Bound::new(endpoint, socket, true)?))
    }

    /// The endpoint at which the socket is bound.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.0.endpoint
    }
}

fn endpoint_of(socket: &Socket) -> io::Result<Endpoint> {
    let unusable = |message: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    let address = socket.local_addr()?;
    if socket.peer_addr().is_ok() {
        return unusable(
            "it has a peer: pass on a listening socket (in a systemd unit: Accept=no), or a UDP \
             socket that is not connected",
        );
    }
    let kind = socket.r#type()?;
    let endpoint = match (kind, address.as_socket()) {
        (Type::STREAM, Some(address)) => Some(Endpoint::Tcp(address)),
        #[cfg(unix)]
        (Type::STREAM, None) => unix_endpoint(&address),
        (Type::DGRAM, Some(address)) if address.port() == 0 => {
            return unusable("it is not bound: bind it first");
        }
        (Type::DGRAM, Some(address)) => Some(Endpoint::Udp(address)),
        (Type::DGRAM, None) if address.is_unix() => {
            return unusable(
                "it is a Unix datagram socket: pass on a stream socket (in a systemd unit: \
                 ListenStream=)",
            );
        }
        _ => None,
    };
    let Some(endpoint) = endpoint else {
        return unusable(
            "it is neither a TCP, UDP nor Unix stream socket: pass on a socket of one of these \
             kinds",
        );
    };
    // On other systems this is unknown, and accept(2) fails.
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
    if kind == Type::STREAM && !socket.is_listener()? {
        return unusable("it does not listen: call listen(2) first");
    }
    Ok(endpoint)
}

/// `None` for a Unix socket without a name, and for a socket of another family.
#[cfg(unix)]
fn unix_endpoint(address: &SockAddr) -> Option<Endpoint> {
    if let Some(path) = address.as_pathname() {
        return Some(Endpoint::Unix(path.to_owned()));
    }
    let name = address.as_abstract_namespace()?;
    Some(Endpoint::Abstract(name.to_owned()))
}

/// Says why an endpoint cannot be used, and what to do about it. Keeps the kind of the system's error,
/// and the error itself as the source, which has its number.
pub(crate) fn listen_error(endpoint: &Endpoint, error: io::Error) -> io::Error {
    let message = match advice(endpoint, error.kind()) {
        "" => format!("cannot listen on {endpoint}: {error}"),
        advice => format!("cannot listen on {endpoint}: {error}; {advice}"),
    };
    io::Error::new(error.kind(), ListenError { message, error })
}

#[derive(Debug)]
struct ListenError {
    message: String,
    error: io::Error,
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for ListenError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.error)
    }
}

/// Whether it has a link-local IPv6 address without the interface on which that is valid (RFC 4007).
fn lacks_zone(endpoint: &Endpoint) -> bool {
    let address = endpoint.address();
    matches!(address, Some(SocketAddr::V6(it)) if it.ip().is_unicast_link_local() && it.scope_id() == 0)
}

/// Empty if there is none.
fn advice(endpoint: &Endpoint, error: io::ErrorKind) -> &'static str {
    let port = endpoint.address().map(|address| address.port());
    match (error, port) {
        (io::ErrorKind::AddrInUse, Some(_)) => {
            "another program or endpoint uses it: stop that program, leave out that endpoint, \
             or choose another port"
        }
        (io::ErrorKind::AddrInUse, None) => {
            "another program or endpoint uses it: stop that program, leave out that endpoint, \
             or choose another path"
        }
        (io::ErrorKind::InvalidInput, Some(_)) if lacks_zone(endpoint) => {
            "a link-local address needs the name of its interface, such as [fe80::1%eth0]:7007"
        }
        (io::ErrorKind::AddrNotAvailable, _) => "choose an address that this host has",
        (io::ErrorKind::PermissionDenied, Some(..1024)) if cfg!(target_os = "linux") => {
            "port numbers below 1024 are privileged: choose a higher one, \
             or give the program the capability CAP_NET_BIND_SERVICE"
        }
        (io::ErrorKind::PermissionDenied, Some(..1024)) => {
            "port numbers below 1024 are privileged: choose a higher one"
        }
        (io::ErrorKind::PermissionDenied, None) => {
            "choose a directory that this user may write to, or remove the existing file"
        }
        (io::ErrorKind::NotFound, None) => "create the directory first",
        (io::ErrorKind::AlreadyExists, None) => "choose another path",
        (io::ErrorKind::Unsupported, _) => "this system does not support it",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(text: &str) -> io::Result<Bound> {
        Ok(bind_group(&[text.parse().unwrap()], BindOptions::default())?.remove(0))
    }

    #[test]
    fn bound_socket_refuses_connections_until_it_listens() {
        let bound = bind("tcp://127.0.0.1:0").unwrap();
        let address = bound.endpoint.address().unwrap();
        let refused = std::net::TcpStream::connect(address).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        bound.socket.listen(16).unwrap();
        std::net::TcpStream::connect(address).unwrap();
    }

    #[test]
    fn ipv6_socket_is_ipv6_only() {
        if crate::has_ipv6() {
            for endpoint in ["tcp://[::]:0", "udp://[::]:0"] {
                assert!(bind(endpoint).unwrap().socket.only_v6().unwrap());
            }
        }
    }

    #[test]
    fn sockets_of_a_group_share_the_port() {
        let group = "127.0.0.1:0".parse::<Endpoint>().unwrap().sockets(false);
        let bound = bind_group(&group, BindOptions::default()).unwrap();
        let ports = bound.iter().map(|it| it.endpoint.address().unwrap().port());
        let ports: Vec<u16> = ports.collect();
        assert!(
            ports.len() == 2 && ports[0] == ports[1] && ports[0] != 0,
            "{ports:?}"
        );
        assert!(matches!(bound[0].endpoint, Endpoint::Tcp(_)));
        assert!(matches!(bound[1].endpoint, Endpoint::Udp(_)));
    }

    #[test]
    fn error_names_the_endpoint_and_says_what_to_do() {
        let holder = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let taken = format!("udp://{}", holder.local_addr().unwrap());
        let error = bind(&taken).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        let text = error.to_string();
        assert!(
            text.contains(&taken) && text.contains("choose another port"),
            "{text}"
        );

        for (text, kind, advice) in [
            (
                "tcp://127.0.0.1:7",
                io::ErrorKind::PermissionDenied,
                "choose a higher one",
            ),
            (
                "udp://127.0.0.1:7",
                io::ErrorKind::AddrNotAvailable,
                "that this host has",
            ),
            ("unix:/a", io::ErrorKind::PermissionDenied, "may write to"),
            ("unix:/a", io::ErrorKind::NotFound, "create the directory"),
            ("unix:/a", io::ErrorKind::AddrInUse, "another path"),
            (
                "tcp://[::]:7",
                io::ErrorKind::AddrInUse,
                "leave out that endpoint",
            ),
            ("unix:@a", io::ErrorKind::Unsupported, "does not support it"),
        ] {
            let error = listen_error(&text.parse().unwrap(), kind.into());
            assert!(error.to_string().contains(advice), "{error}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn link_local_address_without_zone_is_an_error_that_asks_for_it() {
        if crate::has_ipv6() {
            let error = bind("tcp://[fe80::1]:0").unwrap_err();
            assert!(error.to_string().contains("[fe80::1%eth0]"), "{error}");
        }
    }
}
