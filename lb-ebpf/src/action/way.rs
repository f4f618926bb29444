//! The way out of a frame: MACs and VLAN tags. All of direct routing, and the last part of NAT and SNAT.

use lb_common::{
    backend::{Backend, LinkRecord},
    counter::Reason,
    net::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_VLAN},
};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U32, U64},
    network_endian::U16,
};

use crate::{
    env::Env,
    packet::Packet,
    parse::Link,
    wire::eth::{ETHERNET_LEN, Ethernet, TAG_LEN, Tag, VID_MASK},
};

/// Where a frame goes next.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// Destination and source MAC as they stand at the front of a frame: its first eight bytes and the next four.
    pub front: (u64, u32),
    /// Interface.
    pub ifindex: u32,
    /// VLAN tags that it must carry: 0, 1 or 2.
    pub vlan_depth: u8,
    /// VLAN identifiers, outer first.
    pub vlan: [u16; 2],
    /// Tag protocol of the outer tag when there are two.
    pub outer_tpid: u16,
}

impl Way {
    /// To a server.
    #[inline(always)]
    #[must_use]
    pub fn to(backend: &Backend) -> Self {
        Self {
            front: backend.front(),
            ifindex: backend.ifindex,
            vlan_depth: backend.vlan_depth,
            vlan: backend.vlan,
            outer_tpid: backend.outer_tpid,
        }
    }

    /// Back to where a client's packets came from ([`lb_common::flow::Hop::words`]), by the interface with this record.
    #[inline(always)]
    #[must_use]
    pub const fn back([hop, tags]: [u64; 2], link: LinkRecord) -> Self {
        let src = link.word();
        Self {
            front: (hop & MAC | src << 48, (src >> 16) as u32),
            ifindex: (hop >> 48) as u32,
            vlan_depth: (tags >> 48) as u8,
            vlan: [tags as u16, (tags >> 16) as u16],
            outer_tpid: (tags >> 32) as u16,
        }
    }
}

impl Front {
    #[inline(always)]
    const fn of(way: &Way) -> Self {
        Self { first: U64::new(way.front.0), rest: U32::new(way.front.1) }
    }
}

/// The bits of a MAC in a word.
const MAC: u64 = 0xffff_ffff_ffff;

/// The MACs of a frame, as words.
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct Front {
    first: U64,
    rest: U32,
}

/// Rewrites the frame's Ethernet header and tags.
#[inline(always)]
pub fn take<E: Env>(env: &E, mut packet: Packet<'_>, link: Link, way: &Way) -> Result<(), Reason> {
    if link.depth != way.vlan_depth {
        return if retag(env, link, way) { Ok(()) } else { Err(Reason::VlanRewrite) };
    }
    *packet.get_mut::<Front>(0).ok_or(Reason::Malformed)? = Front::of(way);
    if link.depth == 0 {
        return Ok(());
    }
    // The way out may want other tag protocols than the way in had.
    let eth = packet.get_mut::<Ethernet>(0).ok_or(Reason::Malformed)?;
    eth.ethertype = U16::new(if link.depth == 2 { way.outer_tpid } else { ETHERTYPE_VLAN });
    let tag = packet.get_mut::<Tag>(ETHERNET_LEN).ok_or(Reason::Malformed)?;
    tag.tci = with_vid(tag.tci, way.vlan[0]);
    if link.depth == 2 {
        tag.ethertype = U16::new(ETHERTYPE_VLAN);
        let tag = packet.get_mut::<Tag>(ETHERNET_LEN + TAG_LEN).ok_or(Reason::Malformed)?;
        tag.tci = with_vid(tag.tci, way.vlan[1]);
    }
    Ok(())
}

/// The way that a frame came, for its answers: [`lb_common::flow::Hop::words`].
#[inline(always)]
#[must_use]
pub fn came_by<E: Env>(env: &E, packet: &Packet<'_>, link: Link) -> Option<[u64; 2]> {
    let eth = packet.get::<Ethernet>(0)?;
    let &Front { first, rest } = packet.get::<Front>(0)?;
    let mac = first.get() >> 48 | u64::from(rest.get()) << 16;
    let hop = mac | u64::from(env.ingress()) << 48;
    if link.depth == 0 {
        return Some([hop, 0]);
    }
    let vid = |tag: &Tag| u64::from(tag.tci.get() & VID_MASK);
    let mut tags = vid(packet.get::<Tag>(ETHERNET_LEN)?) | u64::from(link.depth) << 48;
    if link.depth == 2 {
        let inner = vid(packet.get::<Tag>(ETHERNET_LEN + TAG_LEN)?);
        tags |= inner << 16 | u64::from(eth.ethertype.get()) << 32;
    }
    Some([hop, tags])
}

/// The same priority, another VLAN.
#[inline(always)]
const fn with_vid(tci: U16, vid: u16) -> U16 {
    U16::new(tci.get() & !VID_MASK | vid)
}

/// Adds or removes tags: moves the front of the frame and writes the whole link header anew. A tag that comes
/// in gives its priority to those that go out. False when it cannot be done; the frame is then good for nothing.
///
/// Not inlined: it is rare, and needs stack that the packets of one VLAN should not pay for.
#[inline(never)]
fn retag<E: Env>(env: &E, link: Link, way: &Way) -> bool {
    try_retag(env, link, way).is_some()
}

#[inline(always)]
fn try_retag<E: Env>(env: &E, link: Link, way: &Way) -> Option<()> {
    let priority = if link.depth == 0 { U16::new(0) } else { env.packet().get::<Tag>(ETHERNET_LEN)?.tci };
    let delta = (i32::from(link.depth) - i32::from(way.vlan_depth)) * TAG_LEN as i32;
    let mut packet = env.resize(delta)?;
    // The type is one of two, or the packet would not have come this far.
    let inner = if link.ethertype == ETHERTYPE_IPV4 { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
    let types = match way.vlan_depth {
        0 => [inner, 0, 0],
        1 => [ETHERTYPE_VLAN, inner, 0],
        _ => [way.outer_tpid, ETHERTYPE_VLAN, inner],
    };
    *packet.get_mut::<Front>(0)? = Front::of(way);
    packet.get_mut::<Ethernet>(0)?.ethertype = U16::new(types[0]);
    if way.vlan_depth == 0 {
        return Some(());
    }
    let tag = packet.get_mut::<Tag>(ETHERNET_LEN)?;
    *tag = Tag { tci: with_vid(priority, way.vlan[0]), ethertype: U16::new(types[1]) };
    if way.vlan_depth == 2 {
        let tag = packet.get_mut::<Tag>(ETHERNET_LEN + TAG_LEN)?;
        *tag = Tag { tci: with_vid(priority, way.vlan[1]), ethertype: U16::new(types[2]) };
    }
    Some(())
}
