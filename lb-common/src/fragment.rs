//! Fragments: what was decided for a datagram's first one, so that the others follow.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What the fragments of a datagram have in common (RFC 791, 3.2; RFC 8200, 4.5).
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct FragmentKey {
    /// Source address as in [`crate::flow::Ends`].
    pub src: [u64; 2],
    /// Destination address, likewise.
    pub dst: [u64; 2],
    /// Identification, wire bytes; IPv4's 16 bits in the low half.
    pub id: u32,
    /// Protocol of what was cut.
    pub proto: u8,
    /// 4 or 6.
    pub family: u8,
    /// Zero.
    pub pad: [u8; 2],
}

/// What was decided for them.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct FragmentEntry {
    /// [`crate::flow::Decision`].
    pub decision: u64,
    /// New source address; zero under direct routing, like all that follows.
    pub src: [u64; 2],
    /// New destination address.
    pub dst: [u64; 2],
    /// [`crate::flow::Hop::words`].
    pub hop: [u64; 2],
    /// Tick of the first fragment.
    pub seen: u32,
    /// [`crate::flow::Rewrite::ip_delta`].
    pub ip_delta: u16,
    /// Zero.
    pub pad: u16,
}

/// Seconds that an entry counts: as long as Linux waits for the rest of a datagram (net.ipv4.ipfrag_time).
pub const FRAGMENT_SECS: u32 = 30;
