//! IPv6 (RFC 8200).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, network_endian::U16};

/// Fixed header.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Ipv6 {
    version_class: u8,
    class_flow: [u8; 3],
    /// Length of everything after this header.
    pub payload_len: U16,
    /// What follows.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    src: [[u8; 8]; 2],
    dst: [[u8; 8]; 2],
}

/// Length of [`Ipv6`].
pub const IPV6_LEN: usize = size_of::<Ipv6>();

/// Next-header numbers that are extension headers and not transport protocols (RFC 8200, 4; RFC 7045, 4).
#[inline(always)]
#[must_use]
pub const fn is_extension(next_header: u8) -> bool {
    matches!(
        next_header,
        0 | 43 | 44 | 50 | 51 | 60 | 135 | 139 | 140 | 253 | 254
    )
}

/// The fragment header's number (RFC 8200, 4.5).
pub const FRAGMENT_HEADER: u8 = 44;

impl Ipv6 {
    /// True when the version field says 6.
    #[inline(always)]
    #[must_use]
    pub const fn is_version_6(&self) -> bool {
        self.version_class >> 4 == 6
    }

    /// Source address, wire bytes.
    #[inline(always)]
    #[must_use]
    pub const fn src(&self) -> [u64; 2] {
        [u64::from_ne_bytes(self.src[0]), u64::from_ne_bytes(self.src[1])]
    }

    /// Destination address, wire bytes.
    #[inline(always)]
    #[must_use]
    pub const fn dst(&self) -> [u64; 2] {
        [u64::from_ne_bytes(self.dst[0]), u64::from_ne_bytes(self.dst[1])]
    }
}

#[cfg(test)]
mod tests {
    use lb_common::net;

    use super::*;

    #[test]
    fn fields_lie_where_the_rfc_says() {
        let mut bytes = [0; IPV6_LEN];
        bytes[..8].copy_from_slice(&[0x60, 0, 0, 0, 0, 20, 6, 64]);
        bytes[8..24].copy_from_slice(&"2001:db8::50".parse::<std::net::Ipv6Addr>().unwrap().octets());
        bytes[24..].copy_from_slice(&"2001:db8::100".parse::<std::net::Ipv6Addr>().unwrap().octets());
        let ip = Ipv6::ref_from_bytes(&bytes).unwrap();
        assert!(ip.is_version_6());
        assert_eq!((ip.payload_len.get(), ip.next_header, ip.hop_limit), (20, 6, 64));
        assert_eq!(net::ip6(ip.src()).to_string(), "2001:db8::50");
        assert_eq!(net::ip6(ip.dst()).to_string(), "2001:db8::100");
    }

    #[test]
    fn transport_protocols_are_not_extension_headers() {
        for transport in [6, 17, 58, 132] {
            assert!(!is_extension(transport));
        }
        assert!(is_extension(FRAGMENT_HEADER) && is_extension(0) && is_extension(60));
    }
}
