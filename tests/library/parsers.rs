//! Endpoints and networks of generated text: what is printed parses back, and what is accepted means
//! what it says.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use mio_echo::{Endpoint, Network, NetworkError};

use crate::near_valid::near_valid;

#[test]
fn endpoint_means_what_it_says_and_parses_back() {
    const TRANSPORT: &[&str] = &["", "tcp://", "udp://", "unix:", "unix:@", "http://"];
    const V4: &[&str] = &["127.0.0.1", "0.0.0.0", "localhost", "/run/echo"];
    const V6: &[&str] = &["[::1]", "[fe80::1%2]", "[::ffff:7.0.0.1%0]"];
    const PORT: &[&str] = &[":7007", ":0", ":65535", ":65536", ":007", ":+7", ""];

    near_valid(&[TRANSPORT, &[V4, V6].concat(), PORT], |text, _| {
        let endpoint = text.parse::<Endpoint>();
        assert_eq!(endpoint.as_ref().ok(), endpoint_of(text).as_ref());
        if let Ok(endpoint) = endpoint {
            assert_eq!(endpoint.to_string().parse::<Endpoint>().unwrap(), endpoint);
            assert_eq!(Endpoint::resolve(text).unwrap(), [endpoint]);
        }
        let printed = Endpoint::Unix(format!("{text}.sock").into()).to_string();
        assert!(matches!(printed.parse(), Ok(Endpoint::Unix(_))));
        Ok(())
    });
}

/// Addresses are parsed by the standard library.
fn endpoint_of(text: &str) -> Option<Endpoint> {
    let is_mapped = |it: &SocketAddr| it.is_ipv6() && it.ip().to_canonical().is_ipv4();
    let address = |text: &str| text.parse().ok().filter(|it| !is_mapped(it));
    if let Some(path) = text.strip_prefix("unix:") {
        let is_named = !["", "@"].contains(&path);
        return is_named.then(|| match path.strip_prefix('@') {
            Some(name) => Endpoint::Abstract(name.into()),
            None => Endpoint::Unix(path.into()),
        });
    }
    match text.split_once("://") {
        Some(("tcp", text)) => address(text).map(Endpoint::Tcp),
        Some(("udp", text)) => address(text).map(Endpoint::Udp),
        _ => address(text).map(Endpoint::TcpAndUdp),
    }
}

#[test]
fn network_contains_the_addresses_with_its_prefix_and_parses_back() {
    const V4: &[&str] = &["10.0.0.0", "192.0.2.1", "0.0.0.0", "::ffff:10.0.0.0"];
    const V6: &[&str] = &["::", "2001:db8::", "fe80::%1"];
    const SHORT: &[&str] = &["", "/0", "/8", "/31", "/32", "/33"];
    const LONG: &[&str] = &["/64", "/95", "/96", "/104", "/128", "/129", "/+8"];

    near_valid(&[&[V4, V6].concat(), &[SHORT, LONG].concat()], |text, u| {
        let (network, expected) = (text.parse::<Network>(), first_and_host_bits(text));
        assert_eq!(network.is_ok(), expected.is_some());
        if let Err(NetworkError::HostBits { network, .. }) = network {
            assert_eq!(network.to_string().parse(), Ok(network));
        }
        let (Ok(network), Some((first, host_bits))) = (network, expected) else {
            return Ok(());
        };
        assert_eq!(network.to_string().parse(), Ok(network));
        let is_mapped = |bits: u128| bits >> 32 == 0xffff;
        let random: u128 = u.arbitrary()?;
        // Addresses with the same bits as the first one down to each of them.
        for below in 0..=128 {
            let different = random.checked_shr(below).unwrap_or(0);
            let is_inside = different.checked_shr(host_bits).unwrap_or(0) == 0;
            let is_inside = is_inside && is_mapped(first ^ different) == is_mapped(first);
            let address = IpAddr::from(Ipv6Addr::from(first ^ different));
            assert_eq!(network.contains(address), is_inside, "{address}");
            assert_eq!(network.contains(address.to_canonical()), is_inside);
        }
        Ok(())
    });
}

/// The first address, with IPv4 mapped into IPv6, and the number of bits behind the prefix.
fn first_and_host_bits(text: &str) -> Option<(u128, u32)> {
    let (address, prefix) = text.split_once('/').unzip();
    let (first, width) = match address.unwrap_or(text).parse().ok()? {
        IpAddr::V4(ip) => (u128::from(ip.to_ipv6_mapped()), 32),
        IpAddr::V6(ip) => (u128::from(ip), 128),
    };
    let is_number = |it: &&str| !it.starts_with('+') && it.len() <= width.to_string().len();
    let prefix = match prefix {
        Some(digits) => Some(digits).filter(is_number)?.parse().ok()?,
        None => width,
    };
    let host_bits = u32::checked_sub(width, prefix)?;
    (first.trailing_zeros() >= host_bits).then_some((first, host_bits))
}
