//! A table with a million established flows and not one free place: what it takes, what a sweep counts, what becomes of
//! the next connection, and what a flood does to those who are connected.

use std::{collections::BTreeMap, net::SocketAddr};

use lb_common::{
    backend::{Backend, LinkRecord, state},
    counter::Reason,
    flow::{Bucket4, Control, Decision, Ends, State},
    hash,
    limits::{flow_table_bytes, map},
    load::Limits,
    net::{Mac, PROTO_TCP},
    service::{Service, mode, pick},
};
use lb_ctl::{
    dataplane::{BackendIdentity, Filling, Op, ServiceIdentity, ServiceKey, TableEntrant, TableSpec},
    model::config::Protocol,
    plan::Step,
};
use lb_tests::{
    lab::{
        netns::{Lifetime, Netns, test_name},
        require_root,
    },
    packet::{
        case::at,
        dut::{INGRESS, XDP_PASS, XDP_TX},
        frame::{
            Frame,
            flags::{ACK, PSH, SYN},
        },
        plane::Plane,
    },
    random::Random,
};

/// Places, every one of which is taken.
const FLOWS: u32 = 1 << 20;
const ROOM: [u32; 3] = [FLOWS, 1024, 1 << 14];
const SERVERS: u16 = 8;
const FLOOD: u32 = 500_000;
/// A VIP by direct routing, which the flows belong to, and one by NAT.
const VIPS: [&str; 2] = ["10.0.0.100:104", "10.0.0.101:104"];

fn serve(plane: &mut Plane) {
    let mut ops = vec![Op::AttachLink { ifindex: INGRESS }];
    ops.push(Op::PutLink {
        ifindex: INGRESS,
        record: LinkRecord { mac: Mac([2, 0x1b, 0, 0, 0, 1]), mtu: 1500 },
    });
    let ip = |slot: u16| [10, 3, 0, slot as u8 + 1].into();
    ops.push(Op::SetFilter {
        addresses: VIPS.iter().map(|vip| at(vip).ip()).collect(),
        servers: (SERVERS..2 * SERVERS).map(ip).collect(),
    });
    for (service, (vip, mode)) in (0..).zip(VIPS.into_iter().zip([mode::DR, mode::NAT])) {
        let slots = service * SERVERS..(service + 1) * SERVERS;
        for slot in slots.clone() {
            let identity = BackendIdentity { service, name: format!("R{slot}"), ip: ip(slot), port: None };
            let backend = Backend {
                generation: 1,
                state: state::LIVE,
                ifindex: INGRESS,
                dst_mac: Mac([2, 0xbe, 0, 0, 0, slot as u8]),
                src_mac: Mac([2, 0x1b, 0, 0, 0, 1]),
                ..Backend::default()
            };
            ops.push(Op::PutBackend { slot, identity, backend });
            ops.push(Op::PutLoad { slot, limits: Limits { weight: 100, ..Limits::default() } });
        }
        let entrant = |slot| TableEntrant { slot, weight: 100, ip: ip(slot), port: None };
        let table = TableSpec { filling: Filling::Maglev, entrants: slots.map(entrant).collect() };
        ops.push(Op::PutTable { service, table });
        let identity = ServiceIdentity { name: format!("V{service}"), idle_timeout_secs: 12 * 3600 };
        let record = Service { mode, pick: pick::LEAST, ..Service::default() };
        ops.push(Op::PutService { service, identity, record });
        let key = ServiceKey { ip: at(vip).ip(), port: at(vip).port(), protocol: Protocol::Tcp };
        ops.push(Op::PutKey { key, service });
    }
    let steps: Vec<Step> = ops.into_iter().map(|op| Step { vip: None, op }).collect();
    plane.apply(&steps);
}

fn segment(client: SocketAddr, vip: &str, flags: u8) -> Vec<u8> {
    Frame::tcp(client, at(vip), flags).bytes()
}

/// The n-th client that might be connected.
fn client(n: u32) -> SocketAddr {
    let [a, b, c, d] = n.to_be_bytes();
    SocketAddr::from(([20 + a, b, c, d], 40_000))
}

/// The packet path's present tick, as a flow that has just begun tells it.
fn now(plane: &Plane) -> u32 {
    assert_eq!(plane.run(&segment(at("10.9.9.9:1"), VIPS[0], SYN)).0, XDP_TX);
    let half_open: Vec<Bucket4> = plane.pins().values(map::HALF_OPEN_V4);
    let live = half_open.iter().flat_map(|bucket| bucket.0).find(|words| Control(words[0]).is_live());
    Control(live.expect("a flow has begun")[0]).last_seen()
}

/// Established flows of the first VIP in every place of the table; who they are, in the order in which they were put.
fn fill(plane: &Plane) -> Vec<(SocketAddr, u16)> {
    let (seed, now) = (plane.settings().flow_seed, now(plane));
    let mut table = vec![Bucket4([[0; 8]; 4]); FLOWS as usize / 4];
    let mut flows = Vec::new();
    for n in 0.. {
        if flows.len() == FLOWS as usize {
            break;
        }
        let [addrs, ports] = Ends::between(client(n), at(VIPS[0]), PROTO_TCP).key_v4();
        let hash = hash::flow4(seed, addrs, ports);
        let Bucket4(ways) = &mut table[(hash >> 32) as usize % (FLOWS as usize / 4)];
        let first = (hash >> 54) as usize;
        let free = (first..first + 4).map(|way| way % 4).find(|&way| ways[way][0] == 0);
        let Some(way) = free else { continue };
        let slot = n as u16 % SERVERS;
        let control = Control::new(1, (hash >> 56) as u8, State::Established, now);
        ways[way] = [control.0, addrs, ports, Decision::new(mode::DR, 0, slot, 1).0, 0, 0, 0, 0];
        flows.push((client(n), slot));
    }
    let mut map: aya::maps::Array<aya::maps::MapData, Bucket4> = plane.pins().map(map::FLOWS_V4);
    for (bucket, ways) in (0..).zip(table) {
        map.set(bucket, ways, 0).expect("a bucket of the table");
    }
    flows
}

/// What an entry is of, and where it goes: everything but its state and time.
fn who(plane: &Plane) -> Vec<[u64; 3]> {
    let buckets: Vec<Bucket4> = plane.pins().values(map::FLOWS_V4);
    buckets.iter().flat_map(|bucket| bucket.0).map(|words| [words[1], words[2], words[3]]).collect()
}

fn reasons(plane: &Plane) -> BTreeMap<Reason, u64> {
    let counts: aya::maps::PerCpuArray<aya::maps::MapData, u64> = plane.pins().map(map::REASONS);
    let sum = |reason: Reason| counts.get(&(reason as u32), 0).expect("a counter").iter().sum();
    Reason::ALL.iter().map(|&reason| (reason, sum(reason))).filter(|(_, sum)| *sum > 0).collect()
}

fn server(verdict_and_frame: &(u32, Vec<u8>)) -> u16 {
    assert_eq!(verdict_and_frame.0, XDP_TX);
    u16::from(verdict_and_frame.1[5])
}

#[test]
fn a_million_flows_stay_whatever_comes_and_who_comes_next_is_served_or_refused() {
    if !require_root("full_table") {
        return;
    }
    let netns = Netns::new(&test_name(0, "full"), Lifetime::WithProgram);
    netns.enter(|| {
        let mut plane = Plane::new(&netns, "", ROOM);
        serve(&mut plane);
        let flows = fill(&plane);
        let bytes = flow_table_bytes(ROOM[0], ROOM[1], ROOM[2]);
        println!("{} flows in tables of {} MiB", flows.len(), bytes >> 20);

        // Counted exactly, by the sweep and by what least-connection scheduling goes by.
        let census = plane.sweep();
        assert_eq!(census.established_v4, u64::from(FLOWS));
        let mut held = BTreeMap::new();
        for (_, slot) in &flows {
            *held.entry(*slot).or_insert(0u64) += 1;
        }
        assert_eq!(census.active_by_slot, held);
        let loads: Vec<[u64; 4]> = plane.pins().values(map::LOADS);
        for (slot, held) in &held {
            assert_eq!(loads[usize::from(*slot)][0], *held, "server {slot}");
        }

        // The next connection: direct routing goes on by the hash, NAT says no.
        for n in 1..=100u16 {
            let new = at(&format!("10.8.0.1:{n}"));
            let first = server(&plane.run(&segment(new, VIPS[0], SYN)));
            for flags in [ACK, ACK | PSH, ACK] {
                assert_eq!(server(&plane.run(&segment(new, VIPS[0], flags))), first, "connection {n}");
            }
            assert_eq!(plane.run(&segment(new, VIPS[1], SYN)).0, XDP_PASS, "the kernel refuses it");
        }
        let counted = reasons(&plane);
        assert_eq!(counted[&Reason::FlowRefused], 100);
        assert!(counted[&Reason::FlowTableFull] >= 100, "{counted:?}");

        let before = who(&plane);
        let mut random = Random::new(1);
        let mut frame = segment(at("11.0.0.1:1"), VIPS[0], SYN);
        for _ in 0..FLOOD {
            let word = random.any().to_le_bytes();
            frame[27..30].copy_from_slice(&word[..3]);
            frame[34..36].copy_from_slice(&word[4..6]);
            assert_eq!(plane.run(&frame).0, XDP_TX);
        }
        assert!(who(&plane) == before, "the flood changed the established flows");
        for (client, slot) in flows.iter().step_by(101) {
            assert_eq!(server(&plane.run(&segment(*client, VIPS[0], ACK))), *slot, "{client}");
        }
        assert_eq!(plane.sweep().established_v4, u64::from(FLOWS));

        // All of them end, and nothing is left of them.
        plane.pins().age(plane.settings().ticks(13 * 3600));
        let (first, second) = (plane.sweep(), plane.sweep());
        assert_eq!((first.established_v4, second.half_open), (0, 0));
        let loads: Vec<[u64; 4]> = plane.pins().values(map::LOADS);
        assert!(loads.iter().all(|load| load[0] == 0), "counts that nobody is left for");
    });
}
