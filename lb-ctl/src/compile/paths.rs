//! From facts of the network to interfaces and frames.

use std::{collections::BTreeSet, net::IpAddr};

use lb_common::{
    limits::MAX_IFINDEX,
    net::{ETHERTYPE_VLAN, Mac},
};

use crate::{
    model::{
        desired::Forward,
        net::{Link, NetFacts, Path, VlanTag},
    },
    net::subnet,
};

/// Whether frames can reach a server.
pub(super) enum Way {
    /// Yes, so.
    Known(Forward),
    /// No, because.
    None(String),
    /// Not known yet: what we wait for.
    Unknown(String),
}

/// How frames reach a server.
pub(super) fn forward(ip: IpAddr, facts: &NetFacts) -> Way {
    let Some(path) = facts.paths.get(&ip) else {
        return Way::Unknown(format!("waiting for the route to {ip}"));
    };
    let link = match link_of_path(ip, path, facts) {
        Ok(link) => link,
        Err(why) => return Way::None(why),
    };
    if let Some(why) = not_running(link) {
        // A cable that was out for a second must not cost an association: whether the servers behind it are
        // down is for their checks to say.
        return Way::Unknown(why);
    }
    let mac = match path.mac {
        Some(mac) if !path.failed => mac,
        _ if path.failed => return Way::None(format!("no answer to {}", question(ip))),
        _ => return Way::Unknown(format!("waiting for an answer to {}", question(ip))),
    };
    match frame(link, mac, facts) {
        Ok(forward) => Way::Known(forward),
        Err(why) => Way::None(why),
    }
}

/// Physical link below the way to a server, if there is one.
pub(super) fn physical_of_path(ip: IpAddr, facts: &NetFacts) -> Option<u32> {
    physical(link_to(ip, facts)?, facts).map(|l| l.index)
}

/// Interface that a server is reached by, if there is one.
pub(super) fn link_to(ip: IpAddr, facts: &NetFacts) -> Option<&Link> {
    link_of_path(ip, facts.paths.get(&ip)?, facts).ok()
}

/// Largest IP packet of a link as records hold it.
pub(super) fn mtu(link: &Link) -> u16 {
    u16::try_from(link.mtu).unwrap_or(u16::MAX)
}

const fn question(ip: IpAddr) -> &'static str {
    match ip {
        IpAddr::V4(_) => "ARP",
        IpAddr::V6(_) => "neighbour solicitation",
    }
}

fn link_of_path<'a>(ip: IpAddr, path: &Path, facts: &'a NetFacts) -> Result<&'a Link, String> {
    if path.local {
        return Err(format!("{ip} is this machine's own address: a real server must be another machine"));
    }
    if let Some(gateway) = path.gateway {
        return Err(format!(
            "{ip} is reached through gateway {gateway}: give this machine an interface in its subnet"
        ));
    }
    let Some(index) = path.ifindex else {
        return Err(format!("no route to {ip}: give this machine an interface in its subnet"));
    };
    let link = facts.links.get(&index);
    link.ok_or_else(|| format!("the route to {ip} leaves by interface {index}, which is gone"))
}

/// Why nothing goes through a link, if so.
pub(super) fn not_running(link: &Link) -> Option<String> {
    let name = &link.name;
    if !link.up {
        Some(format!("interface {name} is down: ip link set {name} up"))
    } else if !link.carrier {
        Some(format!("interface {name} has no carrier: check its cable and switch port"))
    } else {
        None
    }
}

/// The link at the bottom of VLAN interfaces.
fn physical<'a>(link: &'a Link, facts: &'a NetFacts) -> Option<&'a Link> {
    let mut at = link;
    // Links come from netlink: the bound keeps two that name each other as parent from looping.
    for _ in 0..=facts.links.len() {
        match (at.vlan, at.parent) {
            (Some(_), Some(parent)) => at = facts.links.get(&parent)?,
            (Some(_), None) => return None,
            (None, _) => return Some(at),
        }
    }
    None
}

fn frame(link: &Link, dst_mac: Mac, facts: &NetFacts) -> Result<Forward, String> {
    let name = &link.name;
    let bottom = bottom(link, facts)?;
    if bottom.index >= MAX_IFINDEX {
        return Err(format!(
            "interface {} has index {}, at most {} can be used: reboot, or recreate it in a new namespace",
            bottom.name,
            bottom.index,
            MAX_IFINDEX - 1
        ));
    }
    let mut tags: Vec<VlanTag> = Vec::new();
    let mut at = link;
    while let (Some(tag), Some(parent)) = (at.vlan, at.parent) {
        // Going down from the top, the tag met last stands first in the frame.
        tags.insert(0, tag);
        let Some(below) = facts.links.get(&parent) else {
            break;
        };
        at = below;
        if tags.len() > 2 {
            return Err(format!("interface {name} has more than two VLAN tags: at most two are supported"));
        }
    }
    if let Some(inner) = tags.last()
        && inner.tpid != ETHERTYPE_VLAN
    {
        return Err(format!(
            "interface {name} tags with 0x{:04x}: a lone or inner VLAN tag must be 802.1Q",
            inner.tpid
        ));
    }
    let id = |n: usize| tags.get(n).map_or(0, |t| t.id);
    Ok(Forward {
        ifindex: bottom.index,
        dst_mac,
        src_mac: link.mac,
        vlan_depth: tags.len() as u8,
        vlan: [id(0), id(1)],
        outer_tpid: if tags.len() == 2 { tags[0].tpid } else { 0 },
        mtu: mtu(link),
    })
}

/// The interface that carries an address (the one named, or the one whose subnet is the narrowest around it) and
/// the physical link below.
pub(super) fn carrier<'a>(
    ip: IpAddr,
    interface: Option<&str>,
    facts: &'a NetFacts,
) -> Result<(&'a Link, &'a Link), String> {
    let link = match interface {
        Some(name) => by_name(name, facts)?,
        None => by_subnet(ip, facts).map_err(|why| format!("{why}, or set `interface`"))?,
    };
    with_bottom(link, facts)
}

/// [`carrier`] of an address that nobody can name an interface for.
pub(super) fn carrier_by_subnet(ip: IpAddr, facts: &NetFacts) -> Result<(&Link, &Link), String> {
    with_bottom(by_subnet(ip, facts)?, facts)
}

fn with_bottom<'a>(link: &'a Link, facts: &'a NetFacts) -> Result<(&'a Link, &'a Link), String> {
    if let Some(why) = slave(link, facts) {
        return Err(why);
    }
    Ok((link, bottom(link, facts)?))
}

fn bottom<'a>(link: &'a Link, facts: &'a NetFacts) -> Result<&'a Link, String> {
    physical(link, facts).ok_or_else(|| {
        format!("the interface below VLAN interface {} is gone, or in another namespace", link.name)
    })
}

fn by_subnet(ip: IpAddr, facts: &NetFacts) -> Result<&Link, String> {
    let best = subnet::connected(facts, ip);
    best.and_then(|a| facts.links.get(&a.ifindex))
        .ok_or_else(|| format!("{ip} is in no connected subnet: give this machine an address in its subnet"))
}

fn by_name<'a>(name: &str, facts: &'a NetFacts) -> Result<&'a Link, String> {
    facts.links.values().find(|l| l.name == name).ok_or_else(|| {
        let names: Vec<&str> = facts.links.values().map(|l| l.name.as_str()).filter(|n| *n != "lo").collect();
        format!("interface {name} does not exist: there are {}", names.join(", "))
    })
}

/// Why a link cannot be used for itself, if so.
fn slave(link: &Link, facts: &NetFacts) -> Option<String> {
    let master = facts.links.get(&link.master?)?;
    let kind = master.kind.as_deref().unwrap_or("another interface");
    matches!(kind, "bond" | "bridge" | "team").then(|| {
        format!("interface {} is part of {kind} {}: use {} instead", link.name, master.name, master.name)
    })
}

/// Links named in the configuration, below VLAN interfaces; what cannot be used becomes a problem.
pub(super) fn named_links(names: &[String], facts: &NetFacts, problems: &mut Vec<String>) -> BTreeSet<u32> {
    let mut links = BTreeSet::new();
    for name in names {
        let found = by_name(name, facts).and_then(|link| match slave(link, facts) {
            Some(why) => Err(why),
            None => bottom(link, facts),
        });
        match found {
            Ok(link) => {
                problems.extend(not_running(link));
                links.insert(link.index);
            }
            Err(why) => problems.push(why),
        }
    }
    links
}
