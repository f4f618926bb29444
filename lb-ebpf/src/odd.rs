//! Packets that take more looking: fragments, IPv6 extension headers, ICMP errors.

use lb_common::{
    counter::Reason,
    flow::{Decision, Ends, Rewrite, kind},
    fragment::{FragmentEntry, FragmentKey},
    hash,
    net::{PROTO_TCP, PROTO_UDP},
};

use crate::{
    env::Env,
    life,
    parse::{self, Link},
    path,
    scratch::{Scratch, Seen, piece},
    steer,
    steps::Next,
    wire::{
        icmp::{PROTO_ICMP, PROTO_ICMPV6},
        ipv4::Ipv4,
        ipv6::{
            Extension, FRAGMENT_HEADER, FRAGMENT_LEN, Fragment, IPV6_LEN, Ipv6, is_extension, is_passable,
        },
    },
};

/// Extension headers that are followed. RFC 8200, 4.1 knows six before a transport header.
const MAX_EXTENSIONS: usize = 6;
/// Bytes of IPv6 header and extension headers before a transport header, at most.
const MAX_L4: usize = 1024;

/// Reads an IPv4 fragment into the scratch memory; a later one is decided for by what its first one was.
#[inline(always)]
pub fn read_v4<E: Env>(env: &E) -> Next {
    let link = match parse::link(&env.packet()) {
        Ok(link) => link,
        Err(reason) => return Next::because(env, reason),
    };
    let Some(s) = env.scratch() else { return Next::Drop };
    s.now = env.now();
    match fragment_v4(env, link, s) {
        Ok(next) => next,
        Err(reason) => Next::because(env, reason),
    }
}

/// Reads an IPv6 packet with extension headers, likewise.
#[inline(always)]
pub fn read_v6<E: Env>(env: &E) -> Next {
    let link = match parse::link(&env.packet()) {
        Ok(link) => link,
        Err(reason) => return Next::because(env, reason),
    };
    let Some(s) = env.scratch() else { return Next::Drop };
    s.now = env.now();
    match extended_v6(env, link, s) {
        Ok(next) => next,
        Err(reason) => Next::because(env, reason),
    }
}

#[inline(always)]
fn fragment_v4<E: Env>(env: &E, link: Link, s: &mut Scratch) -> Result<Next, Reason> {
    let packet = env.packet();
    let l3 = packet.skip(link.l3());
    let ip = l3.get::<Ipv4>(0).ok_or(Reason::Malformed)?;
    let (src, dst) = (ip.src(), ip.dst());
    let header = ip.header_len().ok_or(Reason::Malformed);
    if ip.proto == PROTO_ICMP && !ip.is_fragment() {
        return Ok(Next::Icmp);
    }
    if !path::is_ours_v4(env, src, dst) {
        return Err(Reason::NotVip);
    }
    let header = header?;
    if usize::from(ip.total_len.get()) < header {
        return Err(Reason::Malformed);
    }
    if !is_balanced(ip.proto) {
        return Err(Reason::NotTcpUdp);
    }
    s.seen = Seen {
        ends: Ends {
            src: [u64::from(src), 0],
            dst: [u64::from(dst), 0],
            ports: 0,
            proto: ip.proto,
            family: 4,
        },
        hash: 0,
        bytes: link.l3() as u32 + u32::from(ip.total_len.get()),
        l4: 0,
        link,
        flags: 0,
        ttl: ip.ttl,
    };
    s.fragment_id = u32::from(ip.id.to_bytes()[0]) | u32::from(ip.id.to_bytes()[1]) << 8;
    if ip.is_later_fragment() {
        s.piece = piece::LATER;
        return follow(env, s);
    }
    let transport = parse::transport_v4(&l3, ip)?;
    s.piece = piece::FIRST;
    s.seen.ends.ports = transport.ports;
    s.seen.flags = transport.flags;
    s.seen.l4 = (link.l3() + header) as u32;
    let [addrs, ports] = s.seen.ends.key_v4();
    s.seen.hash = hash::flow4(env.flow_seed(), addrs, ports);
    Ok(Next::Go)
}

#[inline(always)]
fn extended_v6<E: Env>(env: &E, link: Link, s: &mut Scratch) -> Result<Next, Reason> {
    let packet = env.packet();
    let l3 = packet.skip(link.l3());
    let ip = l3.get::<Ipv6>(0).ok_or(Reason::Malformed)?;
    if ip.next_header == PROTO_ICMPV6 {
        return Ok(Next::Icmp);
    }
    let (src, dst) = (ip.src(), ip.dst());
    let payload = usize::from(ip.payload_len.get());
    s.seen = Seen {
        ends: Ends { src, dst, ports: 0, proto: 0, family: 6 },
        hash: 0,
        bytes: (link.l3() + IPV6_LEN + payload) as u32,
        l4: 0,
        link,
        flags: 0,
        ttl: ip.hop_limit,
    };
    s.piece = piece::WHOLE;
    let mut proto = ip.next_header;
    let mut at = IPV6_LEN;
    for _ in 0..MAX_EXTENSIONS {
        let rest = l3.skip(at);
        if is_passable(proto) {
            let extension = rest.get::<Extension>(0).ok_or(Reason::Malformed)?;
            proto = extension.next_header;
            at += extension.bytes();
        } else if proto == FRAGMENT_HEADER && s.piece == piece::WHOLE {
            let fragment = rest.get::<Fragment>(0).ok_or(Reason::Malformed)?;
            proto = fragment.next_header;
            at += FRAGMENT_LEN;
            s.fragment_id = u32::from_ne_bytes(fragment.id);
            if fragment.is_later() {
                s.piece = piece::LATER;
                check_length(at, payload)?;
                // What follows may be another extension header, of which only the first fragment shows the end.
                if !is_balanced(proto) && !is_passable(proto) {
                    return Err(Reason::NotTcpUdp);
                }
                return follow(env, s);
            }
            // One that is the only one is no fragment (RFC 6946).
            if fragment.more() {
                s.piece = piece::FIRST;
            }
        } else {
            break;
        }
    }
    if is_extension(proto) {
        return Err(Reason::ExtensionHeader);
    }
    check_length(at, payload)?;
    let len = (payload + IPV6_LEN).checked_sub(at);
    let transport = parse::transport(&l3.skip(at), proto, len)?;
    s.seen.ends.proto = proto;
    s.seen.ends.ports = transport.ports;
    s.seen.flags = transport.flags;
    s.seen.l4 = (link.l3() + at) as u32;
    s.seen.hash = hash::flow6(env.flow_seed(), src, dst, s.seen.ends.ports_word());
    Ok(Next::Go)
}

/// Extension headers reach no further than offsets are kept, which is more than any sender needs, and than the packet.
#[inline(always)]
const fn check_length(at: usize, payload: usize) -> Result<(), Reason> {
    if at > MAX_L4 {
        return Err(Reason::ExtensionHeader);
    }
    if IPV6_LEN + payload < at { Err(Reason::Malformed) } else { Ok(()) }
}

#[inline(always)]
const fn is_balanced(proto: u8) -> bool {
    proto == PROTO_TCP || proto == PROTO_UDP
}

/// IPv6's fragments are known by their identification alone (RFC 8200, 4.5), IPv4's by their protocol, too.
#[inline(always)]
const fn fragment_key(s: &Scratch) -> FragmentKey {
    let Ends { src, dst, proto, family, .. } = s.seen.ends;
    let proto = if family == 4 { proto } else { 0 };
    FragmentKey { src, dst, id: s.fragment_id, proto, family, pad: [0; 2] }
}

/// True for a later fragment, which needs no look at the flow tables.
#[inline(always)]
pub fn is_decided<E: Env>(env: &E) -> bool {
    env.scratch().is_some_and(|s| s.piece == piece::LATER)
}

/// Decides for a later fragment as was decided for the first.
#[inline(always)]
fn follow<E: Env>(env: &E, s: &mut Scratch) -> Result<Next, Reason> {
    let entry = env.fragment(&fragment_key(s)).ok_or(Reason::FragmentUnknown)?;
    let decision = Decision(entry.decision);
    if life::idle(s.now, entry.seen) > env.fragment_ticks() {
        return Err(Reason::FragmentUnknown);
    }
    if decision == PASSED {
        return Err(Reason::NoService);
    }
    if steer::live(env, decision).is_none() {
        return Err(Reason::FragmentUnknown);
    }
    s.decision = entry.decision;
    s.rewrite = Rewrite {
        src: entry.src,
        dst: entry.dst,
        ports: 0,
        ip_delta: entry.ip_delta,
        l4_delta: 0,
        hop_words: entry.hop,
    };
    Ok(Next::Go)
}

/// What stands for a first fragment that was left to the kernel: the others follow it there.
const PASSED: Decision = Decision(0);

/// Remembers what was decided for a first fragment.
#[inline(always)]
pub fn remember<E: Env>(env: &E, decided: Next) {
    let Some(s) = env.scratch() else { return };
    if s.piece != piece::FIRST {
        return;
    }
    let decision = if decided == Next::Go {
        Decision(s.decision)
    } else if decided == Next::Pass {
        PASSED
    } else {
        return;
    };
    let mut entry = FragmentEntry { decision: decision.0, seen: s.now, ..FragmentEntry::default() };
    if decision != PASSED && decision.kind() != kind::DR {
        entry.src = s.rewrite.src;
        entry.dst = s.rewrite.dst;
        entry.hop = s.rewrite.hop_words;
        entry.ip_delta = s.rewrite.ip_delta;
    }
    env.remember_fragment(&fragment_key(s), &entry);
}
