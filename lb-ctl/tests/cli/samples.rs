//! What a daemon might say.

use std::net::IpAddr;

use lb_ctl::model::{
    config::{Mode, Protocol, Protocols, Scheduler},
    health::{FailureReason, Step, Verdict},
    operator::{Order, Word},
    status::{Colour, FlowStatus, FlowsStatus, LinkStatus, RipState, RipStatus, Status, VipStatus},
};

/// 2026-05-08 12:37:21 UTC.
pub(crate) const AT: u64 = 1_778_243_841;

/// A node with nothing configured.
pub(crate) fn empty() -> Status {
    Status {
        node: "lb1".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        at_epoch_secs: AT,
        uptime_secs: 273_600,
        health: Colour::Green,
        problems: Vec::new(),
        links: vec![LinkStatus { name: "eth0".to_owned(), ifindex: 2, xdp: "native".to_owned(), up: true }],
        vips: Vec::new(),
        flows: FlowsStatus {
            established_v4: 12,
            replies_v4: 0,
            capacity_v4: 1_048_576,
            established_v6: 0,
            replies_v6: 0,
            capacity_v6: 262_144,
            half_open: 3,
            memory_bytes: 100 << 20,
        },
        reasons: Vec::new(),
    }
}

/// A node with one VIP, both of whose servers are well.
pub(crate) fn green() -> Status {
    Status {
        vips: vec![vip(
            "DICOM",
            "10.12.1.100",
            vec![up("DICOM1", "10.12.1.110", 7), up("DICOM2", "10.12.1.111", 5)],
        )],
        ..empty()
    }
}

/// The hospital on a bad day: a server down, one drained, a VIP that cannot be served, one that is switched off.
pub(crate) fn degraded() -> Status {
    let rejected = RipStatus {
        state: RipState::Down,
        verdict: Verdict::Down,
        verdict_for_secs: 125,
        detail: "A-ASSOCIATE-RJ: called AE title not recognised".to_owned(),
        reason: Some(FailureReason::RejectedCalledAet),
        connections: 0,
        closing: 0,
        ..up("DICOM_Server_2", "192.32.40.211", 0)
    };
    let dicom = VipStatus {
        colour: Colour::Yellow,
        ..vip(
            "CCW_DICOMSERVICE_VS",
            "192.32.43.231",
            vec![up("DICOM_Server_1", "192.32.40.210", 12), rejected],
        )
    };
    let drained = RipStatus {
        state: RipState::Drain,
        operator: Order::Drain { migrate: None, deadline_epoch_secs: None, then_halt: false }.into(),
        weight: 50,
        ..up("PACS1", "fd00:12:7:aaaa:bbbb:cccc:dddd:e110", 4)
    };
    let halted = RipStatus {
        state: RipState::Halt,
        operator: Order::Halt { keep_sessions: false }.into(),
        verdict: Verdict::Down,
        verdict_for_secs: 5,
        detail: "connect refused".to_owned(),
        ..up("PACS2", "fd00:12:7::111", 0)
    };
    let checking = RipStatus {
        state: RipState::Checking,
        verdict: Verdict::Unknown,
        detail: String::new(),
        ..up("PACS3", "fd00:12:7::112", 0)
    };
    let silent = RipStatus {
        state: RipState::Down,
        detail: "no answer to neighbour solicitation".to_owned(),
        ..up("PACS4", "fd00:12:7::113", 0)
    };
    let v6 = VipStatus {
        colour: Colour::Red,
        ports: "104,11112,2762".to_owned(),
        ..vip("V6", "fd00:12:7::100", vec![drained, halted, checking, silent])
    };
    let taken = VipStatus {
        colour: Colour::Red,
        problem: Some(
            "10.12.1.102 is in use by 02:00:5e:00:00:07 on eth0; free it there, or change `ip`".to_owned(),
        ),
        ..vip("TAKEN", "10.12.1.102", vec![up("T1", "10.12.1.120", 0)])
    };
    let off =
        VipStatus { enabled: false, protocol: Protocols::Udp, ..vip("SYSLOG_OFF", "10.12.1.103", vec![]) };
    Status {
        health: Colour::Red,
        problems: vec![
            "eth1 runs XDP in generic mode, at a third of the speed; use a driver with native XDP".to_owned(),
        ],
        links: vec![
            LinkStatus { name: "eth0".to_owned(), ifindex: 2, xdp: "native".to_owned(), up: true },
            LinkStatus { name: "eth1".to_owned(), ifindex: 3, xdp: "generic".to_owned(), up: false },
        ],
        vips: vec![dicom, v6, taken, off],
        ..empty()
    }
}

/// One flow of the green node.
pub(crate) fn flow(client: &str, port: u16, rip: Option<&str>) -> FlowStatus {
    FlowStatus {
        protocol: Protocol::Tcp,
        client: ip(client),
        client_port: port,
        vip_ip: ip("10.12.1.100"),
        vip_port: 104,
        server: None,
        source: None,
        vip: Some("DICOM".to_owned()),
        rip: rip.map(str::to_owned),
        state: "established".to_owned(),
        idle_secs: 65,
    }
}

/// A SNAT service for TCP and UDP whose servers listen on other ports than it does.
pub(crate) fn translated() -> VipStatus {
    let at = |port, rip| RipStatus { port: Some(port), ..rip };
    VipStatus {
        ports: "80,8080-8089".to_owned(),
        protocol: Protocols::TcpUdp,
        mode: Mode::L4Snat,
        ..vip(
            "VIEWER",
            "10.12.1.160",
            vec![
                at(8000, up("VIEWER1", "10.12.1.170", 3)),
                at(8001, up("VIEWER2", "2001:db8::171", 0)),
                up("VIEWER3", "10.12.1.172", 0),
            ],
        )
    }
}

/// A VIP that is well.
pub(crate) fn vip(name: &str, address: &str, rips: Vec<RipStatus>) -> VipStatus {
    VipStatus {
        name: name.to_owned(),
        ip: ip(address),
        ports: "104".to_owned(),
        tls_port: None,
        protocol: Protocols::Tcp,
        mode: Mode::L4Dr,
        scheduler: Scheduler::Wrr,
        enabled: true,
        colour: Colour::Green,
        problem: None,
        connections: rips.iter().map(|rip| rip.connections).sum(),
        closing: rips.iter().map(|rip| rip.closing).sum(),
        flows_total: 345,
        packets_total: 20_000,
        bytes_total: 25_000_000,
        source_ports: None,
        rips,
    }
}

/// A server that is well.
pub(crate) fn up(name: &str, address: &str, connections: u64) -> RipStatus {
    let step = |name: &str, took_micros| Step { name: name.to_owned(), took_micros };
    RipStatus {
        name: name.to_owned(),
        ip: ip(address),
        port: None,
        weight: 100,
        state: RipState::Active,
        operator: Word::default(),
        verdict: Verdict::Up,
        verdict_for_secs: 3600,
        detail: "c-echo 3 ms".to_owned(),
        reason: None,
        steps: vec![step("connect", 412), step("associate", 1871), step("echo", 640), step("release", 77)],
        syn_repeats: 0,
        connections,
        closing: 0,
        packets_total: 10_000,
        bytes_total: 12_500_000,
        mac: Some("02:00:00:00:00:01".to_owned()),
    }
}

fn ip(address: &str) -> IpAddr {
    address.parse().expect("an address")
}
