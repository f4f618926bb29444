//! Ethernet II and IEEE 802.1Q.

use lb_common::net::Mac;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, network_endian::U16};

/// Ethernet header without tags.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Ethernet {
    /// Destination.
    pub dst: Mac,
    /// Source.
    pub src: Mac,
    /// Type of what follows; a tag protocol identifier when a tag follows.
    pub ethertype: U16,
}

/// Length of [`Ethernet`].
pub const ETHERNET_LEN: usize = size_of::<Ethernet>();

/// The four bytes of a tag as they are laid out after the tag protocol identifier.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Tag {
    /// Priority (3 bits), drop eligible (1), VLAN identifier (12).
    pub tci: U16,
    /// Type of what follows.
    pub ethertype: U16,
}

/// Length of [`Tag`].
pub const TAG_LEN: usize = size_of::<Tag>();

/// VLAN identifier's bits in a [`Tag::tci`].
pub const VID_MASK: u16 = 0x0fff;

#[cfg(test)]
mod tests {
    use zerocopy::FromBytes as _;

    use super::*;

    #[test]
    fn header_and_tag_lie_where_the_standard_says() {
        let bytes = [
            2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x81, 0, 0x60, 0x64, 0x08, 0x00,
        ];
        let (eth, rest) = Ethernet::ref_from_prefix(&bytes).unwrap();
        assert_eq!((eth.dst.0[5], eth.src.0[5], eth.ethertype.get()), (1, 2, 0x8100));
        let tag = Tag::ref_from_bytes(rest).unwrap();
        assert_eq!(
            (tag.tci.get() & VID_MASK, tag.tci.get() >> 13, tag.ethertype.get()),
            (100, 3, 0x0800)
        );
    }
}
