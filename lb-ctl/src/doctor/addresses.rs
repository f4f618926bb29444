//! Checks of VIPs, other addresses of this machine, and real servers: subnets, ownership, neighbours.

use std::{collections::BTreeSet, net::IpAddr};

use super::{Facts, Finding};
use crate::{
    model::{
        config::{Config, Mode, Rip, SourceAddresses, Vip},
        net::Watched,
    },
    net::subnet,
};

pub(super) fn examine(facts: &Facts, config: &Config) -> Vec<Finding> {
    if facts.net_error.is_some() {
        return Vec::new();
    }
    let mut findings = Vec::new();
    let mut seen = BTreeSet::new();
    for wanted in wanted(config) {
        if seen.insert(wanted.ip) {
            findings.push(place(facts, &wanted));
            findings.push(ownership(facts, &wanted));
        }
    }
    for vip in config.vips.iter().filter(|vip| vip.enabled) {
        for rip in &vip.rips {
            if seen.insert(rip.ip) {
                findings.push(real_server(facts, vip, rip));
            }
        }
    }
    findings
}

/// An address that this machine should have.
struct Wanted<'a> {
    /// What it is: `VIP PACS 10.0.0.1`.
    who: String,
    /// The section that configures it.
    section: String,
    ip: IpAddr,
    interface: Option<&'a str>,
}

fn wanted(config: &Config) -> impl Iterator<Item = Wanted<'_>> {
    let served = config.vips.iter().filter(|vip| vip.enabled);
    let vips = served.clone().map(|vip| Wanted {
        who: format!("VIP {} {}", vip.name, vip.ip),
        section: format!("[vip.{}]", vip.name),
        ip: vip.ip,
        interface: vip.interface.as_deref(),
    });
    let gateways = config.gateway.addresses.iter().map(|address| Wanted {
        who: format!("gateway address {}", address.ip),
        section: "[gateway]".to_owned(),
        ip: address.ip,
        interface: address.interface.as_deref(),
    });
    let sources = served.filter(|vip| vip.mode == Mode::L4Snat).flat_map(|vip| {
        let pool: &[IpAddr] = match &vip.source.addresses {
            SourceAddresses::Pool(pool) => pool,
            SourceAddresses::Interface | SourceAddresses::Vip => &[],
        };
        pool.iter().map(|&ip| Wanted {
            who: format!("source {ip} of VIP {}", vip.name),
            section: format!("[vip.{}]", vip.name),
            ip,
            interface: None,
        })
    });
    vips.chain(gateways).chain(sources)
}

/// Addresses that [`examine`] asks about: those that this machine should have, and real servers.
pub(super) fn watched(config: &Config) -> Watched {
    let rips = config.vips.iter().filter(|vip| vip.enabled).flat_map(|vip| &vip.rips);
    wanted(config).map(|wanted| wanted.ip).chain(rips.map(|rip| rip.ip)).collect()
}

/// Whether there is an interface to put the address on.
fn place(facts: &Facts, wanted: &Wanted<'_>) -> Finding {
    let Wanted { who, section, ip, interface } = wanted;
    match (interface, subnet::connected(&facts.net, *ip)) {
        (Some(interface), _) => {
            Finding::ok("vip-subnet", format!("{who} goes onto {interface}, as configured"))
        }
        (None, Some(address)) => Finding::ok(
            "vip-subnet",
            format!(
                "{who} is in {}/{} of {}",
                address.ip,
                address.prefix,
                facts.net.link_name(address.ifindex)
            ),
        ),
        (None, None) => Finding::problem(
            "vip-subnet",
            format!("{who} is in no connected subnet, so no interface can be chosen for it"),
            format!("set `interface` in {section}, or give an interface an address in its subnet"),
        ),
    }
}

/// Who has the address now.
fn ownership(facts: &Facts, wanted: &Wanted<'_>) -> Finding {
    let Wanted { who, section, ip, .. } = wanted;
    if let Some(address) = facts.net.addresses.iter().find(|address| address.ip == *ip) {
        let interface = facts.net.link_name(address.ifindex);
        return if address.duplicate {
            Finding::problem(
                "vip-address",
                format!("{who} on {interface} lost duplicate address detection: another host has it"),
                format!("free the address there or change it in {section}"),
            )
        } else if address.prefix < subnet::host_prefix(*ip) {
            Finding::warning(
                "vip-address",
                format!("{who} is this machine's own address on {interface} (prefix {})", address.prefix),
                format!("give {section} an address of its own, which can move and be removed with it"),
            )
        } else {
            Finding::ok("vip-address", format!("{who} is on {interface}"))
        };
    }
    match facts.net.paths.get(ip).and_then(|path| path.mac) {
        Some(mac) => Finding::problem(
            "vip-address",
            format!("{who} is not on this machine, and {mac} answers for it"),
            "free the address there; if that is a real server, keep it from answering ARP for the VIP (arp_ignore=1, arp_announce=2)",
        ),
        None => Finding::note(
            "vip-address",
            format!("{who} is on no interface yet, and nobody answers for it"),
            "lbd claims it when it starts",
        ),
    }
}

fn real_server(facts: &Facts, vip: &Vip, rip: &Rip) -> Finding {
    let ip = rip.ip;
    let who = format!("{}/{} {ip}", vip.name, rip.name);
    let Some(path) = facts.net.paths.get(&ip) else {
        return Finding::note("real-server", format!("{who} was not looked up"), "run lbctl doctor again");
    };
    if path.local {
        return Finding::problem(
            "real-server",
            format!("{who} is an address of this machine, which forwards to others only"),
            "use the address of another machine",
        );
    }
    let (ifindex, gateway) = (path.ifindex, path.gateway);
    let Some(ifindex) = ifindex.filter(|_| gateway.is_none()) else {
        let reached =
            gateway.map_or_else(|| "no route".to_owned(), |gateway| format!("reached by gateway {gateway}"));
        return Finding::problem(
            "real-server",
            format!(
                "{who} is not in a connected subnet ({reached}): frames go to the server's own MAC and cannot cross a router"
            ),
            "give this machine an interface in the server's subnet, or use a server in one of its subnets",
        );
    };
    let interface = facts.net.link_name(ifindex);
    match (path.mac, path.failed) {
        (Some(mac), _) => Finding::ok("real-server", format!("{who} is at {mac} on {interface}")),
        (None, true) => Finding::warning(
            "real-server",
            format!("{who} does not answer {} on {interface}", question(ip)),
            format!("is it on, and in the same network (VLAN) as {interface}?"),
        ),
        (None, false) => Finding::note(
            "real-server",
            format!("the MAC of {who} on {interface} is not known yet"),
            "run lbctl doctor again, as root",
        ),
    }
}

const fn question(ip: IpAddr) -> &'static str {
    match ip {
        IpAddr::V4(_) => "ARP",
        IpAddr::V6(_) => "neighbour discovery",
    }
}
