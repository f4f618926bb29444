//! ICMP errors about flows: a router or a host says what became of a packet that it quotes. The error goes to whoever
//! sent that packet, with the quote as that one knows it (RFC 5508, 4; RFC 3022, 4.3).
//!
//! A quoted packet went the other way than the error does. So the flow that the error travels with is the quoted one
//! seen from its other end, and its entry says how a packet of that flow is rewritten: the error's destination is that
//! packet's, and the quote is that packet, rewritten, seen from its other end.

use lb_common::{
    checksum,
    counter::Reason,
    flow::{Decision, Ends, Rewrite, kind},
    net::{PROTO_TCP, PROTO_UDP},
    service::mode,
};

use crate::{
    action::nat::{updated, updated_udp},
    env::{Env, Tables},
    flow_table,
    packet::{Packet, anew},
    pair,
    parse::{self, Link},
    path::{self, Verdict},
    scratch::{Scratch, Seen, piece},
    steer::{self, By},
    steps::Next,
    wire::{
        icmp::{ICMP_LEN, Icmp, QUOTED_LEN, Quoted, is_error_v4, is_error_v6},
        ipv4::{IPV4_LEN, Ipv4},
        ipv6::{IPV6_LEN, Ipv6},
        tcp::Tcp,
    },
};

/// Reads an IPv4 error: the ends that its quote shows from the other side, as the flow in the scratch memory. `l4` is
/// where the error starts.
#[inline(always)]
pub fn read_v4<E: Env>(env: &E) -> Next {
    match see_v4(env) {
        Ok(()) => Next::Go,
        Err(reason) => Next::because(env, reason),
    }
}

/// Reads an IPv6 error, likewise.
#[inline(always)]
pub fn read_v6<E: Env>(env: &E) -> Next {
    match see_v6(env) {
        Ok(()) => Next::Go,
        Err(reason) => Next::because(env, reason),
    }
}

#[inline(always)]
fn see_v4<E: Env>(env: &E) -> Result<(), Reason> {
    let packet = env.packet();
    let link = parse::link(&packet)?;
    let l3 = packet.skip(link.l3());
    let ip = l3.get::<Ipv4>(0).ok_or(Reason::Malformed)?;
    let ours = path::is_ours_v4(env, ip.src(), ip.dst());
    // Of what is not for us nothing is said but that.
    let not_ours = |reason| if ours { reason } else { Reason::NotVip };
    let header = ip.header_len().ok_or(not_ours(Reason::Malformed))?;
    // What the packet holds, which padding behind it must not be taken for.
    let len = usize::from(ip.total_len.get());
    if len < header + ICMP_LEN {
        return Err(not_ours(Reason::Malformed));
    }
    let icmp = l3.skip(header);
    if !is_error_v4(icmp.get::<Icmp>(0).ok_or(not_ours(Reason::Malformed))?.kind) {
        return Err(not_ours(Reason::NotTcpUdp));
    }
    if len < header + ICMP_LEN + IPV4_LEN {
        return Err(not_ours(Reason::IcmpUnknown));
    }
    let quote = icmp.skip(ICMP_LEN);
    let inner = quote.get::<Ipv4>(0).ok_or(not_ours(Reason::IcmpUnknown))?;
    if !ours && !path::is_ours_v4(env, inner.dst(), inner.src()) {
        return Err(Reason::NotVip);
    }
    let inner_header = inner.header_len().ok_or(Reason::IcmpUnknown)?;
    if inner.is_later_fragment() || len < header + ICMP_LEN + inner_header + QUOTED_LEN {
        return Err(Reason::IcmpUnknown);
    }
    let transport = quote.skip(inner_header);
    let transport = transport.get::<Quoted>(0).ok_or(Reason::IcmpUnknown)?;
    let quoted = Ends {
        src: [u64::from(inner.src()), 0],
        dst: [u64::from(inner.dst()), 0],
        ports: transport.ports(),
        proto: inner.proto,
        family: 4,
    };
    let bytes = link.l3() as u32 + u32::from(ip.total_len.get());
    keep(env, &quoted, link, bytes, link.l3() + header, ip.ttl)
}

#[inline(always)]
fn see_v6<E: Env>(env: &E) -> Result<(), Reason> {
    let packet = env.packet();
    let link = parse::link(&packet)?;
    let l3 = packet.skip(link.l3());
    let ip = l3.get::<Ipv6>(0).ok_or(Reason::Malformed)?;
    let ours = path::is_ours_v6(env, ip.src(), ip.dst());
    let not_ours = |reason| if ours { reason } else { Reason::NotVip };
    let len = usize::from(ip.payload_len.get());
    if !ip.is_version_6() || len < ICMP_LEN {
        return Err(not_ours(Reason::Malformed));
    }
    let icmp = l3.skip(IPV6_LEN);
    if !is_error_v6(icmp.get::<Icmp>(0).ok_or(not_ours(Reason::Malformed))?.kind) {
        return Err(not_ours(Reason::NotTcpUdp));
    }
    if len < ICMP_LEN + IPV6_LEN {
        return Err(not_ours(Reason::IcmpUnknown));
    }
    let quote = icmp.skip(ICMP_LEN);
    let inner = quote.get::<Ipv6>(0).ok_or(not_ours(Reason::IcmpUnknown))?;
    if !ours && !path::is_ours_v6(env, inner.dst(), inner.src()) {
        return Err(Reason::NotVip);
    }
    if !inner.is_version_6() || len < ICMP_LEN + IPV6_LEN + QUOTED_LEN {
        return Err(Reason::IcmpUnknown);
    }
    let transport = quote.get::<Quoted>(IPV6_LEN).ok_or(Reason::IcmpUnknown)?;
    let quoted = Ends {
        src: inner.src(),
        dst: inner.dst(),
        ports: transport.ports(),
        proto: inner.next_header,
        family: 6,
    };
    let bytes = (link.l3() + IPV6_LEN) as u32 + u32::from(ip.payload_len.get());
    keep(env, &quoted, link, bytes, link.l3() + IPV6_LEN, ip.hop_limit)
}

#[inline(always)]
fn keep<E: Env>(env: &E, quoted: &Ends, link: Link, bytes: u32, icmp: usize, ttl: u8) -> Result<(), Reason> {
    if quoted.proto != PROTO_TCP && quoted.proto != PROTO_UDP {
        return Err(Reason::IcmpUnknown);
    }
    let s = env.scratch().ok_or(Reason::IcmpUnknown)?;
    s.now = env.now();
    s.piece = piece::WHOLE;
    s.seen = Seen { ends: quoted.reversed(), hash: 0, bytes, l4: icmp as u32, link, flags: 0, ttl };
    Ok(())
}

/// Finds the flow that the error in the scratch memory travels with: its decision and rewrite stand there afterwards.
#[inline(always)]
pub fn decide<E, const WORDS: usize, const KEY: usize>(env: &E) -> Next
where
    E: Env + Tables<WORDS, KEY>,
{
    let Some(s) = env.scratch() else { return Next::Drop };
    match find::<E, WORDS, KEY>(env, s) {
        Ok(()) => Next::Go,
        Err(reason) => Next::because(env, reason),
    }
}

#[inline(always)]
fn find<E, const WORDS: usize, const KEY: usize>(env: &E, s: &mut Scratch) -> Result<(), Reason>
where
    E: Env + Tables<WORDS, KEY>,
{
    let key = pair::own_key::<E, WORDS, KEY>(env, s).ok_or(Reason::StaleTable)?;
    let flows = Tables::<WORDS, KEY>::established(env, key.hash).ok_or(Reason::StaleTable)?;
    let half = Tables::<WORDS, KEY>::half_open(env, key.hash).ok_or(Reason::StaleTable)?;
    let (hit, bucket) = match flow_table::find_apart(flows, key) {
        Some(hit) => (hit, flows),
        None => match flow_table::find_apart(half, key) {
            Some(hit) => (hit, half),
            None => return without_entry::<E, WORDS, KEY>(env),
        },
    };
    s.decision = hit.decision;
    if Decision(hit.decision).kind() != kind::DR {
        s.rewrite = flow_table::rewrite(bucket, &hit).ok_or(Reason::IcmpUnknown)?;
    }
    steer::live(env, Decision(hit.decision)).map(|_| ()).ok_or(Reason::IcmpUnknown)
}

/// The server of a direct-routing flow that is not known is the one that the hash says, as for its packets.
#[inline(always)]
fn without_entry<E, const WORDS: usize, const KEY: usize>(env: &E) -> Result<(), Reason>
where
    E: Env + Tables<WORDS, KEY>,
{
    let s = env.scratch().ok_or(Reason::IcmpUnknown)?;
    let service = Tables::<WORDS, KEY>::service_id(env, &s.seen.ends).ok_or(Reason::IcmpUnknown)?;
    s.service = service;
    if env.service(service).is_none_or(|record| record.mode != mode::DR) {
        return Err(Reason::IcmpUnknown);
    }
    steer::ask(env, By::Hash).map_err(|_| Reason::IcmpUnknown)
}

/// Rewrites the error in the scratch memory and sends it on.
#[inline(always)]
pub fn relay<E: Env>(env: &E) -> Result<Verdict, Next> {
    let Some(Scratch { seen, decision, rewrite, .. }) = env.scratch() else { return Err(Next::Drop) };
    let decision = Decision(*decision);
    if path::out(env, decision, rewrite.hop_words).is_none() {
        return Err(Next::because(env, Reason::StaleTable));
    }
    if decision.kind() != kind::DR {
        // Nobody is told of what became of an error (RFC 1122, 3.2.2).
        if seen.ttl <= 1 {
            return Err(Next::because(env, Reason::Untold));
        }
        let mut packet = env.packet();
        let hides = decision.kind() == kind::REPLY;
        let done = if seen.ends.family == 4 {
            rewrite_v4(&mut packet, seen, rewrite, hides)
        } else {
            rewrite_v6(&mut packet, seen, rewrite, hides)
        };
        if done.is_none() {
            return Err(Next::because(env, Reason::Malformed));
        }
    }
    let left = path::leave(env, seen, decision, rewrite.hop_words)?;
    env.count(Reason::IcmpError);
    Ok(left)
}

/// A change of a word of 32 bits.
#[inline(always)]
const fn change(old: u64, new: u64) -> u32 {
    checksum::delta([old, 0], [new, 0]) as u32
}

#[inline(always)]
const fn change6(old: [u64; 2], new: [u64; 2]) -> u32 {
    checksum::delta(old, new) as u32
}

/// Rewrites an IPv4 error; `hides` says that its source is on the servers' side, which the client should not see.
#[inline(always)]
fn rewrite_v4(packet: &mut Packet<'_>, seen: &Seen, new: &Rewrite, hides: bool) -> Option<()> {
    let l3 = seen.link.l3();
    let at = seen.l4 as usize & 0x7ff;
    let quote = at + ICMP_LEN;
    let old = &seen.ends;
    // The quote: seen from the other end, so source and destination change places.
    let addresses = change(old.src[0], new.src[0]) + change(old.dst[0], new.dst[0]);
    let inner = packet.get_mut::<Ipv4>(quote)?;
    let header = inner.header_len()?;
    inner.addrs = (new.dst[0] | new.src[0] << 32).to_le_bytes();
    inner.checksum = updated(inner.checksum, checksum::fold(addresses));
    // The quoted header's addresses and its checksum cancel out: what is left is the transport header.
    let in_icmp = quoted(packet, seen, new, quote + header, addresses)?;
    let icmp = packet.get_mut::<Icmp>(anew(at))?;
    icmp.checksum = updated(icmp.checksum, checksum::fold(in_icmp));
    let ip = packet.get_mut::<Ipv4>(anew(l3))?;
    let src = u64::from(ip.src());
    let new_src = if hides || src == old.src[0] { new.src[0] } else { src };
    let outer = change(src, new_src) + change(u64::from(ip.dst()), new.dst[0]) + u32::from(checksum::HOP);
    ip.addrs = (new_src | new.dst[0] << 32).to_le_bytes();
    ip.ttl = ip.ttl.wrapping_sub(1);
    ip.checksum = updated(ip.checksum, checksum::fold(outer));
    Some(())
}

#[inline(always)]
fn rewrite_v6(packet: &mut Packet<'_>, seen: &Seen, new: &Rewrite, hides: bool) -> Option<()> {
    let l3 = seen.link.l3();
    let at = seen.l4 as usize & 0x7ff;
    let quote = at + ICMP_LEN;
    let old = &seen.ends;
    let addresses = change6(old.src, new.src) + change6(old.dst, new.dst);
    let bytes = |address: [u64; 2]| [address[0].to_ne_bytes(), address[1].to_ne_bytes()];
    let inner = packet.get_mut::<Ipv6>(quote)?;
    (inner.src, inner.dst) = (bytes(new.dst), bytes(new.src));
    // The addresses count in the quote, with nothing to cancel them, and in the pseudo-header.
    let in_icmp = quoted(packet, seen, new, quote + IPV6_LEN, addresses)? + addresses;
    let ip = packet.get_mut::<Ipv6>(anew(l3))?;
    let src = ip.src();
    let new_src = if hides || src == old.src { new.src } else { src };
    let outer = change6(src, new_src) + change6(ip.dst(), new.dst);
    (ip.src, ip.dst) = (bytes(new_src), bytes(new.dst));
    ip.hop_limit = ip.hop_limit.wrapping_sub(1);
    let icmp = packet.get_mut::<Icmp>(anew(at))?;
    icmp.checksum = updated(icmp.checksum, checksum::fold(u32::from(checksum::fold(in_icmp)) + outer));
    Some(())
}

/// Rewrites the quoted transport header, as far as it is quoted, and says what that adds to the sum over the quote.
#[inline(always)]
fn quoted(packet: &mut Packet<'_>, seen: &Seen, new: &Rewrite, at: usize, addresses: u32) -> Option<u32> {
    let at = at & 0xfff;
    let turned = new.ports.rotate_left(16);
    let ports = change(u64::from(seen.ends.ports), u64::from(new.ports));
    let covered = checksum::fold(addresses + ports);
    let mut sum = ports;
    let header = packet.get_mut::<Quoted>(at)?;
    header.ports = turned.to_le_bytes();
    if seen.ends.proto == PROTO_UDP {
        let [a, b, c, d] = header.rest;
        let [e, f] = updated_udp([c, d], covered);
        header.rest = [a, b, e, f];
        sum += change(word([c, d]), word([e, f]));
    } else if let Some(tcp) = packet.get_mut::<Tcp>(at) {
        // Only where it is quoted that far, which the frame's end alone does not say: a frame may be padded.
        if at + size_of::<Tcp>() <= seen.bytes as usize {
            let before = tcp.checksum;
            tcp.checksum = updated(before, covered);
            sum += change(word(before), word(tcp.checksum));
        }
    }
    Some(sum)
}

#[inline(always)]
const fn word(bytes: [u8; 2]) -> u64 {
    u16::from_ne_bytes(bytes) as u64
}
