//! What a controller does, at random: a few services of each mode, a few servers, few sources, small limits.

use std::{
    collections::{BTreeSet, VecDeque},
    net::{IpAddr, SocketAddr},
};

use lb_common::{
    backend::{Backend, LinkRecord, state},
    limits::MAX_BACKENDS,
    load::{self, Limits},
    net::{Mac, PROTO_TCP, PROTO_UDP},
    service::{
        Service,
        flags::{FAIL_CLOSED, RESET, SHARED},
        mode, no_server, pick,
    },
};
use lb_tests::{
    model::SourceRange,
    packet::{
        bench::Op,
        case::ip,
        dut::{INGRESS, OTHER, Ran, XDP_REDIRECT, XDP_TX},
        frame::Frame,
    },
    random::Random,
};

use crate::frames;

/// Services 0 and 1 are direct and of both families, the others are of one family and mostly NAT or SNAT.
const SERVICES: u16 = 6;
/// The first ones have IPv4 targets, the others IPv6 ones.
const SLOTS: u16 = 9;
const SLOTS_V4: u16 = 5;
/// The last of each family is never balanced.
pub(crate) const VIPS_V4: [&str; 4] = ["10.0.0.100", "10.0.0.101", "198.51.100.1", "10.0.0.200"];
pub(crate) const VIPS_V6: [&str; 3] = ["2001:db8::100", "2001:db8::101", "2001:db8::200"];
pub(crate) const VIP_PORTS: [u16; 5] = [104, 11112, 80, 443, 0];
const SERVERS_V4: [&str; 3] = ["10.3.0.1", "10.3.0.2", "10.3.0.3"];
const SERVERS_V6: [&str; 2] = ["2001:db8:3::1", "2001:db8:3::2"];
const SOURCES_V4: [&str; 2] = ["10.3.1.1", "10.3.1.2"];
const SOURCES_V6: [&str; 2] = ["2001:db8:3::a1", "2001:db8:3::a2"];
/// Forwarded frames that are remembered, to be answered and complained of.
const OUTPUTS: usize = 24;

/// What the operations must know of what they did.
#[derive(Default)]
pub(crate) struct World {
    keys: BTreeSet<(SocketAddr, u8)>,
    generations: [u16; SLOTS as usize],
    /// The packet before, whose flow often goes on.
    pub(crate) before: Option<Frame>,
    /// Frames that were forwarded last.
    pub(crate) outputs: VecDeque<Vec<u8>>,
    /// Pieces of a datagram that are still to be sent.
    pub(crate) pieces: Vec<Vec<u8>>,
}

impl World {
    /// Remembers what a frame became if it was sent on.
    pub(crate) fn came_out(&mut self, ran: &Ran) {
        if ran.verdict == XDP_TX || ran.verdict == XDP_REDIRECT {
            self.outputs.push_back(ran.frame.clone());
            if self.outputs.len() > OUTPUTS {
                self.outputs.pop_front();
            }
        }
    }
}

pub(crate) fn beginning(random: &mut Random, world: &mut World) -> Vec<Op> {
    let mut ops: Vec<Op> = (0..SLOTS).map(|slot| backend(random, world, slot)).collect();
    ops.extend((0..SLOTS).map(|slot| target(random, slot)));
    ops.extend((0..SLOTS).map(|slot| Op::Limits(slot, limits(random))));
    ops.extend((0..20).map(|_| twin(random)));
    ops.extend([INGRESS, OTHER].map(|ifindex| link(random, ifindex)));
    for id in 0..SERVICES {
        ops.push(Op::Service(id, service(random, id)));
        ops.push(Op::Table(id, places(random, id)));
        ops.push(Op::Sources(id, sources(random, id)));
    }
    ops.extend((0..16).filter_map(|_| add_key(random, world)));
    ops
}

/// A packet nearly always, else something that a controller does.
pub(crate) fn next(random: &mut Random, world: &mut World) -> Op {
    if !random.once_in(24) {
        return Op::Frame(frames::frame(random, world));
    }
    let id = random.below(SERVICES.into()) as u16;
    match random.below(38) {
        0..=3 => {
            let slot = random.below(SLOTS.into()) as u16;
            backend(random, world, slot)
        }
        // Seldom: the kernel waits for all its CPUs before a table is replaced.
        4 => Op::Table(id, places(random, id)),
        5..=6 => Op::Service(id, service(random, id)),
        7..=10 => add_key(random, world).unwrap_or(Op::Age(1)),
        11..=12 => remove_key(random, world).unwrap_or(Op::Age(1)),
        13..=17 => Op::Age(*random.pick(&[1, 3, 7, 8, 9, 23, 24])),
        18 => Op::Age(*random.pick(&[30, 100, 1000])),
        19 => {
            let slot = random.below(SLOTS.into()) as u16;
            target(random, slot)
        }
        20..=21 => Op::Sources(id, sources(random, id)),
        22 => link(random, INGRESS),
        23..=26 => Op::Limits(random.below(SLOTS.into()) as u16, limits(random)),
        27 => twin(random),
        28..=29 => Op::Beat,
        30 => {
            let clients = ["10.1.0.1", "10.2.0.1", "2001:db8:1::1", "2001:db8:2::1"];
            Op::Kill(ip(clients[random.below(clients.len())]))
        }
        _ => Op::ForgetTicks,
    }
}

/// True if everything that belongs to this slot is IPv4.
const fn is_ipv4(slot: u16) -> bool {
    slot < SLOTS_V4
}

/// Up or down; a generation rises as often as not, with the backend up or down.
fn backend(random: &mut Random, world: &mut World, slot: u16) -> Op {
    let generation = &mut world.generations[usize::from(slot)];
    if random.once_in(2) {
        *generation = generation.wrapping_add(1);
    }
    let vlan_depth = random.below(3) as u8;
    let mut vlan = [0; 2];
    vlan[..usize::from(vlan_depth)].fill_with(|| random.below(4096) as u16);
    Op::Backend(
        slot,
        Backend {
            generation: *generation,
            state: if random.once_in(4) { state::DEAD } else { state::LIVE },
            vlan_depth,
            ifindex: *random.pick(&[INGRESS, INGRESS, INGRESS, OTHER, 7]),
            dst_mac: Mac([2, 0xbe, 0, 0, 0, slot as u8]),
            src_mac: Mac([2, 0x1b, 0, 0, 0, random.below(2) as u8]),
            vlan,
            outer_tpid: if vlan_depth == 2 { *random.pick(&[0x8100, 0x88a8]) } else { 0 },
            mtu: *random.pick(&[0, 0, 0, 68, 100, 1500]),
            pad: [0; 2],
        },
    )
}

fn target(random: &mut Random, slot: u16) -> Op {
    let server = if is_ipv4(slot) { *random.pick(&SERVERS_V4) } else { *random.pick(&SERVERS_V6) };
    Op::Target(slot, SocketAddr::new(ip(server), *random.pick(&[0, 104, 11112, 11112])))
}

fn link(random: &mut Random, ifindex: u32) -> Op {
    let mac = if random.once_in(8) { Mac::default() } else { Mac([2, 0x1b, 0, 0, 1, ifindex as u8]) };
    Op::Link(ifindex, LinkRecord { mac, mtu: *random.pick(&[0, 0, 0, 68, 100, 1500]) })
}

/// Small ones, so that they are reached.
fn limits(random: &mut Random) -> Limits {
    let max = *random.pick(&[0, 0, 0, 1, 2, 5]);
    Limits {
        max,
        min: if max == 0 { 0 } else { random.below(usize::from(max) + 1) as u16 },
        weight: *random.pick(&[0, 1, 50, 100, 256]),
        flags: if random.once_in(6) { load::flags::CLOSED } else { 0 },
    }
}

/// Some server in some service: nobody asks whether it is the same one.
fn twin(random: &mut Random) -> Op {
    let mut slot = || random.below(SLOTS.into()) as u16;
    let (from, to) = (slot(), slot());
    let service = random.below(SERVICES.into()) as u16;
    // Of the service's family, as the controller sees to it.
    let to = if service < 2 || is_ipv4(to) == (service < 4) { to } else { from };
    let fits = service < 2 || is_ipv4(to) == (service < 4);
    Op::Twin(from, service, (fits && !random.once_in(5)).then_some(to))
}

/// Few ports, so that they run out.
fn sources(random: &mut Random, id: u16) -> SourceRange {
    let all: [IpAddr; 2] = if id < 4 { SOURCES_V4.map(ip) } else { SOURCES_V6.map(ip) };
    SourceRange {
        addrs: all[..*random.pick(&[0, 1, 1, 2, 2, 2])].to_vec(),
        first_port: *random.pick(&[1024, 30_000, 65_533]),
        ports: *random.pick(&[0, 1, 2, 3, 3, 3]),
    }
}

fn service(random: &mut Random, id: u16) -> Service {
    let own = [mode::DR, mode::DR, mode::NAT, mode::SNAT, mode::NAT, mode::SNAT][usize::from(id)];
    let routed = [own, own, own, own, own, mode::DR, mode::NAT, mode::SNAT];
    Service {
        mode: if id < 2 { mode::DR } else { *random.pick(&routed) },
        pick: *random.pick(&[pick::ROTATE, pick::HASH_FLOW, pick::HASH_CLIENT, pick::LEAST, pick::FIRST]),
        no_server: *random.pick(&[no_server::REJECT, no_server::DROP]),
        persist_prefix: *random.pick(&[0, 0, 0, 16, 24, 32, 48, 64, 100, 128]),
        persist_ticks: *random.pick(&[5, 50, 5000]),
        persist_group: u32::from(id / 2),
        flags: *random.pick(&[0, RESET, SHARED, SHARED | RESET, FAIL_CLOSED]),
        ..Service::default()
    }
}

/// Mostly short tables, now and then a full one or none. Some name a slot that nobody ever filled.
fn places(random: &mut Random, id: u16) -> Vec<u16> {
    let slots = match id {
        0 | 1 => 0..SLOTS,
        2 | 3 => 0..SLOTS_V4,
        _ => SLOTS_V4..SLOTS,
    };
    let len = match random.below(10) {
        0 => 0,
        1 => 65_536,
        2 => 1000,
        _ => 1 + random.below(7),
    };
    let mut place = || {
        if random.once_in(200) {
            MAX_BACKENDS as u16 - 1
        } else {
            slots.start + random.below(slots.len()) as u16
        }
    };
    (0..len).map(|_| place()).collect()
}

fn add_key(random: &mut Random, world: &mut World) -> Option<Op> {
    let (vip, ids) = if random.once_in(2) {
        (VIPS_V4[random.below(VIPS_V4.len() - 1)], [0, 1, 2, 2, 3, 3])
    } else {
        (VIPS_V6[random.below(VIPS_V6.len() - 1)], [0, 1, 4, 4, 5, 5])
    };
    let vip = SocketAddr::new(ip(vip), *random.pick(&VIP_PORTS));
    let proto = *random.pick(&[PROTO_TCP, PROTO_TCP, PROTO_UDP]);
    world.keys.insert((vip, proto)).then(|| Op::AddKey(vip, proto, *random.pick(&ids)))
}

fn remove_key(random: &mut Random, world: &mut World) -> Option<Op> {
    let keys: Vec<_> = world.keys.iter().copied().collect();
    let (vip, proto) = *keys.get(random.below(keys.len().max(1)))?;
    world.keys.remove(&(vip, proto));
    Some(Op::RemoveKey(vip, proto))
}
