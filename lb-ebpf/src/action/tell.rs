//! ICMP errors of our own: NAT and SNAT route, and a router says when a packet's time to live ends with it or when it is
//! too long for its way out (RFC 1812, 4.3.3; RFC 4443, 3.2 and 3.3).

use lb_common::{checksum, counter::Reason};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, network_endian::U32};

use super::reset::TTL;
use crate::{
    env::Env,
    path::Verdict,
    scratch::{Scratch, Seen, piece},
    steps::Next,
    wire::{
        eth::{ETHERNET_LEN, Ethernet, TAG_LEN},
        icmp::{ICMP_LEN, Icmp, PROTO_ICMP, PROTO_ICMPV6},
        ipv4::{IPV4_LEN, Ipv4},
        ipv6::{IPV6_LEN, Ipv6},
    },
};

/// Bytes of the transport header that are quoted.
const QUOTED: usize = 8;
/// What stands before the quoted packet.
const BEFORE_V4: usize = IPV4_LEN + ICMP_LEN;
/// The same for IPv6.
const BEFORE_V6: usize = IPV6_LEN + ICMP_LEN;

/// An error, whole: one comparison with the frame's end is all that the verifier needs to see.
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct ToldV4 {
    ip: Ipv4,
    icmp: Icmp,
    quote: [u8; IPV4_LEN + QUOTED],
}

/// The same for IPv6.
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct ToldV6 {
    ip: Ipv6,
    icmp: Icmp,
    quote: [u8; IPV6_LEN + QUOTED],
}

/// What the sender is told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum What {
    /// The time to live ended here.
    Expired,
    /// The way out takes no packet that long.
    TooBig,
}

/// Turns the packet in the scratch memory into the error about it.
#[inline(always)]
pub fn answer<E: Env>(env: &E, what: What) -> Result<Verdict, Next> {
    let Some(Scratch { seen, piece: is, mtu, now, .. }) = env.scratch() else { return Err(Next::Drop) };
    if *is == piece::LATER || !may_be_told(env, seen, what) || !env.may_tell(*now) {
        return Err(Next::because(env, Reason::Untold));
    }
    let told =
        if seen.ends.family == 4 { tell_v4(env, seen, what, *mtu) } else { tell_v6(env, seen, what, *mtu) };
    if told.is_none() {
        return Err(Next::because(env, Reason::Untold));
    }
    env.count(match what {
        What::Expired => Reason::TtlExpired,
        What::TooBig => Reason::TooBig,
    });
    Ok(Verdict::Answer)
}

/// False for a packet that is to be fragmented rather than complained of, and for one whose header has options: the
/// quote would not be where its length says.
#[inline(always)]
fn may_be_told<E: Env>(env: &E, seen: &Seen, what: What) -> bool {
    if seen.ends.family != 4 {
        return seen.l4 as usize == seen.link.l3() + IPV6_LEN;
    }
    let packet = env.packet();
    let df = packet.get::<Ipv4>(seen.link.l3()).is_some_and(Ipv4::is_df);
    seen.l4 as usize == seen.link.l3() + IPV4_LEN && (df || what == What::Expired)
}

/// Moves the frame's front by `bytes`, and the Ethernet header and tags with it, turned round.
#[inline(always)]
fn make_room<E: Env>(env: &E, depth: u8, bytes: usize) -> Option<()> {
    let (mut outer, mut inner) = (U32::ZERO, U32::ZERO);
    let packet = env.packet();
    let &Ethernet { dst, src, ethertype } = packet.get::<Ethernet>(0)?;
    if depth > 0 {
        outer = *packet.get::<U32>(ETHERNET_LEN)?;
    }
    if depth > 1 {
        inner = *packet.get::<U32>(ETHERNET_LEN + TAG_LEN)?;
    }
    let mut packet = env.resize(-(bytes as i32))?;
    let ethernet = packet.get_mut::<Ethernet>(0)?;
    ethernet.dst = src;
    ethernet.src = dst;
    ethernet.ethertype = ethertype;
    if depth > 0 {
        *packet.get_mut::<U32>(ETHERNET_LEN)? = outer;
    }
    if depth > 1 {
        *packet.get_mut::<U32>(ETHERNET_LEN + TAG_LEN)? = inner;
    }
    Some(())
}

#[inline(always)]
fn tell_v4<E: Env>(env: &E, seen: &Seen, what: What, mtu: u32) -> Option<()> {
    let l3 = seen.link.l3();
    let len = BEFORE_V4 + IPV4_LEN + QUOTED;
    make_room(env, seen.link.depth, BEFORE_V4)?;
    let mut packet = env.trim((l3 + len) as u32)?;
    let (kind, code, rest) = match what {
        What::Expired => (11, 0, 0),
        What::TooBig => (3, 4, mtu & 0xffff),
    };
    let told = packet.get_mut::<ToldV4>(l3)?;
    told.icmp.write(kind, code, rest);
    let sum = checksum::sum(told.icmp.as_bytes()) + checksum::sum(&told.quote);
    told.icmp.checksum = (!checksum::fold(sum)).to_ne_bytes();
    told.ip.write(len as u16, TTL, PROTO_ICMP, seen.ends.dst[0] | seen.ends.src[0] << 32);
    Some(())
}

#[inline(always)]
fn tell_v6<E: Env>(env: &E, seen: &Seen, what: What, mtu: u32) -> Option<()> {
    let l3 = seen.link.l3();
    let len = ICMP_LEN + IPV6_LEN + QUOTED;
    make_room(env, seen.link.depth, BEFORE_V6)?;
    let mut packet = env.trim((l3 + IPV6_LEN + len) as u32)?;
    let (kind, rest) = match what {
        What::Expired => (3, 0),
        What::TooBig => (2, mtu),
    };
    let told = packet.get_mut::<ToldV6>(l3)?;
    told.icmp.write(kind, 0, rest);
    let (src, dst) = (seen.ends.dst, seen.ends.src);
    let sum = checksum::sum(told.icmp.as_bytes())
        + checksum::sum(&told.quote)
        + checksum::pseudo(src, dst, PROTO_ICMPV6, len as u16);
    told.icmp.checksum = (!checksum::fold(sum)).to_ne_bytes();
    told.ip.write(len as u16, PROTO_ICMPV6, TTL, src, dst);
    Some(())
}
