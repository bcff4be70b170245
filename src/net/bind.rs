//! socket(2) and bind(2): endpoints become sockets, some of them with a port in common.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, Socket, Type};

use crate::config::Config;
use crate::net::endpoint::Endpoint;
use crate::net::udp::packet_info;
#[cfg(unix)]
use crate::net::unix_socket::SocketFile;

/// How many ports are tried for sockets that are to have the same one, whichever it is. The system
/// knows which are free for TCP, and not which of those are free for UDP too.
const PORTS_TRIED: usize = 64;

/// A bound socket. One for connections does not listen yet: connecting to it is refused.
///
/// A step of its own, so that of several endpoints none listens before all are bound.
#[derive(Debug)]
pub(crate) struct Bound {
    /// With the port that the system chose, where 0 was asked for.
    pub(crate) endpoint: Endpoint,
    /// Before the socket, so that the file is gone when the socket is closed.
    #[cfg(unix)]
    pub(crate) file: Option<SocketFile>,
    /// Whether others have the socket too, and who comes later is theirs. Such a one for
    /// connections listens already.
    pub(crate) inherited: bool,
    pub(crate) socket: Socket,
}

impl Bound {
    /// Binds every endpoint.
    pub(crate) fn bind_all(config: &Config) -> Result<Vec<Self>, ListenError> {
        let groups = config.sockets().map(|group| bind_group(&group, config));
        let groups = groups.collect::<Result<Vec<_>, _>>()?;
        Ok(groups.into_iter().flatten().collect())
    }

    /// The address, where it is for datagrams.
    pub(crate) fn udp_address(&self) -> Option<SocketAddr> {
        match self.endpoint {
            Endpoint::Udp(address) => Some(address),
            _ => None,
        }
    }

    /// `is_any_port` where the port is for the system to choose, or has just been.
    fn bind(endpoint: &Endpoint, is_any_port: bool, config: &Config) -> Result<Self, ListenError> {
        let bound = match endpoint {
            Endpoint::Tcp(address) => bind_tcp(endpoint, *address, is_any_port, config),
            Endpoint::Udp(address) => bind_udp(endpoint, *address, config),
            Endpoint::Unix(_) | Endpoint::Abstract(_) => bind_unix(endpoint, config),
            Endpoint::TcpAndUdp(_) => unreachable!("taken apart by Endpoint::sockets"),
        };
        bound.map_err(|error| ListenError::new(endpoint, error))
    }
}

/// Binds sockets at the same port: the first one's, where that is for the system to choose.
fn bind_group(sockets: &[Endpoint], config: &Config) -> Result<Vec<Bound>, ListenError> {
    let first = sockets.first().and_then(Endpoint::address);
    let is_any_port = first.is_some_and(|address| address.port() == 0);
    let tries = if is_any_port { PORTS_TRIED } else { 1 };
    // Kept until one is found that all can have: the system would choose the same ports again.
    let mut passed_over = Vec::new();
    loop {
        let mut bound = Vec::new();
        match bind_each(sockets, is_any_port, config, &mut bound) {
            Err(error) if error.is_in_use() && passed_over.len() + 1 < tries => {
                passed_over.push(bound);
            }
            result => return result.map(|()| bound),
        }
    }
}

fn bind_each(
    sockets: &[Endpoint],
    is_any_port: bool,
    config: &Config,
    bound: &mut Vec<Bound>,
) -> Result<(), ListenError> {
    for socket in sockets {
        let first = bound.first().and_then(|first| first.endpoint.address());
        let endpoint = match (socket.address(), first) {
            (Some(mut address), Some(first)) => {
                address.set_port(first.port());
                socket.at(address)
            }
            _ => socket.clone(),
        };
        bound.push(Bound::bind(&endpoint, is_any_port, config)?);
    }
    Ok(())
}

fn bind_tcp(
    endpoint: &Endpoint,
    address: SocketAddr,
    is_any_port: bool,
    config: &Config,
) -> io::Result<Bound> {
    let socket = ip_socket(address, Type::STREAM, Protocol::TCP, config)?;
    // Connections of an earlier run that linger in TIME_WAIT do not stand in the way. Not where any
    // port will do: with the option it could be one that somebody else has bound too, and only
    // listen(2) would say so. On Windows the option would let two programs take the same port.
    #[cfg(not(windows))]
    socket.set_reuse_address(!is_any_port)?;
    bind_ip(endpoint, socket, address)
}

fn bind_udp(endpoint: &Endpoint, address: SocketAddr, config: &Config) -> io::Result<Bound> {
    let socket = ip_socket(address, Type::DGRAM, Protocol::UDP, config)?;
    // Before the first datagram can come.
    packet_info::enable(&socket, address)?;
    bind_ip(endpoint, socket, address)
}

fn ip_socket(
    address: SocketAddr,
    kind: Type,
    protocol: Protocol,
    config: &Config,
) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        // The default differs between systems, and can be configured on some.
        socket.set_only_v6(true)?;
    }
    if config.reuse_port {
        reuse_port(&socket)?;
    }
    Ok(socket)
}

fn bind_ip(endpoint: &Endpoint, socket: Socket, address: SocketAddr) -> io::Result<Bound> {
    socket.bind(&address.into())?;
    let real = socket.local_addr()?.as_socket().unwrap_or(address);
    Ok(Bound {
        endpoint: endpoint.at(real),
        #[cfg(unix)]
        file: None,
        inherited: false,
        socket,
    })
}

#[cfg(all(unix, not(any(target_os = "solaris", target_os = "illumos"))))]
fn reuse_port(socket: &Socket) -> io::Result<()> {
    socket.set_reuse_port(true)
}

#[cfg(not(all(unix, not(any(target_os = "solaris", target_os = "illumos")))))]
fn reuse_port(_socket: &Socket) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(unix)]
fn bind_unix(endpoint: &Endpoint, config: &Config) -> io::Result<Bound> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    let file = match endpoint {
        Endpoint::Unix(path) => Some(SocketFile::bind(&socket, path, config.unix_mode)?),
        Endpoint::Abstract(name) if cfg!(any(target_os = "linux", target_os = "android")) => {
            socket.bind(&socket2::SockAddr::unix(format!("\0{name}"))?)?;
            None
        }
        _ => return Err(io::ErrorKind::Unsupported.into()),
    };
    Ok(Bound {
        endpoint: endpoint.clone(),
        file,
        inherited: false,
        socket,
    })
}

#[cfg(not(unix))]
fn bind_unix(_endpoint: &Endpoint, _config: &Config) -> io::Result<Bound> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Why an endpoint cannot be served at. The kind of the [`io::Error`] that carries it is the one
/// of the system's error.
#[derive(Debug)]
pub(crate) struct ListenError {
    endpoint: Endpoint,
    error: io::Error,
}

impl ListenError {
    pub(crate) fn new(endpoint: &Endpoint, error: io::Error) -> Self {
        ListenError {
            endpoint: endpoint.clone(),
            error,
        }
    }

    fn is_in_use(&self) -> bool {
        self.error.kind() == io::ErrorKind::AddrInUse
    }

    /// What to do about it; nothing where the system's words have to do.
    fn advice(&self) -> &'static str {
        let port = self.endpoint.address().map(|address| address.port());
        match (self.error.kind(), port) {
            (io::ErrorKind::AddrInUse, Some(_)) => {
                "stop the program that has it, or choose another port"
            }
            (io::ErrorKind::AddrInUse, None) => {
                "stop the program that has it, or choose another path"
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
                "choose a directory that this user may write to, or remove the file that is there"
            }
            (io::ErrorKind::NotFound, None) => "make the directory first",
            (io::ErrorKind::AlreadyExists, None) => "choose another path",
            (io::ErrorKind::Unsupported, _) => "this system does not have it",
            _ => "",
        }
    }
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
        write!(f, "cannot listen on {}: {}", self.endpoint, self.error)?;
        match self.advice() {
            "" => Ok(()),
            advice => write!(f, "; {advice}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(text: &str) -> Result<Bound, ListenError> {
        Bound::bind(&text.parse().unwrap(), true, &Config::default())
    }

    #[test]
    fn a_bound_socket_refuses_until_it_listens() {
        let bound = bind("tcp://127.0.0.1:0").unwrap();
        let address = bound.endpoint.address().unwrap();
        let refused = std::net::TcpStream::connect(address).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        bound.socket.listen(16).unwrap();
        std::net::TcpStream::connect(address).unwrap();
    }

    #[test]
    fn ipv6_leaves_ipv4_alone() {
        if crate::has_ipv6() {
            for endpoint in ["tcp://[::]:0", "udp://[::]:0"] {
                assert!(bind(endpoint).unwrap().socket.only_v6().unwrap());
            }
        }
    }

    #[test]
    fn sockets_of_a_group_have_the_same_port() {
        let group = "127.0.0.1:0".parse::<Endpoint>().unwrap().sockets(false);
        let bound = bind_group(&group, &Config::default()).unwrap();
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
    fn what_could_not_be_bound_says_what_to_do() {
        let holder = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let taken = format!("udp://{}", holder.local_addr().unwrap());
        let error = io::Error::from(bind(&taken).unwrap_err());
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
            ("unix:/a", io::ErrorKind::NotFound, "make the directory"),
            ("unix:/a", io::ErrorKind::AddrInUse, "another path"),
            ("unix:@a", io::ErrorKind::Unsupported, "does not have it"),
        ] {
            let error = ListenError::new(&text.parse().unwrap(), kind.into());
            assert!(error.to_string().contains(advice), "{error}");
        }
    }
}
