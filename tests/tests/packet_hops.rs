//! The way back to the client: replies go where the client's packets come from, and follow them when that changes.

use std::collections::BTreeMap;

use lb_common::{
    backend::LinkRecord, counter::Reason, flow::State, net::Mac, service::flags::RETURN_BY_ROUTE,
};
use lb_tests::{
    lab::{
        netns::{Lifetime, Netns, test_name},
        require_root,
    },
    packet::{
        bench::{Bench, hex},
        case::{Case, at},
        dut::{Options, XDP_REDIRECT, XDP_TX},
        frame::{
            Frame,
            flags::{ACK, FIN, RST, SYN},
        },
        talk::{Net, Talk, every_routed, flow_of, routed},
    },
};

const Q: u16 = 0x8100;
const AD: u16 = 0x88a8;
const OTHER_ROUTER: [u8; 6] = [2, 0xc1, 0, 0, 0, 2];

fn begun(mode: u8, flags: u8, net: Net) -> (Bench, Talk) {
    let mut bench = routed(Options::default(), mode, flags);
    let talk = Talk::begin(&mut bench, &Frame::tcp(at(net.client), at(net.vip), SYN));
    (bench, talk)
}

fn says(bench: &mut Bench, talk: &Talk, flags: u8, reasons: &'static [Reason], when: &str) {
    let frame = talk.segment(flags);
    Case::sent(when, frame.bytes(), talk.arrives(&frame), reasons).check(bench);
}

fn is_answered(bench: &mut Bench, talk: &Talk, when: &str) {
    let answer = talk.answer(ACK);
    Case::sent(when, answer.bytes(), talk.returns(&answer), &[]).check(bench);
}

#[test]
fn replies_follow_a_client_that_comes_another_way() {
    if !require_root("packet_hops") {
        return;
    }
    type Tags = Vec<(u16, u16)>;
    let ways: [([u8; 6], Tags, &str); 6] = [
        (OTHER_ROUTER, vec![], "another router"),
        (OTHER_ROUTER, vec![(Q, 100)], "another VLAN"),
        (OTHER_ROUTER, vec![(Q, 200)], "one more"),
        (OTHER_ROUTER, vec![(AD, 200), (Q, 300)], "two tags"),
        (OTHER_ROUTER, vec![(Q, 200), (Q, 300)], "two plain ones"),
        ([2, 0xc1, 0, 0, 0, 1], vec![], "back again"),
    ];
    for (name, mode, net) in every_routed() {
        let (mut bench, first) = begun(mode, 0, net);
        says(&mut bench, &first, ACK, &[], &name);
        for (mac, tags, what) in &ways {
            let when = format!("{name}: {what}");
            let talk = Talk { mac: *mac, tags: tags.clone(), ..first.clone() };
            says(&mut bench, &talk, ACK, &[Reason::HopMoved], &when);
            talk.assert_states(&bench, Some([State::Established; 2]), &when);
            is_answered(&mut bench, &talk, &when);
            says(&mut bench, &talk, ACK, &[], &format!("{when}, settled"));
            bench.agree();
        }
    }
}

#[test]
fn another_priority_is_the_same_way() {
    if !require_root("packet_hops") {
        return;
    }
    for (name, mode, net) in every_routed() {
        let mut bench = routed(Options::default(), mode, 0);
        let tagged = |tci| Frame { tags: vec![(Q, tci)], ..Frame::tcp(at(net.client), at(net.vip), ACK) };
        bench.run(&tagged(0x0064).bytes());
        for tci in [0x0064, 0xe064, 0x1064, 0x2064] {
            bench.run(&tagged(tci).bytes());
        }
        assert_eq!(bench.counted().reasons.get(&Reason::HopMoved), None, "{name}");
    }
}

#[test]
fn a_half_open_connection_follows_its_client_too() {
    if !require_root("packet_hops") {
        return;
    }
    for (name, mode, net) in every_routed() {
        let (mut bench, first) = begun(mode, 0, net);
        let talk = Talk { mac: OTHER_ROUTER, tags: vec![(Q, 9)], ..first };
        says(&mut bench, &talk, SYN, &[Reason::HopMoved], &name);
        is_answered(&mut bench, &talk, &name);
        says(&mut bench, &talk, ACK, &[], &name);
        is_answered(&mut bench, &talk, &name);
        talk.assert_states(&bench, Some([State::Established; 2]), &name);
        bench.agree();
    }
}

#[test]
fn the_packet_that_proves_or_ends_a_connection_may_come_another_way() {
    if !require_root("packet_hops") {
        return;
    }
    for (name, mode, net) in every_routed() {
        let (mut bench, first) = begun(mode, 0, net);
        let talk = Talk { mac: OTHER_ROUTER, ..first.clone() };
        says(&mut bench, &talk, ACK, &[Reason::HopMoved], &name);
        is_answered(&mut bench, &talk, &name);
        let talk = Talk { tags: vec![(Q, 9)], ..talk };
        says(&mut bench, &talk, FIN | ACK, &[Reason::HopMoved], &name);
        is_answered(&mut bench, &talk, &name);
        says(&mut bench, &first, RST, &[], &name);
        bench.agree();
    }
}

#[test]
fn replies_go_by_the_routing_table_where_the_service_says_so() {
    if !require_root("packet_hops") {
        return;
    }
    const NEXT_HOP: [u8; 6] = [2, 0xdd, 0, 0, 0, 7];
    const NEAR: [u8; 6] = [2, 0x1b, 0, 0, 0, 9];
    let netns = Netns::new(&test_name(0, "hops"), Lifetime::WithProgram);
    netns.ip("link add near type veth peer name far
              link set near up
              link set far up
              addr add 10.9.0.1/24 dev near
              addr add 2001:db8:9::1/64 dev near
              neigh add 10.9.0.2 lladdr 02:dd:00:00:00:07 dev near nud permanent
              neigh add 2001:db8:9::2 lladdr 02:dd:00:00:00:07 dev near nud permanent
              route add 10.1.0.0/16 via 10.9.0.2
              route add 2001:db8:1::/48 via 2001:db8:9::2");
    netns.sysctls(&[("net/ipv4/conf/all/forwarding", "1"), ("net/ipv6/conf/all/forwarding", "1")]);
    let shown = netns.run("ip", &["-o", "link", "show", "near"]).stdout;
    let ifindex: u32 = shown.split(':').next().and_then(|text| text.trim().parse().ok()).expect("an index");
    for (name, mode, net) in every_routed() {
        netns.enter(|| {
            let mut bench = routed(Options::default(), mode, RETURN_BY_ROUTE);
            bench.dut.allow(ifindex);
            bench.dut.set_link(ifindex, LinkRecord { mac: Mac(NEAR), mtu: 1500 });
            // The model knows no routing table: it is not asked here.
            let first = Frame::tcp(at(net.client), at(net.vip), SYN);
            assert_eq!(bench.dut.run(&first.bytes()).verdict, XDP_TX, "{name}");
            let outside = flow_of(&first);
            let inside = bench.remembered()[&outside].rewrite.expect("a rewrite").flow;
            let talk = Talk { outside, inside, slot: net.slot, tags: vec![], mac: NEXT_HOP };
            for flags in [SYN | ACK, ACK] {
                let answer = talk.answer(flags);
                let ran = bench.dut.run(&answer.bytes());
                assert_eq!(ran.verdict, XDP_REDIRECT, "{name}");
                let want = Frame { src_mac: NEAR, ..talk.at_client(&answer) }.bytes();
                assert_eq!(hex(&ran.frame), hex(&want), "{name}");
                // The client may come another way each time: that is what the routing table is for.
                let moved = Frame { src_mac: OTHER_ROUTER, ..talk.segment(ACK) };
                assert_eq!(hex(&bench.dut.run(&moved.bytes()).frame), hex(&talk.arrives(&moved)), "{name}");
            }
            assert_eq!(bench.dut.reasons(), BTreeMap::new(), "{name}");
        });
    }
}

#[test]
fn where_the_routing_table_has_no_way_replies_go_the_way_that_packets_came() {
    if !require_root("packet_hops") {
        return;
    }
    for (name, mode, net) in every_routed() {
        let mut bench = routed(Options::default(), mode, RETURN_BY_ROUTE);
        // The model knows no routing table: it is not asked here.
        let first = Frame::tcp(at(net.client), at(net.vip), SYN);
        bench.dut.run(&first.bytes());
        assert_eq!(bench.dut.reasons().get(&Reason::NoRoute), Some(&1), "{name}");
        let entry = bench.remembered()[&flow_of(&first)];
        let inside = entry.rewrite.expect("a rewrite").flow;
        let talk =
            Talk { outside: flow_of(&first), inside, slot: net.slot, tags: vec![], mac: first.src_mac };
        let answer = talk.answer(SYN | ACK);
        assert_eq!(bench.dut.run(&answer.bytes()).frame, talk.returns(&answer), "{name}");
        // Nor do replies follow packets there.
        let moved = Frame { src_mac: OTHER_ROUTER, ..talk.segment(ACK) };
        for _ in 0..2 {
            assert_eq!(bench.dut.run(&moved.bytes()).frame, talk.arrives(&moved), "{name}");
        }
        assert_eq!(bench.dut.run(&answer.bytes()).frame, talk.returns(&answer), "{name}");
        assert_eq!(bench.dut.reasons().get(&Reason::HopMoved), None, "{name}");
    }
}
