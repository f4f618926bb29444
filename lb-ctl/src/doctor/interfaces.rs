//! Checks of the interfaces that VIPs and real servers are reached by.

use std::collections::BTreeSet;

use super::{Facts, Finding, Interface, KernelVersion, Xdp, bonds, drivers, routing};
use crate::{
    model::{config::Config, net::Link},
    net::subnet,
};

/// Largest packet that drivers take into one buffer with room for XDP: a page less headroom and bookkeeping.
/// Drivers differ by some hundred bytes; this is the smallest.
const SINGLE_BUFFER_MTU: u32 = 3000;
/// VLAN interfaces on top of each other that are followed.
const MAX_STACK: usize = 4;

pub(super) fn examine(facts: &Facts, config: &Config) -> Vec<Finding> {
    if let Some(error) = &facts.net_error {
        return vec![Finding::problem(
            "netlink",
            error.as_str(),
            "run lbctl doctor as root on the machine itself",
        )];
    }
    let mut findings = missing(facts, config);
    let carriers: BTreeSet<u32> = used(facts, config);
    let physical: BTreeSet<u32> = carriers.iter().filter_map(|&index| below(facts, index)).collect();
    let unknown = Interface::default();
    let each = |indexes: BTreeSet<u32>| {
        indexes.into_iter().filter_map(|index| {
            let interface = facts.interfaces.get(&index).unwrap_or(&unknown);
            facts.net.links.get(&index).map(|link| (link, interface))
        })
    };
    let multihomed = carriers.len() > 1;
    let above_vlan = carriers != physical;
    let routing = routing::examine(facts, config, &carriers);
    for (link, interface) in each(carriers) {
        findings.push(state(link));
        findings.extend(rp_filter(link, interface, multihomed));
        findings.extend(arp(link, interface));
    }
    for (link, interface) in each(physical) {
        findings.extend(bonds::port(facts, link));
        findings.push(driver(facts, link, interface));
        findings.extend(bonds::bond(facts, link, interface));
        findings.extend(running(link, interface));
        findings.extend(mtu(facts, link, interface));
        findings.push(offloads(link, interface, above_vlan));
    }
    findings.extend(routing);
    findings
}

/// Configured interfaces that do not exist.
fn missing(facts: &Facts, config: &Config) -> Vec<Finding> {
    let exists = |name: &str| facts.net.links.values().any(|link| link.name == name);
    let of_node = config.node.interfaces.iter().map(|name| ("[node]".to_owned(), name));
    let of_vips =
        config.vips.iter().filter_map(|vip| Some((format!("VIP {}", vip.name), vip.interface.as_ref()?)));
    let gateway = &config.gateway;
    let of_gateway = gateway.addresses.iter().filter_map(|address| address.interface.as_ref());
    let of_gateway = of_gateway.chain(&gateway.masquerade).map(|name| ("[gateway]".to_owned(), name));
    of_node
        .chain(of_vips)
        .chain(of_gateway)
        .filter(|(_, name)| !exists(name))
        .map(|(place, name)| {
            let known: Vec<&str> = facts
                .net
                .links
                .values()
                .map(|link| link.name.as_str())
                .filter(|&name| name != "lo")
                .collect();
            Finding::problem(
                "interface",
                format!("{place} names interface \"{name}\", which does not exist"),
                format!("use one of: {}", known.join(", ")),
            )
        })
        .collect()
}

/// Interfaces that are configured, or that VIPs, real servers and servers' own traffic are reached by.
fn used(facts: &Facts, config: &Config) -> BTreeSet<u32> {
    let by_name =
        |name: &String| facts.net.links.values().find(|link| &link.name == name).map(|link| link.index);
    let mut used: BTreeSet<u32> = config.node.interfaces.iter().filter_map(by_name).collect();
    for vip in config.vips.iter().filter(|vip| vip.enabled) {
        let connected = || subnet::connected(&facts.net, vip.ip).map(|address| address.ifindex);
        used.extend(vip.interface.as_ref().map_or_else(connected, by_name));
        for rip in &vip.rips {
            let path = facts.net.paths.get(&rip.ip).filter(|path| !path.local && path.gateway.is_none());
            used.extend(path.and_then(|path| path.ifindex));
        }
    }
    for address in &config.gateway.addresses {
        let connected = || subnet::connected(&facts.net, address.ip).map(|address| address.ifindex);
        used.extend(address.interface.as_ref().map_or_else(connected, by_name));
    }
    used.extend(config.gateway.masquerade.iter().filter_map(by_name));
    used
}

/// The interface below any VLAN interfaces: where the program is attached.
fn below(facts: &Facts, mut index: u32) -> Option<u32> {
    for _ in 0..MAX_STACK {
        let link = facts.net.links.get(&index)?;
        match (link.vlan, link.parent) {
            (Some(_), Some(parent)) => index = parent,
            _ => break,
        }
    }
    Some(index)
}

fn state(link: &Link) -> Finding {
    let name = &link.name;
    match (link.up, link.carrier) {
        (true, true) => Finding::ok("link", format!("{name} is up")),
        (true, false) => Finding::problem(
            "link",
            format!("{name} has no carrier"),
            "plug in the cable, or switch the port on",
        ),
        (false, _) => {
            Finding::problem("link", format!("{name} is down"), format!("ip link set dev {name} up"))
        }
    }
}

/// Balanced packets never meet the filter, in either direction. What it can drop is what the packet path leaves to the
/// kernel.
fn rp_filter(link: &Link, interface: &Interface, multihomed: bool) -> Option<Finding> {
    let name = &link.name;
    match interface.rp_filter? {
        1 if multihomed => Some(Finding::note(
            "rp-filter",
            format!(
                "{name} filters by reverse path strictly: pings to a VIP, refusals of closed ports and servers' own traffic are dropped where the way back is another interface; balanced traffic is not touched"
            ),
            format!("sysctl -w net.ipv4.conf.{}.rp_filter=2 (and `all` to 0 or 2)", name.replace('.', "/")),
        )),
        _ => Some(Finding::ok("rp-filter", format!("{name}: the reverse path filter is in nobody's way"))),
    }
}

/// How this machine answers ARP for a VIP, which it holds with prefix 32.
fn arp(link: &Link, interface: &Interface) -> Option<Finding> {
    let name = &link.name;
    let why = match interface.arp_ignore? {
        2 => "arp_ignore=2 answers only clients in the subnet of the address, and a VIP's /32 has none",
        8 => "arp_ignore=8 answers nobody",
        _ => return Some(Finding::ok("arp", format!("{name} answers ARP for its VIPs"))),
    };
    Some(Finding::problem(
        "arp",
        format!("{name} does not answer ARP for a VIP: {why}"),
        format!("sysctl -w net.ipv4.conf.{}.arp_ignore=0 (and `all` to 0 or 1)", name.replace('.', "/")),
    ))
}

fn driver(facts: &Facts, link: &Link, interface: &Interface) -> Finding {
    let name = &link.name;
    let slower = "the program runs in generic mode there: correct, but several times slower";
    match link.kind.as_deref() {
        Some("bridge") => {
            return Finding::warning(
                "driver",
                format!("{name} is a bridge, which has no XDP of its own; {slower}"),
                "move the addresses from the bridge to the interface below it, if nothing else needs the bridge",
            );
        }
        Some(kind @ ("macvlan" | "ipvlan" | "vxlan" | "team" | "dummy")) => {
            return Finding::warning(
                "driver",
                format!("{name} is of kind {kind}, which has no XDP of its own; {slower}"),
                "use the interface below it",
            );
        }
        _ => {}
    }
    let Some(driver) = &interface.driver else {
        return Finding::note(
            "driver",
            format!(
                "the driver of {name} could not be found out; lbd says at start whether it runs natively"
            ),
            "ethtool -i, or `lbctl status` once lbd runs",
        );
    };
    match (drivers::find(driver), KernelVersion::parse(&facts.kernel_release)) {
        (Some(known), Some(kernel)) if kernel >= known.since => {
            Finding::ok("driver", format!("{name}: {driver} runs XDP natively"))
        }
        (Some(known), _) => Finding::warning(
            "driver",
            format!("{name}: {driver} runs XDP natively only from Linux {} on; {slower}", known.since),
            format!("install a kernel of {} or newer", known.since),
        ),
        (None, _) => Finding::warning(
            "driver",
            format!("{name}: {driver} is not known to run XDP natively; {slower}"),
            "use an interface whose driver can (virtio_net, vmxnet3, ixgbe, i40e, ice, igb, igc, mlx5_core, bnxt_en, ena)",
        ),
    }
}

fn running(link: &Link, interface: &Interface) -> Option<Finding> {
    let name = &link.name;
    match interface.xdp {
        Xdp::None => None,
        Xdp::Native => Some(Finding::ok("xdp", format!("a program runs natively on {name}"))),
        Xdp::Generic => Some(Finding::warning(
            "xdp",
            format!("a program runs on {name} in generic mode: correct, but several times slower"),
            "see `driver`, `mtu` and `offloads` for what keeps it out of the driver",
        )),
    }
}

fn mtu(facts: &Facts, link: &Link, interface: &Interface) -> Option<Finding> {
    let (name, mtu) = (&link.name, link.mtu);
    let driver = interface.driver.as_deref().and_then(drivers::find)?;
    let kernel = KernelVersion::parse(&facts.kernel_release)?;
    let jumbo = driver.jumbo_since.is_some_and(|since| kernel >= since);
    if mtu <= SINGLE_BUFFER_MTU || jumbo {
        return Some(Finding::ok("mtu", format!("{name}: {mtu}")));
    }
    Some(Finding::warning(
        "mtu",
        format!(
            "{name}: {mtu}; {} on Linux {kernel} may refuse native XDP above about {SINGLE_BUFFER_MTU}",
            driver.name
        ),
        format!("ip link set dev {name} mtu 1500, or a newer kernel"),
    ))
}

fn offloads(link: &Link, interface: &Interface, above_vlan: bool) -> Finding {
    let name = &link.name;
    let Some(offloads) = &interface.offloads else {
        return Finding::note(
            "offloads",
            format!("offloads of {name} could not be read"),
            "install ethtool (apt-get install ethtool) and run this as root",
        );
    };
    let on = |feature: &str| offloads.get(feature) == Some(&true);
    let merging = [("large-receive-offload", "lro"), ("rx-gro-hw", "rx-gro-hw")];
    if let Some((feature, short)) = merging.into_iter().find(|(feature, _)| on(feature)) {
        return Finding::warning(
            "offloads",
            format!(
                "{name}: {feature} is on: the card merges packets, and the driver may refuse native XDP for it"
            ),
            format!("ethtool -K {name} {short} off"),
        );
    }
    if above_vlan && on("rx-vlan-offload") {
        return Finding::problem(
            "offloads",
            format!(
                "{name}: rx-vlan-offload is on: the card takes VLAN tags off before the program sees them, which then answers without; in generic mode they are put on twice"
            ),
            format!("ethtool -K {name} rxvlan off"),
        );
    }
    if link.kind.as_deref() == Some("veth") {
        return Finding::note(
            "offloads",
            format!("{name} is a veth: its other end must send finished checksums and take frames in bulk"),
            "on the other end: ethtool -K DEV tx off gro on",
        );
    }
    Finding::ok("offloads", format!("{name}: nothing harmful is on"))
}
