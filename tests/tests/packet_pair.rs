//! The life of a NAT or SNAT connection: two entries that are kept in step, from the first packet to the last.

use lb_common::{
    backend::{Backend, state},
    counter::Reason,
    flow::State,
    limits::map,
};
use lb_tests::{
    lab::require_root,
    packet::{
        bench::{Bench, Op},
        case::{Case, at},
        dut::{Options, XDP_PASS, live_backend},
        frame::{
            Frame,
            flags::{ACK, FIN, PSH, RST, SYN},
        },
        talk::{Net, Talk, every_routed, routed},
    },
};

use State::{Closed, Closing, Datagrams, Established, New, PeerClosing};

/// Who sends a segment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum By {
    Client,
    Server,
}
use By::{Client, Server};

fn begun(mode: u8, net: Net) -> (Bench, Talk) {
    let mut bench = routed(Options::default(), mode, 0);
    let talk = Talk::begin(&mut bench, &Frame::tcp(at(net.client), at(net.vip), SYN));
    (bench, talk)
}

/// Sends a segment, which must arrive.
fn say(bench: &mut Bench, talk: &Talk, by: By, flags: u8, when: &str) {
    let (frame, output) = match by {
        Client => (talk.segment(flags), talk.arrives(&talk.segment(flags))),
        Server => (talk.answer(flags), talk.returns(&talk.answer(flags))),
    };
    Case::sent(format!("{when}: {by:?} sends {flags:#x}"), frame.bytes(), output, &[]).check(bench);
}

/// Sends segments and checks the states of the pair after each.
fn live(name: &str, bench: &mut Bench, talk: &Talk, steps: &[(By, u8, Option<[State; 2]>)]) {
    for (n, &(by, flags, states)) in steps.iter().enumerate() {
        let when = format!("{name}: step {n}");
        say(bench, talk, by, flags, &when);
        talk.assert_states(bench, states, &format!("after {when} ({by:?} {flags:#x})"));
        bench.agree();
    }
}

#[test]
fn a_connection_that_the_client_closes() {
    if !require_root("packet_pair") {
        return;
    }
    for (name, mode, net) in every_routed() {
        let (mut bench, talk) = begun(mode, net);
        talk.assert_states(&bench, Some([New; 2]), "after SYN");
        live(
            &name,
            &mut bench,
            &talk,
            &[
                (Client, SYN, Some([New; 2])),
                (Server, SYN | ACK, Some([New; 2])),
                (Client, ACK, Some([Established; 2])),
                (Client, ACK | PSH, Some([Established; 2])),
                (Server, ACK | PSH, Some([Established; 2])),
                (Client, SYN, Some([Established; 2])),
                (Client, FIN | ACK, Some([Closing, PeerClosing])),
                (Client, FIN | ACK, Some([Closing, PeerClosing])),
                (Server, ACK, Some([Closing, PeerClosing])),
                (Server, ACK | PSH, Some([Closing, PeerClosing])),
                (Server, FIN | ACK, Some([Closed; 2])),
                (Client, ACK, Some([Closed; 2])),
                (Client, FIN | ACK, Some([Closed; 2])),
            ],
        );
        let counted = bench.counted();
        assert_eq!(counted.reasons.len(), 0, "{name}: {:?}", counted.reasons);
        assert_eq!(counted.services.values().map(|service| service.flows).sum::<u64>(), 1, "{name}");
    }
}

#[test]
fn a_connection_that_the_server_closes() {
    if !require_root("packet_pair") {
        return;
    }
    for (name, mode, net) in every_routed() {
        let (mut bench, talk) = begun(mode, net);
        live(
            &name,
            &mut bench,
            &talk,
            &[
                (Server, SYN | ACK, Some([New; 2])),
                (Client, ACK, Some([Established; 2])),
                (Server, FIN | ACK, Some([PeerClosing, Closing])),
                (Client, ACK, Some([PeerClosing, Closing])),
                (Server, FIN | ACK, Some([PeerClosing, Closing])),
                (Client, FIN | ACK, Some([Closed; 2])),
                (Server, ACK, Some([Closed; 2])),
            ],
        );
    }
}

#[test]
fn a_reset_from_either_side_ends_both_entries_at_once() {
    if !require_root("packet_pair") {
        return;
    }
    for (name, mode, net) in every_routed() {
        for (by, flags) in [(Client, RST), (Client, RST | ACK), (Server, RST), (Server, RST | ACK)] {
            for before in [&[][..], &[(Server, SYN | ACK)], &[(Server, SYN | ACK), (Client, ACK)]] {
                let (mut bench, talk) = begun(mode, net);
                for &(by, flags) in before {
                    say(&mut bench, &talk, by, flags, &name);
                }
                say(&mut bench, &talk, by, flags, &format!("{name}: after {before:?}"));
                talk.assert_states(&bench, None, &format!("{name}: after a reset"));
                bench.agree();
            }
        }
    }
}

#[test]
fn a_reset_of_a_connection_that_nobody_knows_is_dropped_and_leaves_nothing() {
    if !require_root("packet_pair") {
        return;
    }
    for (name, mode, net) in every_routed() {
        let mut bench = routed(Options::default(), mode, 0);
        for flags in [RST, RST | ACK] {
            let frame = Frame::tcp(at(net.client), at(net.vip), flags).bytes();
            Case::dropped(name.clone(), frame, &[Reason::MidStreamReset]).check(&mut bench);
        }
        assert!(bench.remembered().is_empty() && bench.counted().services.is_empty(), "{name}");
    }
}

#[test]
fn a_syn_after_the_end_opens_a_new_connection_and_one_before_does_not() {
    if !require_root("packet_pair") {
        return;
    }
    for (name, mode, net) in every_routed() {
        for end in
            [&[(Client, FIN | ACK)][..], &[(Server, FIN | ACK)], &[(Client, FIN | ACK), (Server, FIN | ACK)]]
        {
            let (mut bench, talk) = begun(mode, net);
            say(&mut bench, &talk, Client, ACK, &name);
            say(&mut bench, &talk, Client, SYN, "before the end");
            talk.assert_states(&bench, Some([Established; 2]), &name);
            for &(by, flags) in end {
                say(&mut bench, &talk, by, flags, &name);
            }
            // A server's SYN opens nothing.
            say(&mut bench, &talk, Server, SYN, "a server's SYN");
            let again = Talk::begin(&mut bench, &talk.segment(SYN));
            again.assert_states(&bench, Some([New; 2]), &format!("{name}: opened anew after {end:?}"));
            assert_eq!(
                bench.counted().services.values().map(|service| service.flows).sum::<u64>(),
                2,
                "{name}"
            );
            assert!(again.inside.dst == talk.inside.dst, "{name}");
            bench.agree();
        }
    }
}

#[test]
fn what_the_server_says_proves_nothing_of_the_client() {
    if !require_root("packet_pair") {
        return;
    }
    for (name, mode, net) in every_routed() {
        let (mut bench, talk) = begun(mode, net);
        for flags in [SYN | ACK, SYN | ACK, ACK, ACK | PSH, FIN | ACK] {
            say(&mut bench, &talk, Server, flags, &name);
            talk.assert_states(&bench, Some([New; 2]), &format!("{name}: server's {flags:#x}"));
        }
        bench.agree();
    }
}

#[test]
fn a_fin_may_be_what_proves_the_client() {
    if !require_root("packet_pair") {
        return;
    }
    for (name, mode, net) in every_routed() {
        let (mut bench, talk) = begun(mode, net);
        live(
            &name,
            &mut bench,
            &talk,
            &[(Client, FIN | ACK, Some([Closing, PeerClosing])), (Server, FIN | ACK, Some([Closed; 2]))],
        );
    }
}

#[test]
fn a_clients_second_datagram_establishes_a_pair_and_a_servers_does_not() {
    if !require_root("packet_pair") {
        return;
    }
    for (name, mode, net) in every_routed() {
        let mut bench = routed(Options::default(), mode, 0);
        let talk = Talk::begin(&mut bench, &Frame::udp(at(net.client), at(net.vip), b"query"));
        let answer = talk.answer_datagram(b"answer");
        for _ in 0..3 {
            Case::sent(&name, answer.bytes(), talk.returns(&answer), &[]).check(&mut bench);
            talk.assert_states(&bench, Some([New; 2]), &name);
        }
        let query = talk.datagram(b"another");
        Case::sent(&name, query.bytes(), talk.arrives(&query), &[]).check(&mut bench);
        talk.assert_states(&bench, Some([Datagrams; 2]), &name);
        Case::sent(&name, answer.bytes(), talk.returns(&answer), &[]).check(&mut bench);
        bench.agree();
    }
}

#[test]
fn each_direction_keeps_its_own_time() {
    if !require_root("packet_pair") {
        return;
    }
    for (name, mode, net) in every_routed() {
        let (mut bench, talk) = begun(mode, net);
        for (by, flags, ticks) in [
            (Server, SYN | ACK, 7),
            (Server, SYN | ACK, 1),
            (Client, SYN, 9),
            (Client, ACK, 3),
            (Client, ACK, 7),
            (Server, ACK, 1),
            (Client, ACK, 8),
            (Server, ACK | PSH, 100),
            (Client, FIN | ACK, 8),
            (Server, ACK, 8),
            (Server, FIN | ACK, 1),
        ] {
            bench.set(&Op::Age(ticks));
            say(&mut bench, &talk, by, flags, &name);
            bench.agree();
        }
    }
}

#[test]
fn a_segment_in_mid_stream_begins_a_pair_by_the_hash() {
    if !require_root("packet_pair") {
        return;
    }
    for (name, mode, net) in every_routed() {
        let mut slots = Vec::new();
        for seed in 0..3 {
            let mut bench = routed(Options { seed, ..Options::default() }, mode, 0);
            bench.set(&Op::Table(if net.slot == 0 { 0 } else { 2 }, vec![net.slot, net.slot + 1]));
            for n in 0..seed {
                let other = std::net::SocketAddr::new(at(net.client).ip(), 1000 + n as u16);
                let _other = Talk::begin(&mut bench, &Frame::tcp(other, at(net.vip), SYN));
            }
            let talk = Talk::begin(&mut bench, &Frame::tcp(at(net.client), at(net.vip), ACK));
            assert_eq!(bench.counted().reasons.get(&Reason::MidStream), Some(&1), "{name}");
            say(&mut bench, &talk, Server, ACK, &name);
            say(&mut bench, &talk, Client, ACK, &name);
            talk.assert_states(&bench, Some([Established; 2]), &name);
            slots.push((talk.slot, talk.inside));
        }
        assert!(slots.iter().all(|slot| *slot == slots[0]), "{name}: every node chose alike: {slots:?}");
    }
}

#[test]
fn without_the_reset_flag_a_dead_servers_client_begins_anew() {
    if !require_root("packet_pair") {
        return;
    }
    for (name, mode, net) in every_routed() {
        for established in [false, true] {
            let (mut bench, talk) = begun(mode, net);
            if established {
                say(&mut bench, &talk, Client, ACK, &name);
            }
            let dead = Backend { state: state::DEAD, generation: 2, ..live_backend(net.slot) };
            bench.set(&Op::Backend(net.slot, dead));
            bench.set(&Op::Table(if net.slot == 0 { 0 } else { 2 }, vec![net.slot + 1]));
            let again = Talk::begin(&mut bench, &talk.segment(ACK));
            assert_eq!(again.slot, net.slot + 1, "{name}");
            assert_eq!(bench.counted().reasons.get(&Reason::FlowOrphaned), Some(&1), "{name}");
            assert_eq!(bench.remembered().len(), 2, "{name}: the old pair is gone");
            bench.agree();
        }
    }
}

#[test]
fn without_the_reset_flag_a_dead_servers_own_packets_go_to_the_kernel() {
    if !require_root("packet_pair") {
        return;
    }
    for (name, mode, net) in every_routed() {
        let (mut bench, talk) = begun(mode, net);
        say(&mut bench, &talk, Client, ACK, &name);
        bench.set(&Op::Backend(net.slot, Backend { state: state::DEAD, ..live_backend(net.slot) }));
        let late = talk.answer(ACK).bytes();
        Case::passed(&name, late.clone(), &[Reason::FlowOrphaned, Reason::NoService]).check(&mut bench);
        Case::passed(&name, late, &[Reason::NoService]).check(&mut bench);
        talk.assert_states(&bench, None, &name);
    }
}

#[test]
fn a_full_bucket_refuses_new_pairs_and_keeps_its_own() {
    if !require_root("packet_pair") {
        return;
    }
    for (name, mode, net) in every_routed() {
        // One bucket of established flows: two pairs fill it.
        let options = Options { flows_v4: 4, flows_v6: 4, ..Options::default() };
        let mut bench = routed(options, mode, 0);
        let client = |port| std::net::SocketAddr::new(at(net.client).ip(), port);
        let talks = [1, 2].map(|port| {
            let talk = Talk::begin(&mut bench, &Frame::tcp(client(port), at(net.vip), SYN));
            say(&mut bench, &talk, Client, ACK, &name);
            talk
        });
        bench.dut.events();
        let refused = Frame::tcp(client(3), at(net.vip), SYN).bytes();
        Case::passed(&name, refused, &[Reason::FlowRefused]).check(&mut bench);
        let events = bench.dut.events();
        let kind = lb_common::event::EventKind::FlowRefused as u32;
        assert_eq!(events.iter().map(|event| event.kind).collect::<Vec<_>>(), [kind], "{name}");
        for talk in &talks {
            say(&mut bench, talk, Client, ACK, &name);
            say(&mut bench, talk, Server, ACK, &name);
        }
        say(&mut bench, &talks[0], Server, RST, &name);
        let again = Talk::begin(&mut bench, &Frame::tcp(client(3), at(net.vip), SYN));
        say(&mut bench, &again, Client, ACK, &name);
        again.assert_states(&bench, Some([Established; 2]), &name);
        bench.agree();
    }
}

#[test]
fn a_pair_that_finds_no_room_stays_half_open_and_works() {
    if !require_root("packet_pair") {
        return;
    }
    for (name, mode, net) in every_routed() {
        let options = Options { flows_v4: 4, flows_v6: 4, ..Options::default() };
        let mut bench = routed(options, mode, 0);
        let client = |port| std::net::SocketAddr::new(at(net.client).ip(), port);
        // All begin while there is room; two of them take it.
        let talks =
            [1, 2, 3].map(|port| Talk::begin(&mut bench, &Frame::tcp(client(port), at(net.vip), SYN)));
        for talk in &talks[..2] {
            say(&mut bench, talk, Client, ACK, &name);
        }
        let (late, data) = (&talks[2], talks[2].segment(ACK));
        for _ in 0..2 {
            Case::sent(&name, data.bytes(), late.arrives(&data), &[Reason::FlowTableFull]).check(&mut bench);
            say(&mut bench, late, Server, ACK, &name);
            late.assert_states(&bench, Some([New; 2]), &name);
            bench.agree();
        }
        say(&mut bench, &talks[0], Client, RST, &name);
        say(&mut bench, late, Client, ACK, &name);
        late.assert_states(&bench, Some([Established; 2]), &name);
        let half_open = if net.slot == 0 {
            bench.dut.entries_v4(map::HALF_OPEN_V4).len()
        } else {
            bench.dut.entries_v6(map::HALF_OPEN_V6).len()
        };
        assert_eq!(half_open, 0, "{name}");
        bench.agree();
    }
}

#[test]
fn a_service_without_servers_takes_no_new_pairs_and_keeps_the_old() {
    if !require_root("packet_pair") {
        return;
    }
    for (name, mode, net) in every_routed() {
        let (mut bench, talk) = begun(mode, net);
        bench.set(&Op::Table(if net.slot == 0 { 0 } else { 2 }, vec![]));
        say(&mut bench, &talk, Client, ACK, &name);
        say(&mut bench, &talk, Server, ACK, &name);
        let other = std::net::SocketAddr::new(at(net.client).ip(), 7);
        let ran = bench.run(&Frame::tcp(other, at(net.vip), SYN).bytes());
        assert_eq!(ran.verdict, XDP_PASS, "{name}");
        assert_eq!(bench.counted().reasons.get(&Reason::NoServerReject), Some(&1), "{name}");
    }
}
