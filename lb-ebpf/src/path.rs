//! The path of a packet, from frame to verdict.

use lb_common::{
    backend::Backend,
    counter::{Fate, Reason},
    event::EventKind,
    flow::{self, Decision, State, WORDS_V4, WORDS_V6},
    hash,
    net::{ETHERTYPE_IPV4, ETHERTYPE_IPV6},
    service::{ServiceKey4, ServiceKey6, filter_bit4, filter_bit6, filter_word},
};

use crate::{
    action::dr,
    env::{Env, Tables},
    flow_table::{self, Inserted, Key, Take},
    life::{self, Step},
    packet::Packet,
    parse::{self, Ends, Link, Transport},
    steer::{self, By},
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

/// A half-open table whose bucket holds nothing older than this many ticks (some 3 s) is being flooded.
const FLOOD_TICKS: u32 = 24;

/// Takes one frame along the path.
#[inline(always)]
pub fn run<E: Env>(env: &E, packet: Packet<'_>) -> Verdict {
    match forward(env, packet) {
        Ok(ifindex) => Verdict::Forward { ifindex },
        Err(reason) => {
            env.count(reason);
            match reason.fate() {
                Fate::Drop => Verdict::Drop,
                Fate::Pass | Fate::Note => Verdict::Pass,
            }
        }
    }
}

/// The interface that the rewritten frame leaves by, or why it is not forwarded.
#[inline(always)]
fn forward<E: Env>(env: &E, packet: Packet<'_>) -> Result<u32, Reason> {
    let link = parse::link(&packet)?;
    match link.ethertype {
        ETHERTYPE_IPV4 => forward_v4(env, packet, link),
        ETHERTYPE_IPV6 => forward_v6(env, packet, link),
        _ => Err(Reason::NotIp),
    }
}

#[inline(always)]
fn forward_v4<E: Env>(env: &E, packet: Packet<'_>, link: Link) -> Result<u32, Reason> {
    let l3 = packet.skip(link.l3());
    let ip = l3.get::<Ipv4>(0).ok_or(Reason::Malformed)?;
    let (client, vip) = (ip.src(), ip.dst());
    if !is_ours(env, filter_bit4(vip)) {
        return Err(Reason::NotVip);
    }
    let transport = parse::transport_v4(&l3, ip)?;
    let proto = ip.proto;
    let bytes = link.l3() as u32 + u32::from(ip.total_len.get());
    let ends = Ends {
        client: [u64::from(client), 0],
        vip: [u64::from(vip), 0],
        ports: transport.ports,
        proto,
        family: 4,
    };
    let words = [
        flow::addrs_word4(client, vip),
        u64::from(transport.ports) | u64::from(proto) << 32,
    ];
    let key = Key {
        words,
        hash: hash::flow4(env.flow_seed(), words[0], words[1]),
    };
    let service = |env: &E| {
        let key = ServiceKey4 {
            addr: vip,
            port: ends.vip_port(),
            proto,
            pad: 0,
        };
        env.service_v4(&key)
    };
    let (decision, backend) = decide::<E, WORDS_V4, 2>(env, &key, &ends, transport, service)?;
    deliver(env, packet, link, decision, backend, bytes)
}

#[inline(always)]
fn forward_v6<E: Env>(env: &E, packet: Packet<'_>, link: Link) -> Result<u32, Reason> {
    let l3 = packet.skip(link.l3());
    let ip = l3.get::<Ipv6>(0).ok_or(Reason::Malformed)?;
    let (client, vip) = (ip.src(), ip.dst());
    if !is_ours(env, filter_bit6(vip)) {
        return Err(Reason::NotVip);
    }
    let transport = parse::transport_v6(&l3, ip)?;
    let proto = ip.next_header;
    let bytes = (link.l3() + IPV6_LEN) as u32 + u32::from(ip.payload_len.get());
    let ends = Ends {
        client,
        vip,
        ports: transport.ports,
        proto,
        family: 6,
    };
    let ports = u64::from(transport.ports) | u64::from(proto) << 32;
    let words = [client[0], client[1], vip[0], vip[1], ports];
    let key = Key {
        words,
        hash: hash::flow6(env.flow_seed(), client, vip, ports),
    };
    let service = |env: &E| {
        let key = ServiceKey6 {
            addr: vip,
            port: ends.vip_port(),
            proto,
            pad: [0; 5],
        };
        env.service_v6(&key)
    };
    let (decision, backend) = decide::<E, WORDS_V6, 5>(env, &key, &ends, transport, service)?;
    deliver(env, packet, link, decision, backend, bytes)
}

/// False when the address is certainly not balanced: one load, before any table is touched.
#[inline(always)]
fn is_ours<E: Env>(env: &E, bit: u32) -> bool {
    let (word, mask) = filter_word(bit);
    env.filter(word) & mask != 0
}

/// The decision for a packet: the one its flow has, or a new one.
#[inline(always)]
fn decide<'e, E, const WORDS: usize, const KEY: usize>(
    env: &'e E,
    key: &Key<KEY>,
    ends: &Ends,
    transport: Transport,
    service: impl FnOnce(&E) -> Option<u32>,
) -> Result<(Decision, &'e Backend), Reason>
where
    E: Env + Tables<WORDS>,
{
    let now = env.now();
    let flows = Tables::<WORDS>::established(env, key.hash).ok_or(Reason::Malformed)?;
    if let Some(hit) = flow_table::find(flows, key) {
        let decision = Decision(hit.decision);
        let idle = now.wrapping_sub(hit.control.last_seen());
        match (
            life::established(hit.control.state(), transport.flags, idle),
            steer::live(env, decision),
        ) {
            (Step::Keep, Some(backend)) => return Ok((decision, backend)),
            (Step::Become(state), Some(backend)) => {
                // Losing this race means that another packet of the flow has just done the same.
                flow_table::update(flows, &hit, state, now);
                return Ok((decision, backend));
            }
            (Step::End, Some(backend)) => {
                flow_table::retire(flows, &hit);
                return Ok((decision, backend));
            }
            (Step::Reopen, Some(_)) => {
                flow_table::retire(flows, &hit);
            }
            (_, None) => {
                flow_table::retire(flows, &hit);
                env.count(Reason::FlowOrphaned);
            }
        }
    }
    decide_first::<E, WORDS, KEY>(env, key, ends, transport, now, service)
}

/// The decision for a packet without an established flow.
#[inline(always)]
fn decide_first<'e, E, const WORDS: usize, const KEY: usize>(
    env: &'e E,
    key: &Key<KEY>,
    ends: &Ends,
    transport: Transport,
    now: u32,
    service: impl FnOnce(&E) -> Option<u32>,
) -> Result<(Decision, &'e Backend), Reason>
where
    E: Env + Tables<WORDS>,
{
    let half = Tables::<WORDS>::half_open(env, key.hash).ok_or(Reason::Malformed)?;
    if let Some(hit) = flow_table::find(half, key) {
        let decision = Decision(hit.decision);
        if let Some(backend) = steer::live(env, decision) {
            let idle = now.wrapping_sub(hit.control.last_seen());
            match life::half_open(transport.flags, idle) {
                Step::Keep | Step::Reopen => {}
                Step::Become(State::New) => {
                    flow_table::update(half, &hit, State::New, now);
                }
                Step::Become(state) => {
                    let service = u32::from(decision.service());
                    confirm::<E, WORDS, KEY>(env, key, ends, service, &hit, state, now);
                }
                Step::End => {
                    flow_table::retire(half, &hit);
                }
            }
            return Ok((decision, backend));
        }
        flow_table::retire(half, &hit);
        env.count(Reason::FlowOrphaned);
    }

    let service = service(env).ok_or(Reason::NoService)?;
    let record = env.service(service).ok_or(Reason::NoService)?;
    let opens = transport.flags.is_none_or(Flags::is_open);
    // Under a flood an entry may be gone before the client answers; in mid-stream there is none to begin with.
    // The next packet must find the same server by itself, so the hash decides.
    let by = if opens && !flow_table::is_crowded(half, now, FLOOD_TICKS) {
        By::Service
    } else {
        By::Hash
    };
    let decision = steer::choose(env, service, record, ends, by, now)?;
    let backend = steer::live(env, decision).ok_or(Reason::StaleTable)?;
    if !opens {
        env.count(Reason::MidStream);
    }
    // A reset needs no memory.
    if transport.flags.is_some_and(Flags::is_rst) {
        return Ok((decision, backend));
    }
    match flow_table::insert(half, key, decision.0, State::New, now, Take::Oldest) {
        Inserted::Free => {}
        Inserted::Overwrote => {
            env.count(Reason::HalfOpenOverwritten);
            env.event(EventKind::HalfOpenOverwritten, service, ends, now);
        }
        Inserted::Exists(hit) => {
            // Another CPU was first with the same flow: its choice holds.
            let theirs = Decision(hit.decision);
            if let Some(backend) = steer::live(env, theirs) {
                return Ok((theirs, backend));
            }
        }
        Inserted::Full | Inserted::Race => env.count(Reason::InsertRace),
    }
    env.count_flow(service);
    Ok((decision, backend))
}

/// Moves a half-open flow that proved itself to the established ones.
#[inline(always)]
fn confirm<E, const WORDS: usize, const KEY: usize>(
    env: &E,
    key: &Key<KEY>,
    ends: &Ends,
    service: u32,
    hit: &flow_table::Hit,
    state: State,
    now: u32,
) where
    E: Env + Tables<WORDS>,
{
    let (Some(flows), Some(half)) = (
        Tables::<WORDS>::established(env, key.hash),
        Tables::<WORDS>::half_open(env, key.hash),
    ) else {
        return;
    };
    match flow_table::insert(flows, key, hit.decision, state, now, Take::Free) {
        Inserted::Free | Inserted::Overwrote | Inserted::Exists(_) => {
            flow_table::retire(half, hit);
        }
        Inserted::Full => {
            // It stays half-open as long as it can, and is told its server by the table after that.
            flow_table::update(half, hit, State::New, now);
            env.count(Reason::FlowTableFull);
            env.event(EventKind::FlowTableFull, service, ends, now);
        }
        Inserted::Race => env.count(Reason::InsertRace),
    }
}

/// Rewrites and counts.
#[inline(always)]
fn deliver<E: Env>(
    env: &E,
    packet: Packet<'_>,
    link: Link,
    decision: Decision,
    backend: &Backend,
    bytes: u32,
) -> Result<u32, Reason> {
    let ifindex = backend.ifindex;
    dr::rewrite(env, packet, link, backend)?;
    env.count_forwarded(u32::from(decision.service()), u32::from(decision.slot()), bytes);
    Ok(ifindex)
}
