//! Addresses that this machine should have, and the links that the program must run on for them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{Compiled, paths};
use crate::model::{
    config::{Config, SourceAddresses, Vip},
    desired::DesiredState,
    net::{Link, NetFacts, VipAddress},
};

/// What has been claimed so far.
pub(super) struct Claiming<'a> {
    facts: &'a NetFacts,
    before: &'a DesiredState,
    /// Addresses, each with the physical link below its interface.
    pub(super) addresses: BTreeMap<VipAddress, u32>,
    /// Addresses that only the companion proxy serves.
    pub(super) proxy_addresses: BTreeSet<VipAddress>,
    /// Those links.
    pub(super) links: BTreeSet<u32>,
    /// An address has no place now; what had one keeps it.
    pub(super) unsure: bool,
}

impl<'a> Claiming<'a> {
    pub(super) const fn new(facts: &'a NetFacts, before: &'a DesiredState) -> Self {
        Self {
            facts,
            before,
            addresses: BTreeMap::new(),
            proxy_addresses: BTreeSet::new(),
            links: BTreeSet::new(),
            unsure: false,
        }
    }

    /// Claims an address on the interface that was found for it, and gives that interface.
    fn claim(
        &mut self,
        ip: IpAddr,
        carrier: Result<(&'a Link, &'a Link), String>,
    ) -> Result<&'a Link, String> {
        match carrier {
            Ok((link, physical)) => {
                self.addresses.insert(VipAddress { ifindex: link.index, ip }, physical.index);
                self.links.insert(physical.index);
                Ok(link)
            }
            Err(problem) => {
                self.unsure = true;
                let kept = self.before.addresses.iter().filter(|(a, _)| a.ip == ip);
                self.addresses.extend(kept.map(|(&a, &link)| (a, link)));
                Err(problem)
            }
        }
    }

    /// Claims what a VIP needs; says why it cannot be served, if so.
    pub(super) fn vip(&mut self, vip: &Vip) -> Option<String> {
        let mut problem = None;
        for &ip in vip_sources(vip) {
            if let Err(why) = self.claim(ip, paths::carrier_by_subnet(ip, self.facts)) {
                problem = Some(format!("source address {why}"));
            }
        }
        match self.claim(vip.ip, paths::carrier(vip.ip, vip.interface.as_deref(), self.facts)) {
            Ok(link) => paths::not_running(link).or(problem),
            Err(why) => Some(why),
        }
    }

    /// Claims what a layer-7 VIP needs, which is no link: the kernel takes its packets. Says why it cannot be served, if so.
    pub(super) fn proxy(&mut self, vip: &Vip) -> Option<String> {
        match paths::carrier(vip.ip, vip.interface.as_deref(), self.facts) {
            Ok((link, _)) => {
                self.proxy_addresses.insert(VipAddress { ifindex: link.index, ip: vip.ip });
                paths::not_running(link)
            }
            Err(problem) => {
                let kept = self.before.proxy_addresses.iter().filter(|address| address.ip == vip.ip);
                self.proxy_addresses.extend(kept);
                Some(problem)
            }
        }
    }

    /// Claims the addresses that servers have as their gateway.
    pub(super) fn gateway(&mut self, config: &Config, problems: &mut Vec<String>) {
        for gateway in &config.gateway.addresses {
            let carrier = paths::carrier(gateway.ip, gateway.interface.as_deref(), self.facts);
            let problem = match self.claim(gateway.ip, carrier) {
                Ok(link) => paths::not_running(link),
                Err(why) => Some(why),
            };
            problems.extend(problem.map(|why| format!("gateway address {}: {why}", gateway.ip)));
        }
    }
}

/// Source addresses that are claimed for a VIP.
pub(super) fn vip_sources(vip: &Vip) -> &[IpAddr] {
    match &vip.source.addresses {
        SourceAddresses::Pool(addresses) => addresses,
        SourceAddresses::Interface | SourceAddresses::Vip => &[],
    }
}

/// What lives on a link that `node.interfaces` leaves out: it would never get a packet.
pub(super) fn note_unnamed_links(config: &Config, facts: &NetFacts, out: &mut Compiled) {
    for (address, physical) in &out.desired.addresses {
        if out.desired.links.contains(physical) {
            continue;
        }
        let ip = address.ip;
        let name = facts.link_name(*physical);
        let enabled = || config.vips.iter().filter(|v| v.enabled);
        for vip in enabled().filter(|v| v.ip == ip) {
            let problem = format!("its interface {name} is not among `node.interfaces`: add it there");
            out.notes.vips.entry(vip.name.clone()).or_insert(problem);
        }
        for vip in enabled().filter(|v| vip_sources(v).contains(&ip)) {
            let problem = format!(
                "the interface {name} of its source address {ip} is not among `node.interfaces`: add it there"
            );
            out.notes.vips.entry(vip.name.clone()).or_insert(problem);
        }
        if config.gateway.addresses.iter().any(|gateway| gateway.ip == ip) {
            out.notes.problems.push(format!(
                "gateway address {ip}: its interface {name} is not among `node.interfaces`: add it there"
            ));
        }
    }
    for vip in config.vips.iter().filter(|v| v.enabled && v.mode.sees_replies()) {
        let rips = vip.rips.iter().map(|rip| (rip.ip, rip.name.as_str()));
        let fallback = vip.fallback_server().map(|(ip, _)| (ip, "the fallback server"));
        for (ip, name) in rips.chain(fallback) {
            let physical = paths::physical_of_path(ip, facts);
            let Some(unseen) = physical.filter(|index| !out.desired.links.contains(index)) else { continue };
            let problem = format!(
                "answers of {name} come by {}, which is not among `node.interfaces`: add it there",
                facts.link_name(unseen)
            );
            out.notes.vips.entry(vip.name.clone()).or_insert(problem);
        }
    }
}
