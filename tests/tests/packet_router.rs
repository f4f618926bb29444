//! NAT and SNAT route: one hop of TTL, the longest packet of the way out, and a word to the sender where either ends a
//! packet's journey. Direct routing does none of it.

use lb_common::{
    backend::{Backend, LinkRecord},
    counter::Reason,
    net::Mac,
    service::mode,
};
use lb_tests::{
    lab::require_root,
    packet::{
        bench::{Bench, Op},
        case::{Case, at},
        dut::{Options, live_backend},
        frame::{
            Frame, Transport,
            flags::{ACK, SYN},
        },
        talk::{Net, Talk, every_routed, routed},
    },
};

const Q: u16 = 0x8100;

fn connected(mode: u8, net: Net) -> (Bench, Talk) {
    let mut bench = routed(Options::default(), mode, 0);
    let talk = Talk::begin(&mut bench, &Frame::tcp(at(net.client), at(net.vip), SYN));
    bench.run(&talk.segment(ACK).bytes());
    (bench, talk)
}

/// Both directions' longest packets.
fn set_mtu(bench: &mut Bench, net: Net, to_server: u16, to_client: u16) {
    bench.set(&Op::Backend(net.slot, Backend { mtu: to_server, ..live_backend(net.slot) }));
    bench.set(&Op::Link(1, LinkRecord { mac: Mac([2, 0x1b, 0, 0, 0, 1]), mtu: to_client }));
}

/// The ICMP error about a packet, back where it came from.
fn told(about: &Frame, kind: u8, code: u8, mtu: u16) -> Vec<u8> {
    let bytes = about.bytes();
    let quoted = if about.src.is_ipv4() { 28 } else { 48 };
    let [hi, lo] = mtu.to_be_bytes();
    Frame {
        dst_mac: about.src_mac,
        src_mac: about.dst_mac,
        tags: about.tags.clone(),
        transport: Transport::Icmp(kind, code, [0, 0, hi, lo]),
        id: 0,
        ..Frame::error(about.dst.ip(), about.src.ip(), kind, code, &bytes, quoted)
    }
    .bytes()
}

fn expired(about: &Frame) -> Vec<u8> {
    told(about, if about.src.is_ipv4() { 11 } else { 3 }, 0, 0)
}

fn too_big(about: &Frame, mtu: u16) -> Vec<u8> {
    if about.src.is_ipv4() { told(about, 3, 4, mtu) } else { told(about, 2, 0, mtu) }
}

#[test]
fn the_last_but_one_hop_is_forwarded_and_the_last_one_is_told() {
    if !require_root("packet_router") {
        return;
    }
    for (name, mode, net) in every_routed() {
        let (mut bench, talk) = connected(mode, net);
        let forwarded = bench.counted().backends;
        for ttl in [2, 3, 255] {
            let frame = Frame { ttl, ..talk.segment(ACK) };
            Case::sent(format!("{name}: TTL {ttl}"), frame.bytes(), talk.arrives(&frame), &[])
                .check(&mut bench);
            let frame = Frame { ttl, ..talk.answer(ACK) };
            Case::sent(format!("{name}: TTL {ttl} back"), frame.bytes(), talk.returns(&frame), &[])
                .check(&mut bench);
        }
        assert_eq!(bench.counted().backends[&net.slot].packets - forwarded[&net.slot].packets, 6, "{name}");
        for ttl in [0, 1] {
            for (what, frame) in [
                ("the client's", Frame { ttl, ..talk.segment(ACK) }),
                ("the server's", Frame { ttl, ..talk.answer(ACK) }),
                ("one with data", Frame { ttl, payload: vec![7; 333], ..talk.segment(ACK) }),
                ("one with a tag", Frame { ttl, tags: vec![(Q, 0x6064)], ..talk.answer(ACK) }),
                ("one with two", Frame { ttl, tags: vec![(0x88a8, 5), (Q, 6)], ..talk.answer(ACK) }),
            ] {
                let what = format!("{name}: TTL {ttl}, {what}");
                bench.set(&Op::ForgetTicks);
                Case::sent(what, frame.bytes(), expired(&frame), &[Reason::TtlExpired]).check(&mut bench);
            }
        }
        assert_eq!(bench.counted().backends[&net.slot].packets - forwarded[&net.slot].packets, 6, "{name}");
        bench.agree();
    }
}

#[test]
fn datagrams_shorter_than_the_quote_are_told_of_as_well() {
    if !require_root("packet_router") {
        return;
    }
    for (name, mode, net) in every_routed() {
        let mut bench = routed(Options::default(), mode, 0);
        let talk = Talk::begin(&mut bench, &Frame::udp(at(net.client), at(net.vip), b"query"));
        for frame in [talk.datagram(b""), talk.answer_datagram(b""), talk.answer_datagram(b"1")] {
            let frame = Frame { ttl: 1, ..frame };
            bench.set(&Op::ForgetTicks);
            Case::sent(&name, frame.bytes(), expired(&frame), &[Reason::TtlExpired]).check(&mut bench);
            // Ethernet's padding is no part of it.
            let mut padded = frame.bytes();
            padded.resize(padded.len().max(60), 0);
            bench.set(&Op::ForgetTicks);
            Case::sent(&name, padded, expired(&frame), &[Reason::TtlExpired]).check(&mut bench);
        }
    }
}

#[test]
fn one_error_is_sent_per_tick() {
    if !require_root("packet_router") {
        return;
    }
    for (name, mode, net) in every_routed() {
        let (mut bench, talk) = connected(mode, net);
        let frame = Frame { ttl: 1, ..talk.segment(ACK) };
        Case::sent(&name, frame.bytes(), expired(&frame), &[Reason::TtlExpired]).check(&mut bench);
        for _ in 0..3 {
            Case::dropped(&name, frame.bytes(), &[Reason::Untold]).check(&mut bench);
        }
        set_mtu(&mut bench, net, 40, 40);
        let long = Frame { payload: vec![1; 100], ..talk.segment(ACK) };
        Case::dropped(&name, long.bytes(), &[Reason::Untold]).check(&mut bench);
        bench.set(&Op::ForgetTicks);
        Case::sent(&name, long.bytes(), too_big(&long, 40), &[Reason::TooBig]).check(&mut bench);
    }
}

#[test]
fn what_is_longer_than_its_way_out_is_told_how_long_it_may_be() {
    if !require_root("packet_router") {
        return;
    }
    for (name, mode, net) in every_routed() {
        let (mut bench, talk) = connected(mode, net);
        let header = if net.slot == 0 { 40 } else { 60 };
        let payload = |len: usize| vec![3; len - header];
        // Both directions have their own, and a length that fits exactly goes.
        set_mtu(&mut bench, net, 1400, 1300);
        let fits = Frame { payload: payload(1400), ..talk.segment(ACK) };
        Case::sent(format!("{name}: fits"), fits.bytes(), talk.arrives(&fits), &[]).check(&mut bench);
        let fits = Frame { payload: payload(1300), ..talk.answer(ACK) };
        Case::sent(format!("{name}: fits back"), fits.bytes(), talk.returns(&fits), &[]).check(&mut bench);
        for (what, frame, mtu) in [
            ("one byte to the server", Frame { payload: payload(1401), ..talk.segment(ACK) }, 1400),
            ("one byte to the client", Frame { payload: payload(1301), ..talk.answer(ACK) }, 1300),
            ("a jumbo frame", Frame { payload: payload(9000), ..talk.segment(ACK) }, 1400),
            ("a tagged one", Frame { tags: vec![(Q, 9)], payload: payload(1400), ..talk.answer(ACK) }, 1300),
        ] {
            bench.set(&Op::ForgetTicks);
            let what = format!("{name}: {what}");
            Case::sent(what, frame.bytes(), too_big(&frame, mtu), &[Reason::TooBig]).check(&mut bench);
        }
        // 0 = not known: everything goes.
        set_mtu(&mut bench, net, 0, 0);
        let long = Frame { payload: payload(9000), ..talk.segment(ACK) };
        Case::sent(format!("{name}: no limit"), long.bytes(), talk.arrives(&long), &[]).check(&mut bench);
        bench.agree();
    }
}

#[test]
fn what_routers_may_cut_is_dropped_and_nobody_is_told() {
    if !require_root("packet_router") {
        return;
    }
    for mode in [mode::NAT, mode::SNAT] {
        let net = lb_tests::packet::talk::V4;
        let (mut bench, talk) = connected(mode, net);
        set_mtu(&mut bench, net, 100, 100);
        for frame in [talk.segment(ACK), talk.answer(ACK)] {
            let frame = Frame { fragment: 0, payload: vec![0; 200], ..frame };
            Case::dropped("DF is clear", frame.bytes(), &[Reason::Untold]).check(&mut bench);
        }
        for frame in [talk.segment(ACK), talk.answer(ACK)] {
            let frame = Frame { ttl: 1, options: vec![1; 4], ..frame };
            bench.set(&Op::ForgetTicks);
            Case::dropped("a packet with options", frame.bytes(), &[Reason::Untold]).check(&mut bench);
        }
        bench.agree();
    }
}

#[test]
fn the_time_to_live_comes_before_the_length() {
    if !require_root("packet_router") {
        return;
    }
    for (name, mode, net) in every_routed() {
        let (mut bench, talk) = connected(mode, net);
        set_mtu(&mut bench, net, 68, 68);
        let frame = Frame { ttl: 1, payload: vec![0; 100], ..talk.segment(ACK) };
        Case::sent(&name, frame.bytes(), expired(&frame), &[Reason::TtlExpired]).check(&mut bench);
    }
}

#[test]
fn direct_routing_is_no_hop_and_knows_no_length() {
    if !require_root("packet_router") {
        return;
    }
    for net in lb_tests::packet::talk::NETS {
        let mut bench = routed(Options::default(), mode::DR, 0);
        set_mtu(&mut bench, net, 68, 68);
        for ttl in [0, 1, 2] {
            let frame = Frame { ttl, payload: vec![1; 700], ..Frame::tcp(at(net.client), at(net.vip), SYN) };
            let output = lb_tests::packet::case::to_slot(&frame, net.slot);
            Case::sent(net.name, frame.bytes(), output, &[]).check(&mut bench);
        }
    }
}
