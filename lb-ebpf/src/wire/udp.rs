//! UDP (RFC 768).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, network_endian::U16};

/// Header.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Udp {
    /// Source port, destination port.
    pub ports: [u8; 4],
    /// Length of header and data.
    pub len: U16,
    /// Checksum over pseudo-header, header and data; 0 in IPv4 means none.
    pub checksum: [u8; 2],
}

/// Length of [`Udp`].
pub const UDP_LEN: usize = size_of::<Udp>();

impl Udp {
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
        let udp = Udp::ref_from_bytes(&[0x00, 0x35, 0x04, 0xd2, 0, 12, 0xbe, 0xef]).unwrap();
        assert_eq!(udp.ports().to_le_bytes(), [0x00, 0x35, 0x04, 0xd2]);
        assert_eq!((udp.len.get(), udp.checksum), (12, [0xbe, 0xef]));
    }
}
