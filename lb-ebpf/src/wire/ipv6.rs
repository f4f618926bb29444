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
    /// Source address.
    pub src: [[u8; 8]; 2],
    /// Destination address.
    pub dst: [[u8; 8]; 2],
}

/// Length of [`Ipv6`].
pub const IPV6_LEN: usize = size_of::<Ipv6>();

/// Next-header numbers that are extension headers and not transport protocols (RFC 8200, 4; RFC 7045, 4).
#[inline(always)]
#[must_use]
pub const fn is_extension(next_header: u8) -> bool {
    matches!(next_header, 0 | 43 | 44 | 50 | 51 | 60 | 135 | 139 | 140 | 253 | 254)
}

/// The fragment header's number (RFC 8200, 4.5).
pub const FRAGMENT_HEADER: u8 = 44;

/// True for extension headers that can be passed over: hop-by-hop, routing, destination options.
#[inline(always)]
#[must_use]
pub const fn is_passable(next_header: u8) -> bool {
    matches!(next_header, 0 | 43 | 60)
}

/// The first two bytes of an extension header that can be passed over.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Extension {
    /// What follows.
    pub next_header: u8,
    /// Length in units of eight bytes, without the first eight.
    len: u8,
}

impl Extension {
    /// Length in bytes.
    #[inline(always)]
    #[must_use]
    pub const fn bytes(&self) -> usize {
        (self.len as usize + 1) * 8
    }
}

/// The fragment header (RFC 8200, 4.5).
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Fragment {
    /// What was cut.
    pub next_header: u8,
    reserved: u8,
    offset_flags: U16,
    /// Identification, wire bytes.
    pub id: [u8; 4],
}

/// Length of [`Fragment`].
pub const FRAGMENT_LEN: usize = size_of::<Fragment>();

impl Fragment {
    /// Offset in the datagram is not 0.
    #[inline(always)]
    #[must_use]
    pub const fn is_later(&self) -> bool {
        self.offset_flags.get() & 0xfff8 != 0
    }

    /// More fragments follow.
    #[inline(always)]
    #[must_use]
    pub const fn more(&self) -> bool {
        self.offset_flags.get() & 1 != 0
    }
}

impl Ipv6 {
    /// True when the version field says 6.
    #[inline(always)]
    #[must_use]
    pub const fn is_version_6(&self) -> bool {
        self.version_class >> 4 == 6
    }

    /// Becomes a header without extensions, traffic class and flow label zero. Addresses in wire bytes.
    #[inline(always)]
    pub const fn write(
        &mut self,
        payload_len: u16,
        next_header: u8,
        hop_limit: u8,
        src: [u64; 2],
        dst: [u64; 2],
    ) {
        self.version_class = 0x60;
        self.class_flow = [0; 3];
        self.payload_len = U16::new(payload_len);
        self.next_header = next_header;
        self.hop_limit = hop_limit;
        self.src = [src[0].to_ne_bytes(), src[1].to_ne_bytes()];
        self.dst = [dst[0].to_ne_bytes(), dst[1].to_ne_bytes()];
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
