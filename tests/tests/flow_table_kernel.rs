//! The flow tables under several CPUs at a time, in the kernel: entries stay whole, a flow never has two, and it
//! never has two servers.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use lb_common::{
    counter::Reason,
    flow::{Control, Decision, Ends, State, WAYS},
    limits::map,
    net::PROTO_TCP,
    service::{Service, mode, pick},
};
use lb_tests::{
    lab::require_root,
    model::{
        flows::place,
        parse::Flow,
        steer::{scaled, steering_hash},
    },
    packet::{
        bench::{pin_to_cpu, table},
        case::at,
        compare::flow_of,
        cpus::{Meeting, two_cpus},
        dut::{Dut, Options, XDP_DROP, XDP_TX, live_backend},
        frame::{
            Frame,
            flags::{ACK, FIN, PSH, RST, SYN},
        },
    },
    random::Random,
};

const VIPS: [&str; 2] = ["10.0.0.100:104", "[2001:db8::100]:104"];
const SERVERS: u16 = 8;

fn loaded(options: Options, pick: u8, places: &[u16]) -> Dut {
    let mut dut = Dut::load(options);
    for slot in 0..SERVERS {
        dut.set_backend(slot, live_backend(slot));
    }
    dut.set_service(0, Service { mode: mode::DR, pick, ..Service::default() });
    dut.set_table(0, &table(places));
    for vip in VIPS {
        dut.add_key(at(vip), PROTO_TCP, 0);
    }
    dut
}

fn flow(n: usize) -> Flow {
    let (client, vip): (IpAddr, SocketAddr) = if n.is_multiple_of(2) {
        ([10, 1, (n >> 8) as u8, n as u8].into(), at(VIPS[0]))
    } else {
        ([0x2001, 0xdb8, 1, 0, 0, 0, 0, n as u16].into(), at(VIPS[1]))
    };
    Flow { src: SocketAddr::new(client, 1000 + (n >> 16) as u16), dst: vip, proto: PROTO_TCP }
}

const fn from_port(flow: Flow, port: u16) -> Flow {
    Flow { src: SocketAddr::new(flow.src.ip(), port), ..flow }
}

fn packet(flow: &Flow, flags: u8) -> Vec<u8> {
    Frame::tcp(flow.src, flow.dst, flags).bytes()
}

/// The flow and the decision of an entry's words.
fn entry_of(words: &[u64]) -> (Flow, Decision) {
    let (ends, decision) = if words.len() == 8 {
        let [_, a, b, decision, ..] = *words else { panic!("{words:?}") };
        (Ends::of_v4(&[a, b]), decision)
    } else {
        let [_, a, b, c, d, e, decision, ..] = *words else { panic!("{words:?}") };
        (Ends::of_v6(&[a, b, c, d, e]), decision)
    };
    (flow_of(&ends), Decision(decision))
}

/// Every entry of every flow table, as control and other words.
fn snapshot(dut: &Dut) -> Vec<(&'static str, Vec<Vec<u64>>)> {
    let v4 = |name| (name, dut.words_v4(name).iter().map(|words| words.to_vec()).collect());
    let v6 = |name| (name, dut.words_v6(name).iter().map(|words| words.to_vec()).collect());
    vec![v4(map::FLOWS_V4), v4(map::HALF_OPEN_V4), v6(map::FLOWS_V6), v6(map::HALF_OPEN_V6)]
}

/// Checks that the decisions of these entries are those that their flows' hashes lead to.
fn check_entries<'a>(entries: impl Iterator<Item = &'a Vec<u64>>, places: &[u16]) -> usize {
    let mut checked = 0;
    for words in entries {
        let (flow, decision) = entry_of(words);
        assert_eq!(decision.slot(), places[scaled(steering_hash(&flow), places.len())], "{flow:?}");
        assert_eq!((decision.kind(), decision.service(), decision.generation()), (mode::DR, 0, 1));
        checked += 1;
    }
    checked
}

#[test]
fn entries_stay_whole_and_single_while_cpus_fight_for_full_buckets() {
    if !require_root("flow_table_kernel") {
        return;
    }
    const ROUNDS: usize = 1500;
    const PACKETS: usize = 64;
    let options = Options { flows_v4: 32, flows_v6: 32, half_open: 16, tick_shift: 0, ..Options::default() };
    let places: Vec<u16> = (0..8 * SERVERS).map(|n| n % SERVERS).collect();
    let dut = loaded(options, pick::HASH_FLOW, &places);
    let flows: Vec<Flow> = (0..120).map(flow).collect();
    let (meeting, done) = (Meeting::default(), AtomicBool::new(false));
    let cpus = two_cpus();
    let (dropped, swept) = thread::scope(|scope| {
        let workers = [0, 1].map(|worker: usize| {
            let (runner, flows, places, meeting) = (dut.runner(), &flows, &places, &meeting);
            scope.spawn(move || {
                pin_to_cpu(cpus[worker]);
                let (mut out, mut dropped) = (Vec::new(), 0u64);
                let mut own = Random::new(worker as u64);
                for round in 0..ROUNDS {
                    // Both take the same flows in the same order; what they send differs.
                    let mut shared = Random::new(round as u64);
                    meeting.wait(2, round);
                    for _ in 0..PACKETS {
                        let flow = shared.pick(flows);
                        let flags = *own.pick(&[SYN, SYN, ACK, ACK, ACK | PSH, FIN | ACK, RST]);
                        let verdict = runner.run(&packet(flow, flags), &mut out);
                        if verdict == XDP_DROP {
                            dropped += 1;
                            continue;
                        }
                        assert_eq!(verdict, XDP_TX);
                        let slot = u16::from_be_bytes([out[4], out[5]]);
                        assert_eq!(slot, places[scaled(steering_hash(flow), places.len())], "{flow:?}");
                    }
                }
                dropped
            })
        });
        let sweeper = scope.spawn(|| {
            let mut swept = 0;
            while !done.load(Ordering::SeqCst) {
                // The same live claim before and after: what was read in between is one entry.
                let (before, between, after) = (snapshot(&dut), snapshot(&dut), snapshot(&dut));
                for (((_, before), (_, words)), (_, after)) in before.iter().zip(&between).zip(&after) {
                    let whole = words.iter().enumerate().filter(|(i, _)| {
                        let (before, after) = (Control(before[*i][0]), Control(after[*i][0]));
                        before.is_live() && after.is_live() && before.seq() == after.seq()
                    });
                    swept += check_entries(whole.map(|(_, words)| words), &places);
                }
            }
            swept
        });
        let dropped: u64 =
            workers.map(|worker| worker.join().expect("a worker saw what must not be")).iter().sum();
        done.store(true, Ordering::SeqCst);
        (dropped, sweeper.join().expect("the sweeper saw what must not be"))
    });
    let mut dut = dut;
    let reasons = dut.reasons();
    println!("{swept} entries swept, {dropped} packets lost a race: {reasons:?}");
    assert!(swept > 0);
    assert_eq!(reasons.get(&Reason::TwinPacket).copied().unwrap_or(0), dropped, "nothing else drops");
    for (name, words) in snapshot(&dut) {
        assert!(
            words.iter().all(|words| Control(words[0]).state() != State::Busy as u8),
            "{name}: busy for ever"
        );
        let live: Vec<&Vec<u64>> = words.iter().filter(|words| Control(words[0]).is_live()).collect();
        assert_eq!(check_entries(live.iter().copied(), &places), live.len());
        let distinct: BTreeSet<Flow> = live.iter().map(|words| entry_of(words).0).collect();
        assert_eq!(distinct.len(), live.len(), "{name}: two entries of one flow");
        let buckets = words.len() / WAYS;
        for (i, entry) in words.iter().enumerate().filter(|(_, words)| Control(words[0]).is_live()) {
            let hash = place(options.seed, &entry_of(entry).0);
            assert_eq!(i / WAYS, (hash >> 32) as usize % buckets, "{name}: in another flow's bucket");
        }
    }
}

#[test]
fn a_client_whose_first_flows_come_in_on_two_cpus_has_one_server() {
    if !require_root("flow_table_kernel") {
        return;
    }
    const CLIENTS: usize = 10_000;
    let room = Options { half_open: 1 << 16, persist: 1 << 15, ..Options::default() };
    let mut dut = loaded(room, pick::ROTATE, &(0..SERVERS).collect::<Vec<_>>());
    let sticky = Service { mode: mode::DR, persist_prefix: 32, persist_ticks: 100, ..Service::default() };
    dut.set_service(0, sticky);
    let meeting = Meeting::default();
    let cpus = two_cpus();
    let seen = thread::scope(|scope| {
        let workers = [0, 1].map(|worker: u16| {
            let (runner, meeting) = (dut.runner(), &meeting);
            scope.spawn(move || {
                pin_to_cpu(cpus[usize::from(worker)]);
                let mut out = Vec::new();
                let mut slots = Vec::new();
                for n in 0..CLIENTS {
                    // Even numbers are clients of IPv4.
                    let frame = packet(&from_port(flow(2 * n), 1000 + worker), SYN);
                    meeting.wait(2, n);
                    assert_eq!(runner.run(&frame, &mut out), XDP_TX);
                    slots.push(u16::from_be_bytes([out[4], out[5]]));
                }
                slots
            })
        });
        workers.map(|worker| worker.join().expect("a worker saw what must not be"))
    });
    let split = seen[0].iter().zip(&seen[1]).filter(|(mine, theirs)| mine != theirs).count();
    assert_eq!(split, 0, "of {CLIENTS} clients had two servers");
}

#[test]
fn a_flow_whose_packets_come_in_on_two_cpus_has_one_server() {
    if !require_root("flow_table_kernel") {
        return;
    }
    const FLOWS: usize = 15_000;
    // Room for all of them: here no entry is ever lost to another flow.
    let room = Options { flows_v4: 1 << 18, flows_v6: 1 << 18, half_open: 1 << 18, ..Options::default() };
    // Round robin: two decisions for one flow would differ.
    let dut = loaded(room, pick::ROTATE, &(0..SERVERS).collect::<Vec<_>>());
    let meeting = Meeting::default();
    let cpus = two_cpus();
    let seen = thread::scope(|scope| {
        let workers = [0, 1].map(|worker: usize| {
            let (runner, meeting) = (dut.runner(), &meeting);
            scope.spawn(move || {
                pin_to_cpu(cpus[worker]);
                let mut own = Random::new(worker as u64);
                let mut out = Vec::new();
                let mut seen: Vec<BTreeSet<u16>> = Vec::new();
                for n in 0..FLOWS {
                    let flow = flow(n);
                    // No FIN: the other's SYN after it would rightly open a new flow.
                    let frames = [SYN, ACK, ACK | PSH, ACK].map(|flags| packet(&flow, flags));
                    let mut slots = BTreeSet::new();
                    meeting.wait(2, n);
                    // A different start each time, so that every step of one CPU meets every step of the other.
                    for _ in 0..own.below(300) {
                        std::hint::spin_loop();
                    }
                    for frame in &frames {
                        match runner.run(frame, &mut out) {
                            XDP_DROP => {}
                            XDP_TX => drop(slots.insert(u16::from_be_bytes([out[4], out[5]]))),
                            other => panic!("verdict {other}"),
                        }
                    }
                    seen.push(slots);
                }
                seen
            })
        });
        workers.map(|worker| worker.join().expect("a worker saw what must not be"))
    });
    let mut dut = dut;
    let reasons = dut.reasons();
    println!("{reasons:?}");
    let split: BTreeMap<usize, Vec<&BTreeSet<u16>>> = (0..FLOWS)
        .map(|n| (n, seen.iter().map(|worker| &worker[n]).collect::<Vec<_>>()))
        .filter(|(_, slots)| slots.iter().copied().flatten().collect::<BTreeSet<_>>().len() > 1)
        .collect();
    assert!(split.is_empty(), "{} flows had several servers: {split:?}", split.len());
    for (name, words) in snapshot(&dut) {
        let live: Vec<Flow> =
            words.iter().filter(|words| Control(words[0]).is_live()).map(|words| entry_of(words).0).collect();
        assert_eq!(live.iter().collect::<BTreeSet<_>>().len(), live.len(), "{name}: two entries of one flow");
    }
}
