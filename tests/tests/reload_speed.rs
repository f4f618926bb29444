//! A reload of a large configuration: 500 VIPs with 5,000 servers, from TOML to the kernel's maps. What did not change
//! is not written again, and a change of one server costs a fraction of the first installation. Times are printed, for
//! a release build to be judged by: `cargo test --release -p lb-tests --test reload_speed -- --nocapture`.
#![forbid(unsafe_code)]
#![allow(
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "what fails here fails the test, and times are for people to read"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use aya::{
    TestRun as _, TestRunOptions,
    maps::{Array, ArrayOfMaps, Map, MapData},
};
use lb_common::{limits::map, net::Mac, service::Table};
use lb_ctl::{
    compile::{Inputs, compile},
    config::{Texts, load_texts},
    dataplane::{
        FlowCensus, Op, Writer as _,
        bpf::{BpfWriter, Options, detach, open},
    },
    model::{
        config::Config,
        desired::DesiredState,
        health::{Health, HealthMap, RipId, Verdict},
        net::{Address, Link, NetFacts, Path},
    },
    plan::plan,
    predict::predict,
};
use lb_tests::{
    lab::{
        bpffs,
        netns::{Lifetime, Netns, test_name},
        require_root,
    },
    packet::{
        dut::XDP_REDIRECT,
        frame::{
            Frame,
            flags::{ACK, SYN},
        },
        plane::{carry_out, program_on},
    },
};

const VIPS: usize = 500;
const SERVERS: usize = 10;
/// The VIP that is changed: one that picks by hash.
const CHANGED: usize = 123;

/// Index of the interface that servers are reached by.
const LINK: u32 = 77;
/// Weight of a server that is not there.
const REMOVED: u16 = u16::MAX;

/// The configuration, with one server of one VIP at `weight`.
fn text(weight: u16) -> String {
    let mut text = String::new();
    for vip in 0..VIPS {
        let scheduler = if vip % 2 == 0 { "wrr" } else { "maglev" };
        let [_, _, high, low] = (vip as u32).to_be_bytes();
        text.push_str(&format!(
            "[vip.V{vip}]\nmode = \"l4-dr\"\nip = \"10.1.{high}.{low}\"\nports = [104]\nscheduler = \"{scheduler}\"\n"
        ));
        let servers = (0..SERVERS).filter_map(|server| {
            let [_, _, high, low] = ((vip * SERVERS + server) as u32).to_be_bytes();
            let weight = if (vip, server) == (CHANGED, 4) { weight } else { 100 };
            (weight != REMOVED)
                .then(|| format!("  R{server} = {{ ip = \"10.2.{high}.{low}\", weight = {weight} }},\n"))
        });
        text.push_str(&format!("servers = {{\n{}}}\n", servers.collect::<String>()));
    }
    text
}

/// Every server is up and answers on one interface.
fn surroundings(config: &Config) -> (NetFacts, HealthMap) {
    let mac = Mac([2, 0, 0, 0, 0, 1]);
    let up = Link::ethernet(LINK, "va", mac);
    let own = IpAddr::from(Ipv4Addr::new(10, 0, 0, 1));
    let mut facts = NetFacts {
        complete: true,
        links: [(LINK, up)].into(),
        addresses: vec![Address { ifindex: LINK, ip: own, prefix: 8, duplicate: false, tentative: false }],
        ..NetFacts::default()
    };
    let mut health = HealthMap::new();
    for vip in &config.vips {
        for rip in &vip.rips {
            let path =
                Path { ifindex: Some(LINK), gateway: None, local: false, mac: Some(mac), failed: false };
            facts.paths.insert(rip.ip, path);
            let id = RipId { vip: vip.name.clone(), rip: rip.name.clone() };
            health.insert(id, Health::new(Verdict::Up, SystemTime::UNIX_EPOCH));
        }
    }
    (facts, health)
}

/// Pins that go away with the test.
struct Pins(PathBuf);

impl Drop for Pins {
    fn drop(&mut self) {
        drop(detach(&self.0));
        drop(fs::remove_dir(&self.0));
    }
}

struct Scene {
    writer: BpfWriter,
    pins: Pins,
    facts: NetFacts,
    health: HealthMap,
    before: DesiredState,
}

/// Connections to the VIP that is changed and to another one, for as long as this is there: each packet must go on.
struct Traffic {
    over: Arc<AtomicBool>,
    sender: JoinHandle<u64>,
}

impl Traffic {
    fn start(pin_dir: &std::path::Path) -> Self {
        let program = program_on(pin_dir, LINK);
        let over = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&over);
        let sender = thread::spawn(move || {
            let (mut sent, mut out) = (0, [0; 256]);
            while !ends.load(Ordering::Relaxed) {
                let port = 1024 + (sent % 50_000) as u16;
                for vip in [CHANGED as u8, CHANGED as u8 + 1] {
                    let (client, vip) = (([10, 9, 0, 1], port).into(), ([10, 1, 0, vip], 104).into());
                    for flags in [SYN, ACK] {
                        let frame = Frame::tcp(client, vip, flags).bytes();
                        let options = TestRunOptions {
                            data_in: Some(&frame),
                            data_out: Some(&mut out),
                            ..TestRunOptions::new()
                        };
                        let verdict = program.test_run(options).unwrap().return_value;
                        assert_eq!(verdict, XDP_REDIRECT, "packet {sent} to {vip}");
                        sent += 1;
                    }
                }
            }
            sent
        });
        Self { over, sender }
    }

    /// How many packets there were.
    fn stop(self) -> u64 {
        self.over.store(true, Ordering::Relaxed);
        self.sender.join().unwrap()
    }
}

/// Time that each stage of a reload took.
#[derive(Debug)]
struct Times {
    load_and_check: Duration,
    compile: Duration,
    plan: Duration,
    apply: Duration,
}

impl Times {
    fn whole(&self) -> Duration {
        self.load_and_check + self.compile + self.plan + self.apply
    }
}

impl Scene {
    /// From text to the kernel: how long it took, what was done, and what was predicted.
    fn reload(&mut self, text: &str) -> (Times, Vec<Op>, Vec<String>) {
        let began = Instant::now();
        let config = load_texts(Texts::single("lbd.toml", text)).unwrap_or_else(|e| panic!("{e}")).config;
        let loaded = Instant::now();
        let inputs = Inputs {
            config: &config,
            operator: &BTreeMap::new(),
            health: &self.health,
            facts: &self.facts,
            before: &self.before,
            settings: &self.writer.settings(),
            ramps: &BTreeMap::new(),
            forget: &BTreeSet::new(),
            carried: &BTreeSet::new(),
        };
        let desired = compile(&inputs).desired;
        let compiled = Instant::now();
        let made = plan(&desired, self.writer.installed());
        let planned = Instant::now();
        assert_eq!(made.problems, BTreeMap::new());
        let predicted = predict(self.writer.installed(), &desired, &FlowCensus::default(), &BTreeSet::new());
        let applying = Instant::now();
        let ops: Vec<Op> = made.steps.into_iter().map(|step| step.op).collect();
        carry_out(&mut self.writer, &ops.iter().collect::<Vec<_>>());
        let times = Times {
            load_and_check: loaded - began,
            compile: compiled - loaded,
            plan: planned - compiled,
            apply: applying.elapsed(),
        };
        assert_eq!(plan(&desired, self.writer.installed()).steps, [], "all is as desired");
        self.before = desired;
        (times, ops, predicted)
    }

    /// A reload after which as many places of a table lead elsewhere as was predicted.
    fn reload_and_compare(&mut self, service: u16, text: &str) -> (Times, Vec<Op>, Vec<String>) {
        let before = self.table(service);
        let reloaded = self.reload(text);
        let after = self.table(service);
        let moved = before.slots.iter().zip(&after.slots).filter(|(was, is)| was != is).count();
        let percent = moved as f64 * 100.0 / after.slots.len() as f64;
        let line = format!("V{CHANGED}: maglev: {percent:.1} % of clients move");
        assert!(reloaded.2.contains(&line), "{line}, and not {:?}", reloaded.2);
        reloaded
    }

    fn changed_service(&self) -> u16 {
        let name = format!("V{CHANGED}");
        let mut services = self.writer.installed().services.iter();
        *services.find(|(_, (who, _))| who.name == name).unwrap().0
    }

    /// Slot of the server that is changed.
    fn changed_slot(&self, service: u16) -> u16 {
        let mut backends = self.writer.installed().backends.iter();
        *backends.find(|(_, (who, _))| who.service == service && who.name == "R4").unwrap().0
    }

    /// Every table is in the kernel, and none of its places is one of these servers'.
    fn assert_no_table_leads_to(&self, dead: &[&str]) {
        let installed = self.writer.installed();
        for (&service, (who, _)) in &installed.services {
            let its = installed.backends.iter().filter(|(_, (server, _))| server.service == service);
            let (down, up): (Vec<_>, Vec<_>) =
                its.partition(|(_, (server, _))| dead.contains(&&*server.name));
            let table = self.table(service);
            let places = &table.slots[..table.len as usize];
            assert!(down.iter().all(|(slot, _)| !places.contains(*slot)), "{}", who.name);
            assert!(up.iter().all(|(slot, _)| places.contains(*slot)), "{}", who.name);
        }
    }

    /// The look-up table of a service as the kernel has it.
    fn table(&self, service: u16) -> Box<Table> {
        let data = MapData::from_pin(self.pins.0.join(map::TABLES)).unwrap();
        let tables: ArrayOfMaps<MapData, Array<MapData, Table>> =
            Map::from_map_data(data).unwrap().try_into().unwrap();
        let inner = tables.get(&u32::from(service), 0).unwrap();
        Box::new(inner.get(&0, 0).unwrap())
    }
}

#[test]
fn a_reload_writes_what_changed_and_costs_a_fraction_of_the_first_installation() {
    if !require_root("a_reload_writes_what_changed_and_costs_a_fraction_of_the_first_installation") {
        return;
    }
    bpffs::mount();
    let netns = Netns::new(&test_name(0, "reload"), Lifetime::WithProgram);
    netns.ip(&format!(
        "link add va index {LINK} type veth peer name vb
         link set va up
         link set vb up"
    ));
    netns.enter(install_and_reload);
}

fn install_and_reload() {
    let config = load_texts(Texts::single("lbd.toml", text(100))).unwrap_or_else(|e| panic!("{e}")).config;
    let (facts, health) = surroundings(&config);
    let pins = Pins(bpffs::path(&test_name(0, "reload")));
    let options = Options { pin_dir: pins.0.clone(), flows_v4: 4096, flows_v6: 1024, half_open: 1024 };
    let writer = open(options).unwrap_or_else(|error| panic!("{error}")).writer;
    let mut scene = Scene { writer, pins, facts, health, before: DesiredState::default() };

    let (first, ops, _) = scene.reload(&text(100));
    assert_eq!(scene.writer.installed().backends.len(), VIPS * SERVERS);
    assert!(
        ops.len() > VIPS * (SERVERS + 3),
        "a server each, and a table, a record and a key: {}",
        ops.len()
    );
    let service = scene.changed_service();
    let slot = scene.changed_slot(service);

    let (same, ops, predicted) = scene.reload(&text(100));
    assert_eq!((ops, predicted), (Vec::new(), Vec::new()), "what says the same writes nothing");

    let traffic = Traffic::start(&scene.pins.0);
    let (weight, ops, predicted) = scene.reload_and_compare(service, &text(50));
    let expected = |ops: &[Op]| {
        matches!(ops, [Op::PutLoad { slot: changed, .. }, Op::PutTable { service: id, .. }]
            if *id == service && *changed == slot)
    };
    assert!(expected(&ops), "{ops:?}");
    assert!(predicted[0].contains("R4 10.0 % -> 5.3 %"), "{predicted:?}");

    let (removal, ops, predicted) = scene.reload_and_compare(service, &text(REMOVED));
    let expected = |ops: &[Op]| {
        matches!(ops, [Op::PutTable { service: id, .. }, Op::ClearBackend { slot: gone }]
            if *id == service && *gone == slot)
    };
    assert!(expected(&ops), "{ops:?}");
    assert_eq!(predicted[0], format!("V{CHANGED}: 0 connections with R4 end"));
    // A switch fails: two servers of each VIP are down at once, and connections go on by the others.
    for (id, health) in &mut scene.health {
        if matches!(id.rip.as_str(), "R0" | "R1") {
            health.verdict = Verdict::Down;
        }
    }
    let (failure, ops, _) = scene.reload(&text(REMOVED));
    let tables = ops.iter().filter(|op| matches!(op, Op::PutTable { .. })).count();
    let records = ops.iter().filter(|op| matches!(op, Op::PutBackend { .. })).count();
    let limits = ops.iter().filter(|op| matches!(op, Op::PutLoad { .. })).count();
    assert_eq!(
        (tables, records, limits, ops.len()),
        (VIPS, 2 * VIPS, 2 * VIPS, 5 * VIPS),
        "each VIP's table once, and each server's record and share"
    );
    scene.assert_no_table_leads_to(&["R0", "R1"]);
    let sent = traffic.stop();
    assert!(sent > 0, "nobody sent anything meanwhile");

    eprintln!("{VIPS} VIPs with {SERVERS} servers each");
    for (what, times) in [
        ("first installation", &first),
        ("nothing changed", &same),
        ("one weight", &weight),
        ("one server gone", &removal),
        ("1,000 servers down", &failure),
    ] {
        eprintln!("{what:>20}: {:?} in all; {times:?}", times.whole());
    }
    // The machine may be busy with something else for one of them, and less likely for both.
    let one_change = weight.apply.min(removal.apply);
    assert!(one_change * 10 < first.apply, "{one_change:?} of {:?}", first.apply);
}
