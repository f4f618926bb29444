//! What address translation must do beside carrying connections: answer for itself, speak ICMP, be a router for the
//! servers, take every port, and go on without its daemon.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use lb_ctl::model::config::Mode;
use lb_tests::lab::{
    Arms, EchoLoop, MllpLink, MllpServer, Orthanc, Routed, StoreStream, UdpEcho, Way,
    icmp::{self, IcmpError},
    require_root,
    servers::Spread,
    topology::{LAN, VIP4, VIP6},
    traffic::port,
    udp, wait_until,
};

use crate::stand::{Vip, gateway, prepare, seen, serve, servers};

/// Modes that rewrite addresses.
const TRANSLATING: [Mode; 2] = [Mode::L4Nat, Mode::L4Snat];

#[test]
fn a_vip_answers_echoes_in_every_mode_and_is_a_hop_where_it_rewrites() {
    if !require_root("a_vip_answers_echoes_in_every_mode_and_is_a_hop_where_it_rewrites") {
        return;
    }
    let routed = Routed::new(Arms::Two);
    let client = routed.client();
    let mut running = None;
    for mode in [Mode::L4Dr, Mode::L4Nat, Mode::L4Snat] {
        prepare(&routed, mode);
        let vips = [("ASK-4", VIP4), ("ASK-6", VIP6)].map(|(name, ip)| {
            let ports = &format!("[{}]", port::DATAGRAM);
            let servers = servers(&routed, ip, None);
            Vip { name, mode, ip, ports, protocol: "udp", servers, more: "" }.to_string()
        });
        serve(&routed, &mut running, &format!("{}{}", gateway(&routed), vips.concat()));
        for vip in [VIP4, VIP6] {
            assert!(icmp::ping(client, vip), "{}: {vip} answers no echo", mode.name());
            if mode == Mode::L4Dr {
                continue;
            }
            let to = SocketAddr::new(vip, port::DATAGRAM);
            let [exceeded, unreachable] = if vip.is_ipv4() { [(11, 0), (3, 3)] } else { [(3, 0), (1, 4)] };
            // The router is the first hop, the balancer the second. Nothing listens on the server.
            for (hops, (kind, code)) in [(2, exceeded), (3, unreachable)] {
                let (source, error) = icmp::probe(client, to, hops)
                    .unwrap_or_else(|error| panic!("{}: {to}, {hops} hops: {error}", mode.name()));
                let wanted =
                    IcmpError { from: vip, kind, code, quoted_source: source, quoted_destination: to };
                assert_eq!(error, wanted, "{}: {to}, {hops} hops", mode.name());
            }
        }
    }
}

#[test]
fn servers_reach_the_world_through_their_gateway_with_their_own_address_or_its() {
    if !require_root("servers_reach_the_world_through_their_gateway_with_their_own_address_or_its") {
        return;
    }
    let routed = Routed::new(Arms::Two);
    let world = MllpServer::start(routed.client(), port::HL7);
    let mut running = None;
    prepare(&routed, Mode::L4Nat);
    for masquerade in [false, true] {
        let more = if masquerade { "masquerade = [\"eth-ext\"]\n" } else { "" };
        // A VIP for the same servers: their own traffic is not its replies.
        let vips = [("HL7-4", VIP4), ("HL7-6", VIP6)].map(|(name, ip)| {
            let ports = &format!("[{}]", port::HL7);
            let servers = servers(&routed, ip, None);
            Vip { name, mode: Mode::L4Nat, ip, ports, protocol: "tcp", servers, more: "" }.to_string()
        });
        serve(&routed, &mut running, &format!("{}{more}{}", gateway(&routed), vips.concat()));
        for family in [VIP4, VIP6] {
            for server in routed.servers() {
                let to = SocketAddr::new(routed.client().address_like(family), port::HL7);
                let machine = LAN.address_like(2, family);
                let wanted = if masquerade { machine } else { server.address_like(family) };
                let what = format!("{} is seen as {wanted} by {to}, masquerade {masquerade}", server.name);
                // The rule for it follows the configuration a moment later, and breaks a connection that it meets.
                wait_until(Duration::from_secs(10), &what, || {
                    let link = MllpLink::open(server, to);
                    let answered = link.and_then(|mut link| link.exchange_many(10)).is_ok();
                    let last = world.connections().pop();
                    answered && last.is_some_and(|connection| connection.peer.ip() == wanted)
                });
            }
        }
    }
}

#[test]
fn a_vip_for_all_ports_takes_every_port_of_both_protocols_that_no_other_vip_has() {
    if !require_root("a_vip_for_all_ports_takes_every_port_of_both_protocols_that_no_other_vip_has") {
        return;
    }
    const LINES: [u16; 3] = [21, 2575, 60_000];
    const OTHER: u16 = 2576;
    let routed = Routed::new(Arms::One);
    let [first, second] = routed.servers();
    let _lines: Vec<_> = LINES
        .iter()
        .chain([&OTHER])
        .flat_map(|port| [first, second].map(|server| MllpServer::start(server, *port)))
        .collect();
    let mut running = None;
    for mode in TRANSLATING {
        prepare(&routed, mode);
        let vips = [VIP4, VIP6].map(|ip| {
            let vip = |name: &str, ports: &str, protocol, server: IpAddr| {
                let name = &format!("{name}-{}", if ip.is_ipv4() { 4 } else { 6 });
                let servers = vec![server.to_string()];
                Vip { name, mode, ip, ports, protocol, servers, more: "" }.to_string()
            };
            vip("ALL", "\"all\"", "tcp+udp", first.address_like(ip))
                + &vip("OTHER", &format!("[{OTHER}]"), "tcp", second.address_like(ip))
        });
        serve(&routed, &mut running, &format!("{}{}", gateway(&routed), vips.concat()));
        for vip in [VIP4, VIP6] {
            let answered = |port| {
                let to = SocketAddr::new(vip, port);
                let link = MllpLink::open(routed.client(), to);
                link.and_then(|mut link| link.exchange_many(3))
                    .unwrap_or_else(|error| panic!("{}: {to}: {error}", mode.name()))
            };
            for port in LINES {
                assert_eq!(answered(port), "pacs1", "{}: {vip} port {port}", mode.name());
                let asked = UdpEcho::start(first, first.address_like(vip), port);
                let to = SocketAddr::new(vip, port);
                udp::ask(routed.client(), to, "every port")
                    .unwrap_or_else(|error| panic!("{}: {to}: {error}", mode.name()));
                assert_eq!(asked.peers(), [seen(&routed, mode, vip)].into(), "{}: {to}", mode.name());
            }
            assert_eq!(answered(OTHER), "pacs2", "{}: {vip} port {OTHER}", mode.name());
        }
    }
}

#[test]
fn servers_see_the_vip_where_it_is_the_source() {
    if !require_root("servers_see_the_vip_where_it_is_the_source") {
        return;
    }
    let routed = Routed::new(Arms::Two);
    routed.answer_by(Way::Machine);
    let lines = routed.servers().map(|server| MllpServer::start(server, port::HL7));
    let vips = [("HL7-4", VIP4), ("HL7-6", VIP6)].map(|(name, ip)| {
        let (ports, servers) = (&format!("[{}]", port::HL7), servers(&routed, ip, None));
        let more = "source = \"vip\"\nsource_ports = \"20000-29999\"\n";
        Vip { name, mode: Mode::L4Snat, ip, ports, protocol: "tcp", servers, more }.to_string()
    });
    let mut running = None;
    serve(&routed, &mut running, &vips.concat());
    for vip in [VIP4, VIP6] {
        let to = SocketAddr::new(vip, port::HL7);
        let mut link = MllpLink::open(routed.client(), to).expect("a connection");
        let server = link.exchange_many(10).expect("messages are acknowledged");
        let which = routed.servers().iter().position(|host| host.name == server).expect("a server's name");
        let peer = lines[which].connections().pop().expect("the connection just used").peer;
        assert_eq!(peer.ip(), vip);
        assert!((20_000..30_000).contains(&peer.port()), "{peer}");
    }
}

#[test]
fn transfers_go_on_while_the_daemon_is_killed_and_started_again() {
    if !require_root("transfers_go_on_while_the_daemon_is_killed_and_started_again") {
        return;
    }
    let routed = Routed::new(Arms::Two);
    let client = routed.client();
    let archives = ["pacs1", "pacs2"].map(|host| Orthanc::start(routed.lab(), host, port::DICOM));
    let _lines = routed.servers().map(|host| MllpServer::start(host, port::HL7));
    let mut running = None;
    let mut stored = BTreeSet::new();
    for mode in TRANSLATING {
        prepare(&routed, mode);
        let vips = [("DICOM-4", VIP4, port::DICOM), ("HL7-6", VIP6, port::HL7)].map(|(name, ip, port)| {
            let servers = servers(&routed, ip, None);
            Vip { name, mode, ip, ports: &format!("[{port}]"), protocol: "tcp", servers, more: "" }
                .to_string()
        });
        let lbd = serve(&routed, &mut running, &format!("{}{}", gateway(&routed), vips.concat()));
        let archive = SocketAddr::new(VIP4, port::DICOM);
        let echoes = EchoLoop::start(client, archive, Duration::from_millis(20));
        // Small instances make many flows, large ones are in mid-transfer whatever happens.
        let streams = [64, 1500].map(|side| StoreStream::start(client, archive, side));
        let mut link = MllpLink::open(client, SocketAddr::new(VIP6, port::HL7)).expect("a connection");
        let mut flows_on = || {
            for stream in &streams {
                stream.wait_for_more(2);
            }
            let goal = echoes.echoes() + 5;
            wait_until(Duration::from_secs(10), "the association echoes on", || echoes.echoes() >= goal);
            link.exchange_many(20).unwrap_or_else(|error| panic!("{}: HL7: {error}", mode.name()));
        };
        flows_on();
        lbd.kill();
        flows_on();
        lbd.start_again();
        lbd.wait_status("all is green after a crash", crate::green);
        flows_on();
        let report = echoes.finish();
        assert!(report.broken.is_none(), "{}: {report:?}", mode.name());
        for run in streams.map(StoreStream::finish) {
            assert!(run.failures.is_empty(), "{}: {:?}", mode.name(), run.failures);
            stored.extend(run.uids);
        }
    }
    let spread = Spread::of(&archives.each_ref().map(|archive| archive.instances()), &stored);
    assert!(spread.exact(), "{spread:?}");
}
