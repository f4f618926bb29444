//! Source addresses of SNAT.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use lb_common::{
    limits::MAX_SOURCES,
    net::{ip4, ip6, words},
    service::Sources,
};

use super::{Inputs, before, claims::vip_sources, keys, paths};
use crate::{
    model::{
        config::{Config, SourceAddresses, Vip},
        net::{Address, Link, NetFacts},
    },
    net::subnet,
};

/// The addresses that a SNAT VIP can use now, with its ports; none while they are still on their way.
///
/// # Errors
///
/// Why it will have none until something changes, with the cure.
pub(super) fn of(vip: &Vip, inputs: &Inputs<'_>) -> Result<Sources, String> {
    let addresses = match &vip.source.addresses {
        SourceAddresses::Interface => own(vip, inputs)?,
        SourceAddresses::Vip => BTreeSet::from([vip.ip]),
        // An address that another host has is never ours to send from.
        SourceAddresses::Pool(pool) => pool.iter().copied().filter(|ip| is_here(*ip, inputs.facts)).collect(),
    };
    if addresses.len() > MAX_SOURCES {
        return Err(format!(
            "{} source addresses, at most {MAX_SOURCES} can be used: name fewer with `source`",
            addresses.len()
        ));
    }
    if addresses.is_empty() {
        return Ok(Sources::default());
    }
    let ports = &vip.source.ports;
    let mut sources = Sources {
        count: addresses.len() as u32,
        first_port: *ports.start(),
        ports: u16::try_from(ports.len()).unwrap_or(u16::MAX),
        addrs: [[0; 2]; MAX_SOURCES],
    };
    for (place, ip) in sources.addrs.iter_mut().zip(addresses) {
        *place = words(ip);
    }
    Ok(sources)
}

/// This machine's own addresses beside the servers.
fn own(vip: &Vip, inputs: &Inputs<'_>) -> Result<BTreeSet<IpAddr>, String> {
    let facts = inputs.facts;
    let floating = floating(inputs.config);
    let mut found = BTreeSet::new();
    let mut bare = None;
    let mut waiting = false;
    for server in vip.server_addresses() {
        waiting |= !facts.paths.contains_key(&server);
        // A server without a way says so itself.
        let Some(link) = paths::link_to(server, facts) else { continue };
        match own_address(server, link, facts, &floating) {
            Some(ip) => _ = found.insert(ip),
            None => bare = bare.or(Some((server, link))),
        }
    }
    if waiting {
        // What was goes on as long as it is not known to be wrong.
        found.extend(kept(vip, inputs).filter(|ip| is_here(*ip, facts) && !floating.contains(ip)));
    }
    match bare {
        Some((ip, link)) if found.is_empty() => {
            let name = &link.name;
            Err(format!(
                "no address of this machine on {name} is in the subnet of {ip}: add one to {name}, or name others with `source`"
            ))
        }
        _ => Ok(found),
    }
}

/// The address by which a machine in a connected subnet knows this one.
fn own_address(server: IpAddr, link: &Link, facts: &NetFacts, floating: &BTreeSet<IpAddr>) -> Option<IpAddr> {
    let usable = |a: &&Address| is_usable(a) && !floating.contains(&a.ip);
    let mut here = facts.addresses.iter().filter(|a| a.ifindex == link.index).filter(usable);
    let beside = |a: &&Address| a.prefix < subnet::host_prefix(a.ip) && subnet::contains(a, server);
    here.by_ref().filter(beside).max_by_key(|a| (a.prefix, Reverse(a.ip))).map(|a| a.ip)
}

/// Addresses that come and go by the configuration: they are not this machine's own.
fn floating(config: &Config) -> BTreeSet<IpAddr> {
    let vips = config.vips.iter().flat_map(|v| vip_sources(v).iter().copied().chain([v.ip]));
    vips.chain(config.gateway.addresses.iter().map(|gateway| gateway.ip)).collect()
}

/// Addresses that the VIP had before.
fn kept<'a>(vip: &Vip, inputs: &Inputs<'a>) -> impl Iterator<Item = IpAddr> + use<'a> {
    let v4 = vip.ip.is_ipv4();
    let was = before(&vip.name, &keys(vip), inputs.before).map(|service| &service.sources);
    let addrs = was.map_or(&[][..], |s| s.addrs.get(..s.count as usize).unwrap_or_default());
    addrs.iter().map(move |&addr| if v4 { ip4(addr[0] as u32).into() } else { ip6(addr).into() })
}

fn is_here(ip: IpAddr, facts: &NetFacts) -> bool {
    facts.addresses.iter().any(|a| a.ip == ip && is_usable(a))
}

const fn is_usable(address: &Address) -> bool {
    !address.tentative && !address.duplicate
}

/// What is worth knowing of a VIP that takes its source from several interfaces: a flow's source is chosen without
/// a look at its server.
pub(super) fn note_several_links(vip: &Vip, facts: &NetFacts) -> Option<String> {
    if vip.source.addresses != SourceAddresses::Interface {
        return None;
    }
    let links: BTreeMap<u32, &Link> =
        vip.server_addresses().filter_map(|ip| paths::link_to(ip, facts)).map(|l| (l.index, l)).collect();
    if links.len() < 2 {
        return None;
    }
    let names: Vec<&str> = links.values().map(|l| l.name.as_str()).collect();
    Some(format!(
        "VIP {}: its servers are on {}, and each may see this machine's address on any of them: name `source` addresses \
         that all of them have a route to",
        vip.name,
        names.join(" and ")
    ))
}
