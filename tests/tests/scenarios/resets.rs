//! A server is halted under connections that are idle: an interface engine must not find out with its next message.

use std::{io::ErrorKind, net::SocketAddr, time::Duration};

use lb_ctl::model::{config::Mode, status::RipState};
use lb_tests::lab::{
    Arms, MllpLink, MllpServer, Routed,
    lbd::rip,
    mllp::{End, wait_end},
    require_root,
    topology::{VIP4, VIP6},
};

use crate::stand::{Vip, gateway, prepare, serve, servers};

/// A RST is there within this.
const SOON: Duration = Duration::from_secs(10);

#[test]
fn both_ends_of_an_idle_connection_are_reset_when_their_server_is_halted_unless_told_otherwise() {
    if !require_root(
        "both_ends_of_an_idle_connection_are_reset_when_their_server_is_halted_unless_told_otherwise",
    ) {
        return;
    }
    let routed = Routed::new(Arms::Two);
    let mut running = None;
    for mode in [Mode::L4Nat, Mode::L4Snat] {
        prepare(&routed, mode);
        let vips = [VIP4, VIP6].map(|ip| {
            let servers = servers(&routed, ip, None);
            let vip = |name: &str, ports, more| {
                let name = &vip_name(name, ip.is_ipv4());
                Vip { name, mode, ip, ports, protocol: "tcp", servers: servers.clone(), more }.to_string()
            };
            vip("LOUD", "[2575]", "reset = true\n") + &vip("QUIET", "[2576]", "reset = false\n")
        });
        let lbd = serve(&routed, &mut running, &format!("{}{}", gateway(&routed), vips.concat()));
        for vip in [VIP4, VIP6] {
            let [loud, quiet] = [2575, 2576].map(|port| {
                let servers = routed.servers().map(|server| MllpServer::start(server, port));
                let link = MllpLink::open(routed.client(), SocketAddr::new(vip, port)).expect("a connection");
                (servers, link)
            });
            let (mut loud, mut quiet) = (Idle::of(&routed, loud), Idle::of(&routed, quiet));
            for (name, idle) in [("LOUD", &loud), ("QUIET", &quiet)] {
                let name = vip_name(name, vip.is_ipv4());
                lbd.ctl(&["rip", "halt", &format!("{name}/{}", idle.rip)]).expect_success();
                lbd.wait_status("the server is halted", |status| {
                    rip(status, &name, &idle.rip).state == RipState::Halt
                });
            }
            let reset = End::Broken(ErrorKind::ConnectionReset);
            let what = format!("{}, {vip}", mode.name());
            assert_eq!(loud.link.end_within(SOON), Some(reset), "{what}: the client's end");
            assert_eq!(wait_end(loud.server(), loud.peer, SOON), reset, "{what}: the server's end");
            // By now it would have happened here, too.
            assert_eq!(
                quiet.link.end_within(Duration::from_secs(1)),
                None,
                "{what}: a client without resets"
            );
            let ends: Vec<_> = quiet.servers.iter().flat_map(MllpServer::connections).collect();
            assert!(ends.iter().all(|connection| connection.end.is_none()), "{what}: {ends:?}");
            for (name, idle) in [("LOUD", &loud), ("QUIET", &quiet)] {
                let name = vip_name(name, vip.is_ipv4());
                lbd.ctl(&["rip", "online", &format!("{name}/{}", idle.rip)]).expect_success();
            }
        }
    }
}

/// A connection that was used, and is not any more.
struct Idle {
    servers: [MllpServer; 2],
    link: MllpLink,
    /// Which of the servers has it.
    which: usize,
    /// The label of that server.
    rip: String,
    /// Where the connection comes from, as that server sees it.
    peer: SocketAddr,
}

impl Idle {
    fn of(routed: &Routed, (servers, mut link): ([MllpServer; 2], MllpLink)) -> Self {
        let name = link.exchange_many(3).expect("the connection works");
        let which = routed.servers().iter().position(|host| host.name == name).expect("a server's name");
        let peer = servers[which].connections().pop().expect("the connection just used").peer;
        Self { servers, link, which, rip: name.to_uppercase(), peer }
    }

    const fn server(&self) -> &MllpServer {
        &self.servers[self.which]
    }
}

fn vip_name(name: &str, is_ipv4: bool) -> String {
    format!("{name}-{}", if is_ipv4 { 4 } else { 6 })
}
