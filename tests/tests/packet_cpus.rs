//! NAT and SNAT under several CPUs at a time, in the kernel: a flow has one source, a source has one flow, entries come in
//! pairs, and a way to the client is never half of two.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    thread,
};

use lb_common::{
    backend::LinkRecord,
    counter::Reason,
    flow::{Control, State},
    limits::map,
    net::{Mac, PROTO_TCP, words},
    service::{Service, Sources, mode, pick},
};
use lb_tests::{
    lab::require_root,
    model::{flows::Entry, parse::Flow},
    packet::{
        bench::{pin_to_cpu, table},
        case::{at, ip},
        compare::entries,
        cpus::{Meeting, two_cpus},
        dut::{Dut, Options, XDP_DROP, XDP_PASS, XDP_TX, live_backend},
        frame::{
            Frame,
            flags::{ACK, FIN, PSH, RST, SYN},
        },
        talk::{NETS, Net},
    },
    random::Random,
};

fn loaded(options: Options, mode: u8, ports: u16) -> Dut {
    let mut dut = Dut::load(options);
    dut.set_link(1, LinkRecord { mac: Mac([2, 0x1b, 0, 0, 0, 1]), mtu: 0 });
    for (id, net) in (0..).zip(NETS) {
        let slots = [net.slot, net.slot + 1];
        for slot in slots {
            dut.set_backend(slot, live_backend(slot));
            dut.set_target(slot, SocketAddr::new(at(net.server).ip(), 11112 + slot));
        }
        let mut sources = Sources { count: 2, first_port: 20_000, ports, ..Sources::default() };
        for (to, from) in sources.addrs.iter_mut().zip(net.sources) {
            *to = words(ip(from));
        }
        dut.set_sources(id, sources);
        // Round robin: two decisions for one flow would differ.
        dut.set_service(id, Service { mode, pick: pick::ROTATE, ..Service::default() });
        dut.set_table(id, &table(&slots));
        dut.add_key(at(net.vip), PROTO_TCP, id);
    }
    dut
}

fn flow(n: usize) -> (Flow, Net) {
    let net = NETS[n % 2];
    let client = SocketAddr::new(at(net.client).ip(), 1024 + n as u16);
    (Flow { src: client, dst: at(net.vip), proto: PROTO_TCP }, net)
}

/// Source and destination of a forwarded frame, as bytes.
fn inside_of(out: &[u8], net: Net) -> Vec<u8> {
    let range = if net.slot == 0 { 26..38 } else { 22..58 };
    out[range].to_vec()
}

/// Every live entry of both tables of both families. A flow that stands in both is there twice.
fn all_entries(dut: &Dut) -> Vec<Entry> {
    [map::FLOWS_V4, map::FLOWS_V6, map::HALF_OPEN_V4, map::HALF_OPEN_V6]
        .iter()
        .flat_map(|name| entries(dut, name, 1 << 33))
        .collect()
}

fn assert_settled(dut: &Dut) {
    for name in [map::FLOWS_V4, map::HALF_OPEN_V4] {
        let unsettled =
            |words: &[u64; 8]| [State::Busy as u8, State::Moving as u8].contains(&Control(words[0]).state());
        assert!(!dut.words_v4(name).iter().any(unsettled), "{name}: busy or moving for ever");
    }
}

/// What both workers sent for each flow, source and destination; and what they neither sent nor dropped.
struct Sent {
    inside: Vec<BTreeSet<Vec<u8>>>,
    left: usize,
}

const FLOWS: usize = 2000;

/// Sends the first packets of [`FLOWS`] flows on two CPUs at a time.
fn begin_on_two_cpus(dut: &Dut) -> Sent {
    let (meeting, cpus) = (Meeting::default(), two_cpus());
    let sent = thread::scope(|scope| {
        let workers = [0, 1].map(|worker: usize| {
            let (runner, meeting) = (dut.runner(), &meeting);
            scope.spawn(move || {
                pin_to_cpu(cpus[worker]);
                let (mut own, mut out) = (Random::new(worker as u64), Vec::new());
                let mut sent = Sent { inside: Vec::new(), left: 0 };
                for n in 0..FLOWS {
                    let (flow, net) = flow(n);
                    let frames =
                        [SYN, ACK, ACK | PSH, ACK].map(|flags| Frame::tcp(flow.src, flow.dst, flags).bytes());
                    let mut inside = BTreeSet::new();
                    meeting.wait(2, n);
                    for _ in 0..own.below(300) {
                        std::hint::spin_loop();
                    }
                    for frame in &frames {
                        match runner.run(frame, &mut out) {
                            XDP_DROP => {}
                            XDP_TX => drop(inside.insert(inside_of(&out, net))),
                            _ => sent.left += 1,
                        }
                    }
                    sent.inside.push(inside);
                }
                sent
            })
        });
        workers.map(|worker| worker.join().expect("a worker ends"))
    });
    let [mut one, other] = sent;
    one.left += other.left;
    for (one, other) in one.inside.iter_mut().zip(other.inside) {
        one.extend(other);
    }
    one
}

fn assert_every_flow_has_one_source(sent: &Sent, mode: u8) {
    let mut owners: BTreeMap<&[u8], usize> = BTreeMap::new();
    for (n, inside) in sent.inside.iter().enumerate() {
        assert!(inside.len() <= 1, "mode {mode}: flow {n} was seen as {inside:?}");
        for inside in inside {
            let other = owners.insert(inside, n);
            assert_eq!(other, None, "mode {mode}: flow {n} shares {inside:?}");
        }
    }
}

/// Every entry leads to one that leads back. A flow may have one in either table, while a pair is between them.
fn assert_pairs_are_whole(all: &[Entry], mode: u8) {
    for entry in all {
        let leads_back =
            |other: &&Entry| Some(other.flow) == entry.sibling() && other.sibling() == Some(entry.flow);
        assert!(all.iter().any(|other| leads_back(&other)), "mode {mode}: half a pair: {entry:?}");
    }
}

#[test]
fn a_flow_whose_packets_come_in_on_two_cpus_has_one_source_and_shares_it_with_nobody() {
    if !require_root("packet_cpus") {
        return;
    }
    for mode in [mode::NAT, mode::SNAT] {
        // Room for all of them: no entry is ever lost to another flow, and no bucket is full.
        let room = Options { flows_v4: 1 << 17, flows_v6: 1 << 17, half_open: 1 << 17, ..Options::default() };
        let mut dut = loaded(room, mode, 5000);
        let sent = begin_on_two_cpus(&dut);
        println!("mode {mode}: {:?}", dut.reasons());
        assert_eq!(sent.left, 0, "mode {mode}: left to the kernel");
        assert_every_flow_has_one_source(&sent, mode);
        let all = all_entries(&dut);
        let flows: BTreeSet<Flow> = all.iter().map(|entry| entry.flow).collect();
        assert_eq!(flows.len(), all.len(), "mode {mode}: two entries of one flow");
        assert_pairs_are_whole(&all, mode);
        assert_settled(&dut);
    }
}

#[test]
fn two_cpus_that_want_the_last_place_leave_no_half_of_a_pair() {
    if !require_root("packet_cpus") {
        return;
    }
    for mode in [mode::NAT, mode::SNAT] {
        // Three flows for each place: most are refused, and the last place of every bucket is fought for.
        let room = Options { flows_v4: 1 << 9, flows_v6: 1 << 9, half_open: 1 << 17, ..Options::default() };
        let mut dut = loaded(room, mode, 5000);
        let sent = begin_on_two_cpus(&dut);
        let reasons = dut.reasons();
        println!("mode {mode}: {reasons:?}");
        assert!(reasons.contains_key(&Reason::FlowRefused), "mode {mode}: there was room");
        assert!(sent.left > FLOWS / 2, "mode {mode}: only {} left to the kernel", sent.left);
        assert_pairs_are_whole(&all_entries(&dut), mode);
        assert_settled(&dut);
    }
}

#[test]
fn pairs_begin_end_and_move_under_two_cpus_without_coming_apart() {
    if !require_root("packet_cpus") {
        return;
    }
    const ROUNDS: usize = 400;
    const PACKETS: usize = 64;
    const FLOWS: usize = 24;
    for mode in [mode::NAT, mode::SNAT] {
        let room = Options { flows_v4: 1 << 12, flows_v6: 1 << 12, half_open: 1 << 12, ..Options::default() };
        let dut = loaded(room, mode, 200);
        let (meeting, cpus) = (Meeting::default(), two_cpus());
        thread::scope(|scope| {
            for worker in [0, 1usize] {
                let (runner, meeting) = (dut.runner(), &meeting);
                scope.spawn(move || {
                    pin_to_cpu(cpus[worker]);
                    let (mut own, mut out) = (Random::new(worker as u64), Vec::new());
                    for round in 0..ROUNDS {
                        // Both take the same flows in the same order; what they send, and the way it comes, differs.
                        let mut shared = Random::new(round as u64);
                        meeting.wait(2, round);
                        for _ in 0..PACKETS {
                            let (flow, _) = flow(shared.below(FLOWS));
                            let flags = *own.pick(&[SYN, SYN, ACK, ACK, ACK | PSH, FIN | ACK, RST]);
                            let src_mac = [2, 0xc1, worker as u8 + 1, worker as u8 + 1, 0, worker as u8 + 1];
                            let tags = vec![(0x8100, worker as u16 + 1)];
                            let frame = Frame { src_mac, tags, ..Frame::tcp(flow.src, flow.dst, flags) };
                            let verdict = runner.run(&frame.bytes(), &mut out);
                            assert!([XDP_TX, XDP_DROP, XDP_PASS].contains(&verdict), "verdict {verdict}");
                        }
                    }
                });
            }
        });
        let mut dut = dut;
        let reasons = dut.reasons();
        println!("mode {mode}: {reasons:?}");
        assert!(reasons.contains_key(&Reason::HopMoved), "mode {mode}: nothing moved");
        assert_settled(&dut);
        let all = all_entries(&dut);
        for entry in &all {
            let hop = entry.rewrite.expect("a rewrite").hop;
            let worker = u16::from(hop.mac.0[2]);
            assert_eq!(hop.mac.0[3], hop.mac.0[2], "mode {mode}: halves of two: {hop:?}");
            assert_eq!(
                (u16::from(hop.mac.0[5]), hop.vlan[0]),
                (worker, worker),
                "mode {mode}: halves of two: {hop:?}"
            );
        }
    }
}
