//! Addresses, ports and Ethernet facts in the form in which both sides exchange them.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// IPv4 (RFC 791) Ethernet type, in host order.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// IPv6 (RFC 8200) Ethernet type, in host order.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// IEEE 802.1Q tag protocol identifier, in host order.
pub const ETHERTYPE_VLAN: u16 = 0x8100;
/// IEEE 802.1ad (service tag) tag protocol identifier, in host order.
pub const ETHERTYPE_QINQ: u16 = 0x88a8;

/// TCP's protocol number (IANA).
pub const PROTO_TCP: u8 = 6;
/// UDP's protocol number (IANA).
pub const PROTO_UDP: u8 = 17;

/// A MAC address as it stands in the frame.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    Eq,
    Hash,
    Ord,
    PartialEq,
    PartialOrd,
    FromBytes,
    Immutable,
    IntoBytes,
    KnownLayout,
    Unaligned,
)]
#[repr(transparent)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The broadcast address ff:ff:ff:ff:ff:ff.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// True for 00:00:00:00:00:00, which stands for "not known" everywhere in this ABI.
    #[must_use]
    pub fn is_zero(self) -> bool {
        self.0 == [0; 6]
    }
}

impl core::fmt::Display for Mac {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// An IPv4 address as the packet path reads it: the four network-order bytes in a native `u32`.
#[must_use]
pub const fn addr4(ip: Ipv4Addr) -> u32 {
    u32::from_ne_bytes(ip.octets())
}

/// The reverse of [`addr4`].
#[must_use]
pub const fn ip4(addr: u32) -> Ipv4Addr {
    let [a, b, c, d] = addr.to_ne_bytes();
    Ipv4Addr::new(a, b, c, d)
}

/// An IPv6 address as the packet path reads it: two native words over the sixteen network-order bytes.
#[must_use]
pub const fn addr6(ip: Ipv6Addr) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = ip.octets();
    [u64::from_ne_bytes([a, b, c, d, e, f, g, h]), u64::from_ne_bytes([i, j, k, l, m, n, o, p])]
}

/// The reverse of [`addr6`].
#[must_use]
pub fn ip6(addr: [u64; 2]) -> Ipv6Addr {
    let mut octets = [0; 16];
    octets[..8].copy_from_slice(&addr[0].to_ne_bytes());
    octets[8..].copy_from_slice(&addr[1].to_ne_bytes());
    Ipv6Addr::from(octets)
}

/// An address of either family as keys hold it: IPv4 in the low half of the first word.
#[must_use]
pub const fn words(ip: IpAddr) -> [u64; 2] {
    match ip {
        IpAddr::V4(ip) => [addr4(ip) as u64, 0],
        IpAddr::V6(ip) => addr6(ip),
    }
}

/// A port as the packet path reads it: the two network-order bytes in a native `u16`.
#[must_use]
pub const fn wire_port(port: u16) -> u16 {
    port.to_be()
}

/// The reverse of [`wire_port`].
#[must_use]
pub const fn host_port(port: u16) -> u16 {
    u16::from_be(port)
}

/// Sixteen bytes for either family: IPv4 as an IPv4-mapped IPv6 address (RFC 4291, 2.5.5.2).
#[must_use]
pub const fn mapped(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The reverse of [`mapped`].
#[must_use]
pub fn unmapped(octets: [u8; 16]) -> IpAddr {
    let v6 = Ipv6Addr::from(octets);
    v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_keep_their_bytes_in_packet_order() {
        let ip = Ipv4Addr::new(10, 12, 1, 100);
        assert_eq!(addr4(ip).to_ne_bytes(), [10, 12, 1, 100]);
        assert_eq!(ip4(addr4(ip)), ip);
        let ip: Ipv6Addr = "2001:db8::1:2".parse().unwrap();
        assert_eq!(ip6(addr6(ip)), ip);
        assert_eq!(addr6(ip)[0].to_ne_bytes(), [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0]);
        assert_eq!(wire_port(104).to_ne_bytes(), [0, 104]);
        assert_eq!(host_port(wire_port(11112)), 11112);
    }

    #[test]
    fn either_family_fits_sixteen_bytes_and_comes_back() {
        for text in ["10.0.0.1", "2001:db8::1", "::1"] {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(unmapped(mapped(ip)), ip);
        }
    }

    #[test]
    fn mac_prints_as_people_write_it() {
        assert_eq!(Mac([2, 0, 0, 0xab, 0xcd, 0xef]).to_string(), "02:00:00:ab:cd:ef");
        assert!(Mac::default().is_zero());
        assert!(!Mac::BROADCAST.is_zero());
    }
}
