//! IPv4 (RFC 791).

use lb_common::checksum;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, network_endian::U16};

/// Header without options.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Ipv4 {
    version_ihl: u8,
    /// Differentiated services and ECN.
    pub tos: u8,
    /// Length of header and payload.
    pub total_len: U16,
    /// Identification of a datagram's fragments.
    pub id: U16,
    flags_fragment: U16,
    /// Time to live.
    pub ttl: u8,
    /// What follows.
    pub proto: u8,
    /// Header checksum.
    pub checksum: [u8; 2],
    /// Source and destination address.
    pub addrs: [u8; 8],
}

/// Length of [`Ipv4`], a header without options.
pub const IPV4_LEN: usize = size_of::<Ipv4>();

impl Ipv4 {
    /// Header length in bytes with options, or `None` unless the version is 4 and the length at least 20.
    #[inline(always)]
    #[must_use]
    pub const fn header_len(&self) -> Option<usize> {
        // 0x45 is version 4 and five words: nearly every packet.
        if self.version_ihl == 0x45 {
            return Some(IPV4_LEN);
        }
        let words = (self.version_ihl & 0x0f) as usize;
        if self.version_ihl >> 4 != 4 || words < 5 { None } else { Some(words * 4) }
    }

    /// True for any piece of a fragmented datagram: "more fragments" set, or an offset (RFC 791, 3.1).
    #[inline(always)]
    #[must_use]
    pub const fn is_fragment(&self) -> bool {
        self.flags_fragment.get() & 0x3fff != 0
    }

    /// Both addresses, wire bytes: source in the low half.
    #[inline(always)]
    #[must_use]
    pub const fn addresses(&self) -> u64 {
        u64::from_le_bytes(self.addrs)
    }

    /// "Don't fragment" is set.
    #[inline(always)]
    #[must_use]
    pub const fn is_df(&self) -> bool {
        self.flags_fragment.get() & 0x4000 != 0
    }

    /// True for any fragment but a datagram's first one: there is an offset.
    #[inline(always)]
    #[must_use]
    pub const fn is_later_fragment(&self) -> bool {
        self.flags_fragment.get() & 0x1fff != 0
    }

    /// Becomes a header without options: no fragment, may be fragmented, checksum right. In place, because the stack
    /// wants alignment.
    #[inline(always)]
    pub fn write(&mut self, total_len: u16, ttl: u8, proto: u8, addresses: u64) {
        self.version_ihl = 0x45;
        self.tos = 0;
        self.total_len = U16::new(total_len);
        self.id = U16::ZERO;
        self.flags_fragment = U16::ZERO;
        self.ttl = ttl;
        self.proto = proto;
        self.checksum = [0; 2];
        self.addrs = addresses.to_le_bytes();
        self.checksum = checksum::whole(self.as_bytes()).to_ne_bytes();
    }

    /// Source address, wire bytes.
    #[inline(always)]
    #[must_use]
    pub const fn src(&self) -> u32 {
        self.addresses() as u32
    }

    /// Destination address, wire bytes.
    #[inline(always)]
    #[must_use]
    pub const fn dst(&self) -> u32 {
        (self.addresses() >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: [u8; 20] = [
        0x45, 0x00, 0x00, 0x3c, 0x12, 0x34, 0x40, 0x00, 0x40, 0x06, 0x0f, 0x2a, 10, 10, 0, 50, 10, 10, 0, 100,
    ];

    #[test]
    fn fields_lie_where_the_rfc_says() {
        let ip = Ipv4::ref_from_bytes(&BYTES).unwrap();
        assert_eq!(ip.header_len(), Some(20));
        assert_eq!((ip.total_len.get(), ip.ttl, ip.proto), (60, 64, 6));
        assert_eq!(ip.src().to_ne_bytes(), [10, 10, 0, 50]);
        assert_eq!(ip.dst().to_ne_bytes(), [10, 10, 0, 100]);
        assert!(!ip.is_fragment(), "don't-fragment is not a fragment");
    }

    #[test]
    fn options_lengthen_the_header_and_nonsense_is_refused() {
        for (byte, want) in [(0x46, Some(24)), (0x4f, Some(60)), (0x44, None), (0x40, None), (0x65, None)] {
            let mut bytes = BYTES;
            bytes[0] = byte;
            assert_eq!(Ipv4::ref_from_bytes(&bytes).unwrap().header_len(), want, "{byte:#x}");
        }
    }

    #[test]
    fn first_middle_and_last_fragments_are_fragments() {
        for (hi, lo) in [(0x20, 0), (0x20, 1), (0x00, 1), (0x1f, 0xff)] {
            let mut bytes = BYTES;
            (bytes[6], bytes[7]) = (hi, lo);
            assert!(Ipv4::ref_from_bytes(&bytes).unwrap().is_fragment());
        }
    }
}
