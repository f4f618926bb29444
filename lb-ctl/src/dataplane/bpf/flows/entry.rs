//! Entries of either family, seen alike.

use std::net::IpAddr;

use lb_common::{
    flow::{Control, Decision, Ends, KEY_V4, KEY_V6, Rewrite, State, WORDS_V4, WORDS_V6, kind},
    hash,
    net::{host_port, ip4, ip6},
};
use lb_ebpf::{flow_table::Key, life::idle};

use crate::{dataplane::Flow, model::config::Protocol};

/// A copy of an entry's words.
pub(super) trait Layout<const KEY: usize> {
    /// What the packets show.
    fn ends(&self) -> Ends;
    /// What was decided for them.
    fn decision(&self) -> Decision;
    /// What becomes of them under NAT and SNAT.
    fn rewrite(&self) -> Rewrite;
    /// Where an entry for such packets belongs.
    fn key(ends: &Ends, seed: u64) -> Key<KEY>;
}

impl Layout<KEY_V4> for [u64; WORDS_V4] {
    fn ends(&self) -> Ends {
        let [_, addrs, ports, ..] = *self;
        Ends::of_v4(&[addrs, ports])
    }

    fn decision(&self) -> Decision {
        let [_, _, _, decision, ..] = *self;
        Decision(decision)
    }

    fn rewrite(&self) -> Rewrite {
        let [_, _, _, _, rewrite @ ..] = self;
        Rewrite::of_v4(rewrite)
    }

    fn key(ends: &Ends, seed: u64) -> Key<KEY_V4> {
        let words = ends.key_v4();
        let [addrs, ports] = words;
        Key { words, hash: hash::flow4(seed, addrs, ports) }
    }
}

impl Layout<KEY_V6> for [u64; WORDS_V6] {
    fn ends(&self) -> Ends {
        let [_, src_hi, src_lo, dst_hi, dst_lo, ports, ..] = *self;
        Ends::of_v6(&[src_hi, src_lo, dst_hi, dst_lo, ports])
    }

    fn decision(&self) -> Decision {
        let [_, _, _, _, _, _, decision, ..] = *self;
        Decision(decision)
    }

    fn rewrite(&self) -> Rewrite {
        let [_, _, _, _, _, _, _, rewrite @ .., _, _] = self;
        Rewrite::of_v6(rewrite)
    }

    fn key(ends: &Ends, seed: u64) -> Key<KEY_V6> {
        Key { words: ends.key_v6(), hash: hash::flow6(seed, ends.src, ends.dst, ends.ports_word()) }
    }
}

/// True for the entry of a client's packets, by which a flow is counted and listed.
pub(super) const fn is_clients(decision: Decision) -> bool {
    decision.kind() != kind::REPLY
}

/// True for an entry that has another one beside it for the other direction.
pub(super) const fn is_paired(decision: Decision) -> bool {
    matches!(decision.kind(), kind::NAT | kind::SNAT | kind::REPLY)
}

/// True for two entries that can be a pair.
pub(super) const fn are_siblings(one: Decision, other: Decision) -> bool {
    let same = one.service() == other.service()
        && one.slot() == other.slot()
        && one.generation() == other.generation();
    same && is_paired(one) && is_paired(other) && is_clients(one) != is_clients(other)
}

/// A flow for people, from a copy of its client's entry; `None` for an entry that no build writes.
pub(super) fn describe<const WORDS: usize, const KEY: usize>(
    words: &[u64; WORDS],
    now: u32,
    tick_nanos: u64,
) -> Option<Flow>
where
    [u64; WORDS]: Layout<KEY>,
{
    let control = Control(words[0]);
    let (ends, decision) = (words.ends(), words.decision());
    let protocol = match i32::from(ends.proto) {
        libc::IPPROTO_TCP => Protocol::Tcp,
        libc::IPPROTO_UDP => Protocol::Udp,
        _ => return None,
    };
    let there = is_paired(decision).then(|| words.rewrite().applied(&ends));
    Some(Flow {
        client: source(&ends),
        vip: destination(&ends),
        server: there.as_ref().map(destination),
        source: there.as_ref().map(source),
        protocol,
        state: State::from_u8(control.state())?,
        service: decision.service(),
        slot: decision.slot(),
        generation: decision.generation(),
        idle_millis: u64::from(idle(now, control.last_seen())) * tick_nanos / 1_000_000,
    })
}

/// Where packets come from, as people write it.
pub(super) fn source(ends: &Ends) -> (IpAddr, u16) {
    (address(ends.src, ends.family), host_port(ends.src_port()))
}

fn destination(ends: &Ends) -> (IpAddr, u16) {
    (address(ends.dst, ends.family), host_port(ends.dst_port()))
}

fn address(words: [u64; 2], family: u8) -> IpAddr {
    if family == 4 { ip4(words[0] as u32).into() } else { ip6(words).into() }
}
