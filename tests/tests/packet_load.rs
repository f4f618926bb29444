//! Who gets a new flow when it matters how busy servers are: least connections, limits, failover lists, persistence that
//! several VIPs share, servers that are closed, a controller that is dead, and flows that an operator has ended.

use std::net::SocketAddr;

use lb_common::{
    counter::Reason,
    load::{self, Limits},
    net::{PROTO_TCP, PROTO_UDP},
    service::{
        Service,
        flags::{FAIL_CLOSED, SHARED},
        mode, no_server, pick,
    },
};
use lb_tests::{
    lab::require_root,
    model::{REPEAT_TICKS, TOUCH_TICKS},
    packet::{
        bench::{Bench, Op},
        case::{at, bench, ip, slot_of},
        dut::{Options, XDP_DROP, XDP_PASS, XDP_TX},
        frame::{
            Frame,
            flags::{ACK, FIN, PSH, RST, SYN},
        },
        talk::{Talk, every_routed, routed},
    },
};

const VIP: &str = "10.0.0.100:104";
const OTHER_VIP: &str = "10.0.0.101:11112";

const fn limits(weight: u16, max: u16, min: u16) -> Limits {
    Limits { max, min, weight, flags: 0 }
}

const CLOSED: Limits = Limits { max: 0, min: 0, weight: 100, flags: load::flags::CLOSED };

/// `servers` live servers of weight 100, each once in the table of service 0.
fn serving(servers: u16, service: Service) -> Bench {
    let mut bench = bench(Options::default(), servers);
    let slots: Vec<u16> = (0..servers).collect();
    for &slot in &slots {
        bench.set(&Op::Limits(slot, limits(100, 0, 0)));
    }
    bench.serve(0, service, &[(at(VIP), PROTO_TCP), (at(VIP), PROTO_UDP)], &slots);
    bench
}

const fn by(pick: u8) -> Service {
    Service {
        mode: mode::DR,
        pick,
        no_server: no_server::REJECT,
        persist_prefix: 0,
        flags: 0,
        pad: [0; 3],
        persist_ticks: 0,
        persist_group: 0,
    }
}

fn segment(client: &str, flags: u8) -> Vec<u8> {
    Frame::tcp(at(client), at(VIP), flags).bytes()
}

fn client(n: usize) -> String {
    format!("10.1.{}.{}:1000", n / 250, n % 250)
}

/// A connection that its client proves; the server that it went to.
fn connect(bench: &mut Bench, client: &str) -> u16 {
    let slot = slot_of(&bench.run(&segment(client, SYN)));
    assert_eq!(slot_of(&bench.run(&segment(client, ACK))), slot);
    slot
}

fn active(bench: &Bench, slot: u16) -> i64 {
    bench.dut.load_of(slot).active as i64
}

#[test]
fn the_server_with_the_fewest_connections_for_its_weight_is_next() {
    if !require_root("packet_load") {
        return;
    }
    let mut bench = serving(3, by(pick::LEAST));
    bench.set(&Op::Limits(2, limits(200, 0, 0)));
    let slots: Vec<u16> = (0..8).map(|n| connect(&mut bench, &client(n))).collect();
    for (slot, held) in [(0, 2), (1, 2), (2, 4)] {
        assert_eq!(active(&bench, slot), held, "{slots:?}");
    }
    // Who loses connections gets the next ones.
    for (n, _) in slots.iter().enumerate().filter(|(_, slot)| **slot == 1) {
        bench.run(&segment(&client(n), FIN | ACK));
    }
    assert_eq!(active(&bench, 1), 0);
    assert_eq!(connect(&mut bench, &client(20)), 1);
    assert_eq!(connect(&mut bench, &client(21)), 1);
    bench.agree();
}

#[test]
fn equals_take_turns_though_none_has_proved_a_connection() {
    if !require_root("packet_load") {
        return;
    }
    let mut bench = serving(4, by(pick::LEAST));
    let slots: Vec<u16> = (0..8).map(|n| slot_of(&bench.run(&segment(&client(n), SYN)))).collect();
    assert_eq!(slots, [0, 1, 2, 3, 0, 1, 2, 3]);
    assert_eq!((0..4).map(|slot| active(&bench, slot)).sum::<i64>(), 0, "a SYN is no connection");
}

#[test]
fn syns_that_come_again_count_until_a_connection_gets_through() {
    if !require_root("packet_load") {
        return;
    }
    let mut bench = serving(1, by(pick::LEAST));
    let repeats = |bench: &Bench| bench.dut.load_of(0).syn_repeats;
    let (one, other) = (client(1), client(2));
    bench.run(&segment(&one, SYN));
    bench.run(&segment(&one, SYN));
    assert_eq!(repeats(&bench), 0, "at once again: the network's duplicate");
    for tries in 1..=3 {
        bench.set(&Op::Age(REPEAT_TICKS as u32));
        bench.run(&segment(&one, SYN));
        assert_eq!(repeats(&bench), tries);
    }
    bench.run(&segment(&other, SYN));
    assert_eq!(repeats(&bench), 3, "a first try proves nothing");
    bench.run(&segment(&other, ACK));
    assert_eq!(repeats(&bench), 0, "the server answers");
    bench.agree();
}

#[test]
fn syns_that_come_again_count_once_for_the_two_entries_of_a_pair() {
    if !require_root("packet_load") {
        return;
    }
    for (name, mode, net) in every_routed() {
        let mut bench = routed(Options::default(), mode, 0);
        let talk = Talk::begin(&mut bench, &Frame::tcp(at(net.client), at(net.vip), SYN));
        let slot = talk.slot;
        for (frame, repeats) in [(talk.segment(SYN), 1), (talk.answer(SYN | ACK), 1), (talk.segment(SYN), 2)]
        {
            bench.set(&Op::Age(TOUCH_TICKS as u32));
            bench.run(&frame.bytes());
            assert_eq!(bench.dut.load_of(slot).syn_repeats, repeats, "{name}: {frame:?}");
        }
        bench.run(&talk.segment(ACK).bytes());
        assert_eq!(bench.dut.load_of(slot).syn_repeats, 0, "{name}");
        bench.agree();
    }
}

#[test]
fn a_connection_counts_from_its_proof_to_its_first_fin_or_reset() {
    if !require_root("packet_load") {
        return;
    }
    let one = client(1);
    for last in [FIN | ACK, RST, FIN | PSH | ACK] {
        let mut bench = serving(1, by(pick::LEAST));
        for (flags, held) in [(SYN, 0), (ACK, 1), (ACK, 1), (SYN, 1), (last, 0), (ACK, 0), (FIN | ACK, 0)] {
            bench.run(&segment(&one, flags));
            if last == RST && flags == ACK && held == 0 {
                // It is a new flow in mid-stream, which is not proved yet.
                break;
            }
            assert_eq!(active(&bench, 0), held, "after {flags:#x} with {last:#x} as the last");
        }
        bench.agree();
    }
    let mut bench = serving(1, by(pick::LEAST));
    for held in [0, 1, 1] {
        bench.run(&Frame::udp(at(&one), at(VIP), b"x").bytes());
        assert_eq!(active(&bench, 0), held, "a datagram proves nothing, two do");
    }
}

#[test]
fn a_pair_counts_once_whichever_end_closes() {
    if !require_root("packet_load") {
        return;
    }
    for (name, mode, net) in every_routed() {
        for by_server in [false, true] {
            let mut bench = routed(Options::default(), mode, 0);
            let (client, vip) = (at(net.client), at(net.vip));
            bench.run(&Frame::tcp(client, vip, SYN).bytes());
            let out = bench.run(&Frame::tcp(client, vip, ACK).bytes());
            assert_eq!(active(&bench, net.slot), 1, "{name}");
            let answer = |bench: &Bench, flags| {
                let flow = bench.remembered().into_values().find(|entry| entry.choice.is_reply());
                let flow = flow.expect("an entry for the server's packets").flow;
                Frame::tcp(flow.src, flow.dst, flags).bytes()
            };
            assert_eq!(out.verdict, XDP_TX, "{name}");
            let theirs = answer(&bench, FIN | ACK);
            let ours = Frame::tcp(client, vip, FIN | ACK).bytes();
            let [first, second] = if by_server { [theirs, ours] } else { [ours, theirs] };
            bench.run(&first);
            assert_eq!(active(&bench, net.slot), 0, "{name}, by the server: {by_server}");
            bench.run(&second);
            let reset = answer(&bench, RST);
            bench.run(&reset);
            assert_eq!(active(&bench, net.slot), 0, "{name}, by the server: {by_server}");
            bench.agree();
        }
    }
}

#[test]
fn a_full_server_hands_flows_on_until_it_is_below_its_minimum() {
    if !require_root("packet_load") {
        return;
    }
    for pick in [pick::ROTATE, pick::HASH_FLOW, pick::HASH_CLIENT, pick::LEAST, pick::FIRST] {
        let mut bench = serving(2, by(pick));
        bench.set(&Op::Limits(0, limits(256, 3, 2)));
        bench.set(&Op::Limits(1, limits(1, 0, 0)));
        let slots: Vec<u16> = (0..40).map(|n| connect(&mut bench, &client(n))).collect();
        let held = slots.iter().filter(|slot| **slot == 0).count();
        assert_eq!(held, 3, "pick {pick}: {slots:?}");
        let theirs: Vec<usize> = (0..40).filter(|n| slots[*n] == 0).collect();
        let gets_some = |bench: &mut Bench, from: usize| {
            (from..from + 30).map(|n| connect(bench, &client(n))).any(|slot| slot == 0)
        };
        bench.run(&segment(&client(theirs[0]), FIN | ACK));
        assert!(!gets_some(&mut bench, 100), "pick {pick}: two are not fewer than the minimum");
        bench.run(&segment(&client(theirs[1]), FIN | ACK));
        assert!(gets_some(&mut bench, 200), "pick {pick}: one is");
        bench.agree();
    }
}

#[test]
fn when_all_are_full_the_flow_is_refused_as_if_there_were_nobody() {
    if !require_root("packet_load") {
        return;
    }
    for (rule, verdict, reason) in [
        (no_server::REJECT, XDP_PASS, Reason::NoServerReject),
        (no_server::DROP, XDP_DROP, Reason::NoServerDrop),
    ] {
        for pick in [pick::ROTATE, pick::LEAST, pick::FIRST] {
            let mut bench = serving(2, Service { no_server: rule, ..by(pick) });
            for slot in [0, 1] {
                bench.set(&Op::Limits(slot, limits(100, 2, 0)));
            }
            for n in 0..4 {
                connect(&mut bench, &client(n));
            }
            assert_eq!(bench.run(&segment(&client(9), SYN)).verdict, verdict);
            let reasons = bench.counted().reasons;
            assert_eq!((reasons[&Reason::ServersFull], reasons[&reason]), (1, 1), "{reasons:?}");
            // Those who are there are not disturbed.
            assert_eq!(bench.run(&segment(&client(0), ACK)).verdict, XDP_TX);
        }
    }
}

#[test]
fn failover_goes_by_the_lists_order() {
    if !require_root("packet_load") {
        return;
    }
    let mut bench = serving(3, by(pick::FIRST));
    bench.set(&Op::Limits(0, limits(100, 2, 0)));
    bench.set(&Op::Limits(1, limits(100, 2, 0)));
    let slots: Vec<u16> = (0..6).map(|n| connect(&mut bench, &client(n))).collect();
    assert_eq!(slots, [0, 0, 1, 1, 2, 2]);
    assert_eq!(bench.counted().reasons[&Reason::Spilled], 4);
}

/// Persistence for 100 ticks.
const fn sticky(service: Service) -> Service {
    Service { persist_prefix: 32, persist_ticks: 100, persist_group: 7, ..service }
}

#[test]
fn forged_addresses_are_not_remembered() {
    if !require_root("packet_load") {
        return;
    }
    let mut bench = serving(3, sticky(by(pick::ROTATE)));
    for n in 0..50 {
        bench.run(&segment(&client(n), SYN));
    }
    assert_eq!(bench.dut.persisted(), []);
    let slot = connect(&mut bench, &client(60));
    let kept: Vec<u16> = bench.dut.persisted().iter().map(|(_, entry)| entry.slot).collect();
    assert_eq!(kept, [slot]);
    bench.agree();
}

#[test]
fn flows_that_a_client_opens_side_by_side_meet_at_one_server() {
    if !require_root("packet_load") {
        return;
    }
    let mut bench = serving(3, sticky(by(pick::ROTATE)));
    let first = slot_of(&bench.run(&segment("10.1.0.1:1", SYN)));
    assert_eq!(slot_of(&bench.run(&segment("10.1.0.1:2", SYN))), first);
    bench.set(&Op::Age(79));
    assert_eq!(slot_of(&bench.run(&segment("10.1.0.1:3", SYN))), first);
    bench.set(&Op::Age(80));
    assert_ne!(slot_of(&bench.run(&segment("10.1.0.1:4", SYN))), first, "nobody proved anything for so long");
}

#[test]
fn a_client_whose_server_is_full_comes_back_to_it() {
    if !require_root("packet_load") {
        return;
    }
    let mut bench = serving(2, sticky(by(pick::FIRST)));
    bench.set(&Op::Limits(0, limits(100, 1, 0)));
    assert_eq!(connect(&mut bench, "10.1.0.1:1"), 0);
    assert_eq!(connect(&mut bench, "10.1.0.1:2"), 1, "for once");
    bench.run(&segment("10.1.0.1:1", RST));
    assert_eq!(connect(&mut bench, "10.1.0.1:3"), 0);
    bench.agree();
}

#[test]
fn a_closed_server_takes_nobody_and_an_open_one_that_drains_takes_its_own() {
    if !require_root("packet_load") {
        return;
    }
    let mut bench = serving(2, sticky(by(pick::ROTATE)));
    assert_eq!(connect(&mut bench, "10.1.0.1:1"), 0);
    bench.set(&Op::Table(0, vec![1]));
    assert_eq!(connect(&mut bench, "10.1.0.1:2"), 0, "drained");
    bench.set(&Op::Limits(0, CLOSED));
    assert_eq!(connect(&mut bench, "10.1.0.1:3"), 1, "closed");
    assert_eq!(slot_of(&bench.run(&segment("10.1.0.1:1", ACK))), 0, "what there is goes on");
    bench.set(&Op::Limits(0, limits(100, 0, 0)));
    assert_eq!(connect(&mut bench, "10.1.0.1:4"), 1, "and the client has moved");
    bench.agree();
}

#[test]
fn vips_of_one_group_send_a_client_to_one_machine() {
    if !require_root("packet_load") {
        return;
    }
    let shared = Service { flags: SHARED, ..sticky(by(pick::ROTATE)) };
    let mut bench = serving(2, shared);
    // Slots 0 and 1 are the machines in one VIP, 3 and 2 in the other.
    bench.serve(1, Service { pick: pick::FIRST, ..shared }, &[(at(OTHER_VIP), PROTO_TCP)], &[2, 3]);
    for slot in [2, 3] {
        bench.set(&Op::Backend(slot, lb_tests::packet::dut::live_backend(slot)));
        bench.set(&Op::Limits(slot, limits(100, 0, 0)));
    }
    for (one, other) in [(0, 3), (1, 2)] {
        for (slot, service, twin) in [(one, 0, one), (one, 1, other), (other, 0, one), (other, 1, other)] {
            bench.set(&Op::Twin(slot, service, Some(twin)));
        }
    }
    assert_eq!(connect(&mut bench, "10.1.0.1:1"), 0);
    let to_other = |client: &str, flags| Frame::tcp(at(client), at(OTHER_VIP), flags).bytes();
    assert_eq!(slot_of(&bench.run(&to_other("10.1.0.1:1", SYN))), 3);
    // The other way round, and before anything is proved.
    assert_eq!(slot_of(&bench.run(&to_other("10.1.0.2:1", SYN))), 2);
    assert_eq!(connect(&mut bench, "10.1.0.2:1"), 1);
    // A server that only one of them has.
    bench.set(&Op::Twin(0, 1, None));
    assert_eq!(slot_of(&bench.run(&to_other("10.1.0.1:9", SYN))), 2, "scheduled anew");
    assert_eq!(connect(&mut bench, "10.1.0.1:3"), 0, "and known here as before");
    bench.agree();
}

#[test]
fn a_service_that_wants_its_controller_takes_no_new_flows_without_it() {
    if !require_root("packet_load") {
        return;
    }
    let mut bench = serving(1, Service { flags: FAIL_CLOSED, ..by(pick::LEAST) });
    connect(&mut bench, "10.1.0.1:1");
    bench.set(&Op::Age(119));
    assert_eq!(bench.run(&segment("10.1.0.2:1", SYN)).verdict, XDP_TX);
    bench.set(&Op::Age(1));
    assert_eq!(bench.run(&segment("10.1.0.3:1", SYN)).verdict, XDP_PASS);
    assert_eq!(bench.run(&segment("10.1.0.1:1", ACK)).verdict, XDP_TX, "what there is goes on");
    assert_eq!(bench.counted().reasons[&Reason::Unattended], 1);
    bench.set(&Op::Beat);
    assert_eq!(bench.run(&segment("10.1.0.3:1", SYN)).verdict, XDP_TX);
}

#[test]
fn who_sends_into_a_flow_that_an_operator_ended_is_told_and_may_begin_another() {
    if !require_root("packet_load") {
        return;
    }
    let mut bench = serving(1, by(pick::LEAST));
    let talk = |bench: &mut Bench, client: SocketAddr, vip: SocketAddr, name: &str| {
        for flags in [SYN, ACK] {
            assert_eq!(bench.run(&Frame::tcp(client, vip, flags).bytes()).verdict, XDP_TX, "{name}");
        }
        bench.set(&Op::Kill(client.ip()));
        for flags in [ACK | PSH, ACK, FIN | ACK] {
            let frame = Frame::tcp(client, vip, flags).bytes();
            let answer = bench.run(&frame);
            assert_eq!(
                (answer.verdict, answer.frame[..6].to_vec()),
                (XDP_TX, frame[6..12].to_vec()),
                "{name}"
            );
        }
        let told = bench.counted().reasons[&Reason::FlowReset];
        assert_eq!(bench.run(&Frame::tcp(client, vip, SYN).bytes()).verdict, XDP_TX, "{name}");
        assert_eq!(bench.run(&Frame::tcp(client, vip, ACK).bytes()).verdict, XDP_TX, "{name}");
        assert_eq!(bench.counted().reasons[&Reason::FlowReset], told, "{name}: that is another flow");
        bench.agree();
    };
    talk(&mut bench, at("10.1.0.1:1"), at(VIP), "DR");
    for (name, mode, net) in every_routed() {
        let mut bench = routed(Options::default(), mode, 0);
        talk(&mut bench, at(net.client), at(net.vip), &name);
    }
    // Half-open ones, and datagrams, which nobody can be told of.
    let mut bench = serving(1, by(pick::LEAST));
    bench.run(&segment("10.1.0.7:1", SYN));
    bench.set(&Op::Kill(ip("10.1.0.7")));
    assert_eq!(bench.run(&segment("10.1.0.7:1", ACK)).verdict, XDP_TX);
    assert_eq!(bench.counted().reasons[&Reason::FlowReset], 1);
    let datagram = Frame::udp(at("10.1.0.7:1"), at(VIP), b"x").bytes();
    bench.run(&datagram);
    bench.set(&Op::Kill(ip("10.1.0.7")));
    assert_eq!(slot_of(&bench.run(&datagram)), 0, "it begins anew");
    bench.agree();
}
