//! The writer: ops become map entries and links.
#![forbid(unsafe_code)]

use std::{
    collections::BTreeSet,
    io,
    net::IpAddr,
    sync::{Arc, atomic::Ordering::Release},
};

use aya::{
    Ebpf, Pod,
    maps::{Array, ArrayOfMaps, DevMap, HashMap, MapData, MapError, PerCpuArray, PerCpuValues},
    util::nr_cpus,
};
use lb_common::{
    backend::{Backend, BackendInfo, LinkRecord, Target, state},
    counter::{BackendTraffic, ServiceTraffic},
    limits::{FILTER_WORDS, MAX_IFINDEX, MAX_TWINS, PROGRAM, map},
    load::Limits,
    net::{addr4, addr6, mapped, wire_port, words},
    persist::{PersistEntry, PersistKey, TwinKey},
    service::{
        Name, Service, ServiceInfo, ServiceKey4, ServiceKey6, ServiceRef, Sources, Table, filter_bit4,
        filter_bit6, filter_source_bit4, filter_source_bit6, filter_word,
    },
    settings::Settings,
};
use lb_ebpf::flow_table::Word as _;
use tokio::sync::watch;

use super::{
    Error,
    clock::{self, Clock},
    explain::BpfExplainer,
    fail, fault,
    flows::{FlowTables, Watch},
    installed, is_absent, links,
    loads::Loads,
    open::xdp,
    os_errno,
    persistence::{self, Due},
    pins::{self, PinDir},
    read::{self, InUse},
    sweep,
    sys::{SharedMemory, array_of_one, open_writable, update_inner_maps},
};
use crate::{
    dataplane::{
        BackendIdentity, FlowCensus, FlowFilter, Installed, Killed, MAX_KILLED_PAIRS, Op, Pairs,
        PersistFilter, ServiceIdentity, ServiceKey, TableSpec, Writer, XdpMode, explain::Explainer, table,
    },
    model::config::Protocol,
};

/// Maps that the writer writes.
pub(super) struct WriterMaps {
    pub(super) keys_v4: HashMap<MapData, ServiceKey4, ServiceRef>,
    pub(super) keys_v6: HashMap<MapData, ServiceKey6, ServiceRef>,
    pub(super) services: Array<MapData, Service>,
    pub(super) service_info: Array<MapData, ServiceInfo>,
    pub(super) tables: ArrayOfMaps<MapData, Array<MapData, Table>>,
    pub(super) backends: Array<MapData, Backend>,
    pub(super) backend_info: Array<MapData, BackendInfo>,
    pub(super) sources: Array<MapData, Sources>,
    pub(super) targets: Array<MapData, Target>,
    pub(super) links: Array<MapData, LinkRecord>,
    pub(super) persist: HashMap<MapData, PersistKey, PersistEntry>,
    pub(super) persist_new: HashMap<MapData, PersistKey, PersistEntry>,
    pub(super) twins: HashMap<MapData, TwinKey, u32>,
    pub(super) devices: DevMap<MapData>,
    pub(super) service_traffic: PerCpuArray<MapData, ServiceTraffic>,
    pub(super) backend_traffic: PerCpuArray<MapData, BackendTraffic>,
    pub(super) clock: Array<MapData, [u64; 2]>,
}

/// Maps that the writer sees as memory.
pub(super) struct WriterMemory {
    pub(super) filter: SharedMemory,
    pub(super) heartbeat: SharedMemory,
    pub(super) loads: Loads,
}

/// Applies ops to the kernel. Made by [`super::open()`]. Dropping it leaves everything as it is.
pub struct BpfWriter {
    pin_dir: PinDir,
    ebpf: Ebpf,
    program_id: u32,
    settings: Settings,
    maps: WriterMaps,
    flows: Arc<FlowTables>,
    installed: Installed,
    memory: WriterMemory,
    /// Where a look-up table is filled before the kernel gets it: too large for the stack.
    scratch: Box<Table>,
    /// The table of services that have none.
    empty: Array<MapData, Table>,
    watch: Watch,
    in_use: watch::Sender<InUse>,
}

/// Look-up tables replaced by one system call: 8 MiB of them wait to be taken.
const TABLES_AT_ONCE: usize = 64;

impl BpfWriter {
    /// A writer over open maps; reads back what is installed.
    pub(super) fn new(
        pin_dir: PinDir,
        mut ebpf: Ebpf,
        settings: Settings,
        maps: WriterMaps,
        memory: WriterMemory,
        flows: Arc<FlowTables>,
        links: Vec<(u32, XdpMode)>,
    ) -> Result<(Self, watch::Receiver<InUse>), Error> {
        let reading = clock::read(xdp(&mut ebpf, clock::PROGRAM)?, &maps.clock)?;
        let program_id = xdp(&mut ebpf, PROGRAM)?
            .info()
            .map_err(|e| fault("the kernel does not say which id the program has", e))?
            .id();
        let installed = installed::read(&maps, &memory.loads, links)?;
        let (in_use, receiver) = watch::channel(InUse {
            services: installed.services.keys().copied().collect(),
            backends: installed.backends.iter().map(|(slot, (who, _))| (*slot, who.service)).collect(),
            clock: Clock::new(reading, &settings),
        });
        let scratch = table::blank();
        let empty = inner_map(&scratch)?;
        let writer = Self {
            pin_dir,
            ebpf,
            program_id,
            settings,
            memory,
            maps,
            flows,
            installed,
            scratch,
            empty,
            watch: Watch::default(),
            in_use,
        };
        writer.beat();
        Ok((writer, receiver))
    }

    /// Tells the packet path that a controller lives. What time it is, it knows from `in_use`.
    fn beat(&self) {
        if let Some([tick]) = self.memory.heartbeat.atomics::<1>().first() {
            tick.store(u64::from(self.in_use.borrow().clock.now()), Release);
        }
    }

    fn attach_link(&mut self, ifindex: u32) -> Result<(), Error> {
        if self.installed.links.contains_key(&ifindex) {
            if links::is_attached(&self.pin_dir.path, ifindex, self.program_id)? == Some(true) {
                return self.put_device(ifindex);
            }
            // The interface went and came back, or somebody took the program off.
            self.detach_link(ifindex)?;
        }
        let program = xdp(&mut self.ebpf, PROGRAM)?;
        let mode = links::attach(program, &self.pin_dir.path, ifindex)?;
        self.installed.links.insert(ifindex, mode);
        self.put_device(ifindex)
    }

    fn detach_link(&mut self, ifindex: u32) -> Result<(), Error> {
        links::detach(&links::pin_path(&self.pin_dir.path, ifindex))?;
        self.installed.links.remove(&ifindex);
        Ok(())
    }

    /// Makes an interface one that frames can leave by. The kernel forgets it when the interface goes.
    fn put_device(&mut self, ifindex: u32) -> Result<(), Error> {
        if ifindex >= MAX_IFINDEX {
            return Err(fail(format!(
                "interface {} has index {ifindex}, frames can leave by indexes below {MAX_IFINDEX} only: \
                 something makes and removes interfaces all the time; stop it and reboot",
                links::name(ifindex)
            )));
        }
        self.maps.devices.set(ifindex, ifindex, None, 0).map_err(|e| {
            fault(format!("interface {}: frames cannot be sent out of it", links::name(ifindex)), e)
        })
    }

    fn put_link(&mut self, ifindex: u32, record: LinkRecord) -> Result<(), Error> {
        self.maps.links.set(ifindex, record, 0).map_err(|e| {
            let name = links::name(ifindex);
            fault(format!("interface {name}: it cannot be said how replies leave by it"), e)
        })?;
        self.installed.link_records.insert(ifindex, record);
        self.installed.link_records.retain(|_, record| *record != LinkRecord::default());
        Ok(())
    }

    fn put_key(&mut self, key: ServiceKey, service: u16) -> Result<(), Error> {
        let target = ServiceRef { service: u32::from(service) };
        let proto = proto(key.protocol);
        match key.ip {
            IpAddr::V4(ip) => self.maps.keys_v4.insert(ServiceKey4::new(ip, key.port, proto), target, 0),
            IpAddr::V6(ip) => self.maps.keys_v6.insert(ServiceKey6::new(ip, key.port, proto), target, 0),
        }
        .map_err(|e| match os_errno(&e) {
            Some(libc::E2BIG) => fail(format!(
                "{}: no room for another address and port, there are {} already; use fewer ports per VIP",
                describe(&key),
                self.installed.keys.len()
            )),
            _ => fault(format!("{}: cannot be led to service {service}", describe(&key)), e),
        })?;
        self.installed.keys.insert(key, service);
        Ok(())
    }

    fn remove_key(&mut self, key: ServiceKey) -> Result<(), Error> {
        let proto = proto(key.protocol);
        let removed = match key.ip {
            IpAddr::V4(ip) => self.maps.keys_v4.remove(&ServiceKey4::new(ip, key.port, proto)),
            IpAddr::V6(ip) => self.maps.keys_v6.remove(&ServiceKey6::new(ip, key.port, proto)),
        };
        match removed {
            Err(error) if !is_absent(&error) => {
                return Err(fault(format!("{}: cannot be removed", describe(&key)), error));
            }
            Ok(()) | Err(_) => {}
        }
        self.installed.keys.remove(&key);
        Ok(())
    }

    fn put_service(
        &mut self,
        service: u16,
        identity: &ServiceIdentity,
        record: Service,
    ) -> Result<(), Error> {
        let index = u32::from(service);
        let refused = |e| fault(format!("service {service} (`{}`) cannot be written", identity.name), e);
        let info = ServiceInfo {
            name: name("VIP", &identity.name)?,
            idle_timeout_secs: identity.idle_timeout_secs,
            pad: 0,
            departed: self.maps.service_info.get(&index, 0).map_err(refused)?.departed,
        };
        self.maps.service_info.set(index, info, 0).map_err(refused)?;
        self.maps.services.set(index, record, 0).map_err(refused)?;
        self.installed.services.insert(service, (identity.clone(), record));
        self.in_use.send_modify(|known| {
            known.services.insert(service);
        });
        Ok(())
    }

    fn clear_service(&mut self, service: u16) -> Result<(), Error> {
        let index = u32::from(service);
        let refused = |e| fault(format!("service {service} cannot be cleared"), e);
        self.maps.services.set(index, Service::default(), 0).map_err(refused)?;
        self.maps.sources.set(index, Sources::default(), 0).map_err(refused)?;
        self.maps.tables.set(index, &self.empty, 0).map_err(refused)?;
        zero(&mut self.maps.service_traffic, index, ServiceTraffic::default()).map_err(refused)?;
        // The name goes last: until then a restarted controller knows that there is something left to clear.
        self.maps.service_info.set(index, ServiceInfo::default(), 0).map_err(refused)?;
        self.installed.services.remove(&service);
        self.installed.sources.remove(&service);
        self.installed.tables.remove(&service);
        self.in_use.send_modify(|known| {
            known.services.remove(&service);
        });
        Ok(())
    }

    /// The record is longer than a word, and a packet may read it meanwhile. So addresses are counted only when they
    /// stand: those that are in both lists are counted first, then all.
    fn put_sources(&mut self, service: u16, sources: Sources) -> Result<(), Error> {
        let index = u32::from(service);
        let refused = |e| fault(format!("service {service}: its source addresses cannot be written"), e);
        let before = self.installed.sources.get(&service).map_or(0, |sources| sources.count);
        let counted = Sources { count: sources.count.min(before), ..sources };
        self.maps.sources.set(index, counted, 0).map_err(refused)?;
        self.maps.sources.set(index, sources, 0).map_err(refused)?;
        self.installed.sources.insert(service, sources);
        self.installed.sources.retain(|_, sources| *sources != Sources::default());
        Ok(())
    }

    fn put_backend(&mut self, slot: u16, identity: &BackendIdentity, backend: Backend) -> Result<(), Error> {
        let info = BackendInfo {
            name: name("real server", &identity.name)?,
            addr: mapped(identity.ip),
            service: u32::from(identity.service),
            pad: 0,
        };
        let index = u32::from(slot);
        let refused = |e| fault(format!("slot {slot} (`{}`) cannot be written", identity.name), e);
        if backend.ifindex != 0 {
            self.put_device(backend.ifindex)?;
        }
        // A target that changes its port is still the same server.
        let is_new = self
            .installed
            .backends
            .get(&slot)
            .is_none_or(|(known, _)| *known != BackendIdentity { port: known.port, ..identity.clone() });
        if is_new {
            self.keep_counts(slot)?;
            zero(&mut self.maps.backend_traffic, index, BackendTraffic::default()).map_err(refused)?;
            self.maps.backend_info.set(index, info, 0).map_err(refused)?;
        }
        let known = self.installed.backends.get(&slot);
        if known.is_none_or(|(who, _)| (who.service, who.ip) != (identity.service, identity.ip)) {
            self.memory.loads.limit(slot, Limits::default())?;
            self.installed.loads.remove(&slot);
        }
        if self.installed.generations.get(&slot) != Some(&backend.generation) {
            self.memory.loads.start_anew(slot)?;
        }
        let target = Target {
            addr: words(identity.ip),
            port: wire_port(identity.port.unwrap_or(0)),
            ..Target::default()
        };
        self.maps.targets.set(index, target, 0).map_err(refused)?;
        self.maps.backends.set(index, backend, 0).map_err(refused)?;
        self.installed.generations.insert(slot, backend.generation);
        self.installed.backends.insert(slot, (identity.clone(), backend));
        self.in_use.send_modify(|known| {
            known.backends.insert(slot, identity.service);
        });
        Ok(())
    }

    fn clear_backend(&mut self, slot: u16) -> Result<(), Error> {
        let index = u32::from(slot);
        let refused = |e| fault(format!("slot {slot} cannot be cleared"), e);
        self.keep_counts(slot)?;
        zero(&mut self.maps.backend_traffic, index, BackendTraffic::default()).map_err(refused)?;
        let record = Backend {
            // A free slot remembers its generation, so that its next owner does not inherit flows.
            generation: self.installed.generations.get(&slot).copied().unwrap_or(0),
            state: state::DEAD,
            ..Backend::default()
        };
        self.maps.backends.set(index, record, 0).map_err(refused)?;
        self.maps.targets.set(index, Target::default(), 0).map_err(refused)?;
        self.memory.loads.limit(slot, Limits::default())?;
        self.memory.loads.start_anew(slot)?;
        self.maps.backend_info.set(index, BackendInfo::default(), 0).map_err(refused)?;
        self.installed.backends.remove(&slot);
        self.installed.loads.remove(&slot);
        self.in_use.send_modify(|known| {
            known.backends.remove(&slot);
        });
        Ok(())
    }

    /// Adds what a slot's owner forwarded to what its service keeps of backends that are gone.
    fn keep_counts(&mut self, slot: u16) -> Result<(), Error> {
        let Some((owner, _)) = self.installed.backends.get(&slot) else { return Ok(()) };
        if !self.installed.services.contains_key(&owner.service) {
            return Ok(());
        }
        let index = u32::from(owner.service);
        let refused = |e| fault(format!("service {index}: its counters cannot be kept"), e);
        let mut info = self.maps.service_info.get(&index, 0).map_err(refused)?;
        let counts = read::values(&self.maps.backend_traffic, map::BACKEND_TRAFFIC, u32::from(slot))?;
        info.departed = read::total(counts.iter().copied().chain([info.departed]));
        self.maps.service_info.set(index, info, 0).map_err(refused)
    }

    fn put_load(&mut self, slot: u16, limits: Limits) -> Result<(), Error> {
        self.memory.loads.limit(slot, limits)?;
        self.installed.loads.insert(slot, limits);
        self.installed.loads.retain(|_, limits| *limits != Limits::default());
        Ok(())
    }

    fn put_twin(&mut self, slot: u16, service: u16, twin: u16) -> Result<(), Error> {
        self.maps.twins.insert(TwinKey { slot, service }, u32::from(twin), 0).map_err(|e| {
            match os_errno(&e) {
                Some(libc::E2BIG) => fail(format!(
                    "service {service}: no room to share persistence, {MAX_TWINS} pairs of servers are shared already; \
                     use fewer VIPs or servers in persistence groups"
                )),
                _ => fault(format!("service {service}: slot {slot} cannot be led to its slot {twin}"), e),
            }
        })?;
        self.installed.twins.insert((slot, service), twin);
        Ok(())
    }

    fn remove_twin(&mut self, slot: u16, service: u16) -> Result<(), Error> {
        match self.maps.twins.remove(&TwinKey { slot, service }) {
            Err(error) if !is_absent(&error) => {
                return Err(fault(format!("service {service}: slot {slot} cannot be forgotten"), error));
            }
            Ok(()) | Err(_) => {}
        }
        self.installed.twins.remove(&(slot, service));
        Ok(())
    }

    fn put_table(&mut self, service: u16, spec: &TableSpec) -> Result<(), Error> {
        table::fill(&mut self.scratch, spec);
        let full;
        let table = if self.scratch.len == 0 {
            &self.empty
        } else {
            full = inner_map(&self.scratch)?;
            &full
        };
        self.maps
            .tables
            .set(u32::from(service), table, 0)
            .map_err(|e| fault(format!("service {service}: its look-up table cannot be replaced"), e))?;
        self.installed.tables.insert(service, spec.clone());
        Ok(())
    }

    /// Replaces several tables by one system call.
    fn put_at_once(&mut self, tables: &[(u16, &TableSpec)]) -> io::Result<()> {
        let mut inner = Vec::with_capacity(tables.len());
        for (_, spec) in tables {
            table::fill(&mut self.scratch, spec);
            inner.push(array_of_one(&*self.scratch)?);
        }
        let indexes: Vec<u32> = tables.iter().map(|(service, _)| u32::from(*service)).collect();
        let outer = open_writable(&self.pin_dir.path.join(map::TABLES))?;
        update_inner_maps(&outer, &indexes, &inner)?;
        self.installed.tables.extend(tables.iter().map(|&(service, spec)| (service, spec.clone())));
        Ok(())
    }

    fn set_filter(&mut self, addresses: &BTreeSet<IpAddr>, servers: &BTreeSet<IpAddr>) {
        let destinations = addresses.iter().map(|ip| match ip {
            IpAddr::V4(v4) => filter_bit4(addr4(*v4)),
            IpAddr::V6(v6) => filter_bit6(addr6(*v6)),
        });
        let sources = servers.iter().map(|ip| match ip {
            IpAddr::V4(v4) => filter_source_bit4(addr4(*v4)),
            IpAddr::V6(v6) => filter_source_bit6(addr6(*v6)),
        });
        let mut wanted = vec![0u64; FILTER_WORDS];
        for bit in destinations.chain(sources) {
            let (word, mask) = filter_word(bit);
            wanted[word as usize] |= mask;
        }
        let there = self.memory.filter.words::<1>();
        for ([word], wanted) in there.iter().zip(&wanted) {
            word.store(word.load() | wanted);
        }
        for ([word], wanted) in there.iter().zip(wanted) {
            word.store(wanted);
        }
        self.installed.filter = Some((addresses.clone(), servers.clone()));
    }
}

impl Writer for BpfWriter {
    fn apply(&mut self, op: &Op) -> Result<(), Error> {
        match op {
            Op::AttachLink { ifindex } => self.attach_link(*ifindex),
            Op::ClearBackend { slot } => self.clear_backend(*slot),
            Op::ClearService { service } => self.clear_service(*service),
            Op::DetachLink { ifindex } => self.detach_link(*ifindex),
            Op::PutBackend { slot, identity, backend } => self.put_backend(*slot, identity, *backend),
            Op::PutKey { key, service } => self.put_key(*key, *service),
            Op::PutLink { ifindex, record } => self.put_link(*ifindex, *record),
            Op::PutLoad { slot, limits } => self.put_load(*slot, *limits),
            Op::PutService { service, identity, record } => self.put_service(*service, identity, *record),
            Op::PutSources { service, sources } => self.put_sources(*service, *sources),
            Op::PutTable { service, table } => self.put_table(*service, table),
            Op::PutTwin { slot, service, twin } => self.put_twin(*slot, *service, *twin),
            Op::RemoveKey { key } => self.remove_key(*key),
            Op::RemoveTwin { slot, service } => self.remove_twin(*slot, *service),
            Op::SetFilter { addresses, servers } => {
                self.set_filter(addresses, servers);
                Ok(())
            }
        }
    }

    /// The kernel waits for packets that are on their way each time that one table is replaced, some 14 ms. Of many at
    /// once only the last is replaced so: when that is done, no packet reads any of the old ones, whatever a kernel does
    /// about the others.
    fn put_tables(&mut self, tables: &[(u16, &TableSpec)]) -> Vec<Result<(), Error>> {
        let mut done = Vec::with_capacity(tables.len());
        for chunk in tables.chunks(TABLES_AT_ONCE) {
            let first = chunk.len() - 1;
            // What keeps it from being done at once is said of the table that it is done to alone.
            let at_once = first > 1 && self.put_at_once(&chunk[..first]).is_ok();
            if at_once {
                done.extend((0..first).map(|_| Ok(())));
            }
            let rest = if at_once { &chunk[first..] } else { chunk };
            done.extend(rest.iter().map(|(service, spec)| self.put_table(*service, spec)));
        }
        done
    }

    fn installed(&self) -> &Installed {
        &self.installed
    }

    fn lost_links(&mut self) -> Result<BTreeSet<u32>, Error> {
        let known: Vec<u32> = self.installed.links.keys().copied().collect();
        let mut lost = BTreeSet::new();
        for ifindex in known {
            if links::is_attached(&self.pin_dir.path, ifindex, self.program_id)? == Some(false) {
                // What is left of the link would stand in the way of a new one.
                self.detach_link(ifindex)?;
                lost.insert(ifindex);
            }
        }
        Ok(lost)
    }

    fn settings(&self) -> Settings {
        self.settings
    }

    fn sweep(&mut self) -> Result<FlowCensus, Error> {
        let reading = clock::read(xdp(&mut self.ebpf, clock::PROGRAM)?, &self.maps.clock)?;
        let clock = Clock::new(reading, &self.settings);
        self.in_use.send_modify(|known| known.clock = clock);
        self.beat();
        let rules = sweep::rules(&self.installed, &self.settings, clock.now());
        // Flows do not wait for entries that cannot be read.
        let found =
            persistence::look_through(&mut self.maps.persist, &self.installed, &self.settings, &rules);
        let (mut persisted, mut due, blind) = match found {
            Ok((persisted, due)) => (persisted, due, None),
            Err(error) => (persistence::Census::default(), Due::none(), Some(error)),
        };
        let counted = sweep::counted(&self.installed, &self.memory.loads)?;
        let mut census = self.flows.sweep(&rules, &mut self.watch, &mut due);
        sweep::correct(&counted, &census, &self.memory.loads)?;
        if let Some(error) = blind {
            return Err(error);
        }
        persistence::settle(&mut self.maps.persist, &self.installed, &rules, due, &mut persisted)?;
        census.persistent_by_slot = persisted.kept;
        census.retired += persisted.retired;
        census.capacity = self.settings.flows.map(u64::from);
        census.syn_repeats_by_slot = sweep::syn_repeats(&self.installed, &self.memory.loads)?;
        Ok(census)
    }

    fn kill(&mut self, which: &FlowFilter) -> Result<Killed, Error> {
        self.watch.expect_killed();
        Ok(self.flows.kill(which, MAX_KILLED_PAIRS))
    }

    fn clear_persistence(&mut self, which: &PersistFilter) -> Result<u64, Error> {
        let maps = &mut self.maps;
        persistence::clear(&mut maps.persist, &mut maps.persist_new, which, &self.installed)
    }

    fn pairs(&self) -> Arc<dyn Pairs> {
        Arc::<FlowTables>::clone(&self.flows)
    }

    fn explainer(&self) -> Arc<dyn Explainer> {
        let known = self.in_use.subscribe();
        Arc::new(BpfExplainer::new(self.pin_dir.clone(), self.settings, Arc::clone(&self.flows), known))
    }

    fn remove_all(self: Box<Self>) -> Result<(), Error> {
        pins::clear(&self.pin_dir).map(drop)
    }
}

/// A map of one look-up table. The outer map keeps it alive.
pub(super) fn inner_map(table: &Table) -> Result<Array<MapData, Table>, Error> {
    let refused = |e| fault("a look-up table cannot be made", e);
    let mut map = Array::create(1, 0).map_err(refused)?;
    map.set(0, table, 0).map_err(refused)?;
    Ok(map)
}

fn zero<V: Pod>(counters: &mut PerCpuArray<MapData, V>, index: u32, zero: V) -> Result<(), MapError> {
    let cpus = nr_cpus().map_err(|(_, error)| error)?;
    counters.set(index, PerCpuValues::try_from(vec![zero; cpus])?, 0)
}

fn name(kind: &str, text: &str) -> Result<Name, Error> {
    Name::new(text).filter(|_| !text.is_empty()).ok_or_else(|| {
        fail(format!(
            "{kind} name `{text}` does not fit its record: use 1 to {} bytes without NUL",
            lb_common::limits::MAX_NAME
        ))
    })
}

/// IP protocol number.
pub(super) const fn proto(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => libc::IPPROTO_TCP as u8,
        Protocol::Udp => libc::IPPROTO_UDP as u8,
    }
}

fn describe(key: &ServiceKey) -> String {
    format!("{} {}", key.protocol.name(), std::net::SocketAddr::new(key.ip, key.port))
}
