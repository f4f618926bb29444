use std::{
    net::Ipv4Addr,
    time::{Duration, SystemTime},
};

use lb_common::net::{Mac, ip4};

use super::*;
use crate::model::{
    config::{GatewayAddress, Mode, Ports, Protocol, Protocols, ReturnPath, Source, SourceAddresses},
    health::{Advice, AdvisedState, Health},
    net::{Address, Link, Path, VipAddress, VlanTag},
};

mod shares;

const SERVER_MAC: Mac = Mac([2, 0, 0, 0, 0, 9]);

/// One VIP 10.12.1.100 with servers R1 and R2 on eth1, all well.
struct World {
    config: Config,
    operator: Words,
    health: HealthMap,
    facts: NetFacts,
    before: DesiredState,
    ramps: BTreeMap<RipId, u16>,
    forget: BTreeSet<String>,
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn id(rip: &str) -> RipId {
    RipId { vip: "PACS".to_owned(), rip: rip.to_owned() }
}

fn link(index: u32, name: &str) -> Link {
    Link::ethernet(index, name, Mac([2, 0, 0, 0, 1, index as u8]))
}

fn path(ifindex: u32) -> Path {
    Path { ifindex: Some(ifindex), gateway: None, local: false, mac: Some(SERVER_MAC), failed: false }
}

impl World {
    fn new() -> Self {
        let ports = Ports::Ranges(vec![104..=104, 11112..=11112]);
        let vip = Vip {
            scheduler: Scheduler::Wrr,
            rips: vec![Rip::new("R1", ip("10.12.1.110")), Rip::new("R2", ip("10.12.1.111"))],
            ..Vip::new("PACS", Mode::L4Dr, ip("10.12.1.100"), ports)
        };
        let mut world = Self {
            config: Config { vips: vec![vip], ..Config::default() },
            operator: Words::new(),
            health: HealthMap::new(),
            facts: NetFacts {
                complete: true,
                links: BTreeMap::from([(2, link(2, "eth1"))]),
                addresses: vec![Address {
                    ifindex: 2,
                    ip: ip("10.12.1.1"),
                    prefix: 24,
                    duplicate: false,
                    tentative: false,
                }],
                paths: BTreeMap::from([(ip("10.12.1.110"), path(2)), (ip("10.12.1.111"), path(2))]),
            },
            before: DesiredState::default(),
            ramps: BTreeMap::new(),
            forget: BTreeSet::new(),
        };
        world.verdict("R1", Verdict::Up);
        world.verdict("R2", Verdict::Up);
        world
    }

    fn verdict(&mut self, rip: &str, verdict: Verdict) {
        let health = Health::new(verdict, SystemTime::UNIX_EPOCH);
        self.health.insert(id(rip), health);
    }

    fn compile(&self) -> Compiled {
        compile(&Inputs {
            config: &self.config,
            operator: &self.operator,
            health: &self.health,
            facts: &self.facts,
            before: &self.before,
            settings: &Settings { hz: 250, tick_shift: 5, ..Settings::default() },
            ramps: &self.ramps,
            forget: &self.forget,
            carried: &BTreeSet::new(),
        })
    }

    /// `(state, live, in the table, detail)` of a server.
    fn fate(&self, rip: &str) -> (RipState, bool, bool, Option<String>) {
        let compiled = self.compile();
        let service = &compiled.desired.services["PACS"];
        let note = compiled.notes.rips[&id(rip)].clone();
        (
            note.state,
            service.backends[rip].forward.is_some(),
            service.entrants.iter().any(|e| e.name == rip),
            note.detail,
        )
    }

    fn path_mut(&mut self) -> &mut Path {
        self.facts.paths.get_mut(&ip("10.12.1.110")).unwrap()
    }
}

#[test]
fn healthy_servers_take_flows_by_the_mac_of_their_link() {
    let world = World::new();
    let compiled = world.compile();
    assert_eq!(world.fate("R1"), (RipState::Active, true, true, None));
    let service = &compiled.desired.services["PACS"];
    assert_eq!(service.keys.len(), 2);
    assert_eq!(
        service.backends["R1"].forward,
        Some(Forward {
            ifindex: 2,
            dst_mac: SERVER_MAC,
            src_mac: world.facts.links[&2].mac,
            vlan_depth: 0,
            vlan: [0; 2],
            outer_tpid: 0,
            mtu: 1500,
        })
    );
    assert_eq!(compiled.desired.links, BTreeSet::from([2]));
    let address = VipAddress { ifindex: 2, ip: ip("10.12.1.100") };
    assert_eq!(compiled.desired.addresses, BTreeMap::from([(address, 2)]));
    assert!(compiled.notes.vips.is_empty() && compiled.notes.problems.is_empty());
}

const DRAIN: Order = Order::Drain { migrate: None, deadline_epoch_secs: None, then_halt: false };
const MIGRATE: Order = Order::Drain { migrate: Some(true), deadline_epoch_secs: None, then_halt: false };
const HALT: Order = Order::Halt { keep_sessions: false };

#[test]
fn drain_keeps_flows_halt_and_down_end_them() {
    let mut world = World::new();
    world.operator.insert(id("R1"), DRAIN.into());
    assert_eq!(world.fate("R1"), (RipState::Drain, true, false, None));
    world.operator.insert(id("R1"), HALT.into());
    assert_eq!(world.fate("R1"), (RipState::Halt, false, false, None));
    world.verdict("R2", Verdict::Down);
    assert_eq!(world.fate("R2"), (RipState::Down, false, false, None));
    world.operator.clear();
    world.config.vips[0].rips[0].weight = 0;
    assert_eq!(world.fate("R1").0, RipState::Drain);
    assert!(world.fate("R1").1 && !world.fate("R1").2);
}

#[test]
fn who_migrates_clients_is_closed_to_those_that_persistence_would_send_there() {
    let mut world = World::new();
    let flags = |world: &World| world.compile().desired.services["PACS"].backends["R1"].limits.flags;
    world.operator.insert(id("R1"), DRAIN.into());
    assert_eq!(flags(&world), 0);
    world.operator.insert(id("R1"), MIGRATE.into());
    assert_eq!((world.fate("R1"), flags(&world)), ((RipState::Drain, true, false, None), CLOSED));
}

#[test]
fn a_halt_that_keeps_sessions_keeps_those_there_are_until_the_server_fails() {
    let mut world = World::new();
    let flags = |world: &World| world.compile().desired.services["PACS"].backends["R1"].limits.flags;
    world.operator.insert(id("R1"), Order::Halt { keep_sessions: true }.into());
    assert_eq!(world.fate("R1"), (RipState::Halt, false, false, None), "nothing was there to be kept");
    world.operator.clear();
    world.before = world.compile().desired;
    world.operator.insert(id("R1"), Order::Halt { keep_sessions: true }.into());
    assert_eq!((world.fate("R1"), flags(&world)), ((RipState::Halt, true, false, None), CLOSED));
    world.health.clear();
    assert_eq!(world.fate("R1"), (RipState::Halt, true, false, None), "what is not known changes nothing");
    world.verdict("R1", Verdict::Down);
    assert_eq!(world.fate("R1"), (RipState::Halt, false, false, None));
}

#[test]
fn a_forced_verdict_counts_in_place_of_the_checks_but_finds_no_way() {
    let mut world = World::new();
    let force = |up| Word { order: Order::Online, forced: Some(Forced { up, until_epoch_secs: None }) };
    world.operator.insert(id("R1"), force(false));
    assert_eq!(world.fate("R1"), (RipState::Down, false, false, None));
    world.operator.insert(id("R1"), force(true));
    for verdict in [Verdict::Down, Verdict::Unknown] {
        world.verdict("R1", verdict);
        assert_eq!(world.fate("R1"), (RipState::Active, true, true, None));
    }
    let halted = Word { order: HALT, ..force(true) };
    world.operator.insert(id("R1"), halted);
    assert_eq!(world.fate("R1").0, RipState::Halt, "an order stands above a verdict");
    world.operator.insert(id("R1"), force(true));
    world.facts.paths.get_mut(&ip("10.12.1.110")).unwrap().mac = None;
    assert_ne!(world.fate("R1").0, RipState::Active);
}

#[test]
fn a_server_may_ask_for_no_new_connections_and_keeps_those_it_has() {
    let mut world = World::new();
    let advise = |world: &mut World, state, percent| {
        let health = world.health.get_mut(&id("R1")).unwrap();
        health.advice = Advice { percent, state };
    };
    let flags = |world: &World| world.compile().desired.services["PACS"].backends["R1"].limits.flags;
    let says = |text: &str| Some(format!("its agent says {text}"));
    advise(&mut world, Some(AdvisedState::Drain), Some(50));
    assert_eq!(world.fate("R1"), (RipState::Drain, true, false, says("drain")));
    advise(&mut world, None, Some(0));
    assert_eq!(world.fate("R1"), (RipState::Drain, true, false, says("0 %")));
    advise(&mut world, Some(AdvisedState::Maint), None);
    assert_eq!(
        world.fate("R1"),
        (RipState::Halt, false, false, says("maint")),
        "nothing was there to be kept"
    );
    advise(&mut world, None, Some(40));
    world.before = world.compile().desired;
    assert_eq!(world.fate("R1"), (RipState::Active, true, true, None));
    advise(&mut world, Some(AdvisedState::Maint), None);
    assert_eq!((world.fate("R1"), flags(&world)), ((RipState::Halt, true, false, says("maint")), CLOSED));
    world.operator.insert(
        id("R1"),
        Word { order: Order::Online, forced: Some(Forced { up: true, until_epoch_secs: None }) },
    );
    assert_eq!(world.fate("R1").0, RipState::Active, "the operator stands above the server");
}

#[test]
fn what_a_server_waits_for_before_its_first_verdict_is_said() {
    let mut world = World::new();
    let mut health = Health::new(Verdict::Unknown, SystemTime::UNIX_EPOCH);
    health.waiting = Some("the VIP is not on an interface yet".to_owned());
    let why = health.waiting.clone();
    world.health.insert(id("R1"), health);
    assert_eq!(world.fate("R1"), (RipState::Checking, false, false, why));
}

#[test]
fn a_server_is_fresh_when_nothing_reached_it_before() {
    let mut world = World::new();
    let fresh = |world: &World| world.compile().notes.rips[&id("R1")].fresh;
    assert!(fresh(&world));
    world.before = world.compile().desired;
    assert!(!fresh(&world), "as after a restart of the controller");
    world.operator.insert(id("R1"), DRAIN.into());
    world.before = world.compile().desired;
    world.operator.clear();
    assert!(!fresh(&world), "it was live all the while");
    world.verdict("R1", Verdict::Down);
    world.before = world.compile().desired;
    world.verdict("R1", Verdict::Up);
    assert!(fresh(&world));
    world.ramps.insert(id("R1"), 40);
    assert_eq!(world.fate("R1").3.as_deref(), Some("slow start 40 %"));
}

#[test]
fn unknown_is_not_up_except_for_a_server_that_was_in_service() {
    let mut world = World::new();
    world.before = world.compile().desired;
    world.before.services.get_mut("PACS").unwrap().backends.get_mut("R2").unwrap().forward = None;
    world.health.clear();
    assert_eq!(world.fate("R1"), (RipState::Active, true, true, None));
    assert_eq!(world.fate("R2"), (RipState::Checking, false, false, Some("not checked yet".to_owned())));
    world.verdict("R1", Verdict::Down);
    assert_eq!(world.fate("R1").0, RipState::Down, "the first verdict counts");
}

#[test]
fn a_renamed_vip_and_server_stay_in_service_until_their_first_verdict() {
    let mut world = World::new();
    world.before = world.compile().desired;
    let old = world.before.services.remove("PACS").unwrap();
    world.before.services.insert("OLD".to_owned(), old);
    world.config.vips[0].rips[0].name = "NEW".to_owned();
    world.health.clear();
    assert_eq!(world.fate("NEW").0, RipState::Active);
}

#[test]
fn the_way_that_was_goes_on_until_netlink_says_otherwise() {
    let mut world = World::new();
    world.before = world.compile().desired;
    world.facts.paths.clear();
    let (state, live, table, detail) = world.fate("R1");
    assert_eq!((state, live, table), (RipState::Active, true, true));
    assert_eq!(detail.as_deref(), Some("waiting for the route to 10.12.1.110"));
    assert_eq!(world.compile().desired.links, BTreeSet::from([2]), "the program stays on the link");
    world.before = DesiredState::default();
    assert_eq!(world.fate("R1").0, RipState::Checking);
}

#[test]
fn a_server_that_answers_no_arp_is_down_and_says_so() {
    let mut world = World::new();
    world.before = world.compile().desired;
    *world.path_mut() = Path { mac: None, failed: true, ..path(2) };
    assert_eq!(world.fate("R1"), (RipState::Down, false, false, Some("no answer to ARP".to_owned())));
}

#[test]
fn a_cable_that_is_out_leaves_flows_alone_and_is_said() {
    let mut world = World::new();
    world.before = world.compile().desired;
    world.facts.links.get_mut(&2).unwrap().carrier = false;
    let (state, live, _, detail) = world.fate("R1");
    assert_eq!((state, live), (RipState::Active, true));
    assert_eq!(detail.as_deref(), Some("interface eth1 has no carrier: check its cable and switch port"));
    assert!(world.compile().notes.vips["PACS"].contains("no carrier"));
}

#[test]
fn a_server_that_is_out_of_reach_says_why_and_what_to_do() {
    let mut world = World::new();
    world.path_mut().gateway = Some(ip("10.12.1.254"));
    assert_eq!(
        world.fate("R1").3.as_deref(),
        Some(
            "10.12.1.110 is reached through gateway 10.12.1.254: give this machine an interface in its subnet"
        )
    );
    *world.path_mut() = Path { local: true, ..path(2) };
    assert!(world.fate("R1").3.unwrap().contains("this machine's own address"));
    *world.path_mut() = Path { ifindex: None, ..path(2) };
    assert!(world.fate("R1").3.unwrap().starts_with("no route to 10.12.1.110"));
}

#[test]
fn vlan_interfaces_put_tags_outer_first_and_attach_to_the_bottom() {
    let mut world = World::new();
    let mut outer = link(3, "eth1.100");
    (outer.parent, outer.vlan) = (Some(2), Some(VlanTag { id: 100, tpid: 0x88a8 }));
    let mut inner = link(4, "eth1.100.200");
    (inner.parent, inner.vlan) = (Some(3), Some(VlanTag { id: 200, tpid: 0x8100 }));
    world.facts.links.extend([(3, outer), (4, inner)]);
    *world.path_mut() = path(4);
    let compiled = world.compile();
    let forward = compiled.desired.services["PACS"].backends["R1"].forward.unwrap();
    assert_eq!(
        (forward.ifindex, forward.vlan_depth, forward.vlan, forward.outer_tpid),
        (2, 2, [100, 200], 0x88a8)
    );
    assert_eq!(compiled.desired.links, BTreeSet::from([2]));
    *world.path_mut() = path(3);
    assert!(world.fate("R1").3.unwrap().contains("must be 802.1Q"));
}

#[test]
fn a_vip_without_a_place_says_so_and_keeps_what_it_had() {
    let mut world = World::new();
    world.before = world.compile().desired;
    world.facts.addresses.clear();
    let compiled = world.compile();
    assert_eq!(
        compiled.notes.vips["PACS"],
        "10.12.1.100 is in no connected subnet: give this machine an address in its subnet, or set `interface`"
    );
    assert_eq!(compiled.desired.addresses, world.before.addresses, "an address that is there stays");
    assert_eq!(compiled.desired.links, BTreeSet::from([2]));

    world.config.vips[0].interface = Some("eth9".to_owned());
    assert_eq!(world.compile().notes.vips["PACS"], "interface eth9 does not exist: there are eth1");
    let mut bond = link(5, "bond0");
    bond.kind = Some("bond".to_owned());
    world.facts.links.insert(5, bond);
    world.facts.links.get_mut(&2).unwrap().master = Some(5);
    world.config.vips[0].interface = Some("eth1".to_owned());
    assert_eq!(world.compile().notes.vips["PACS"], "interface eth1 is part of bond bond0: use bond0 instead");
}

#[test]
fn named_interfaces_are_the_only_ones_attached() {
    let mut world = World::new();
    world.facts.links.insert(3, link(3, "eth2"));
    world.config.node.interfaces = vec!["eth2".to_owned(), "nope".to_owned()];
    let compiled = world.compile();
    assert_eq!(compiled.desired.links, BTreeSet::from([3]));
    assert!(compiled.notes.vips["PACS"].contains("eth1 is not among `node.interfaces`"));
    assert_eq!(compiled.notes.problems, ["interface nope does not exist: there are eth1, eth2"]);
}

#[test]
fn a_disabled_vip_leaves_nothing_in_the_data_plane_but_is_noted() {
    let mut world = World::new();
    world.config.vips[0].enabled = false;
    let compiled = world.compile();
    assert_eq!(compiled.desired, DesiredState::default());
    assert_eq!(compiled.notes.rips.len(), 2);
    assert!(watched(&world.config).is_empty());
}

#[test]
fn persistence_is_written_in_the_kernels_unit_of_time() {
    let mut world = World::new();
    world.config.vips[0].persist =
        Persist::SourceIp { prefix_v4: 24, prefix_v6: 64, timeout: Duration::from_secs(300), group: None };
    let record = world.compile().desired.services["PACS"].record;
    assert_eq!((record.persist_prefix, record.persist_ticks), (24, 2344), "300 s of 128 ms");
}

fn address(ifindex: u32, text: &str, prefix: u8) -> Address {
    Address { ifindex, ip: ip(text), prefix, duplicate: false, tentative: false }
}

/// Addresses of a SNAT VIP's sources.
fn sources(compiled: &Compiled) -> Vec<IpAddr> {
    let sources = &compiled.desired.services["PACS"].sources;
    sources.addrs[..sources.count as usize].iter().map(|a| ip4(a[0] as u32).into()).collect()
}

impl World {
    fn snat() -> Self {
        let mut world = Self::new();
        world.config.vips[0].mode = Mode::L4Snat;
        world
    }
}

#[test]
fn modes_and_flags_are_recorded_where_they_mean_something() {
    for (mode, return_path, reset, expected) in [
        (Mode::L4Dr, ReturnPath::Route, true, (mode::DR, 0)),
        (Mode::L4Nat, ReturnPath::LastHop, true, (mode::NAT, flags::RESET)),
        (Mode::L4Nat, ReturnPath::Route, false, (mode::NAT, flags::RETURN_BY_ROUTE)),
        (Mode::L4Snat, ReturnPath::Route, true, (mode::SNAT, flags::RETURN_BY_ROUTE | flags::RESET)),
    ] {
        let mut world = World::new();
        let vip = &mut world.config.vips[0];
        (vip.mode, vip.return_path, vip.reset) = (mode, return_path, reset);
        let record = world.compile().desired.services["PACS"].record;
        assert_eq!((record.mode, record.flags), expected, "{mode:?}");
    }
}

#[test]
fn every_port_and_both_protocols_are_keys() {
    let mut world = World::new();
    world.config.vips[0].protocols = Protocols::TcpUdp;
    assert_eq!(world.compile().desired.services["PACS"].keys.len(), 4);
    world.config.vips[0].ports = Ports::All;
    let keys: Vec<_> =
        world.compile().desired.services["PACS"].keys.iter().map(|k| (k.port, k.protocol)).collect();
    assert_eq!(keys, [(0, Protocol::Tcp), (0, Protocol::Udp)]);
}

#[test]
fn frames_leave_by_the_mtu_of_their_link_and_replies_by_that_of_the_physical_one() {
    let mut world = World::new();
    let mut vlan = link(3, "eth1.100");
    (vlan.parent, vlan.vlan) = (Some(2), Some(VlanTag { id: 100, tpid: 0x8100 }));
    vlan.mtu = 1496;
    world.facts.links.insert(3, vlan);
    world.facts.links.get_mut(&2).unwrap().mtu = 70_000;
    *world.path_mut() = path(3);
    let compiled = world.compile();
    let backends = &compiled.desired.services["PACS"].backends;
    let mtu = |rip: &str| backends[rip].forward.unwrap().mtu;
    assert_eq!((mtu("R1"), mtu("R2")), (1496, u16::MAX));
    let record = LinkRecord { mac: world.facts.links[&2].mac, mtu: u16::MAX };
    assert_eq!(compiled.desired.link_records, BTreeMap::from([(2, record)]));

    world.facts.links.get_mut(&2).unwrap().mac = Mac::default();
    assert!(world.compile().desired.link_records.is_empty(), "nothing leaves without a MAC");
}

#[test]
fn snat_takes_this_machines_own_address_beside_the_servers() {
    let mut world = World::snat();
    world.config.gateway.addresses = vec![GatewayAddress { ip: ip("10.12.1.2"), interface: None }];
    world.facts.addresses = vec![
        address(3, "10.12.1.9", 24),
        address(2, "10.12.0.8", 16),
        // Claimed, though the prefix does not show it.
        address(2, "10.12.1.2", 24),
        address(2, "10.12.1.100", 32),
        Address { tentative: true, ..address(2, "10.12.1.3", 24) },
        address(2, "10.12.1.6", 24),
        address(2, "10.12.1.5", 24),
    ];
    world.facts.links.insert(3, link(3, "eth2"));
    let compiled = world.compile();
    assert_eq!(sources(&compiled), [ip("10.12.1.5")]);
    let sources = &compiled.desired.services["PACS"].sources;
    assert_eq!((sources.first_port, sources.ports), (10_240, 32_767 - 10_240 + 1));
    assert!(compiled.notes.problems.is_empty(), "{:?}", compiled.notes.problems);
    assert_eq!(world.fate("R1"), (RipState::Active, true, true, None));
}

#[test]
fn snat_without_a_source_takes_no_flows_and_says_why() {
    let mut world = World::snat();
    world.config.vips[0].interface = Some("eth1".to_owned());
    world.facts.addresses.clear();
    let compiled = world.compile();
    assert_eq!(
        compiled.notes.vips["PACS"],
        "no address of this machine on eth1 is in the subnet of 10.12.1.110: add one to eth1, or name others with `source`"
    );
    assert!(sources(&compiled).is_empty());
    let waiting = Some("waiting for a source address".to_owned());
    assert_eq!(world.fate("R1"), (RipState::Checking, true, false, waiting));
}

#[test]
fn servers_on_several_links_give_all_of_their_addresses_which_is_said() {
    let mut world = World::snat();
    world.facts.links.insert(3, link(3, "eth2"));
    world.facts.addresses.push(address(3, "10.99.0.1", 24));
    world.config.vips[0].rips[1].ip = ip("10.99.0.7");
    world.facts.paths.insert(ip("10.99.0.7"), path(3));
    let compiled = world.compile();
    assert_eq!(sources(&compiled), [ip("10.12.1.1"), ip("10.99.0.1")]);
    assert!(
        compiled.notes.problems[0]
            .starts_with("VIP PACS: its servers are on eth1 and eth2, and each may see")
    );

    world.config.vips[0].source.addresses = SourceAddresses::Vip;
    let compiled = world.compile();
    assert_eq!((sources(&compiled), compiled.notes.problems), (vec![ip("10.12.1.100")], vec![]));
}

#[test]
fn sources_that_were_go_on_until_the_way_to_a_server_is_known() {
    let mut world = World::snat();
    world.before = world.compile().desired;
    world.facts.paths.clear();
    assert_eq!(sources(&world.compile()), [ip("10.12.1.1")]);
    world.facts.addresses[0].ip = ip("10.12.1.4");
    assert!(sources(&world.compile()).is_empty(), "an address that is gone does not");
}

#[test]
fn source_addresses_are_claimed_and_used_once_they_are_here() {
    let mut world = World::snat();
    let pool = vec![ip("10.12.1.21"), ip("10.12.1.20")];
    world.config.vips[0].source = Source { addresses: SourceAddresses::Pool(pool), ports: 20_000..=20_099 };
    let compiled = world.compile();
    let claimed: Vec<_> = compiled.desired.addresses.keys().map(|a| a.ip.to_string()).collect();
    assert_eq!(claimed, ["10.12.1.20", "10.12.1.21", "10.12.1.100"]);
    assert!(sources(&compiled).is_empty() && !world.fate("R1").2);
    assert!(compiled.notes.vips.is_empty(), "a claim takes a second: no fault");

    world.facts.addresses.extend([address(2, "10.12.1.20", 32), address(2, "10.12.1.21", 32)]);
    let compiled = world.compile();
    assert_eq!(sources(&compiled), [ip("10.12.1.20"), ip("10.12.1.21")]);
    assert_eq!(compiled.desired.services["PACS"].sources.ports, 100);
    assert!(world.fate("R1").2);

    world.config.vips[0].source.addresses = SourceAddresses::Pool(vec![ip("10.77.0.1")]);
    assert_eq!(
        world.compile().notes.vips["PACS"],
        "source address 10.77.0.1 is in no connected subnet: give this machine an address in its subnet"
    );
    let many: Vec<IpAddr> = (1..=17).map(|n| Ipv4Addr::new(10, 12, 1, n).into()).collect();
    world.facts.addresses = many.iter().map(|a| address(2, &a.to_string(), 24)).collect();
    world.config.vips[0].source.addresses = SourceAddresses::Pool(many);
    assert_eq!(
        world.compile().notes.vips["PACS"],
        "17 source addresses, at most 16 can be used: name fewer with `source`"
    );
}

#[test]
fn gateway_addresses_are_claimed_with_the_program_on_their_link() {
    let mut world = World::new();
    world.facts.links.insert(3, link(3, "eth2"));
    let gateway = |text: &str, interface: Option<&str>| GatewayAddress {
        ip: ip(text),
        interface: interface.map(str::to_owned),
    };
    world.config.gateway.addresses =
        vec![gateway("10.12.1.254", None), gateway("10.50.0.1", Some("eth2")), gateway("10.60.0.1", None)];
    let compiled = world.compile();
    let at = |ifindex, text| (VipAddress { ifindex, ip: ip(text) }, ifindex);
    assert_eq!(
        compiled.desired.addresses,
        BTreeMap::from([at(2, "10.12.1.100"), at(2, "10.12.1.254"), at(3, "10.50.0.1")])
    );
    assert_eq!(compiled.desired.links, BTreeSet::from([2, 3]));
    assert_eq!(compiled.desired.link_records.len(), 2);
    assert_eq!(compiled.notes.problems.len(), 1);
    assert!(
        compiled.notes.problems[0]
            .starts_with("gateway address 10.60.0.1: 10.60.0.1 is in no connected subnet")
    );

    world.before = compiled.desired.clone();
    world.facts.addresses.clear();
    assert_eq!(world.compile().desired.addresses, compiled.desired.addresses, "what is there stays");
}

#[test]
fn what_lives_on_a_link_that_is_left_out_is_told() {
    let mut world = World::new();
    world.config.node.interfaces = vec!["eth1".to_owned()];
    world.facts.links.insert(3, link(3, "eth2"));
    world.facts.addresses.push(address(3, "10.99.0.1", 24));
    world.config.gateway.addresses = vec![GatewayAddress { ip: ip("10.99.0.254"), interface: None }];
    *world.path_mut() = path(3);
    let compiled = world.compile();
    assert!(compiled.notes.vips.is_empty(), "answers go past this machine: {:?}", compiled.notes.vips);
    assert_eq!(
        compiled.notes.problems,
        ["gateway address 10.99.0.254: its interface eth2 is not among `node.interfaces`: add it there"]
    );
    world.config.vips[0].mode = Mode::L4Nat;
    assert_eq!(
        world.compile().notes.vips["PACS"],
        "answers of R1 come by eth2, which is not among `node.interfaces`: add it there"
    );
    let source = Source { addresses: SourceAddresses::Pool(vec![ip("10.99.0.9")]), ..Source::default() };
    (world.config.vips[0].mode, world.config.vips[0].source) = (Mode::L4Snat, source);
    assert_eq!(
        world.compile().notes.vips["PACS"],
        "the interface eth2 of its source address 10.99.0.9 is not among `node.interfaces`: add it there"
    );
}

#[test]
fn a_server_with_another_port_is_still_known() {
    let mut world = World::new();
    world.config.vips[0].mode = Mode::L4Nat;
    world.config.vips[0].rips[0].port = Some(4242);
    world.before = world.compile().desired;
    assert_eq!(world.before.services["PACS"].backends["R1"].port, Some(4242));
    world.config.vips[0].rips[0].port = Some(4243);
    world.health.clear();
    assert_eq!(world.fate("R1").0, RipState::Active);
}
