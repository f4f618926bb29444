//! The same traffic in every mode: direct routing, NAT, SNAT; IPv4 and IPv6; servers beside the balancer and behind it.

use std::net::{IpAddr, SocketAddr};

use lb_ctl::model::config::Mode;
use lb_tests::lab::{
    Arms, Course, Everything, MllpLink, MllpServer, Routed, require_root,
    topology::{VIP4, VIP6},
    traffic::port,
};

use crate::{
    load,
    stand::{Vip, gateway, prepare, seen, serve, servers},
};

/// All modes, in the order in which a site may move from one to the next.
const MODES: [Mode; 3] = [Mode::L4Dr, Mode::L4Nat, Mode::L4Snat];

/// What a client's port is less than the server's, where ports are translated.
const SHIFT: u16 = 8000;

#[test]
fn everything_goes_through_with_servers_beside_the_balancer() {
    if require_root("everything_goes_through_with_servers_beside_the_balancer") {
        everything_goes_through(Arms::One);
    }
}

#[test]
fn everything_goes_through_with_servers_behind_the_balancer() {
    if require_root("everything_goes_through_with_servers_behind_the_balancer") {
        everything_goes_through(Arms::Two);
    }
}

fn everything_goes_through(arms: Arms) {
    let _load = load();
    let routed = Routed::new(arms);
    let everything = Everything::start(&routed);
    let mut running = None;
    for mode in MODES {
        prepare(&routed, mode);
        let services = [VIP4, VIP6].map(|vip| services(&routed, mode, vip));
        let toml = format!("{}{}", gateway(&routed), services.concat());
        let lbd = serve(&routed, &mut running, &toml);
        for vip in [VIP4, VIP6] {
            everything.exercise(&Course {
                name: format!("{arms:?} arm, {}", mode.name()),
                to: vip,
                port_shift: if mode == Mode::L4Dr { 0 } else { SHIFT },
                listen: listen(&routed, mode, vip),
                seen: seen(&routed, mode, vip),
                serving: 2,
            });
        }
        let problems = lbd.status().problems;
        assert!(problems.is_empty(), "{arms:?} arm, {}: {problems:?}", mode.name());
    }
}

#[test]
fn a_mode_is_changed_by_its_word_alone_and_new_connections_work() {
    if !require_root("a_mode_is_changed_by_its_word_alone_and_new_connections_work") {
        return;
    }
    let routed = Routed::new(Arms::Two);
    let lines = routed.servers().map(|server| MllpServer::start(server, port::HL7));
    let mut running = None;
    for mode in MODES.into_iter().chain([Mode::L4Dr]) {
        prepare(&routed, mode);
        let vips = [("HL7-4", VIP4), ("HL7-6", VIP6)].map(|(name, ip)| {
            let servers = servers(&routed, ip, None);
            Vip { name, mode, ip, ports: &format!("[{}]", port::HL7), protocol: "tcp", servers, more: "" }
                .to_string()
        });
        serve(&routed, &mut running, &format!("{}{}", gateway(&routed), vips.concat()));
        for vip in [VIP4, VIP6] {
            let to = SocketAddr::new(vip, port::HL7);
            let mut link = MllpLink::open(routed.client(), to)
                .unwrap_or_else(|error| panic!("{}: {to}: {error}", mode.name()));
            let server =
                link.exchange_many(10).unwrap_or_else(|error| panic!("{}: {to}: {error}", mode.name()));
            let which =
                routed.servers().iter().position(|host| host.name == server).expect("a server's name");
            let last = lines[which].connections().pop().expect("the connection just used");
            assert_eq!(last.peer.ip(), seen(&routed, mode, vip), "{}: whom the server sees", mode.name());
        }
    }
}

/// The addresses that services answer from.
fn listen(routed: &Routed, mode: Mode, vip: IpAddr) -> [IpAddr; 2] {
    match mode {
        Mode::L4Dr => [vip; 2],
        Mode::L4Nat | Mode::L4Snat | Mode::L7Http | Mode::L7Tcp => {
            routed.servers().map(|server| server.address_like(vip))
        }
    }
}

/// A VIP for every service; ports are translated where the mode can.
fn services(routed: &Routed, mode: Mode, ip: IpAddr) -> String {
    let family = if ip.is_ipv4() { 4 } else { 6 };
    let all = [
        ("DICOM", port::DICOM, "tcp"),
        ("HL7", port::HL7, "tcp"),
        ("WEB", port::WEB, "tcp"),
        ("STREAM", port::STREAM, "tcp+udp"),
        ("DATAGRAM", port::DATAGRAM, "udp"),
    ];
    let vip = |(name, port, protocol): (&str, u16, &str)| {
        let (ports, servers) = match mode {
            Mode::L4Dr => (port, servers(routed, ip, None)),
            Mode::L4Nat | Mode::L4Snat | Mode::L7Http | Mode::L7Tcp => {
                (port - SHIFT, servers(routed, ip, Some(port)))
            }
        };
        // The connections of one run of iperf3 belong together.
        let more = if name == "STREAM" { "persist = \"source-ip\"\n" } else { "" };
        let name = &format!("{name}-{family}");
        Vip { name, mode, ip, ports: &format!("[{ports}]"), protocol, servers, more }.to_string()
    };
    all.map(vip).concat()
}
