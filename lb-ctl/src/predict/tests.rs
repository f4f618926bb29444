use std::collections::BTreeMap;

use lb_common::settings::Settings;
use proptest::prelude::*;

use super::*;
use crate::{
    compile::{Inputs, compile},
    config::{Texts, load_texts},
    dataplane::{
        Writer as _,
        fake::{Fake, FakeWriter},
    },
    model::net::{Address, Link},
};

/// A machine with one interface, a configuration in force and every server of it up.
struct Scene {
    config: Config,
    facts: NetFacts,
    health: HealthMap,
    desired: DesiredState,
    writer: FakeWriter,
}

fn config(vips: &str) -> Config {
    load_texts(Texts::single("lbd.toml", vips)).unwrap_or_else(|errors| panic!("{errors}\n{vips}")).config
}

fn vip(name: &str, octet: u8, keys: &str, servers: &[(u8, u16)]) -> String {
    let mode = if keys.contains("mode") { "" } else { "mode = \"l4-dr\"\n" };
    let servers: Vec<String> = servers
        .iter()
        .map(|(n, weight)| format!("R{n} = {{ ip = \"10.0.1.{n}\", weight = {weight} }}"))
        .collect();
    format!(
        "[vip.{name}]\n{mode}ip = \"10.0.0.{octet}\"\nports = [104]\nreset = false\n{keys}\nservers = {{ {} }}\n",
        servers.join(", ")
    )
}

impl Scene {
    fn new(vips: &str) -> Self {
        let link = Link::ethernet(2, "eth0", Mac([2, 0, 0, 0, 0, 9]));
        let ip = [10, 0, 0, 250].into();
        let address = Address { ifindex: 2, ip, prefix: 16, duplicate: false, tentative: false };
        let facts = NetFacts {
            complete: true,
            links: [(2, link)].into(),
            addresses: vec![address],
            ..NetFacts::default()
        };
        let empty = config("");
        let config = config(vips);
        let Supposed { facts, health, .. } = suppose(&empty, &config, &facts, &HealthMap::new());
        let desired = DesiredState::default();
        let mut scene = Self { config, facts, health, desired, writer: Fake::default().open().0 };
        let desired = scene.compile(&scene.config, &scene.facts, &scene.health);
        scene.install(desired);
        scene
    }

    fn compile(&self, config: &Config, facts: &NetFacts, health: &HealthMap) -> DesiredState {
        let inputs = Inputs {
            config,
            operator: &BTreeMap::new(),
            health,
            facts,
            before: &self.desired,
            settings: &Settings::default(),
            ramps: &BTreeMap::new(),
            forget: &BTreeSet::new(),
            carried: &BTreeSet::new(),
        };
        compile(&inputs).desired
    }

    fn install(&mut self, desired: DesiredState) {
        for step in plan::plan(&desired, self.writer.installed()).steps {
            self.writer.apply(&step.op).unwrap();
        }
        self.desired = desired;
    }

    /// So many connections with each server.
    fn census(&self, each: u64) -> FlowCensus {
        let active_by_slot = self.writer.installed().backends.keys().map(|&slot| (slot, each)).collect();
        FlowCensus { active_by_slot, ..FlowCensus::default() }
    }

    /// What is predicted of a change, which is then made.
    fn change(&mut self, vips: &str) -> Vec<String> {
        let config = config(vips);
        let supposed = suppose(&self.config, &config, &self.facts, &self.health);
        let desired = self.compile(&config, &supposed.facts, &supposed.health);
        let lines = predict(self.writer.installed(), &desired, &self.census(3), &supposed.new);
        self.install(desired);
        lines
    }
}

const WRR: &str = "scheduler = \"wrr\"";
const SOURCE_HASH: &str = "scheduler = \"source-hash\"";

#[test]
fn what_changes_nothing_predicts_nothing() {
    let text = vip("A", 1, WRR, &[(1, 100), (2, 100)]);
    assert_eq!(Scene::new(&text).change(&text), Vec::<String>::new());
}

#[test]
fn shares_of_servers_that_join_leave_and_change_are_told() {
    let mut scene = Scene::new(&vip("A", 1, WRR, &[(1, 100), (2, 100)]));
    assert_eq!(
        scene.change(&vip("A", 1, WRR, &[(1, 100), (2, 50), (3, 50)])),
        ["A: new connections: R2 50.0 % -> 25.0 %, R3 joins with 25.0 % once its check passes"]
    );
    assert_eq!(
        scene.change(&vip("A", 1, WRR, &[(1, 100), (2, 0)])),
        [
            "A: 3 connections with R3 end",
            "A: new connections: R1 50.0 % -> 100.0 %, R2 gets none (had 25.0 %), R3 gets none (had 25.0 %)"
        ]
    );
}

#[test]
fn vips_that_come_and_go_and_change_their_address_or_mode_are_told() {
    let snat = "scheduler = \"wrr\"\nmode = \"l4-snat\"";
    let both = [vip("A", 1, WRR, &[(1, 1)]), vip("B", 2, snat, &[(2, 1), (3, 1)])].concat();
    let mut scene = Scene::new(&vip("A", 1, WRR, &[(1, 1)]));
    assert_eq!(
        scene.change(&both),
        ["B appears: new connections: R2 50.0 % once its check passes, R3 50.0 % once its check passes"]
    );
    assert_eq!(
        scene.change(&[vip("A", 1, snat, &[(1, 1)]), vip("B", 2, WRR, &[(2, 1), (3, 1)])].concat()),
        [
            "A: l4-dr -> l4-snat: connections that there are stay as they are",
            "B: l4-snat -> l4-dr: 6 connections end"
        ]
    );
    assert_eq!(
        scene.change(&vip("B", 5, WRR, &[(2, 1), (3, 1)])),
        ["A disappears: 3 connections end", "B: its address changes: 6 connections end"]
    );
}

#[test]
fn a_renamed_vip_keeps_its_connections_and_one_without_servers_says_so() {
    let mut scene = Scene::new(&vip("A", 1, WRR, &[(1, 1)]));
    assert_eq!(scene.change(&vip("B", 1, WRR, &[(1, 1)])), ["A: is now called B: its connections go on"]);
    let drop = "scheduler = \"wrr\"\nfallback = \"drop\"";
    let lines = scene.change(&vip("B", 1, &format!("{drop}\nenabled = true"), &[(9, 1)]));
    assert_eq!(lines[0], "B: 3 connections with R1 end");
    assert!(lines[1].contains("R1 gets none (had 100.0 %), R9 joins with 100.0 %"), "{lines:?}");
}

#[test]
fn clients_that_a_hash_moves_are_counted_exactly() {
    let mut scene = Scene::new(&vip("A", 1, SOURCE_HASH, &[(1, 100), (2, 100), (3, 100)]));
    let lines = scene.change(&vip("A", 1, SOURCE_HASH, &[(1, 100), (2, 100)]));
    let moved = lines.iter().find(|line| line.starts_with("A: source-hash: ")).unwrap();
    let percent: f64 = moved.split(' ').nth(2).unwrap().parse().unwrap();
    assert!((33.3..36.0).contains(&percent), "{lines:?}");
    let lines = scene.change(&vip("A", 1, "scheduler = \"maglev\"", &[(1, 100), (2, 100)]));
    assert_eq!(lines, ["A: another scheduler: every new connection is placed anew"]);
}

#[test]
fn what_is_hardly_anything_or_nearly_all_is_not_rounded_away() {
    let shown = [0.0, 0.000_01, 0.3333, 0.999_99, 1.0].map(percent);
    assert_eq!(shown, ["0.0 %", "0.1 %", "33.3 %", "99.9 %", "100.0 %"]);
}

/// Servers by number, with weights; at least one takes connections.
fn servers() -> impl Strategy<Value = Vec<(u8, u16)>> {
    proptest::collection::btree_map(1..12_u8, 0..4_u16, 0..8)
        .prop_map(|map| map.into_iter().chain([(20, 1)]).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Every place is looked up before and after, in what is then in the kernel: at as many of them stands another server
    /// as was predicted. Connections end that the kernel's records no longer know, and no others.
    #[test]
    fn what_is_predicted_happens(before in servers(), after in servers()) {
        let mut scene = Scene::new(&vip("A", 1, SOURCE_HASH, &before));
        let was = scene.writer.installed().clone();
        let lines = scene.change(&vip("A", 1, SOURCE_HASH, &after));
        let is = scene.writer.installed().clone();

        let (all_before, all_after) = (places(&was.tables[&0]).unwrap(), places(&is.tables[&0]).unwrap());
        let ips = |installed: &Installed, places: &[u16; TABLE_SLOTS]| -> Vec<_> {
            places.iter().map(|slot| installed.backends[slot].0.ip).collect()
        };
        let (ips_before, ips_after) = (ips(&was, &all_before.slots), ips(&is, &all_after.slots));
        let elsewhere = ips_before.iter().zip(&ips_after).filter(|(b, a)| b != a).count();
        let told = lines.iter().find_map(|line| line.strip_prefix("A: source-hash: "));
        let told = told.map_or("0.0 %", |line| line.strip_suffix(" of clients move").unwrap());
        prop_assert_eq!(told, percent(elsewhere as f64 / TABLE_SLOTS as f64));

        for (slot, (who, record)) in was.backends.iter().filter(|(_, (_, r))| r.state == state::LIVE) {
            let lives = is.backends.get(slot).is_some_and(|(_, now)| {
                now.state == state::LIVE && now.generation == record.generation
            });
            let line = format!("A: 3 connections with {} end", who.name);
            prop_assert_eq!(!lives, lines.contains(&line), "{}", who.name);
        }
    }
}
