//! Checks of VIPs and real servers: subnets, ownership, neighbours.

use std::{collections::BTreeSet, net::IpAddr};

use super::{Facts, Finding};
use crate::{
    model::config::{Config, Rip, Vip},
    net::subnet,
};

pub(super) fn examine(facts: &Facts, config: &Config) -> Vec<Finding> {
    if facts.net_error.is_some() {
        return Vec::new();
    }
    let mut findings = Vec::new();
    let mut seen = BTreeSet::new();
    for vip in config.vips.iter().filter(|vip| vip.enabled) {
        if seen.insert(vip.ip) {
            findings.push(place(facts, vip));
            findings.push(ownership(facts, vip));
        }
        for rip in &vip.rips {
            if seen.insert(rip.ip) {
                findings.push(real_server(facts, vip, rip));
            }
        }
    }
    findings
}

/// Whether there is an interface to put the VIP on.
fn place(facts: &Facts, vip: &Vip) -> Finding {
    let Vip { name, ip, .. } = vip;
    match (&vip.interface, subnet::connected(&facts.net, *ip)) {
        (Some(interface), _) => {
            Finding::ok("vip-subnet", format!("VIP {name} {ip} goes onto {interface}, as configured"))
        }
        (None, Some(address)) => Finding::ok(
            "vip-subnet",
            format!(
                "VIP {name} {ip} is in {}/{} of {}",
                address.ip,
                address.prefix,
                facts.net.link_name(address.ifindex)
            ),
        ),
        (None, None) => Finding::problem(
            "vip-subnet",
            format!("VIP {name} {ip} is in no connected subnet, so no interface can be chosen for it"),
            format!("set `interface` of [vip.{name}], or give an interface an address in its subnet"),
        ),
    }
}

/// Who has the VIP now.
fn ownership(facts: &Facts, vip: &Vip) -> Finding {
    let Vip { name, ip, .. } = vip;
    if let Some(address) = facts.net.addresses.iter().find(|address| address.ip == *ip) {
        let interface = facts.net.link_name(address.ifindex);
        return if address.duplicate {
            Finding::problem(
                "vip-address",
                format!(
                    "VIP {name} {ip} on {interface} lost duplicate address detection: another host has it"
                ),
                format!("free the address there or change `ip` of [vip.{name}]"),
            )
        } else if address.prefix < subnet::host_prefix(*ip) {
            Finding::warning(
                "vip-address",
                format!(
                    "VIP {name} {ip} is this machine's own address on {interface} (prefix {})",
                    address.prefix
                ),
                format!("give [vip.{name}] an address of its own, which can move and be removed with it"),
            )
        } else {
            Finding::ok("vip-address", format!("VIP {name} {ip} is on {interface}"))
        };
    }
    match facts.net.paths.get(ip).and_then(|path| path.mac) {
        Some(mac) => Finding::problem(
            "vip-address",
            format!("VIP {name} {ip} is not on this machine, and {mac} answers for it"),
            "free the address there; if that is a real server, keep it from answering ARP for the VIP (arp_ignore=1, arp_announce=2)",
        ),
        None => Finding::note(
            "vip-address",
            format!("VIP {name} {ip} is on no interface yet, and nobody answers for it"),
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
            format!("{who} is an address of this machine: direct routing cannot forward to itself"),
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
                "{who} is not in a connected subnet ({reached}): direct routing rewrites MACs and cannot cross a router"
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
