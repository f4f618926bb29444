//! The device under test: the real object, loaded with maps of its own, never attached and never pinned.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use aya::{
    Ebpf, EbpfLoader, TestRun as _, TestRunOptions,
    maps::{Array, ArrayOfMaps, DevMap, HashMap, MapData},
    programs::Xdp,
};
use lb_common::{
    backend::{Backend, LinkRecord, Target, state},
    flow::WAYS,
    limits::{self, FILTER_WORDS, map},
    load::{Limits, Load},
    maglev::{self, Entrant, Walk},
    net::{Mac, addr4, addr6, mapped, wire_port, words},
    persist::TwinKey,
    service::{
        Service, ServiceKey4, ServiceKey6, ServiceRef, Sources, Table, filter_bit4, filter_bit6,
        filter_source_bit4, filter_source_bit6, filter_word,
    },
};
use zerocopy::FromZeros as _;

/// The object that the build script made.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lb.o"));

/// `XDP_*` return codes (linux/bpf.h).
pub const XDP_DROP: u32 = 1;
/// See [`XDP_DROP`].
pub const XDP_PASS: u32 = 2;
/// See [`XDP_DROP`].
pub const XDP_TX: u32 = 3;
/// See [`XDP_DROP`].
pub const XDP_REDIRECT: u32 = 4;

/// Interface that a test run pretends frames come in by: `lo`, which is 1 in every network namespace.
pub const INGRESS: u32 = 1;
/// An interface index that the device map leads to `lo`, for frames that leave by another interface.
pub const OTHER: u32 = 2;

/// Sizes and constants to load with.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Room for established IPv4 flows; a power of two.
    pub flows_v4: u32,
    /// Room for established IPv6 flows; a power of two.
    pub flows_v6: u32,
    /// Room for half-open flows of each family; a power of two.
    pub half_open: u32,
    /// Seed of the flow hash.
    pub seed: u64,
    /// 63 stops the clock at tick 0, so that runs repeat exactly; time then passes by [`Dut::age`].
    pub tick_shift: u32,
    /// Ticks that a fragmented datagram is remembered.
    pub fragment_ticks: u32,
    /// Ticks that a client is remembered before it has proved itself.
    pub persist_new_ticks: u32,
    /// Ticks without a heartbeat after which there is no controller.
    pub unattended_ticks: u32,
    /// Room for persistence entries.
    pub persist: u32,
    /// Bytes of the event ring; a power of two, at least a page.
    pub event_bytes: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            flows_v4: 4096,
            flows_v6: 4096,
            half_open: 1024,
            seed: 0x5eed,
            tick_shift: 63,
            fragment_ticks: 240,
            persist_new_ticks: 80,
            unattended_ticks: 120,
            persist: 1024,
            event_bytes: limits::EVENT_BYTES,
        }
    }
}

/// The loaded program and its maps.
pub struct Dut {
    pub(super) ebpf: Ebpf,
    /// What it was loaded with.
    pub options: Options,
    filter: BTreeMap<IpAddr, u32>,
    servers: BTreeMap<u16, IpAddr>,
}

/// What a run gave.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Ran {
    /// `XDP_*`.
    pub verdict: u32,
    /// The frame as the program left it.
    pub frame: Vec<u8>,
}

impl Ran {
    /// True if both say the same. What a dropped frame looks like is nobody's business.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        self.verdict == other.verdict && (self.verdict == XDP_DROP || self.frame == other.frame)
    }
}

/// The program, for as many threads as want to run it.
#[derive(Clone, Copy)]
pub struct Runner<'a>(&'a Xdp);

impl Runner<'_> {
    /// Runs one frame, leaves it in `out` as the program left it, and returns the verdict.
    ///
    /// # Panics
    ///
    /// When the kernel refuses to: a frame is at least an Ethernet header long.
    pub fn run(&self, frame: &[u8], out: &mut Vec<u8>) -> u32 {
        out.resize(frame.len() + 64, 0);
        let result = self
            .0
            .test_run(TestRunOptions { data_in: Some(frame), data_out: Some(out), ..TestRunOptions::new() })
            .unwrap_or_else(|e| panic!("test run of {} bytes: {e}", frame.len()));
        out.truncate(result.data_size_out as usize);
        result.return_value
    }
}

impl Dut {
    /// Loads the object.
    ///
    /// # Panics
    ///
    /// When the kernel refuses it; the verifier's log is in the message.
    #[must_use]
    pub fn load(options: Options) -> Self {
        let mask = |flows: u32| flows / WAYS as u32 - 1;
        let ebpf = EbpfLoader::new()
            .override_global("FLOW_SEED", &options.seed, true)
            .override_global("TICK_SHIFT", &options.tick_shift, true)
            .override_global("FRAGMENT_TICKS", &options.fragment_ticks, true)
            .override_global("PERSIST_NEW_TICKS", &options.persist_new_ticks, true)
            .override_global("UNATTENDED_TICKS", &options.unattended_ticks, true)
            .override_global("BUCKET_MASK_V4", &mask(options.flows_v4), true)
            .override_global("BUCKET_MASK_V6", &mask(options.flows_v6), true)
            .override_global("BUCKET_MASK_HALF_V4", &mask(options.half_open), true)
            .override_global("BUCKET_MASK_HALF_V6", &mask(options.half_open), true)
            .map_max_entries(map::FLOWS_V4, options.flows_v4 / WAYS as u32)
            .map_max_entries(map::FLOWS_V6, options.flows_v6 / WAYS as u32)
            .map_max_entries(map::HALF_OPEN_V4, options.half_open / WAYS as u32)
            .map_max_entries(map::HALF_OPEN_V6, options.half_open / WAYS as u32)
            .map_max_entries(map::PERSIST, options.persist)
            .map_max_entries(map::EVENTS, options.event_bytes)
            .load(OBJECT)
            .unwrap_or_else(|e| panic!("the object does not load: {e:#?}"));
        let mut dut = Self { ebpf, options, filter: BTreeMap::new(), servers: BTreeMap::new() };
        dut.program().load().unwrap_or_else(|e| panic!("the verifier refuses the program: {e:#?}"));
        let mut devices: DevMap<&mut MapData> = dut.ebpf.map_mut(map::DEVICES).unwrap().try_into().unwrap();
        devices.set(OTHER, 1, None, 0).unwrap();
        dut
    }

    /// Lets frames leave by an interface of this thread's network namespace.
    pub fn allow(&mut self, ifindex: u32) {
        let mut devices: DevMap<&mut MapData> = self.ebpf.map_mut(map::DEVICES).unwrap().try_into().unwrap();
        devices.set(ifindex, ifindex, None, 0).unwrap();
    }

    /// The program.
    pub fn program(&mut self) -> &mut Xdp {
        self.ebpf.program_mut(limits::PROGRAM).unwrap().try_into().unwrap()
    }

    /// What runs frames. It may be copied to other threads: runs happen at the same time, each on its thread's CPU.
    #[must_use]
    pub fn runner(&self) -> Runner<'_> {
        Runner(self.ebpf.program(limits::PROGRAM).unwrap().try_into().unwrap())
    }

    /// Runs one frame.
    pub fn run(&self, frame: &[u8]) -> Ran {
        let mut out = Vec::new();
        let verdict = self.runner().run(frame, &mut out);
        Ran { verdict, frame: out }
    }

    pub(crate) fn array<T: aya::Pod>(&mut self, name: &str) -> Array<&mut MapData, T> {
        self.ebpf.map_mut(name).unwrap().try_into().unwrap()
    }

    pub(super) fn read<T: aya::Pod>(&self, name: &str) -> Array<&MapData, T> {
        self.ebpf.map(name).unwrap().try_into().unwrap()
    }

    /// Writes a backend's record.
    pub fn set_backend(&mut self, slot: u16, backend: Backend) {
        self.array(map::BACKENDS).set(u32::from(slot), backend, 0).unwrap();
    }

    /// Reads a backend's record.
    pub fn backend(&mut self, slot: u16) -> Backend {
        self.array(map::BACKENDS).get(&u32::from(slot), 0).unwrap()
    }

    /// Writes a service's record.
    pub fn set_service(&mut self, service: u16, record: Service) {
        self.array(map::SERVICES).set(u32::from(service), record, 0).unwrap();
    }

    /// Says where NAT and SNAT send the flows of a slot, and marks the address as a server's.
    pub fn set_target(&mut self, slot: u16, server: SocketAddr) {
        let target = Target { addr: words(server.ip()), port: wire_port(server.port()), pad: [0; 3] };
        self.array(map::TARGETS).set(u32::from(slot), target, 0).unwrap();
        self.servers.insert(slot, server.ip());
        self.write_filter();
    }

    /// Says what a server takes. What it has stays.
    pub fn set_limits(&mut self, slot: u16, limits: Limits) {
        let load = Load { limits: limits.word(), ..self.load_of(slot) };
        self.array(map::LOADS).set(u32::from(slot), load, 0).unwrap();
    }

    /// How busy a server is.
    #[must_use]
    pub fn load_of(&self, slot: u16) -> Load {
        self.read(map::LOADS).get(&u32::from(slot), 0).unwrap()
    }

    /// The slot that a server, known by its slot, has in a service; or none.
    pub fn set_twin(&mut self, slot: u16, service: u16, twin: Option<u16>) {
        let (key, mut twins) = (TwinKey { slot, service }, self.hash::<TwinKey, u32>(map::TWINS));
        match twin {
            Some(twin) => twins.insert(key, u32::from(twin), 0).unwrap(),
            None if twins.get(&key, 0).is_ok() => twins.remove(&key).unwrap(),
            None => {}
        }
    }

    /// The controller is alive.
    pub fn beat(&mut self) {
        self.array(map::HEARTBEAT).set(0, 0u64, 0).unwrap();
    }

    /// Writes a service's source addresses and ports.
    pub fn set_sources(&mut self, service: u16, sources: Sources) {
        self.array(map::SOURCES).set(u32::from(service), sources, 0).unwrap();
    }

    /// Writes an interface's record.
    pub fn set_link(&mut self, ifindex: u32, link: LinkRecord) {
        self.array(map::LINKS).set(ifindex, link, 0).unwrap();
    }

    /// Leads a VIP address, port and protocol to a service, and marks the address as balanced.
    pub fn add_key(&mut self, vip: SocketAddr, proto: u8, service: u16) {
        let value = ServiceRef { service: u32::from(service) };
        match vip.ip() {
            IpAddr::V4(ip) => self.hash::<ServiceKey4, ServiceRef>(map::SERVICE_KEYS_V4).insert(
                ServiceKey4::new(ip, vip.port(), proto),
                value,
                0,
            ),
            IpAddr::V6(ip) => self.hash::<ServiceKey6, ServiceRef>(map::SERVICE_KEYS_V6).insert(
                ServiceKey6::new(ip, vip.port(), proto),
                value,
                0,
            ),
        }
        .unwrap();
        *self.filter.entry(vip.ip()).or_default() += 1;
        self.write_filter();
    }

    /// Undoes [`Self::add_key`].
    pub fn remove_key(&mut self, vip: SocketAddr, proto: u8) {
        match vip.ip() {
            IpAddr::V4(ip) => self
                .hash::<ServiceKey4, ServiceRef>(map::SERVICE_KEYS_V4)
                .remove(&ServiceKey4::new(ip, vip.port(), proto)),
            IpAddr::V6(ip) => self
                .hash::<ServiceKey6, ServiceRef>(map::SERVICE_KEYS_V6)
                .remove(&ServiceKey6::new(ip, vip.port(), proto)),
        }
        .unwrap();
        let users = self.filter.get_mut(&vip.ip()).unwrap();
        *users -= 1;
        if *users == 0 {
            self.filter.remove(&vip.ip());
        }
        self.write_filter();
    }

    fn write_filter(&mut self) {
        let vips = self.filter.keys().map(|ip| match ip {
            IpAddr::V4(ip) => filter_bit4(addr4(*ip)),
            IpAddr::V6(ip) => filter_bit6(addr6(*ip)),
        });
        let servers = self.servers.values().map(|ip| match ip {
            IpAddr::V4(ip) => filter_source_bit4(addr4(*ip)),
            IpAddr::V6(ip) => filter_source_bit6(addr6(*ip)),
        });
        let mut words = [0u64; FILTER_WORDS];
        for (word, mask) in vips.chain(servers).map(filter_word) {
            words[word as usize] |= mask;
        }
        self.array::<[u64; FILTER_WORDS]>(map::FILTER).set(0, words, 0).unwrap();
    }

    pub(super) fn hash<K: aya::Pod, V: aya::Pod>(&mut self, name: &str) -> HashMap<&mut MapData, K, V> {
        self.ebpf.map_mut(name).unwrap().try_into().unwrap()
    }

    /// Replaces a service's look-up table.
    pub fn set_table(&mut self, service: u16, table: &Table) {
        let inner: Array<MapData, Table> = Array::create(1, 0).unwrap();
        let mut inner = inner;
        inner.set(0, *table, 0).unwrap();
        let mut tables: ArrayOfMaps<&mut MapData, Array<MapData, Table>> =
            self.ebpf.map_mut(map::TABLES).unwrap().try_into().unwrap();
        tables.set(u32::from(service), &inner, 0).unwrap();
    }
}

/// A Maglev table of these servers with equal weights.
#[must_use]
pub fn maglev_table(servers: &[(u16, IpAddr)]) -> Box<Table> {
    let mut entrants: Vec<Entrant> = servers
        .iter()
        .map(|&(slot, ip)| Entrant { identity: maglev::identity(&mapped(ip), 0), weight: 100, slot })
        .collect();
    entrants.sort_by_key(|e| e.identity);
    let mut table = Table::new_box_zeroed().unwrap();
    let mut walks = vec![Walk::default(); entrants.len()];
    if maglev::fill_maglev(&mut table.slots, &entrants, &mut walks) {
        table.len = limits::TABLE_SLOTS as u32;
    }
    table.servers = servers.len() as u32;
    for (place, (slot, _)) in table.list.iter_mut().zip(servers) {
        *place = *slot;
    }
    table
}

/// A live backend on the interface frames come in by, with a MAC made of its slot.
#[must_use]
pub fn live_backend(slot: u16) -> Backend {
    let [hi, lo] = slot.to_be_bytes();
    Backend {
        generation: 1,
        state: state::LIVE,
        ifindex: INGRESS,
        dst_mac: Mac([2, 0xbe, 0, 0, hi, lo]),
        src_mac: Mac([2, 0x1b, 0, 0, 0, 1]),
        ..Backend::default()
    }
}
