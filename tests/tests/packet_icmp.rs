//! ICMP errors about balanced flows: each reaches the end that it is for, about the packet as that end sent it, with every
//! checksum right, outer and inner.

use std::net::IpAddr;

use lb_common::{
    backend::{Backend, state},
    counter::Reason,
    service::mode,
};
use lb_tests::{
    lab::require_root,
    packet::{
        bench::{Bench, Op, hex},
        case::{Case, at, ip, slot_of, to_slot},
        dut::{Options, XDP_PASS, XDP_TX, live_backend},
        frame::{
            Frame, Transport,
            flags::{ACK, PSH, SYN},
        },
        talk::{CLIENT_MAC, NETS, Net, OWN_MAC, Talk, V4, V6, every_routed, routed},
    },
};

/// Type, code and the four bytes behind the checksum of the errors that are relayed.
const ERRORS_V4: [(u8, u8, [u8; 4]); 6] = [
    (3, 1, [0; 4]),
    (3, 3, [0; 4]),
    (3, 4, [0, 0, 5, 0x14]),
    (4, 0, [0; 4]),
    (11, 0, [0; 4]),
    (12, 0, [9, 0, 0, 0]),
];
const ERRORS_V6: [(u8, u8, [u8; 4]); 5] =
    [(1, 4, [0; 4]), (1, 0, [0; 4]), (2, 0, [0, 0, 5, 0]), (3, 0, [0; 4]), (4, 1, [0, 0, 0, 6])];

fn errors(net: Net) -> &'static [(u8, u8, [u8; 4])] {
    if net.slot == 0 { &ERRORS_V4 } else { &ERRORS_V6 }
}

const fn header_len(net: Net) -> usize {
    if net.slot == 0 { 20 } else { 40 }
}

fn connected(mode: u8, net: Net) -> (Bench, Talk) {
    let mut bench = routed(Options::default(), mode, 0);
    let talk = Talk::begin(&mut bench, &Frame::tcp(at(net.client), at(net.vip), SYN));
    bench.run(&talk.segment(ACK).bytes());
    (bench, talk)
}

/// An error and what must become of it. `seen` is the packet as it stood where the error was made, `sent` as its
/// sender must be shown it.
struct Relayed<'a> {
    kind: (u8, u8, [u8; 4]),
    from: IpAddr,
    shown_from: IpAddr,
    seen: &'a Frame,
    sent: &'a Frame,
    quoted: usize,
}

impl Relayed<'_> {
    fn frames(&self, [src_mac, dst_mac]: [[u8; 6]; 2], [from_mac, to_mac]: [[u8; 6]; 2]) -> [Frame; 2] {
        let (kind, code, rest) = self.kind;
        let error = |from: IpAddr, about: &Frame| Frame {
            transport: Transport::Icmp(kind, code, rest),
            ..Frame::error(from, about.src.ip(), kind, code, &about.bytes(), self.quoted)
        };
        let sent = Frame { src_mac, dst_mac, ..error(self.from, self.seen) };
        let want = Frame { src_mac: from_mac, dst_mac: to_mac, ttl: 63, ..error(self.shown_from, self.sent) };
        [sent, want]
    }
}

/// Checks an error about a server's packet, made on the client's side.
fn reaches_server(bench: &mut Bench, talk: &Talk, what: &str, relayed: &Relayed<'_>) {
    let backend = live_backend(talk.slot);
    let way = [backend.src_mac.0, backend.dst_mac.0];
    let [sent, want] = relayed.frames([CLIENT_MAC, OWN_MAC], way);
    Case::sent(what, sent.bytes(), want.bytes(), &[Reason::IcmpError]).check(bench);
}

/// Checks an error about a client's packet, made on the server's side.
fn reaches_client(bench: &mut Bench, talk: &Talk, what: &str, relayed: &Relayed<'_>) {
    let backend = live_backend(talk.slot);
    let [sent, want] = relayed.frames([backend.dst_mac.0, OWN_MAC], [OWN_MAC, talk.mac]);
    Case::sent(what, sent.bytes(), want.bytes(), &[Reason::IcmpError]).check(bench);
}

/// The packet after the hop that took it here.
fn later(frame: &Frame) -> Frame {
    Frame { ttl: frame.ttl - 1, ..frame.clone() }
}

#[test]
fn an_error_about_a_reply_reaches_the_server() {
    if !require_root("packet_icmp") {
        return;
    }
    for (name, mode, net) in every_routed() {
        let (mut bench, talk) = connected(mode, net);
        let answer = Frame { payload: vec![0x5a; 101], ..talk.answer(ACK | PSH) };
        let (seen, sent) = (talk.at_client(&answer), later(&answer));
        for &kind in errors(net) {
            for transport in [8, 12, 16, 20, 60, 121] {
                let quoted = header_len(net) + transport;
                // A router's address means nothing to the server and may stay; the client's is not what it knows.
                let client = talk.outside.src.ip();
                for (from, shown_from) in [(ip(net.router), ip(net.router)), (client, talk.inside.src.ip())] {
                    let what = format!("{name}: {kind:?} with {transport} bytes from {from}");
                    let relayed = Relayed { kind, from, shown_from, seen: &seen, sent: &sent, quoted };
                    reaches_server(&mut bench, &talk, &what, &relayed);
                }
            }
        }
        bench.agree();
    }
}

#[test]
fn an_error_about_a_clients_packet_reaches_the_client_in_the_vips_name() {
    if !require_root("packet_icmp") {
        return;
    }
    for (name, mode, net) in every_routed() {
        let (mut bench, talk) = connected(mode, net);
        let data = Frame { payload: vec![0xa5; 101], ..talk.segment(ACK | PSH) };
        let (seen, sent) = (talk.at_server(&data), later(&data));
        let inner_router = if net.slot == 0 { ip("10.3.0.254") } else { ip("2001:db8:3::fe") };
        for &kind in errors(net) {
            for transport in [8, 12, 16, 20, 60, 121] {
                let quoted = header_len(net) + transport;
                for from in [talk.inside.dst.ip(), inner_router] {
                    let what = format!("{name}: {kind:?} with {transport} bytes from {from}");
                    let shown_from = talk.outside.dst.ip();
                    let relayed = Relayed { kind, from, shown_from, seen: &seen, sent: &sent, quoted };
                    reaches_client(&mut bench, &talk, &what, &relayed);
                }
            }
        }
        bench.agree();
    }
}

#[test]
fn errors_about_datagrams_keep_the_inner_checksum_or_its_absence() {
    if !require_root("packet_icmp") {
        return;
    }
    for (name, mode, net) in every_routed() {
        let mut bench = routed(Options::default(), mode, 0);
        let talk = Talk::begin(&mut bench, &Frame::udp(at(net.client), at(net.vip), b"query"));
        let kind = errors(net)[1];
        for payload in [&b""[..], b"odd", &[1; 64]] {
            for quoted in [8, 9, 8 + payload.len()].map(|transport| header_len(net) + transport) {
                let query = talk.datagram(payload);
                let (seen, sent) = (talk.at_server(&query), later(&query));
                let (from, shown_from) = (talk.inside.dst.ip(), talk.outside.dst.ip());
                let relayed = Relayed { kind, from, shown_from, seen: &seen, sent: &sent, quoted };
                reaches_client(&mut bench, &talk, &format!("{name}: {} bytes", payload.len()), &relayed);
                let answer = talk.answer_datagram(payload);
                let (seen, sent) = (talk.at_client(&answer), later(&answer));
                let (from, shown_from) = (talk.outside.src.ip(), talk.inside.src.ip());
                let relayed = Relayed { kind, from, shown_from, seen: &seen, sent: &sent, quoted };
                reaches_server(&mut bench, &talk, &format!("{name}: {} bytes back", payload.len()), &relayed);
            }
        }
        // Without a checksum: as with it, but for the field, whose sum is then another.
        let query = talk.datagram(b"silent");
        let mut seen = talk.arrives(&query);
        let field = 14 + header_len(net) + 6;
        seen[field..field + 2].fill(0);
        let from = talk.inside.dst.ip();
        let error = Frame::error(from, talk.inside.src.ip(), kind.0, kind.1, &seen, header_len(net) + 8);
        let ran = bench.run(&error.bytes());
        let inner = 14 + 2 * header_len(net) + 8 + 6;
        assert_eq!((ran.verdict, &ran.frame[inner..inner + 2]), (XDP_TX, &[0, 0][..]), "{name}");
    }
}

#[test]
fn errors_about_half_open_connections_are_relayed() {
    if !require_root("packet_icmp") {
        return;
    }
    for (name, mode, net) in every_routed() {
        let mut bench = routed(Options::default(), mode, 0);
        let first = Frame::tcp(at(net.client), at(net.vip), SYN);
        let talk = Talk::begin(&mut bench, &first);
        let (seen, sent) = (talk.at_server(&first), later(&first));
        let (from, shown_from) = (talk.inside.dst.ip(), talk.outside.dst.ip());
        let quoted = header_len(net) + 8;
        let relayed = Relayed { kind: errors(net)[1], from, shown_from, seen: &seen, sent: &sent, quoted };
        reaches_client(&mut bench, &talk, &name, &relayed);
        bench.agree();
    }
}

#[test]
fn errors_have_tags_and_options_like_any_packet() {
    if !require_root("packet_icmp") {
        return;
    }
    for (name, mode, net) in every_routed() {
        let mut bench = routed(Options::default(), mode, 0);
        let first = Frame { tags: vec![(0x8100, 0x0064)], ..Frame::tcp(at(net.client), at(net.vip), SYN) };
        let talk = Talk::begin(&mut bench, &first);
        let (seen, sent) = (talk.at_server(&first), later(&first));
        let (from, shown_from) = (talk.inside.dst.ip(), talk.outside.dst.ip());
        let quoted = header_len(net) + 8;
        let relayed = Relayed { kind: errors(net)[0], from, shown_from, seen: &seen, sent: &sent, quoted };
        let backend = live_backend(talk.slot);
        let [sent, want] = relayed.frames([backend.dst_mac.0, OWN_MAC], [OWN_MAC, talk.mac]);
        let want = Frame { tags: talk.tags.clone(), ..want };
        Case::sent(&name, sent.bytes(), want.bytes(), &[Reason::IcmpError]).check(&mut bench);
        if net.slot == 0 {
            let options = vec![1; 12];
            let [sent, want] = [sent, want].map(|frame| Frame { options: options.clone(), ..frame });
            Case::sent(&name, sent.bytes(), want.bytes(), &[Reason::IcmpError]).check(&mut bench);
        }
    }
}

#[test]
fn quoted_options_are_passed_over() {
    if !require_root("packet_icmp") {
        return;
    }
    for mode in [mode::NAT, mode::SNAT] {
        let (mut bench, talk) = connected(mode, V4);
        let data = Frame { options: vec![1; 8], payload: vec![3; 9], ..talk.segment(ACK) };
        let (seen, sent) = (talk.at_server(&data), later(&data));
        let (from, shown_from) = (talk.inside.dst.ip(), talk.outside.dst.ip());
        for quoted in [36, 44, 57] {
            let relayed = Relayed { kind: ERRORS_V4[2], from, shown_from, seen: &seen, sent: &sent, quoted };
            reaches_client(&mut bench, &talk, "options in the quote", &relayed);
        }
    }
}

#[test]
fn what_was_wrong_in_an_error_stays_wrong() {
    if !require_root("packet_icmp") {
        return;
    }
    for (name, mode, net) in every_routed() {
        let (mut bench, talk) = connected(mode, net);
        let data = talk.segment(ACK);
        let (seen, sent) = (talk.at_server(&data), later(&data));
        let (from, shown_from) = (talk.inside.dst.ip(), talk.outside.dst.ip());
        let quoted = header_len(net) + 20;
        let relayed = Relayed { kind: errors(net)[0], from, shown_from, seen: &seen, sent: &sent, quoted };
        let backend = live_backend(talk.slot);
        let [sent, want] = relayed.frames([backend.dst_mac.0, OWN_MAC], [OWN_MAC, talk.mac]);
        let icmp = 14 + header_len(net);
        let mut fields = vec![("ICMP", icmp + 2), ("quoted TCP", icmp + 8 + header_len(net) + 16)];
        if net.slot == 0 {
            fields.extend([("IP", 14 + 10), ("quoted IP", icmp + 8 + 10)]);
        }
        for (what, field) in fields {
            let mut bytes = sent.bytes();
            bytes[field] ^= 0x55;
            let ran = bench.run(&bytes);
            assert_eq!(ran.verdict, XDP_TX, "{name}: {what}");
            let right = &want.bytes()[field..field + 2];
            assert_ne!(ran.frame[field..field + 2], *right, "{name}: {what} checksum was repaired");
        }
    }
}

#[test]
fn under_direct_routing_an_error_goes_to_the_flows_server_as_it_is() {
    if !require_root("packet_icmp") {
        return;
    }
    for net in NETS {
        let mut bench = routed(Options::default(), mode::DR, 0);
        bench.set(&Op::Table(if net.slot == 0 { 0 } else { 2 }, vec![net.slot, net.slot + 1]));
        let client = Frame::tcp(at(net.client), at(net.vip), SYN);
        let slot = slot_of(&bench.run(&client.bytes()));
        let reply = Frame::tcp(at(net.vip), at(net.client), ACK);
        for &(kind, code, rest) in errors(net) {
            let error = Frame {
                transport: Transport::Icmp(kind, code, rest),
                ttl: 1,
                ..Frame::error(
                    ip(net.router),
                    reply.src.ip(),
                    kind,
                    code,
                    &reply.bytes(),
                    header_len(net) + 8,
                )
            };
            Case::sent(net.name, error.bytes(), to_slot(&error, slot), &[Reason::IcmpError])
                .check(&mut bench);
        }
        // About a flow that is not known: where a packet of it would go.
        let mut slots = Vec::new();
        for port in 1..=20 {
            let unknown = std::net::SocketAddr::new(reply.dst.ip(), port);
            let about = Frame { dst: unknown, ..reply.clone() }.bytes();
            let (kind, code, _) = errors(net)[0];
            let error = Frame::error(ip(net.router), reply.src.ip(), kind, code, &about, header_len(net) + 8);
            let slot = slot_of(&bench.run(&error.bytes()));
            assert_eq!(slot_of(&bench.run(&Frame::tcp(unknown, at(net.vip), ACK).bytes())), slot);
            slots.push(slot);
        }
        assert!(slots.contains(&net.slot) && slots.contains(&(net.slot + 1)), "{slots:?}");
        bench.agree();
    }
}

#[test]
fn errors_about_nothing_that_is_known_are_left_to_the_kernel() {
    if !require_root("packet_icmp") {
        return;
    }
    for (name, mode, net) in every_routed() {
        let (mut bench, talk) = connected(mode, net);
        let (kind, code, _) = errors(net)[0];
        let answer = talk.at_client(&talk.answer(ACK));
        let about = |frame: &Frame| {
            Frame::error(ip(net.router), frame.src.ip(), kind, code, &frame.bytes(), header_len(net) + 8)
                .bytes()
        };
        let other = std::net::SocketAddr::new(answer.dst.ip(), 7);
        let own_ping = Frame {
            transport: Transport::Other(if net.slot == 0 { 1 } else { 58 }),
            payload: vec![8; 40],
            ..answer.clone()
        };
        let mut cases = vec![
            ("another flow", about(&Frame { dst: other, ..answer.clone() })),
            ("no TCP or UDP", about(&own_ping)),
            ("a quote of nothing", Frame { payload: vec![], ..error_frame(net, &answer) }.bytes()),
            ("seven bytes of transport header", short(net, &answer, 7)),
            ("half an IP header", short(net, &answer, 0)[..14 + header_len(net) + 8 + 10].to_vec()),
        ];
        if net.slot == 0 {
            cases.push(("a later fragment", about(&Frame { fragment: 0x0004, ..answer.clone() })));
            cases.push(("a quote of IPv6", bent(about(&answer), 14 + 28, 0x65)));
            cases.push(("a quote with a short header", bent(about(&answer), 14 + 28, 0x44)));
        } else {
            cases.push(("extension headers", about(&Frame { extensions: vec![(60, 8)], ..answer.clone() })));
            cases.push(("a fragment header", about(&Frame { extensions: vec![(44, 8)], ..answer.clone() })));
        }
        for (what, frame) in cases {
            Case::passed(format!("{name}: {what}"), frame, &[Reason::IcmpUnknown]).check(&mut bench);
        }
        // A first fragment shows its ports.
        if net.slot == 0 {
            let first = about(&Frame { fragment: 0x2000, ..answer.clone() });
            assert_eq!(bench.run(&first).verdict, XDP_TX, "{name}: a first fragment");
        }
        bench.set(&Op::Backend(net.slot, Backend { state: state::DEAD, ..live_backend(net.slot) }));
        Case::passed(format!("{name}: a dead server"), about(&answer), &[Reason::IcmpUnknown])
            .check(&mut bench);
        bench.agree();
    }
}

fn error_frame(net: Net, about: &Frame) -> Frame {
    let (kind, code, _) = errors(net)[0];
    Frame::error(ip(net.router), about.src.ip(), kind, code, &about.bytes(), header_len(net) + 8)
}

/// An error that quotes so many bytes of transport header.
fn short(net: Net, about: &Frame, transport: usize) -> Vec<u8> {
    let (kind, code, _) = errors(net)[0];
    Frame::error(ip(net.router), about.src.ip(), kind, code, &about.bytes(), header_len(net) + transport)
        .bytes()
}

fn bent(mut bytes: Vec<u8>, at: usize, byte: u8) -> Vec<u8> {
    bytes[at] = byte;
    bytes
}

#[test]
fn other_icmp_is_the_kernels() {
    if !require_root("packet_icmp") {
        return;
    }
    for (name, mode, net) in every_routed() {
        let (mut bench, talk) = connected(mode, net);
        let kinds: &[u8] = if net.slot == 0 { &[0, 5, 8, 13] } else { &[100, 128, 129, 135, 137] };
        for &kind in kinds {
            let answer = talk.at_client(&talk.answer(ACK));
            let error = Frame { transport: Transport::Icmp(kind, 0, [0; 4]), ..error_frame(net, &answer) };
            let what = format!("{name}: type {kind}");
            Case::passed(&what, error.bytes(), &[Reason::NotTcpUdp]).check(&mut bench);
            let elsewhere = std::net::SocketAddr::new(ip(net.router), 0);
            let error = Frame { dst: elsewhere, ..error }.bytes();
            Case::passed(&what, error, &[Reason::NotVip]).check(&mut bench);
        }
        // An error for somebody else about somebody else.
        let [src, dst] = [ip(net.router), at(net.client).ip()].map(|ip| std::net::SocketAddr::new(ip, 9));
        let foreign = error_frame(net, &Frame::tcp(src, dst, ACK)).bytes();
        Case::passed(&name, foreign, &[Reason::NotVip]).check(&mut bench);
    }
}

#[test]
fn an_error_on_its_last_hop_ends_there_untold() {
    if !require_root("packet_icmp") {
        return;
    }
    for (name, mode, net) in every_routed() {
        let (mut bench, talk) = connected(mode, net);
        for ttl in [0, 1] {
            let error = Frame { ttl, ..error_frame(net, &talk.at_client(&talk.answer(ACK))) };
            Case::dropped(&name, error.bytes(), &[Reason::Untold]).check(&mut bench);
        }
    }
}

#[test]
fn no_cut_of_an_error_is_relayed_and_any_byte_of_it_may_be_anything() {
    if !require_root("packet_icmp") {
        return;
    }
    for (name, mode, net) in every_routed() {
        let (mut bench, talk) = connected(mode, net);
        for about in [talk.at_client(&talk.answer(ACK)), talk.at_server(&talk.segment(ACK))] {
            let whole = error_frame(net, &about).bytes();
            for len in 14..whole.len() {
                let cut = &whole[..len];
                let ran = bench.run(cut);
                assert_eq!((ran.verdict, hex(&ran.frame)), (XDP_PASS, hex(cut)), "{name}: {len} bytes");
            }
            for at in 12..whole.len() {
                for byte in [0, 1, 3, 0x45, 0x60, 0x7f, 0xff, whole[at] ^ 1, whole[at] ^ 0x80] {
                    bench.run(&bent(whole.clone(), at, byte));
                }
            }
        }
        bench.agree();
    }
}

#[test]
fn an_error_inside_the_padding_is_none() {
    if !require_root("packet_icmp") {
        return;
    }
    for net in [V4, V6] {
        let (mut bench, talk) = connected(mode::NAT, net);
        let answer = talk.at_client(&talk.answer(ACK));
        // The IP header says that the quote ends before the ports; behind it Ethernet's padding goes on like one.
        let whole = error_frame(net, &answer).bytes();
        let claimed = short(net, &answer, 0);
        let mut padded = whole;
        padded[..claimed.len()].copy_from_slice(&claimed);
        Case::passed(net.name, padded, &[Reason::IcmpUnknown]).check(&mut bench);
    }
}
