//! Two routers lead to the client, and the one that its packets come from is not the one that the routing table names.

use std::net::SocketAddr;

use lb_ctl::model::config::Mode;
use lb_tests::lab::{
    Arms, Capture, MllpLink, MllpServer, Routed, icmp, require_root,
    topology::{LAN, VIP4, VIP6},
    traffic::port,
};

use crate::stand::{Vip, gateway, prepare, serve, servers};

#[test]
fn replies_go_back_to_the_router_they_are_due_to_and_follow_the_client_to_another() {
    if !require_root("replies_go_back_to_the_router_they_are_due_to_and_follow_the_client_to_another") {
        return;
    }
    let routed = Routed::new(Arms::One);
    let _servers = routed.servers().map(|server| MllpServer::start(server, port::HL7));
    let mut running = None;
    for mode in [Mode::L4Nat, Mode::L4Snat] {
        prepare(&routed, mode);
        serve(&routed, &mut running, &toml(&routed, mode, ""));
        for vip in [VIP4, VIP6] {
            let to = SocketAddr::new(vip, port::HL7);
            routed.send_by("router2");
            let mut link = MllpLink::open(routed.client(), to).expect("a connection by the other router");
            assert_eq!(returned(&routed, &mut link), ["router2"], "{}: {to}", mode.name());
            routed.send_by("router");
            assert_eq!(returned(&routed, &mut link), ["router"], "{}: {to} after the move", mode.name());
        }
    }

    prepare(&routed, Mode::L4Nat);
    serve(&routed, &mut running, &toml(&routed, Mode::L4Nat, "return = \"route\"\n"));
    routed.send_by("router2");
    for vip in [VIP4, VIP6] {
        let to = SocketAddr::new(vip, port::HL7);
        let router = LAN.address_like(1, vip);
        assert!(icmp::ping(routed.lb(), router), "the machine knows its router");
        let mut link = MllpLink::open(routed.client(), to).expect("a connection by the other router");
        assert_eq!(returned(&routed, &mut link), ["router"], "{to}, by the routing table");
    }
}

/// Exchanges messages and names the routers that the replies came back to.
#[track_caller]
fn returned(routed: &Routed, link: &mut MllpLink) -> Vec<&'static str> {
    let client = link.address().ip();
    let routers = ["router", "router2"];
    let captures = routers.map(|name| {
        let cable = routed.lab().host(name).cable(LAN);
        (name, Capture::on(routed.lab(), cable, &[client]))
    });
    link.exchange_many(20).unwrap_or_else(|error| panic!("the connection broke: {error}"));
    captures
        .into_iter()
        .filter_map(|(name, capture)| (capture.finish().frames_in(client) > 0).then_some(name))
        .collect()
}

fn toml(routed: &Routed, mode: Mode, more: &str) -> String {
    let vips = [("HL7-4", VIP4), ("HL7-6", VIP6)].map(|(name, ip)| {
        let servers = servers(routed, ip, None);
        let ports = &format!("[{}]", port::HL7);
        Vip { name, mode, ip, ports, protocol: "tcp", servers, more }.to_string()
    });
    format!("{}{}", gateway(routed), vips.concat())
}
