//! Fragments: the first one decides, the others follow it.

use lb_common::{
    backend::{Backend, LinkRecord, state},
    counter::Reason,
    net::Mac,
    service::mode,
};
use lb_tests::{
    lab::require_root,
    packet::{
        bench::{Bench, Op},
        case::{Case, at, bench as plain_bench, slot_of, to_slot},
        dut::{Options, XDP_TX, live_backend},
        frame::{
            Frame, Transport,
            flags::{ACK, SYN},
        },
        talk::{NETS, Net, Talk, every_routed, flow_of, routed},
    },
};

/// A datagram with a fragment header where its family wants one.
fn datagram(net: Net, len: usize) -> Frame {
    let payload = (0..len).map(|i| (i * 31) as u8).collect::<Vec<u8>>();
    fragmentable(net, Frame::udp(at(net.client), at(net.vip), &payload))
}

fn fragmentable(net: Net, frame: Frame) -> Frame {
    let extensions = if net.slot == 0 { vec![] } else { vec![(44, 8)] };
    Frame { fragment: 0, extensions, ..frame }
}

/// Begins a UDP flow.
fn begun(mode: u8, net: Net) -> (Bench, Talk) {
    let mut bench = routed(Options::default(), mode, 0);
    let talk = Talk::begin(&mut bench, &Frame::udp(at(net.client), at(net.vip), b"query"));
    (bench, talk)
}

fn sent(bench: &mut Bench, what: &str, pieces: &[Vec<u8>], want: &[Vec<u8>], order: &[usize]) {
    for &n in order {
        Case::sent(format!("{what}: piece {n}"), pieces[n].clone(), want[n].clone(), &[]).check(bench);
    }
}

#[test]
fn pieces_follow_the_first_in_both_directions() {
    if !require_root("packet_fragments") {
        return;
    }
    for (name, mode, net) in every_routed() {
        let (mut bench, talk) = begun(mode, net);
        for (len, room) in [(3000, 1480), (3000, 1448), (100, 24), (4000, 8)] {
            let data = datagram(net, len);
            let (pieces, want) = (data.fragments(room), talk.at_server(&data).fragments(room));
            let order: Vec<usize> = (0..pieces.len()).collect();
            sent(&mut bench, &name, &pieces, &want, &order);
            let back = fragmentable(net, talk.answer_datagram(&vec![7; len]));
            let (pieces, want) = (back.fragments(room), talk.at_client(&back).fragments(room));
            sent(&mut bench, &format!("{name} back"), &pieces, &want, &order);
            bench.agree();
        }
    }
}

#[test]
fn a_fragment_may_be_what_begins_a_flow() {
    if !require_root("packet_fragments") {
        return;
    }
    for (name, mode, net) in every_routed() {
        let mut bench = routed(Options::default(), mode, 0);
        let data = datagram(net, 3000);
        let pieces = data.fragments(1480);
        assert_eq!(bench.run(&pieces[0]).verdict, XDP_TX, "{name}");
        let entry = bench.remembered()[&flow_of(&data)];
        let inside = entry.rewrite.expect("a rewrite").flow;
        let talk = Talk { outside: flow_of(&data), inside, slot: net.slot, tags: vec![], mac: data.src_mac };
        let want = talk.at_server(&data).fragments(1480);
        sent(&mut bench, &name, &pieces, &want, &[1, 2, 0]);
        bench.agree();
    }
}

#[test]
fn pieces_before_the_first_are_dropped_and_duplicates_go_where_the_others_went() {
    if !require_root("packet_fragments") {
        return;
    }
    for (name, mode, net) in every_routed() {
        let (mut bench, talk) = begun(mode, net);
        let data = datagram(net, 4000);
        let (pieces, want) = (data.fragments(1480), talk.at_server(&data).fragments(1480));
        for n in [2, 1] {
            Case::dropped(&name, pieces[n].clone(), &[Reason::FragmentUnknown]).check(&mut bench);
        }
        sent(&mut bench, &name, &pieces, &want, &[0, 2, 1, 0, 1, 2, 2]);
        bench.agree();
    }
}

#[test]
fn datagrams_with_one_identification_are_kept_apart() {
    if !require_root("packet_fragments") {
        return;
    }
    for (name, mode, net) in every_routed() {
        let (mut bench, talk) = begun(mode, net);
        let data = datagram(net, 2000);
        let (pieces, want) = (data.fragments(1480), talk.at_server(&data).fragments(1480));
        sent(&mut bench, &name, &pieces, &want, &[0]);
        // Another client's, and another identification.
        let router = std::net::SocketAddr::new(lb_tests::packet::case::ip(net.router), 40_000);
        for other in [Frame { src: router, ..data.clone() }, Frame { id: 0x4321, ..data.clone() }] {
            let piece = other.fragments(1480)[1].clone();
            Case::dropped(&name, piece, &[Reason::FragmentUnknown]).check(&mut bench);
        }
        if net.slot == 0 {
            // IPv4 counts its identifications by protocol.
            let tcp = Frame { transport: Transport::Tcp(ACK), ..data.clone() };
            let piece = tcp.fragments(1480)[1].clone();
            Case::dropped(&name, piece, &[Reason::FragmentUnknown]).check(&mut bench);
        }
        let other = Frame { src: router, ..data };
        assert_eq!(bench.run(&other.fragments(1480)[0]).verdict, XDP_TX, "{name}");
        assert_eq!(bench.run(&other.fragments(1480)[1]).verdict, XDP_TX, "{name}");
        sent(&mut bench, &name, &pieces, &want, &[1]);
        bench.agree();
    }
}

#[test]
fn a_datagram_is_forgotten_after_its_time_and_with_its_server() {
    if !require_root("packet_fragments") {
        return;
    }
    for (name, mode, net) in every_routed() {
        let (mut bench, talk) = begun(mode, net);
        let data = datagram(net, 2000);
        let (pieces, want) = (data.fragments(1480), talk.at_server(&data).fragments(1480));
        sent(&mut bench, &name, &pieces, &want, &[0]);
        bench.set(&Op::Age(240));
        sent(&mut bench, &name, &pieces, &want, &[1]);
        bench.set(&Op::Age(1));
        Case::dropped(&name, pieces[1].clone(), &[Reason::FragmentUnknown]).check(&mut bench);
        sent(&mut bench, &name, &pieces, &want, &[0, 1]);
        bench.set(&Op::Backend(net.slot, Backend { state: state::DEAD, ..live_backend(net.slot) }));
        Case::dropped(&name, pieces[1].clone(), &[Reason::FragmentUnknown]).check(&mut bench);
        bench.agree();
    }
}

#[test]
fn a_tcp_segment_in_pieces_is_a_packet_like_any_other() {
    if !require_root("packet_fragments") {
        return;
    }
    for (name, mode, net) in every_routed() {
        let mut bench = routed(Options::default(), mode, 0);
        let talk = Talk::begin(&mut bench, &Frame::tcp(at(net.client), at(net.vip), SYN));
        let data = fragmentable(net, Frame { payload: vec![1; 2000], ..talk.segment(ACK) });
        let (pieces, want) = (data.fragments(1480), talk.at_server(&data).fragments(1480));
        sent(&mut bench, &name, &pieces, &want, &[0, 1]);
        talk.assert_states(&bench, Some([lb_common::flow::State::Established; 2]), &name);
        // A first piece that does not hold the TCP header shows nothing, and the others nothing either.
        let cut = Frame { id: 0x7777, ..data }.fragments(16);
        Case::passed(&name, cut[0].clone(), &[Reason::Malformed]).check(&mut bench);
        bench.run(&cut[1]);
        bench.agree();
    }
}

#[test]
fn under_direct_routing_pieces_keep_all_but_their_macs() {
    if !require_root("packet_fragments") {
        return;
    }
    for net in NETS {
        let mut bench = routed(Options::default(), mode::DR, 0);
        bench.set(&Op::Table(if net.slot == 0 { 0 } else { 2 }, vec![net.slot, net.slot + 1]));
        for id in [1, 2] {
            let data = Frame {
                id,
                ttl: 1,
                src: std::net::SocketAddr::new(at(net.client).ip(), id as u16),
                ..datagram(net, 4000)
            };
            let pieces = data.fragments(1480);
            Case::dropped(net.name, pieces[1].clone(), &[Reason::FragmentUnknown]).check(&mut bench);
            let slot = slot_of(&bench.run(&pieces[0]));
            for piece in &pieces {
                let want = [&to_slot(&data, slot)[..12], &piece[12..]].concat();
                Case::sent(net.name, piece.clone(), want, &[]).check(&mut bench);
            }
        }
        bench.agree();
    }
}

#[test]
fn what_the_kernel_got_the_first_of_it_gets_whole() {
    if !require_root("packet_fragments") {
        return;
    }
    for (name, mode, net) in every_routed() {
        let mut bench = routed(Options::default(), mode, 0);
        let elsewhere = std::net::SocketAddr::new(at(net.vip).ip(), 9);
        let server = std::net::SocketAddr::new(at(net.server).ip(), 53);
        for (what, frame) in [
            ("a port without a service", Frame { dst: elsewhere, ..datagram(net, 2000) }),
            ("a server's own traffic", Frame { src: server, dst: at(net.client), ..datagram(net, 2000) }),
        ] {
            let what = format!("{name}: {what}");
            for piece in frame.fragments(1480) {
                Case::passed(&what, piece, &[Reason::NoService]).check(&mut bench);
            }
        }
        let proto = if net.slot == 0 { 1 } else { 58 };
        let ping = Frame {
            transport: Transport::Icmp(if net.slot == 0 { 8 } else { 128 }, 0, [0; 4]),
            ..datagram(net, 2000)
        };
        for piece in ping.fragments(1480) {
            Case::passed(format!("{name}: a ping {proto}"), piece, &[Reason::NotTcpUdp]).check(&mut bench);
        }
        bench.agree();
    }
}

#[test]
fn what_ends_a_pieces_journey_is_told_for_the_first_alone() {
    if !require_root("packet_fragments") {
        return;
    }
    for (name, mode, net) in every_routed() {
        let (mut bench, talk) = begun(mode, net);
        let data = datagram(net, 2000);
        let (pieces, want) = (data.fragments(1480), talk.at_server(&data).fragments(1480));
        sent(&mut bench, &name, &pieces, &want, &[0]);
        let dying = Frame { ttl: 1, ..data }.fragments(1480);
        Case::dropped(&name, dying[1].clone(), &[Reason::Untold]).check(&mut bench);
        bench.run(&dying[0]);
        bench.set(&Op::Backend(net.slot, Backend { mtu: 68, ..live_backend(net.slot) }));
        bench.set(&Op::Link(1, LinkRecord { mac: Mac([2, 0x1b, 0, 0, 0, 1]), mtu: 68 }));
        bench.set(&Op::ForgetTicks);
        Case::dropped(&name, pieces[1].clone(), &[Reason::Untold]).check(&mut bench);
        bench.agree();
    }
}

#[test]
fn headers_before_and_behind_the_fragment_header_are_followed() {
    if !require_root("packet_fragments") {
        return;
    }
    let net = NETS[1];
    for mode in [mode::NAT, mode::SNAT] {
        let (mut bench, talk) = begun(mode, net);
        for (id, chain) in (9..).zip([
            vec![(0, 8), (60, 16), (44, 8)],
            vec![(44, 8), (60, 8)],
            vec![(43, 24), (44, 8), (60, 8), (60, 8)],
        ]) {
            let data = Frame { extensions: chain, id, ..datagram(net, 3000) };
            let (pieces, want) = (data.fragments(1448), talk.at_server(&data).fragments(1448));
            sent(&mut bench, "headers", &pieces, &want, &[0, 1, 2]);
        }
        bench.agree();
    }
}

#[test]
fn an_ipv6_packet_that_only_calls_itself_a_fragment_is_whole() {
    if !require_root("packet_fragments") {
        return;
    }
    let net = NETS[1];
    let mut bench = plain_bench(Options::default(), 1);
    bench.serve(0, lb_common::service::Service::default(), &[(at(net.vip), 6)], &[0]);
    for (id, chain) in (1..).zip([vec![(44, 8)], vec![(0, 8), (44, 8)], vec![(44, 8), (60, 8)]]) {
        let atomic = Frame { id, extensions: chain, ..Frame::tcp(at(net.client), at(net.vip), SYN) };
        Case::sent("atomic", atomic.bytes(), to_slot(&atomic, 0), &[]).check(&mut bench);
    }
    assert!(bench.dut.fragments().is_empty());
    bench.agree();
}

#[test]
fn no_cut_of_a_piece_is_forwarded_before_its_header_is_whole() {
    if !require_root("packet_fragments") {
        return;
    }
    for (name, mode, net) in every_routed() {
        let (mut bench, _talk) = begun(mode, net);
        let pieces = datagram(net, 60).fragments(24);
        for piece in &pieces {
            let header = 14 + if net.slot == 0 { 20 } else { 48 };
            for len in 14..header {
                let ran = bench.run(&piece[..len]);
                assert_ne!(ran.verdict, XDP_TX, "{name}: {len} bytes");
            }
            bench.run(piece);
            for at in 12..header {
                for byte in [0, 1, 0x20, 0x45, 0x60, 0x7f, 0xff] {
                    let mut bent = piece.clone();
                    bent[at] = byte;
                    bench.set(&Op::ForgetTicks);
                    bench.run(&bent);
                }
            }
        }
        bench.agree();
    }
}
