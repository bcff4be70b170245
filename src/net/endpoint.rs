//! Endpoints: where the service is, as people write them and as the system takes them.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;

/// A place to serve at: a transport and its address.
///
/// | written | what it is |
/// |---|---|
/// | `HOST:PORT` | TCP and UDP at the same port, as RFC 862 has the echo service |
/// | `tcp://HOST:PORT` | TCP alone |
/// | `udp://HOST:PORT` | UDP alone |
/// | `unix:PATH` | a Unix stream socket, as a file; see unix(7) |
/// | `unix:@NAME` | a Unix stream socket with a name and no file: Linux's abstract addresses |
///
/// An IPv6 address stands in brackets, as in a URL (RFC 3986, section 3.2.2): `[::1]:7007`. Port 0
/// asks the system for a free port, which TCP and UDP then share. A path that begins with `@` is
/// written `./@`.
///
/// [`FromStr`] takes numeric addresses only; [`Endpoint::resolve`] takes host names as well.
///
/// ```
/// use mio_echo::Endpoint;
///
/// let endpoint: Endpoint = "tcp://[::1]:7007".parse()?;
/// assert_eq!(endpoint.to_string(), "tcp://[::1]:7007");
/// # Ok::<(), mio_echo::EndpointError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Endpoint {
    /// A TCP listener and a UDP socket at the same address and port.
    TcpAndUdp(SocketAddr),
    /// A TCP listener at this address.
    Tcp(SocketAddr),
    /// A UDP socket at this address.
    Udp(SocketAddr),
    /// A Unix stream socket at this path.
    Unix(PathBuf),
    /// A Unix stream socket of this name in the abstract namespace, which Linux has.
    Abstract(String),
}

impl Endpoint {
    /// Where the service is unless told otherwise: TCP and UDP at `127.0.0.1:7007`.
    ///
    /// RFC 862 gives the echo service port 7, which is privileged on most systems; and only this
    /// host can reach it, because an echo service has no business on a network unless asked there.
    pub const DEFAULT: Endpoint =
        Endpoint::TcpAndUdp(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7007));

    /// Reads an endpoint and looks its host name up, which gives one endpoint for each of the
    /// name's addresses, in the resolver's order and without repetition.
    ///
    /// Numeric addresses and paths are not looked up. A look-up blocks for as long as the system's
    /// resolver takes, so this is for the time before the loop starts.
    ///
    /// # Errors
    ///
    /// Those of [`FromStr`], but for [`EndpointErrorKind::HostName`]; and
    /// [`EndpointErrorKind::Unresolved`] where the name has no address.
    pub fn resolve(text: &str) -> Result<Vec<Endpoint>, EndpointError> {
        if let Some(unix) = unix(text)? {
            return Ok(vec![unix]);
        }
        let parts = Parts::split(text)?;
        if let Some(address) = parts.numeric()? {
            return Ok(vec![(parts.transport)(address)]);
        }
        let unresolved = |error| parts.error(EndpointErrorKind::Unresolved(error));
        let addresses = (parts.host, parts.port).to_socket_addrs();
        let endpoints = distinct(addresses.map_err(unresolved)?.map(parts.transport));
        if endpoints.is_empty() {
            return Err(unresolved(io::ErrorKind::NotFound.into()));
        }
        Ok(endpoints)
    }

    /// The IP address and port. `None` where it is a Unix socket.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Endpoint::TcpAndUdp(address) | Endpoint::Tcp(address) | Endpoint::Udp(address) => {
                Some(*address)
            }
            Endpoint::Unix(_) | Endpoint::Abstract(_) => None,
        }
    }

    /// Whether other hosts may be able to reach it: every IP address but those of the loopback
    /// network (127.0.0.0/8 and `::1`).
    #[must_use]
    pub fn is_public(&self) -> bool {
        self.address()
            .is_some_and(|address| !address.ip().is_loopback())
    }

    /// The same transport at another address.
    pub(crate) fn at(&self, address: SocketAddr) -> Endpoint {
        match self {
            Endpoint::TcpAndUdp(_) => Endpoint::TcpAndUdp(address),
            Endpoint::Tcp(_) => Endpoint::Tcp(address),
            Endpoint::Udp(_) => Endpoint::Udp(address),
            Endpoint::Unix(_) | Endpoint::Abstract(_) => self.clone(),
        }
    }

    /// One endpoint for each socket that it takes, all of them at the same port. With
    /// `dual_stack`, IPv6's wildcard address stands for IPv4's as well.
    pub(crate) fn sockets(&self, dual_stack: bool) -> Vec<Endpoint> {
        let mut endpoints = vec![self.clone()];
        let is_wildcard = |address: &SocketAddr| address.ip() == Ipv6Addr::UNSPECIFIED;
        if let Some(address) = self.address().filter(|it| dual_stack && is_wildcard(it)) {
            endpoints.push(self.at((Ipv4Addr::UNSPECIFIED, address.port()).into()));
        }
        let split = |endpoint| match endpoint {
            Endpoint::TcpAndUdp(address) => vec![Endpoint::Tcp(address), Endpoint::Udp(address)],
            single => vec![single],
        };
        endpoints.into_iter().flat_map(split).collect()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::TcpAndUdp(address) => write!(f, "{address}"),
            Endpoint::Tcp(address) => write!(f, "tcp://{address}"),
            Endpoint::Udp(address) => write!(f, "udp://{address}"),
            Endpoint::Unix(path) => write!(f, "unix:{}", path.display()),
            Endpoint::Abstract(name) => write!(f, "unix:@{name}"),
        }
    }
}

/// TCP and UDP at that address.
impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Endpoint::TcpAndUdp(address)
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        if let Some(unix) = unix(text)? {
            return Ok(unix);
        }
        let parts = Parts::split(text)?;
        match parts.numeric()? {
            Some(address) => Ok((parts.transport)(address)),
            None => Err(parts.error(EndpointErrorKind::HostName)),
        }
    }
}

/// All of them, each once.
fn distinct(all: impl Iterator<Item = Endpoint>) -> Vec<Endpoint> {
    let mut endpoints = Vec::new();
    for endpoint in all {
        if !endpoints.contains(&endpoint) {
            endpoints.push(endpoint);
        }
    }
    endpoints
}

/// The Unix socket that the text is of; nothing where it is of another transport.
fn unix(text: &str) -> Result<Option<Endpoint>, EndpointError> {
    let Some(place) = text.strip_prefix("unix:") else {
        return Ok(None);
    };
    match place.strip_prefix('@') {
        Some("") => Err(EndpointError::new(text, EndpointErrorKind::NoPath)),
        None if place.is_empty() => Err(EndpointError::new(text, EndpointErrorKind::NoPath)),
        Some(name) => Ok(Some(Endpoint::Abstract(name.to_owned()))),
        None => Ok(Some(Endpoint::Unix(place.into()))),
    }
}

/// The text of an endpoint with a host and a port, taken apart.
struct Parts<'a> {
    text: &'a str,
    transport: fn(SocketAddr) -> Endpoint,
    host: &'a str,
    bracketed: bool,
    port: u16,
}

impl<'a> Parts<'a> {
    fn split(text: &'a str) -> Result<Self, EndpointError> {
        let fail = |kind| Err(EndpointError::new(text, kind));
        let (transport, authority): (fn(SocketAddr) -> Endpoint, _) = match text.split_once("://") {
            Some(("tcp", authority)) => (Endpoint::Tcp, authority),
            Some(("udp", authority)) => (Endpoint::Udp, authority),
            Some(_) => return fail(EndpointErrorKind::Scheme),
            None => (Endpoint::TcpAndUdp, text),
        };
        let Some((host, port)) = authority.rsplit_once(':') else {
            return fail(EndpointErrorKind::NoPort);
        };
        let inner = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        if inner.is_none() && (host.contains([':', '[']) || host.ends_with(']')) {
            return fail(EndpointErrorKind::Brackets);
        }
        if host.is_empty() {
            return fail(EndpointErrorKind::NoHost);
        }
        // `u16` would take a sign: "+7".
        if !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return fail(EndpointErrorKind::Port);
        }
        match port.parse() {
            Ok(port) => Ok(Parts {
                text,
                transport,
                host: inner.unwrap_or(host),
                bracketed: inner.is_some(),
                port,
            }),
            Err(_) => fail(EndpointErrorKind::Port),
        }
    }

    /// The address, where the host is one; nothing where it is a name.
    fn numeric(&self) -> Result<Option<SocketAddr>, EndpointError> {
        if self.bracketed {
            return match self.host.parse::<Ipv6Addr>() {
                Ok(ip) if ip.to_ipv4_mapped().is_some() => {
                    Err(self.error(EndpointErrorKind::MappedAddress))
                }
                Ok(ip) => Ok(Some((ip, self.port).into())),
                Err(_) => self.zoned(),
            };
        }
        match self.host.parse::<Ipv4Addr>() {
            Ok(ip) => Ok(Some((ip, self.port).into())),
            // No name ends in digits only (RFC 1123, section 2.1): do not ask a resolver.
            Err(_)
                if self
                    .host
                    .bytes()
                    .all(|byte| byte.is_ascii_digit() || byte == b'.') =>
            {
                Err(self.error(EndpointErrorKind::Address))
            }
            Err(_) => Ok(None),
        }
    }

    /// An IPv6 address with its zone (RFC 4007, section 11): a number, or else the name of an
    /// interface, which only the system's resolver knows.
    fn zoned(&self) -> Result<Option<SocketAddr>, EndpointError> {
        if !self.host.contains('%') {
            return Err(self.error(EndpointErrorKind::Address));
        }
        let address = format!("[{}]:{}", self.host, self.port);
        Ok(address.parse::<SocketAddrV6>().ok().map(SocketAddr::V6))
    }

    fn error(&self, kind: EndpointErrorKind) -> EndpointError {
        EndpointError::new(self.text, kind)
    }
}

/// Why a text is no [`Endpoint`].
#[derive(Debug)]
pub struct EndpointError {
    text: String,
    kind: EndpointErrorKind,
}

/// What was wrong with the text of an [`Endpoint`].
#[derive(Debug)]
#[non_exhaustive]
pub enum EndpointErrorKind {
    /// The part before `://` is no transport that is served here.
    Scheme,
    /// There is neither a path nor a name after `unix:`.
    NoPath,
    /// There is no `:PORT` at the end.
    NoPort,
    /// There is nothing before the port.
    NoHost,
    /// The port is no number from 0 to 65,535.
    Port,
    /// The host is neither an address nor in the form of a name.
    Address,
    /// An IPv4 address in the form of one of IPv6 (RFC 4291, section 2.5.5.2), which stands for
    /// IPv4 on a socket of both families. There are no such sockets here.
    MappedAddress,
    /// An IPv6 address without its brackets, or with half of them.
    Brackets,
    /// A host name, where only numeric addresses are taken.
    HostName,
    /// The host name has no address, as the resolver said.
    Unresolved(io::Error),
}

impl EndpointError {
    fn new(text: &str, kind: EndpointErrorKind) -> Self {
        EndpointError {
            text: text.to_owned(),
            kind,
        }
    }

    /// What was wrong.
    #[must_use]
    pub fn kind(&self) -> &EndpointErrorKind {
        &self.kind
    }
}

impl fmt::Display for EndpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "endpoint '{}': ", self.text)?;
        match &self.kind {
            EndpointErrorKind::Scheme => f.write_str(
                "unknown transport; write HOST:PORT, tcp://HOST:PORT, udp://HOST:PORT or unix:PATH",
            ),
            EndpointErrorKind::NoPath => {
                f.write_str("no path; write unix:PATH, such as unix:/run/echo.sock, or unix:@NAME")
            }
            EndpointErrorKind::NoPort => {
                f.write_str("no port; write HOST:PORT, such as 127.0.0.1:7007")
            }
            EndpointErrorKind::NoHost => {
                f.write_str("no host; write HOST:PORT, such as 127.0.0.1:7007")
            }
            EndpointErrorKind::Port => f.write_str("a port is a number from 0 to 65535"),
            EndpointErrorKind::Address => {
                f.write_str("not an IP address; write one such as 127.0.0.1 or [::1]")
            }
            EndpointErrorKind::MappedAddress => {
                f.write_str("an IPv4 address inside one of IPv6; write it as 127.0.0.1:7007")
            }
            EndpointErrorKind::Brackets => {
                f.write_str("an IPv6 address stands in brackets; write it as [::1]:7007")
            }
            EndpointErrorKind::HostName => {
                f.write_str("a host name; write a numeric address, such as 127.0.0.1")
            }
            EndpointErrorKind::Unresolved(error) => write!(
                f,
                "the host name does not resolve ({error}); check its spelling, or write an address"
            ),
        }
    }
}

impl Error for EndpointError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.kind {
            EndpointErrorKind::Unresolved(error) => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind_of(text: &str) -> String {
        let error = Endpoint::from_str(text).expect_err(text);
        assert!(
            error.to_string().contains(text),
            "{error} does not name {text:?}"
        );
        format!("{:?}", error.kind())
    }

    #[test]
    fn what_is_printed_is_parsed_again() {
        for text in [
            "127.0.0.1:7007",
            "tcp://0.0.0.0:0",
            "udp://127.0.0.1:7007",
            "udp://[::1]:65535",
            "[fe80::1]:7",
            "tcp://[fe80::1%2]:7",
            "unix:/run/echo.sock",
            "unix:echo.sock",
            "unix:./@echo",
            "unix:@echo",
            "unix:@@",
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!(endpoint.to_string(), text);
            assert_eq!(Endpoint::resolve(text).unwrap(), [endpoint]);
        }
    }

    #[test]
    fn the_scheme_is_the_transport() {
        let endpoint = |text: &str| text.parse::<Endpoint>().unwrap();
        let address = "127.0.0.1:7007".parse().unwrap();
        assert_eq!(endpoint("127.0.0.1:7007"), Endpoint::TcpAndUdp(address));
        assert_eq!(endpoint("tcp://127.0.0.1:7007"), Endpoint::Tcp(address));
        assert_eq!(endpoint("udp://127.0.0.1:7007"), Endpoint::Udp(address));
        assert_eq!(endpoint("unix:/@a"), Endpoint::Unix("/@a".into()));
        assert_eq!(endpoint("unix:@a"), Endpoint::Abstract("a".into()));
        // Not a host called unix.
        assert_eq!(endpoint("unix:7007"), Endpoint::Unix("7007".into()));
    }

    #[test]
    fn without_a_transport_it_is_a_socket_of_each() {
        let sockets = |text: &str, dual_stack| {
            let sockets = text.parse::<Endpoint>().unwrap().sockets(dual_stack);
            sockets.iter().map(Endpoint::to_string).collect::<Vec<_>>()
        };
        assert_eq!(
            sockets("127.0.0.1:7", true),
            ["tcp://127.0.0.1:7", "udp://127.0.0.1:7"]
        );
        assert_eq!(sockets("[::]:7", false), ["tcp://[::]:7", "udp://[::]:7"]);
        assert_eq!(
            sockets("[::]:7", true),
            [
                "tcp://[::]:7",
                "udp://[::]:7",
                "tcp://0.0.0.0:7",
                "udp://0.0.0.0:7"
            ]
        );
        assert_eq!(sockets("[::1]:7", true), ["tcp://[::1]:7", "udp://[::1]:7"]);
        assert_eq!(
            sockets("0.0.0.0:7", true),
            ["tcp://0.0.0.0:7", "udp://0.0.0.0:7"]
        );
        assert_eq!(
            sockets("udp://[::]:7", true),
            ["udp://[::]:7", "udp://0.0.0.0:7"]
        );
        assert_eq!(sockets("unix:@a", true), ["unix:@a"]);
    }

    #[test]
    fn each_mistake_has_its_own_error() {
        for (text, kind) in [
            ("", "NoPort"),
            ("7007", "NoPort"),
            ("127.0.0.1", "NoPort"),
            (":7007", "NoHost"),
            ("tcp://:7007", "NoHost"),
            ("127.0.0.1:65536", "Port"),
            ("127.0.0.1:", "Port"),
            ("127.0.0.1:-1", "Port"),
            ("127.0.0.1:+1", "Port"),
            ("127.0.0.1:echo", "Port"),
            ("127.0.0.1:7007/", "Port"),
            ("256.0.0.1:7007", "Address"),
            ("1.2.3:7007", "Address"),
            ("[::g]:7007", "Address"),
            ("[127.0.0.1]:7007", "Address"),
            ("[::ffff:127.0.0.1]:7007", "MappedAddress"),
            ("[]:7007", "Address"),
            ("::1:7007", "Brackets"),
            ("[::1:7007", "Brackets"),
            ("::1]:7007", "Brackets"),
            ("http://127.0.0.1:7007", "Scheme"),
            ("udp://127.0.0.1", "NoPort"),
            ("udp://::1:7007", "Brackets"),
            ("unix:", "NoPath"),
            ("unix:@", "NoPath"),
            ("localhost:7007", "HostName"),
        ] {
            assert_eq!(kind_of(text), kind, "{text:?}");
        }
    }

    #[test]
    fn a_host_name_is_resolved_and_an_address_is_not() {
        let resolved = Endpoint::resolve("tcp://localhost:7007").unwrap();
        assert!(!resolved.is_empty());
        assert!(
            resolved.iter().all(|endpoint| !endpoint.is_public()),
            "{resolved:?}"
        );

        let numeric = Endpoint::resolve("[::1]:7007").unwrap();
        assert_eq!(numeric, ["[::1]:7007".parse().unwrap()]);
    }

    /// A resolver may give one more than once.
    #[test]
    fn a_name_is_each_of_its_addresses_once_in_their_order() {
        let all = ["[::1]:7", "127.0.0.2:7", "[::1]:7", "127.0.0.1:7"];
        let distinct = distinct(all.iter().map(|text| text.parse().unwrap()));
        let texts: Vec<String> = distinct.iter().map(Endpoint::to_string).collect();
        assert_eq!(texts, ["[::1]:7", "127.0.0.2:7", "127.0.0.1:7"]);
    }

    #[test]
    fn a_name_without_an_address_is_named() {
        // A label has at most 63 characters (RFC 1035, section 2.3.4), so no server is asked.
        let text = format!("{}.invalid:7007", "x".repeat(64));
        let error = Endpoint::resolve(&text).unwrap_err();
        assert!(
            matches!(error.kind(), EndpointErrorKind::Unresolved(_)),
            "{error}"
        );
        assert!(error.to_string().contains(&text), "{error}");
    }

    #[test]
    fn only_loopback_is_not_public() {
        for (text, public) in [
            ("127.0.0.1:7", false),
            ("127.255.0.1:7", false),
            ("[::1]:7", false),
            ("0.0.0.0:7", true),
            ("[::]:7", true),
            ("192.0.2.1:7", true),
            ("udp://192.0.2.1:7", true),
            ("unix:/run/echo.sock", false),
        ] {
            assert_eq!(
                text.parse::<Endpoint>().unwrap().is_public(),
                public,
                "{text}"
            );
        }
    }
}
