//! Who may come at all.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::policy::cidr::Network;

/// The networks whose peers are served; those of every network, where there are none.
#[derive(Debug, Clone, Default)]
pub(crate) struct AllowList {
    /// No two of them overlap, and they are in order, so that one search finds the only one that
    /// an address can be in. For each datagram there is a search.
    nets: Vec<IpNet>,
}

impl AllowList {
    pub(crate) fn new(networks: &[Network]) -> Self {
        let nets = networks.iter().copied().map(Network::net).collect();
        let mut nets = IpNet::aggregate(&nets);
        nets.sort_unstable();
        AllowList { nets }
    }

    pub(crate) fn has(&self, address: IpAddr) -> bool {
        self.nets.is_empty() || self.is_listed(address.to_canonical())
    }

    fn is_listed(&self, address: IpAddr) -> bool {
        let behind = self.nets.partition_point(|net| net.addr() <= address);
        let last = behind.checked_sub(1).map(|index| self.nets[index]);
        last.is_some_and(|net| net.contains(&address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::net::{Ipv4Addr, Ipv6Addr};

    fn list(texts: &[&str]) -> AllowList {
        let networks: Vec<Network> = texts.iter().map(|text| text.parse().unwrap()).collect();
        AllowList::new(&networks)
    }

    fn has(list: &AllowList, address: &str) -> bool {
        list.has(address.parse().unwrap())
    }

    #[test]
    fn without_a_list_everybody_is_on_it() {
        for address in ["192.0.2.1", "::1", "::ffff:192.0.2.1"] {
            assert!(has(&AllowList::default(), address));
        }
    }

    #[test]
    fn who_is_in_one_of_the_networks_is_on_it() {
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
    fn all_of_a_family_is_nothing_of_the_other() {
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

    /// Against a look at each network in turn, at and beside the ends of all of them.
    #[test]
    fn the_search_finds_whatever_is_there() {
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
            let ends = networks.iter().map(|it| it.net());
            for address in ends
                .flat_map(|net| [net.network(), net.broadcast()])
                .flat_map(around)
            {
                let is_listed = networks.iter().any(|network| network.contains(address));
                assert_eq!(list.has(address), is_listed, "{address} in {networks:?}");
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
