//! Endpoints: the addresses of the service, as text and as addresses of the system.

use std::collections::HashSet;
use std::error::Error;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;

/// An address of the service: a transport and its address.
///
/// | text | meaning |
/// |---|---|
/// | `HOST:PORT` | TCP and UDP at the same port, as RFC 862 describes the echo service |
/// | `tcp://HOST:PORT` | TCP alone |
/// | `udp://HOST:PORT` | UDP alone |
/// | `unix:PATH` | a Unix stream socket with a file; see unix(7) |
/// | `unix:@NAME` | a Unix stream socket in the abstract namespace of Linux, without a file |
///
/// An IPv6 address is written in brackets, as in a URL (RFC 3986, section 3.2.2): `[::1]:7007`. Port 0
/// asks the system for a free port, which TCP and UDP share. A path that begins with `@` is written
/// `./@`.
///
/// [`FromStr`] accepts numeric addresses only; [`Endpoint::resolve`] accepts host names as well.
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
    /// A Unix stream socket with this name in the abstract namespace of Linux: any bytes, which need not be
    /// text; see unix(7). Those that are no UTF-8 are printed as U+FFFD.
    Abstract(Vec<u8>),
}

impl Endpoint {
    /// The default: TCP and UDP at `127.0.0.1:7007`.
    ///
    /// Port 7 of RFC 862 is privileged on most systems. Only this host can reach the address: an echo
    /// service listens on a network only on request.
    pub const DEFAULT: Endpoint =
        Endpoint::TcpAndUdp(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7007));

    /// Parses an endpoint and resolves its host name. Returns one endpoint for each address of the name,
    /// in the order of the resolver and without repetitions.
    ///
    /// Numeric addresses and paths need no resolver. Resolving a name blocks as long as the resolver of
    /// the system takes: do it before the loop starts.
    ///
    /// # Errors
    ///
    /// Those of [`FromStr`] except [`EndpointErrorKind::HostName`], and
    /// [`EndpointErrorKind::Unresolved`] if the name has no address.
    pub fn resolve(text: &str) -> Result<Vec<Endpoint>, EndpointError> {
        let (transport, host, port) = match parse(text)? {
            Parsed::Endpoint(endpoint) => return Ok(vec![endpoint]),
            Parsed::Name(transport, host, port) => (transport, host, port),
        };
        let unresolved = |error: io::Error| {
            let problem = format!(
                "the host name does not resolve ({error}); check its spelling, or write an address"
            );
            EndpointError::new(text, EndpointErrorKind::Unresolved, problem)
        };
        let addresses = (host, port).to_socket_addrs().map_err(unresolved)?;
        let endpoints = distinct(addresses.map(transport));
        if endpoints.is_empty() {
            return Err(unresolved(io::ErrorKind::NotFound.into()));
        }
        Ok(endpoints)
    }

    /// The IP address and port; `None` for a Unix socket.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Endpoint::TcpAndUdp(address) | Endpoint::Tcp(address) | Endpoint::Udp(address) => {
                Some(*address)
            }
            Endpoint::Unix(_) | Endpoint::Abstract(_) => None,
        }
    }

    /// Whether other hosts may reach it: every IP address except loopback (127.0.0.0/8 and `::1`).
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

    /// One endpoint for each socket, all at the same port. With `dual_stack`, the IPv6 wildcard address
    /// includes the IPv4 one.
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
            // Without `./` it would be a name in the abstract namespace.
            Endpoint::Unix(path) if path.to_string_lossy().starts_with('@') => {
                write!(f, "unix:./{}", path.display())
            }
            Endpoint::Unix(path) => write!(f, "unix:{}", path.display()),
            Endpoint::Abstract(name) => write!(f, "unix:@{}", String::from_utf8_lossy(name)),
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
        match parse(text)? {
            Parsed::Endpoint(endpoint) => Ok(endpoint),
            Parsed::Name(..) => Err(EndpointError::new(
                text,
                EndpointErrorKind::HostName,
                "a host name; write a numeric address, such as 127.0.0.1",
            )),
        }
    }
}

/// Removes repetitions.
fn distinct(all: impl Iterator<Item = Endpoint>) -> Vec<Endpoint> {
    let mut seen = HashSet::new();
    all.filter(|endpoint| seen.insert(endpoint.clone()))
        .collect()
}

type Transport = fn(SocketAddr) -> Endpoint;

/// What a text says: an endpoint, or a host name and a port.
enum Parsed<'a> {
    Endpoint(Endpoint),
    Name(Transport, &'a str, u16),
}

/// What is wrong with a text, and what to write instead.
type Problem = (EndpointErrorKind, String);

fn syntax<T>(problem: impl Into<String>) -> Result<T, Problem> {
    Err((EndpointErrorKind::Syntax, problem.into()))
}

fn address<T>(problem: &str) -> Result<T, Problem> {
    Err((EndpointErrorKind::Address, problem.to_owned()))
}

fn parse(text: &str) -> Result<Parsed<'_>, EndpointError> {
    let parsed = match text.strip_prefix("unix:") {
        Some(path) => unix_endpoint(path).map(Parsed::Endpoint),
        None => ip_endpoint(text),
    };
    parsed.map_err(|(kind, problem)| EndpointError::new(text, kind, problem))
}

fn unix_endpoint(path: &str) -> Result<Endpoint, Problem> {
    match path.strip_prefix('@') {
        None if !path.is_empty() => Ok(Endpoint::Unix(path.into())),
        Some(name) if !name.is_empty() => Ok(Endpoint::Abstract(name.into())),
        _ => syntax("no path; write unix:PATH, such as unix:/run/echo.sock, or unix:@NAME"),
    }
}

fn ip_endpoint(text: &str) -> Result<Parsed<'_>, Problem> {
    let (transport, authority): (Transport, _) = match text.split_once("://") {
        None => (Endpoint::TcpAndUdp, text),
        Some(("tcp", authority)) => (Endpoint::Tcp, authority),
        Some(("udp", authority)) => (Endpoint::Udp, authority),
        Some(_) => {
            return syntax(
                "unknown transport; write HOST:PORT, tcp://HOST:PORT, udp://HOST:PORT or unix:PATH",
            );
        }
    };
    match authority.parse() {
        Ok(SocketAddr::V6(v6)) if v6.ip().to_ipv4_mapped().is_some() => {
            address("a mapped IPv4 address; write it as 127.0.0.1:7007")
        }
        Ok(numeric) => Ok(Parsed::Endpoint(transport(numeric))),
        Err(_) => {
            let (name, port) = name_and_port(authority)?;
            Ok(Parsed::Name(transport, name, port))
        }
    }
}

fn name_and_port(authority: &str) -> Result<(&str, u16), Problem> {
    let Some((host, port)) = authority.rsplit_once(':') else {
        return match authority.parse::<u16>() {
            Ok(port) => syntax(format!("{port} is a port: write 127.0.0.1:{port}")),
            Err(_) => syntax("no port; write HOST:PORT, such as 127.0.0.1:7007"),
        };
    };
    let inner = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    if inner.is_none() && host.contains([':', '[', ']']) {
        return syntax("an IPv6 address is written in brackets, such as [::1]:7007");
    }
    if host.is_empty() {
        return syntax("no host; write HOST:PORT, such as 127.0.0.1:7007");
    }
    // `u16::from_str` accepts a sign.
    let Some(port) = port.parse().ok().filter(|_| !port.starts_with('+')) else {
        return syntax("a port is a number from 0 to 65535");
    };
    let is_name = match inner {
        Some(ip) => is_zoned(ip),
        // No name ends in digits only (RFC 1123, section 2.1): do not ask a resolver.
        None => host.contains(|it: char| !it.is_ascii_digit() && it != '.'),
    };
    if !is_name {
        return address("not an IP address; write one such as 127.0.0.1 or [::1]");
    }
    Ok((inner.unwrap_or(host), port))
}

/// Whether it is an IPv6 address with a zone. That can be the name of an interface (RFC 4007, section
/// 11), which the resolver knows.
fn is_zoned(text: &str) -> bool {
    let zoned = text.split_once('%');
    zoned.is_some_and(|(ip, _)| ip.parse::<Ipv6Addr>().is_ok())
}

/// Why a text is not an [`Endpoint`]. The message says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointError {
    text: String,
    kind: EndpointErrorKind,
    problem: String,
}

/// The kinds of [`EndpointError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndpointErrorKind {
    /// The transport, host, port or path is missing, unknown or malformed.
    Syntax,
    /// The host is not a usable IP address.
    Address,
    /// The host is a name, and only numeric addresses are accepted; see [`Endpoint::resolve`].
    HostName,
    /// The host name has no address. The message has the error of the resolver.
    Unresolved,
}

impl EndpointError {
    fn new(text: &str, kind: EndpointErrorKind, problem: impl Into<String>) -> Self {
        EndpointError {
            text: text.to_owned(),
            kind,
            problem: problem.into(),
        }
    }

    /// The kind of the error.
    #[must_use]
    pub fn kind(&self) -> EndpointErrorKind {
        self.kind
    }
}

impl fmt::Display for EndpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "endpoint '{}': {}", self.text, self.problem)
    }
}

impl Error for EndpointError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printed_endpoint_parses_back() {
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
        // A path, which is no name in the abstract namespace.
        assert_eq!(Endpoint::Unix("@echo".into()).to_string(), "unix:./@echo");
    }

    #[test]
    fn scheme_selects_the_transport() {
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
    fn endpoint_without_scheme_is_tcp_and_udp() {
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
    fn error_names_the_mistake() {
        for (text, kind, problem) in [
            ("", "Syntax", "no port"),
            ("7007", "Syntax", "7007 is a port: write 127.0.0.1:7007"),
            ("127.0.0.1", "Syntax", "no port"),
            (":7007", "Syntax", "no host"),
            ("tcp://:7007", "Syntax", "no host"),
            ("127.0.0.1:65536", "Syntax", "from 0 to 65535"),
            ("127.0.0.1:", "Syntax", "from 0 to 65535"),
            ("127.0.0.1:-1", "Syntax", "from 0 to 65535"),
            ("127.0.0.1:+1", "Syntax", "from 0 to 65535"),
            ("127.0.0.1:echo", "Syntax", "from 0 to 65535"),
            ("127.0.0.1:7007/", "Syntax", "from 0 to 65535"),
            ("256.0.0.1:7007", "Address", "not an IP address"),
            ("1.2.3:7007", "Address", "not an IP address"),
            ("[::g]:7007", "Address", "not an IP address"),
            ("[127.0.0.1]:7007", "Address", "not an IP address"),
            ("[::ffff:127.0.0.1]:7007", "Address", "a mapped IPv4"),
            ("[::ffff:127.0.0.1%1]:7007", "Address", "a mapped IPv4"),
            ("[echo%1]:7007", "Address", "not an IP address"),
            ("[]:7007", "Address", "not an IP address"),
            ("::1:7007", "Syntax", "in brackets"),
            ("[::1:7007", "Syntax", "in brackets"),
            ("::1]:7007", "Syntax", "in brackets"),
            ("http://127.0.0.1:7007", "Syntax", "unknown transport"),
            ("udp://127.0.0.1", "Syntax", "no port"),
            ("udp://::1:7007", "Syntax", "in brackets"),
            ("unix:", "Syntax", "no path"),
            ("unix:@", "Syntax", "no path"),
            ("localhost:7007", "HostName", "a host name"),
        ] {
            let error = Endpoint::from_str(text).expect_err(text);
            assert_eq!(format!("{:?}", error.kind()), kind, "{text:?}");
            let message = error.to_string();
            let expected = format!("endpoint '{text}': ");
            assert!(message.starts_with(&expected), "{message}");
            assert!(message.contains(problem), "{message}");
        }
    }

    #[test]
    fn resolves_host_names_only() {
        let resolved = Endpoint::resolve("tcp://localhost:7007").unwrap();
        assert!(!resolved.is_empty());
        assert!(
            resolved.iter().all(|endpoint| !endpoint.is_public()),
            "{resolved:?}"
        );

        let numeric = Endpoint::resolve("[::1]:7007").unwrap();
        assert_eq!(numeric, ["[::1]:7007".parse().unwrap()]);
    }

    /// A resolver may return an address more than once.
    #[test]
    fn addresses_of_a_name_keep_their_order_without_repetition() {
        let all = ["[::1]:7", "127.0.0.2:7", "[::1]:7", "127.0.0.1:7"];
        let distinct = distinct(all.iter().map(|text| text.parse().unwrap()));
        let texts: Vec<String> = distinct.iter().map(Endpoint::to_string).collect();
        assert_eq!(texts, ["[::1]:7", "127.0.0.2:7", "127.0.0.1:7"]);
    }

    #[test]
    fn unresolved_name_is_an_error() {
        // A label has at most 63 characters (RFC 1035, section 2.3.4), so that no request is sent.
        let text = format!("{}.invalid:7007", "x".repeat(64));
        let error = Endpoint::resolve(&text).unwrap_err();
        assert_eq!(error.kind(), EndpointErrorKind::Unresolved);
        assert!(error.to_string().contains(&text), "{error}");
    }

    #[test]
    fn every_address_except_loopback_is_public() {
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
