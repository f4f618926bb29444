//! Who gets a new flow: round robin by weight, hashes, persistence, and what happens when there is nobody.

use std::{collections::BTreeMap, net::IpAddr};

use lb_common::{
    backend::{Backend, state},
    counter::Reason,
    event::EventKind,
    flow::Ends,
    hash,
    maglev::{self, Entrant, Walk},
    net::{PROTO_TCP, PROTO_UDP, mapped},
    service::{Service, mode, no_server, pick},
};
use lb_tests::{
    lab::require_root,
    packet::{
        bench::{Bench, Op, table},
        case::{at, bench, slot_of},
        dut::{Options, XDP_DROP, XDP_PASS, live_backend},
        frame::{
            Frame,
            flags::{ACK, RST, SYN},
        },
    },
};

const VIP: &str = "10.0.0.100:104";

/// `servers` live servers, each once in the table of service 0.
fn serving(servers: u16, service: Service) -> Bench {
    let mut bench = bench(Options::default(), servers);
    let slots: Vec<u16> = (0..servers).collect();
    bench.serve(0, service, &[(at(VIP), PROTO_TCP)], &slots);
    bench
}

fn syn(client: &str, vip: &str) -> Vec<u8> {
    Frame::tcp(at(client), at(vip), SYN).bytes()
}

/// The server of a flow that its client proves.
fn proved(bench: &mut Bench, client: &str, vip: &str) -> u16 {
    let slot = slot(bench, client, vip);
    let answer = bench.run(&Frame::tcp(at(client), at(vip), ACK).bytes());
    assert_eq!(slot_of(&answer), slot);
    slot
}

fn slot(bench: &mut Bench, client: &str, vip: &str) -> u16 {
    slot_of(&bench.run(&syn(client, vip)))
}

/// How many of `flows` new flows each slot gets.
fn shares(bench: &mut Bench, flows: u32) -> BTreeMap<u16, u32> {
    let mut shares = BTreeMap::new();
    for n in 0..flows {
        let client = format!("10.1.{}.{}:1000", n / 250, n % 250);
        let slot = slot(bench, &client, VIP);
        *shares.entry(slot).or_default() += 1;
        bench.run(&Frame::tcp(at(&client), at(VIP), RST).bytes());
    }
    shares
}

fn entrants(weights: &[u16]) -> Vec<Entrant> {
    let entrant = |(slot, &weight): (usize, &u16)| {
        let ip: IpAddr = [10, 3, 0, slot as u8].into();
        Entrant { identity: maglev::identity(&mapped(ip), 104), weight, slot: slot as u16 }
    };
    weights.iter().enumerate().map(entrant).collect()
}

#[test]
fn round_robin_gives_every_server_exactly_its_weights_share() {
    if !require_root("packet_steer") {
        return;
    }
    let mut bench = serving(4, Service::default());
    let weights = [100, 50, 0, 150];
    let mut places = table(&[]);
    let mut walks = [Walk::default(); 4];
    let period = maglev::fill_round_robin(&mut places.slots, &entrants(&weights), &mut walks);
    bench.set(&Op::Table(0, places.slots[..period as usize].to_vec()));
    assert_eq!(shares(&mut bench, 6 * 20), BTreeMap::from([(0, 40), (1, 20), (3, 60)]));
}

#[test]
fn round_robin_survives_a_table_that_grows_or_shrinks_under_it() {
    if !require_root("packet_steer") {
        return;
    }
    let mut bench = serving(4, Service::default());
    assert_eq!(shares(&mut bench, 3), BTreeMap::from([(0, 1), (1, 1), (2, 1)]));
    bench.set(&Op::Table(0, vec![1, 3]));
    assert_eq!(shares(&mut bench, 4), BTreeMap::from([(1, 2), (3, 2)]), "the cursor was beyond the end");
    bench.set(&Op::Table(0, vec![0, 1, 2, 3]));
    assert_eq!(shares(&mut bench, 8).values().sum::<u32>(), 8);
}

#[test]
fn maglev_sends_every_flow_where_the_shared_table_says() {
    if !require_root("packet_steer") {
        return;
    }
    let mut bench = serving(5, Service { pick: pick::HASH_FLOW, ..Service::default() });
    let mut places = table(&[]);
    let mut walks = [Walk::default(); 5];
    assert!(maglev::fill_maglev(&mut places.slots, &entrants(&[100, 100, 50, 0, 100]), &mut walks));
    bench.set(&Op::Table(0, places.slots.to_vec()));
    let mut seen = BTreeMap::new();
    for n in 0..400u16 {
        let client = [10, 1, 0, n as u8];
        let port = 1000 + n;
        let is = slot(&mut bench, &format!("10.1.0.{}:{port}", n as u8), VIP);
        // The contract with the other nodes: this hash, the upper half of it, mapped onto the places.
        let ends = Ends::between((client, port).into(), ([10, 0, 0, 100], 104).into(), PROTO_TCP);
        let hash = hash::steer(ends.src, ends.dst, ends.ports_word());
        assert_eq!(is, places.slots[(hash >> 48) as usize]);
        *seen.entry(is).or_insert(0) += 1;
    }
    assert_eq!(seen.keys().copied().collect::<Vec<_>>(), [0, 1, 2, 4], "weight 0 takes none: {seen:?}");
}

#[test]
fn source_hash_sends_all_flows_of_a_client_to_one_server() {
    if !require_root("packet_steer") {
        return;
    }
    let mut bench = serving(7, Service { pick: pick::HASH_CLIENT, ..Service::default() });
    bench.set(&Op::AddKey(at("10.0.0.101:80"), PROTO_TCP, 0));
    let mut servers = BTreeMap::new();
    for host in 1..=30 {
        let first = slot(&mut bench, &format!("10.1.0.{host}:1"), VIP);
        for port in 2..10 {
            assert_eq!(slot(&mut bench, &format!("10.1.0.{host}:{port}"), VIP), first);
        }
        assert_eq!(slot(&mut bench, &format!("10.1.0.{host}:1"), "10.0.0.101:80"), first);
        *servers.entry(first).or_insert(0) += 1;
    }
    assert!(servers.len() > 4, "clients spread: {servers:?}");
}

#[test]
fn ports_and_protocols_lead_to_their_own_services() {
    if !require_root("packet_steer") {
        return;
    }
    let mut bench = bench(Options::default(), 6);
    bench.serve(0, Service::default(), &[(at(VIP), PROTO_TCP), (at("10.0.0.100:11112"), PROTO_TCP)], &[0]);
    bench.serve(1, Service::default(), &[(at(VIP), PROTO_UDP)], &[1]);
    bench.serve(2, Service::default(), &[(at("10.0.0.101:104"), PROTO_TCP)], &[2]);
    bench.serve(3, Service::default(), &[(at("10.0.0.100:0"), PROTO_TCP)], &[3]);
    bench.serve(4, Service::default(), &[(at("[2001:db8::100]:0"), PROTO_TCP)], &[4]);
    bench.serve(5, Service::default(), &[(at("[2001:db8::100]:104"), PROTO_TCP)], &[5]);
    let client = "10.1.0.1:1000";
    let udp = |vip: &str| Frame::udp(at(client), at(vip), b"x").bytes();
    assert_eq!(slot(&mut bench, client, VIP), 0);
    assert_eq!(slot(&mut bench, client, "10.0.0.100:11112"), 0, "another port of the same VIP");
    assert_eq!(slot_of(&bench.run(&udp(VIP))), 1, "the same port of another protocol");
    assert_eq!(slot(&mut bench, client, "10.0.0.101:104"), 2, "the same port of another VIP");
    assert_eq!(slot(&mut bench, client, "10.0.0.100:9"), 3, "every other port");
    assert_eq!(bench.run(&udp("10.0.0.100:9")).verdict, XDP_PASS, "of that protocol only");
    assert_eq!(slot(&mut bench, "[2001:db8:1::1]:1", "[2001:db8::100]:65535"), 4);
    assert_eq!(slot(&mut bench, "[2001:db8:1::1]:1", "[2001:db8::100]:104"), 5);
    let counted = bench.counted();
    assert_eq!(counted.services[&0].flows, 2);
    assert_eq!(counted.reasons, BTreeMap::from([(Reason::NoService, 1)]));
}

#[test]
fn a_service_without_servers_rejects_or_drops_as_it_says() {
    if !require_root("packet_steer") {
        return;
    }
    for (rule, verdict, reason) in [
        (no_server::REJECT, XDP_PASS, Reason::NoServerReject),
        (no_server::DROP, XDP_DROP, Reason::NoServerDrop),
    ] {
        let mut bench = serving(1, Service { no_server: rule, ..Service::default() });
        bench.set(&Op::Table(0, vec![]));
        let frame = syn("10.1.0.1:1", VIP);
        let ran = bench.run(&frame);
        assert_eq!((ran.verdict, ran.frame), (verdict, frame), "unchanged");
        bench.run(&Frame::tcp(at("10.1.0.1:1"), at(VIP), ACK).bytes());
        assert_eq!(bench.counted().reasons, BTreeMap::from([(reason, 2)]));
        assert_eq!(bench.counted().services.len(), 0, "no flow was made");
        let events = bench.dut.events();
        assert_eq!((events.len(), events[0].kind), (1, EventKind::NoServer as u32));
    }
}

#[test]
fn a_service_whose_table_was_never_written_has_no_servers() {
    if !require_root("packet_steer") {
        return;
    }
    let mut bench = bench(Options::default(), 1);
    bench.set(&Op::Service(0, Service { mode: mode::DR, ..Service::default() }));
    bench.set(&Op::AddKey(at(VIP), PROTO_TCP, 0));
    assert_eq!(bench.run(&syn("10.1.0.1:1", VIP)).verdict, XDP_PASS);
    assert_eq!(bench.counted().reasons, BTreeMap::from([(Reason::NoServerReject, 1)]));
}

#[test]
fn a_table_that_names_a_dead_server_costs_the_packet_and_nothing_else() {
    if !require_root("packet_steer") {
        return;
    }
    let mut bench = serving(2, Service::default());
    bench.set(&Op::Backend(0, Backend { state: state::DEAD, ..live_backend(0) }));
    let frame = syn("10.1.0.1:1", VIP);
    let ran = bench.run(&frame);
    assert_eq!((ran.verdict, ran.frame), (XDP_DROP, frame.clone()));
    assert_eq!(slot_of(&bench.run(&frame)), 1, "the client repeats itself, and the next place is alive");
    assert_eq!(bench.counted().reasons, BTreeMap::from([(Reason::StaleTable, 1)]));
}

/// Persistence of `prefix` bits for 100 ticks.
const fn sticky(prefix: u8) -> Service {
    Service {
        mode: mode::DR,
        pick: pick::ROTATE,
        no_server: no_server::REJECT,
        persist_prefix: prefix,
        flags: 0,
        pad: [0; 3],
        persist_ticks: 100,
        persist_group: 7,
    }
}

#[test]
fn a_client_comes_back_to_its_server_until_it_was_away_too_long() {
    if !require_root("packet_steer") {
        return;
    }
    let mut bench = serving(3, sticky(32));
    assert_eq!(proved(&mut bench, "10.1.0.1:1", VIP), 0);
    assert_eq!(proved(&mut bench, "10.1.0.2:1", VIP), 1, "another client is another matter");
    // Each flow keeps the entry young.
    for port in 2..12 {
        bench.set(&Op::Age(90));
        assert_eq!(slot(&mut bench, &format!("10.1.0.1:{port}"), VIP), 0);
        bench.compare_memory().unwrap();
    }
    bench.set(&Op::Age(99));
    assert_eq!(slot(&mut bench, "10.1.0.1:100", VIP), 0);
    bench.set(&Op::Age(100));
    assert_eq!(slot(&mut bench, "10.1.0.1:101", VIP), 2, "steered anew");
    assert_eq!(slot(&mut bench, "10.1.0.1:102", VIP), 2, "and kept there");
}

#[test]
fn persistence_looks_at_the_prefix_in_either_family() {
    if !require_root("packet_steer") {
        return;
    }
    const VIP6: &str = "[2001:db8::100]:104";
    // Prefix, two clients of one network, one of another.
    for (prefix, vip, same, other) in [
        (24, VIP, ["10.1.0.1:1", "10.1.0.254:1"], "10.1.1.1:1"),
        (20, VIP, ["10.1.0.1:1", "10.1.15.1:1"], "10.1.16.1:1"),
        (32, VIP, ["10.1.0.1:1", "10.1.0.1:2"], "10.1.0.2:1"),
        (1, VIP, ["10.1.0.1:1", "127.1.0.1:1"], "192.1.0.1:1"),
        (48, VIP6, ["[2001:db8:1:1::1]:1", "[2001:db8:1:2::2]:1"], "[2001:db8:2::1]:1"),
        (64, VIP6, ["[2001:db8:1::1]:1", "[2001:db8:1::ffff]:1"], "[2001:db8:1:1::1]:1"),
        (112, VIP6, ["[2001:db8::1]:1", "[2001:db8::2]:1"], "[2001:db8::1:1]:1"),
        (128, VIP6, ["[2001:db8::1]:1", "[2001:db8::1]:2"], "[2001:db8::2]:1"),
    ] {
        let mut bench = bench(Options::default(), 3);
        bench.serve(0, sticky(prefix), &[(at(vip), PROTO_TCP)], &[0, 1, 2]);
        assert_eq!(slot(&mut bench, same[0], vip), 0, "/{prefix}");
        assert_eq!(slot(&mut bench, same[1], vip), 0, "/{prefix}");
        assert_eq!(slot(&mut bench, other, vip), 1, "/{prefix}");
        bench.compare_memory().unwrap();
    }
}

#[test]
fn all_ports_of_a_vip_share_persistence_and_other_vips_have_their_own() {
    if !require_root("packet_steer") {
        return;
    }
    let mut bench = serving(3, sticky(32));
    bench.set(&Op::AddKey(at("10.0.0.100:11112"), PROTO_TCP, 0));
    bench.set(&Op::AddKey(at(VIP), PROTO_UDP, 0));
    let other = Service { persist_group: 8, ..sticky(32) };
    bench.serve(1, other, &[(at("10.0.0.101:104"), PROTO_TCP)], &[2, 1]);
    let client = "10.1.0.1:1";
    assert_eq!(proved(&mut bench, client, VIP), 0);
    assert_eq!(slot(&mut bench, client, "10.0.0.100:11112"), 0);
    assert_eq!(slot_of(&bench.run(&Frame::udp(at(client), at(VIP), b"").bytes())), 0);
    assert_eq!(proved(&mut bench, client, "10.0.0.101:104"), 2);
    assert_eq!(bench.dut.persisted().len(), 2);
}

#[test]
fn a_dead_servers_clients_get_another_and_stay_there() {
    if !require_root("packet_steer") {
        return;
    }
    for backend in [
        Backend { state: state::DEAD, ..live_backend(0) },
        Backend { generation: 2, ..live_backend(0) },
        Backend { state: state::DEAD, generation: 2, ..live_backend(0) },
    ] {
        let mut bench = serving(3, sticky(32));
        assert_eq!(slot(&mut bench, "10.1.0.1:1", VIP), 0);
        bench.set(&Op::Backend(0, backend));
        bench.set(&Op::Table(0, vec![1, 2]));
        let next = slot(&mut bench, "10.1.0.1:2", VIP);
        assert_ne!(next, 0);
        assert_eq!(slot(&mut bench, "10.1.0.1:3", VIP), next);
        bench.set(&Op::Backend(0, Backend { generation: 3, ..live_backend(0) }));
        bench.set(&Op::Table(0, vec![0, 1, 2]));
        assert_eq!(slot(&mut bench, "10.1.0.1:4", VIP), next, "the old one is back, the client is not");
    }
}

#[test]
fn a_draining_servers_clients_keep_it_as_long_as_it_lives() {
    if !require_root("packet_steer") {
        return;
    }
    let mut bench = serving(2, sticky(32));
    assert_eq!(slot(&mut bench, "10.1.0.1:1", VIP), 0);
    bench.set(&Op::Table(0, vec![1]));
    assert_eq!(slot(&mut bench, "10.1.0.1:2", VIP), 0, "known");
    assert_eq!(slot(&mut bench, "10.1.0.2:1", VIP), 1, "unknown");
    bench.set(&Op::Table(0, vec![]));
    assert_eq!(slot(&mut bench, "10.1.0.1:3", VIP), 0);
}

#[test]
fn a_client_without_room_for_its_entry_is_steered_all_the_same() {
    if !require_root("packet_steer") {
        return;
    }
    let mut bench = bench(Options { persist: 2, ..Options::default() }, 3);
    bench.serve(0, sticky(32), &[(at(VIP), PROTO_TCP)], &[0, 1, 2]);
    let slots: Vec<u16> = (1..=4).map(|host| proved(&mut bench, &format!("10.1.0.{host}:1"), VIP)).collect();
    assert_eq!(slots, [0, 1, 2, 0]);
    assert_eq!(bench.counted().reasons, BTreeMap::from([(Reason::PersistTableFull, 2)]));
    assert_eq!(slot(&mut bench, "10.1.0.2:2", VIP), 1, "those who have one keep it");
}

#[test]
fn a_persistence_entry_just_ahead_of_this_cpus_clock_counts() {
    if !require_root("packet_steer") {
        return;
    }
    let mut bench = serving(3, sticky(32));
    assert_eq!(slot(&mut bench, "10.1.0.1:1", VIP), 0);
    // Minus one tick: another CPU has seen the next tick already.
    bench.dut.age(u32::MAX);
    assert_eq!(slot_of(&bench.dut.run(&syn("10.1.0.1:2", VIP))), 0);
}
