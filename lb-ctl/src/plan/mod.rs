//! From what the kernel holds to what it should hold: the ordered list of steps. Pure.
//!
//! Ids and slots are given out here, by name, and kept for as long as the name lives. The order is such that at
//! no step a packet meets a half-written service:
//!
//! 1. links are attached, and it is said how replies leave by them;
//! 2. the filter gains addresses;
//! 3. of every VIP: its source addresses, servers that come alive or change their MAC (and those that are dead anyway),
//!    what those of the new table may take, which slots its servers have in other VIPs; then the tables of all VIPs, next
//!    to each other, since the kernel takes many at once for the time of one; then, again of every VIP, what servers
//!    outside the table may take, servers that die (they have left the table by then), the service's record, source
//!    addresses that it needs no more;
//! 4. keys lead to services, keys are removed;
//! 5. servers that no VIP shares any more are forgotten as such, services and servers that nothing leads to are cleared,
//!    the filter loses addresses;
//! 6. links are detached, and nothing leaves by them any more.
//!
//! A slot's generation rises when its server dies and when a free slot is given to another server, and at no
//! other time: flows live through a change of MAC or target port, a drain, and the renaming of a server or VIP.
//!
//! A server that closes does so after the table has changed: were it the only one of the old table, new flows would be
//! refused in between.
//!
//! A VIP may change between direct routing, NAT and SNAT. Flows that there are keep what was decided for them; but
//! the filter follows what is desired, so the answers to NAT and SNAT flows of a VIP that turned to direct routing
//! are no longer seen.
#![forbid(unsafe_code)]

mod shared;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use lb_common::{
    backend::{self, Backend, LinkRecord},
    flow::VOID_GENERATION,
    limits::{MAX_BACKENDS, MAX_SERVICE_KEYS, MAX_SERVICES},
    service::{Service, Sources, flags, mode},
};

use self::shared::Shared;
use crate::{
    dataplane::{BackendIdentity, Filling, Installed, Op, ServiceIdentity, TableEntrant, TableSpec},
    model::desired::{DesiredBackend, DesiredService, DesiredState},
};

/// What to do, and what cannot be done.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Plan {
    /// Steps in order. Empty = the kernel holds what it should (or what it can).
    pub steps: Vec<Step>,
    /// By VIP name: what of it does not fit, with the cure. Other VIPs are not affected.
    pub problems: BTreeMap<String, String>,
}

/// One step.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Step {
    /// VIP that the step is for. When a step fails, the VIP's later steps are not safe to take.
    pub vip: Option<String>,
    /// What to do.
    pub op: Op,
}

/// Makes the plan.
#[must_use]
pub fn plan(desired: &DesiredState, installed: &Installed) -> Plan {
    let mut plan = Plan::default();
    for &ifindex in desired.links.iter().filter(|i| !installed.links.contains_key(i)) {
        plan.push(None, Op::AttachLink { ifindex });
    }
    for (&ifindex, &record) in &desired.link_records {
        if installed.link_records.get(&ifindex) != Some(&record) {
            plan.push(None, Op::PutLink { ifindex, record });
        }
    }
    let ids = service_ids(desired, installed, &mut plan.problems);
    let filter = Filter::of(desired, &ids);
    let widened = filter.widened(desired, installed, &ids);
    if installed.filter.as_ref() != Some(&widened.0) {
        plan.push(None, widened.op());
    }
    let mut slots = Slots::new(installed);
    let mut kept_slots = BTreeSet::new();
    let mut placed = BTreeMap::new();
    for (name, &id) in &ids {
        let service = &desired.services[*name];
        let there = slots.place(id, service);
        if there.len() < service.backends.len() {
            plan.problems.insert(
                (*name).to_owned(),
                format!(
                    "{} of {} real servers have no slot: at most {MAX_BACKENDS} real servers fit, counted once per VIP; remove VIPs or servers",
                    service.backends.len() - there.len(),
                    service.backends.len(),
                ),
            );
        }
        kept_slots.extend(there.values().map(|p| p.slot));
        placed.insert(*name, there);
    }
    let shared = Shared::of(desired, &ids, &placed, &mut plan.problems);
    let mut phases = Phases::default();
    for (name, there) in &placed {
        plan_service(name, &desired.services[*name], ids[name], there, &shared, installed, &mut phases);
    }
    plan.steps.extend(phases.before.into_iter().chain(phases.tables).chain(phases.after));
    plan_keys(desired, installed, &ids, &mut plan);
    for (slot, service) in shared.ended(installed) {
        plan.push(owner(service, installed, &ids), Op::RemoveTwin { slot, service });
    }
    plan_clearing(installed, &ids, &kept_slots, &mut plan);
    if widened != filter {
        plan.push(None, filter.op());
    }
    for &ifindex in installed.links.keys().filter(|i| !desired.links.contains(i)) {
        plan.push(None, Op::DetachLink { ifindex });
    }
    for &ifindex in installed.link_records.keys().filter(|i| !desired.link_records.contains_key(i)) {
        plan.push(None, Op::PutLink { ifindex, record: LinkRecord::default() });
    }
    plan
}

impl Plan {
    fn push(&mut self, vip: Option<&str>, op: Op) {
        self.steps.push(Step::new(vip, op));
    }
}

impl Step {
    fn new(vip: Option<&str>, op: Op) -> Self {
        Self { vip: vip.map(str::to_owned), op }
    }
}

/// Steps of services, before their tables change and after.
#[derive(Default)]
struct Phases {
    before: Vec<Step>,
    tables: Vec<Step>,
    after: Vec<Step>,
}

/// Ids of the desired services: the one that already has the name, else (a renamed VIP) one that holds a key of
/// it and whose name is gone, else a free one.
fn service_ids<'a>(
    desired: &'a DesiredState,
    installed: &Installed,
    problems: &mut BTreeMap<String, String>,
) -> BTreeMap<&'a str, u16> {
    let mut ids = BTreeMap::new();
    for (&id, (identity, _)) in &installed.services {
        if let Some((name, _)) = desired.services.get_key_value(&identity.name) {
            ids.entry(name.as_str()).or_insert(id);
        }
    }
    let mut taken: BTreeSet<u16> = ids.values().copied().collect();
    for (name, service) in &desired.services {
        if ids.contains_key(name.as_str()) {
            continue;
        }
        let heir = service.keys.iter().find_map(|key| {
            installed.keys.get(key).filter(|&id| installed.services.contains_key(id) && !taken.contains(id))
        });
        if let Some(&id) = heir {
            taken.insert(id);
            ids.insert(name, id);
        }
    }
    taken.extend(installed.services.keys());
    taken.extend(installed.keys.values());
    taken.extend(installed.backends.values().map(|(who, _)| who.service));
    taken.extend(installed.twins.keys().map(|(_, service)| service));
    let mut free = (0..MAX_SERVICES as u16).filter(|id| !taken.contains(id));
    let mut room = Room::new(desired, &ids);
    for (name, service) in &desired.services {
        if ids.contains_key(name.as_str()) {
            continue;
        }
        if !room.take(service) {
            let text = format!(
                "at most {MAX_SERVICE_KEYS} ports of each address family fit, counted over all VIPs: remove VIPs or ports"
            );
            problems.insert(name.clone(), text);
            continue;
        }
        if let Some(id) = free.next() {
            ids.insert(name, id);
        } else {
            let text = format!("at most {MAX_SERVICES} VIPs fit: remove one first");
            problems.insert(name.clone(), text);
        }
    }
    ids
}

/// Room for keys: IPv4, IPv6. VIPs that are already installed go before new ones.
struct Room([usize; 2]);

impl Room {
    fn new(desired: &DesiredState, ids: &BTreeMap<&str, u16>) -> Self {
        let mut room = Self([MAX_SERVICE_KEYS as usize; 2]);
        for name in ids.keys() {
            let [v4, v6] = Self::need(&desired.services[*name]);
            room.0 = [room.0[0].saturating_sub(v4), room.0[1].saturating_sub(v6)];
        }
        room
    }

    fn need(service: &DesiredService) -> [usize; 2] {
        let v4 = service.keys.iter().filter(|k| k.ip.is_ipv4()).count();
        [v4, service.keys.len() - v4]
    }

    fn take(&mut self, service: &DesiredService) -> bool {
        let [v4, v6] = Self::need(service);
        if v4 > self.0[0] || v6 > self.0[1] {
            return false;
        }
        self.0 = [self.0[0] - v4, self.0[1] - v6];
        true
    }
}

/// Where a server stands.
struct Placed<'a> {
    slot: u16,
    current: Option<&'a (BackendIdentity, Backend)>,
    /// Generation of the record to write when the server does not die by it.
    generation: u16,
}

/// Slots as they are given out.
struct Slots<'a> {
    installed: &'a Installed,
    /// By service id, address and port: a server is known by these, so that it can be renamed.
    by_address: BTreeMap<(u16, IpAddr, Option<u16>), u16>,
    free: Box<dyn Iterator<Item = u16> + 'a>,
}

impl<'a> Slots<'a> {
    fn new(installed: &'a Installed) -> Self {
        let mut by_address = BTreeMap::new();
        for (&slot, (who, _)) in &installed.backends {
            by_address.entry((who.service, who.ip, who.port)).or_insert(slot);
        }
        // A slot that still leads somewhere as a former server's would lead there as another's.
        let twins: BTreeSet<u16> =
            installed.twins.iter().flat_map(|((slot, _), twin)| [*slot, *twin]).collect();
        let is_free = move |slot: &u16| !installed.backends.contains_key(slot) && !twins.contains(slot);
        Self { installed, by_address, free: Box::new((0..MAX_BACKENDS as u16).filter(is_free)) }
    }

    /// A slot for each server, as far as they go.
    fn place<'s>(&mut self, id: u16, service: &'s DesiredService) -> BTreeMap<&'s str, Placed<'a>> {
        let mut placed = BTreeMap::new();
        // Those that are there as they should be go first: a server whose port was changed takes what they leave.
        let known: BTreeMap<&str, u16> = service
            .backends
            .iter()
            .filter_map(|(name, b)| Some((name.as_str(), self.by_address.remove(&(id, b.ip, b.port))?)))
            .collect();
        for (name, backend) in &service.backends {
            let known = known.get(name.as_str()).copied().or_else(|| self.take_at(id, backend));
            let Some(slot) = known.or_else(|| self.free.next()) else {
                continue;
            };
            let current = self.installed.backends.get(&slot);
            let generation = current.map_or_else(
                || next_generation(self.installed.generations.get(&slot).copied().unwrap_or(0)),
                |(_, record)| record.generation,
            );
            placed.insert(name.as_str(), Placed { slot, current, generation });
        }
        placed
    }
}

impl Slots<'_> {
    /// The slot of a server that has another port now.
    fn take_at(&mut self, id: u16, backend: &DesiredBackend) -> Option<u16> {
        let all_ports = (id, backend.ip, None)..=(id, backend.ip, Some(u16::MAX));
        let key = *self.by_address.range(all_ports).next()?.0;
        self.by_address.remove(&key)
    }
}

/// Never 0, which says that a slot was never used, nor the generation of flows that were ended.
const fn next_generation(generation: u16) -> u16 {
    match generation.wrapping_add(1) {
        0 | VOID_GENERATION => 1,
        next => next,
    }
}

fn plan_service(
    name: &str,
    service: &DesiredService,
    id: u16,
    placed: &BTreeMap<&str, Placed<'_>>,
    shared: &Shared<'_>,
    installed: &Installed,
    phases: &mut Phases,
) {
    let step = |op| Step::new(Some(name), op);
    let identity = ServiceIdentity { name: name.to_owned(), idle_timeout_secs: service.idle_timeout_secs };
    let record = shared.record(name, id, service);
    let current = installed.services.get(&id);
    let sources = service.sources;
    let mut put_sources = (installed.sources.get(&id).copied().unwrap_or_default() != sources)
        .then_some(Op::PutSources { service: id, sources });
    // A service has its sources before it takes flows by them, and keeps them until it takes none.
    if sources != Sources::default()
        && let Some(op) = put_sources.take()
    {
        phases.before.push(step(op));
    }
    // Any table can be walked by round robin, but only a table filled for it can be picked from by hash. So a
    // service that turns to round robin changes its record first, one that turns to hashing its table first. An empty
    // table suits any record: it goes before the record when SNAT loses its last source, and after when it had none.
    let had_no_source = installed.lacks_sources(id);
    let mut known = current.cloned();
    if let Some((who, before)) = current {
        let early = (service.filling == Filling::RoundRobin || had_no_source) && !service.entrants.is_empty();
        let (who, base) = if early { (&identity, record) } else { (who, *before) };
        // It stops sharing its persistence at once, and begins to when it knows all that is shared.
        let sharing = if record.flags & flags::SHARED == 0 { record } else { *before };
        let flags = base.flags & !flags::SHARED | sharing.flags & flags::SHARED;
        let first = (who.clone(), Service { flags, persist_group: sharing.persist_group, ..base });
        if known.as_ref() != Some(&first) {
            let (identity, record) = first.clone();
            phases.before.push(step(Op::PutService { service: id, identity, record }));
            known = Some(first);
        }
    }

    let enters: BTreeSet<&str> = service.entrants.iter().map(|e| e.name.as_str()).collect();
    let (mut rising, mut dying) = (Vec::new(), Vec::new());
    let (mut opening, mut closing) = (Vec::new(), Vec::new());
    for (rip, at) in placed {
        let backend = &service.backends[*rip];
        if installed.loads.get(&at.slot).copied().unwrap_or_default() != backend.limits {
            let op = Op::PutLoad { slot: at.slot, limits: backend.limits };
            if enters.contains(rip) { &mut opening } else { &mut closing }.push(op);
        }
        let was_live = at.current.is_some_and(|(_, r)| r.state == backend::state::LIVE);
        let record = match (backend.forward, at.current) {
            (Some(forward), _) => forward.live(at.generation),
            (None, Some((_, record))) if !was_live => *record,
            (None, _) => Backend {
                generation: if was_live { next_generation(at.generation) } else { at.generation },
                state: backend::state::DEAD,
                ..Backend::default()
            },
        };
        let identity =
            BackendIdentity { service: id, name: (*rip).to_owned(), ip: backend.ip, port: backend.port };
        if at.current.is_some_and(|(i, r)| *i == identity && *r == record) {
            continue;
        }
        let op = Op::PutBackend { slot: at.slot, identity, backend: record };
        let dies = was_live && backend.forward.is_none();
        if dies { &mut dying } else { &mut rising }.push(op);
    }
    let entrants = service.entrants.iter().filter_map(|e| {
        Some(TableEntrant {
            slot: placed.get(e.name.as_str())?.slot,
            weight: e.weight,
            ip: service.backends[&e.name].ip,
            port: service.backends[&e.name].port,
        })
    });
    let table = TableSpec { filling: service.filling, entrants: entrants.collect() };
    let put_table =
        (installed.tables.get(&id) != Some(&table)).then_some(Op::PutTable { service: id, table });
    let now = (identity, record);
    let put_service = (known.as_ref() != Some(&now)).then(|| {
        let (identity, record) = now;
        Op::PutService { service: id, identity, record }
    });
    let before_table = rising.into_iter().chain(opening).chain(shared.begun(id, installed));
    let after_table = closing.into_iter().chain(dying).chain(put_service).chain(put_sources);
    phases.before.extend(before_table.map(step));
    phases.tables.extend(put_table.map(step));
    phases.after.extend(after_table.map(step));
}

/// Addresses that the packet path looks for: those that have keys, and servers whose packets come through here.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Filter((BTreeSet<IpAddr>, BTreeSet<IpAddr>));

impl Filter {
    fn of(desired: &DesiredState, ids: &BTreeMap<&str, u16>) -> Self {
        let services = || ids.keys().map(|name| &desired.services[*name]);
        let routed = services().filter(|s| s.record.mode != mode::DR);
        Self((
            services().flat_map(|s| s.keys.iter().map(|k| k.ip)).collect(),
            routed.flat_map(|s| s.backends.values().map(|b| b.ip)).collect(),
        ))
    }

    /// This one, with what is set now (after a restart: the least that must be), and with all servers that a service
    /// has before or after, if it is a NAT or SNAT one before or after.
    fn widened(&self, desired: &DesiredState, installed: &Installed, ids: &BTreeMap<&str, u16>) -> Self {
        let (mut addresses, mut servers) = self.0.clone();
        match &installed.filter {
            Some((set, seen)) => {
                addresses.extend(set);
                servers.extend(seen);
            }
            None => addresses.extend(installed.keys.keys().map(|k| k.ip)),
        }
        servers.extend(installed.routed_servers());
        for (name, id) in ids {
            let service = &desired.services[*name];
            let was_routed = installed.services.get(id).is_some_and(|(_, record)| record.mode != mode::DR);
            if was_routed {
                servers.extend(service.backends.values().map(|b| b.ip));
            }
            if service.record.mode != mode::DR {
                let there = installed.backends.values().filter(|(who, _)| who.service == *id);
                servers.extend(there.map(|(who, _)| who.ip));
            }
        }
        Self((addresses, servers))
    }

    fn op(&self) -> Op {
        let (addresses, servers) = self.0.clone();
        Op::SetFilter { addresses, servers }
    }
}

fn plan_keys(desired: &DesiredState, installed: &Installed, ids: &BTreeMap<&str, u16>, plan: &mut Plan) {
    let mut keys = BTreeMap::new();
    for (name, &id) in ids {
        for &key in &desired.services[*name].keys {
            keys.insert(key, (*name, id));
        }
    }
    for (&key, &(name, id)) in &keys {
        if installed.keys.get(&key) != Some(&id) {
            plan.push(Some(name), Op::PutKey { key, service: id });
        }
    }
    for (&key, id) in installed.keys.iter().filter(|(key, _)| !keys.contains_key(key)) {
        plan.push(owner(*id, installed, ids), Op::RemoveKey { key });
    }
}

/// Services and servers that nothing leads to any more.
fn plan_clearing(
    installed: &Installed,
    ids: &BTreeMap<&str, u16>,
    kept_slots: &BTreeSet<u16>,
    plan: &mut Plan,
) {
    let kept: BTreeSet<u16> = ids.values().copied().collect();
    for &service in installed.services.keys().filter(|id| !kept.contains(id)) {
        plan.push(owner(service, installed, ids), Op::ClearService { service });
    }
    for (&slot, (who, _)) in installed.backends.iter().filter(|(slot, _)| !kept_slots.contains(slot)) {
        plan.push(owner(who.service, installed, ids), Op::ClearBackend { slot });
    }
}

/// VIP that an installed id stands for: by its new name, if it has one.
fn owner<'a>(id: u16, installed: &'a Installed, ids: &BTreeMap<&'a str, u16>) -> Option<&'a str> {
    let renamed = ids.iter().find(|&(_, &i)| i == id).map(|(name, _)| *name);
    renamed.or_else(|| installed.services.get(&id).map(|(identity, _)| identity.name.as_str()))
}

#[cfg(test)]
mod tests;
