//! Networks in CIDR notation, and the allow list.

use std::error::Error;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

/// An IP network in CIDR notation (RFC 4632, RFC 4291): `10.0.0.0/8`, `2001:db8::/32`; or a single
/// address: `192.0.2.1`, `::1`.
///
/// The bits behind the prefix are zero. A text such as `10.1.2.3/8`, which can mean the network or the
/// host, is an error.
///
/// Mapped IPv4 addresses (`::ffff:192.0.2.1`; RFC 4291, section 2.5.5.2) are IPv4 addresses, and in no
/// IPv6 network: `::/0` is all of IPv6, `0.0.0.0/0` all of IPv4.
///
/// A network has no zone. A link-local network, such as `fe80::/64`, includes every interface.
///
/// ```
/// use mio_echo::Network;
///
/// let network: Network = "10.0.0.0/8".parse()?;
/// assert!(network.contains("10.1.2.3".parse().unwrap()));
/// assert!(!network.contains("192.0.2.1".parse().unwrap()));
///
/// let error = "10.1.2.3/8".parse::<Network>().unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "bits are set behind the prefix; write 10.0.0.0/8, or 10.1.2.3 for that address alone"
/// );
/// # Ok::<(), mio_echo::NetworkError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Network(IpNet);

impl Network {
    /// The network of all addresses that share the first `prefix_len` bits with `address`.
    ///
    /// # Errors
    ///
    /// [`NetworkError::Prefix`] if the address has fewer bits, [`NetworkError::HostBits`] if bits
    /// behind them are set.
    pub fn new(address: IpAddr, prefix_len: u8) -> Result<Self, NetworkError> {
        let max = IpNet::from(address).max_prefix_len();
        let net = IpNet::new(address, prefix_len).map_err(|_| NetworkError::Prefix { max })?;
        let network = Network(canonical(net.trunc()));
        if net == net.trunc() {
            Ok(network)
        } else {
            let address = address.to_canonical();
            Err(NetworkError::HostBits { network, address })
        }
    }

    /// The first address.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.0.addr()
    }

    /// The number of bits that all its addresses share: up to 32, or 128 for IPv6.
    #[must_use]
    pub fn prefix_len(&self) -> u8 {
        self.0.prefix_len()
    }

    /// Whether an address is in the network.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }
}

/// The network of this single address.
impl From<IpAddr> for Network {
    fn from(address: IpAddr) -> Self {
        Network(address.to_canonical().into())
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() {
            self.0.addr().fmt(f)
        } else {
            self.0.fmt(f)
        }
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let (address, _) = text.split_once('/').unwrap_or((text, ""));
        if address.contains('%') {
            return Err(NetworkError::Zone);
        }
        let address: IpAddr = address.parse().map_err(|_| NetworkError::Address)?;
        if !text.contains('/') {
            return Ok(address.into());
        }
        let max = IpNet::from(address).max_prefix_len();
        let net: IpNet = text.parse().map_err(|_| NetworkError::Prefix { max })?;
        Network::new(address, net.prefix_len())
    }
}

/// A network inside `::ffff:0:0/96` is an IPv4 network.
fn canonical(net: IpNet) -> IpNet {
    match (net.addr().to_canonical(), net.prefix_len().checked_sub(96)) {
        (IpAddr::V4(address), Some(prefix)) => IpNet::new(address.into(), prefix).unwrap_or(net),
        _ => net,
    }
}

/// Why a text is not a [`Network`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum NetworkError {
    /// The part before the slash is not an IP address.
    Address,
    /// The part behind the slash is not a number of bits of such an address.
    Prefix {
        /// The number of bits of the address: 32 or 128.
        max: u8,
    },
    /// The address is inside the network, and not its first.
    HostBits {
        /// The network.
        network: Network,
        /// The address.
        address: IpAddr,
    },
    /// The address has a zone (RFC 4007, section 11): `%` and an interface.
    Zone,
}

impl fmt::Display for NetworkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NetworkError::Address => {
                f.write_str("not an IP network; write one such as 10.0.0.0/8, 2001:db8::/32 or ::1")
            }
            NetworkError::Prefix { max } => {
                write!(f, "a prefix length is a number from 0 to {max}")
            }
            NetworkError::HostBits { network, address } => write!(
                f,
                "bits are set behind the prefix; write {network}, or {address} for that address \
                 alone"
            ),
            NetworkError::Zone => {
                f.write_str("a network has no zone; write it without the % and what follows")
            }
        }
    }
}

impl Error for NetworkError {}

/// The networks whose peers are served. An empty list allows all.
#[derive(Debug, Clone, Default)]
pub(crate) struct AllowList {
    /// Sorted and without overlap, so that one binary search finds the only network that can contain
    /// an address. Each datagram is looked up.
    nets: Vec<IpNet>,
}

impl AllowList {
    pub(crate) fn new(networks: &[Network]) -> Self {
        let nets = networks.iter().map(|network| network.0).collect();
        let mut nets = IpNet::aggregate(&nets);
        nets.sort_unstable();
        AllowList { nets }
    }

    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        if self.nets.is_empty() {
            return true;
        }
        let address = address.to_canonical();
        let behind = self.nets.partition_point(|net| net.addr() <= address);
        let last = self.nets[..behind].last();
        last.is_some_and(|net| net.contains(&address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::net::{Ipv4Addr, Ipv6Addr};

    fn network(text: &str) -> Network {
        text.parse().expect(text)
    }

    #[test]
    fn printed_network_parses_back() {
        for (text, printed) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("192.0.2.1", "192.0.2.1"),
            ("192.0.2.1/32", "192.0.2.1"),
            ("::/0", "::/0"),
            ("::1", "::1"),
            ("::1/128", "::1"),
            ("2001:DB8::/32", "2001:db8::/32"),
            ("fe80::/64", "fe80::/64"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
            ("::ffff:0.0.0.0/96", "0.0.0.0/0"),
        ] {
            assert_eq!(network(text).to_string(), printed, "{text}");
            assert_eq!(network(printed), network(text));
        }
    }

    #[test]
    fn network_is_made_of_an_address_and_a_prefix() {
        for text in [
            "10.0.0.0/8",
            "0.0.0.0/0",
            "192.0.2.1",
            "2001:db8::/32",
            "::1",
        ] {
            let network = network(text);
            let same = Network::new(network.address(), network.prefix_len());
            assert_eq!(same, Ok(network));
        }
        let address = "::ffff:192.0.2.0".parse().unwrap();
        assert_eq!(Network::new(address, 120), Ok(network("192.0.2.0/24")));
        let address = "10.1.2.3".parse().unwrap();
        assert_eq!(
            Network::new(address, 33),
            Err(NetworkError::Prefix { max: 32 })
        );
        let error = Network::new(address, 8).unwrap_err();
        assert!(matches!(error, NetworkError::HostBits { .. }), "{error}");
    }

    #[test]
    fn contains_its_first_and_last_address_and_no_neighbour() {
        for (text, inside, outside) in [
            ("10.0.0.0/8", "10.0.0.0", "9.255.255.255"),
            ("10.0.0.0/8", "10.255.255.255", "11.0.0.0"),
            ("192.0.2.128/25", "192.0.2.128", "192.0.2.127"),
            ("192.0.2.1", "192.0.2.1", "192.0.2.2"),
            ("0.0.0.0/0", "255.255.255.255", "::"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("::1", "::1", "::"),
            ("::/0", "ffff::", "0.0.0.0"),
            // Mapped IPv4 addresses.
            ("192.0.2.0/24", "::ffff:192.0.2.7", "::ffff:192.0.3.7"),
            ("::ffff:192.0.2.0/120", "192.0.2.7", "192.0.3.7"),
            ("::/0", "::1:0:0", "::ffff:192.0.2.1"),
        ] {
            let contains = |address: &str| network(text).contains(address.parse().unwrap());
            assert!(contains(inside), "{inside} is in {text}");
            assert!(!contains(outside), "{outside} is not in {text}");
        }
        let mapped: IpAddr = "::ffff:192.0.2.1".parse().unwrap();
        assert_eq!(Network::from(mapped), network("192.0.2.1"));
    }

    #[test]
    fn error_says_what_to_write() {
        for (text, advice) in [
            ("", "such as 10.0.0.0/8"),
            ("localhost", "such as 10.0.0.0/8"),
            ("10.0/8", "such as 10.0.0.0/8"),
            ("[::1]", "or ::1"),
            ("10.0.0.0:7007", "such as 10.0.0.0/8"),
            ("10.0.0.0/", "a number from 0 to 32"),
            ("10.0.0.0/+8", "a number from 0 to 32"),
            ("10.0.0.0/33", "a number from 0 to 32"),
            ("10.0.0.0/008", "a number from 0 to 32"),
            ("10.0.0.0/255.0.0.0", "a number from 0 to 32"),
            ("10.0.0.0/8/8", "a number from 0 to 32"),
            ("::/129", "a number from 0 to 128"),
            ("::/256", "a number from 0 to 128"),
            ("10.1.2.3/8", "write 10.0.0.0/8, or 10.1.2.3 for"),
            ("2001:db8::1/32", "write 2001:db8::/32, or 2001:db8::1 for"),
            ("::ffff:10.1.2.3/104", "write 10.0.0.0/8, or 10.1.2.3 for"),
            ("fe80::1%eth0", "without the %"),
            ("fe80::%2/64", "without the %"),
        ] {
            let error = text.parse::<Network>().expect_err(text);
            assert!(error.to_string().contains(advice), "{text:?}: {error}");
        }
    }

    fn list(texts: &[&str]) -> AllowList {
        let networks: Vec<Network> = texts.iter().map(|text| text.parse().unwrap()).collect();
        AllowList::new(&networks)
    }

    fn has(list: &AllowList, address: &str) -> bool {
        list.contains(address.parse().unwrap())
    }

    #[test]
    fn empty_list_allows_every_address() {
        for address in ["192.0.2.1", "::1", "::ffff:192.0.2.1"] {
            assert!(has(&AllowList::default(), address));
        }
    }

    #[test]
    fn allows_addresses_in_any_of_the_networks() {
        let texts = ["2001:db8::/32", "192.0.2.1", "10.0.0.0/8", "10.1.0.0/16"];
        let list = list(&texts);
        for address in ["10.0.0.0", "10.1.2.3", "10.255.255.255", "192.0.2.1"] {
            assert!(has(&list, address), "{address}");
            assert!(has(&list, &format!("::ffff:{address}")), "{address}");
        }
        assert!(has(&list, "2001:db8::1"));
        for address in [
            "0.0.0.0",
            "9.255.255.255",
            "11.0.0.0",
            "192.0.2.2",
            "::",
            "2001:db9::",
        ] {
            assert!(!has(&list, address), "{address}");
        }
    }

    #[test]
    fn whole_family_excludes_the_other() {
        let (v4, v6) = (list(&["0.0.0.0/0"]), list(&["::/0"]));
        for address in [
            "0.0.0.0",
            "192.0.2.1",
            "255.255.255.255",
            "::ffff:192.0.2.1",
        ] {
            assert!(has(&v4, address) && !has(&v6, address), "{address}");
        }
        for address in ["::", "::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"] {
            assert!(has(&v6, address) && !has(&v4, address), "{address}");
        }
    }

    /// At and beside the ends of all networks.
    #[test]
    fn binary_search_agrees_with_linear_search() {
        let mut state = 1_u32;
        let mut random = |below: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) % below
        };
        for _ in 0..200 {
            let networks: Vec<Network> = (0..random(12))
                .map(|_| {
                    let (address, prefix) = (random(64) << 26, random(7));
                    let address = if random(2) == 0 {
                        IpAddr::V4(Ipv4Addr::from(address))
                    } else {
                        IpAddr::V6(Ipv6Addr::from(u128::from(address) << 96))
                    };
                    let prefix = u8::try_from(prefix).unwrap();
                    let net = IpNet::new(address, prefix).unwrap().trunc();
                    net.to_string().parse().unwrap()
                })
                .collect();
            let list = AllowList::new(&networks);
            let ends = networks.iter().map(|it| it.0);
            for address in ends
                .flat_map(|net| [net.network(), net.broadcast()])
                .flat_map(around)
            {
                let is_listed = networks.iter().any(|network| network.contains(address));
                assert_eq!(
                    list.contains(address),
                    is_listed,
                    "{address} in {networks:?}"
                );
            }
        }
    }

    fn around(address: IpAddr) -> [IpAddr; 3] {
        match address {
            IpAddr::V4(it) => [-1_i32, 0, 1]
                .map(|by| Ipv4Addr::from(u32::from(it).wrapping_add_signed(by)).into()),
            IpAddr::V6(it) => [-1_i128, 0, 1]
                .map(|by| Ipv6Addr::from(u128::from(it).wrapping_add_signed(by)).into()),
        }
    }
}
