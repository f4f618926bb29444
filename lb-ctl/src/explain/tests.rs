use std::collections::BTreeMap;

use lb_common::{backend::Backend, flow::State, load::Limits, net::Mac};

use super::*;
use crate::{
    dataplane::{Filling, Flow, ServiceIdentity, ServiceKey, TableEntrant, TableSpec},
    model::config::Protocol,
    reset::frame::{SYN, Segment, Way},
};

const CLIENT: &str = "10.0.0.7:40000";
const VIP: &str = "10.12.1.100:104";

/// VIP PACS with servers DICOM1 to DICOM3 in slots 1 to 3, which leave by interface 2.
fn installed() -> Installed {
    let mut installed = Installed::default();
    let identity = ServiceIdentity { name: "PACS".to_owned(), idle_timeout_secs: 3600 };
    installed.services.insert(5, (identity, Service::default()));
    let mut entrants = Vec::new();
    for slot in 1..=3u16 {
        let ip = [10, 12, 1, slot as u8].into();
        let identity = BackendIdentity { service: 5, name: format!("DICOM{slot}"), ip, port: None };
        installed.backends.insert(slot, (identity, Backend { ifindex: 2, ..Backend::default() }));
        entrants.push(TableEntrant { slot, weight: 100, ip, port: None });
    }
    installed.tables.insert(5, TableSpec { filling: Filling::Maglev, entrants });
    installed
}

fn frame(vlan_depth: u8, src: &str, dst: &str) -> Vec<u8> {
    let way = Way {
        ifindex: 2,
        dst_mac: Mac([2, 0, 0, 0, 0, 9]),
        src_mac: Mac([2, 0, 0, 0, 0, 1]),
        vlan: [104, 7],
        vlan_depth,
        outer_tpid: 0x88a8,
    };
    let ends = lb_common::flow::Ends::between(src.parse().unwrap(), dst.parse().unwrap(), 6);
    Segment { way, ends, seq: 1, ack: 0, flags: SYN }.frame()
}

/// A SYN that goes to DICOM2 by a scheduler.
fn rehearsal(pick: u8) -> Rehearsal {
    let limits = Limits { weight: 100, ..Limits::default() };
    let load = |active| Occupancy { active, full: false, limits, live: true };
    Rehearsal {
        client: CLIENT.parse().unwrap(),
        ingress: 1,
        sent: Sent::Syn,
        verdict: Verdict::Redirect,
        frame: frame(0, CLIENT, VIP),
        reasons: Vec::new(),
        slot: Some(2),
        service: Some((5, Service { pick, persist_prefix: 24, ..Service::default() })),
        flow: None,
        persisted: None,
        loads: [(1, load(3)), (2, load(1)), (3, load(u64::MAX))].into(),
    }
}

fn remembered(slot: Option<u16>) -> Remembered {
    Remembered { slot, counts: true, proved: true, idle_millis: 12_400, timeout_millis: 600_000 }
}

fn flow(slot: u16) -> Flow {
    Flow {
        client: ([10, 0, 0, 7].into(), 40_000),
        vip: ([10, 12, 1, 100].into(), 104),
        server: None,
        source: None,
        protocol: Protocol::Tcp,
        state: State::Established,
        service: 5,
        slot,
        generation: 1,
        idle_millis: 65_000,
    }
}

fn probe(client: &str) -> Probe {
    let vip: SocketAddr = VIP.parse().unwrap();
    let to = ServiceKey { ip: vip.ip(), port: vip.port(), protocol: Protocol::Tcp };
    Probe { client: client.parse().unwrap(), to, ingress: Some(1) }
}

fn told(rehearsal: &Rehearsal) -> Explanation {
    explain(&probe(CLIENT), rehearsal, &installed(), |ifindex| format!("eth{ifindex}"))
}

#[test]
fn the_rule_that_decided_is_named() {
    let departs = "a SYN leaves by eth2 from 10.0.0.7:40000 to 10.12.1.100:104, MAC 02:00:00:00:00:01 to 02:00:00:00:00:09";
    let cases: [(Rehearsal, &str); 9] = [
        (
            rehearsal(pick::ROTATE),
            "because it is its turn (wrr); every CPU takes turns of its own, so another connection may well go to \
             DICOM1 or DICOM3",
        ),
        (
            rehearsal(pick::HASH_FLOW),
            "because the hash of client, VIP and ports leads there (maglev); from another port it may go elsewhere",
        ),
        (
            rehearsal(pick::HASH_CLIENT),
            "because the hash of the client's address leads there (source-hash), from whichever port",
        ),
        (
            rehearsal(pick::LEAST),
            "because it has the fewest connections for its weight (wlc): DICOM2 has 1 (weight 100), DICOM1 has 3 \
             (weight 100) and DICOM3 has 0 (weight 100)",
        ),
        (rehearsal(pick::FIRST), "because it is the first of the list that takes connections (first)"),
        (
            Rehearsal { persisted: Some(remembered(Some(2))), ..rehearsal(pick::ROTATE) },
            "because of persistence: 10.0.0.0/24 was sent there 12s ago, which is remembered for 10m",
        ),
        (
            Rehearsal {
                persisted: Some(Remembered { proved: false, ..remembered(Some(2)) }),
                ..rehearsal(pick::ROTATE)
            },
            "because 10.0.0.0/24 begins a connection there, 12s ago, which is remembered for 10m",
        ),
        (
            Rehearsal { reasons: vec![Reason::MidStream], ..rehearsal(pick::ROTATE) },
            "because the hash of client, VIP and ports leads there: nothing else is known of the connection",
        ),
        // What is in progress stays, whatever persistence says meanwhile.
        (
            Rehearsal {
                flow: Some(flow(2)),
                persisted: Some(remembered(Some(1))),
                ..rehearsal(pick::ROTATE)
            },
            "because it belongs to a connection in progress there (established, last packet 1m 5s ago)",
        ),
    ];
    for (rehearsal, why) in cases {
        let explanation = told(&rehearsal);
        assert_eq!(explanation.lines[0], "goes to DICOM2 (10.12.1.2) of PACS");
        assert_eq!(explanation.lines[1], why);
        assert_eq!(explanation.lines.last().unwrap(), departs, "{why}");
        assert_eq!(
            (explanation.treatment, explanation.rip.as_deref()),
            (Treatment::Forwarded, Some("DICOM2"))
        );
    }
}

#[test]
fn why_persistence_was_not_followed_is_told() {
    let full = Limits { max: 50, weight: 100, ..Limits::default() };
    let closed = Limits { flags: load::flags::CLOSED, ..Limits::default() };
    let at = |limits: Limits, active: u64| -> BTreeMap<u16, Occupancy> {
        [(1, Occupancy { active, full: false, limits, live: true })].into()
    };
    let void = Remembered { counts: false, ..remembered(Some(1)) };
    let cases = [
        (
            vec![Reason::Spilled],
            remembered(Some(1)),
            at(full, 50),
            "persistence names DICOM1, which is full, and remembers it|full: DICOM1 (50 of 50 connections)",
        ),
        (vec![], void, at(closed, 0), "persistence names DICOM1, which takes no new connections"),
        (
            vec![],
            void,
            at(Limits::default(), 0),
            "persistence names DICOM1, which is not in service or was not since",
        ),
        (
            vec![],
            Remembered { idle_millis: 601_000, ..void },
            at(Limits::default(), 0),
            "persistence named DICOM1, but 10m 1s ago, which is too long",
        ),
        (
            vec![],
            remembered(None),
            at(Limits::default(), 0),
            "persistence names a server that this VIP does not have",
        ),
    ];
    for (reasons, entry, loads, expected) in cases {
        let explanation =
            told(&Rehearsal { reasons, persisted: Some(entry), loads, ..rehearsal(pick::FIRST) });
        let why = explanation.lines[2..explanation.lines.len() - 1].join("|");
        assert_eq!(why, expected);
    }
}

#[test]
fn what_no_server_gets_is_told_with_its_reason_first() {
    let cases = [
        (
            Verdict::Pass,
            vec![Reason::NoServerReject, Reason::ServersFull],
            Treatment::Kernel,
            "is left to this machine's kernel, no server gets it",
            "no_server_reject: no server takes new flows; the kernel answers with RST or port unreachable",
        ),
        (
            Verdict::Drop,
            vec![Reason::NoServerDrop, Reason::Unattended],
            Treatment::Dropped,
            "is dropped",
            "no_server_drop: no server takes new flows; the service says drop",
        ),
    ];
    for (verdict, reasons, treatment, headline, why) in cases {
        let names: Vec<String> = reasons.iter().map(|reason| reason.name().to_owned()).collect();
        let explanation = told(&Rehearsal { verdict, reasons, slot: None, ..rehearsal(pick::LEAST) });
        assert_eq!((explanation.treatment, &explanation.leaves), (treatment, &None));
        assert_eq!((explanation.lines[0].as_str(), explanation.lines[1].as_str()), (headline, why));
        assert_eq!((explanation.reasons, explanation.rip), (names, None));
    }
}

#[test]
fn an_answer_goes_back_the_way_the_packet_came() {
    let answer = Reason::ALL.iter().find(|reason| reason.fate() == Fate::Answer).unwrap();
    let rehearsal = Rehearsal {
        verdict: Verdict::Transmit,
        reasons: vec![*answer],
        slot: None,
        flow: Some(flow(2)),
        frame: frame(0, VIP, CLIENT),
        ..rehearsal(pick::FIRST)
    };
    let explanation = told(&rehearsal);
    assert_eq!(explanation.treatment, Treatment::Answered);
    assert_eq!(
        explanation.lines.last().unwrap(),
        "the answer leaves by eth1 from 10.12.1.100:104 to 10.0.0.7:40000, MAC 02:00:00:00:00:01 to 02:00:00:00:00:09"
    );
}

#[test]
fn a_made_up_port_is_said_to_be_one() {
    let explanation =
        explain(&probe("10.0.0.7:0"), &rehearsal(pick::FIRST), &installed(), |_| "eth0".to_owned());
    assert!(explanation.client_port_made_up);
    assert_eq!(
        explanation.lines.last().unwrap(),
        "the client's port, 40000, was made up: name one to ask about a connection in progress"
    );
}

#[test]
fn frames_are_read_behind_tags_and_in_both_families_and_stumps_are_not() {
    for (src, dst) in [(CLIENT, VIP), ("[2001:db8::7]:40000", "[2001:db8::100]:104")] {
        for (depth, expected) in [(0, vec![]), (1, vec![104]), (2, vec![104, 7])] {
            let frame = frame(depth, src, dst);
            let (_, dst_mac, vlans, from, to) = read_frame(&frame).unwrap();
            assert_eq!((vlans, dst_mac.as_str()), (expected, "02:00:00:00:00:09"));
            assert_eq!((from.to_string().as_str(), to.to_string().as_str()), (src, dst));
            let transport = frame.len() - 20;
            assert!((0..transport + 4).all(|len| read_frame(&frame[..len]).is_none()));
        }
    }
}

#[test]
fn networks_are_cut_to_their_prefix() {
    for (client, prefix, expected) in [
        ("10.12.7.4", 32, "10.12.7.4"),
        ("10.12.7.4", 24, "10.12.7.0/24"),
        ("10.12.7.4", 0, "0.0.0.0/0"),
        ("2001:db8:1:2::9", 64, "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", 128, "2001:db8:1:2::9"),
    ] {
        assert_eq!(network(client.parse().unwrap(), prefix), expected);
    }
}

#[test]
fn long_lists_are_counted() {
    let names = |count: u32| (1..=count).map(|n| n.to_string());
    assert_eq!(listed(names(0), "and"), "nobody");
    assert_eq!(listed(names(1), "and"), "1");
    assert_eq!(listed(names(3), "or"), "1, 2 or 3");
    assert_eq!(listed(names(20), "and"), "1, 2, 3, 4, 5, 6, 7 and 13 more");
}
