//! Persistence that VIPs share: a client that one of them sent to a server is sent to the same server by the others. The
//! server has a slot in each, and each must know the others'.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use lb_common::{
    limits::MAX_TWINS,
    service::{Service, flags},
};

use super::Placed;
use crate::{
    dataplane::{Installed, Op},
    model::desired::{DesiredService, DesiredState, group_id},
};

/// Who shares persistence with whom.
pub(super) struct Shared<'a> {
    /// VIPs whose group has room.
    vips: BTreeSet<&'a str>,
    /// By slot and service: the slot that the same server has in that service, which may be the same one.
    twins: BTreeMap<(u16, u16), u16>,
}

/// A server of a group: service, address, port, slot.
type Server = (u16, IpAddr, Option<u16>, u16);

impl<'a> Shared<'a> {
    /// What follows from the groups that are desired and the slots that were given out. Groups that do not fit are
    /// problems of their VIPs, which then keep their persistence to themselves.
    pub(super) fn of(
        desired: &'a DesiredState,
        ids: &BTreeMap<&'a str, u16>,
        placed: &BTreeMap<&'a str, BTreeMap<&'a str, Placed<'_>>>,
        problems: &mut BTreeMap<String, String>,
    ) -> Self {
        let mut groups: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for name in ids.keys() {
            if let Some(group) = &desired.services[*name].group {
                groups.entry(group).or_default().push(name);
            }
        }
        let mut shared = Self { vips: BTreeSet::new(), twins: BTreeMap::new() };
        for (group, vips) in groups {
            let servers: Vec<Server> = vips
                .iter()
                .flat_map(|vip| servers(ids[vip], &desired.services[*vip], &placed[vip]))
                .collect();
            let twins = twins(&servers);
            if shared.twins.len() + twins.len() <= MAX_TWINS as usize {
                shared.vips.extend(vips);
                shared.twins.extend(twins);
                continue;
            }
            for vip in vips {
                let text = format!(
                    "persistence group `{group}` does not fit, so its VIPs do not share persistence: at most {MAX_TWINS} \
                     pairs of a server's place in one VIP and in another fit; put fewer VIPs or servers into groups"
                );
                problems.entry(vip.to_owned()).or_insert(text);
            }
        }
        shared
    }

    /// A service's record: with the number that its persistence entries are kept under.
    pub(super) fn record(&self, name: &str, id: u16, service: &DesiredService) -> Service {
        match &service.group {
            Some(group) if self.vips.contains(name) => {
                Service { persist_group: group_id(group), ..service.record }
            }
            _ => {
                let flags = service.record.flags & !flags::SHARED;
                Service { flags, persist_group: u32::from(id), ..service.record }
            }
        }
    }

    /// Steps by which a service learns which slots its servers have elsewhere.
    pub(super) fn begun(&self, id: u16, installed: &Installed) -> impl Iterator<Item = Op> {
        let of_service = self.twins.iter().filter(move |((_, service), _)| *service == id);
        of_service
            .filter(|(key, twin)| installed.twins.get(key) != Some(twin))
            .map(|(&(slot, service), &twin)| Op::PutTwin { slot, service, twin })
    }

    /// What is installed and means nothing any more.
    pub(super) fn ended(&self, installed: &Installed) -> impl Iterator<Item = (u16, u16)> {
        installed.twins.keys().filter(|key| !self.twins.contains_key(key)).copied()
    }
}

fn servers<'s>(
    id: u16,
    service: &'s DesiredService,
    placed: &'s BTreeMap<&str, Placed<'_>>,
) -> impl Iterator<Item = Server> {
    let server = move |(name, at): (&&str, &Placed<'_>)| {
        let backend = service.backends.get(*name)?;
        Some((id, backend.ip, backend.port, at.slot))
    };
    placed.iter().filter_map(server)
}

/// Each server's slot in every service that has it: the one with its port, or else any with its address. Its own service
/// has it under the slot that it has.
fn twins(servers: &[Server]) -> BTreeMap<(u16, u16), u16> {
    let services: BTreeSet<u16> = servers.iter().map(|&(service, ..)| service).collect();
    let mut by_address = BTreeMap::new();
    for &(service, ip, port, slot) in servers {
        by_address.entry((service, ip, port)).or_insert(slot);
    }
    let mut twins = BTreeMap::new();
    for &(own, ip, port, slot) in servers {
        for &service in &services {
            let there = || {
                let all_ports = (service, ip, None)..=(service, ip, Some(u16::MAX));
                let any = || by_address.range(all_ports).next().map(|(_, slot)| slot);
                by_address.get(&(service, ip, port)).or_else(any).copied()
            };
            if let Some(twin) = if service == own { Some(slot) } else { there() } {
                twins.insert((slot, service), twin);
            }
        }
    }
    twins
}
