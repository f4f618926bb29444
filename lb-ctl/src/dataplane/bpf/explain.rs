//! The program on a copy of its tables: loaded a second time, with maps of its own that are pinned nowhere.
//!
//! Ids and slots are those of the tables in use, so what comes out needs no translation. Tables in use are opened for
//! reading alone; flow tables are looked at through the writer's mapping.
#![forbid(unsafe_code)]

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error as StdError,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use aya::{
    Ebpf, Pod, TestRun as _, TestRunOptions,
    maps::{Array, ArrayOfMaps, DevMap, HashMap, Map, MapData, MapError, PerCpuArray},
};
use lb_common::{
    backend::{Backend, LinkRecord, Target, state},
    counter::{BackendTraffic, Reason, ServiceTraffic},
    flow::{Ends, Hop},
    limits::{FILTER_WORDS, FLOWS_RANGE, MAX_IFINDEX, PROGRAM, map},
    load::{self, Limits, Load},
    net::Mac,
    persist::{NEW_SECS, PersistEntry, PersistKey, TwinKey},
    service::{Service, ServiceKey4, ServiceKey6, ServiceRef, Sources, Table, flags},
    settings::Settings,
};
use lb_ebpf::life::idle;
use tokio::sync::watch;
use zerocopy::IntoBytes as _;

use super::{
    Error, fail, fault,
    flows::FlowTables,
    is_absent,
    open::{load, xdp},
    pins::PinDir,
    read::{InUse, values},
    sys::open_read_only,
    write::{inner_map, proto},
};
use crate::{
    dataplane::{
        Installed, ServiceKey,
        explain::{Explainer, Occupancy, Probe, Rehearsal, Remembered, Sent, Verdict},
        table,
    },
    model::config::Protocol,
    reset::frame::{ACK, Datagram, SYN, Segment, Way},
};

/// Loopback, which a frame comes in by when nothing else is known. It is 1 in every network namespace.
const LOOPBACK: u32 = 1;
/// A router that nobody has (a locally administered address): where a client's packets seem to come from.
const SOME_ROUTER: Mac = Mac([2, 0, 0, 0, 0, 1]);
/// Ports tried for a client whose port was not given.
const PORTS: std::ops::Range<u16> = 49_152..49_408;
/// Room that a frame has to grow: two VLAN tags, or the headers of an ICMP error.
const GROWTH: usize = 128;

/// Asks a copy of the program. Made by the writer.
pub(super) struct BpfExplainer {
    pin_dir: PinDir,
    settings: Settings,
    flows: Arc<FlowTables>,
    in_use: watch::Receiver<InUse>,
}

impl BpfExplainer {
    pub(super) const fn new(
        pin_dir: PinDir,
        settings: Settings,
        flows: Arc<FlowTables>,
        in_use: watch::Receiver<InUse>,
    ) -> Self {
        Self { pin_dir, settings, flows, in_use }
    }

    fn now(&self) -> u32 {
        self.in_use.borrow().clock.now()
    }

    /// A map in use, for reading alone.
    fn live<T: TryFrom<Map, Error = MapError>>(&self, name: &str) -> Result<T, Error> {
        let path = self.pin_dir.path.join(name);
        let unreadable = || format!("map {} cannot be opened for reading", path.display());
        let fd = open_read_only(&path).map_err(|e| fault(unreadable(), e))?;
        MapData::from_fd(fd)
            .and_then(Map::from_map_data)
            .and_then(T::try_from)
            .map_err(|e| fault(unreadable(), e))
    }

    /// The client's port, or one that none of its flows to this VIP has.
    fn client(&self, probe: &Probe) -> Result<SocketAddr, Error> {
        if probe.client.port() != 0 {
            return Ok(probe.client);
        }
        let free = PORTS
            .map(|port| SocketAddr::new(probe.client.ip(), port))
            .find(|client| self.flows.single(&ends(*client, &probe.to), 0, 0).is_none());
        free.ok_or_else(|| {
            fail(format!(
                "client {} has connections from ports {} to {} already: name the port that you mean, ADDRESS:PORT",
                probe.client.ip(),
                PORTS.start,
                PORTS.end - 1
            ))
        })
    }
}

impl Explainer for BpfExplainer {
    fn rehearse(&self, probe: &Probe, installed: &Installed) -> Result<Rehearsal, Error> {
        let client = self.client(probe)?;
        let ends = ends(client, &probe.to);
        let now = self.now();
        let (flow, hop) = self
            .flows
            .single(&ends, now, self.settings.tick_nanos())
            .map_or((None, None), |single| (Some(single.flow), single.hop));
        let ingress = hop.map(|hop| u32::from(hop.ifindex)).or(probe.ingress).unwrap_or(LOOPBACK);

        let mut stage = Stage::new(self)?;
        stage.copy_whole()?;
        let mut set = Set { links: [ingress].into(), ..Set::default() };
        if let Some(id) = stage.copy_keys(&probe.to)? {
            let record = stage.copy_service(id, installed)?;
            stage.copy_backends(id, installed, &mut set)?;
            set.persisted = stage.copy_persistence(id, &record, &ends, &set.loads, now)?;
            set.service = Some((id, record));
        }
        stage.copy_links(&set.links)?;
        if flow.is_some() && !stage.flows.adopt(&self.flows, &ends) {
            return Err(fail(format!(
                "the connection of {client} changed while it was looked at: ask again"
            )));
        }

        let our_mac = installed.link_records.get(&ingress).map_or(Mac::default(), |link| link.mac);
        let way =
            hop.map_or_else(|| Way { ifindex: ingress, ..unknown_way(our_mac) }, |hop| way_of(&hop, our_mac));
        let (sent, frame) = match (probe.to.protocol, &flow) {
            (Protocol::Udp, _) => (Sent::Datagram, Datagram { way, ends }.frame()),
            (Protocol::Tcp, Some(_)) => (Sent::Ack, segment(way, ends, ACK)),
            (Protocol::Tcp, None) => (Sent::Syn, segment(way, ends, SYN)),
        };
        let (verdict, frame) = stage.run(&frame, ingress)?;
        Ok(Rehearsal {
            client,
            ingress,
            sent,
            verdict,
            frame,
            reasons: stage.reasons()?,
            slot: stage.forwarded_to(set.loads.keys())?,
            service: set.service,
            flow,
            persisted: set.persisted,
            loads: set.loads,
        })
    }
}

/// What was copied, as far as it is told.
#[derive(Default)]
struct Set {
    /// Interfaces that packets may come or leave by.
    links: BTreeSet<u32>,
    service: Option<(u16, Service)>,
    loads: BTreeMap<u16, Occupancy>,
    persisted: Option<Remembered>,
}

/// The copy.
struct Stage<'l> {
    ebpf: Ebpf,
    flows: FlowTables,
    live: &'l BpfExplainer,
}

impl<'l> Stage<'l> {
    /// Program and empty tables, with the constants of those in use.
    fn new(live: &'l BpfExplainer) -> Result<Self, Error> {
        let settings = Settings { flows: [*FLOWS_RANGE.start(); 3], ..live.settings };
        let mut ebpf = load(&settings, None)?;
        let flows = FlowTables::map(&settings, |name| match ebpf.take_map(name) {
            Some(Map::Array(data)) => Ok(data),
            _ => Err(fail(format!("this build's BPF object has no array `{name}`: build it and lbd again"))),
        })?;
        Ok(Self { ebpf, flows, live })
    }

    fn map<'s, T: TryFrom<&'s mut Map, Error = MapError>>(&'s mut self, name: &str) -> Result<T, Error> {
        let map = self.ebpf.map_mut(name).ok_or_else(|| {
            fail(format!("this build's BPF object has no map `{name}`: build it and lbd again"))
        })?;
        T::try_from(map).map_err(|e| fault(format!("map `{name}` is not what it should be"), e))
    }

    /// Copies entries of an array, and gives them.
    fn copy_entries<V: Pod>(
        &mut self,
        name: &str,
        indexes: impl IntoIterator<Item = u32>,
    ) -> Result<Vec<V>, Error> {
        let from: Array<MapData, V> = self.live.live(name)?;
        let mut to: Array<&mut MapData, V> = self.map(name)?;
        let copy = |index| {
            let value = from.get(&index, 0)?;
            to.set(index, value, 0)?;
            Ok(value)
        };
        indexes.into_iter().map(copy).collect::<Result<_, MapError>>().map_err(|e| not_copied(name, e))
    }

    /// The one entry of an array with one, or that of a service.
    fn copy_entry<V: Pod>(&mut self, name: &str, index: u32) -> Result<Option<V>, Error> {
        Ok(self.copy_entries(name, [index])?.pop())
    }

    /// Copies an entry of a hash, and gives it if it is there.
    fn copy_key<K: Pod, V: Pod>(&mut self, name: &str, key: &K) -> Result<Option<V>, Error> {
        let from: HashMap<MapData, K, V> = self.live.live(name)?;
        let value = match from.get(key, 0) {
            Ok(value) => value,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(not_copied(name, error)),
        };
        let mut to: HashMap<&mut MapData, K, V> = self.map(name)?;
        to.insert(key, value, 0).map_err(|e| not_copied(name, e))?;
        Ok(Some(value))
    }

    /// What every packet is asked about.
    fn copy_whole(&mut self) -> Result<(), Error> {
        self.copy_entries::<[u64; FILTER_WORDS]>(map::FILTER, [0])?;
        self.copy_entries::<u64>(map::HEARTBEAT, [0])?;
        Ok(())
    }

    /// The service that packets to this key get; of a port's own key and that of every port the first counts.
    fn copy_keys(&mut self, to: &ServiceKey) -> Result<Option<u16>, Error> {
        let proto = proto(to.protocol);
        for port in [to.port, 0] {
            let found: Option<ServiceRef> = match to.ip {
                IpAddr::V4(ip) => self.copy_key(map::SERVICE_KEYS_V4, &ServiceKey4::new(ip, port, proto))?,
                IpAddr::V6(ip) => self.copy_key(map::SERVICE_KEYS_V6, &ServiceKey6::new(ip, port, proto))?,
            };
            if let Some(found) = found {
                return u16::try_from(found.service)
                    .map(Some)
                    .map_err(|e| fault(format!("service {} is out of range", found.service), e));
            }
        }
        Ok(None)
    }

    /// A service's record, sources, look-up table, and whose turn it is.
    fn copy_service(&mut self, id: u16, installed: &Installed) -> Result<Service, Error> {
        let index = u32::from(id);
        let not_yet = || fail(format!("service {id} is being changed: ask again"));
        let record = self.copy_entry::<Service>(map::SERVICES, index)?.ok_or_else(not_yet)?;
        self.copy_entries::<Sources>(map::SOURCES, [index])?;
        let from: PerCpuArray<MapData, ServiceTraffic> = self.live.live(map::SERVICE_TRAFFIC)?;
        let turns = values(&from, map::SERVICE_TRAFFIC, index)?;
        let mut to: PerCpuArray<&mut MapData, ServiceTraffic> = self.map(map::SERVICE_TRAFFIC)?;
        to.set(index, turns, 0).map_err(|e| not_copied(map::SERVICE_TRAFFIC, e))?;
        // The kernel tells nobody without CAP_SYS_ADMIN what stands in a map of maps.
        let spec = installed.tables.get(&id).ok_or_else(not_yet)?;
        let mut filled = table::blank();
        table::fill(&mut filled, spec);
        let inner = inner_map(&filled)?;
        let mut tables: ArrayOfMaps<&mut MapData, Array<MapData, Table>> = self.map(map::TABLES)?;
        tables.set(index, &inner, 0).map_err(|e| not_copied(map::TABLES, e))?;
        Ok(record)
    }

    /// The backends of a service and how busy they are.
    fn copy_backends(&mut self, id: u16, installed: &Installed, set: &mut Set) -> Result<(), Error> {
        let of_service = installed.backends.iter().filter(|(_, (who, _))| who.service == id);
        let slots: Vec<u16> = of_service.map(|(&slot, _)| slot).collect();
        let indexes = || slots.iter().map(|&slot| u32::from(slot));
        let backends = self.copy_entries::<Backend>(map::BACKENDS, indexes())?;
        self.copy_entries::<Target>(map::TARGETS, indexes())?;
        let loads = self.copy_entries::<Load>(map::LOADS, indexes())?;
        set.links.extend(backends.iter().filter(|b| b.state == state::LIVE).map(|b| b.ifindex));
        let occupancies = backends.iter().zip(loads).map(|(backend, load)| occupancy(backend, load));
        set.loads = slots.iter().copied().zip(occupancies).collect();
        Ok(())
    }

    /// The client's persistence entry, and what says whether it counts.
    fn copy_persistence(
        &mut self,
        id: u16,
        record: &Service,
        ends: &Ends,
        loads: &BTreeMap<u16, Occupancy>,
        now: u32,
    ) -> Result<Option<Remembered>, Error> {
        if record.persist_prefix == 0 {
            return Ok(None);
        }
        let key = PersistKey::new(record.persist_group, record.persist_prefix, ends.src, ends.family);
        let millis = |ticks: u32| u64::from(ticks) * self.live.settings.tick_nanos() / 1_000_000;
        let mut found: Option<Remembered> = None;
        for (name, proved) in [(map::PERSIST, true), (map::PERSIST_NEW, false)] {
            let Some(entry) = self.copy_key::<_, PersistEntry>(name, &key)? else { continue };
            let named = self.copy_entry::<Backend>(map::BACKENDS, u32::from(entry.slot))?.unwrap_or_default();
            let slot = if record.flags & flags::SHARED == 0 {
                Some(entry.slot)
            } else {
                let twin: Option<u32> =
                    self.copy_key(map::TWINS, &TwinKey { slot: entry.slot, service: id })?;
                twin.and_then(|slot| u16::try_from(slot).ok())
            };
            let age = idle(now, entry.last_seen);
            let ticks = if proved { record.persist_ticks } else { self.live.settings.ticks(NEW_SECS) };
            let its = slot.and_then(|slot| loads.get(&slot));
            let counts = age < ticks
                && named.state == state::LIVE
                && named.generation == entry.generation
                && its.is_some_and(|its| its.live && its.limits.flags & load::flags::CLOSED == 0);
            let entry =
                Remembered { slot, counts, proved, idle_millis: millis(age), timeout_millis: millis(ticks) };
            // The first that counts does, else the first is told.
            found = found.filter(|first| first.counts || !counts).or(Some(entry));
        }
        Ok(found)
    }

    /// How replies leave by interfaces, and whether frames may.
    fn copy_links(&mut self, links: &BTreeSet<u32>) -> Result<(), Error> {
        let known = || links.iter().copied().filter(|&ifindex| ifindex < MAX_IFINDEX);
        self.copy_entries::<LinkRecord>(map::LINKS, known())?;
        let from: DevMap<MapData> = self.live.live(map::DEVICES)?;
        let mut to: DevMap<&mut MapData> = self.map(map::DEVICES)?;
        for ifindex in known() {
            match from.get(ifindex, 0) {
                Ok(device) => {
                    to.set(ifindex, device.if_index, None, 0).map_err(|e| not_copied(map::DEVICES, e))?
                }
                Err(error) if is_absent(&error) => {}
                Err(error) => return Err(not_copied(map::DEVICES, error)),
            }
        }
        Ok(())
    }

    /// Runs a frame that comes in by an interface. Gives the verdict, and the frame as it is then.
    fn run(&mut self, frame: &[u8], ingress: u32) -> Result<(Verdict, Vec<u8>), Error> {
        let mut left = vec![0; frame.len() + GROWTH];
        // `struct xdp_md` (linux/bpf.h): data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let context = [0, frame.len() as u32, 0, ingress, 0, 0];
        let run = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut left),
            ctx_in: Some(context.as_bytes()),
            ..TestRunOptions::new()
        };
        let ran = xdp(&mut self.ebpf, PROGRAM)?.test_run(run).map_err(|e| {
            fault(format!("a packet cannot be tried out as if it came by interface {ingress}"), e)
        })?;
        left.truncate(ran.data_size_out as usize);
        // `enum xdp_action` (linux/bpf.h).
        let verdict = match ran.return_value {
            1 => Verdict::Drop,
            2 => Verdict::Pass,
            3 => Verdict::Transmit,
            4 => Verdict::Redirect,
            other => {
                return Err(fail(format!(
                    "the program gave verdict {other}, which it never does: report this"
                )));
            }
        };
        Ok((verdict, left))
    }

    fn reasons(&mut self) -> Result<Vec<Reason>, Error> {
        let counters: PerCpuArray<&mut MapData, u64> = self.map(map::REASONS)?;
        let mut counted = Vec::new();
        for &reason in Reason::ALL {
            let cpus = counters.get(&(reason as u32), 0).map_err(|e| not_copied(map::REASONS, e))?;
            if cpus.iter().any(|&count| count > 0) {
                counted.push(reason);
            }
        }
        Ok(counted)
    }

    /// The slot whose backend got the packet.
    fn forwarded_to<'s>(&mut self, slots: impl Iterator<Item = &'s u16>) -> Result<Option<u16>, Error> {
        let counters: PerCpuArray<&mut MapData, BackendTraffic> = self.map(map::BACKEND_TRAFFIC)?;
        for &slot in slots {
            let cpus = counters.get(&u32::from(slot), 0).map_err(|e| not_copied(map::BACKEND_TRAFFIC, e))?;
            if cpus.iter().any(|count| count.packets > 0) {
                return Ok(Some(slot));
            }
        }
        Ok(None)
    }
}

const fn occupancy(backend: &Backend, load: Load) -> Occupancy {
    let Load { active, limits, full, .. } = load;
    Occupancy { active, full: full != 0, limits: Limits::of(limits), live: backend.state == state::LIVE }
}

const fn ends(client: SocketAddr, to: &ServiceKey) -> Ends {
    Ends::between(client, SocketAddr::new(to.ip, to.port), proto(to.protocol))
}

/// The way that a flow's packets come.
fn way_of(hop: &Hop, our_mac: Mac) -> Way {
    let way = Way::by_hop(hop, our_mac);
    Way { dst_mac: way.src_mac, src_mac: way.dst_mac, ..way }
}

/// The way that a packet comes of which nothing is known.
const fn unknown_way(our_mac: Mac) -> Way {
    Way {
        ifindex: LOOPBACK,
        dst_mac: our_mac,
        src_mac: SOME_ROUTER,
        vlan: [0; 2],
        vlan_depth: 0,
        outer_tpid: 0,
    }
}

fn segment(way: Way, ends: Ends, flags: u8) -> Vec<u8> {
    Segment { way, ends, seq: 1, ack: u32::from(flags & ACK != 0), flags }.frame()
}

fn not_copied(name: &str, error: impl StdError + Send + Sync + 'static) -> Error {
    fault(format!("map `{name}` cannot be copied"), error)
}
