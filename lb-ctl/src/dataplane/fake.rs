//! The data plane in memory: a twin of the kernel's tables that checks, at every step, what a packet would meet.
//! For tests of everything above the border, and only for that.
#![forbid(unsafe_code)]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use lb_common::{
    backend::{LinkRecord, state},
    counter::Reason,
    event::Event,
    flow::VOID_GENERATION,
    load::{Limits, flags::CLOSED},
    net::{host_port, ip4, ip6, words},
    persist::PersistKey,
    service::{Sources, flags, mode, pick},
    settings::Settings,
};

use super::{
    Counters, Error, Flow, FlowCensus, FlowFilter, Installed, Killed, MAX_KILLED_PAIRS, Op, PairedFlow,
    Pairs, PersistFilter, Persisted, Reader, TableSpec, Writer, XdpMode,
    explain::{Explainer, Probe, Rehearsal},
};

/// What "the kernel" holds, shared by all handles.
#[derive(Debug, Default)]
struct Kernel {
    installed: Installed,
    tables: BTreeMap<u16, TableSpec>,
    filter: (BTreeSet<IpAddr>, BTreeSet<IpAddr>),
    /// Slot and generation whose flows must never count again.
    retired: BTreeSet<(u16, u16)>,
    ops: Vec<Op>,
    fail_at: Option<usize>,
    refused_links: BTreeSet<u32>,
    flows: Vec<Flow>,
    pairs: Vec<PairedFlow>,
    persistence: Vec<Persisted>,
    removed: bool,
}

/// A handle to the kernel in memory; clones see the same kernel.
#[derive(Clone, Debug, Default)]
pub struct Fake {
    kernel: Arc<Mutex<Kernel>>,
}

/// The writing half.
#[derive(Debug)]
pub struct FakeWriter {
    fake: Fake,
    installed: Installed,
}

/// The reading half.
#[derive(Debug)]
pub struct FakeReader {
    fake: Fake,
}

impl Fake {
    /// Both halves, as after the start of a controller: filter bits and tables cannot be read back.
    #[must_use]
    pub fn open(&self) -> (FakeWriter, FakeReader) {
        let installed = {
            let mut kernel = self.lock();
            kernel.installed.filter = None;
            kernel.installed.tables.clear();
            kernel.installed.clone()
        };
        let writer = FakeWriter { fake: self.clone(), installed };
        (writer, FakeReader { fake: self.clone() })
    }

    /// Makes the n-th op from now fail (0 = the next one).
    pub fn fail_at(&self, n: usize) {
        self.lock().fail_at = Some(n);
    }

    /// Makes the program refuse this link, until allowed again with `false`.
    pub fn refuse_link(&self, ifindex: u32, refuse: bool) {
        let mut kernel = self.lock();
        if refuse {
            kernel.refused_links.insert(ifindex);
        } else {
            kernel.refused_links.remove(&ifindex);
        }
    }

    /// Takes the program off a link, as somebody else would: the writer is not told.
    pub fn take_off(&self, ifindex: u32) {
        self.lock().installed.links.remove(&ifindex);
    }

    /// Puts flows into the tables.
    pub fn set_flows(&self, flows: Vec<Flow>) {
        self.lock().flows = flows;
    }

    /// Puts pairs of NAT and SNAT into the tables.
    pub fn set_pairs(&self, pairs: Vec<PairedFlow>) {
        self.lock().pairs = pairs;
    }

    /// Puts persistence entries into the tables.
    pub fn set_persistence(&self, entries: Vec<Persisted>) {
        self.lock().persistence = entries;
    }

    /// Ops applied so far; the list starts anew.
    #[must_use]
    pub fn take_ops(&self) -> Vec<Op> {
        std::mem::take(&mut self.lock().ops)
    }

    /// What the kernel holds.
    #[must_use]
    pub fn installed(&self) -> Installed {
        self.lock().installed.clone()
    }

    /// True after [`Writer::remove_all`].
    #[must_use]
    pub fn removed(&self) -> bool {
        self.lock().removed
    }

    /// What a packet relies on: every key leads to a service with a record and a table whose servers are live
    /// and belong to it, and every key's address is in the filter; so are all servers of NAT and SNAT services, and
    /// SNAT services whose table has servers have a source address. A server of a table takes flows: it is not closed, and
    /// has a weight where that is asked for. A service that shares its persistence knows its own servers, and every
    /// server that it is said to have.
    ///
    /// # Errors
    ///
    /// Names the first thing that does not hold.
    pub fn check_invariants(&self) -> Result<(), String> {
        let kernel = self.lock();
        for (key, id) in &kernel.installed.keys {
            let table = kernel.tables.get(id);
            if !kernel.installed.services.contains_key(id) {
                return Err(format!("{key:?} leads to service {id}, which has no record"));
            }
            let Some(table) = table else {
                return Err(format!("{key:?} leads to service {id}, which has no table"));
            };
            for entrant in &table.entrants {
                match kernel.installed.backends.get(&entrant.slot) {
                    Some((who, record)) if who.service == *id && record.state == state::LIVE => {}
                    other => {
                        return Err(format!("service {id} steers to slot {}: {other:?}", entrant.slot));
                    }
                }
            }
            if !kernel.filter.0.contains(&key.ip) {
                return Err(format!("{key:?} is not in the filter"));
            }
            let (_, record) = &kernel.installed.services[id];
            let unseen = kernel.installed.backends.values().find(|(who, backend)| {
                let answers = who.service == *id && backend.state == state::LIVE;
                answers && record.mode != mode::DR && !kernel.filter.1.contains(&who.ip)
            });
            if let Some((who, _)) = unseen {
                return Err(format!("answers of {who:?} are not seen"));
            }
            let sources = kernel.installed.sources.get(id).map_or(0, |sources| sources.count);
            if record.mode == mode::SNAT && sources == 0 && !table.entrants.is_empty() {
                return Err(format!("{key:?} leads to service {id}, which has no source address"));
            }
            for entrant in &table.entrants {
                let limits = kernel.installed.loads.get(&entrant.slot).copied().unwrap_or_default();
                if limits.flags & CLOSED != 0 || record.pick == pick::LEAST && limits.weight == 0 {
                    return Err(format!("service {id} steers to slot {}, which takes nothing", entrant.slot));
                }
                let own = kernel.installed.twins.get(&(entrant.slot, *id));
                if record.flags & flags::SHARED != 0 && own != Some(&entrant.slot) {
                    return Err(format!("service {id} does not know its own slot {}: {own:?}", entrant.slot));
                }
            }
        }
        for ((slot, service), twin) in &kernel.installed.twins {
            let owner = kernel.installed.backends.get(twin).map(|(who, _)| who.service);
            if owner != Some(*service) {
                return Err(format!(
                    "slot {slot} leads to slot {twin} in service {service}, but is {owner:?}'s"
                ));
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Kernel> {
        self.kernel.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kernel {
    fn apply(&mut self, op: &Op) -> Result<(), String> {
        let now = &mut self.installed;
        match op {
            Op::AttachLink { ifindex } => {
                if self.refused_links.contains(ifindex) {
                    return Err(format!("link {ifindex} is refused by the test"));
                }
                now.links.insert(*ifindex, XdpMode::Native);
            }
            Op::DetachLink { ifindex } => {
                now.links.remove(ifindex);
            }
            Op::PutBackend { slot, identity, backend } => {
                let key = (*slot, backend.generation);
                if let Some((_, old)) = now.backends.get(slot)
                    && old.state == state::LIVE
                    && (backend.state != state::LIVE || old.generation != backend.generation)
                {
                    self.retired.insert((*slot, old.generation));
                }
                if backend.generation == VOID_GENERATION || self.retired.contains(&key) {
                    return Err(format!("slot {slot} repeats generation {}", backend.generation));
                }
                let known = now.backends.get(slot).map(|(who, _)| (who.service, who.ip));
                if known != Some((identity.service, identity.ip)) {
                    now.loads.remove(slot);
                }
                now.generations.insert(*slot, backend.generation);
                now.backends.insert(*slot, (identity.clone(), *backend));
            }
            Op::ClearBackend { slot } => {
                if let Some((_, old)) = now.backends.remove(slot) {
                    self.retired.insert((*slot, old.generation));
                }
                now.loads.remove(slot);
            }
            Op::PutService { service, identity, record } => {
                now.services.insert(*service, (identity.clone(), *record));
            }
            Op::ClearService { service } => {
                now.services.remove(service);
                now.sources.remove(service);
                now.tables.remove(service);
                self.tables.remove(service);
            }
            Op::PutTable { service, table } => {
                now.tables.insert(*service, table.clone());
                self.tables.insert(*service, table.clone());
            }
            Op::PutKey { key, service } => {
                now.keys.insert(*key, *service);
            }
            Op::RemoveKey { key } => {
                now.keys.remove(key);
            }
            Op::PutLink { ifindex, record } => {
                now.link_records.insert(*ifindex, *record);
                now.link_records.retain(|_, record| *record != LinkRecord::default());
            }
            Op::PutLoad { slot, limits } => {
                now.loads.insert(*slot, *limits);
                now.loads.retain(|_, limits| *limits != Limits::default());
            }
            Op::PutTwin { slot, service, twin } => {
                now.twins.insert((*slot, *service), *twin);
            }
            Op::RemoveTwin { slot, service } => {
                now.twins.remove(&(*slot, *service));
            }
            Op::PutSources { service, sources } => {
                now.sources.insert(*service, *sources);
                now.sources.retain(|_, sources| *sources != Sources::default());
            }
            Op::SetFilter { addresses, servers } => {
                now.filter = Some((addresses.clone(), servers.clone()));
                self.filter = (addresses.clone(), servers.clone());
            }
        }
        Ok(())
    }
}

impl Writer for FakeWriter {
    fn apply(&mut self, op: &Op) -> Result<(), Error> {
        let mut kernel = self.fake.lock();
        let failing = match &mut kernel.fail_at {
            Some(0) => {
                kernel.fail_at = None;
                true
            }
            Some(n) => {
                *n -= 1;
                false
            }
            None => false,
        };
        let result =
            if failing { Err(format!("{op:?} fails by order of the test")) } else { kernel.apply(op) };
        result.map_err(|text| Error { text, source: None })?;
        kernel.ops.push(op.clone());
        self.installed = kernel.installed.clone();
        Ok(())
    }

    fn installed(&self) -> &Installed {
        &self.installed
    }

    fn lost_links(&mut self) -> Result<BTreeSet<u32>, Error> {
        let running = self.fake.lock().installed.links.clone();
        let lost: BTreeSet<u32> =
            self.installed.links.keys().filter(|i| !running.contains_key(i)).copied().collect();
        self.installed.links.retain(|i, _| !lost.contains(i));
        Ok(lost)
    }

    fn settings(&self) -> Settings {
        Settings {
            abi_version: lb_common::ABI_VERSION,
            hz: 250,
            flow_seed: 0,
            flows: [1024; 3],
            tick_shift: lb_common::settings::tick_shift(250),
        }
    }

    fn sweep(&mut self) -> Result<FlowCensus, Error> {
        let mut kernel = self.fake.lock();
        let before = kernel.flows.len();
        let backends = kernel.installed.backends.clone();
        kernel.flows.retain(|flow| {
            backends
                .get(&flow.slot)
                .is_some_and(|(_, b)| b.state == state::LIVE && b.generation == flow.generation)
        });
        let mut census = FlowCensus {
            established_v4: kernel.flows.iter().filter(|f| f.vip.0.is_ipv4()).count() as u64,
            retired: (before - kernel.flows.len()) as u64,
            capacity: [1024; 3],
            ..FlowCensus::default()
        };
        for entry in &kernel.persistence {
            *census.persistent_by_slot.entry(entry.slot).or_default() += 1;
        }
        census.established_v6 = kernel.flows.len() as u64 - census.established_v4;
        for flow in &kernel.flows {
            let closing = flow.state == lb_common::flow::State::Closing;
            let by_slot = if closing { &mut census.closing_by_slot } else { &mut census.active_by_slot };
            *by_slot.entry(flow.slot).or_default() += 1;
            if flow.source.is_some_and(|source| source != flow.client) {
                *census.sources_in_use.entry(flow.service).or_default() += 1;
            }
        }
        Ok(census)
    }

    fn explainer(&self) -> Arc<dyn Explainer> {
        Arc::new(self.fake.clone())
    }

    fn kill(&mut self, which: &FlowFilter) -> Result<Killed, Error> {
        let mut kernel = self.fake.lock();
        let before = kernel.flows.len();
        kernel.flows.retain(|flow| !which.holds(flow.service, flow.slot, flow.client));
        let flows = (before - kernel.flows.len()) as u64;
        let service_of = |slot| kernel.installed.backends.get(&slot).map(|(who, _)| who.service);
        let killed = kernel.pairs.iter().filter(|pair| {
            let ends = &pair.client;
            let ip = if ends.family == 4 { ip4(ends.src[0] as u32).into() } else { ip6(ends.src).into() };
            service_of(pair.slot)
                .is_some_and(|service| which.holds(service, pair.slot, (ip, host_port(ends.src_port()))))
        });
        Ok(Killed { flows, pairs: killed.take(MAX_KILLED_PAIRS).copied().collect() })
    }

    fn clear_persistence(&mut self, which: &PersistFilter) -> Result<u64, Error> {
        let mut kernel = self.fake.lock();
        let (before, prefixes) = (kernel.persistence.len(), kernel.installed.persist_prefixes());
        kernel.persistence.retain(|entry| {
            let family = if entry.client.is_ipv4() { 4 } else { 6 };
            let key = PersistKey { client: words(entry.client), group: entry.group, family };
            !which.holds(&key, entry.slot, &prefixes)
        });
        Ok((before - kernel.persistence.len()) as u64)
    }

    fn pairs(&self) -> Arc<dyn Pairs> {
        Arc::new(self.fake.clone())
    }

    fn remove_all(self: Box<Self>) -> Result<(), Error> {
        let mut kernel = self.fake.lock();
        *kernel = Kernel { removed: true, ..Kernel::default() };
        Ok(())
    }
}

impl Explainer for Fake {
    fn rehearse(&self, probe: &Probe, _: &Installed) -> Result<Rehearsal, Error> {
        let text = format!("{} cannot be tried out: nothing here runs packets", probe.client);
        Err(Error { text, source: None })
    }
}

impl Pairs for Fake {
    fn flows_of(&self, dead: &BTreeSet<(u16, u16)>, limit: usize) -> (Vec<PairedFlow>, u64) {
        let kernel = self.lock();
        let all: Vec<PairedFlow> =
            kernel.pairs.iter().filter(|f| dead.contains(&(f.slot, f.generation))).copied().collect();
        let total = all.len() as u64;
        (all.into_iter().take(limit).collect(), total)
    }

    fn stands(&self, flow: &PairedFlow) -> bool {
        self.lock().pairs.contains(flow)
    }
}

impl Reader for FakeReader {
    fn counters(&mut self) -> Result<Counters, Error> {
        Ok(Counters { reasons: vec![0; Reason::COUNT as usize], ..Counters::default() })
    }

    fn events(&mut self, _limit: usize) -> Vec<Event> {
        Vec::new()
    }

    fn flows(&mut self, limit: usize) -> Result<(Vec<Flow>, u64), Error> {
        let kernel = self.fake.lock();
        let some = kernel.flows.iter().take(limit).copied().collect();
        Ok((some, kernel.flows.len() as u64))
    }

    fn persistence(&mut self, limit: usize) -> Result<(Vec<Persisted>, u64), Error> {
        let kernel = self.fake.lock();
        let some = kernel.persistence.iter().take(limit).copied().collect();
        Ok((some, kernel.persistence.len() as u64))
    }
}
