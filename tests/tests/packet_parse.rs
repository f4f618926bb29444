//! What is not balanced, and why: every cut, every bent header, every protocol that is not ours is left to the kernel
//! as it came, and counted.

use lb_common::{
    counter::Reason,
    net::{PROTO_TCP, PROTO_UDP},
    service::Service,
};
use lb_tests::{
    lab::require_root,
    packet::{
        bench::Bench,
        case::{Case, at, bench, to_slot},
        dut::{Options, XDP_PASS},
        frame::{Frame, Transport, flags},
    },
};

const V4: [&str; 2] = ["10.1.0.1:40000", "10.0.0.100:104"];
const V6: [&str; 2] = ["[2001:db8:1::1]:40000", "[2001:db8::100]:104"];

fn one_server() -> Bench {
    let mut bench = bench(Options::default(), 1);
    let keys = [V4, V6].map(|[_, vip]| [(at(vip), PROTO_TCP), (at(vip), PROTO_UDP)]);
    bench.serve(0, Service::default(), keys.as_flattened(), &[0]);
    bench
}

fn syn([client, vip]: [&str; 2]) -> Frame {
    Frame::tcp(at(client), at(vip), flags::SYN)
}

fn other(proto: u8, [client, vip]: [&str; 2]) -> Frame {
    Frame { transport: Transport::Other(proto), payload: vec![0; 64], ..syn([client, vip]) }
}

/// The frame with these bytes written over it, counted from the IP header.
fn bent(frame: &Frame, changes: &[(usize, u8)]) -> Vec<u8> {
    let mut bytes = frame.bytes();
    for &(at, byte) in changes {
        bytes[frame.l2_len() + at] = byte;
    }
    bytes
}

fn passes(what: &str, frame: Vec<u8>, reason: &'static [Reason]) -> Case {
    Case::passed(what, frame, reason)
}

#[test]
fn what_is_not_ours_is_left_to_the_kernel_and_counted() {
    if !require_root("packet_parse") {
        return;
    }
    let mut bench = one_server();
    let arp = {
        let mut frame = vec![0xff; 6];
        frame.extend([2, 0xc1, 0, 0, 0, 1, 0x08, 0x06]);
        frame.resize(42, 0);
        frame
    };
    let tagged_arp = [&arp[..12], &[0x81, 0, 0, 5], &arp[12..]].concat();
    let three = vec![(0x88a8, 1), (0x8100, 2), (0x8100, 3)];
    let elsewhere_v4 = Frame::tcp(at(V4[0]), at("10.0.0.200:104"), flags::SYN);
    let elsewhere_v6 = Frame::tcp(at(V6[0]), at("[2001:db8::200]:104"), flags::SYN);
    let later_ping =
        Frame { extensions: vec![(44, 8)], fragment: 0x0004, payload: vec![0; 64], ..other(58, V6) }.bytes();
    let nested = Frame { extensions: vec![(44, 8), (44, 8)], fragment: 0x2000, ..syn(V6) }.bytes();
    let extended = |chain: &[(u8, usize)]| Frame { extensions: chain.to_vec(), ..syn(V6) }.bytes();
    let chained = Frame { extensions: vec![(60, 8)], ..syn(V6) };
    let bent_chain = |len: u8| bent(&chained, &[(5, len)]);
    use Reason::{ExtensionHeader, Malformed, NoService, NotIp, NotTcpUdp, NotVip, VlanDepth};
    let cases = [
        passes("ARP", arp, &[NotIp]),
        passes("ARP with a tag", tagged_arp, &[NotIp]),
        passes("nothing but an Ethernet header of another type", vec![0; 14], &[NotIp]),
        passes("three tags", Frame { tags: three, ..syn(V4) }.bytes(), &[VlanDepth]),
        passes("another IPv4 address", elsewhere_v4.bytes(), &[NotVip]),
        passes("another IPv6 address", elsewhere_v6.bytes(), &[NotVip]),
        passes("a port without a service", syn([V4[0], "10.0.0.100:105"]).bytes(), &[NoService]),
        passes("an IPv6 port without a service", syn([V6[0], "[2001:db8::100]:80"]).bytes(), &[NoService]),
        passes("a ping", other(1, V4).bytes(), &[NotTcpUdp]),
        passes("an IPv6 ping", other(58, V6).bytes(), &[NotTcpUdp]),
        passes("SCTP", other(132, V4).bytes(), &[NotTcpUdp]),
        passes("IPv6 without anything next", other(59, V6).bytes(), &[NotTcpUdp]),
        passes("a middle fragment of a ping", bent(&other(1, V4), &[(7, 0x04)]), &[NotTcpUdp]),
        passes("a first fragment of a ping", bent(&other(1, V4), &[(6, 0x20)]), &[NotTcpUdp]),
        passes("a later IPv6 fragment of a ping", later_ping, &[NotTcpUdp]),
        passes("mobility", extended(&[(135, 8)]), &[ExtensionHeader]),
        passes("host identity behind hop-by-hop options", extended(&[(0, 8), (139, 8)]), &[ExtensionHeader]),
        passes("seven extension headers", extended(&[(60, 8); 7]), &[ExtensionHeader]),
        passes("a fragment within a fragment", nested, &[ExtensionHeader]),
        passes("a chain of more than a kilobyte", extended(&[(60, 1000)]), &[ExtensionHeader]),
        passes("an encrypted packet", other(50, V6).bytes(), &[ExtensionHeader]),
        passes("an authenticated packet", other(51, V6).bytes(), &[ExtensionHeader]),
        passes("IPv4 that says version 6", bent(&syn(V4), &[(0, 0x65)]), &[Malformed]),
        passes("IPv4 that says version 0", bent(&syn(V4), &[(0, 0x05)]), &[Malformed]),
        passes("IPv6 that says version 4", bent(&syn(V6), &[(0, 0x40)]), &[Malformed]),
        passes("a header of four words", bent(&syn(V4), &[(0, 0x44)]), &[Malformed]),
        passes("a header of no words", bent(&syn(V4), &[(0, 0x40)]), &[Malformed]),
        passes("a header longer than the frame", bent(&syn(V4), &[(0, 0x4f)]), &[Malformed]),
        passes("a total length of nothing", bent(&syn(V4), &[(2, 0), (3, 0)]), &[Malformed]),
        passes("a total length below the header's", bent(&syn(V4), &[(3, 19)]), &[Malformed]),
        passes("a total length without room for TCP", bent(&syn(V4), &[(3, 39)]), &[Malformed]),
        passes("a payload length without room for TCP", bent(&syn(V6), &[(5, 19)]), &[Malformed]),
        passes("a payload length below the extension headers'", bent_chain(7), &[Malformed]),
        passes("a payload length without room for TCP behind them", bent_chain(8 + 19), &[Malformed]),
        passes("a jumbogram's payload length", bent(&syn(V6), &[(4, 0), (5, 0)]), &[Malformed]),
    ];
    for case in &cases {
        case.check(&mut bench);
    }
    assert_eq!(bench.counted().backends.len(), 0, "nothing was forwarded");
}

#[test]
fn later_fragments_of_what_was_not_seen_are_dropped() {
    if !require_root("packet_parse") {
        return;
    }
    let mut bench = one_server();
    for bits in [0x2004, 0x0004, 0xa004, 0x1fff] {
        let frame = Frame { fragment: bits, ..syn(V4) }.bytes();
        Case::dropped(format!("IPv4 {bits:#x}"), frame, &[Reason::FragmentUnknown]).check(&mut bench);
        let frame = Frame { fragment: bits, extensions: vec![(44, 8)], ..syn(V6) }.bytes();
        Case::dropped(format!("IPv6 {bits:#x}"), frame, &[Reason::FragmentUnknown]).check(&mut bench);
    }
}

#[test]
fn headers_on_the_way_to_the_ports_are_passed_over() {
    if !require_root("packet_parse") {
        return;
    }
    let mut bench = one_server();
    let chains: [&[(u8, usize)]; 8] = [
        &[(0, 8)],
        &[(43, 24)],
        &[(60, 16)],
        &[(44, 8)],
        &[(0, 8), (60, 8), (43, 8), (44, 8), (60, 8), (60, 8)],
        &[(60, 8); 6],
        &[(60, 256), (60, 256), (60, 256)],
        &[(0, 984)],
    ];
    for (port, chain) in (1..).zip(chains) {
        let client = std::net::SocketAddr::new(at(V6[0]).ip(), port);
        let frame = Frame { extensions: chain.to_vec(), ..Frame::tcp(client, at(V6[1]), flags::SYN) };
        Case::sent(format!("{chain:?}"), frame.bytes(), to_slot(&frame, 0), &[]).check(&mut bench);
    }
    // A first fragment shows its ports as a whole packet does.
    for bits in [0x2000, 0xa000] {
        let frame = Frame { fragment: bits, ..syn(V4) };
        Case::sent("a first fragment", frame.bytes(), to_slot(&frame, 0), &[]).check(&mut bench);
    }
}

#[test]
fn oddities_that_the_server_should_judge_are_forwarded() {
    if !require_root("packet_parse") {
        return;
    }
    let mut bench = one_server();
    let syn_v4 = |port: u16| Frame::tcp(at(&format!("10.1.0.1:{port}")), at(V4[1]), flags::SYN);
    type Row = (&'static str, Frame, Vec<(usize, u8)>);
    let rows: Vec<Row> = vec![
        ("a wrong IP checksum", syn_v4(1), vec![(10, 0xff)]),
        ("a wrong TCP checksum", syn_v4(2), vec![(36, 0xff)]),
        ("a TCP header that says it has no words", syn_v4(3), vec![(32, 0)]),
        ("a total length beyond the frame", syn_v4(4), vec![(2, 0x20)]),
        ("the reserved bit of IPv4", Frame { fragment: 0x8000, ..syn_v4(5) }, vec![]),
        ("an IHL of fifteen words that are there", Frame { options: vec![0; 40], ..syn_v4(6) }, vec![]),
        ("every other bit of IPv6's first word", syn(V6), vec![(0, 0x6f), (1, 0xff), (2, 0xff), (3, 0xff)]),
    ];
    for (what, frame, changes) in rows {
        let input = bent(&frame, &changes);
        let output = [&to_slot(&frame, 0)[..14], &input[14..]].concat();
        Case::sent(what, input, output, &[]).check(&mut bench);
    }
}

#[test]
fn no_cut_of_a_frame_is_forwarded_before_its_transport_header_is_whole() {
    if !require_root("packet_parse") {
        return;
    }
    let mut bench = one_server();
    let options = Frame { options: vec![1; 8], ..syn(V4) };
    let tags = vec![(0x88a8, 1), (0x8100, 2)];
    let frames = [
        syn(V4),
        options,
        Frame { tags: tags.clone(), ..syn(V4) },
        Frame::udp(at(V4[0]), at(V4[1]), b""),
        syn(V6),
        Frame { tags, ..syn(V6) },
        Frame::udp(at(V6[0]), at(V6[1]), b""),
        Frame { extensions: vec![(0, 8), (60, 24)], ..syn(V6) },
    ];
    for frame in frames {
        let whole = frame.bytes();
        // The kernel's test run takes no frame without an Ethernet header; the library's own tests cut that.
        for len in 14..whole.len() {
            let cut = whole[..len].to_vec();
            passes("a cut frame", cut, &[Reason::Malformed]).check(&mut bench);
        }
        let verdict = bench.run(&whole).verdict;
        assert_ne!(verdict, XDP_PASS, "the whole frame is forwarded");
    }
}

#[test]
fn every_byte_of_the_headers_may_be_anything() {
    if !require_root("packet_parse") {
        return;
    }
    let mut bench = one_server();
    let tags = vec![(0x8100, 5)];
    let chained = Frame { extensions: vec![(0, 8), (44, 8), (60, 16)], ..syn(V6) };
    for frame in [Frame { tags, options: vec![1; 4], ..syn(V4) }, syn(V6), chained] {
        let whole = frame.bytes();
        for at in 12..whole.len() {
            for byte in [0, 1, 0x0f, 0x44, 0x45, 0x60, 0x7f, 0x80, 0xff, whole[at] ^ 1, whole[at] ^ 0x80] {
                let mut bytes = whole.clone();
                bytes[at] = byte;
                // The bench compares with the model.
                bench.run(&bytes);
            }
        }
    }
}
