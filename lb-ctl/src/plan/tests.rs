use std::net::Ipv4Addr;

use lb_common::{net::Mac, service::pick};
use proptest::prelude::*;

use super::*;
use crate::{
    dataplane::{
        ServiceKey, Writer,
        fake::{Fake, FakeWriter},
    },
    model::{
        config::Protocol,
        desired::{DesiredBackend, Entrant, Forward},
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
        record: Service { pick: if hash { pick::HASH_FLOW } else { pick::ROTATE }, ..Service::default() },
        idle_timeout_secs: 3600,
        sources: Sources::default(),
        filling: if hash { Filling::Maglev } else { Filling::RoundRobin },
        backends: servers
            .iter()
            .map(|&(name, octet, mac, _)| {
                let backend = DesiredBackend { ip: ip(octet), port: None, forward: mac.map(forward) };
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
fn a_new_vip_gets_servers_table_record_filter_and_keys_in_that_order() {
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
        ["AttachLink", "PutBackend", "PutTable", "PutService", "SetFilter", "PutKey", "PutKey"]
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
fn servers_without_a_slot_are_left_out_and_named_by_number() {
    let big = |vip: u8| {
        let mut one = service(&[vip], true, &[]);
        for n in 0..9000u32 {
            let ip = IpAddr::from(Ipv4Addr::from(0x0a00_0000 + n));
            let name = format!("R{n}");
            one.backends.insert(name.clone(), DesiredBackend { ip, port: None, forward: Some(forward(1)) });
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

/// VIPs A to D share six keys, each key with at most one VIP; servers are five names over five addresses.
fn any_state() -> impl Strategy<Value = DesiredState> {
    let server = (any::<bool>(), 0u8..5, prop::option::weighted(0.7, 0u8..3), 0u16..3);
    let vip = (any::<bool>(), prop::collection::vec(server, 5), 0usize..5);
    (
        prop::collection::vec(vip, 4),
        prop::collection::vec(0usize..5, 6),
        prop::collection::btree_set(1u32..4, 0..3),
    )
        .prop_map(|(vips, keys, links)| {
            let mut services = BTreeMap::new();
            for (n, (hash, servers, turn)) in vips.into_iter().enumerate() {
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
                services.insert(["A", "B", "C", "D"][n].to_owned(), service(&mine, hash, &servers));
            }
            DesiredState { links, services, ..DesiredState::default() }
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
            prop_assert_eq!(&told, &desired);
            // A server that stays live keeps slot and generation, whatever else happens.
            for (slot, (who, record)) in &before.backends {
                let Some((now, after)) = writer.installed().backends.get(slot) else { continue };
                let stays = now.service == who.service && now.ip == who.ip;
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
