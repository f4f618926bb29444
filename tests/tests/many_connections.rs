//! SNAT has a port of its own for every connection: many of them at once, and none left.

#![forbid(unsafe_code)]

use std::{
    collections::BTreeSet,
    io::ErrorKind,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use lb_common::counter::Reason;
use lb_ctl::model::status::Colour;
use lb_tests::lab::{
    Arms, Host, Lbd, Routed, Way,
    crowd::{self, Keeper, abort, open, open_each, receive_each, send_each},
    proc::wait_for,
    require_root,
    routed::INSIDE,
    topology::VIP4,
};

/// Connections at once.
const CONNECTIONS: u16 = 50_000;
/// Addresses that clients have.
const CLIENTS: [u8; 4] = [101, 102, 103, 104];
/// Port of both services.
const PORT: u16 = 104;
/// Room for flows, 40 times what is needed. A flow has a choice of four places, and is refused when others have them:
/// one connection of all in every 16 runs.
const FLOWS: u32 = 1 << 22;
/// Connections of an address that may be refused so, and are opened from another port; never so many in years of runs.
const SPARE: u16 = 3;
/// Ports of the VIP that has few.
const FEW: u16 = 100;

#[test]
fn fifty_thousand_connections_to_one_server_are_established_at_the_same_time() {
    if !require_root("fifty_thousand_connections_to_one_server_are_established_at_the_same_time") {
        return;
    }
    let routed = Routed::new(Arms::Two);
    routed.answer_by(Way::Nowhere);
    let sources = [201, 202].map(|octet| IpAddr::V4(INSIDE.v4(octet)));
    let [first, second] = sources;
    let lbd =
        start(&routed, &format!("source = [\"{first}\", \"{second}\"]\nsource_ports = \"1024-32767\"\n"));
    let (client, server) = (routed.client(), routed.servers()[0]);
    let (peers, refused) = crowd::gather(
        (client, &addresses(client)),
        (CONNECTIONS / CLIENTS.len() as u16, SPARE),
        SocketAddr::new(VIP4, PORT),
        (server, SocketAddr::new(server.v4.into(), PORT)),
    );
    lbd.wait_status("every refusal has its reason", |status| {
        let count = status.reasons.iter().find(|reason| reason.reason == Reason::FlowRefused.name());
        count.map_or(0, |reason| reason.packets) == refused
    });
    let peers: BTreeSet<_> = peers.into_iter().collect();
    assert_eq!(peers.len(), usize::from(CONNECTIONS), "connections that share address and port");
    let used: BTreeSet<_> = peers.iter().map(SocketAddr::ip).collect();
    assert_eq!(used, sources.into());
    assert!(peers.iter().all(|peer| (1024..=32_767).contains(&peer.port())));
}

#[test]
fn connections_without_a_source_port_are_refused_and_ports_come_back() {
    if !require_root("connections_without_a_source_port_are_refused_and_ports_come_back") {
        return;
    }
    let routed = Routed::new(Arms::Two);
    routed.answer_by(Way::Nowhere);
    let ports = format!("source_ports = \"20000-{}\"\n", 20_000 + FEW - 1);
    let _lbd = start(&routed, &ports);
    let (client, server, to) = (routed.client(), routed.servers()[0], SocketAddr::new(VIP4, PORT));
    let keeper = server.netns.enter(|| Keeper::start(SocketAddr::new(server.v4.into(), PORT)));
    let keeper = keeper.expect("an address of the server");

    // A port is found by trying some, so the last free ones may take several connections to be found.
    let opened = client.netns.enter(|| open_each(client.v4.into(), 4 * FEW, to).collect::<Vec<_>>());
    let (mut held, mut refused) = (Vec::new(), Vec::new());
    for outcome in opened {
        match outcome {
            Ok(connection) => held.push(connection),
            Err(error) => refused.push(error.kind()),
        }
    }
    assert_eq!(held.len(), usize::from(FEW));
    assert!(refused.iter().all(|kind| *kind == ErrorKind::ConnectionRefused), "{refused:?}");
    send_each(&mut held)
        .and_then(|()| keeper.answer_each())
        .and_then(|()| receive_each(&mut held))
        .unwrap_or_else(|error| panic!("a connection has broken: {error}"));

    let again = |first_port: u16| {
        let mut ports = first_port..;
        wait_for(
            Duration::from_secs(10),
            || "a new connection is taken".to_owned(),
            || {
                let from = SocketAddr::new(client.v4.into(), ports.next()?);
                client.netns.enter(|| open(from, to)).ok()
            },
        )
    };
    for connection in held.drain(..10) {
        abort(connection);
    }
    let _new: Vec<_> = (0..10).map(|round| again(30_000 + round * 100)).collect();
}

/// Starts the daemon with one VIP for one server.
#[track_caller]
fn start(routed: &Routed, source: &str) -> Lbd {
    let server = routed.servers()[0].v4;
    let lbd = Lbd::start(
        routed.lab(),
        "lb",
        &format!(
            "[node]\nflows_v4 = {FLOWS}\n[vip.MANY]\nmode = \"l4-snat\"\nip = \"{VIP4}\"\nports = [{PORT}]\ncheck = \"off\"\n\
             servers = {{ A = \"{server}\" }}\n{source}"
        ),
    );
    lbd.wait_status("all is green", |status| status.health == Colour::Green);
    lbd
}

/// Gives the client more addresses.
fn addresses(client: &Host) -> [IpAddr; CLIENTS.len()] {
    CLIENTS.map(|octet| {
        let [a, b, c, _] = client.v4.octets();
        let address = IpAddr::from([a, b, c, octet]);
        client.netns.ip(&format!("addr replace {address}/24 dev eth0"));
        address
    })
}
