//! The life of a flow: it stays with its server from its first packet to its last, whatever happens around it.

use std::collections::BTreeMap;

use lb_common::{
    backend::{Backend, state},
    counter::Reason,
    event::EventKind,
    flow::{Control, State},
    limits::map,
    net::{PROTO_TCP, PROTO_UDP},
    service::{Service, no_server, pick},
};
use lb_tests::{
    lab::require_root,
    model::{flows::place, parse::Flow},
    packet::{
        bench::{Bench, Op},
        case::{at, bench, slot_of},
        dut::{Options, XDP_DROP, live_backend},
        frame::{
            Frame,
            flags::{ACK, FIN, PSH, RST, SYN},
        },
    },
};

const VIP: &str = "10.0.0.100:104";
const VIP6: &str = "[2001:db8::100]:104";
const SERVERS: u16 = 3;

/// Three servers in turn, for TCP and UDP of both families.
fn three_servers(options: Options) -> Bench {
    let mut bench = bench(options, SERVERS);
    let keys = [VIP, VIP6].map(|vip| [(at(vip), PROTO_TCP), (at(vip), PROTO_UDP)]);
    bench.serve(0, Service::default(), keys.as_flattened(), &[0, 1, 2]);
    bench
}

fn one_bucket(half_open: u32) -> Options {
    Options { flows_v4: 4, half_open, ..Options::default() }
}

fn tcp(client: &str, flags: u8) -> Vec<u8> {
    let vip = if client.starts_with('[') { VIP6 } else { VIP };
    Frame::tcp(at(client), at(vip), flags).bytes()
}

fn udp(client: &str) -> Vec<u8> {
    let vip = if client.starts_with('[') { VIP6 } else { VIP };
    Frame::udp(at(client), at(vip), b"query").bytes()
}

/// Opens a flow as a client does and says which server it got.
fn open(bench: &mut Bench, client: &str) -> u16 {
    let slot = slot_of(&bench.run(&tcp(client, SYN)));
    assert_eq!(slot_of(&bench.run(&tcp(client, ACK))), slot);
    slot
}

/// States of the live IPv4 entries of a table.
fn states(bench: &mut Bench, table: &str) -> Vec<u8> {
    bench.dut.entries_v4(table).iter().map(|words| Control(words[0]).state()).collect()
}

fn count(bench: &mut Bench, reason: Reason) -> u64 {
    bench.counted().reasons.get(&reason).copied().unwrap_or(0)
}

#[test]
fn a_flow_stays_with_its_server_through_its_whole_life() {
    if !require_root("packet_flows") {
        return;
    }
    for client in ["10.1.0.1:1000", "[2001:db8:1::1]:1000"] {
        let mut bench = three_servers(Options::default());
        // What the client sends, and how much time passes before it.
        let steps: &[(u8, u32)] = &[
            (SYN, 0),
            (SYN, 8),
            (SYN, 30),
            (ACK, 1),
            (ACK | PSH, 0),
            (SYN, 0),
            (ACK, 100_000),
            (ACK | PSH, 7),
            (FIN | ACK, 9),
            (ACK, 3),
            (FIN | ACK, 2),
            (ACK, 10),
            (RST, 0),
        ];
        for &(flags, ticks) in steps {
            bench.set(&Op::Age(ticks));
            assert_eq!(slot_of(&bench.run(&tcp(client, flags))), 0, "{flags:#x} after {ticks} ticks");
            bench.compare_memory().unwrap();
        }
        let counted = bench.counted();
        assert_eq!((counted.services[&0].flows, counted.backends[&0].packets), (1, steps.len() as u64));
        assert_eq!(counted.reasons.len(), 0, "{:?}", counted.reasons);
    }
}

#[test]
fn a_flow_is_half_open_until_the_client_answers_the_server() {
    if !require_root("packet_flows") {
        return;
    }
    let mut bench = three_servers(Options::default());
    let client = "10.1.0.1:1000";
    for (flags, half_open, established) in [
        (SYN, Some(State::New), None),
        (SYN, Some(State::New), None),
        (ACK, None, Some(State::Established)),
        (FIN | ACK, None, Some(State::Closing)),
        (ACK, None, Some(State::Closing)),
        (RST, None, None),
    ] {
        bench.run(&tcp(client, flags));
        let one = |state: Option<State>| state.map(|state| state as u8).into_iter().collect::<Vec<_>>();
        assert_eq!(states(&mut bench, map::HALF_OPEN_V4), one(half_open), "after {flags:#x}");
        assert_eq!(states(&mut bench, map::FLOWS_V4), one(established), "after {flags:#x}");
    }
}

#[test]
fn a_second_datagram_establishes_a_udp_flow() {
    if !require_root("packet_flows") {
        return;
    }
    let mut bench = three_servers(Options::default());
    for client in ["10.1.0.1:1000", "[2001:db8:1::1]:1000"] {
        let slot = slot_of(&bench.run(&udp(client)));
        bench.compare_memory().unwrap();
        for ticks in [0, 8, 1000] {
            bench.set(&Op::Age(ticks));
            assert_eq!(slot_of(&bench.run(&udp(client))), slot);
        }
    }
    assert_eq!(states(&mut bench, map::FLOWS_V4), [State::Datagrams as u8]);
    assert!(states(&mut bench, map::HALF_OPEN_V4).is_empty());
    assert_eq!(bench.counted().services[&0].flows, 2);
}

#[test]
fn a_syn_after_fin_opens_a_new_flow_and_one_before_does_not() {
    if !require_root("packet_flows") {
        return;
    }
    let mut bench = three_servers(Options::default());
    let client = "10.1.0.1:1000";
    assert_eq!(open(&mut bench, client), 0);
    assert_eq!(slot_of(&bench.run(&tcp(client, SYN))), 0);
    assert_eq!(slot_of(&bench.run(&tcp(client, FIN | ACK))), 0);
    assert_eq!(slot_of(&bench.run(&tcp(client, SYN))), 1, "steered anew");
    assert_eq!(slot_of(&bench.run(&tcp(client, ACK))), 1);
    assert_eq!(bench.counted().services[&0].flows, 2);
    assert_eq!(bench.counted().reasons.len(), 0);
}

#[test]
fn a_reset_ends_a_flow_at_once() {
    if !require_root("packet_flows") {
        return;
    }
    let mut bench = three_servers(Options::default());
    assert_eq!(open(&mut bench, "10.1.0.1:1"), 0);
    assert_eq!(slot_of(&bench.run(&tcp("10.1.0.1:1", RST))), 0, "the server hears of it");
    assert_eq!(slot_of(&bench.run(&tcp("10.1.0.2:1", SYN))), 1);
    assert_eq!(slot_of(&bench.run(&tcp("10.1.0.2:1", RST | ACK))), 1, "a half-open one too");
    assert!(bench.dut.entries_v4(map::FLOWS_V4).is_empty());
    assert!(bench.dut.entries_v4(map::HALF_OPEN_V4).is_empty());
    // One for a flow that nobody knows is passed on and leaves nothing behind.
    bench.run(&tcp("10.1.0.3:1", RST));
    assert!(bench.dut.entries_v4(map::HALF_OPEN_V4).is_empty());
    assert_eq!((count(&mut bench, Reason::MidStream), bench.counted().services[&0].flows), (1, 2));
}

#[test]
fn a_connection_without_an_entry_is_steered_by_its_hash_and_then_remembered() {
    if !require_root("packet_flows") {
        return;
    }
    let client = "10.1.0.1:1000";
    let mut slots = Vec::new();
    for seed in 0..4 {
        let mut bench = three_servers(Options { seed, ..Options::default() });
        // Round robin has moved on by a different number of flows on each node.
        for n in 0..seed {
            open(&mut bench, &format!("10.2.0.1:{}", 1 + n));
        }
        let slot = slot_of(&bench.run(&tcp(client, ACK | PSH)));
        assert_eq!(slot_of(&bench.run(&tcp(client, ACK))), slot);
        assert_eq!(count(&mut bench, Reason::MidStream), 1, "the second segment finds the entry");
        slots.push(slot);
    }
    assert!(slots.iter().all(|slot| *slot == slots[0]), "every node chose alike: {slots:?}");
}

#[test]
fn flows_of_a_server_that_went_down_are_steered_anew_and_counted() {
    if !require_root("packet_flows") {
        return;
    }
    let mut bench = three_servers(Options::default());
    assert_eq!(open(&mut bench, "10.1.0.1:1"), 0);
    assert_eq!(slot_of(&bench.run(&tcp("10.1.0.2:1", SYN))), 1);
    assert_eq!(open(&mut bench, "10.1.0.3:1"), 2);
    for slot in [0, 1] {
        bench.set(&Op::Backend(slot, Backend { state: state::DEAD, generation: 2, ..live_backend(slot) }));
    }
    bench.set(&Op::Table(0, vec![2]));
    assert_eq!(slot_of(&bench.run(&tcp("10.1.0.1:1", ACK))), 2, "established");
    assert_eq!(slot_of(&bench.run(&tcp("10.1.0.2:1", SYN))), 2, "half-open");
    assert_eq!(slot_of(&bench.run(&tcp("10.1.0.3:1", ACK))), 2, "not concerned");
    assert_eq!(count(&mut bench, Reason::FlowOrphaned), 2);
    assert_eq!(count(&mut bench, Reason::MidStream), 1, "only the established one was under way");
    bench.compare_memory().unwrap();
}

#[test]
fn a_server_that_came_back_does_not_get_the_flows_it_lost() {
    if !require_root("packet_flows") {
        return;
    }
    let mut bench = three_servers(Options::default());
    assert_eq!(open(&mut bench, "10.1.0.1:1"), 0);
    bench.set(&Op::Backend(0, Backend { generation: 2, ..live_backend(0) }));
    bench.set(&Op::Table(0, vec![1]));
    assert_eq!(slot_of(&bench.run(&tcp("10.1.0.1:1", ACK))), 1, "live, but another generation");
    assert_eq!(count(&mut bench, Reason::FlowOrphaned), 1);
    // Nor by dying without a raised generation.
    assert_eq!(open(&mut bench, "10.1.0.2:1"), 1);
    bench.set(&Op::Backend(1, Backend { state: state::DEAD, ..live_backend(1) }));
    bench.set(&Op::Table(0, vec![2]));
    assert_eq!(slot_of(&bench.run(&tcp("10.1.0.2:1", ACK))), 2);
}

#[test]
fn an_orphan_without_another_server_meets_the_services_rule() {
    if !require_root("packet_flows") {
        return;
    }
    let mut bench = three_servers(Options::default());
    bench.set(&Op::Service(0, Service { mode: 1, no_server: no_server::DROP, ..Service::default() }));
    open(&mut bench, "10.1.0.1:1");
    bench.set(&Op::Backend(0, Backend { state: state::DEAD, generation: 2, ..live_backend(0) }));
    bench.set(&Op::Table(0, vec![]));
    assert_eq!(bench.run(&tcp("10.1.0.1:1", ACK)).verdict, XDP_DROP);
    assert_eq!(count(&mut bench, Reason::FlowOrphaned), 1);
    assert_eq!(bench.run(&tcp("10.1.0.1:1", ACK)).verdict, XDP_DROP);
    assert_eq!((count(&mut bench, Reason::FlowOrphaned), count(&mut bench, Reason::NoServerDrop)), (1, 2));
}

#[test]
fn flows_of_a_draining_server_and_of_a_service_without_servers_go_on() {
    if !require_root("packet_flows") {
        return;
    }
    let mut bench = three_servers(Options::default());
    assert_eq!(open(&mut bench, "10.1.0.1:1"), 0);
    assert_eq!(slot_of(&bench.run(&tcp("10.1.0.2:1", SYN))), 1);
    bench.set(&Op::Table(0, vec![2]));
    assert_eq!(slot_of(&bench.run(&tcp("10.1.0.1:1", ACK))), 0);
    assert_eq!(slot_of(&bench.run(&tcp("10.1.0.2:1", ACK))), 1, "half-open ones too");
    assert_eq!(slot_of(&bench.run(&tcp("10.1.0.3:1", SYN))), 2, "new ones go elsewhere");
    bench.set(&Op::Table(0, vec![]));
    assert_eq!(slot_of(&bench.run(&tcp("10.1.0.1:1", ACK))), 0);
}

#[test]
fn a_full_bucket_keeps_its_flows_and_the_next_one_is_forwarded_without_an_entry() {
    if !require_root("packet_flows") {
        return;
    }
    let mut bench = three_servers(one_bucket(1024));
    let slots: Vec<u16> = (1..=4).map(|n| open(&mut bench, &format!("10.1.0.{n}:1"))).collect();
    let fifth = open(&mut bench, "10.1.0.5:1");
    assert_eq!(count(&mut bench, Reason::FlowTableFull), 1);
    let events = bench.dut.events();
    assert_eq!(events.len(), 1, "{events:?}");
    let event = events[0];
    assert_eq!((event.kind, event.service, event.family), (EventKind::FlowTableFull as u32, 0, 4));
    assert_eq!(event.client[0] as u32, u32::from_ne_bytes([10, 1, 0, 5]), "it names the flow");
    for _ in 0..3 {
        bench.set(&Op::Age(20));
        assert_eq!(slot_of(&bench.run(&tcp("10.1.0.5:1", ACK))), fifth, "it stays half-open");
    }
    for (n, slot) in (1..=4).zip(slots) {
        assert_eq!(slot_of(&bench.run(&tcp(&format!("10.1.0.{n}:1"), ACK))), slot, "untouched");
    }
    // Room comes free, and the next packet takes it.
    bench.run(&tcp("10.1.0.2:1", RST));
    assert_eq!(slot_of(&bench.run(&tcp("10.1.0.5:1", ACK))), fifth);
    assert_eq!(states(&mut bench, map::FLOWS_V4).len(), 4);
    assert!(states(&mut bench, map::HALF_OPEN_V4).is_empty());
}

#[test]
fn the_oldest_half_open_flow_makes_room() {
    if !require_root("packet_flows") {
        return;
    }
    let mut bench = three_servers(one_bucket(4));
    let slots: Vec<u16> = (1..=4)
        .map(|n| {
            bench.set(&Op::Age(30));
            slot_of(&bench.run(&tcp(&format!("10.1.0.{n}:1"), SYN)))
        })
        .collect();
    // A repeated SYN makes the first one young again; the second is the oldest now.
    bench.run(&tcp("10.1.0.1:1", SYN));
    bench.run(&tcp("10.1.0.5:1", SYN));
    assert_eq!(count(&mut bench, Reason::HalfOpenOverwritten), 1);
    assert_eq!(bench.dut.events()[0].kind, EventKind::HalfOpenOverwritten as u32);
    for n in [1, 3, 4] {
        let slot = slot_of(&bench.run(&tcp(&format!("10.1.0.{n}:1"), ACK)));
        assert_eq!(slot, slots[n - 1], "client {n} is still known");
    }
    assert_eq!(count(&mut bench, Reason::MidStream), 0);
    bench.run(&tcp("10.1.0.2:1", ACK));
    assert_eq!(count(&mut bench, Reason::MidStream), 1, "client 2 is not");
}

#[test]
fn during_a_flood_a_client_finds_the_same_server_without_an_entry() {
    if !require_root("packet_flows") {
        return;
    }
    let mut bench = three_servers(one_bucket(4));
    let flood = |bench: &mut Bench| {
        for n in 0..8 {
            bench.run(&tcp(&format!("10.9.0.{n}:1"), SYN));
        }
    };
    for n in 0..20 {
        let client = format!("10.1.0.{n}:1");
        flood(&mut bench);
        let slot = slot_of(&bench.run(&tcp(&client, SYN)));
        flood(&mut bench);
        assert_eq!(slot_of(&bench.run(&tcp(&client, ACK))), slot, "client {n}");
        bench.run(&tcp(&client, RST));
    }
    assert_eq!(count(&mut bench, Reason::MidStream), 20, "every entry had been overwritten");
}

#[test]
fn a_time_just_ahead_of_this_cpus_clock_is_now_and_not_long_ago() {
    if !require_root("packet_flows") {
        return;
    }
    // Another CPU writes its tick after this one read its own.
    let ahead = |c: Control| if c.is_live() { Control(c.0 & !0xffff_ffff | 1) } else { c };
    let mut bench = three_servers(one_bucket(4));
    bench.run(&tcp("10.1.0.1:1", SYN));
    bench.dut.age(50);
    for n in 2..=4 {
        bench.run(&tcp(&format!("10.1.0.{n}:1"), SYN));
    }
    let old = |c: Control| c.last_seen() != 0;
    bench.dut.set_controls_v4(map::HALF_OPEN_V4, |c| if old(c) { c } else { ahead(c) });
    bench.dut.run(&tcp("10.1.0.5:1", SYN));
    let seen: Vec<u32> =
        bench.dut.entries_v4(map::HALF_OPEN_V4).iter().map(|words| Control(words[0]).last_seen()).collect();
    assert_eq!(seen.iter().filter(|seen| **seen == 1).count(), 3, "the old one made room: {seen:?}");
    // Now all are young, so this is a flood and the hash decides: the same server again, unlike round robin.
    bench.dut.set_controls_v4(map::HALF_OPEN_V4, ahead);
    let first = slot_of(&bench.dut.run(&tcp("10.1.0.6:1", SYN)));
    for n in 7..12 {
        bench.dut.set_controls_v4(map::HALF_OPEN_V4, ahead);
        bench.dut.run(&tcp(&format!("10.1.0.{n}:1"), SYN));
    }
    bench.dut.set_controls_v4(map::HALF_OPEN_V4, ahead);
    assert_eq!(slot_of(&bench.dut.run(&tcp("10.1.0.6:1", ACK))), first);
}

#[test]
fn a_flow_that_another_cpu_is_writing_is_not_split_between_two_servers() {
    if !require_root("packet_flows") {
        return;
    }
    let options = one_bucket(4);
    let mut dut = three_servers(options).dut;
    let [client, vip] = [at("10.1.0.1:1"), at(VIP)];
    let flow = Flow { src: client, dst: vip, proto: PROTO_TCP };
    let tag = (place(options.seed, &flow) >> 56) as u8;
    let frame = tcp("10.1.0.1:1", SYN);
    // As if other CPUs had claimed every way of the bucket for this flow and not published yet.
    dut.set_controls_v4(map::HALF_OPEN_V4, |_| Control::new(1, tag, State::Busy, 0));
    let ran = dut.run(&frame);
    assert_eq!((ran.verdict, ran.frame), (XDP_DROP, frame.clone()));
    assert_eq!(dut.reasons(), BTreeMap::from([(Reason::TwinPacket, 1)]));
    // For others: there is no entry to be had, so the hash decides each time anew.
    dut.set_controls_v4(map::HALF_OPEN_V4, |_| Control::new(1, !tag, State::Busy, 0));
    let slot = slot_of(&dut.run(&frame));
    assert_eq!(dut.reasons()[&Reason::EntryTaken], 1);
    dut.set_controls_v4(map::HALF_OPEN_V4, |control| control.with(State::Free, 0));
    assert_eq!(slot_of(&dut.run(&tcp("10.1.0.1:1", ACK))), slot);
}

#[test]
fn events_that_find_no_room_are_counted_and_cost_no_packet() {
    if !require_root("packet_flows") {
        return;
    }
    let mut bench = three_servers(Options { event_bytes: 4096, ..Options::default() });
    bench.set(&Op::Table(0, vec![]));
    for n in 1..=100 {
        bench.dut.forget_ticks();
        bench.dut.run(&tcp(&format!("10.1.0.1:{n}"), SYN));
    }
    let counted = bench.counted().reasons;
    let told = bench.dut.events().len() as u64;
    assert_eq!(counted[&Reason::NoServerReject], 100);
    assert!(told > 0 && counted[&Reason::EventLost] == 100 - told, "{told} told, {counted:?}");
    bench.dut.forget_ticks();
    bench.dut.run(&tcp("10.1.0.2:1", SYN));
    assert_eq!(bench.dut.events().len(), 1, "an emptied ring takes events again");
}

#[test]
fn one_event_of_a_kind_is_sent_per_tick() {
    if !require_root("packet_flows") {
        return;
    }
    let mut bench = three_servers(Options::default());
    bench.set(&Op::Table(0, vec![]));
    for n in 1..=100 {
        bench.run(&tcp(&format!("10.1.0.1:{n}"), SYN));
    }
    let events = bench.dut.events();
    assert_eq!(events.len(), 1);
    assert_eq!((events[0].kind, events[0].proto), (EventKind::NoServer as u32, PROTO_TCP));
}

#[test]
fn a_flow_keeps_its_server_when_its_service_changes_or_goes() {
    if !require_root("packet_flows") {
        return;
    }
    let mut bench = three_servers(Options::default());
    assert_eq!(open(&mut bench, "10.1.0.1:1"), 0);
    bench.set(&Op::Service(0, Service { mode: 1, pick: pick::HASH_CLIENT, ..Service::default() }));
    assert_eq!(slot_of(&bench.run(&tcp("10.1.0.1:1", ACK))), 0);
    // Another port keeps the address balanced; the flow's own port is gone.
    bench.set(&Op::AddKey(at("10.0.0.100:105"), PROTO_TCP, 0));
    bench.set(&Op::RemoveKey(at(VIP), PROTO_TCP));
    assert_eq!(slot_of(&bench.run(&tcp("10.1.0.1:1", ACK))), 0);
}
