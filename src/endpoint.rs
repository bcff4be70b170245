//! Endpoints: where the service listens, as people write them and as the system takes them.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, ToSocketAddrs};
use std::str::FromStr;

/// A place to listen: a transport and its address.
///
/// Written `tcp://HOST:PORT`, or `HOST:PORT` for short. An IPv6 address stands in brackets, as in
/// a URL (RFC 3986, section 3.2.2): `[::1]:7007`. Port 0 asks the system for a free port.
///
/// [`FromStr`] takes numeric addresses only; [`Endpoint::resolve`] takes host names as well.
///
/// ```
/// use mio_echo::Endpoint;
///
/// let endpoint: Endpoint = "[::1]:7007".parse()?;
/// assert_eq!(endpoint.to_string(), "tcp://[::1]:7007");
/// # Ok::<(), mio_echo::EndpointError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Endpoint {
    /// A TCP listener at this address.
    Tcp(SocketAddr),
}

impl Endpoint {
    /// Where the service listens unless told otherwise: `tcp://127.0.0.1:7007`.
    ///
    /// RFC 862 gives the echo service port 7, which is privileged on most systems; and only this
    /// host can reach it, because an echo service has no business on a network unless asked there.
    pub const DEFAULT: Endpoint = Endpoint::Tcp(SocketAddr::new(
        std::net::IpAddr::V4(Ipv4Addr::LOCALHOST),
        7007,
    ));

    /// Reads an endpoint and looks its host name up, which gives one endpoint for each of the
    /// name's addresses, in the resolver's order and without repetition.
    ///
    /// Numeric addresses are not looked up. A look-up blocks for as long as the system's resolver
    /// takes, so this is for the time before the loop starts.
    ///
    /// # Errors
    ///
    /// Those of [`FromStr`], but for [`EndpointErrorKind::HostName`]; and
    /// [`EndpointErrorKind::Unresolved`] where the name has no address.
    pub fn resolve(text: &str) -> Result<Vec<Endpoint>, EndpointError> {
        let parts = Parts::split(text)?;
        if let Some(address) = parts.numeric()? {
            return Ok(vec![Endpoint::Tcp(address)]);
        }
        let unresolved = |error| parts.error(EndpointErrorKind::Unresolved(error));
        let mut endpoints = Vec::new();
        for address in (parts.host, parts.port)
            .to_socket_addrs()
            .map_err(unresolved)?
        {
            let endpoint = Endpoint::Tcp(address);
            if !endpoints.contains(&endpoint) {
                endpoints.push(endpoint);
            }
        }
        if endpoints.is_empty() {
            return Err(unresolved(io::ErrorKind::NotFound.into()));
        }
        Ok(endpoints)
    }

    /// The socket address: an IP address and a port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        match self {
            Endpoint::Tcp(address) => *address,
        }
    }

    /// Whether other hosts may be able to reach it: every address but those of the loopback
    /// network (127.0.0.0/8 and `::1`).
    #[must_use]
    pub fn is_public(&self) -> bool {
        !self.address().ip().to_canonical().is_loopback()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

/// TCP at that address.
impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Endpoint::Tcp(address)
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let parts = Parts::split(text)?;
        match parts.numeric()? {
            Some(address) => Ok(Endpoint::Tcp(address)),
            None => Err(parts.error(EndpointErrorKind::HostName)),
        }
    }
}

/// An endpoint's text, taken apart.
struct Parts<'a> {
    text: &'a str,
    host: &'a str,
    bracketed: bool,
    port: u16,
}

impl<'a> Parts<'a> {
    fn split(text: &'a str) -> Result<Self, EndpointError> {
        let fail = |kind| {
            Err(EndpointError {
                text: text.to_owned(),
                kind,
            })
        };
        let authority = match text.split_once("://") {
            Some(("tcp", authority)) => authority,
            Some(_) => return fail(EndpointErrorKind::Scheme),
            None => text,
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
        EndpointError {
            text: self.text.to_owned(),
            kind,
        }
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
    /// There is no `:PORT` at the end.
    NoPort,
    /// There is nothing before the port.
    NoHost,
    /// The port is no number from 0 to 65,535.
    Port,
    /// The host is neither an address nor in the form of a name.
    Address,
    /// An IPv6 address without its brackets, or with half of them.
    Brackets,
    /// A host name, where only numeric addresses are taken.
    HostName,
    /// The host name has no address, as the resolver said.
    Unresolved(io::Error),
}

impl EndpointError {
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
            EndpointErrorKind::Scheme => f.write_str("unknown transport; write tcp://HOST:PORT"),
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
            "0.0.0.0:0",
            "[::1]:65535",
            "[fe80::1]:7",
            "[fe80::1%2]:7",
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!(endpoint.to_string(), format!("tcp://{text}"));
            assert_eq!(endpoint.to_string().parse::<Endpoint>().unwrap(), endpoint);
        }
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
            ("[]:7007", "Address"),
            ("::1:7007", "Brackets"),
            ("[::1:7007", "Brackets"),
            ("::1]:7007", "Brackets"),
            ("http://127.0.0.1:7007", "Scheme"),
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
            ("[::ffff:127.0.0.1]:7", false),
            ("0.0.0.0:7", true),
            ("[::]:7", true),
            ("192.0.2.1:7", true),
        ] {
            assert_eq!(
                text.parse::<Endpoint>().unwrap().is_public(),
                public,
                "{text}"
            );
        }
    }
}
