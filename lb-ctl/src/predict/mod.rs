//! What a change of the configuration will do to traffic. Pure: read off the plan that would be carried out, so that it
//! says what would happen and not what was meant.
//!
//! Servers that the configuration did not have before cannot have been checked: [`suppose`] takes them for up.
#![forbid(unsafe_code)]

mod proxies;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::SystemTime,
};

use lb_common::{
    backend::{Backend, state},
    limits::TABLE_SLOTS,
    net::Mac,
    service::{Service, Table, mode, no_server, pick},
};

pub use self::proxies::predict_proxies;
use crate::{
    dataplane::{BackendIdentity, FlowCensus, Installed, Op, ServiceIdentity, ServiceKey, TableSpec, table},
    model::{
        config::Config,
        desired::DesiredState,
        health::{Health, HealthMap, RipId, Verdict},
        net::{NetFacts, Path},
    },
    net::subnet,
    plan,
};

/// What is taken for known so that a new server counts.
#[derive(Clone, Debug)]
pub struct Supposed {
    /// With a way to each new server that is in a subnet of this machine.
    pub facts: NetFacts,
    /// With each new server up.
    pub health: HealthMap,
    /// The new servers.
    pub new: BTreeSet<RipId>,
}

/// Supposes that servers which only `to` has will pass their checks.
#[must_use]
pub fn suppose(from: &Config, to: &Config, facts: &NetFacts, health: &HealthMap) -> Supposed {
    let ids = |config: &Config| -> BTreeMap<RipId, std::net::IpAddr> {
        let rips = config.vips.iter().flat_map(|vip| vip.rips.iter().map(move |rip| (vip, rip)));
        rips.map(|(v, r)| (RipId { vip: v.name.clone(), rip: r.name.clone() }, r.ip)).collect()
    };
    let known = ids(from);
    let mut supposed = Supposed { facts: facts.clone(), health: health.clone(), new: BTreeSet::new() };
    for (id, ip) in ids(to) {
        if known.get(&id) == Some(&ip) {
            continue;
        }
        let beside = facts.addresses.iter().find(|address| subnet::contains(address, ip));
        if let Some(address) = beside {
            let ifindex = Some(address.ifindex);
            // No frame is ever sent there: only that there is one counts.
            let mac = Some(Mac([2, 0, 0, 0, 0, 0]));
            supposed.facts.paths.entry(ip).or_insert(Path {
                ifindex,
                gateway: None,
                local: false,
                mac,
                failed: false,
            });
        }
        let up = Health::new(Verdict::Up, SystemTime::UNIX_EPOCH);
        supposed.health.insert(id.clone(), up);
        supposed.new.insert(id);
    }
    supposed
}

/// What will become of traffic when the data plane goes from `installed` to `desired`, a line each. `new` are servers
/// that were supposed to be up.
#[must_use]
pub fn predict(
    installed: &Installed,
    desired: &DesiredState,
    census: &FlowCensus,
    new: &BTreeSet<RipId>,
) -> Vec<String> {
    let plan = plan::plan(desired, installed);
    let before = Scene::of(installed);
    let mut after = before.clone();
    for step in &plan.steps {
        after.apply(&step.op);
    }
    let change = Change { before, after, census, new };
    let ids: BTreeSet<u16> =
        change.before.services.keys().chain(change.after.services.keys()).copied().collect();
    let mut lines: Vec<String> = plan.problems.iter().map(|(vip, text)| format!("{vip}: {text}")).collect();
    for id in ids {
        lines.extend(change.service(id));
    }
    lines
}

/// Share of places that lead elsewhere, for a service that picks by hash before and after; `None` for all others.
#[must_use]
pub fn moved(before: (&Service, &TableSpec), after: (&Service, &TableSpec)) -> Option<f64> {
    let by_hash = [pick::HASH_FLOW, pick::HASH_CLIENT].contains(&after.0.pick);
    if !by_hash || before.0.pick != after.0.pick {
        return None;
    }
    let (was, is) = (places(before.1)?, places(after.1)?);
    let differ = was.slots.iter().zip(&is.slots).filter(|(was, is)| was != is).count();
    Some(differ as f64 / TABLE_SLOTS as f64)
}

/// The table of a service that picks by hash; `None` when nobody stands in it.
fn places(spec: &TableSpec) -> Option<Box<Table>> {
    let mut filled = table::blank();
    table::fill(&mut filled, spec);
    (filled.len > 0).then_some(filled)
}

/// Share of new connections by slot.
fn shares(record: &Service, table: &TableSpec) -> BTreeMap<u16, f64> {
    if record.pick == pick::FIRST {
        return table.entrants.first().map(|e| (e.slot, 1.0)).into_iter().collect();
    }
    let mut counts = BTreeMap::<u16, u32>::new();
    if [pick::HASH_FLOW, pick::HASH_CLIENT].contains(&record.pick) {
        for &slot in places(table).iter().flat_map(|places| places.slots.iter()) {
            *counts.entry(slot).or_default() += 1;
        }
    } else {
        counts.extend(table.entrants.iter().map(|e| (e.slot, u32::from(e.weight))));
    }
    let total: u32 = counts.values().sum();
    counts.into_iter().map(|(slot, count)| (slot, f64::from(count) / f64::from(total.max(1)))).collect()
}

/// What of the data plane's tables decides about traffic.
#[derive(Clone)]
struct Scene {
    services: BTreeMap<u16, (ServiceIdentity, Service)>,
    backends: BTreeMap<u16, (BackendIdentity, Backend)>,
    tables: BTreeMap<u16, TableSpec>,
    keys: BTreeMap<ServiceKey, u16>,
}

impl Scene {
    fn of(installed: &Installed) -> Self {
        Self {
            services: installed.services.clone(),
            backends: installed.backends.clone(),
            tables: installed.tables.clone(),
            keys: installed.keys.clone(),
        }
    }

    fn apply(&mut self, op: &Op) {
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "all else decides nothing about who gets a packet"
        )]
        match op {
            Op::ClearBackend { slot } => _ = self.backends.remove(slot),
            Op::ClearService { service } => {
                self.services.remove(service);
                self.tables.remove(service);
            }
            Op::PutBackend { slot, identity, backend } => {
                self.backends.insert(*slot, (identity.clone(), *backend));
            }
            Op::PutKey { key, service } => _ = self.keys.insert(*key, *service),
            Op::PutService { service, identity, record } => {
                self.services.insert(*service, (identity.clone(), *record));
            }
            Op::PutTable { service, table } => _ = self.tables.insert(*service, table.clone()),
            Op::RemoveKey { key } => _ = self.keys.remove(key),
            _ => {}
        }
    }

    /// True while packets of a service's flows are looked at: its address has a key, of whichever service.
    fn has_address_of(&self, id: u16, before: &Self) -> bool {
        let ips = |scene: &Self| scene.keys.keys().map(|key| key.ip).collect::<BTreeSet<_>>();
        let mut its = before.keys.iter().filter(|&(_, &service)| service == id).map(|(key, _)| key.ip);
        let here = ips(self);
        its.all(|ip| here.contains(&ip))
    }

    fn live(&self, slot: u16) -> Option<u16> {
        let (_, record) = self.backends.get(&slot)?;
        (record.state == state::LIVE).then_some(record.generation)
    }

    fn servers(&self, id: u16) -> impl Iterator<Item = (u16, &str)> {
        let its = self.backends.iter().filter(move |(_, (who, _))| who.service == id);
        its.map(|(&slot, (who, _))| (slot, who.name.as_str()))
    }
}

struct Change<'a> {
    before: Scene,
    after: Scene,
    census: &'a FlowCensus,
    new: &'a BTreeSet<RipId>,
}

impl Change<'_> {
    fn service(&self, id: u16) -> Vec<String> {
        match (self.before.services.get(&id), self.after.services.get(&id)) {
            (None, None) => Vec::new(),
            (None, Some((identity, record))) => {
                let name = &identity.name;
                let taken = match self.after.tables.get(&id) {
                    Some(table) if !table.entrants.is_empty() => self.placing(name, record, table),
                    _ => without_server(record).to_owned(),
                };
                vec![format!("{name} appears: {taken}")]
            }
            (Some((identity, _)), None) => {
                vec![format!("{} disappears: {} end", identity.name, connections(self.connections(id)))]
            }
            (Some((was, old)), Some((is, record))) => {
                let mut lines = Vec::new();
                if was.name != is.name {
                    lines.push(format!("is now called {}: its connections go on", is.name));
                }
                lines.extend(self.ends(id, old, record));
                lines.extend(self.placed_anew(id, old, is, record));
                lines.into_iter().map(|line| format!("{}: {line}", was.name)).collect()
            }
        }
    }

    /// What becomes of the connections that there are.
    fn ends(&self, id: u16, old: &Service, record: &Service) -> Vec<String> {
        let mut lines = Vec::new();
        if old.mode != record.mode {
            let change = format!("{} -> {}", mode_name(old.mode), mode_name(record.mode));
            if record.mode == mode::DR {
                // Servers' packets are not looked at any more, and go back with addresses that no client knows.
                return vec![format!("{change}: {} end", connections(self.connections(id)))];
            }
            lines.push(format!("{change}: connections that there are stay as they are"));
        }
        if !self.after.has_address_of(id, &self.before) {
            return vec![format!("its address changes: {} end", connections(self.connections(id)))];
        }
        for (slot, name) in self.before.servers(id) {
            let Some(generation) = self.before.live(slot) else { continue };
            if self.after.live(slot) != Some(generation) {
                lines.push(format!("{} with {name} end", connections(self.on(slot))));
            }
        }
        lines
    }

    /// Who gets new connections.
    fn placed_anew(&self, id: u16, old: &Service, is: &ServiceIdentity, record: &Service) -> Vec<String> {
        // What stands in the table of a service that is there may not be known yet, after a restart.
        let (Some(was), Some(table)) = (self.before.tables.get(&id), self.after.tables.get(&id)) else {
            return Vec::new();
        };
        if was == table && old.pick == record.pick {
            return Vec::new();
        }
        if table.entrants.is_empty() {
            return vec![without_server(record).to_owned()];
        }
        let mut lines = Vec::new();
        let placing = self.differences(&is.name, &shares(old, was), &shares(record, table));
        if !placing.is_empty() {
            lines.push(format!("new connections: {placing}"));
        }
        if let Some(moved) = moved((old, was), (record, table)) {
            let scheduler = if record.pick == pick::HASH_FLOW { "maglev" } else { "source-hash" };
            lines.push(format!("{scheduler}: {} of clients move", percent(moved)));
        } else if old.pick != record.pick {
            lines.push("another scheduler: every new connection is placed anew".to_owned());
        }
        if record.persist_prefix > 0 && !lines.is_empty() {
            lines.push("clients that persistence knows stay with their server while it is up".to_owned());
        }
        lines
    }

    fn placing(&self, vip: &str, record: &Service, table: &TableSpec) -> String {
        let shares = shares(record, table);
        let each = shares.iter().map(|(&slot, &share)| {
            let name = self.name(slot);
            format!("{name} {}{}", percent(share), self.condition(vip, name))
        });
        format!("new connections: {}", each.collect::<Vec<_>>().join(", "))
    }

    fn differences(&self, vip: &str, was: &BTreeMap<u16, f64>, is: &BTreeMap<u16, f64>) -> String {
        let slots: BTreeSet<u16> = was.keys().chain(is.keys()).copied().collect();
        let each = slots.into_iter().filter_map(|slot| {
            let name = self.name(slot);
            match (was.get(&slot), is.get(&slot)) {
                (Some(&was), Some(&is)) => {
                    let (was, is) = (percent(was), percent(is));
                    (was != is).then(|| format!("{name} {was} -> {is}"))
                }
                (Some(&was), None) => Some(format!("{name} gets none (had {})", percent(was))),
                (None, Some(&is)) => {
                    Some(format!("{name} joins with {}{}", percent(is), self.condition(vip, name)))
                }
                (None, None) => None,
            }
        });
        each.collect::<Vec<_>>().join(", ")
    }

    fn condition(&self, vip: &str, rip: &str) -> &'static str {
        let id = RipId { vip: vip.to_owned(), rip: rip.to_owned() };
        if self.new.contains(&id) { " once its check passes" } else { "" }
    }

    fn name(&self, slot: u16) -> &str {
        let who = self.after.backends.get(&slot).or_else(|| self.before.backends.get(&slot));
        who.map_or("?", |(identity, _)| identity.name.as_str())
    }

    fn on(&self, slot: u16) -> u64 {
        self.census.active_by_slot.get(&slot).copied().unwrap_or(0)
    }

    fn connections(&self, id: u16) -> u64 {
        self.before.servers(id).map(|(slot, _)| self.on(slot)).sum()
    }
}

const fn without_server(record: &Service) -> &'static str {
    match record.no_server {
        no_server::DROP => "no server takes new connections: they are dropped",
        _ => "no server takes new connections: they are refused",
    }
}

const fn mode_name(mode: u8) -> &'static str {
    match mode {
        mode::NAT => "l4-nat",
        mode::SNAT => "l4-snat",
        _ => "l4-dr",
    }
}

fn connections(count: u64) -> String {
    format!("{count} connection{}", if count == 1 { "" } else { "s" })
}

/// `33.3 %`; what is more than nothing is never shown as nothing, nor what is less than all as all.
fn percent(share: f64) -> String {
    let tenths = (share * 1000.0).round();
    let shown = if share > 0.0 && share < 1.0 { tenths.clamp(1.0, 999.0) } else { tenths };
    format!("{:.1} %", shown / 10.0)
}

#[cfg(test)]
mod tests;
