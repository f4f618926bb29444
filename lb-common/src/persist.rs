//! Persistence: which server a client was sent to last.
//!
//! An entry is written in two places, one after the other. A client's first packet proves nothing: its choice stands in
//! `PERSIST_NEW`, which forgets its oldest, so that connections that are opened side by side meet. When the client has
//! answered the server, the choice goes to `PERSIST`, where nothing makes room for anything.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Key of a persistence entry.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct PersistKey {
    /// Client address cut to the service's prefix, wire bytes; IPv4 in the low half of the first word.
    pub client: [u64; 2],
    /// [`crate::service::Service::persist_group`].
    pub group: u32,
    /// 4 or 6.
    pub family: u32,
}

impl PersistKey {
    /// Key of a client, whose address is as in [`crate::flow::Ends`], of family 4 or 6.
    #[inline(always)]
    #[must_use]
    pub const fn new(group: u32, prefix: u8, client: [u64; 2], family: u8) -> Self {
        let client = if family == 4 {
            [client[0] & mask4(prefix) as u64, 0]
        } else {
            [client[0] & mask_half(prefix), client[1] & mask_half(prefix.saturating_sub(64))]
        };
        Self { client, group, family: family as u32 }
    }
}

/// Value of a persistence entry. One word, read and written whole.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C, align(8))]
pub struct PersistEntry {
    /// Backend slot.
    pub slot: u16,
    /// Backend's generation when the entry was made; another one makes the entry void.
    pub generation: u16,
    /// Tick of the last new flow that used it.
    pub last_seen: u32,
}

/// Seconds that an entry of `PERSIST_NEW` counts.
pub const NEW_SECS: u32 = 10;

/// Asks for the slot that a server, known by its slot in one service, has in another.
#[derive(
    Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, FromBytes, Immutable, IntoBytes, KnownLayout,
)]
#[repr(C)]
pub struct TwinKey {
    /// Slot, as a persistence entry names it.
    pub slot: u16,
    /// The other service's id.
    pub service: u16,
}

/// Mask that keeps the first `prefix` bits of an IPv4 address in wire bytes.
#[inline(always)]
#[must_use]
pub const fn mask4(prefix: u8) -> u32 {
    if prefix == 0 {
        0
    } else if prefix >= 32 {
        u32::MAX
    } else {
        (u32::MAX << (32 - prefix as u32)).to_be()
    }
}

/// Mask of one 64-bit half of an IPv6 address in wire bytes, keeping its first `bits` bits.
#[inline(always)]
#[must_use]
pub const fn mask_half(bits: u8) -> u64 {
    if bits == 0 {
        0
    } else if bits >= 64 {
        u64::MAX
    } else {
        (u64::MAX << (64 - bits as u64)).to_be()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_keep_leading_bits_of_the_wire_form() {
        assert_eq!(mask4(24).to_ne_bytes(), [255, 255, 255, 0]);
        assert_eq!(mask4(20).to_ne_bytes(), [255, 255, 240, 0]);
        assert_eq!((mask4(0), mask4(32)), (0, u32::MAX));
        assert_eq!(mask_half(48).to_ne_bytes(), [255, 255, 255, 255, 255, 255, 0, 0]);
        assert_eq!((mask_half(0), mask_half(64)), (0, u64::MAX));
    }
}
