//! Direct routing: the frame gets the server's MAC and, where the server is on another VLAN, its tags. The IP
//! packet is not touched (R01).

use lb_common::{
    backend::Backend,
    counter::Reason,
    net::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_VLAN},
};
use zerocopy::network_endian::U16;

use crate::{
    env::Env,
    packet::Packet,
    parse::Link,
    wire::eth::{ETHERNET_LEN, Ethernet, TAG_LEN, Tag, VID_MASK},
};

/// Rewrites the frame for its backend.
#[inline(always)]
pub fn rewrite<E: Env>(env: &E, mut packet: Packet<'_>, link: Link, backend: &Backend) -> Result<(), Reason> {
    if link.depth != backend.vlan_depth {
        return if retag(env, link, backend) { Ok(()) } else { Err(Reason::VlanRewrite) };
    }
    *packet.get_mut::<[u8; 12]>(0).ok_or(Reason::Malformed)? = backend.macs();
    if link.depth == 0 {
        return Ok(());
    }
    // The way out may want other tag protocols than the way in had.
    let eth = packet.get_mut::<Ethernet>(0).ok_or(Reason::Malformed)?;
    eth.ethertype = U16::new(if link.depth == 2 { backend.outer_tpid } else { ETHERTYPE_VLAN });
    let tag = packet.get_mut::<Tag>(ETHERNET_LEN).ok_or(Reason::Malformed)?;
    tag.tci = with_vid(tag.tci, backend.vlan[0]);
    if link.depth == 2 {
        tag.ethertype = U16::new(ETHERTYPE_VLAN);
        let tag = packet.get_mut::<Tag>(ETHERNET_LEN + TAG_LEN).ok_or(Reason::Malformed)?;
        tag.tci = with_vid(tag.tci, backend.vlan[1]);
    }
    Ok(())
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
fn retag<E: Env>(env: &E, link: Link, backend: &Backend) -> bool {
    try_retag(env, link, backend).is_some()
}

#[inline(always)]
fn try_retag<E: Env>(env: &E, link: Link, backend: &Backend) -> Option<()> {
    let priority = if link.depth == 0 { U16::new(0) } else { env.packet().get::<Tag>(ETHERNET_LEN)?.tci };
    let delta = (i32::from(link.depth) - i32::from(backend.vlan_depth)) * TAG_LEN as i32;
    let mut packet = env.resize(delta)?;
    // The type is one of two, or the packet would not have come this far.
    let inner = if link.ethertype == ETHERTYPE_IPV4 { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
    let types = match backend.vlan_depth {
        0 => [inner, 0, 0],
        1 => [ETHERTYPE_VLAN, inner, 0],
        _ => [backend.outer_tpid, ETHERTYPE_VLAN, inner],
    };
    let eth = packet.get_mut::<Ethernet>(0)?;
    *eth = Ethernet { dst: backend.dst_mac, src: backend.src_mac, ethertype: U16::new(types[0]) };
    if backend.vlan_depth == 0 {
        return Some(());
    }
    let tag = packet.get_mut::<Tag>(ETHERNET_LEN)?;
    *tag = Tag { tci: with_vid(priority, backend.vlan[0]), ethertype: U16::new(types[1]) };
    if backend.vlan_depth == 2 {
        let tag = packet.get_mut::<Tag>(ETHERNET_LEN + TAG_LEN)?;
        *tag = Tag { tci: with_vid(priority, backend.vlan[1]), ethertype: U16::new(types[2]) };
    }
    Some(())
}
