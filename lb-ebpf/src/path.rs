//! The path of a packet, from frame to verdict.
//!
//! [`established`] knows the packets of established flows that change nothing, which are nearly all there are. What it
//! does not know goes to the rest, which reads the frame again: functions of their own in the kernel, so that the
//! verifier looks at each once and the hot part's stack frame stays small. They share [`Scratch`].
//!
//! What follows what is in [`crate::steps`].

use lb_common::{
    counter::{Fate, Reason},
    flow::{Decision, Ends, KEY_V4, KEY_V6, REWRITE_V4, REWRITE_V6, Rewrite, WORDS_V4, WORDS_V6, kind},
    hash,
    net::{ETHERTYPE_IPV4, ETHERTYPE_IPV6},
    service::{filter_bit4, filter_bit6, filter_source_bit4, filter_source_bit6, filter_word},
};

use crate::{
    action::{
        nat,
        way::{self, Way},
    },
    env::{Env, Tables},
    flow_table::{self, Bucket, Hit, Key},
    life::{self, Step, TOUCH_TICKS},
    packet::Packet,
    parse::{self, Link},
    scratch::{Scratch, Seen, piece},
    steer,
    steps::Next,
    wire::{
        icmp::{PROTO_ICMP, PROTO_ICMPV6},
        ipv4::Ipv4,
        ipv6::{IPV6_LEN, Ipv6, is_extension},
    },
};

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// Dropped.
    Drop,
    /// Sent out, rewritten, on this interface.
    Forward {
        /// Interface index.
        ifindex: u32,
    },
    /// Sent back to where it came from: an answer.
    Answer,
    /// Left to the kernel.
    Pass,
}

/// What the hot part says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// This is what becomes of the frame, which may have been rewritten.
    Done(Verdict),
    /// An IPv6 packet of an established NAT or SNAT flow: [`routed_v6`] goes on.
    RoutedV6,
    /// An IPv4 packet that needs more: nothing was rewritten, [`read_v4`] goes on.
    MoreV4,
    /// An IPv6 packet, likewise.
    MoreV6,
    /// An IPv4 fragment or ICMP error: [`odd::read_v4`](crate::odd::read_v4) goes on.
    OddV4,
    /// An IPv6 packet with extension headers, or an ICMP error, likewise.
    OddV6,
}

/// The hot part: packets of established flows, and packets that are none of ours.
#[inline(always)]
pub fn established<E: Env>(env: &E) -> Outcome {
    let packet = env.packet();
    let link = match parse::link(&packet) {
        Ok(link) => link,
        Err(reason) => return Outcome::Done(refuse(env, reason)),
    };
    let mut seen = Seen::default();
    match link.ethertype {
        ETHERTYPE_IPV4 => match see_v4(env, link, &mut seen) {
            Sight::Flow => established_in::<E, WORDS_V4, KEY_V4>(env, packet, &seen, Outcome::MoreV4),
            Sight::Odd => Outcome::OddV4,
            Sight::Not(reason) => Outcome::Done(refuse(env, reason)),
        },
        ETHERTYPE_IPV6 => match see_v6(env, link, &mut seen) {
            Sight::Flow => established_in::<E, WORDS_V6, KEY_V6>(env, packet, &seen, Outcome::MoreV6),
            Sight::Odd => Outcome::OddV6,
            Sight::Not(reason) => Outcome::Done(refuse(env, reason)),
        },
        _ => Outcome::Done(refuse(env, Reason::NotIp)),
    }
}

/// Reads an IPv4 packet that [`established`] left to the rest into the scratch memory.
#[inline(always)]
pub fn read_v4<E: Env>(env: &E) -> Next {
    read(env, see_v4)
}

/// Reads an IPv6 packet, likewise.
#[inline(always)]
pub fn read_v6<E: Env>(env: &E) -> Next {
    read(env, see_v6)
}

#[inline(always)]
fn read<E: Env>(env: &E, see: impl Fn(&E, Link, &mut Seen) -> Sight) -> Next {
    let link = match parse::link(&env.packet()) {
        Ok(link) => link,
        Err(reason) => return Next::because(env, reason),
    };
    let Some(scratch) = env.scratch() else { return Next::Drop };
    scratch.piece = piece::WHOLE;
    match see(env, link.anew(), &mut scratch.seen) {
        Sight::Flow => Next::Go,
        Sight::Odd => Next::Drop,
        Sight::Not(reason) => Next::because(env, reason),
    }
}

/// What a frame looks like at first sight.
enum Sight {
    /// A packet that may be of a flow.
    Flow,
    /// One that takes more looking.
    Odd,
    /// None to balance, and why.
    Not(Reason),
}

#[inline(always)]
fn see_v4<E: Env>(env: &E, link: Link, seen: &mut Seen) -> Sight {
    let packet = env.packet();
    let l3 = packet.skip(link.l3());
    let Some(ip) = l3.get::<Ipv4>(0) else { return Sight::Not(Reason::Malformed) };
    let (src, dst, proto) = (ip.src(), ip.dst(), ip.proto);
    if !is_ours_v4(env, src, dst) {
        return if proto == PROTO_ICMP { Sight::Odd } else { Sight::Not(Reason::NotVip) };
    }
    let Some(header) = ip.header_len() else { return Sight::Not(Reason::Malformed) };
    // A fragment is judged before its protocol: later ones have no transport header at all.
    if ip.is_fragment() || proto == PROTO_ICMP {
        return Sight::Odd;
    }
    let transport = match parse::transport_v4(&l3, ip) {
        Ok(transport) => transport,
        Err(reason) => return Sight::Not(reason),
    };
    let ends =
        Ends { src: [u64::from(src), 0], dst: [u64::from(dst), 0], ports: transport.ports, proto, family: 4 };
    let [addrs, ports] = ends.key_v4();
    *seen = Seen {
        ends,
        hash: hash::flow4(env.flow_seed(), addrs, ports),
        bytes: link.l3() as u32 + u32::from(ip.total_len.get()),
        l4: (link.l3() + header) as u32,
        link,
        flags: transport.flags,
        ttl: ip.ttl,
    };
    Sight::Flow
}

#[inline(always)]
fn see_v6<E: Env>(env: &E, link: Link, seen: &mut Seen) -> Sight {
    let packet = env.packet();
    let l3 = packet.skip(link.l3());
    let Some(ip) = l3.get::<Ipv6>(0) else { return Sight::Not(Reason::Malformed) };
    let (src, dst, proto) = (ip.src(), ip.dst(), ip.next_header);
    if !is_ours_v6(env, src, dst) {
        return if proto == PROTO_ICMPV6 { Sight::Odd } else { Sight::Not(Reason::NotVip) };
    }
    if !ip.is_version_6() {
        return Sight::Not(Reason::Malformed);
    }
    if is_extension(proto) || proto == PROTO_ICMPV6 {
        return Sight::Odd;
    }
    let transport = match parse::transport_v6(&l3, ip) {
        Ok(transport) => transport,
        Err(reason) => return Sight::Not(reason),
    };
    let ends = Ends { src, dst, ports: transport.ports, proto, family: 6 };
    *seen = Seen {
        ends,
        hash: hash::flow6(env.flow_seed(), src, dst, ends.ports_word()),
        bytes: (link.l3() + IPV6_LEN) as u32 + u32::from(ip.payload_len.get()),
        l4: (link.l3() + IPV6_LEN) as u32,
        link,
        flags: transport.flags,
        ttl: ip.hop_limit,
    };
    Sight::Flow
}

/// False when a packet between these addresses is certainly not balanced: it is neither for a VIP nor from a server
/// that answers through this machine. One load or two, before any table is touched.
#[inline(always)]
pub fn is_ours_v4<E: Env>(env: &E, src: u32, dst: u32) -> bool {
    is_set(env, filter_bit4(dst)) || is_set(env, filter_source_bit4(src))
}

/// The same for IPv6.
#[inline(always)]
pub fn is_ours_v6<E: Env>(env: &E, src: [u64; 2], dst: [u64; 2]) -> bool {
    is_set(env, filter_bit6(dst)) || is_set(env, filter_source_bit6(src))
}

#[inline(always)]
fn is_set<E: Env>(env: &E, bit: u32) -> bool {
    let (word, mask) = filter_word(bit);
    env.filter(word) & mask != 0
}

/// Forwards a packet whose flow is established, and steps the flow.
#[inline(always)]
fn established_in<E, const WORDS: usize, const KEY: usize>(
    env: &E,
    packet: Packet<'_>,
    seen: &Seen,
    more: Outcome,
) -> Outcome
where
    E: Env + Tables<WORDS, KEY>,
{
    let Some(flows) = Tables::<WORDS, KEY>::established(env, seen.hash) else { return more };
    let key = Key { words: <E as Tables<WORDS, KEY>>::key_words(&seen.ends), hash: seen.hash };
    let Some(hit) = flow_table::find(flows, &key) else { return more };
    let decision = Decision(hit.decision);
    let Some(backend) = steer::live(env, decision) else { return more };
    let now = env.now();
    if decision.kind() != kind::DR {
        // IPv6's words would not fit this frame.
        if WORDS != WORDS_V4 {
            return Outcome::RoutedV6;
        }
        let routed = routed::<E, WORDS, KEY, REWRITE_V4>(env, packet, seen, flows, &hit, now);
        return routed.map_or(more, Outcome::Done);
    }
    let step = life::established(hit.control.state(), seen.tcp(), life::idle(now, hit.control.last_seen()));
    life::take(env, flows, &hit, step, now);
    if step == Step::Reopen {
        return more;
    }
    if let Err(reason) = way::take(env, packet, seen.link, &Way::to(backend)) {
        return Outcome::Done(refuse(env, reason));
    }
    env.count_forwarded(u32::from(decision.slot()), seen.bytes);
    Outcome::Done(Verdict::Forward { ifindex: backend.ifindex })
}

/// [`established`] for an IPv6 packet of a NAT or SNAT flow: as a function of its own. `None`, and nothing happened,
/// when it needs more.
#[inline(always)]
pub fn routed_v6<E: Env>(env: &E) -> Option<Verdict> {
    let packet = env.packet();
    let mut seen = Seen::default();
    let Sight::Flow = see_v6(env, parse::link(&packet).ok()?, &mut seen) else { return None };
    let flows = Tables::<WORDS_V6, KEY_V6>::established(env, seen.hash)?;
    let key = Key { words: seen.ends.key_v6(), hash: seen.hash };
    let hit = flow_table::find(flows, &key)?;
    steer::live(env, Decision(hit.decision))?;
    routed::<E, WORDS_V6, KEY_V6, REWRITE_V6>(env, packet, &seen, flows, &hit, env.now())
}

/// Forwards a packet of a NAT or SNAT flow, and keeps its time. `None`, and nothing happened, if there is more about it
/// than to rewrite it.
#[inline(always)]
fn routed<E, const WORDS: usize, const KEY: usize, const REWRITE: usize>(
    env: &E,
    mut packet: Packet<'_>,
    seen: &Seen,
    flows: &Bucket<<E as Tables<WORDS, KEY>>::Word, WORDS>,
    hit: &Hit,
    now: u32,
) -> Option<Verdict>
where
    E: Env + Tables<WORDS, KEY>,
{
    if seen.ttl <= 1 || seen.tcp().is_some_and(|flags| flags.changes_state()) {
        return None;
    }
    let words = flow_table::rewrite_words::<_, WORDS, REWRITE>(flows, hit)?;
    let decision = Decision(hit.decision);
    let hop = [words[REWRITE - 2], words[REWRITE - 1]];
    let (way, mtu) = out(env, decision, hop)?;
    if seen.ip_bytes() > mtu {
        return None;
    }
    if decision.kind() != kind::REPLY && has_moved(env, &packet, seen.link, hop)? {
        return None;
    }
    if REWRITE == REWRITE_V4 {
        nat::rewrite_v4(&mut packet, seen, words[0], words[1])?;
    } else {
        nat::rewrite_v6(&mut packet, seen, [words[1], words[2], words[3], words[4 % REWRITE]], words[0])?;
    }
    if life::idle(now, hit.control.last_seen()) >= TOUCH_TICKS {
        flow_table::touch(flows, hit, now);
    }
    if let Err(reason) = way::take(env, packet, seen.link, &way) {
        return Some(refuse(env, reason));
    }
    env.count_forwarded(u32::from(decision.slot()), seen.bytes);
    Some(Verdict::Forward { ifindex: way.ifindex })
}

/// Where packets with this decision go, and how long they may be. `None` when there is no way.
#[inline(always)]
pub fn out<E: Env>(env: &E, decision: Decision, hop: [u64; 2]) -> Option<(Way, u32)> {
    let (way, mtu) = if decision.kind() == kind::REPLY {
        let link = *env.link((hop[0] >> 48) as u32)?;
        if link.mac.0 == [0; 6] {
            return None;
        }
        (Way::back(hop, link), link.mtu)
    } else {
        let backend = env.backend(u32::from(decision.slot()))?;
        (Way::to(backend), backend.mtu)
    };
    Some((way, if mtu == 0 { u32::MAX } else { u32::from(mtu) }))
}

/// True when a client's packet came another way than `hop` says. A zero hop follows the routing table and not packets.
#[inline(always)]
fn has_moved<E: Env>(env: &E, packet: &Packet<'_>, link: Link, hop: [u64; 2]) -> Option<bool> {
    Some(hop[0] != 0 && way::came_by(env, packet, link)? != hop)
}

/// The last part of what does not take the hot part: checks, rewrites, counts, and says where the frame goes, as
/// the scratch memory has it.
#[inline(always)]
pub fn deliver<E: Env>(env: &E) -> Result<Verdict, Next> {
    let Some(Scratch { seen, decision, rewrite, mtu, .. }) = env.scratch() else {
        return Err(Next::Drop);
    };
    let decision = Decision(*decision);
    let mut packet = env.packet();
    let Some((way, longest)) = out(env, decision, rewrite.hop_words) else {
        return Err(Next::because(env, Reason::StaleTable));
    };
    if decision.kind() != kind::DR {
        if seen.ttl <= 1 {
            return Err(Next::TellExpired);
        }
        if seen.ip_bytes() > longest {
            *mtu = longest;
            return Err(Next::TellTooBig);
        }
        let (Rewrite { src, dst, .. }, ports) = (&*rewrite, rewrite.ports_word());
        let rewritten = if seen.ends.family == 4 {
            nat::rewrite_v4(&mut packet, seen, src[0] | dst[0] << 32, ports)
        } else {
            nat::rewrite_v6(&mut packet, seen, [src[0], src[1], dst[0], dst[1]], ports)
        };
        if rewritten.is_none() {
            return Err(Next::because(env, Reason::Malformed));
        }
    }
    finish(env, seen, decision, &way)
}

/// Sends a frame that is rewritten already.
#[inline(always)]
pub fn leave<E: Env>(env: &E, seen: &Seen, decision: Decision, hop: [u64; 2]) -> Result<Verdict, Next> {
    match out(env, decision, hop) {
        Some((way, _)) => finish(env, seen, decision, &way),
        None => Err(Next::because(env, Reason::StaleTable)),
    }
}

#[inline(always)]
fn finish<E: Env>(env: &E, seen: &Seen, decision: Decision, way: &Way) -> Result<Verdict, Next> {
    if let Err(reason) = way::take(env, env.packet(), seen.link, way) {
        return Err(Next::because(env, reason));
    }
    env.count_forwarded(u32::from(decision.slot()), seen.bytes);
    Ok(Verdict::Forward { ifindex: way.ifindex })
}

/// Counts a reason and gives the verdict that goes with it.
#[inline(always)]
pub fn refuse<E: Env>(env: &E, reason: Reason) -> Verdict {
    env.count(reason);
    match reason.fate() {
        Fate::Drop => Verdict::Drop,
        Fate::Answer => Verdict::Answer,
        Fate::Pass | Fate::Note => Verdict::Pass,
    }
}
