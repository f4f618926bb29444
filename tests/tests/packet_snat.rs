//! Source addresses and ports of SNAT: nobody shares one, and who finds none is told.

use std::{collections::BTreeSet, net::SocketAddr};

use lb_common::{counter::Reason, event::EventKind, service::mode};
use lb_tests::{
    lab::require_root,
    model::SourceRange,
    packet::{
        bench::{Bench, Op},
        case::{Case, at, ip},
        dut::Options,
        frame::{
            Frame,
            flags::{ACK, RST, SYN},
        },
        talk::{NETS, Net, SOURCE_PORTS, Talk, routed},
    },
};

fn client(net: Net, n: usize) -> SocketAddr {
    SocketAddr::new(at(net.client).ip(), 1024 + n as u16)
}

fn syn(net: Net, n: usize) -> Frame {
    Frame::tcp(client(net, n), at(net.vip), SYN)
}

/// A bench whose services have so many source addresses and ports.
fn with_sources(net: Net, addresses: usize, ports: u16) -> Bench {
    let mut bench = routed(Options::default(), mode::SNAT, 0);
    let addrs = net.sources[..addresses].iter().map(|text| ip(text)).collect();
    let id = if net.slot == 0 { 0 } else { 2 };
    bench.set(&Op::Sources(id, SourceRange { addrs, first_port: SOURCE_PORTS.0, ports }));
    bench
}

#[test]
fn two_thousand_flows_of_one_server_have_two_thousand_sources() {
    if !require_root("packet_snat") {
        return;
    }
    for net in NETS {
        let room = Options { flows_v4: 1 << 17, flows_v6: 1 << 17, half_open: 1 << 12, ..Options::default() };
        let mut bench = routed(room, mode::SNAT, 0);
        let addrs = net.sources.map(ip);
        let sources = SourceRange { addrs: addrs.to_vec(), first_port: 20_000, ports: 20_000 };
        bench.set(&Op::Sources(if net.slot == 0 { 0 } else { 2 }, sources));
        for n in 0..2000 {
            bench.run(&syn(net, n).bytes());
            bench.run(&Frame::tcp(client(net, n), at(net.vip), ACK).bytes());
        }
        let entries = bench.remembered();
        let seen: Vec<SocketAddr> = entries
            .values()
            .filter(|entry| !entry.choice.is_reply())
            .map(|entry| entry.rewrite.expect("a rewrite").flow.src)
            .collect();
        assert_eq!((entries.len(), seen.len()), (4000, 2000), "{}", net.name);
        assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), 2000, "{}: each its own", net.name);
        for address in addrs {
            let share = seen.iter().filter(|source| source.ip() == address).count();
            assert!((800..=1200).contains(&share), "{}: {share} of 2,000 from {address}", net.name);
        }
        assert!(seen.iter().all(|source| (20_000..40_000).contains(&source.port())), "{}", net.name);
        assert!(bench.counted().reasons.is_empty(), "{:?}", bench.counted().reasons);
        bench.agree();
    }
}

#[test]
fn when_every_source_is_taken_the_next_client_is_refused_and_told_of() {
    if !require_root("packet_snat") {
        return;
    }
    for net in NETS {
        let mut bench = with_sources(net, 1, 10);
        let talks: Vec<Talk> = (0..10).map(|n| Talk::begin(&mut bench, &syn(net, n))).collect();
        let ports: BTreeSet<u16> = talks.iter().map(|talk| talk.inside.src.port()).collect();
        assert_eq!(ports.len(), 10, "{}: {ports:?}", net.name);
        bench.dut.events();
        let refused = syn(net, 10).bytes();
        Case::passed(net.name, refused.clone(), &[Reason::NoSourcePort]).check(&mut bench);
        let events = bench.dut.events();
        assert_eq!(events.len(), 1, "{}: {events:?}", net.name);
        assert_eq!(events[0].kind, EventKind::NoSourcePort as u32, "{}", net.name);
        assert_eq!(u16::from_be(events[0].client_port), client(net, 10).port(), "{}", net.name);
        // Established ones count as well, and take nothing from each other.
        for talk in &talks {
            let ack = talk.segment(ACK);
            Case::sent(net.name, ack.bytes(), talk.arrives(&ack), &[]).check(&mut bench);
        }
        Case::passed(net.name, refused.clone(), &[Reason::NoSourcePort]).check(&mut bench);
        bench.agree();
        // A port that comes free is the next one's.
        bench.run(&talks[3].segment(RST).bytes());
        let talk = Talk::begin(&mut bench, &syn(net, 10));
        assert_eq!(talk.inside.src, talks[3].inside.src, "{}", net.name);
        bench.agree();
    }
}

#[test]
fn looking_for_a_source_costs_nobody_an_entry() {
    if !require_root("packet_snat") {
        return;
    }
    for net in NETS {
        // One bucket of half-open flows, which connections of other ports fill while all sources are established.
        let mut bench = routed(Options { half_open: 4, ..Options::default() }, mode::SNAT, 0);
        let addrs = vec![ip(net.sources[0])];
        let id = if net.slot == 0 { 0 } else { 2 };
        bench.set(&Op::Sources(id, SourceRange { addrs, first_port: SOURCE_PORTS.0, ports: 3 }));
        for n in 0..3 {
            let talk = Talk::begin(&mut bench, &syn(net, n));
            bench.run(&talk.segment(ACK).bytes());
        }
        let others =
            [1, 2].map(|n| Talk::begin(&mut bench, &Frame::tcp(client(net, n), at(net.vip_same_port), SYN)));
        Case::passed(net.name, syn(net, 9).bytes(), &[Reason::NoSourcePort]).check(&mut bench);
        bench.agree();
        for talk in others {
            let ack = talk.segment(ACK);
            Case::sent(net.name, ack.bytes(), talk.arrives(&ack), &[]).check(&mut bench);
        }
    }
}

#[test]
fn one_source_serves_as_many_servers_as_there_are() {
    if !require_root("packet_snat") {
        return;
    }
    for net in NETS {
        let mut bench = with_sources(net, 1, 1);
        let same = if net.slot == 0 { 1 } else { 3 };
        let addrs = vec![ip(net.sources[0])];
        bench.set(&Op::Sources(same, SourceRange { addrs, first_port: SOURCE_PORTS.0, ports: 1 }));
        let one = Talk::begin(&mut bench, &syn(net, 0));
        let other = Talk::begin(&mut bench, &Frame::tcp(client(net, 0), at(net.vip_same_port), SYN));
        assert_eq!(one.inside.src, other.inside.src, "{}: another port of the server", net.name);
        let datagram = Talk::begin(&mut bench, &Frame::udp(client(net, 0), at(net.vip), b""));
        assert_eq!(datagram.inside.src, one.inside.src, "{}: another protocol", net.name);
        for talk in [one, other] {
            let answer = talk.answer(SYN | ACK);
            Case::sent(net.name, answer.bytes(), talk.returns(&answer), &[]).check(&mut bench);
        }
    }
}

#[test]
fn a_service_without_sources_refuses() {
    if !require_root("packet_snat") {
        return;
    }
    for net in NETS {
        for (addresses, ports) in [(0, 100), (2, 0), (0, 0)] {
            let mut bench = with_sources(net, addresses, ports);
            let what = format!("{}: {addresses} addresses, {ports} ports", net.name);
            Case::passed(what, syn(net, 0).bytes(), &[Reason::NoSourcePort]).check(&mut bench);
            assert!(bench.remembered().is_empty());
        }
    }
}

#[test]
fn changed_sources_leave_flows_alone() {
    if !require_root("packet_snat") {
        return;
    }
    for net in NETS {
        let mut bench = with_sources(net, 2, 1000);
        let talk = Talk::begin(&mut bench, &syn(net, 0));
        bench.set(&Op::Sources(if net.slot == 0 { 0 } else { 2 }, SourceRange::default()));
        for flags in [SYN, ACK, ACK] {
            let frame = talk.segment(flags);
            Case::sent(net.name, frame.bytes(), talk.arrives(&frame), &[]).check(&mut bench);
            let answer = talk.answer(ACK);
            Case::sent(net.name, answer.bytes(), talk.returns(&answer), &[]).check(&mut bench);
        }
    }
}
