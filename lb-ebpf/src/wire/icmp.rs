//! ICMP (RFC 792) and ICMPv6 (RFC 4443): errors, which quote the packet that they are about.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Protocol number of ICMP.
pub const PROTO_ICMP: u8 = 1;
/// Next-header number of ICMPv6.
pub const PROTO_ICMPV6: u8 = 58;

/// The header of an error, of either version. The quoted packet follows.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Icmp {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// Checksum; ICMPv6 covers a pseudo-header, too.
    pub checksum: [u8; 2],
    /// What it says beyond type and code: the MTU, for one.
    pub rest: [u8; 4],
}

impl Icmp {
    /// Becomes the header of an error, its checksum still zero.
    #[inline(always)]
    pub const fn write(&mut self, kind: u8, code: u8, rest: u32) {
        self.kind = kind;
        self.code = code;
        self.checksum = [0; 2];
        self.rest = rest.to_be_bytes();
    }
}

/// Length of [`Icmp`].
pub const ICMP_LEN: usize = size_of::<Icmp>();

/// Types that quote a packet: unreachable, source quench, time exceeded, parameter problem. A redirect (5) quotes one,
/// too, but is between a router and its neighbour.
#[inline(always)]
#[must_use]
pub const fn is_error_v4(kind: u8) -> bool {
    matches!(kind, 3 | 4 | 11 | 12)
}

/// Types that quote a packet: unreachable, packet too big, time exceeded, parameter problem.
#[inline(always)]
#[must_use]
pub const fn is_error_v6(kind: u8) -> bool {
    matches!(kind, 1..=4)
}

/// As much of a transport header as an error must quote (RFC 792; RFC 4443 quotes more): ports, and eight bytes in all.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Quoted {
    /// Source port, destination port.
    pub ports: [u8; 4],
    /// UDP: length and checksum. TCP: sequence number.
    pub rest: [u8; 4],
}

impl Quoted {
    /// Source port in the low half, destination port in the high half, both in wire bytes.
    #[inline(always)]
    #[must_use]
    pub const fn ports(&self) -> u32 {
        u32::from_le_bytes(self.ports)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_lie_where_the_rfc_says() {
        let bytes = [3, 4, 0xbe, 0xef, 0, 0, 0x05, 0x78];
        let icmp = Icmp::ref_from_bytes(&bytes).unwrap();
        assert_eq!((icmp.kind, icmp.code, icmp.checksum), (3, 4, [0xbe, 0xef]));
        assert_eq!(u32::from_be_bytes(icmp.rest), 1400);
    }

    #[test]
    fn echoes_and_neighbour_discovery_are_no_errors() {
        assert!([0, 5, 8, 13].into_iter().all(|kind| !is_error_v4(kind)));
        assert!([0, 128, 129, 133, 135, 136].into_iter().all(|kind| !is_error_v6(kind)));
    }
}
