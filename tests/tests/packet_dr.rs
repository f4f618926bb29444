//! Direct routing: what the frame looks like afterwards, and by which interface it leaves.
//!
//! `vlan_rewrite` has no case here: a test run gives every frame more headroom than two tags take, and refuses
//! metadata that would leave less.

use lb_common::{
    backend::Backend,
    net::{PROTO_TCP, PROTO_UDP},
    service::Service,
};
use lb_tests::{
    lab::require_root,
    packet::{
        bench::{Bench, Op},
        case::{Case, at, bench, to_slot},
        dut::{OTHER, Options, XDP_DROP, XDP_REDIRECT, XDP_TX, live_backend},
        frame::{Frame, flags},
    },
};

const V4: [&str; 2] = ["10.1.0.1:40000", "10.0.0.100:104"];
const V6: [&str; 2] = ["[2001:db8:1::1]:40000", "[2001:db8::100]:104"];

/// One server in slot 0, for TCP and UDP of both families.
fn one_server(backend: Backend) -> Bench {
    let mut bench = bench(Options::default(), 0);
    bench.set(&Op::Backend(0, backend));
    let keys = [V4, V6].map(|[_, vip]| [(at(vip), PROTO_TCP), (at(vip), PROTO_UDP)]);
    bench.serve(0, Service::default(), keys.as_flattened(), &[0]);
    bench
}

fn syn([client, vip]: [&str; 2]) -> Frame {
    Frame::tcp(at(client), at(vip), flags::SYN)
}

#[test]
fn only_the_macs_change_whatever_the_packet_is() {
    if !require_root("packet_dr") {
        return;
    }
    let mut bench = one_server(live_backend(0));
    let payload = vec![0x5a; 700];
    let frames = [
        ("a TCP segment over IPv4", syn(V4)),
        ("a TCP segment over IPv6", syn(V6)),
        ("a TCP segment with payload", Frame { payload: payload.clone(), ..syn(V4) }),
        ("a UDP datagram over IPv4", Frame::udp(at(V4[0]), at(V4[1]), b"hello")),
        ("a UDP datagram over IPv6", Frame::udp(at(V6[0]), at(V6[1]), b"hello")),
        ("an empty UDP datagram", Frame::udp(at("10.1.0.2:1"), at(V4[1]), b"")),
        ("one word of IPv4 options", Frame { options: vec![1; 4], ..syn(V4) }),
        ("as many IPv4 options as there can be", Frame { options: vec![1; 40], payload, ..syn(V4) }),
        ("a packet on its last hop", Frame { ttl: 1, ..syn(V4) }),
        ("an IPv6 packet on its last hop", Frame { ttl: 1, ..syn(V6) }),
    ];
    for (what, frame) in frames {
        let (input, output) = (frame.bytes(), to_slot(&frame, 0));
        Case::sent(what, input, output, &[]).check(&mut bench);
    }
}

#[test]
fn tags_become_those_of_the_way_out_and_keep_their_priority() {
    if !require_root("packet_dr") {
        return;
    }
    const Q: u16 = 0x8100;
    const AD: u16 = 0x88a8;
    // What comes in, the backend's depth, VLANs and outer protocol, what goes out.
    type Tags = &'static [(u16, u16)];
    type Row = (&'static str, Tags, u8, [u16; 2], u16, Tags);
    let rows: &[Row] = &[
        ("untagged stays untagged", &[], 0, [0, 0], 0, &[]),
        ("same VLAN", &[(Q, 0x0064)], 1, [100, 0], 0, &[(Q, 0x0064)]),
        ("another VLAN, same priority", &[(Q, 0xb064)], 1, [200, 0], 0, &[(Q, 0xb0c8)]),
        ("a priority tag gets a VLAN", &[(Q, 0xe000)], 1, [200, 0], 0, &[(Q, 0xe0c8)]),
        ("a lone service tag leaves as 802.1Q", &[(AD, 0x0064)], 1, [200, 0], 0, &[(Q, 0x00c8)]),
        ("push one", &[], 1, [100, 0], 0, &[(Q, 0x0064)]),
        ("push two", &[], 2, [100, 200], AD, &[(AD, 0x0064), (Q, 0x00c8)]),
        ("pop one", &[(Q, 0xa064)], 0, [0, 0], 0, &[]),
        ("pop two", &[(AD, 0x6001), (Q, 0x8002)], 0, [0, 0], 0, &[]),
        ("one becomes two of its priority", &[(Q, 0x7001)], 2, [10, 20], AD, &[(AD, 0x700a), (Q, 0x7014)]),
        (
            "two become one of the outer's priority",
            &[(AD, 0x6001), (Q, 0x8002)],
            1,
            [5, 0],
            0,
            &[(Q, 0x6005)],
        ),
        (
            "two others, each with its priority",
            &[(AD, 0x6001), (Q, 0x8002)],
            2,
            [0xffe, 20],
            AD,
            &[(AD, 0x6ffe), (Q, 0x8014)],
        ),
        ("two of the kinds of the way out", &[(Q, 1), (AD, 2)], 2, [3, 4], AD, &[(AD, 3), (Q, 4)]),
        ("two plain ones", &[(AD, 1), (Q, 2)], 2, [3, 4], Q, &[(Q, 3), (Q, 4)]),
    ];
    let mut bench = one_server(live_backend(0));
    for &(what, tags, vlan_depth, vlan, outer_tpid, tags_out) in rows {
        bench.set(&Op::Backend(0, Backend { vlan_depth, vlan, outer_tpid, ..live_backend(0) }));
        for family in [V4, V6] {
            let frame = Frame { tags: tags.to_vec(), payload: vec![7; 33], ..syn(family) };
            let output = to_slot(&Frame { tags: tags_out.to_vec(), ..frame.clone() }, 0);
            Case::sent(what, frame.bytes(), output, &[]).check(&mut bench);
        }
    }
}

#[test]
fn a_frame_leaves_by_its_backends_interface_if_that_may_be_used() {
    if !require_root("packet_dr") {
        return;
    }
    for (what, ifindex, verdict) in [
        ("the interface it came in by", 1, XDP_TX),
        ("another one", OTHER, XDP_REDIRECT),
        ("one that nobody allowed", 3, XDP_DROP),
        ("one that cannot exist", u32::MAX, XDP_DROP),
    ] {
        let mut bench = one_server(Backend { ifindex, ..live_backend(0) });
        let frame = syn(V4);
        let output = to_slot(&frame, 0);
        Case { what: what.into(), frame: frame.bytes(), verdict, output, reasons: &[] }.check(&mut bench);
    }
}

#[test]
fn bytes_are_counted_to_the_end_of_the_ip_packet() {
    if !require_root("packet_dr") {
        return;
    }
    let mut bench = one_server(live_backend(0));
    let mut padded = syn(V4).bytes();
    padded.resize(60, 0);
    let tagged = Frame { tags: vec![(0x8100, 1)], ..syn(V6) }.bytes();
    bench.run(&padded);
    assert_eq!(bench.counted().backends[&0].bytes, 54, "padding does not count");
    bench.run(&tagged);
    let counted = bench.counted();
    assert_eq!(counted.backends[&0].bytes, 54 + 78, "a tag counts as it came");
    assert_eq!((counted.backends[&0].packets, counted.services[&0].flows), (2, 2));
}

#[test]
fn a_jumbo_frame_in_several_buffers_is_forwarded_whole() {
    if !require_root("packet_dr") {
        return;
    }
    let mut bench = one_server(Backend { vlan_depth: 1, vlan: [9, 0], ..live_backend(0) });
    for family in [V4, V6] {
        let frame = Frame { payload: (0..8900u32).map(|i| i as u8).collect(), ..syn(family) };
        let output = to_slot(&Frame { tags: vec![(0x8100, 9)], ..frame.clone() }, 0);
        let what = "9,000 bytes with a tag to push";
        Case::sent(what, frame.bytes(), output, &[]).check(&mut bench);
    }
}
