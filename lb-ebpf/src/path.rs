//! The path of a packet, from frame to verdict.
//!
//! It comes in two parts. [`established`] knows the packets of established flows, which are nearly all there are.
//! Whatever it does not know goes to [`first_v4`] or [`first_v6`], which read the frame again: in the kernel they
//! are functions of their own, so that the verifier looks at each once and the hot part's stack frame stays small.

use lb_common::{
    backend::Backend,
    counter::{Fate, Reason},
    flow::{Decision, Ends, KEY_V4, KEY_V6, WORDS_V4, WORDS_V6},
    hash,
    net::{ETHERTYPE_IPV4, ETHERTYPE_IPV6},
    service::{filter_bit4, filter_bit6, filter_word},
};

use crate::{
    action::dr,
    env::{Env, Tables},
    first,
    flow_table::{self, Key},
    life::{self, Step},
    packet::Packet,
    parse::{self, Link},
    steer,
    wire::{
        ipv4::Ipv4,
        ipv6::{IPV6_LEN, Ipv6},
        tcp::Flags,
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
    /// Left to the kernel.
    Pass,
}

/// What the hot part says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// This is what becomes of the frame, which may have been rewritten.
    Done(Verdict),
    /// An IPv4 packet of no established flow; nothing was rewritten. [`first_v4`] goes on.
    FirstV4,
    /// An IPv6 packet, likewise. [`first_v6`] goes on.
    FirstV6,
}

/// What was read from a packet that may be balanced.
struct Seen {
    link: Link,
    ends: Ends,
    /// TCP's control bits; `None` = UDP.
    flags: Option<Flags>,
    /// Frame length, from the Ethernet header to the end of the IP packet.
    bytes: u32,
    /// Flow hash.
    hash: u64,
}

/// The hot part: packets of established flows, and packets that are none of ours.
#[inline(always)]
pub fn established<E: Env>(env: &E) -> Outcome {
    let packet = env.packet();
    let link = match parse::link(&packet) {
        Ok(link) => link,
        Err(reason) => return Outcome::Done(refuse(env, reason)),
    };
    match link.ethertype {
        ETHERTYPE_IPV4 => {
            established_in::<E, WORDS_V4, KEY_V4>(env, packet, read_v4(env, link), Outcome::FirstV4)
        }
        ETHERTYPE_IPV6 => {
            established_in::<E, WORDS_V6, KEY_V6>(env, packet, read_v6(env, link), Outcome::FirstV6)
        }
        _ => Outcome::Done(refuse(env, Reason::NotIp)),
    }
}

/// The rest, for an IPv4 frame that [`established`] did not know.
#[inline(always)]
pub fn first_v4<E: Env>(env: &E) -> Verdict {
    let link = parse::link(&env.packet());
    first_in::<E, WORDS_V4, KEY_V4>(env, link.and_then(|link| read_v4(env, link)))
}

/// The rest, for an IPv6 frame that [`established`] did not know.
#[inline(always)]
pub fn first_v6<E: Env>(env: &E) -> Verdict {
    let link = parse::link(&env.packet());
    first_in::<E, WORDS_V6, KEY_V6>(env, link.and_then(|link| read_v6(env, link)))
}

#[inline(always)]
fn read_v4<E: Env>(env: &E, link: Link) -> Result<Seen, Reason> {
    let packet = env.packet();
    let l3 = packet.skip(link.l3());
    let ip = l3.get::<Ipv4>(0).ok_or(Reason::Malformed)?;
    let (client, vip, proto) = (ip.src(), ip.dst(), ip.proto);
    if !is_ours(env, filter_bit4(vip)) {
        return Err(Reason::NotVip);
    }
    let bytes = link.l3() as u32 + u32::from(ip.total_len.get());
    let transport = parse::transport_v4(&l3, ip)?;
    let (client, vip) = ([u64::from(client), 0], [u64::from(vip), 0]);
    let ends = Ends { src: client, dst: vip, ports: transport.ports, proto, family: 4 };
    let [addrs, ports] = ends.key_v4();
    let hash = hash::flow4(env.flow_seed(), addrs, ports);
    Ok(Seen { link, ends, flags: transport.flags, bytes, hash })
}

#[inline(always)]
fn read_v6<E: Env>(env: &E, link: Link) -> Result<Seen, Reason> {
    let packet = env.packet();
    let l3 = packet.skip(link.l3());
    let ip = l3.get::<Ipv6>(0).ok_or(Reason::Malformed)?;
    let (client, vip, proto) = (ip.src(), ip.dst(), ip.next_header);
    if !is_ours(env, filter_bit6(vip)) {
        return Err(Reason::NotVip);
    }
    let bytes = (link.l3() + IPV6_LEN) as u32 + u32::from(ip.payload_len.get());
    let transport = parse::transport_v6(&l3, ip)?;
    let ends = Ends { src: client, dst: vip, ports: transport.ports, proto, family: 6 };
    let [.., ports] = ends.key_v6();
    let hash = hash::flow6(env.flow_seed(), client, vip, ports);
    Ok(Seen { link, ends, flags: transport.flags, bytes, hash })
}

/// False when the address is certainly not balanced: one load, before any table is touched.
#[inline(always)]
fn is_ours<E: Env>(env: &E, bit: u32) -> bool {
    let (word, mask) = filter_word(bit);
    env.filter(word) & mask != 0
}

/// Forwards a packet whose flow is established, and steps the flow.
#[inline(always)]
fn established_in<E, const WORDS: usize, const KEY: usize>(
    env: &E,
    packet: Packet<'_>,
    seen: Result<Seen, Reason>,
    unknown: Outcome,
) -> Outcome
where
    E: Env + Tables<WORDS, KEY>,
{
    let seen = match seen {
        Ok(seen) => seen,
        Err(reason) => return Outcome::Done(refuse(env, reason)),
    };
    let Some(flows) = Tables::<WORDS, KEY>::established(env, seen.hash) else { return unknown };
    let key = Key { words: <E as Tables<WORDS, KEY>>::key_words(&seen.ends), hash: seen.hash };
    let Some(hit) = flow_table::find(flows, &key) else { return unknown };
    let decision = Decision(hit.decision);
    let Some(backend) = steer::live(env, decision) else {
        flow_table::retire(flows, &hit);
        env.count(Reason::FlowOrphaned);
        return unknown;
    };
    let now = env.now();
    match life::established(hit.control.state(), seen.flags, life::idle(now, hit.control.last_seen())) {
        Step::Keep => {}
        Step::Become(state) => {
            // Losing this race means that another packet of the flow has just done the same.
            flow_table::update(flows, &hit, state, now);
        }
        Step::End => {
            flow_table::retire(flows, &hit);
        }
        Step::Reopen => {
            flow_table::retire(flows, &hit);
            return unknown;
        }
    }
    Outcome::Done(deliver(env, packet, &seen, decision, backend))
}

/// Decides for a packet without an established flow, and forwards it.
#[inline(always)]
fn first_in<E, const WORDS: usize, const KEY: usize>(env: &E, seen: Result<Seen, Reason>) -> Verdict
where
    E: Env + Tables<WORDS, KEY>,
{
    let seen = match seen {
        Ok(seen) => seen,
        Err(reason) => return refuse(env, reason),
    };
    let now = env.now();
    let key = Key { words: <E as Tables<WORDS, KEY>>::key_words(&seen.ends), hash: seen.hash };
    let decision = match first::decide::<E, WORDS, KEY>(env, &key, seen.flags, now) {
        Ok(decision) => decision,
        Err(reason) => return refuse(env, reason),
    };
    match steer::live(env, decision) {
        Some(backend) => deliver(env, env.packet(), &seen, decision, backend),
        None => refuse(env, Reason::StaleTable),
    }
}

/// Rewrites and counts.
#[inline(always)]
fn deliver<E: Env>(
    env: &E,
    packet: Packet<'_>,
    seen: &Seen,
    decision: Decision,
    backend: &Backend,
) -> Verdict {
    let ifindex = backend.ifindex;
    if let Err(reason) = dr::rewrite(env, packet, seen.link, backend) {
        return refuse(env, reason);
    }
    env.count_forwarded(u32::from(decision.slot()), seen.bytes);
    Verdict::Forward { ifindex }
}

/// Counts a reason and gives the verdict that goes with it.
#[inline(always)]
fn refuse<E: Env>(env: &E, reason: Reason) -> Verdict {
    env.count(reason);
    match reason.fate() {
        Fate::Drop => Verdict::Drop,
        Fate::Pass | Fate::Note | Fate::Answer => Verdict::Pass,
    }
}
