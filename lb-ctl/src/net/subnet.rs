//! Connected subnets.
#![forbid(unsafe_code)]

use std::net::IpAddr;

use crate::model::net::{Address, NetFacts};

/// The address of this machine whose subnet contains `ip`, the narrowest subnet first; `None` = not connected.
///
/// A host address (prefix 32 or 128, every claimed VIP is one) connects to nothing, and neither does loopback.
#[must_use]
pub fn connected(facts: &NetFacts, ip: IpAddr) -> Option<&Address> {
    facts
        .addresses
        .iter()
        .filter(|address| !address.ip.is_loopback() && address.prefix < host_prefix(address.ip))
        .filter(|address| contains(address, ip))
        .max_by_key(|address| (address.prefix, std::cmp::Reverse(address.ifindex)))
}

/// True when `ip` is in the subnet of `address`.
#[must_use]
pub fn contains(address: &Address, ip: IpAddr) -> bool {
    let prefix = u32::from(address.prefix);
    match (address.ip, ip) {
        (IpAddr::V4(ours), IpAddr::V4(other)) => {
            let mask = u32::MAX.checked_shl(32u32.saturating_sub(prefix)).unwrap_or(0);
            (u32::from(ours) ^ u32::from(other)) & mask == 0
        }
        (IpAddr::V6(ours), IpAddr::V6(other)) => {
            let mask = u128::MAX.checked_shl(128u32.saturating_sub(prefix)).unwrap_or(0);
            (u128::from(ours) ^ u128::from(other)) & mask == 0
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

/// Prefix length of a single host: 32 or 128.
#[must_use]
pub const fn host_prefix(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(addresses: &[(u32, &str, u8)]) -> NetFacts {
        let addresses = addresses
            .iter()
            .map(|&(ifindex, ip, prefix)| Address {
                ifindex,
                ip: ip.parse().unwrap(),
                prefix,
                duplicate: false,
                tentative: false,
            })
            .collect();
        NetFacts { addresses, ..NetFacts::default() }
    }

    #[test]
    fn the_narrowest_connected_subnet_wins_and_host_addresses_connect_to_nothing() {
        let facts = facts(&[
            (1, "127.0.0.1", 8),
            (2, "10.12.1.5", 24),
            (3, "10.12.0.5", 16),
            (3, "10.12.1.100", 32),
            (4, "2001:db8::5", 64),
            (4, "2001:db8::100", 128),
        ]);
        let on = |ip: &str| connected(&facts, ip.parse().unwrap()).map(|a| a.ifindex);
        assert_eq!(on("10.12.1.100"), Some(2));
        assert_eq!(on("10.12.2.1"), Some(3));
        assert_eq!(on("10.13.0.1"), None);
        assert_eq!(on("127.0.0.2"), None);
        assert_eq!(on("2001:db8::100"), Some(4));
        assert_eq!(on("2001:db9::1"), None);
    }

    #[test]
    fn a_prefix_of_zero_contains_everything_of_its_family() {
        let all = &facts(&[(2, "10.0.0.1", 0)]).addresses[0];
        assert!(contains(all, "192.0.2.1".parse().unwrap()));
        assert!(!contains(all, "2001:db8::1".parse().unwrap()));
    }
}
