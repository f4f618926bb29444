//! The layout of the flow tables. How entries are claimed, read and retired is the business of one file in
//! `lb-ebpf` (`flow_table/mod.rs`); the controller reads and retires through the same functions.
//!
//! A table is a BPF array of buckets, mapped by the controller. A bucket has [`WAYS`] entries of whole 64-byte
//! cache lines: one for an IPv4 flow, two for an IPv6 flow. An entry is nothing but 64-bit words:
//!
//! ```text
//! IPv4   0 control   1 addresses   2 ports, protocol   3 decision   4 new addresses   5 new ports, deltas   6-7 hop
//! IPv6   0 control   1-4 addresses   5 ports, protocol   6 decision   7 new ports, deltas   8-11 new addresses
//!        12-13 hop   14-15 zero
//! ```
//!
//! Words 1 and on are what the packet shows; those after the decision are the finished rewrite of NAT and SNAT
//! ([`Rewrite`]), and mean nothing under direct routing, which does not write them. A direct-routing hit reads one cache line in either family, an IPv4
//! rewrite too.
//!
//! **Pairs.** NAT and SNAT keep two entries for a flow, one for each direction: the client's packets (kind
//! [`kind::NAT`] or [`kind::SNAT`]) and the server's ([`kind::REPLY`]). The key of one is the rewritten packet of the
//! other with its ends exchanged ([`Rewrite::sibling`]), so each leads to the other. The entry of the server's
//! packets is also the claim on a source port.
//!
//! While an entry is published only its control word changes, and, under a control word that says
//! [`State::Moving`], its hop, or the generation of its decision, which becomes [`VOID_GENERATION`].

use core::net::SocketAddr;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{
    checksum,
    net::{self, Mac},
};

/// Entries per bucket.
pub const WAYS: usize = 4;
/// Words of an IPv4 entry.
pub const WORDS_V4: usize = 8;
/// Words of an IPv6 entry.
pub const WORDS_V6: usize = 16;

/// Generation that no backend ever has. A flow whose decision has it was ended by an operator: who still sends into it
/// gets a RST (TCP), and the sweep removes it.
pub const VOID_GENERATION: u16 = u16::MAX;

/// Key words of an IPv4 entry.
pub const KEY_V4: usize = 2;
/// Key words of an IPv6 entry.
pub const KEY_V6: usize = 5;

/// Words of an IPv4 entry that hold its rewrite; they follow the decision.
pub const REWRITE_V4: usize = 4;
/// Words of an IPv6 entry that hold its rewrite; they follow the decision.
pub const REWRITE_V6: usize = 7;

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
    /// TCP: this side sent FIN; under direct routing that is the client.
    Closing = 4,
    /// UDP: more than one datagram.
    Datagrams = 5,
    /// TCP with both directions in sight: only the other side sent FIN.
    PeerClosing = 6,
    /// TCP with both directions in sight: both sides sent FIN.
    Closed = 7,
    /// Live, and its hop is being written: nobody but the writer may change or retire it.
    Moving = 8,
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
            6 => Some(Self::PeerClosing),
            7 => Some(Self::Closed),
            8 => Some(Self::Moving),
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
            Self::PeerClosing => "peer-closing",
            Self::Closed => "closed",
            Self::Moving => "moving",
        }
    }
}

/// The control word: `seq:16 | tag:8 | state:8 | last_seen:32`.
///
/// `seq` rises each time the entry is claimed, so a reader that sees the same `seq` before and after it copied
/// the other words has copied one flow and not halves of two. `tag` is eight bits of the flow's hash: a claimer
/// recognises another that is about to publish the same flow. `last_seen` is in ticks ([`crate::settings`]).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
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
    /// Packs the parts.
    #[inline(always)]
    #[must_use]
    pub const fn new(kind: u8, service: u16, slot: u16, generation: u16) -> Self {
        Self((kind as u64) << 56 | (service as u64) << 32 | (slot as u64) << 16 | generation as u64)
    }

    /// Which rewrite: [`kind`].
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

/// Values of [`Decision::kind`]; the first three are those of [`crate::service::mode`].
pub mod kind {
    /// Direct routing: MACs and VLAN tags, nothing else.
    pub const DR: u8 = 1;
    /// Client's packet: destination rewritten.
    pub const NAT: u8 = 2;
    /// Client's packet: source and destination rewritten.
    pub const SNAT: u8 = 3;
    /// Server's packet of a NAT or SNAT flow: rewritten back, and sent the way the client's packets came.
    pub const REPLY: u8 = 4;
}

/// Where replies go: the way that the client's packets came. Stands in both entries of a pair: in the server's to
/// be used, in the client's to notice that packets come another way.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Hop {
    /// MAC of the router or client.
    pub mac: Mac,
    /// Interface, the physical one.
    pub ifindex: u16,
    /// VLAN identifiers, outer first, host order; unused ones 0.
    pub vlan: [u16; 2],
    /// Tag protocol identifier of the outer tag when there are two, host order, else 0.
    pub outer_tpid: u16,
    /// Number of VLAN tags: 0, 1 or 2.
    pub vlan_depth: u8,
}

impl Hop {
    /// As words of an entry: `mac:48 | ifindex:16` (MAC in wire bytes, lowest first) and
    /// `vlan:16 | vlan:16 | tpid:16 | depth:8 | 0:8`, lowest first.
    #[inline(always)]
    #[must_use]
    pub const fn words(&self) -> [u64; 2] {
        let [a, b, c, d, e, f] = self.mac.0;
        let mac = u64::from_le_bytes([a, b, c, d, e, f, 0, 0]);
        let [outer, inner] = self.vlan;
        [
            mac | (self.ifindex as u64) << 48,
            outer as u64
                | (inner as u64) << 16
                | (self.outer_tpid as u64) << 32
                | (self.vlan_depth as u64) << 48,
        ]
    }

    /// The reverse of [`words`](Self::words).
    #[inline(always)]
    #[must_use]
    pub const fn of(words: [u64; 2]) -> Self {
        let [a, b, c, d, e, f, ..] = words[0].to_le_bytes();
        Self {
            mac: Mac([a, b, c, d, e, f]),
            ifindex: (words[0] >> 48) as u16,
            vlan: [words[1] as u16, (words[1] >> 16) as u16],
            outer_tpid: (words[1] >> 32) as u16,
            vlan_depth: (words[1] >> 48) as u8,
        }
    }
}

/// Both ends of a flow as a packet shows them, in the form that hashes want. Everything in wire bytes.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Ends {
    /// Source address; IPv4 in the low half of the first word.
    pub src: [u64; 2],
    /// Destination address, likewise.
    pub dst: [u64; 2],
    /// Source port in the low half, destination port in the high half.
    pub ports: u32,
    /// IP protocol.
    pub proto: u8,
    /// 4 or 6.
    pub family: u8,
}

impl Ends {
    /// Key words of an IPv4 flow.
    #[inline(always)]
    #[must_use]
    pub const fn key_v4(&self) -> [u64; KEY_V4] {
        [self.src[0] | self.dst[0] << 32, self.ports_word()]
    }

    /// Key words of an IPv6 flow.
    #[inline(always)]
    #[must_use]
    pub const fn key_v6(&self) -> [u64; KEY_V6] {
        [self.src[0], self.src[1], self.dst[0], self.dst[1], self.ports_word()]
    }

    /// The ends of an IPv4 flow with this key.
    #[inline(always)]
    #[must_use]
    pub const fn of_v4(key: &[u64; KEY_V4]) -> Self {
        let [addrs, ports] = *key;
        Self {
            src: [addrs & 0xffff_ffff, 0],
            dst: [addrs >> 32, 0],
            ports: ports as u32,
            proto: (ports >> 32) as u8,
            family: 4,
        }
    }

    /// The ends of an IPv6 flow with this key.
    #[inline(always)]
    #[must_use]
    pub const fn of_v6(key: &[u64; KEY_V6]) -> Self {
        let [src_hi, src_lo, dst_hi, dst_lo, ports] = *key;
        Self {
            src: [src_hi, src_lo],
            dst: [dst_hi, dst_lo],
            ports: ports as u32,
            proto: (ports >> 32) as u8,
            family: 6,
        }
    }

    /// Ports and protocol as one key word.
    #[inline(always)]
    #[must_use]
    pub const fn ports_word(&self) -> u64 {
        self.ports as u64 | (self.proto as u64) << 32
    }

    /// The ends of a packet from `src` to `dst`, both of one family (that of `src` counts).
    #[must_use]
    pub const fn between(src: SocketAddr, dst: SocketAddr, proto: u8) -> Self {
        Self {
            src: net::words(src.ip()),
            dst: net::words(dst.ip()),
            ports: net::wire_port(src.port()) as u32 | (net::wire_port(dst.port()) as u32) << 16,
            proto,
            family: if src.is_ipv4() { 4 } else { 6 },
        }
    }

    /// Source port, wire bytes.
    #[inline(always)]
    #[must_use]
    pub const fn src_port(&self) -> u16 {
        self.ports as u16
    }

    /// Destination port, wire bytes.
    #[inline(always)]
    #[must_use]
    pub const fn dst_port(&self) -> u16 {
        (self.ports >> 16) as u16
    }

    /// The same flow seen from the other end.
    #[inline(always)]
    #[must_use]
    pub const fn reversed(&self) -> Self {
        Self { src: self.dst, dst: self.src, ports: self.ports.rotate_left(16), ..*self }
    }
}

/// The finished rewrite of a NAT or SNAT entry.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Rewrite {
    /// New source address, as in [`Ends`].
    pub src: [u64; 2],
    /// New destination address, as in [`Ends`].
    pub dst: [u64; 2],
    /// New ports, as in [`Ends`].
    pub ports: u32,
    /// What the change adds to the IPv4 header checksum, one hop of TTL included; 0 for IPv6.
    pub ip_delta: u16,
    /// What the change adds to the transport checksum.
    pub l4_delta: u16,
    /// [`Hop::words`]. Kept as words: the packet path compares and copies them, and never looks inside.
    pub hop_words: [u64; 2],
}

impl Rewrite {
    /// The rewrite that turns `old` into `new`.
    #[must_use]
    pub const fn new(old: &Ends, new: &Ends, hop: Hop) -> Self {
        Self::by(old, new, hop.words())
    }

    /// [`new`](Self::new) with the hop as words.
    #[inline(always)]
    #[must_use]
    pub const fn by(old: &Ends, new: &Ends, hop_words: [u64; 2]) -> Self {
        let addresses = checksum::delta(old.src, new.src) as u32 + checksum::delta(old.dst, new.dst) as u32;
        let ports = checksum::delta([old.ports as u64, 0], [new.ports as u64, 0]) as u32;
        Self {
            src: new.src,
            dst: new.dst,
            ports: new.ports,
            ip_delta: if old.family == 4 { checksum::fold(addresses + checksum::HOP as u32) } else { 0 },
            l4_delta: checksum::fold(addresses + ports),
            hop_words,
        }
    }

    /// See [`Hop`].
    #[must_use]
    pub const fn hop(&self) -> Hop {
        Hop::of(self.hop_words)
    }

    /// What a packet of the flow with these ends shows after the rewrite.
    #[inline(always)]
    #[must_use]
    pub const fn applied(&self, old: &Ends) -> Ends {
        Ends { src: self.src, dst: self.dst, ports: self.ports, ..*old }
    }

    /// Key of the other entry of the pair; `old` is this one's.
    #[inline(always)]
    #[must_use]
    pub const fn sibling(&self, old: &Ends) -> Ends {
        self.applied(old).reversed()
    }

    /// Words 4 to 7 of an IPv4 entry.
    #[inline(always)]
    #[must_use]
    pub const fn words_v4(&self) -> [u64; REWRITE_V4] {
        let [hop, tags] = self.hop_words;
        [self.src[0] | self.dst[0] << 32, self.ports_word(), hop, tags]
    }

    /// Words 7 to 13 of an IPv6 entry.
    #[inline(always)]
    #[must_use]
    pub const fn words_v6(&self) -> [u64; REWRITE_V6] {
        let [hop, tags] = self.hop_words;
        [self.ports_word(), self.src[0], self.src[1], self.dst[0], self.dst[1], hop, tags]
    }

    /// The reverse of [`words_v4`](Self::words_v4).
    #[inline(always)]
    #[must_use]
    pub const fn of_v4(words: &[u64; REWRITE_V4]) -> Self {
        let [addrs, ports, hop, tags] = *words;
        Self {
            src: [addrs & 0xffff_ffff, 0],
            dst: [addrs >> 32, 0],
            ports: ports as u32,
            ip_delta: (ports >> 32) as u16,
            l4_delta: (ports >> 48) as u16,
            hop_words: [hop, tags],
        }
    }

    /// The reverse of [`words_v6`](Self::words_v6).
    #[inline(always)]
    #[must_use]
    pub const fn of_v6(words: &[u64; REWRITE_V6]) -> Self {
        let [ports, src_hi, src_lo, dst_hi, dst_lo, hop, tags] = *words;
        Self {
            src: [src_hi, src_lo],
            dst: [dst_hi, dst_lo],
            ports: ports as u32,
            ip_delta: (ports >> 32) as u16,
            l4_delta: (ports >> 48) as u16,
            hop_words: [hop, tags],
        }
    }

    /// Ports and deltas as one word of an entry: `ports:32 | ip_delta:16 | l4_delta:16`, lowest first.
    #[inline(always)]
    #[must_use]
    pub const fn ports_word(&self) -> u64 {
        self.ports as u64 | (self.ip_delta as u64) << 32 | (self.l4_delta as u64) << 48
    }
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
        for n in 0..=8 {
            assert_eq!(State::from_u8(n).unwrap() as u8, n);
        }
        assert_eq!(State::from_u8(9), None);
    }

    #[test]
    fn decision_keeps_its_parts_apart() {
        let d = Decision::new(1, 2047, 16383, 0xffff);
        assert_eq!((d.kind(), d.service(), d.slot(), d.generation()), (1, 2047, 16383, 0xffff));
    }

    #[test]
    fn a_hop_survives_its_words() {
        let hop = Hop {
            mac: Mac([2, 0, 0xab, 0, 0, 0xff]),
            ifindex: 4095,
            vlan: [100, 4094],
            outer_tpid: 0x88a8,
            vlan_depth: 2,
        };
        assert_eq!(Hop::of(hop.words()), hop);
    }

    #[test]
    fn a_rewrite_survives_its_words_and_leads_to_its_sibling_and_back() {
        let hop = Hop { mac: Mac([2, 0, 0, 0, 0, 9]), ifindex: 7, ..Hop::default() };
        for family in [4, 6] {
            let second = |n| if family == 6 { n } else { 0 };
            let low = |n: u64| if family == 6 { n | n << 40 } else { n };
            let seen = Ends {
                src: [low(0x0a00_0001), second(1)],
                dst: [low(0x0a00_0064), second(2)],
                ports: 0x0068_c350,
                proto: 6,
                family,
            };
            let there = Ends { src: [low(0x0a01_0005), second(3)], ports: 0x2b67_1234, ..seen };
            let rewrite = Rewrite::new(&seen, &there, hop);
            assert_eq!(Rewrite::of_v6(&rewrite.words_v6()), rewrite);
            if family == 4 {
                assert_eq!(Rewrite::of_v4(&rewrite.words_v4()), rewrite);
            }
            let reply = rewrite.sibling(&seen);
            let back = Rewrite::new(&reply, &seen.reversed(), hop);
            assert_eq!(back.sibling(&reply), seen);
        }
    }
}
