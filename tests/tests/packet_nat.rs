//! NAT and SNAT: every byte of what the other end sees, in both directions and both families.

use lb_common::{counter::Reason, flow::State, service::mode};
use lb_tests::{
    lab::require_root,
    packet::{
        bench::{Bench, Op, hex},
        case::{Case, at},
        dut::{OTHER, Options, XDP_DROP, XDP_REDIRECT, XDP_TX, live_backend},
        frame::{
            Frame,
            flags::{ACK, FIN, PSH, SYN},
        },
        talk::{NETS, Net, Talk, V4, V6, every_routed, routed},
    },
};

const Q: u16 = 0x8100;
const AD: u16 = 0x88a8;

fn syn(net: Net) -> Frame {
    Frame::tcp(at(net.client), at(net.vip), SYN)
}

fn udp(net: Net, payload: &[u8]) -> Frame {
    Frame::udp(at(net.client), at(net.vip), payload)
}

/// A bench and an established connection.
fn connected(mode: u8, net: Net) -> (Bench, Talk) {
    let mut bench = routed(Options::default(), mode, 0);
    let talk = Talk::begin(&mut bench, &syn(net));
    Case::sent("ACK", talk.segment(ACK).bytes(), talk.arrives(&talk.segment(ACK)), &[]).check(&mut bench);
    (bench, talk)
}

#[test]
fn packets_go_both_ways_with_the_others_addresses_whatever_they_carry() {
    if !require_root("packet_nat") {
        return;
    }
    for (name, mode, net) in every_routed() {
        let (mut bench, talk) = connected(mode, net);
        let lengths = [0, 1, 2, 7, 19, 699, 1440, 8900];
        for payload in lengths.map(|len| (0..len).map(|i| (i * 7) as u8).collect::<Vec<u8>>()) {
            let what = format!("{name}: {} bytes", payload.len());
            let data = Frame { payload: payload.clone(), ..talk.segment(ACK | PSH) };
            Case::sent(&what, data.bytes(), talk.arrives(&data), &[]).check(&mut bench);
            let data = Frame { payload, ..talk.answer(ACK | PSH) };
            Case::sent(format!("{what} back"), data.bytes(), talk.returns(&data), &[]).check(&mut bench);
        }
        bench.agree();
    }
}

#[test]
fn datagrams_go_both_ways_and_keep_their_checksum_or_its_absence() {
    if !require_root("packet_nat") {
        return;
    }
    for (name, mode, net) in every_routed() {
        let mut bench = routed(Options::default(), mode, 0);
        let talk = Talk::begin(&mut bench, &udp(net, b"first"));
        for payload in [&b""[..], b"q", b"an odd number", &[0xa5; 1400]] {
            let what = format!("{name}: {} bytes", payload.len());
            let data = talk.datagram(payload);
            Case::sent(&what, data.bytes(), talk.arrives(&data), &[]).check(&mut bench);
            let data = talk.answer_datagram(payload);
            Case::sent(format!("{what} back"), data.bytes(), talk.returns(&data), &[]).check(&mut bench);
        }
        let field = syn(net).l2_len() + if net.slot == 0 { 26 } else { 46 };
        let silent = |mut bytes: Vec<u8>| {
            bytes[field..field + 2].fill(0);
            bytes
        };
        let data = talk.datagram(b"without a checksum");
        let what = format!("{name}: no checksum stays none");
        Case::sent(what, silent(data.bytes()), silent(talk.arrives(&data)), &[]).check(&mut bench);
        let data = talk.answer_datagram(b"without one");
        let what = format!("{name}: no checksum back");
        Case::sent(what, silent(data.bytes()), silent(talk.returns(&data)), &[]).check(&mut bench);
    }
}

#[test]
fn a_datagram_whose_checksum_comes_out_as_zero_says_all_ones() {
    if !require_root("packet_nat") {
        return;
    }
    for (name, mode, net) in every_routed() {
        let mut bench = routed(Options::default(), mode, 0);
        let talk = Talk::begin(&mut bench, &udp(net, b"first"));
        let at_field = syn(net).l2_len() + if net.slot == 0 { 26 } else { 46 };
        let field = |bytes: &[u8]| u16::from_be_bytes([bytes[at_field], bytes[at_field + 1]]);
        // A payload that makes the sum come out as zero is the checksum of the packet without it.
        let zero_at_server = field(&talk.arrives(&talk.datagram(&[0, 0]))).to_be_bytes();
        let data = talk.datagram(&zero_at_server);
        assert_eq!(field(&talk.arrives(&data)), 0, "{name}: what the bare sum would say");
        let mut want = talk.arrives(&data);
        want[at_field..at_field + 2].fill(0xff);
        Case::sent(format!("{name}: to the server"), data.bytes(), want, &[]).check(&mut bench);
        // And one that comes in as all ones, which stands for zero.
        let zero_here = field(&talk.datagram(&[0, 0]).bytes()).to_be_bytes();
        let data = talk.datagram(&zero_here);
        let mut sent = data.bytes();
        assert_eq!(field(&sent), 0);
        sent[at_field..at_field + 2].fill(0xff);
        Case::sent(format!("{name}: all ones come in"), sent, talk.arrives(&data), &[]).check(&mut bench);
    }
}

#[test]
fn what_was_wrong_stays_wrong() {
    if !require_root("packet_nat") {
        return;
    }
    for (name, mode, net) in every_routed() {
        let (mut bench, talk) = connected(mode, net);
        let l3 = syn(net).l2_len();
        let l4 = l3 + if net.slot == 0 { 20 } else { 40 };
        let mut broken = vec![("TCP checksum", l4 + 16), ("TCP checksum's low byte", l4 + 17)];
        if net.slot == 0 {
            broken.extend([("IP checksum", l3 + 10), ("IP checksum's low byte", l3 + 11)]);
        }
        for (what, at) in broken {
            for flip in [0x01, 0x80, 0xff] {
                let data = Frame { payload: b"data".to_vec(), ..talk.segment(ACK) };
                let (mut sent, right) = (data.bytes(), talk.arrives(&data));
                sent[at] ^= flip;
                let ran = bench.run(&sent);
                assert_eq!(ran.verdict, XDP_TX, "{name}: {what}");
                let field = at & !1;
                assert_ne!(
                    ran.frame[field..field + 2],
                    right[field..field + 2],
                    "{name}: {what} was repaired"
                );
                let mut rest = ran.frame.clone();
                rest[field..field + 2].copy_from_slice(&right[field..field + 2]);
                assert_eq!(hex(&rest), hex(&right), "{name}: {what}: nothing else");
            }
        }
    }
}

#[test]
fn the_server_port_is_the_targets_or_the_one_that_was_asked_for() {
    if !require_root("packet_nat") {
        return;
    }
    for (name, mode, net) in every_routed() {
        let mut bench = routed(Options::default(), mode, 0);
        let talk = Talk::begin(&mut bench, &syn(net));
        assert_eq!(talk.inside.dst, at(net.server), "{name}");
        let same = Talk::begin(&mut bench, &Frame::tcp(at(net.client), at(net.vip_same_port), SYN));
        assert_eq!(same.inside.dst.ip(), at(net.server).ip(), "{name}");
        assert_eq!(same.inside.dst.port(), same.outside.dst.port(), "{name}");
        let answer = same.answer(SYN | ACK);
        Case::sent(format!("{name}: back"), answer.bytes(), same.returns(&answer), &[]).check(&mut bench);
    }
}

#[test]
fn options_and_extension_headers_are_passed_over() {
    if !require_root("packet_nat") {
        return;
    }
    for (name, mode, net) in every_routed() {
        let (mut bench, talk) = connected(mode, net);
        let bent: Vec<Frame> = if net.slot == 0 {
            [4, 8, 40].map(|len| Frame { options: vec![1; len], ..talk.segment(ACK) }).to_vec()
        } else {
            let chains: [&[(u8, usize)]; 6] = [
                &[(0, 8)],
                &[(60, 16)],
                &[(43, 24)],
                &[(0, 8), (60, 8), (43, 8), (60, 8)],
                &[(0, 8), (60, 8), (43, 8), (60, 8), (60, 256), (60, 8)],
                // A fragment header on a packet that is whole (RFC 6946).
                &[(44, 8)],
            ];
            chains.map(|chain| Frame { extensions: chain.to_vec(), ..talk.segment(ACK) }).to_vec()
        };
        for frame in bent {
            let what = format!("{name}: options {:?}, headers {:?}", frame.options, frame.extensions);
            let frame = Frame { payload: b"payload".to_vec(), ..frame };
            Case::sent(&what, frame.bytes(), talk.arrives(&frame), &[]).check(&mut bench);
            let Frame { options, extensions, .. } = frame;
            let back = Frame { options, extensions, ..talk.answer(ACK | PSH) };
            Case::sent(format!("{what} back"), back.bytes(), talk.returns(&back), &[]).check(&mut bench);
        }
        bench.agree();
    }
}

#[test]
fn headers_that_hide_what_comes_after_them_are_left_to_the_kernel() {
    if !require_root("packet_nat") {
        return;
    }
    for mode in [mode::NAT, mode::SNAT] {
        let (mut bench, talk) = connected(mode, V6);
        let chains: [&[(u8, usize)]; 7] = [
            &[(51, 24)],
            &[(50, 24)],
            &[(135, 8)],
            &[(253, 8)],
            &[(0, 8), (51, 24)],
            &[(60, 8), (60, 8), (60, 8), (60, 8), (60, 8), (60, 8), (60, 8)],
            &[(0, 8), (60, 8), (43, 8), (60, 8), (60, 8), (60, 8), (44, 8)],
        ];
        for chain in chains {
            for frame in [talk.segment(ACK), talk.answer(ACK)] {
                let frame = Frame { extensions: chain.to_vec(), ..frame }.bytes();
                Case::passed(format!("{chain:?}"), frame, &[Reason::ExtensionHeader]).check(&mut bench);
            }
        }
        bench.agree();
    }
}

#[test]
fn tags_are_those_of_the_way_out_in_both_directions() {
    if !require_root("packet_nat") {
        return;
    }
    let client_tags: [&[(u16, u16)]; 5] =
        [&[], &[(Q, 0x0064)], &[(Q, 0xb064)], &[(AD, 0x6001), (Q, 0x8002)], &[(Q, 0x0001), (Q, 0x0002)]];
    // Depth, VLANs, outer protocol; what the server's own frames carry, and what it gets without a priority.
    type Way = (u8, [u16; 2], u16, &'static [(u16, u16)]);
    let ways: [Way; 3] =
        [(0, [0, 0], 0, &[]), (1, [200, 0], 0, &[(Q, 200)]), (2, [3, 4], AD, &[(AD, 3), (Q, 4)])];
    for (name, mode, net) in every_routed() {
        for tags in client_tags {
            for (vlan_depth, vlan, outer_tpid, server_tags) in ways {
                let what = format!("{name}: {tags:x?} to {server_tags:x?}");
                let mut bench = routed(Options::default(), mode, 0);
                let backend = live_backend(net.slot);
                let backend = lb_common::backend::Backend { vlan_depth, vlan, outer_tpid, ..backend };
                bench.set(&Op::Backend(net.slot, backend));
                let first = Frame { tags: tags.to_vec(), ..syn(net) };
                let ran = bench.run(&first.bytes());
                assert_eq!(ran.verdict, XDP_TX, "{what}");
                let priority = |n: usize| {
                    let from = if tags.len() == server_tags.len() { n } else { 0 };
                    tags.get(from).map_or(0, |(_, tci)| tci & 0xf000)
                };
                let want = (0..).zip(server_tags).map(|(n, (tpid, vid))| (*tpid, vid | priority(n)));
                let want: Vec<u8> =
                    want.flat_map(|(tpid, tci)| [tpid.to_be_bytes(), tci.to_be_bytes()].concat()).collect();
                assert_eq!(hex(&ran.frame[12..12 + 4 * server_tags.len()]), hex(&want), "{what}");
                // The answer comes with the server's tags and priority 0, and leaves with the client's VLANs.
                let entry = bench.remembered()[&lb_tests::packet::talk::flow_of(&first)];
                let inside = entry.rewrite.expect("a rewrite").flow.reversed();
                let answer =
                    Frame { tags: server_tags.to_vec(), ..Frame::tcp(inside.src, inside.dst, SYN | ACK) };
                let ran = bench.run(&answer.bytes());
                assert_eq!(ran.verdict, XDP_TX, "{what} back");
                let mut want = tags.to_vec();
                for (n, (tpid, tci)) in want.iter_mut().enumerate() {
                    *tpid = if tags.len() == 2 && n == 0 { *tpid } else { Q };
                    *tci &= 0x0fff;
                }
                let want: Vec<u8> = want
                    .iter()
                    .flat_map(|(tpid, tci)| [tpid.to_be_bytes(), tci.to_be_bytes()].concat())
                    .collect();
                assert_eq!(hex(&ran.frame[12..12 + 4 * tags.len()]), hex(&want), "{what} back");
                bench.agree();
            }
        }
    }
}

#[test]
fn each_direction_leaves_by_its_own_interface_if_that_may_be_used() {
    if !require_root("packet_nat") {
        return;
    }
    for (name, mode, net) in every_routed() {
        for (ifindex, verdict) in [(1, XDP_TX), (OTHER, XDP_REDIRECT), (9, XDP_DROP)] {
            let mut bench = routed(Options::default(), mode, 0);
            let backend = live_backend(net.slot);
            bench.set(&Op::Backend(net.slot, lb_common::backend::Backend { ifindex, ..backend }));
            assert_eq!(bench.run(&syn(net).bytes()).verdict, verdict, "{name}: by {ifindex}");
        }
        // Nothing leaves by an interface whose MAC is not known.
        let (mut bench, talk) = connected(mode, net);
        bench.set(&Op::Link(1, lb_common::backend::LinkRecord::default()));
        let answer = talk.answer(ACK).bytes();
        Case::dropped(format!("{name}: no MAC"), answer, &[Reason::StaleTable]).check(&mut bench);
        talk.assert_states(&bench, Some([State::Established; 2]), &name);
    }
}

#[test]
fn both_directions_are_counted_for_the_server() {
    if !require_root("packet_nat") {
        return;
    }
    for (name, mode, net) in every_routed() {
        let (mut bench, talk) = connected(mode, net);
        let before = bench.counted().backends[&net.slot];
        let (data, answer) = (Frame { payload: vec![1; 100], ..talk.segment(ACK) }, talk.answer(ACK));
        bench.run(&data.bytes());
        let mut padded = answer.bytes();
        let bytes = (data.bytes().len() + padded.len()) as u64;
        padded.resize(padded.len() + 6, 0);
        bench.run(&padded);
        let after = bench.counted();
        assert_eq!(after.backends[&net.slot].packets - before.packets, 2, "{name}");
        assert_eq!(after.backends[&net.slot].bytes - before.bytes, bytes, "{name}");
        assert_eq!(after.services.values().map(|service| service.flows).sum::<u64>(), 1, "{name}");
    }
}

#[test]
fn what_a_server_says_on_its_own_is_left_to_the_kernel() {
    if !require_root("packet_nat") {
        return;
    }
    for (name, mode, net) in every_routed() {
        let (mut bench, talk) = connected(mode, net);
        for (what, frame) in [
            ("a connection of its own", Frame::tcp(at(net.server), at(net.client), SYN)),
            ("a datagram of its own", Frame::udp(at(net.server), at(net.client), b"")),
            ("an answer that nobody asked for", Frame { src: at(net.server), ..talk.answer(SYN | ACK) }),
        ] {
            let frame = Frame { dst: std::net::SocketAddr::new(frame.dst.ip(), 999), ..frame }.bytes();
            Case::passed(format!("{name}: {what}"), frame, &[Reason::NoService]).check(&mut bench);
        }
        bench.agree();
    }
}

#[test]
fn no_cut_and_no_bent_length_of_a_packet_gets_a_wrong_rewrite() {
    if !require_root("packet_nat") {
        return;
    }
    for (name, mode, net) in every_routed() {
        let (mut bench, talk) = connected(mode, net);
        let chain = if net.slot == 0 { vec![] } else { vec![(60, 8)] };
        let tags = vec![(Q, 7)];
        let options = vec![1; if net.slot == 0 { 4 } else { 0 }];
        for frame in [
            talk.segment(ACK),
            talk.answer(ACK),
            Frame { tags, extensions: chain, options, ..talk.segment(ACK) },
            talk.datagram(b""),
        ] {
            let whole = frame.bytes();
            let l3 = frame.l2_len();
            for len in 14..whole.len() {
                Case::passed(format!("{name}: {len} bytes"), whole[..len].to_vec(), &[Reason::Malformed])
                    .check(&mut bench);
            }
            let at = if net.slot == 0 { l3 + 2 } else { l3 + 4 };
            for length in [0u16, 1, 7, 19, 20, 21, 27, 28, 39, 40, 41, 59, 60, 0x7fff, 0xffff] {
                let mut bent = whole.clone();
                bent[at..at + 2].copy_from_slice(&length.to_be_bytes());
                // The bench compares with the model.
                bench.run(&bent);
            }
        }
        bench.agree();
    }
}

#[test]
fn every_byte_of_the_headers_may_be_anything() {
    if !require_root("packet_nat") {
        return;
    }
    for (_, mode, net) in every_routed() {
        let (mut bench, talk) = connected(mode, net);
        let tagged = Frame { tags: vec![(Q, 5)], ..talk.segment(ACK) };
        for frame in [tagged, Frame { payload: vec![9; 5], ..talk.answer(ACK | FIN) }] {
            let whole = frame.bytes();
            for at in 12..whole.len() {
                for byte in [0, 1, 0x0f, 0x45, 0x60, 0x7f, 0x80, 0xff, whole[at] ^ 1, whole[at] ^ 0x80] {
                    let mut bytes = whole.clone();
                    bytes[at] = byte;
                    bench.set(&Op::ForgetTicks);
                    bench.run(&bytes);
                }
            }
        }
        bench.agree();
    }
}

#[test]
fn a_reply_key_that_another_flow_has_is_refused_under_nat() {
    if !require_root("packet_nat") {
        return;
    }
    for net in NETS {
        let mut bench = routed(Options::default(), mode::NAT, 0);
        // Both VIP ports lead to one server, and both to one port of it.
        bench.set(&Op::Target(net.slot + 1, at(net.server)));
        let talk = Talk::begin(&mut bench, &syn(net));
        let clash = Frame::tcp(at(net.client), at(net.vip_same_port), SYN).bytes();
        let what = format!("{}: half-open", net.name);
        Case::passed(what, clash.clone(), &[Reason::ReplyClash]).check(&mut bench);
        bench.run(&talk.segment(ACK).bytes());
        let what = format!("{}: established", net.name);
        Case::passed(what, clash, &[Reason::ReplyClash]).check(&mut bench);
        talk.assert_states(&bench, Some([State::Established; 2]), net.name);
        let answer = talk.answer(ACK);
        Case::sent("the first goes on", answer.bytes(), talk.returns(&answer), &[]).check(&mut bench);
        bench.agree();
    }
}

#[test]
fn families_do_not_mix() {
    if !require_root("packet_nat") {
        return;
    }
    let mut bench = routed(Options::default(), mode::SNAT, 0);
    let talks = [V4, V6].map(|net| Talk::begin(&mut bench, &syn(net)));
    for talk in &talks {
        let answer = talk.answer(SYN | ACK);
        Case::sent("answer", answer.bytes(), talk.returns(&answer), &[]).check(&mut bench);
    }
    bench.agree();
}
