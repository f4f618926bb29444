//! Connections whose server is dead: whoever still sends into one gets a RST, from either side, as long as the entries
//! are there.

use lb_common::{
    backend::{Backend, state},
    counter::Reason,
    flow::State,
    service::flags::RESET,
};
use lb_tests::{
    lab::require_root,
    packet::{
        bench::{Bench, Op},
        case::{Case, at},
        dut::{Options, live_backend},
        frame::{
            Frame, Transport,
            flags::{ACK, FIN, PSH, RST, SYN},
        },
        talk::{Net, Talk, every_routed, routed},
    },
};

/// A bench, and a connection whose server is dead by now.
fn orphaned(mode: u8, net: Net, established: bool) -> (Bench, Talk) {
    let mut bench = routed(Options::default(), mode, RESET);
    let talk = Talk::begin(&mut bench, &Frame::tcp(at(net.client), at(net.vip), SYN));
    if established {
        bench.run(&talk.segment(ACK).bytes());
    }
    let dead = Backend { state: state::DEAD, generation: 2, ..live_backend(net.slot) };
    bench.set(&Op::Backend(net.slot, dead));
    bench.set(&Op::Table(if net.slot == 0 { 0 } else { 2 }, vec![net.slot + 1]));
    (bench, talk)
}

/// The RST that answers a segment.
fn reset(to: &Frame, seq: u32, ack: u32, flags: u8) -> Vec<u8> {
    let mut bytes = Frame {
        dst_mac: to.src_mac,
        src_mac: to.dst_mac,
        tags: to.tags.clone(),
        fragment: 0,
        id: 0,
        seq,
        ack,
        ..Frame::tcp(to.dst, to.src, flags)
    }
    .bytes();
    // Its window is zero, unlike that of the frames of a test: one word less in the checksum.
    let l4 = to.l2_len() + if to.src.is_ipv4() { 20 } else { 40 };
    bytes[l4 + 14..l4 + 16].fill(0);
    let sum = u32::from(u16::from_be_bytes([bytes[l4 + 16], bytes[l4 + 17]])) + 0x2000;
    let sum = (sum & 0xffff) + (sum >> 16);
    bytes[l4 + 16..l4 + 18].copy_from_slice(&(sum as u16).to_be_bytes());
    bytes
}

#[test]
fn a_segment_is_answered_with_the_numbers_that_its_sender_expects() {
    if !require_root("packet_reset") {
        return;
    }
    for (name, mode, net) in every_routed() {
        for established in [false, true] {
            let (mut bench, talk) = orphaned(mode, net, established);
            for (side, frame) in [("client", talk.segment(0)), ("server", talk.answer(0))] {
                let segment = |flags: u8, payload: usize| Frame {
                    transport: Transport::Tcp(flags),
                    seq: 0xffff_fff0,
                    ack: 0x1234_5678,
                    payload: vec![9; payload],
                    ..frame.clone()
                };
                // Control bits and payload of the segment; sequence, acknowledgement and bits of the answer.
                type Row = (&'static str, u8, usize, u32, u32, u8);
                let rows: [Row; 9] = [
                    ("pure ACK", ACK, 0, 0x1234_5678, 0, RST),
                    ("data", ACK | PSH, 1000, 0x1234_5678, 0, RST),
                    ("FIN", FIN | ACK, 0, 0x1234_5678, 0, RST),
                    ("data and FIN", FIN | ACK, 5, 0x1234_5678, 0, RST),
                    ("SYN-ACK", SYN | ACK, 0, 0x1234_5678, 0, RST),
                    ("nothing", 0, 0, 0, 0xffff_fff0, RST | ACK),
                    ("data without ACK", PSH, 32, 0, 0x10, RST | ACK),
                    ("FIN without ACK", FIN, 0, 0, 0xffff_fff1, RST | ACK),
                    ("data and FIN without ACK", FIN, 15, 0, 0, RST | ACK),
                ];
                for (what, flags, payload, seq, ack, bits) in rows {
                    let to = segment(flags, payload);
                    let what = format!("{name}: {side}'s {what}, established: {established}");
                    let output = reset(&to, seq, ack, bits);
                    Case::sent(what, to.bytes(), output, &[Reason::FlowReset]).check(&mut bench);
                }
                for flags in [RST, RST | ACK, RST | SYN, RST | FIN | ACK] {
                    let what = format!("{name}: {side}'s {flags:#x} is not answered");
                    Case::dropped(what, segment(flags, 3).bytes(), &[Reason::FlowReset]).check(&mut bench);
                }
            }
            let state = if established { State::Established } else { State::New };
            talk.assert_states(&bench, Some([state; 2]), "the entries stay");
            let counted = bench.counted().backends[&net.slot].packets;
            assert_eq!(counted, if established { 2 } else { 1 }, "{name}: nothing was forwarded");
            bench.agree();
        }
    }
}

#[test]
fn tags_options_and_padding_of_a_segment_do_not_mislead_its_answer() {
    if !require_root("packet_reset") {
        return;
    }
    for (name, mode, net) in every_routed() {
        let (mut bench, talk) = orphaned(mode, net, true);
        let long = || vec![1; 1400];
        let mut frames = vec![
            Frame { tags: vec![(0x8100, 0x6064)], payload: long(), ..talk.segment(ACK) },
            Frame { tags: vec![(0x88a8, 1), (0x8100, 2)], ..talk.answer(ACK) },
            Frame { ttl: 1, ..talk.segment(ACK) },
            Frame { payload: vec![1; 8900], ..talk.answer(ACK) },
        ];
        if net.slot == 0 {
            frames.push(Frame { options: vec![1; 40], payload: long(), ..talk.segment(ACK) });
        } else {
            frames.push(Frame { extensions: vec![(0, 8), (60, 16)], payload: long(), ..talk.segment(ACK) });
        }
        for frame in frames {
            let to = Frame { seq: 5, ack: 77, ..frame };
            Case::sent(&name, to.bytes(), reset(&to, 77, 0, RST), &[Reason::FlowReset]).check(&mut bench);
            let silent = Frame { transport: Transport::Tcp(PSH), ..to };
            let ack = 5 + silent.payload.len() as u32;
            let output = reset(&silent, 0, ack, RST | ACK);
            Case::sent(&name, silent.bytes(), output, &[Reason::FlowReset]).check(&mut bench);
        }
        let to = Frame { transport: Transport::Tcp(PSH), seq: 5, ..talk.segment(PSH) };
        let mut padded = to.bytes();
        padded.resize(90, 0);
        Case::sent(&name, padded, reset(&to, 0, 5, RST | ACK), &[Reason::FlowReset]).check(&mut bench);
        bench.agree();
    }
}

#[test]
fn a_syn_opens_a_connection_to_another_server() {
    if !require_root("packet_reset") {
        return;
    }
    for (name, mode, net) in every_routed() {
        for established in [false, true] {
            let (mut bench, talk) = orphaned(mode, net, established);
            let again = Talk::begin(&mut bench, &talk.segment(SYN));
            assert_eq!(again.slot, net.slot + 1, "{name}");
            assert_eq!(bench.counted().reasons.get(&Reason::FlowOrphaned), Some(&1), "{name}");
            bench.agree();
        }
    }
}

#[test]
fn datagrams_and_direct_routing_are_not_answered() {
    if !require_root("packet_reset") {
        return;
    }
    for (name, mode, net) in every_routed() {
        let mut bench = routed(Options::default(), mode, RESET);
        let talk = Talk::begin(&mut bench, &Frame::udp(at(net.client), at(net.vip), b"query"));
        bench.set(&Op::Backend(net.slot, Backend { state: state::DEAD, ..live_backend(net.slot) }));
        bench.set(&Op::Table(if net.slot == 0 { 0 } else { 2 }, vec![net.slot + 1]));
        let again = Talk::begin(&mut bench, &talk.datagram(b"again"));
        assert_eq!(again.slot, net.slot + 1, "{name}");
        assert_eq!(bench.counted().reasons.get(&Reason::FlowReset), None, "{name}");
    }
    for net in lb_tests::packet::talk::NETS {
        let mut bench = routed(Options::default(), lb_common::service::mode::DR, RESET);
        let frame = Frame::tcp(at(net.client), at(net.vip), ACK);
        bench.run(&frame.bytes());
        bench.set(&Op::Backend(net.slot, Backend { state: state::DEAD, ..live_backend(net.slot) }));
        bench.set(&Op::Table(if net.slot == 0 { 0 } else { 2 }, vec![net.slot + 1]));
        let output = lb_tests::packet::case::to_slot(&frame, net.slot + 1);
        let reasons = &[Reason::FlowOrphaned, Reason::MidStream];
        Case::sent(net.name, frame.bytes(), output, reasons).check(&mut bench);
    }
}
