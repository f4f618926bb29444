//! A balancer among routers, in whichever mode: what it is told, and what servers and routes must be like for it.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use lb_ctl::model::config::Mode;
use lb_tests::lab::{
    Lbd, Routed, Way,
    topology::{VIP4, VIP6},
};

use crate::green;

/// Starts the daemon, or gives the one that runs another configuration, and waits until every server is in service.
#[track_caller]
pub(crate) fn serve<'a>(routed: &Routed, running: &'a mut Option<Lbd>, toml: &str) -> &'a mut Lbd {
    let lbd = match running.take() {
        None => Lbd::start(routed.lab(), "lb", toml),
        Some(lbd) => {
            lbd.write_config(toml);
            lbd.ctl(&["config", "apply"]).expect_success();
            lbd
        }
    };
    lbd.wait_status("all is green", green);
    running.insert(lbd)
}

/// Makes servers and routes ready for a mode, whichever they were ready for before.
pub(crate) fn prepare(routed: &Routed, mode: Mode) {
    for server in routed.servers() {
        for vip in [VIP4, VIP6] {
            match mode {
                Mode::L4Dr => server.carry_vip(vip),
                Mode::L4Nat | Mode::L4Snat | Mode::L7Http | Mode::L7Tcp => server.drop_vip(vip),
            }
        }
    }
    routed.answer_by(match mode {
        Mode::L4Dr => Way::Router2,
        Mode::L4Nat => Way::Gateway,
        Mode::L4Snat | Mode::L7Http | Mode::L7Tcp => Way::Nowhere,
    });
}

/// The address that servers see.
pub(crate) fn seen(routed: &Routed, mode: Mode, vip: IpAddr) -> IpAddr {
    match mode {
        Mode::L4Dr | Mode::L4Nat => routed.client().address_like(vip),
        Mode::L4Snat | Mode::L7Http | Mode::L7Tcp => routed.machine(vip),
    }
}

/// The section of the floating gateway addresses.
pub(crate) fn gateway(routed: &Routed) -> String {
    let [v4, v6] = [VIP4, VIP6].map(|vip| routed.gateway(vip));
    format!("[gateway]\naddresses = [\"{v4}\", \"{v6}\"]\n")
}

/// A VIP as a person would write it, its servers unchecked: they are there before the balancer is.
pub(crate) struct Vip<'a> {
    pub(crate) name: &'a str,
    pub(crate) mode: Mode,
    pub(crate) ip: IpAddr,
    /// As in TOML: `[104]`, `"all"`.
    pub(crate) ports: &'a str,
    pub(crate) protocol: &'a str,
    /// Addresses, with or without a port.
    pub(crate) servers: Vec<String>,
    /// Further lines.
    pub(crate) more: &'a str,
}

impl fmt::Display for Vip<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, mode, ip, ports, protocol, servers, more } = self;
        let servers: Vec<_> =
            servers.iter().enumerate().map(|(at, server)| format!("PACS{} = \"{server}\"", at + 1)).collect();
        write!(
            f,
            "[vip.{name}]\nmode = \"{}\"\nip = \"{ip}\"\nports = {ports}\nprotocol = \"{protocol}\"\n\
             scheduler = \"wrr\"\ncheck = \"off\"\nservers = {{ {} }}\n{more}",
            mode.name(),
            servers.join(", ")
        )
    }
}

/// Both servers with this port, or with the client's.
pub(crate) fn servers(routed: &Routed, family: IpAddr, port: Option<u16>) -> Vec<String> {
    let typed = |ip| port.map_or_else(|| format!("{ip}"), |port| SocketAddr::new(ip, port).to_string());
    routed.servers().map(|server| typed(server.address_like(family))).into()
}
