//! Checks of the machine as a router, and of what NAT and SNAT need of it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Facts, Finding};
use crate::{
    model::config::{Config, Mode, Vip},
    routing::wanted::Families,
    source_ports,
};

/// `net.ipv6.conf.*.accept_ra`: router advertisements are accepted unless the machine forwards.
const UNLESS_FORWARDING: u8 = 1;

/// `carriers` are the interfaces in use, by index.
pub(super) fn examine(facts: &Facts, config: &Config, carriers: &BTreeSet<u32>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let families = Families::forwarded(config);
    if families.v4 {
        findings.extend(forwarding("net.ipv4.ip_forward", facts.forwarding_v4));
        findings.extend(redirects(facts, carriers));
    }
    if families.v6 {
        findings.extend(forwarding("net.ipv6.conf.all.forwarding", facts.forwarding_v6));
        findings.extend(carriers.iter().filter_map(|&index| advertisements(facts, index)));
    }
    findings.extend(default_gateway(config));
    findings.extend(nftables(facts, config, families));
    findings.extend(mtus(facts, config, carriers));
    findings.extend(ports(facts, config));
    findings
}

fn forwarding(name: &str, value: Option<bool>) -> Option<Finding> {
    Some(match value? {
        true => Finding::ok("forwarding", format!("{name} is on")),
        false => Finding::note(
            "forwarding",
            format!("{name} is off: servers' own traffic is not forwarded yet"),
            format!(
                "lbd switches it on when it starts; if it runs, `lbctl status` says why not, and sysctl -w {name}=1 helps until then"
            ),
        ),
    })
}

/// A redirect tells a server to go past this machine, and the replies of its connections with it.
fn redirects(facts: &Facts, carriers: &BTreeSet<u32>) -> Option<Finding> {
    let on = |index: &&u32| facts.interfaces.get(index).is_some_and(|i| i.send_redirects == Some(1));
    let names: Vec<String> = carriers.iter().filter(on).map(|index| facts.net.link_name(*index)).collect();
    if names.is_empty() {
        let known = |index| facts.interfaces.get(index).is_some_and(|i| i.send_redirects.is_some());
        return carriers
            .iter()
            .any(known)
            .then(|| Finding::ok("redirects", "servers are told no shortcut past this machine"));
    }
    Some(Finding::note(
        "redirects",
        format!(
            "{}: ICMP redirects are on, and may teach servers a shortcut past this machine",
            names.join(", ")
        ),
        "lbd switches them off when it starts; a server that learned one forgets it with `ip route flush cache`",
    ))
}

/// A kernel that forwards IPv6 no longer listens to routers.
fn advertisements(facts: &Facts, index: u32) -> Option<Finding> {
    let name = facts.net.link_name(index);
    let accepts = facts.interfaces.get(&index)?.accept_ra? == UNLESS_FORWARDING;
    accepts.then(|| {
        let key = name.replace('.', "/");
        Finding::warning(
            "router-advertisements",
            format!(
                "{name} takes its IPv6 default route and addresses from router advertisements (accept_ra=1), if there are any, only until the machine forwards IPv6: then they expire"
            ),
            format!(
                "sysctl -w net.ipv6.conf.{key}.accept_ra=2, and in /etc/sysctl.d, or configure address and route by hand"
            ),
        )
    })
}

/// What servers have as their router shows nowhere on this machine.
fn default_gateway(config: &Config) -> Option<Finding> {
    let is_transparent = |vip: &Vip| vip.proxy.as_ref().is_some_and(|proxy| proxy.transparent);
    let needs = |vip: &&Vip| vip.enabled && (vip.mode == Mode::L4Nat || is_transparent(vip));
    let names: Vec<&str> = config.vips.iter().filter(needs).map(|vip| vip.name.as_str()).collect();
    if names.is_empty() {
        return None;
    }
    let gateways: Vec<String> = config.gateway.addresses.iter().map(|a| a.ip.to_string()).collect();
    let expected = match gateways.as_slice() {
        [] => "this machine's address in the server's subnet".to_owned(),
        some => some.join(" or "),
    };
    Some(Finding::note(
        "default-gateway",
        format!(
            "whether real servers of {} reply through this machine cannot be seen from here; where they do not, connections hang",
            names.join(", ")
        ),
        format!(
            "on each server, `ip route get CLIENT-ADDRESS` must say `via {expected}`; clients in the servers' own subnet need l4-snat, or a layer-7 VIP that is not transparent"
        ),
    ))
}

fn nftables(facts: &Facts, config: &Config, families: Families) -> Option<Finding> {
    let links = &config.gateway.masquerade;
    let is_transparent = Families::transparent(config) != Families::default();
    let what = match (links.is_empty(), families.v6, is_transparent) {
        (false, _, _) => format!("masquerading on {}", links.join(", ")),
        (true, true, _) => "keeping IPv6 redirects in".to_owned(),
        (true, false, true) => "replies to transparent VIPs".to_owned(),
        (true, false, false) => return None,
    };
    Some(match facts.nft? {
        true => Finding::ok("nftables", format!("nft is there for {what}")),
        false => Finding::problem(
            "nftables",
            format!("{what} needs the program nft, which is not installed"),
            "apt-get install nftables",
        ),
    })
}

/// NAT and SNAT route, and so must say when a packet does not fit the way on.
fn mtus(facts: &Facts, config: &Config, carriers: &BTreeSet<u32>) -> Option<Finding> {
    routed(config).next()?;
    let links = carriers.iter().filter_map(|index| facts.net.links.get(index));
    let by_mtu: BTreeMap<u32, Vec<&str>> = links.fold(BTreeMap::new(), |mut all, link| {
        all.entry(link.mtu).or_default().push(&link.name);
        all
    });
    if by_mtu.len() < 2 {
        return None;
    }
    let each: Vec<String> =
        by_mtu.iter().map(|(mtu, names)| format!("{} at {}", mtu, names.join(", "))).collect();
    Some(Finding::note(
        "mtu-mix",
        format!(
            "the largest packets differ, {}: senders of larger ones are told by ICMP (fragmentation needed, packet too big), and where that is filtered connections hang",
            each.join("; ")
        ),
        "give all of these interfaces the same MTU, or let ICMP errors through every firewall on the way",
    ))
}

fn ports(facts: &Facts, config: &Config) -> Vec<Finding> {
    let (true, Some(ports)) = (source_ports::concern(config), &facts.ports) else {
        return Vec::new();
    };
    let conflicts = source_ports::conflicts(config, ports);
    if conflicts.is_empty() {
        return vec![Finding::ok("source-ports", "source ports of SNAT are used by nobody else")];
    }
    conflicts.into_iter().map(|c| Finding::problem("source-ports", c.text, c.cure)).collect()
}

fn routed(config: &Config) -> impl Iterator<Item = &Vip> {
    config.vips.iter().filter(|vip| vip.enabled && vip.mode != Mode::L4Dr)
}
