//! Random packets and random operations through program and model, which must agree about every verdict, every
//! byte, every counter and every remembered flow. `LB_SEED` repeats a run, `LB_PACKETS` makes it longer.

use std::{
    collections::{BTreeSet, VecDeque},
    net::SocketAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use lb_common::{
    backend::{Backend, state},
    limits::MAX_BACKENDS,
    net::{Mac, PROTO_TCP, PROTO_UDP},
    service::{Service, mode, no_server, pick},
};
use lb_tests::{
    lab::require_root,
    packet::{
        bench::{Bench, Op},
        case::ip,
        dut::{INGRESS, OTHER, Options},
        frame::{Frame, Transport, flags},
    },
    random::Random,
};

/// Operations that are printed when program and model disagree.
const LAST: usize = 40;
/// Packets between two comparisons of counters, and of the tables.
const COUNTERS_EVERY: u64 = 64;
const MEMORY_EVERY: u64 = 512;

const SERVICES: u16 = 6;
const SLOTS: u16 = 9;
const CLIENTS_V4: [&str; 6] = ["10.1.0.1", "10.1.0.2", "10.1.1.1", "10.2.0.1", "192.0.2.7", "203.0.113.99"];
const CLIENTS_V6: [&str; 4] = ["2001:db8:1::1", "2001:db8:1::2", "2001:db8:2::1", "fd00::1"];
/// The last of each family is never balanced.
const VIPS_V4: [&str; 4] = ["10.0.0.100", "10.0.0.101", "198.51.100.1", "10.0.0.200"];
const VIPS_V6: [&str; 3] = ["2001:db8::100", "2001:db8::101", "2001:db8::200"];
const VIP_PORTS: [u16; 5] = [104, 11112, 80, 443, 0];
const CLIENT_PORTS: u16 = 14;
const TCP_FLAGS: [u8; 12] = [
    flags::SYN,
    flags::SYN,
    flags::SYN | 0xc0,
    flags::SYN | flags::FIN,
    flags::SYN | flags::ACK,
    flags::ACK,
    flags::ACK,
    flags::ACK | flags::PSH,
    flags::FIN | flags::ACK,
    flags::RST,
    flags::RST | flags::ACK,
    0,
];

/// What the operations must know of what they did.
#[derive(Default)]
struct World {
    keys: BTreeSet<(SocketAddr, u8)>,
    generations: [u16; SLOTS as usize],
    /// The packet before, whose flow often goes on.
    before: Option<Frame>,
}

#[test]
fn program_and_model_agree_about_random_packets_and_operations() {
    if !require_root("packet_random") {
        return;
    }
    let seed = from_env("LB_SEED").unwrap_or_else(|| {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_nanos() as u64)
    });
    let packets = from_env("LB_PACKETS").unwrap_or(200_000);
    println!("LB_SEED={seed} LB_PACKETS={packets}");
    // Sizes differ, so that a table taken for another shows.
    let mut bench = Bench::new(Options {
        flows_v4: 64,
        flows_v6: 32,
        half_open: 16,
        seed: seed ^ 0x5eed,
        persist: 5,
        ..Options::default()
    });
    let mut random = Random::new(seed);
    let mut world = World::default();
    let mut last: VecDeque<Op> = VecDeque::new();
    for op in beginning(&mut random, &mut world) {
        bench.set(&op);
    }
    let mut sent = 0;
    while sent < packets {
        let op = next(&mut random, &mut world);
        sent += u64::from(matches!(op, Op::Frame(_)));
        if last.len() == LAST {
            last.pop_front();
        }
        last.push_back(op.clone());
        let mut agreed = bench.apply(&op);
        if agreed.is_ok() && sent.is_multiple_of(COUNTERS_EVERY) {
            agreed = bench.compare();
        }
        if agreed.is_ok() && sent.is_multiple_of(MEMORY_EVERY) {
            agreed = bench.compare_memory();
        }
        if let Err(difference) = agreed {
            let last: Vec<String> = last.iter().map(|op| format!("  {op:?}\n")).collect();
            panic!("LB_SEED={seed}: packet {sent}: {difference}\nthe last operations:\n{}", last.concat());
        }
    }
    println!("{:?}", bench.counted().reasons);
}

/// A number from the environment.
fn from_env(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|e| panic!("{name}={text} is not a number: {e}")))
}

fn beginning(random: &mut Random, world: &mut World) -> Vec<Op> {
    let mut ops: Vec<Op> = (0..SLOTS).map(|slot| backend(random, world, slot)).collect();
    for id in 0..SERVICES {
        ops.push(Op::Service(id, service(random, id)));
        ops.push(Op::Table(id, places(random)));
    }
    ops.extend((0..12).filter_map(|_| add_key(random, world)));
    ops
}

/// A packet nearly always, else something that a controller does.
fn next(random: &mut Random, world: &mut World) -> Op {
    if !random.once_in(24) {
        return Op::Frame(frame(random, world));
    }
    match random.below(20) {
        0..=3 => {
            let slot = random.below(SLOTS.into()) as u16;
            backend(random, world, slot)
        }
        // Seldom: the kernel waits for all its CPUs before a table is replaced.
        4 => Op::Table(random.below(SERVICES.into()) as u16, places(random)),
        5..=6 => {
            let id = random.below(SERVICES.into()) as u16;
            Op::Service(id, service(random, id))
        }
        7..=10 => add_key(random, world).unwrap_or(Op::Age(1)),
        11..=12 => remove_key(random, world).unwrap_or(Op::Age(1)),
        13..=17 => Op::Age(*random.pick(&[1, 3, 7, 8, 9, 23, 24])),
        _ => Op::Age(*random.pick(&[30, 100, 1000])),
    }
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
            ifindex: *random.pick(&[INGRESS, INGRESS, OTHER, 7]),
            dst_mac: Mac([2, 0xbe, 0, 0, 0, slot as u8]),
            src_mac: Mac([2, 0x1b, 0, 0, 0, random.below(2) as u8]),
            vlan,
            outer_tpid: if vlan_depth == 2 { *random.pick(&[0x8100, 0x88a8]) } else { 0 },
            mtu: 0,
            pad: [0; 2],
        },
    )
}

fn service(random: &mut Random, id: u16) -> Service {
    Service {
        mode: mode::DR,
        pick: *random.pick(&[pick::ROTATE, pick::HASH_FLOW, pick::HASH_CLIENT]),
        no_server: *random.pick(&[no_server::REJECT, no_server::DROP]),
        persist_prefix: *random.pick(&[0, 0, 0, 16, 24, 32, 48, 64, 100, 128]),
        persist_ticks: *random.pick(&[5, 50, 5000]),
        persist_group: u32::from(id / 2),
        ..Service::default()
    }
}

/// Mostly short tables, now and then a full one or none. Some name a slot that nobody ever filled.
fn places(random: &mut Random) -> Vec<u16> {
    let len = match random.below(10) {
        0 => 0,
        1 => 65_536,
        2 => 1000,
        _ => 1 + random.below(7),
    };
    (0..len)
        .map(
            |_| if random.once_in(200) { MAX_BACKENDS as u16 - 1 } else { random.below(SLOTS.into()) as u16 },
        )
        .collect()
}

fn add_key(random: &mut Random, world: &mut World) -> Option<Op> {
    let vip = if random.once_in(2) {
        &VIPS_V4[random.below(VIPS_V4.len() - 1)]
    } else {
        &VIPS_V6[random.below(VIPS_V6.len() - 1)]
    };
    let vip = SocketAddr::new(ip(vip), *random.pick(&VIP_PORTS));
    let proto = *random.pick(&[PROTO_TCP, PROTO_TCP, PROTO_UDP]);
    world.keys.insert((vip, proto)).then(|| Op::AddKey(vip, proto, random.below(SERVICES.into()) as u16))
}

fn remove_key(random: &mut Random, world: &mut World) -> Option<Op> {
    let keys: Vec<_> = world.keys.iter().copied().collect();
    let (vip, proto) = *keys.get(random.below(keys.len().max(1)))?;
    world.keys.remove(&(vip, proto));
    Some(Op::RemoveKey(vip, proto))
}

/// A frame: nearly always a packet for a VIP, now and then one that is cut, bent or no packet at all.
fn frame(random: &mut Random, world: &mut World) -> Vec<u8> {
    if random.once_in(50) {
        let len = 14 + random.below(120);
        return random.bytes(len);
    }
    let packet = match world.before.take() {
        Some(before) if !random.once_in(3) => next_of(before, random),
        _ => packet(random),
    };
    let mut bytes = packet.bytes();
    world.before = Some(packet);
    if random.once_in(12) {
        for _ in 0..=random.below(4) {
            let at = 12 + random.below(bytes.len() - 12);
            bytes[at] = match random.below(3) {
                0 => bytes[at] ^ 1 << random.below(8),
                1 => *random.pick(&[0, 0xff, 6, 17, 44, 0x45, 0x60, 0x81]),
                _ => random.any() as u8,
            };
        }
    }
    if random.once_in(30) {
        let len = 14 + random.below(bytes.len() - 13);
        bytes.truncate(len);
    } else if random.once_in(10) {
        // Ethernet pads to 60 bytes; the packet does not grow.
        bytes.resize(bytes.len().max(60), 0);
    }
    bytes
}

/// Another packet of the same flow.
fn next_of(before: Frame, random: &mut Random) -> Frame {
    let transport = match before.transport {
        Transport::Tcp(_) if random.once_in(3) => Transport::Tcp(*random.pick(&TCP_FLAGS)),
        Transport::Tcp(_) => Transport::Tcp(flags::ACK),
        Transport::Udp | Transport::Other(_) => before.transport,
    };
    Frame { transport, ..before }
}

/// A packet of any flow.
fn packet(random: &mut Random) -> Frame {
    let ours = if random.once_in(20) { 0 } else { 1 };
    let (client, vip) = if random.once_in(3) {
        (*random.pick(&CLIENTS_V6), VIPS_V6[random.below(VIPS_V6.len() - ours)])
    } else {
        (*random.pick(&CLIENTS_V4), VIPS_V4[random.below(VIPS_V4.len() - ours)])
    };
    let src = SocketAddr::new(ip(client), random.below(CLIENT_PORTS.into()) as u16);
    let dst = SocketAddr::new(ip(vip), *random.pick(&VIP_PORTS));
    let payload_len = random.below(40);
    let payload = random.bytes(payload_len);
    let mut frame = if random.once_in(4) {
        Frame::udp(src, dst, &payload)
    } else {
        Frame { payload, ..Frame::tcp(src, dst, *random.pick(&TCP_FLAGS)) }
    };
    for _ in 0..*random.pick(&[0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 3]) {
        frame.tags.push((*random.pick(&[0x8100, 0x88a8]), random.any() as u16));
    }
    if random.once_in(10) {
        frame.options = vec![1; 4 * (1 + random.below(10))];
    }
    if random.once_in(30) {
        frame.fragment = *random.pick(&[0x2000, 0x0001, 0x2010, 0x1fff, 0x8000, 0x4000]);
    }
    if random.once_in(30) {
        frame.transport = Transport::Other(*random.pick(&[1, 58, 50, 59, 47, 132]));
    }
    if random.once_in(30) {
        frame.extensions = vec![(*random.pick(&[0, 43, 44, 60, 135, 253]), 8)];
    }
    frame
}
