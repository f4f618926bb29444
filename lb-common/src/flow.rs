//! The layout of the flow tables. How entries are claimed, read and retired is the business of one file in
//! `lb-ebpf` (`flow_table/mod.rs`); the controller reads and retires through the same functions.
//!
//! A table is a BPF array of buckets, mapped by the controller. A bucket has [`WAYS`] entries of whole 64-byte
//! cache lines: one for an IPv4 flow, two for an IPv6 flow. An entry is nothing but 64-bit words:
//!
//! ```text
//! IPv4   0 control   1 client addr | vip addr   2 ports, protocol   3 decision   4-7 zero (rewrites to come)
//! IPv6   0 control   1-2 client addr   3-4 vip addr   5 ports, protocol   6 decision   7-15 zero
//! ```
//!
//! The control word is the only one that changes while an entry is published. A direct-routing hit reads one
//! cache line in either family.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Entries per bucket.
pub const WAYS: usize = 4;
/// Words of an IPv4 entry.
pub const WORDS_V4: usize = 8;
/// Words of an IPv6 entry.
pub const WORDS_V6: usize = 16;

/// Key words of an IPv4 entry.
pub const KEY_V4: usize = 2;
/// Key words of an IPv6 entry.
pub const KEY_V6: usize = 5;

/// One bucket of IPv4 flows: four cache lines.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C, align(64))]
pub struct Bucket4(pub [[u64; WORDS_V4]; WAYS]);

/// One bucket of IPv6 flows: eight cache lines.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C, align(64))]
pub struct Bucket6(pub [[u64; WORDS_V6]; WAYS]);

/// Life of an entry, in the control word.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum State {
    /// Nobody's.
    Free = 0,
    /// Claimed by a writer that has not published yet; readers pass over it.
    Busy = 1,
    /// First packet seen: a SYN, a UDP datagram, or a TCP segment of an unknown connection.
    New = 2,
    /// TCP: the client answered the server.
    Established = 3,
    /// TCP: the client sent FIN.
    Closing = 4,
    /// UDP: more than one datagram.
    Datagrams = 5,
}

impl State {
    /// The state with this number; `None` for a number that no build writes.
    #[inline(always)]
    #[must_use]
    pub const fn from_u8(value: u8) -> Option<Self> {
        match value {
            0 => Some(Self::Free),
            1 => Some(Self::Busy),
            2 => Some(Self::New),
            3 => Some(Self::Established),
            4 => Some(Self::Closing),
            5 => Some(Self::Datagrams),
            _ => None,
        }
    }

    /// One word for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Busy => "busy",
            Self::New => "new",
            Self::Established => "established",
            Self::Closing => "closing",
            Self::Datagrams => "datagrams",
        }
    }
}

/// The control word: `seq:16 | tag:8 | state:8 | last_seen:32`.
///
/// `seq` rises each time the entry is claimed, so a reader that sees the same `seq` before and after it copied
/// the other words has copied one flow and not halves of two. `tag` is eight bits of the flow's hash: a claimer
/// recognises another that is about to publish the same flow. `last_seen` is in ticks ([`crate::settings`]).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(transparent)]
pub struct Control(pub u64);

impl Control {
    /// Packs the parts.
    #[inline(always)]
    #[must_use]
    pub const fn new(seq: u16, tag: u8, state: State, last_seen: u32) -> Self {
        Self((seq as u64) << 48 | (tag as u64) << 40 | (state as u64) << 32 | last_seen as u64)
    }

    /// Claim counter.
    #[inline(always)]
    #[must_use]
    pub const fn seq(self) -> u16 {
        (self.0 >> 48) as u16
    }

    /// Eight bits of the flow's hash.
    #[inline(always)]
    #[must_use]
    pub const fn tag(self) -> u8 {
        (self.0 >> 40) as u8
    }

    /// State's number; see [`State::from_u8`].
    #[inline(always)]
    #[must_use]
    pub const fn state(self) -> u8 {
        (self.0 >> 32) as u8
    }

    /// Tick of the last packet (to within a second).
    #[inline(always)]
    #[must_use]
    pub const fn last_seen(self) -> u32 {
        self.0 as u32
    }

    /// True when the entry holds a flow that may be read.
    #[inline(always)]
    #[must_use]
    pub const fn is_live(self) -> bool {
        self.state() >= State::New as u8
    }

    /// The same claim with another state and time.
    #[inline(always)]
    #[must_use]
    pub const fn with(self, state: State, last_seen: u32) -> Self {
        Self(self.0 & 0xffff_ff00_0000_0000 | (state as u64) << 32 | last_seen as u64)
    }
}

/// What was decided for a flow: `kind:8 | 0:8 | service:16 | slot:16 | generation:16`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(transparent)]
pub struct Decision(pub u64);

impl Decision {
    /// Packs the parts; `kind` is one of [`crate::service::mode`].
    #[inline(always)]
    #[must_use]
    pub const fn new(kind: u8, service: u16, slot: u16, generation: u16) -> Self {
        Self((kind as u64) << 56 | (service as u64) << 32 | (slot as u64) << 16 | generation as u64)
    }

    /// Which rewrite: [`crate::service::mode`].
    #[inline(always)]
    #[must_use]
    pub const fn kind(self) -> u8 {
        (self.0 >> 56) as u8
    }

    /// Service id.
    #[inline(always)]
    #[must_use]
    pub const fn service(self) -> u16 {
        (self.0 >> 32) as u16
    }

    /// Backend slot.
    #[inline(always)]
    #[must_use]
    pub const fn slot(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// Backend's generation when the decision was made.
    #[inline(always)]
    #[must_use]
    pub const fn generation(self) -> u16 {
        self.0 as u16
    }
}

/// Ports and protocol as one key word; ports in wire bytes.
#[inline(always)]
#[must_use]
pub const fn ports_word(client_port: u16, vip_port: u16, proto: u8) -> u64 {
    client_port as u64 | (vip_port as u64) << 16 | (proto as u64) << 32
}

/// Client port, VIP port (both in wire bytes) and protocol of a key word.
#[must_use]
pub const fn ports_of(word: u64) -> (u16, u16, u8) {
    (word as u16, (word >> 16) as u16, (word >> 32) as u8)
}

/// Both IPv4 addresses (wire bytes) as one key word.
#[inline(always)]
#[must_use]
pub const fn addrs_word4(client: u32, vip: u32) -> u64 {
    client as u64 | (vip as u64) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_word_keeps_its_parts_apart() {
        let c = Control::new(0xabcd, 0xef, State::Closing, 0x1234_5678);
        assert_eq!((c.seq(), c.tag(), c.state(), c.last_seen()), (0xabcd, 0xef, 4, 0x1234_5678));
        let d = c.with(State::Free, 7);
        assert_eq!((d.seq(), d.tag(), d.state(), d.last_seen()), (0xabcd, 0xef, 0, 7));
        assert!(c.is_live() && !d.is_live() && !c.with(State::Busy, 0).is_live());
    }

    #[test]
    fn every_state_has_a_number_and_a_way_back() {
        for n in 0..=5 {
            assert_eq!(State::from_u8(n).unwrap() as u8, n);
        }
        assert_eq!(State::from_u8(6), None);
    }

    #[test]
    fn decision_keeps_its_parts_apart() {
        let d = Decision::new(1, 2047, 16383, 0xffff);
        assert_eq!((d.kind(), d.service(), d.slot(), d.generation()), (1, 2047, 16383, 0xffff));
    }
}
