//! TCP (RFC 9293).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, network_endian::U32};

/// Header without options.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Tcp {
    /// Source port, destination port.
    pub ports: [u8; 4],
    /// Sequence number.
    pub seq: U32,
    /// Acknowledgement number.
    pub ack: U32,
    /// Header length in words, upper four bits.
    pub data_offset: u8,
    /// Control bits.
    pub flags: Flags,
    /// Receive window.
    pub window: [u8; 2],
    /// Checksum over pseudo-header, header and data.
    pub checksum: [u8; 2],
    /// Urgent pointer.
    pub urgent: [u8; 2],
}

/// Length of [`Tcp`], a header without options.
pub const TCP_LEN: usize = size_of::<Tcp>();

impl Tcp {
    /// Source port in the low half, destination port in the high half, both in wire bytes.
    #[inline(always)]
    #[must_use]
    pub const fn ports(&self) -> u32 {
        u32::from_le_bytes(self.ports)
    }
}

/// Control bits (RFC 9293, 3.1).
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(transparent)]
pub struct Flags(pub u8);

impl Flags {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 0x10;

    /// Opens a connection: SYN without ACK or RST.
    #[inline(always)]
    #[must_use]
    pub const fn is_open(self) -> bool {
        self.0 & (Self::SYN | Self::ACK | Self::RST) == Self::SYN
    }

    /// FIN is set.
    #[inline(always)]
    #[must_use]
    pub const fn is_fin(self) -> bool {
        self.0 & Self::FIN != 0
    }

    /// RST is set.
    #[inline(always)]
    #[must_use]
    pub const fn is_rst(self) -> bool {
        self.0 & Self::RST != 0
    }

    /// One of SYN, FIN, RST is set: the segment may change the flow's state.
    #[inline(always)]
    #[must_use]
    pub const fn changes_state(self) -> bool {
        self.0 & (Self::SYN | Self::FIN | Self::RST) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_lie_where_the_rfc_says() {
        let bytes = [0x04, 0xd2, 0x00, 0x68, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x12, 0, 0, 0, 0, 0, 0];
        let tcp = Tcp::ref_from_bytes(&bytes).unwrap();
        assert_eq!(tcp.ports().to_le_bytes(), [0x04, 0xd2, 0x00, 0x68]);
        assert_eq!((tcp.seq.get(), tcp.ack.get(), tcp.flags), (1, 2, Flags(Flags::SYN | Flags::ACK)));
    }

    #[test]
    fn only_a_bare_syn_opens() {
        assert!(Flags(Flags::SYN).is_open());
        assert!(Flags(Flags::SYN | 0xc0).is_open(), "with ECN bits (RFC 3168, 6.1.1)");
        for flags in [Flags::SYN | Flags::ACK, Flags::SYN | Flags::RST, Flags::ACK, 0] {
            assert!(!Flags(flags).is_open(), "{flags:#x}");
        }
    }
}
