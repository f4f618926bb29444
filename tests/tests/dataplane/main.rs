//! The data plane's border to the kernel: pins, adoption, ops, links, sweeps. Needs root, a kernel with BPF, `ip`
//! and `mount`; every test has a BPF file system, and where it needs one a network namespace, of its own.
#![forbid(unsafe_code)]
#![allow(
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "helpers of tests: what fails here fails the test, and a skipped test must say so"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    os::fd::AsFd as _,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use aya::{
    Pod,
    maps::{Array, ArrayOfMaps, Map, MapData, PerCpuArray, PerCpuValues},
    programs::links::{FdLink, PinnedLink},
    util::nr_cpus,
};
use lb_common::{
    ABI_VERSION,
    backend::{Backend, LinkRecord, Target, state},
    counter::{BackendTraffic, Reason, ServiceTraffic},
    limits::{FILTER_WORDS, TABLE_SLOTS, map},
    load::Limits,
    maglev::{Entrant, Walk, fill_maglev, identity},
    net::{Mac, addr4, addr6, mapped, wire_port, words},
    service::{
        Service, Sources, Table, filter_bit4, filter_bit6, filter_source_bit4, filter_source_bit6,
        filter_word, mode, pick,
    },
    settings::Settings,
};
use lb_ctl::{
    dataplane::{
        BackendIdentity, Filling, Installed, Op, Reader as _, ServiceCounts, ServiceIdentity, ServiceKey,
        TableEntrant, TableSpec, Writer as _, XdpMode,
        bpf::{BpfReader, BpfWriter, Opened, Options, detach, open},
    },
    model::config::Protocol,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tempfile::TempDir;

/// Says loudly that a test did not run; with `LB_REQUIRE_ROOT` set that is a failure.
fn is_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        assert!(
            std::env::var_os("LB_REQUIRE_ROOT").is_none(),
            "{test} needs root, and LB_REQUIRE_ROOT is set"
        );
        eprintln!("SKIPPED {test}: needs root");
    }
    root
}

macro_rules! root_tests {
    ($($name:ident $body:block)+) => {$(
        #[test]
        fn $name() {
            if is_root(stringify!($name)) $body
        }
    )+};
}

mod explain;
mod kill;
mod loads;
mod persistence;
mod sweep;

fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn unique() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A BPF file system that goes away with the test.
struct BpfFs(TempDir);

impl BpfFs {
    fn mount() -> Self {
        let dir = TempDir::new().unwrap();
        run("mount", &["-t", "bpf", "bpf", dir.path().to_str().unwrap()]);
        Self(dir)
    }

    fn pin_dir(&self) -> PathBuf {
        self.0.path().join("lbd")
    }

    fn open(&self) -> (BpfWriter, BpfReader) {
        let opened = self.try_open().unwrap_or_else(|text| panic!("{text}"));
        assert_eq!(opened.notes, Vec::<String>::new());
        (opened.writer, opened.reader)
    }

    fn try_open(&self) -> Result<Opened, String> {
        self.open_with_flows([4096, 1024, 1024])
    }

    fn open_with_flows(&self, [flows_v4, flows_v6, half_open]: [u32; 3]) -> Result<Opened, String> {
        open(Options { pin_dir: self.pin_dir(), flows_v4, flows_v6, half_open }).map_err(|e| e.to_string())
    }

    fn pins(&self) -> BTreeSet<String> {
        fs::read_dir(self.pin_dir()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }

    fn map<T: TryFrom<Map, Error = aya::maps::MapError>>(&self, name: &str) -> T {
        let data = MapData::from_pin(self.pin_dir().join(name)).unwrap();
        T::try_from(Map::from_map_data(data).unwrap()).unwrap()
    }

    fn array<V: Pod>(&self, name: &str) -> Array<MapData, V> {
        self.map(name)
    }

    fn settings(&self) -> Settings {
        self.array(map::SETTINGS).get(&0, 0).unwrap()
    }

    /// Copies the look-up table of a service, on the heap: it is too large to be passed around.
    fn table(&self, service: u16) -> Box<Table> {
        let tables: ArrayOfMaps<MapData, Array<MapData, Table>> = self.map(map::TABLES);
        let inner = tables.get(&u32::from(service), 0).unwrap();
        Box::new(inner.get(&0, 0).unwrap())
    }

    /// Id of a pinned map, to tell one from its replacement.
    fn map_id(&self, name: &str) -> u32 {
        MapData::from_pin(self.pin_dir().join(name)).unwrap().info().unwrap().id()
    }

    fn link_id(&self, ifindex: u32) -> u32 {
        let link = PinnedLink::from_pin(self.pin_dir().join(format!("link-{ifindex}"))).unwrap();
        FdLink::from(link).info().unwrap().id()
    }
}

impl Drop for BpfFs {
    fn drop(&mut self) {
        // Links would outlive the mount in no namespace but the test's own; maps go with their pins.
        drop(detach(&self.pin_dir()));
        let dir = self.0.path().to_str().unwrap();
        if !thread::panicking() {
            run("umount", &[dir]);
        } else {
            drop(Command::new("umount").args(["-l", dir]).status());
        }
    }
}

/// A network namespace with a veth pair `va`, `vb`, which the current thread is in until the guard goes.
struct Namespace {
    name: String,
    home: fs::File,
}

impl Namespace {
    fn enter() -> Self {
        let name = format!("lbt-dp-{}", unique());
        let home = fs::File::open("/proc/thread-self/ns/net").unwrap();
        run("ip", &["netns", "add", &name]);
        let guard = Self { name, home };
        let there = fs::File::open(format!("/run/netns/{}", guard.name)).unwrap();
        move_into_link_name_space(there.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        guard.ip(&["link", "add", "va", "type", "veth", "peer", "name", "vb"]);
        guard.ip(&["link", "set", "va", "up"]);
        guard.ip(&["link", "set", "vb", "up"]);
        guard
    }

    fn ip(&self, args: &[&str]) {
        run("ip", &[&["-n", &self.name], args].concat());
    }

    fn ifindex(&self, device: &str) -> u32 {
        let json = self.show(device);
        json["ifindex"].as_u64().unwrap() as u32
    }

    /// Id of the XDP program on a device.
    fn xdp(&self, device: &str) -> Option<u64> {
        self.show(device)["xdp"]["prog"]["id"].as_u64()
    }

    fn show(&self, device: &str) -> serde_json::Value {
        let output = Command::new("ip")
            .args(["-n", &self.name, "-j", "-d", "link", "show", "dev", device])
            .output()
            .unwrap();
        let list: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        list[0].clone()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // The thread ends with its test: that it could not go home harms nobody.
        let _ = move_into_link_name_space(self.home.as_fd(), Some(LinkNameSpaceType::Network));
        drop(Command::new("ip").args(["netns", "delete", &self.name]).status());
    }
}

const SERVICE: u16 = 3;
const SLOT: u16 = 7;
const GENERATION: u16 = 4;
const IDLE_SECS: u32 = 3600;

fn vip() -> IpAddr {
    [10, 12, 1, 100].into()
}

fn rip(last: u8) -> IpAddr {
    [10, 12, 1, last].into()
}

const fn key(ip: IpAddr, port: u16, protocol: Protocol) -> ServiceKey {
    ServiceKey { ip, port, protocol }
}

fn service_identity(name: &str) -> ServiceIdentity {
    ServiceIdentity { name: name.into(), idle_timeout_secs: IDLE_SECS }
}

fn record() -> Service {
    Service {
        mode: mode::DR,
        pick: pick::HASH_FLOW,
        persist_prefix: 24,
        persist_ticks: 1000,
        persist_group: 11,
        ..Service::default()
    }
}

fn put_service(service: u16) -> Op {
    Op::PutService { service, identity: service_identity("DICOM"), record: record() }
}

fn backend(generation: u16) -> Backend {
    Backend {
        generation,
        state: state::LIVE,
        dst_mac: Mac([2, 0, 0, 0, 0, 9]),
        src_mac: Mac([2, 0, 0, 0, 0, 1]),
        ..Backend::default()
    }
}

fn put_backend(slot: u16, name: &str, generation: u16) -> Op {
    Op::PutBackend {
        slot,
        identity: BackendIdentity { service: SERVICE, name: name.into(), ip: rip(slot as u8), port: None },
        backend: backend(generation),
    }
}

/// A server of NAT.
fn nat_backend(slot: u16, port: Option<u16>, generation: u16) -> Op {
    let ip = rip(slot as u8);
    Op::PutBackend {
        slot,
        identity: BackendIdentity { service: SERVICE, name: format!("WEB{slot}"), ip, port },
        backend: backend(generation),
    }
}

const fn limits() -> Limits {
    Limits { max: 50, min: 40, weight: 100, flags: 0 }
}

const fn link_record() -> LinkRecord {
    LinkRecord { mac: Mac([2, 0, 0, 0, 0, 1]), mtu: 1500 }
}

fn sources(count: u8) -> Sources {
    let mut sources =
        Sources { count: u32::from(count), first_port: 10_240, ports: 100, ..Sources::default() };
    sources.addrs.iter_mut().zip(1..=count).for_each(|(addr, n)| *addr = words(rip(n)));
    sources
}

fn apply(writer: &mut BpfWriter, ops: &[Op]) {
    for op in ops {
        writer.apply(op).unwrap_or_else(|e| panic!("{op:?}: {e}"));
    }
}

fn table_spec(filling: Filling, weights: &[(u16, u16)]) -> TableSpec {
    TableSpec {
        filling,
        entrants: weights
            .iter()
            .map(|&(slot, weight)| TableEntrant { slot, weight, ip: rip(slot as u8), port: None })
            .collect(),
    }
}

root_tests! {
    a_second_start_adopts_the_maps_and_what_is_installed {
        let fs = BpfFs::mount();
        let v6: IpAddr = "2001:db8::100".parse().unwrap();
        let keys = [
            key(vip(), 104, Protocol::Tcp),
            key(vip(), 0, Protocol::Udp),
            key(v6, 11112, Protocol::Tcp),
        ];
        let (mut writer, _) = fs.open();
        apply(&mut writer, &[
            put_service(SERVICE),
            put_backend(SLOT, "DICOM1", GENERATION),
            put_backend(8, "DICOM2", 900),
            Op::PutTable { service: SERVICE, table: table_spec(Filling::Maglev, &[(SLOT, 100), (8, 50)]) },
            Op::PutKey { key: keys[0], service: SERVICE },
            Op::PutKey { key: keys[1], service: SERVICE },
            Op::PutKey { key: keys[2], service: SERVICE },
            Op::SetFilter { addresses: [vip(), v6].into(), servers: BTreeSet::new() },
            Op::PutLink { ifindex: 4, record: link_record() },
            Op::PutLink { ifindex: 5, record: link_record() },
            Op::PutLink { ifindex: 5, record: LinkRecord::default() },
            Op::PutSources { service: SERVICE, sources: sources(2) },
            Op::PutLoad { slot: SLOT, limits: limits() },
            Op::PutTwin { slot: SLOT, service: SERVICE, twin: SLOT },
            Op::PutTwin { slot: 900, service: SERVICE, twin: 8 },
            Op::PutTwin { slot: 901, service: SERVICE, twin: 8 },
            Op::RemoveTwin { slot: 901, service: SERVICE },
            nat_backend(10, Some(8080), 3),
            // A slot that was used and is free again.
            put_backend(9, "GONE", 17),
            Op::ClearBackend { slot: 9 },
        ]);
        let before = writer.installed().clone();
        assert_eq!(before.keys.len(), 3);
        assert_eq!(before.generations, BTreeMap::from([(SLOT, GENERATION), (8, 900), (9, 17), (10, 3)]));
        assert!(before.tables.contains_key(&SERVICE) && before.filter.is_some());
        assert_eq!(before.link_records, [(4, link_record())].into());
        assert_eq!(before.sources, [(SERVICE, sources(2))].into());
        assert_eq!(before.loads, [(SLOT, limits())].into());
        assert_eq!(before.twins, [((SLOT, SERVICE), SLOT), ((900, SERVICE), 8)].into());
        drop(writer);

        let ids = map::PINNED.map(|name| fs.map_id(name));
        let (writer, _) = fs.open();
        assert_eq!(map::PINNED.map(|name| fs.map_id(name)), ids);
        // What a table and the filter were made of cannot be read back.
        let expected = Installed { tables: BTreeMap::new(), filter: None, ..before };
        assert_eq!(*writer.installed(), expected);
        assert_eq!(fs.table(SERVICE).len, TABLE_SLOTS as u32);
    }

    every_op_may_be_repeated {
        let fs = BpfFs::mount();
        let ns = Namespace::enter();
        let ifindex = ns.ifindex("va");
        let (mut writer, _) = fs.open();
        let ops = [
            Op::AttachLink { ifindex },
            put_service(SERVICE),
            put_backend(SLOT, "DICOM1", GENERATION),
            Op::PutLink { ifindex, record: link_record() },
            Op::PutSources { service: SERVICE, sources: sources(3) },
            Op::PutLoad { slot: SLOT, limits: limits() },
            Op::PutTwin { slot: SLOT, service: SERVICE, twin: SLOT },
            Op::PutTable { service: SERVICE, table: table_spec(Filling::RoundRobin, &[(SLOT, 1)]) },
            Op::PutKey { key: key(vip(), 104, Protocol::Tcp), service: SERVICE },
            Op::SetFilter { addresses: [vip()].into(), servers: BTreeSet::new() },
            Op::SetFilter { addresses: BTreeSet::new(), servers: BTreeSet::new() },
            Op::RemoveKey { key: key(vip(), 104, Protocol::Tcp) },
            Op::RemoveTwin { slot: SLOT, service: SERVICE },
            Op::ClearService { service: SERVICE },
            Op::ClearBackend { slot: SLOT },
            Op::DetachLink { ifindex },
            Op::PutLink { ifindex, record: LinkRecord::default() },
        ];
        for op in &ops {
            apply(&mut writer, std::slice::from_ref(op));
            let once = writer.installed().clone();
            apply(&mut writer, std::slice::from_ref(op));
            assert_eq!(*writer.installed(), once, "{op:?}");
        }
        let left = Installed {
            filter: Some((BTreeSet::new(), BTreeSet::new())),
            generations: [(SLOT, GENERATION)].into(),
            ..Installed::default()
        };
        assert_eq!(*writer.installed(), left);
        drop(writer);
        assert_eq!(*fs.open().0.installed(), Installed { filter: None, ..left });
    }

    settings_describe_this_kernel_and_stay {
        let fs = BpfFs::mount();
        drop(fs.open());
        let settings = fs.settings();
        assert_eq!(settings.abi_version, ABI_VERSION);
        assert_eq!(settings.flows, [4096, 1024, 1024]);
        assert!((100..=1000).contains(&settings.hz), "{settings:?}");
        assert_ne!(settings.flow_seed, 0);
        drop(fs.open());
        assert_eq!(fs.settings(), settings);
    }

    other_table_sizes_are_kept_until_detach_and_said {
        let fs = BpfFs::mount();
        drop(fs.open());
        let opened = fs.open_with_flows([100_000, 1024, 2048]).unwrap();
        assert_eq!(opened.notes.len(), 1, "{:?}", opened.notes);
        assert!(
            opened.notes[0].starts_with(
                "flows_v4 stays 4096 (configured: 131072), half_open stays 1024 (configured: 2048): "
            ) && opened.notes[0].contains("`lbd --detach`"),
            "{}", opened.notes[0]
        );
        assert_eq!(fs.settings().flows, [4096, 1024, 1024]);
        drop(opened);
        Box::new(fs.open().0).remove_all().unwrap();
        assert!(fs.open_with_flows([100_000, 1024, 2048]).unwrap().notes.is_empty());
        assert_eq!(fs.settings().flows, [131_072, 1024, 2048]);
        assert_eq!(MapData::from_pin(fs.pin_dir().join(map::FLOWS_V4)).unwrap().info().unwrap().max_entries(), 32_768);
    }

    maps_of_another_version_are_refused_and_left_alone {
        let fs = BpfFs::mount();
        let ns = Namespace::enter();
        let ifindex = ns.ifindex("va");
        let (mut writer, _) = fs.open();
        apply(&mut writer, &[Op::AttachLink { ifindex }]);
        drop(writer);
        let theirs = Settings { abi_version: ABI_VERSION + 7, ..fs.settings() };
        fs.array(map::SETTINGS).set(0, theirs, 0).unwrap();
        let (pins, ids, xdp) = (fs.pins(), map::PINNED.map(|name| fs.map_id(name)), ns.xdp("va"));

        let error = fs.try_open().map(drop).unwrap_err();
        assert_eq!(error, format!(
            "maps under {} were made by another version (ABI {}, this is {ABI_VERSION}): traffic goes on as it is; \
             run `lbd --detach` (interrupts traffic) and start again",
            fs.pin_dir().display(), ABI_VERSION + 7
        ));
        assert_eq!((fs.pins(), map::PINNED.map(|name| fs.map_id(name)), ns.xdp("va")), (pins, ids, xdp));
        assert!(xdp.is_some());
        assert_eq!(fs.settings(), theirs);

        // The cure works with maps of any version.
        let done = detach(&fs.pin_dir()).unwrap();
        assert_eq!(done[0], "took the program off va");
        assert_eq!(ns.xdp("va"), None);
        drop(fs.open());
    }

    a_half_made_directory_is_made_anew {
        let fs = BpfFs::mount();
        drop(fs.open());
        let old = fs.map_id(map::BACKENDS);
        // A crash before the settings were written.
        fs.array(map::SETTINGS).set(0, Settings::default(), 0).unwrap();
        drop(fs.open());
        assert_ne!(fs.map_id(map::BACKENDS), old);
        // A crash before they were even pinned, and in the middle of a removal.
        fs::remove_file(fs.pin_dir().join(map::SETTINGS)).unwrap();
        fs::remove_file(fs.pin_dir().join(map::FILTER)).unwrap();
        drop(fs.open());
        assert_eq!(fs.pins(), map::PINNED.map(String::from).into());
    }

    an_incomplete_set_of_maps_is_refused_by_name {
        let fs = BpfFs::mount();
        let ns = Namespace::enter();
        let (mut writer, _) = fs.open();
        apply(&mut writer, &[Op::AttachLink { ifindex: ns.ifindex("va") }]);
        drop(writer);
        fs::remove_file(fs.pin_dir().join(map::PERSIST)).unwrap();
        let error = fs.try_open().map(drop).unwrap_err();
        assert!(error.contains("PERSIST is missing") && error.contains("lbd --detach"), "{error}");
        // Without settings it would be half-made, but for the link that forwards by it.
        fs::remove_file(fs.pin_dir().join(map::SETTINGS)).unwrap();
        let error = fs.try_open().map(drop).unwrap_err();
        assert!(error.contains("have no settings, but the program is attached"), "{error}");
        assert!(ns.xdp("va").is_some());
    }

    without_a_bpf_file_system_the_error_says_how_to_mount_one {
        let dir = TempDir::new().unwrap();
        let pin_dir = dir.path().join("lbd");
        let error = open(Options { pin_dir: pin_dir.clone(), flows_v4: 1024, flows_v6: 1024, half_open: 1024 })
            .map(drop)
            .unwrap_err()
            .to_string();
        assert_eq!(error, format!(
            "{} is not on a BPF file system, so maps cannot be pinned there; run `mount -t bpf bpf {}`",
            pin_dir.display(), dir.path().display()
        ));
        assert!(!pin_dir.exists());
    }

    a_veth_gets_the_program_natively_and_the_next_start_adopts_its_link {
        let fs = BpfFs::mount();
        let ns = Namespace::enter();
        let ifindex = ns.ifindex("va");
        let (mut writer, _) = fs.open();
        apply(&mut writer, &[Op::AttachLink { ifindex }]);
        assert_eq!(writer.installed().links, [(ifindex, XdpMode::Native)].into());
        let (link, program) = (fs.link_id(ifindex), ns.xdp("va"));
        drop(writer);
        assert_eq!(ns.xdp("va"), program, "the program stays while no controller runs");

        let (writer, _) = fs.open();
        assert_eq!(writer.installed().links, [(ifindex, XdpMode::Native)].into());
        assert_eq!(fs.link_id(ifindex), link, "the link is the same");
        assert_ne!(ns.xdp("va"), program, "its program is the new one");
        assert!(ns.xdp("va").is_some());

        Box::new(writer).remove_all().unwrap();
        assert_eq!(ns.xdp("va"), None);
        assert!(!fs.pin_dir().exists());
        assert_eq!(detach(&fs.pin_dir()).unwrap(), Vec::<String>::new());
    }

    a_driver_without_xdp_gets_the_generic_mode_which_is_remembered {
        let fs = BpfFs::mount();
        let _ns = Namespace::enter();
        let lo = 1;
        let (mut writer, _) = fs.open();
        apply(&mut writer, &[Op::AttachLink { ifindex: lo }]);
        assert_eq!(writer.installed().links, [(lo, XdpMode::Generic)].into());
        drop(writer);
        let (mut writer, _) = fs.open();
        assert_eq!(writer.installed().links, [(lo, XdpMode::Generic)].into());
        apply(&mut writer, &[Op::DetachLink { ifindex: lo }]);
        assert!(writer.installed().links.is_empty());
        assert!(!fs.pins().contains("link-1"));
    }

    an_interface_that_went_away_leaves_no_link_behind {
        let fs = BpfFs::mount();
        let ns = Namespace::enter();
        let ifindex = ns.ifindex("va");
        let (mut writer, _) = fs.open();
        apply(&mut writer, &[Op::AttachLink { ifindex }]);
        ns.ip(&["link", "delete", "va"]);
        let error = writer.apply(&Op::AttachLink { ifindex }).unwrap_err().to_string();
        assert!(error.contains(&format!("interface {ifindex} does not exist")), "{error}");
        assert!(writer.installed().links.is_empty());
        ns.ip(&["link", "add", "va", "type", "veth", "peer", "name", "vb"]);
        let ifindex = ns.ifindex("va");
        apply(&mut writer, &[Op::AttachLink { ifindex }]);
        drop(writer);
        ns.ip(&["link", "delete", "va"]);

        let opened = fs.try_open().unwrap();
        assert!(opened.writer.installed().links.is_empty());
        assert_eq!(opened.notes.len(), 1);
        assert!(opened.notes[0].starts_with(&format!("interface {ifindex}, ")), "{:?}", opened.notes);
        assert!(!fs.pins().contains(&format!("link-{ifindex}")));
    }

    somebody_elses_program_is_not_pushed_aside {
        let (ours, theirs) = (BpfFs::mount(), BpfFs::mount());
        let ns = Namespace::enter();
        let ifindex = ns.ifindex("va");
        let (mut writer, _) = theirs.open();
        apply(&mut writer, &[Op::AttachLink { ifindex }]);
        let program = ns.xdp("va").unwrap();
        let (mut writer, _) = ours.open();
        let error = writer.apply(&Op::AttachLink { ifindex }).unwrap_err().to_string();
        assert_eq!(error, format!(
            "interface va: another XDP program (id {program}) runs on it; if it is not needed, take it off with \
             `ip link set dev va xdp off`"
        ));
        assert_eq!(ns.xdp("va"), Some(program));
        assert!(writer.installed().links.is_empty());
    }

    tables_hold_what_maglev_round_robin_and_failover_lists_say {
        let fs = BpfFs::mount();
        let (mut writer, _) = fs.open();
        let weights = [(9, 100), (SLOT, 50), (8, 100)];
        apply(&mut writer, &[
            put_service(SERVICE),
            Op::PutTable { service: SERVICE, table: table_spec(Filling::Maglev, &weights) },
        ]);
        let mut entrants = weights.map(|(slot, weight)| Entrant {
            identity: identity(&mapped(rip(slot as u8)), 0),
            weight,
            slot,
        });
        entrants.sort_by_key(|e| e.identity);
        let mut expected = Box::new([0; TABLE_SLOTS]);
        assert!(fill_maglev(&mut expected, &entrants, &mut [Walk::default(); 3]));
        let table = fs.table(SERVICE);
        assert_eq!(table.len, TABLE_SLOTS as u32);
        assert!(table.slots == *expected);

        apply(&mut writer, &[
            Op::PutTable { service: SERVICE, table: table_spec(Filling::RoundRobin, &[(5, 50), (6, 10), (SLOT, 10)]) },
        ]);
        let table = fs.table(SERVICE);
        assert_eq!((table.len, &table.slots[..7]), (7, &[5, 5, 6, 5, SLOT, 5, 5][..]));

        apply(&mut writer, &[
            Op::PutTable { service: SERVICE, table: table_spec(Filling::First, &[(6, 1), (5, 1), (SLOT, 1)]) },
        ]);
        let table = fs.table(SERVICE);
        assert_eq!((table.len, &table.slots[..3]), (1, &[6, 0, 0][..]));
        assert_eq!((table.servers, &table.list[..4]), (3, &[6, 5, SLOT, 0][..]), "those that stand by");

        apply(&mut writer, &[
            Op::PutTable { service: SERVICE, table: table_spec(Filling::Maglev, &[]) },
        ]);
        assert_eq!(fs.table(SERVICE).len, 0);
    }

    the_filter_has_a_bit_for_every_address_and_no_other {
        let fs = BpfFs::mount();
        let (mut writer, _) = fs.open();
        let v6 = "2001:db8::7".parse().unwrap();
        let bits = |addresses: &[IpAddr]| -> BTreeSet<(u32, u64)> {
            addresses
                .iter()
                .map(|ip| filter_word(match ip {
                    IpAddr::V4(v4) => filter_bit4(addr4(*v4)),
                    IpAddr::V6(v6) => filter_bit6(addr6(*v6)),
                }))
                .collect()
        };
        let there = || -> BTreeSet<(u32, u64)> {
            let words = fs.array::<[u64; FILTER_WORDS]>(map::FILTER).get(&0, 0).unwrap();
            (0..)
                .zip(words)
                .flat_map(|(word, set)| {
                    (0..64).map(move |bit| (word, set & (1 << bit))).filter(|(_, mask)| *mask != 0)
                })
                .collect()
        };
        apply(&mut writer, &[Op::SetFilter { addresses: [vip(), rip(1), v6].into(), servers: BTreeSet::new() }]);
        assert_eq!(there(), bits(&[vip(), rip(1), v6]));
        drop(writer);
        // The next controller does not know the addresses, but it knows the bits.
        let (mut writer, _) = fs.open();
        apply(&mut writer, &[Op::SetFilter { addresses: [vip(), rip(2)].into(), servers: BTreeSet::new() }]);
        assert_eq!(there(), bits(&[vip(), rip(2)]));

        let servers: BTreeSet<IpAddr> = [rip(3), v6].into();
        apply(&mut writer, &[Op::SetFilter { addresses: [vip()].into(), servers }]);
        let IpAddr::V4(server) = rip(3) else { unreachable!() };
        let IpAddr::V6(v6) = v6 else { unreachable!() };
        let seen = [filter_source_bit4(addr4(server)), filter_source_bit6(addr6(v6))].map(filter_word);
        let expected: BTreeSet<(u32, u64)> = &bits(&[vip()]) | &seen.into();
        assert_eq!(there(), expected);
    }

    what_nat_and_snat_need_stands_in_its_maps_and_goes_with_its_owner {
        let fs = BpfFs::mount();
        let (mut writer, _) = fs.open();
        let at = |slot: u16| fs.array::<Target>(map::TARGETS).get(&u32::from(slot), 0).unwrap();
        let source = || fs.array::<Sources>(map::SOURCES).get(&u32::from(SERVICE), 0).unwrap();
        apply(&mut writer, &[
            put_service(SERVICE),
            nat_backend(SLOT, Some(8080), 1),
            nat_backend(8, None, 1),
            Op::PutSources { service: SERVICE, sources: sources(3) },
            Op::PutLink { ifindex: 4, record: link_record() },
        ]);
        let target = |slot: u16, port| Target { addr: words(rip(slot as u8)), port: wire_port(port), pad: [0; 3] };
        assert_eq!((at(SLOT), at(8)), (target(SLOT, 8080), target(8, 0)));
        assert_eq!(source(), sources(3));
        assert_eq!(fs.array::<LinkRecord>(map::LINKS).get(&4, 0).unwrap(), link_record());
        for count in [1, 16] {
            apply(&mut writer, &[Op::PutSources { service: SERVICE, sources: sources(count) }]);
            assert_eq!(source(), sources(count));
        }
        let error = writer.apply(&Op::PutLink { ifindex: 5000, record: link_record() }).unwrap_err().to_string();
        assert!(error.contains("interface 5000 (gone): it cannot be said how replies leave by it"), "{error}");

        let cpus = nr_cpus().unwrap();
        let mut backends: PerCpuArray<MapData, BackendTraffic> = fs.map(map::BACKEND_TRAFFIC);
        let server = BackendTraffic { packets: 3, bytes: 200 };
        backends.set(u32::from(SLOT), PerCpuValues::try_from(vec![server; cpus]).unwrap(), 0).unwrap();
        apply(&mut writer, &[nat_backend(SLOT, Some(9090), 1)]);
        assert_eq!(at(SLOT), target(SLOT, 9090));
        assert_eq!(backends.get(&u32::from(SLOT), 0).unwrap()[0].packets, 3, "the same server goes on counting");

        apply(&mut writer, &[Op::ClearBackend { slot: SLOT }, Op::ClearService { service: SERVICE }]);
        assert_eq!((at(SLOT), source()), (Target::default(), Sources::default()));
        assert!(writer.installed().sources.is_empty());
    }

    counters_are_sums_over_cpus_and_start_at_zero_for_a_new_owner {
        let fs = BpfFs::mount();
        let (mut writer, mut reader) = fs.open();
        apply(&mut writer, &[put_service(SERVICE), put_backend(SLOT, "DICOM1", GENERATION)]);
        let cpus = nr_cpus().unwrap();
        let service = ServiceTraffic { flows: 1, cursor: 77 };
        let mut services: PerCpuArray<MapData, ServiceTraffic> = fs.map(map::SERVICE_TRAFFIC);
        services.set(u32::from(SERVICE), PerCpuValues::try_from(vec![service; cpus]).unwrap(), 0).unwrap();
        let server = BackendTraffic { packets: 3, bytes: 200 };
        let mut backends: PerCpuArray<MapData, BackendTraffic> = fs.map(map::BACKEND_TRAFFIC);
        backends.set(u32::from(SLOT), PerCpuValues::try_from(vec![server; cpus]).unwrap(), 0).unwrap();
        let mut reasons: PerCpuArray<MapData, u64> = fs.map(map::REASONS);
        let at = Reason::NoService as u32;
        reasons.set(at, PerCpuValues::try_from(vec![4; cpus]).unwrap(), 0).unwrap();

        let n = cpus as u64;
        let counters = reader.counters().unwrap();
        let sum = ServiceCounts { packets: 3 * n, bytes: 200 * n, flows: n };
        assert_eq!(counters.services, [(SERVICE, sum)].into());
        assert_eq!(counters.backends, [(SLOT, (3 * n, 200 * n))].into());
        assert_eq!(counters.reasons.len(), Reason::ALL.len());
        assert_eq!(counters.reasons[at as usize], 4 * n);

        // The same server with another generation goes on counting; another server does not.
        apply(&mut writer, &[put_backend(SLOT, "DICOM1", GENERATION + 1)]);
        assert_eq!(reader.counters().unwrap().backends[&SLOT], (3 * n, 200 * n));
        apply(&mut writer, &[put_backend(SLOT, "DICOM2", GENERATION + 2)]);
        assert_eq!(reader.counters().unwrap().services[&SERVICE], sum, "what a former server forwarded still counts");
        apply(&mut writer, &[Op::ClearService { service: SERVICE }]);
        let counters = reader.counters().unwrap();
        assert_eq!(counters.backends[&SLOT], (0, 0));
        assert!(counters.services.is_empty());
        apply(&mut writer, &[put_service(SERVICE)]);
        assert_eq!(reader.counters().unwrap().services[&SERVICE], ServiceCounts::default());
        assert!(reader.events(10).is_empty());
    }

    bad_ops_are_refused_with_a_name_and_change_nothing {
        let fs = BpfFs::mount();
        let (mut writer, _) = fs.open();
        let long = Op::PutService { service: SERVICE, identity: service_identity(&"x".repeat(64)), record: record() };
        let Op::PutBackend { slot, identity, backend } = put_backend(SLOT, "DICOM1", 1) else { unreachable!() };
        let far = Op::PutBackend { slot, identity: identity.clone(), backend: Backend { ifindex: 5000, ..backend } };
        let gone = Op::PutBackend { slot, identity, backend: Backend { ifindex: 4000, ..backend } };
        for (op, part) in [
            (long, "does not fit its record"),
            (far, "indexes below 4096"),
            (gone, "interface 4000 (gone): frames cannot be sent out of it"),
            (Op::PutLoad { slot: 16_384, limits: limits() }, "slot 16384 has no load"),
            (put_service(5000), "service 5000 (`DICOM`) cannot be written"),
            (Op::AttachLink { ifindex: 4000 }, "interface 4000 does not exist"),
        ] {
            let error = writer.apply(&op).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        assert_eq!(*writer.installed(), Installed { filter: None, ..Installed::default() });
    }
}
