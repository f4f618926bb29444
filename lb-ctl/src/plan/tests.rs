use std::net::Ipv4Addr;

use lb_common::{
    limits::MAX_TWINS,
    load::{Limits, flags::CLOSED},
    net::Mac,
    service::pick,
};
use proptest::prelude::*;

use super::*;
use crate::{
    dataplane::{
        ServiceKey, Writer,
        fake::{Fake, FakeWriter},
    },
    model::{
        config::Protocol,
        desired::{DesiredBackend, Entrant, Forward, group_id},
    },
};

fn key(n: u8) -> ServiceKey {
    ServiceKey {
        ip: Ipv4Addr::new(10, 12, 1, 100 + n / 2).into(),
        port: 104 + u16::from(n),
        protocol: Protocol::Tcp,
    }
}

fn forward(mac: u8) -> Forward {
    Forward {
        ifindex: 2,
        dst_mac: Mac([2, 0, 0, 0, 0, mac]),
        src_mac: Mac([2, 0, 0, 0, 1, 0]),
        vlan_depth: 0,
        vlan: [0; 2],
        outer_tpid: 0,
        mtu: 1500,
    }
}

/// Servers as `(name, last octet, forward's MAC or dead, weight in the table or 0)`.
fn service(keys: &[u8], hash: bool, servers: &[(u8, u8, Option<u8>, u16)]) -> DesiredService {
    let ip = |octet| IpAddr::from(Ipv4Addr::new(10, 12, 1, octet));
    DesiredService {
        keys: keys.iter().map(|&k| key(k)).collect(),
        record: Service {
            mode: mode::DR,
            pick: if hash { pick::HASH_FLOW } else { pick::ROTATE },
            ..Service::default()
        },
        group: None,
        idle_timeout_secs: 3600,
        sources: Sources::default(),
        filling: if hash { Filling::Maglev } else { Filling::RoundRobin },
        backends: servers
            .iter()
            .map(|&(name, octet, mac, weight)| {
                let forward = mac.map(forward);
                let weight = if forward.is_some() { weight } else { 0 };
                let limits = Limits { weight, ..Limits::default() };
                let backend = DesiredBackend { ip: ip(octet), port: None, forward, limits };
                (format!("R{name}"), backend)
            })
            .collect(),
        entrants: servers
            .iter()
            .filter(|s| s.2.is_some() && s.3 > 0)
            .map(|&(name, _, _, weight)| Entrant { name: format!("R{name}"), weight })
            .collect(),
    }
}

/// The service as one of another mode; SNAT with so many source addresses.
fn routed(mut service: DesiredService, mode: u8, sources: u32) -> DesiredService {
    service.record.mode = mode;
    if mode == mode::SNAT {
        service.sources = Sources { count: sources, first_port: 10_240, ports: 1000, ..Sources::default() };
        let addrs = service.sources.addrs.iter_mut().take(sources as usize);
        addrs.zip(1..).for_each(|(addr, n)| *addr = [n, 0]);
        if sources == 0 {
            service.sources = Sources::default();
            service.entrants.clear();
            service.backends.values_mut().for_each(|b| b.limits.weight = 0);
        }
    }
    service
}

/// The service as one that balances by its servers' connections.
fn least(mut service: DesiredService) -> DesiredService {
    (service.record.pick, service.filling) = (pick::LEAST, Filling::Maglev);
    service
}

/// The service as one that shares its persistence.
fn grouped(mut service: DesiredService, group: &str) -> DesiredService {
    service.group = Some(group.to_owned());
    service.record.flags |= flags::SHARED;
    service.record.persist_prefix = 32;
    service
}

fn link_record(mac: u8) -> LinkRecord {
    LinkRecord { mac: Mac([2, 0, 0, 0, 2, mac]), mtu: 1500 }
}

fn state(services: Vec<(&str, DesiredService)>) -> DesiredState {
    DesiredState {
        links: BTreeSet::from([2]),
        services: services.into_iter().map(|(n, s)| (n.to_owned(), s)).collect(),
        ..DesiredState::default()
    }
}

/// Takes every step, and looks at what a packet would meet after each.
fn reach(fake: &Fake, writer: &mut FakeWriter, desired: &DesiredState) -> Plan {
    let made = plan(desired, writer.installed());
    for step in &made.steps {
        writer.apply(&step.op).unwrap();
        if let Err(broken) = fake.check_invariants() {
            panic!("after {:?}: {broken}\nof {:#?}", step.op, made.steps);
        }
    }
    made
}

fn slot_of(installed: &Installed, ip: u8) -> (u16, u16) {
    let wanted = IpAddr::from(Ipv4Addr::new(10, 12, 1, ip));
    let (slot, (_, record)) = installed.backends.iter().find(|(_, (who, _))| who.ip == wanted).unwrap();
    (*slot, record.generation)
}

#[test]
fn a_new_vip_gets_filter_servers_table_record_and_keys_in_that_order() {
    let fake = Fake::default();
    let (mut writer, _) = fake.open();
    let desired = state(vec![("A", service(&[0, 1], true, &[(1, 10, Some(1), 100)]))]);
    let made = reach(&fake, &mut writer, &desired);
    let kinds: Vec<String> = made
        .steps
        .iter()
        .map(|s| format!("{:?}", s.op).split([' ', '{']).next().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(
        kinds,
        ["AttachLink", "SetFilter", "PutBackend", "PutLoad", "PutTable", "PutService", "PutKey", "PutKey"]
    );
}

#[test]
fn drain_and_a_new_mac_keep_the_generation_and_death_raises_it_once() {
    let fake = Fake::default();
    let (mut writer, _) = fake.open();
    let with = |server| state(vec![("A", service(&[0], true, &[server, (2, 11, Some(2), 100)]))]);
    reach(&fake, &mut writer, &with((1, 10, Some(1), 100)));
    let first = slot_of(writer.installed(), 10);
    reach(&fake, &mut writer, &with((1, 10, Some(1), 0)));
    assert_eq!(slot_of(writer.installed(), 10), first, "drained");
    reach(&fake, &mut writer, &with((1, 10, Some(9), 100)));
    assert_eq!(slot_of(writer.installed(), 10), first, "new MAC");
    reach(&fake, &mut writer, &with((1, 10, None, 0)));
    assert_eq!(slot_of(writer.installed(), 10), (first.0, first.1 + 1), "dead");
    reach(&fake, &mut writer, &with((1, 10, Some(1), 100)));
    assert_eq!(slot_of(writer.installed(), 10), (first.0, first.1 + 1), "alive again");
}

#[test]
fn renaming_a_server_or_a_vip_keeps_its_flows() {
    let fake = Fake::default();
    let (mut writer, _) = fake.open();
    reach(&fake, &mut writer, &state(vec![("A", service(&[0], false, &[(1, 10, Some(1), 100)]))]));
    let before = slot_of(writer.installed(), 10);
    reach(&fake, &mut writer, &state(vec![("NEW", service(&[0], false, &[(7, 10, Some(1), 100)]))]));
    assert_eq!(slot_of(writer.installed(), 10), before);
    let names: Vec<_> = writer.installed().services.values().map(|(i, _)| i.name.as_str()).collect();
    assert_eq!(names, ["NEW"]);
}

#[test]
fn another_address_under_the_same_name_is_another_server() {
    let fake = Fake::default();
    let (mut writer, _) = fake.open();
    let with = |octet| state(vec![("A", service(&[0], false, &[(1, octet, Some(1), 100)]))]);
    reach(&fake, &mut writer, &with(10));
    let (slot, generation) = slot_of(writer.installed(), 10);
    reach(&fake, &mut writer, &with(11));
    let now = slot_of(writer.installed(), 11);
    assert_ne!(now, (slot, generation));
    assert_eq!(writer.installed().backends.len(), 1);
    reach(&fake, &mut writer, &with(12));
    assert_eq!(
        slot_of(writer.installed(), 12),
        (slot, generation + 1),
        "the slot is used again, a generation later"
    );
}

#[test]
fn changing_one_vip_leaves_the_others_alone() {
    let fake = Fake::default();
    let (mut writer, _) = fake.open();
    let with = |weight| {
        state(vec![
            ("A", service(&[0], true, &[(1, 10, Some(1), 100)])),
            ("B", service(&[1], true, &[(1, 10, Some(1), weight), (2, 11, Some(2), 100)])),
        ])
    };
    reach(&fake, &mut writer, &with(100));
    let made = reach(&fake, &mut writer, &with(50));
    assert!(!made.steps.is_empty());
    assert!(made.steps.iter().all(|s| s.vip.as_deref() == Some("B")), "{:?}", made.steps);
}

#[test]
fn a_restarted_controller_adopts_what_is_there_without_touching_servers() {
    let fake = Fake::default();
    let (mut writer, _) = fake.open();
    let desired = state(vec![("A", service(&[0], true, &[(1, 10, Some(1), 100), (2, 11, None, 0)]))]);
    reach(&fake, &mut writer, &desired);
    let (mut writer, _) = fake.open();
    let made = reach(&fake, &mut writer, &desired);
    for step in &made.steps {
        assert!(matches!(step.op, Op::PutTable { .. } | Op::SetFilter { .. }), "{:?}", step.op);
    }
    let told = DesiredState::from_installed(writer.installed());
    assert_eq!(told, desired, "the kernel's tables say the same in names");
}

#[test]
fn a_vip_too_many_is_a_problem_of_that_vip_alone() {
    let many: Vec<String> = (0..=MAX_SERVICES).map(|n| format!("V{n:05}")).collect();
    let services = many.iter().enumerate().map(|(n, name)| {
        let mut one = service(&[], true, &[(1, 10, Some(1), 100)]);
        one.keys.insert(ServiceKey { port: n as u16 + 1, ..key(0) });
        (name.as_str(), one)
    });
    let made = plan(&state(services.collect()), &Installed::default());
    assert_eq!(made.problems.len(), 1);
    let (vip, text) = made.problems.first_key_value().unwrap();
    assert_eq!((vip.as_str(), text.as_str()), ("V02048", "at most 2048 VIPs fit: remove one first"));
    assert!(made.steps.iter().all(|s| s.vip.as_deref() != Some("V02048")));
    let keys = made.steps.iter().filter(|s| matches!(s.op, Op::PutKey { .. })).count();
    assert_eq!(keys, MAX_SERVICES as usize);
}

#[test]
fn a_link_is_described_before_services_use_it_and_forgotten_after_it_is_detached() {
    let fake = Fake::default();
    let (mut writer, _) = fake.open();
    let mut desired =
        state(vec![("A", routed(service(&[0], true, &[(1, 10, Some(1), 100)]), mode::SNAT, 2))]);
    desired.link_records.insert(2, link_record(7));
    let kinds = |made: &Plan| -> Vec<String> {
        let ops = made.steps.iter().map(|s| format!("{:?}", s.op));
        ops.map(|op| op.split([' ', '{']).next().unwrap_or_default().to_owned()).collect()
    };
    let made = reach(&fake, &mut writer, &desired);
    assert_eq!(
        kinds(&made),
        [
            "AttachLink",
            "PutLink",
            "SetFilter",
            "PutSources",
            "PutBackend",
            "PutLoad",
            "PutTable",
            "PutService",
            "PutKey"
        ]
    );
    assert_eq!(writer.installed().link_records, desired.link_records);
    let made = reach(&fake, &mut writer, &DesiredState::default());
    assert_eq!(kinds(&made)[made.steps.len() - 2..], ["DetachLink", "PutLink"]);
    assert_eq!(made.steps.last().unwrap().op, Op::PutLink { ifindex: 2, record: LinkRecord::default() });
    let left = writer.installed();
    assert!(left.link_records.is_empty() && left.sources.is_empty(), "{left:?}");
    assert_eq!(plan(&DesiredState::default(), left), Plan::default());
}

#[test]
fn another_target_port_keeps_slot_and_generation() {
    let fake = Fake::default();
    let (mut writer, _) = fake.open();
    let with = |ports: [Option<u16>; 2]| {
        let mut nat =
            routed(service(&[0], true, &[(1, 10, Some(1), 100), (2, 11, Some(2), 100)]), mode::NAT, 0);
        nat.backends.values_mut().zip(ports).for_each(|(b, port)| b.port = port);
        state(vec![("A", nat)])
    };
    reach(&fake, &mut writer, &with([Some(8080), None]));
    let before = slot_of(writer.installed(), 10);
    let made = reach(&fake, &mut writer, &with([Some(9090), None]));
    assert_eq!(slot_of(writer.installed(), 10), before);
    let ports = writer.installed().backends.values().map(|(who, _)| who.port);
    assert_eq!(ports.collect::<Vec<_>>(), [Some(9090), None]);
    assert!(made.steps.iter().any(|s| matches!(s.op, Op::PutBackend { slot, .. } if slot == before.0)));
}

#[test]
fn two_servers_at_one_address_are_told_apart_by_their_port() {
    let fake = Fake::default();
    let (mut writer, _) = fake.open();
    let with = |names: [&str; 2]| {
        let mut nat = routed(service(&[0], true, &[]), mode::NAT, 0);
        for (name, port) in names.into_iter().zip([4242, 4243]) {
            let ip = Ipv4Addr::new(10, 12, 1, 10).into();
            let backend =
                DesiredBackend { ip, port: Some(port), forward: Some(forward(1)), limits: Limits::default() };
            nat.backends.insert(name.to_owned(), backend);
            nat.entrants.push(Entrant { name: name.to_owned(), weight: 1 });
        }
        state(vec![("A", nat)])
    };
    let slots = |writer: &FakeWriter| -> BTreeMap<Option<u16>, u16> {
        writer.installed().backends.iter().map(|(slot, (who, _))| (who.port, *slot)).collect()
    };
    reach(&fake, &mut writer, &with(["A", "B"]));
    let before = slots(&writer);
    assert_eq!(before.len(), 2);
    let (mut writer, _) = fake.open();
    reach(&fake, &mut writer, &with(["Y", "X"]));
    assert_eq!(slots(&writer), before, "after a restart, under other names");
    let entrants = &writer.installed().tables[&0].entrants;
    assert_eq!(entrants.iter().map(|e| e.port).collect::<Vec<_>>(), [Some(4242), Some(4243)]);
}

#[test]
fn a_change_of_mode_changes_no_generation_and_the_filter_follows() {
    let fake = Fake::default();
    let (mut writer, _) = fake.open();
    let dr = service(&[0], true, &[(1, 10, Some(1), 100)]);
    let servers = |writer: &FakeWriter| writer.installed().filter.clone().unwrap().1.len();
    reach(&fake, &mut writer, &state(vec![("A", dr.clone())]));
    let before = slot_of(writer.installed(), 10);
    for (mode, seen) in [(mode::NAT, 1), (mode::SNAT, 1), (mode::NAT, 1), (mode::DR, 0), (mode::SNAT, 1)] {
        reach(&fake, &mut writer, &state(vec![("A", routed(dr.clone(), mode, 1))]));
        assert_eq!(slot_of(writer.installed(), 10), before, "{mode}");
        assert_eq!(servers(&writer), seen, "{mode}");
        assert_eq!(writer.installed().sources.len(), usize::from(mode == mode::SNAT), "{mode}");
    }
}

#[test]
fn a_mode_that_changes_together_with_servers_or_sources_breaks_no_packets_path() {
    let one = &[(1, 10, Some(1), 100)][..];
    let other = &[(2, 11, Some(2), 100)][..];
    let with = |hash, servers, mode, sources| routed(service(&[0], hash, servers), mode, sources);
    for (what, from, to) in [
        ("a server comes", with(true, one, mode::NAT, 0), with(true, other, mode::DR, 0)),
        ("a server goes", with(false, one, mode::DR, 0), with(false, other, mode::SNAT, 1)),
        ("no source is left", with(false, one, mode::SNAT, 1), with(false, one, mode::SNAT, 0)),
        ("it never had a source", with(false, one, mode::NAT, 0), with(false, one, mode::SNAT, 0)),
        ("it had no source", with(true, one, mode::SNAT, 0), with(true, one, mode::NAT, 0)),
        ("it has a source", with(true, one, mode::SNAT, 0), with(true, one, mode::SNAT, 2)),
    ] {
        let fake = Fake::default();
        let (mut writer, _) = fake.open();
        reach(&fake, &mut writer, &state(vec![("A", from)]));
        let desired = state(vec![("A", to)]);
        reach(&fake, &mut writer, &desired);
        assert_eq!(plan(&desired, writer.installed()), Plan::default(), "{what}");
    }
}

#[test]
fn servers_without_a_slot_are_left_out_and_named_by_number() {
    let big = |vip: u8| {
        let mut one = service(&[vip], true, &[]);
        for n in 0..9000u32 {
            let ip = IpAddr::from(Ipv4Addr::from(0x0a00_0000 + n));
            let name = format!("R{n}");
            let limits = Limits::default();
            let backend = DesiredBackend { ip, port: None, forward: Some(forward(1)), limits };
            one.backends.insert(name.clone(), backend);
            one.entrants.push(Entrant { name, weight: 1 });
        }
        one
    };
    let made = plan(&state(vec![("A", big(0)), ("B", big(1))]), &Installed::default());
    assert_eq!(made.problems.keys().collect::<Vec<_>>(), ["B"]);
    assert!(
        made.problems["B"].starts_with("1616 of 9000 real servers have no slot"),
        "{}",
        made.problems["B"]
    );
    let tables = made.steps.iter().filter_map(|s| {
        let Op::PutTable { table, .. } = &s.op else {
            return None;
        };
        Some(table.entrants.len())
    });
    assert_eq!(tables.collect::<Vec<_>>(), [9000, 9000 - 1616]);
}

#[test]
fn a_server_that_closes_does_so_when_another_has_taken_its_place() {
    let fake = Fake::default();
    let (mut writer, _) = fake.open();
    let servers = |weights: [u16; 2]| {
        let [one, other] = weights;
        least(service(&[0], true, &[(1, 10, Some(1), one), (2, 11, Some(2), other)]))
    };
    reach(&fake, &mut writer, &state(vec![("A", servers([100, 0]))]));
    let mut next = servers([0, 50]);
    next.backends.get_mut("R1").unwrap().limits = Limits { max: 9, flags: CLOSED, ..Limits::default() };
    next.backends.get_mut("R2").unwrap().limits.max = 7;
    let made = reach(&fake, &mut writer, &state(vec![("A", next)]));
    let (closed, _) = slot_of(writer.installed(), 10);
    let (opened, _) = slot_of(writer.installed(), 11);
    let ops: Vec<&Op> = made.steps.iter().map(|s| &s.op).collect();
    let [Op::PutLoad { slot: first, .. }, Op::PutTable { .. }, Op::PutLoad { slot: last, limits }] = ops[..]
    else {
        panic!("{ops:#?}")
    };
    assert_eq!((*first, *last, limits.flags), (opened, closed, CLOSED));
}

#[test]
fn vips_of_a_group_know_their_servers_in_each_other_by_address_and_rather_by_port() {
    let fake = Fake::default();
    let (mut writer, _) = fake.open();
    let with_ports = |servers: [(u8, u8, Option<u16>); 3], key| {
        let mut nat = routed(service(&[key], true, &[]), mode::NAT, 0);
        for (name, octet, port) in servers {
            let ip = Ipv4Addr::new(10, 12, 1, octet).into();
            let limits = Limits::default();
            let backend = DesiredBackend { ip, port, forward: Some(forward(1)), limits };
            nat.backends.insert(format!("R{name}"), backend);
            nat.entrants.push(Entrant { name: format!("R{name}"), weight: 1 });
        }
        grouped(nat, "pacs")
    };
    // The third is in one of them alone; two share an address.
    let one = with_ports([(1, 10, Some(104)), (2, 10, Some(105)), (3, 12, Some(104))], 0);
    let other = with_ports([(1, 10, Some(105)), (2, 10, Some(106)), (3, 13, Some(104))], 1);
    let desired = state(vec![("A", one.clone()), ("B", other)]);
    reach(&fake, &mut writer, &desired);
    let installed = writer.installed().clone();
    let slot = |service: u16, octet: u8, port| {
        let ip = IpAddr::from(Ipv4Addr::new(10, 12, 1, octet));
        let is = |(_, (who, _)): &(&u16, &(BackendIdentity, Backend))| {
            (who.service, who.ip, who.port) == (service, ip, Some(port))
        };
        *installed.backends.iter().find(is).unwrap().0
    };
    let expected = BTreeMap::from([
        ((slot(0, 10, 104), 0), slot(0, 10, 104)),
        ((slot(0, 10, 105), 0), slot(0, 10, 105)),
        ((slot(0, 12, 104), 0), slot(0, 12, 104)),
        ((slot(1, 10, 105), 1), slot(1, 10, 105)),
        ((slot(1, 10, 106), 1), slot(1, 10, 106)),
        ((slot(1, 13, 104), 1), slot(1, 13, 104)),
        ((slot(0, 10, 104), 1), slot(1, 10, 105)),
        ((slot(0, 10, 105), 1), slot(1, 10, 105)),
        ((slot(1, 10, 105), 0), slot(0, 10, 105)),
        ((slot(1, 10, 106), 0), slot(0, 10, 104)),
    ]);
    assert_eq!(installed.twins, expected);
    let groups: BTreeSet<u32> = installed.services.values().map(|(_, r)| r.persist_group).collect();
    assert_eq!(groups, [group_id("pacs")].into());
    assert!(group_id("pacs") >> 31 == 1);

    // One leaves: the other shares with nobody, and knows its own servers still.
    let mut alone = one.clone();
    alone.group = None;
    alone.record.flags = 0;
    reach(&fake, &mut writer, &state(vec![("A", alone), ("B", one)]));
    assert_eq!(writer.installed().services[&0].1.persist_group, 0);
    assert!(writer.installed().twins.keys().all(|(_, service)| *service == 1));
    reach(&fake, &mut writer, &DesiredState::default());
    assert!(writer.installed().twins.is_empty());
}

#[test]
fn a_group_that_does_not_fit_is_told_and_its_vips_keep_their_persistence_to_themselves() {
    let names: Vec<String> = (0..16).map(|n| format!("V{n:02}")).collect();
    let servers: Vec<_> = (0..250).map(|n| (n, n, Some(1), 1)).collect();
    let mut vips: Vec<_> = names
        .iter()
        .zip(0..)
        .map(|(name, n)| (name.as_str(), grouped(service(&[n], true, &servers), "big")))
        .collect();
    const { assert!(16 * 16 * 250 < MAX_TWINS, "sixteen VIPs fit") };
    vips.push(("Z", grouped(service(&[200], true, &[(1, 10, Some(1), 1)]), "small")));
    assert_eq!(plan(&state(vips.clone()), &Installed::default()).problems, BTreeMap::new());
    vips.push(("W", grouped(service(&[201], true, &servers), "big")));
    let made = plan(&state(vips), &Installed::default());
    assert_eq!(made.problems.len(), 17);
    assert!(made.problems["W"].starts_with("persistence group `big` does not fit"), "{}", made.problems["W"]);
    for step in &made.steps {
        if let Op::PutService { service, identity, record } = &step.op {
            let shares = identity.name == "Z";
            assert_eq!(record.flags & flags::SHARED != 0, shares, "{identity:?}");
            assert_eq!(record.persist_group, if shares { group_id("small") } else { u32::from(*service) });
        }
    }
    let twins = made.steps.iter().filter(|s| matches!(s.op, Op::PutTwin { .. })).count();
    assert_eq!(twins, 1);
}

#[test]
fn no_server_ever_gets_the_generation_of_flows_that_were_ended() {
    assert_eq!(next_generation(VOID_GENERATION - 1), 1);
    assert_eq!((next_generation(u16::MAX), next_generation(0), next_generation(7)), (1, 1, 8));
}

/// VIPs A to D share six keys, each key with at most one VIP; servers are five names over five addresses.
fn any_state() -> impl Strategy<Value = DesiredState> {
    let server = (any::<bool>(), 0u8..5, prop::option::weighted(0.7, 0u8..3), 0u16..3);
    let way = (mode::DR..=mode::SNAT, 0u32..3, prop::option::of(1u16..3));
    // How it is balanced, whom it shares persistence with, and whether servers that take nothing are closed.
    let taste = (0u8..3, 0usize..4, any::<bool>());
    let vip = (taste, prop::collection::vec(server, 5), 0usize..5, way);
    (
        prop::collection::vec(vip, 4),
        prop::collection::vec(0usize..5, 6),
        prop::collection::btree_set(1u32..4, 0..3),
        prop::collection::btree_map(1u32..4, (0u8..2).prop_map(link_record), 0..3),
    )
        .prop_map(|(vips, keys, links, link_records)| {
            let mut services = BTreeMap::new();
            for (n, ((balance, group, closes), servers, turn, (mode, sources, port))) in
                vips.into_iter().enumerate()
            {
                let mine: Vec<u8> = (0..6u8).filter(|&k| keys[usize::from(k)] == n).collect();
                if mine.is_empty() {
                    continue;
                }
                // Names turn against addresses, so that servers are renamed and addresses change hands.
                let servers: Vec<_> = servers
                    .into_iter()
                    .enumerate()
                    .filter(|(_, s)| s.0)
                    .map(|(i, (_, _, mac, weight))| (((i + turn) % 5) as u8, 10 + i as u8, mac, weight))
                    .collect();
                let mut service = routed(service(&mine, balance > 0, &servers), mode, sources);
                if balance == 2 {
                    service = least(service);
                }
                if let Some(group) = ["x", "y"].get(group) {
                    service = grouped(service, group);
                }
                for backend in service.backends.values_mut().filter(|b| closes && b.limits.weight == 0) {
                    backend.limits.flags = CLOSED;
                }
                if mode != mode::DR {
                    // The port goes with the name, so that it changes where names turn.
                    let names = service.backends.iter_mut();
                    names.for_each(|(name, b)| b.port = port.filter(|_| name != "R0"));
                }
                services.insert(["A", "B", "C", "D"][n].to_owned(), service);
            }
            DesiredState { links, link_records, services, ..DesiredState::default() }
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_plan_reaches_what_is_desired_and_no_step_breaks_a_packets_path(
        states in prop::collection::vec((any_state(), any::<bool>()), 1..8)
    ) {
        let fake = Fake::default();
        let (mut writer, _) = fake.open();
        for (desired, restart) in states {
            if restart {
                (writer, _) = fake.open();
            }
            let before = writer.installed().clone();
            let made = reach(&fake, &mut writer, &desired);
            prop_assert!(made.problems.is_empty());
            prop_assert_eq!(plan(&desired, writer.installed()), Plan::default());
            let mut told = DesiredState::from_installed(writer.installed());
            told.addresses.clone_from(&desired.addresses);
            // The kernel knows groups by their number.
            for (name, service) in &mut told.services {
                service.group.clone_from(&desired.services[name].group);
            }
            prop_assert_eq!(&told, &desired);
            // A server that stays live keeps slot and generation, whatever else happens.
            for (slot, (who, record)) in &before.backends {
                let Some((now, after)) = writer.installed().backends.get(slot) else { continue };
                let stays = now.service == who.service && now.ip == who.ip && now.port == who.port;
                if stays && record.state == backend::state::LIVE && after.state == backend::state::LIVE {
                    prop_assert_eq!(record.generation, after.generation);
                }
            }
        }
    }

    #[test]
    fn a_plan_that_broke_off_anywhere_is_taken_up_again_safely(
        from in any_state(), to in any_state(), at in 0usize..40
    ) {
        let fake = Fake::default();
        let (mut writer, _) = fake.open();
        reach(&fake, &mut writer, &from);
        for step in plan(&to, writer.installed()).steps.iter().take(at) {
            prop_assert!(writer.apply(&step.op).is_ok());
        }
        let (mut writer, _) = fake.open();
        reach(&fake, &mut writer, &to);
        prop_assert_eq!(plan(&to, writer.installed()), Plan::default());
    }
}
