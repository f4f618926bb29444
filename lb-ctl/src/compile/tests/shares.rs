//! Who takes new flows: order, shares, limits, the fallback server, and persistence that outlives them.

use std::collections::HashMap;

use lb_common::load::Limits;
use proptest::prelude::*;

use super::*;
use crate::{
    dataplane::{
        Writer as _,
        fake::{Fake, FakeWriter},
    },
    model::{config::Unattended, desired::group_id},
    plan,
};

const PLACES: [&str; 4] = ["R1", "R2", "R3", "R4"];

impl World {
    /// A failover list of four servers whose clients stay on the server in use.
    fn staying() -> Self {
        let mut world = Self::new();
        let vip = &mut world.config.vips[0];
        (vip.scheduler, vip.persist) = (Scheduler::First, Persist::LastSuccessful { timeout: None });
        for (n, name) in PLACES.iter().enumerate().skip(2) {
            let address = IpAddr::from(Ipv4Addr::new(10, 12, 1, 110 + n as u8));
            let rip = Rip { name: (*name).to_owned(), ip: address, ..vip.rips[0].clone() };
            vip.rips.push(rip);
            world.facts.paths.insert(address, path(2));
        }
        for name in PLACES {
            world.verdict(name, Verdict::Up);
        }
        world
    }

    /// With the fallback server 10.12.1.119, which answers ARP.
    fn with_fallback() -> Self {
        let mut world = Self::new();
        world.config.vips[0].fallback = Fallback::Server { ip: ip("10.12.1.119"), port: None };
        world.facts.paths.insert(ip("10.12.1.119"), path(2));
        world
    }

    fn service(&self) -> DesiredService {
        self.compile().desired.services["PACS"].clone()
    }

    /// Names and weights of those that take new flows, in their order.
    fn entrants(&self) -> Vec<(String, u16)> {
        self.service().entrants.into_iter().map(|e| (e.name, e.weight)).collect()
    }

    fn order(&self) -> String {
        self.entrants().into_iter().map(|(name, _)| name).collect::<Vec<_>>().join(" ")
    }

    /// Compiles, and takes the outcome for what is in force from now on.
    fn settle(&mut self) -> String {
        self.before = self.compile().desired;
        self.order()
    }

    fn limits(&self, rip: &str) -> Limits {
        self.service().backends[rip].limits
    }

    fn fallback(&self) -> DesiredBackend {
        self.service().backends[FALLBACK]
    }
}

#[test]
fn every_scheduler_has_its_way_to_pick_and_to_fill() {
    for (scheduler, expected) in [
        (Scheduler::Wlc, (pick::LEAST, Filling::Maglev)),
        (Scheduler::Wrr, (pick::ROTATE, Filling::RoundRobin)),
        (Scheduler::Maglev, (pick::HASH_FLOW, Filling::Maglev)),
        (Scheduler::SourceHash, (pick::HASH_CLIENT, Filling::Maglev)),
        (Scheduler::First, (pick::FIRST, Filling::First)),
    ] {
        let mut world = World::new();
        world.config.vips[0].scheduler = scheduler;
        world.config.vips[0].rips.reverse();
        let service = world.service();
        assert_eq!((service.record.pick, service.filling), expected, "{scheduler:?}");
        // Consistent tables are the same wherever they are built; the others go by the list.
        let sorted = if service.filling == Filling::Maglev { "R1 R2" } else { "R2 R1" };
        assert_eq!(world.order(), sorted, "{scheduler:?}");
    }
}

/// What happens to a failover list.
enum Event {
    Verdict(&'static str, Verdict),
    Operator(&'static str, Order),
    /// The operator clears the server in use.
    Forget,
    /// The controller restarts: no check has ended yet.
    Restart,
    Persist(Persist),
    Rename(&'static str),
}

#[test]
fn clients_stay_on_the_server_in_use_until_it_fails_is_taken_away_or_cleared() {
    use Event::{Forget, Operator, Persist as Keep, Rename, Restart, Verdict as Check};
    let mut world = World::staying();
    let list: [(Event, &str); 14] = [
        (Check("R4", Verdict::Up), "R1 R2 R3 R4"),
        // It fails: the next one of the list.
        (Check("R1", Verdict::Down), "R2 R3 R4"),
        // It comes back: nobody moves.
        (Check("R1", Verdict::Up), "R2 R1 R3 R4"),
        // A restart is no reason to move either.
        (Restart, "R2 R1 R3 R4"),
        (Check("R3", Verdict::Down), "R2 R1 R4"),
        // The operator takes it away: the first of the list.
        (Operator("R2", HALT), "R1 R4"),
        (Operator("R2", Order::Online), "R1 R2 R4"),
        (Operator("R1", DRAIN), "R2 R4"),
        (Operator("R1", Order::Online), "R2 R1 R4"),
        // The operator clears it.
        (Forget, "R1 R2 R4"),
        (Check("R1", Verdict::Down), "R2 R4"),
        (Rename("TWO"), "TWO R4"),
        (Check("R1", Verdict::Up), "TWO R1 R4"),
        // Plain failover goes back by itself.
        (Keep(Persist::None), "R1 TWO R4"),
    ];
    for (step, (event, expected)) in list.into_iter().enumerate() {
        match event {
            Check(rip, verdict) => world.verdict(rip, verdict),
            Operator(rip, state) => _ = world.operator.insert(id(rip), state.into()),
            Forget => _ = world.forget.insert("PACS".to_owned()),
            Restart => world.health.retain(|_, health| health.verdict == Verdict::Down),
            Keep(persist) => world.config.vips[0].persist = persist,
            Rename(name) => {
                world.config.vips[0].rips[1].name = name.to_owned();
                let health = world.health.remove(&id("R2")).unwrap();
                world.health.insert(id(name), health);
            }
        }
        assert_eq!(world.settle(), expected, "step {step}");
        world.forget.clear();
        if step == 3 {
            PLACES.iter().for_each(|name| world.verdict(name, Verdict::Up));
        }
    }
}

proptest! {
    /// Whatever fails and comes back: who is in use stays, and who follows is the first of the list.
    #[test]
    fn only_the_end_of_the_server_in_use_moves_clients(
        changes in prop::collection::vec((0..PLACES.len(), any::<bool>()), 1..40),
    ) {
        let mut world = World::staying();
        let mut in_use = "R1".to_owned();
        let mut up = [true; PLACES.len()];
        world.settle();
        for (place, is_up) in changes {
            up[place] = is_up;
            world.verdict(PLACES[place], if is_up { Verdict::Up } else { Verdict::Down });
            let list = || PLACES.iter().zip(up).filter(|(_, up)| *up).map(|(name, _)| (*name).to_owned());
            if list().all(|name| name != in_use) {
                in_use = list().next().unwrap_or_default();
            }
            let mut expected: Vec<_> = list().filter(|name| *name == in_use).collect();
            expected.extend(list().filter(|name| *name != in_use));
            prop_assert_eq!(world.settle(), expected.join(" "));
        }
    }
}

#[test]
fn a_restarted_controller_reads_from_the_kernel_who_is_in_use() {
    let mut world = World::staying();
    let fake = Fake::default();
    let (mut writer, _) = fake.open();
    let reach = |world: &mut World, writer: &mut FakeWriter| {
        let expected = world.settle();
        for step in plan::plan(&world.before, writer.installed()).steps {
            writer.apply(&step.op).unwrap();
        }
        expected
    };
    reach(&mut world, &mut writer);
    for (down, in_use) in [("R1", "R2"), ("R2", "R1"), ("R1", "R2")] {
        world.verdict(down, Verdict::Down);
        reach(&mut world, &mut writer);
        world.verdict(down, Verdict::Up);
        let order = reach(&mut world, &mut writer);
        assert!(order.starts_with(in_use), "{order}");

        (writer, _) = fake.open();
        world.before = DesiredState::from_installed(writer.installed());
        assert_eq!(reach(&mut world, &mut writer), order, "nobody moves");
    }
}

#[test]
fn a_source_address_that_is_away_for_a_moment_does_not_change_who_is_in_use() {
    let mut world = World::staying();
    world.config.vips[0].mode = Mode::L4Snat;
    world.config.vips[0].interface = Some("eth1".to_owned());
    world.settle();
    world.verdict("R1", Verdict::Down);
    world.settle();
    world.verdict("R1", Verdict::Up);
    assert_eq!(world.settle(), "R2 R1 R3 R4");
    let addresses = std::mem::take(&mut world.facts.addresses);
    assert_eq!(world.settle(), "");
    world.facts.addresses = addresses;
    assert_eq!(world.settle(), "R2 R1 R3 R4");
}

#[test]
fn what_another_scheduler_had_first_is_not_in_use() {
    let mut world = World::staying();
    world.config.vips[0].scheduler = Scheduler::Wrr;
    world.config.vips[0].persist = Persist::None;
    world.config.vips[0].rips.rotate_left(1);
    assert_eq!(world.settle(), "R2 R3 R4 R1");
    world.config.vips[0].rips.rotate_right(1);
    world.config.vips[0].scheduler = Scheduler::First;
    world.config.vips[0].persist = Persist::LastSuccessful { timeout: None };
    assert_eq!(world.settle(), "R1 R2 R3 R4");
}

#[test]
fn those_that_stand_by_say_for_whom() {
    let mut world = World::staying();
    world.verdict("R1", Verdict::Down);
    world.settle();
    world.verdict("R1", Verdict::Up);
    assert_eq!(world.fate("R1"), (RipState::Active, true, true, Some("standby: R2 is in use".to_owned())));
    assert_eq!(world.fate("R2"), (RipState::Active, true, true, None));
}

#[test]
fn limits_are_those_of_the_configuration_and_the_share_is_of_those_that_take_new_flows() {
    let limits = |max, min, weight| Limits { max, min, weight, flags: 0 };
    for (scheduler, weights) in [
        (Scheduler::Wlc, (40, 100)),
        (Scheduler::Wrr, (40, 100)),
        (Scheduler::Maglev, (40, 100)),
        (Scheduler::First, (1, 0)),
    ] {
        let mut world = World::new();
        let vip = &mut world.config.vips[0];
        vip.scheduler = scheduler;
        (vip.rips[0].weight, vip.rips[0].max_connections, vip.rips[0].min_connections) = (40, 50, 30);
        assert_eq!(world.limits("R1"), limits(50, 30, weights.0), "{scheduler:?}");
        assert_eq!(world.limits("R2"), limits(0, 0, weights.1), "{scheduler:?}");
        world.operator.insert(id("R1"), DRAIN.into());
        world.verdict("R2", Verdict::Down);
        assert_eq!(world.limits("R1"), limits(50, 30, 0), "{scheduler:?}");
        assert_eq!(world.limits("R2"), limits(0, 0, 0), "{scheduler:?}");
    }
}

#[test]
fn a_server_that_came_up_has_a_part_of_its_weight() {
    // Weight, percent, effective weight.
    let table = [(100, 1, 1), (100, 37, 37), (256, 99, 253), (3, 10, 1), (1, 99, 1), (50, 50, 25)];
    for (weight, percent, effective) in table {
        for scheduler in [Scheduler::Wrr, Scheduler::Wlc, Scheduler::Maglev, Scheduler::SourceHash] {
            let mut world = World::new();
            world.config.vips[0].scheduler = scheduler;
            world.config.vips[0].rips[0].weight = weight;
            let whole = world.entrants();
            world.ramps.insert(id("R1"), percent);
            assert_eq!(world.limits("R1").weight, effective, "{scheduler:?} {weight} {percent}");
            assert_eq!(world.limits("R2").weight, 100);
            let expected = if scheduler == Scheduler::Wlc { weight } else { effective };
            assert_eq!(world.entrants()[0], ("R1".to_owned(), expected), "{scheduler:?} {weight} {percent}");
            if scheduler == Scheduler::Wlc {
                assert_eq!(world.entrants(), whole, "the table of unknown flows stays as it is");
            }
        }
    }
    let mut world = World::new();
    let advised = &mut world.health.get_mut(&id("R1")).unwrap().advice;
    advised.percent = Some(30);
    assert_eq!(world.limits("R1").weight, 30, "what its agent asks for");
    world.ramps.insert(id("R1"), 50);
    assert_eq!(world.limits("R1").weight, 15, "while it works its way up");
    let mut world = World::new();
    world.config.vips[0].rips[0].weight = 0;
    world.ramps.insert(id("R1"), 50);
    assert_eq!((world.order().as_str(), world.limits("R1").weight), ("R2", 0), "nothing of nothing");
}

#[test]
fn the_fallback_server_takes_new_flows_when_no_other_does_and_only_then() {
    let closed = Limits { flags: CLOSED, ..Limits::default() };
    let open = Limits { weight: 1, ..Limits::default() };
    let mut world = World::with_fallback();
    let note = "no server is in service: new connections go to the fallback server 10.12.1.119";
    for scheduler in [Scheduler::Wlc, Scheduler::Wrr, Scheduler::Maglev, Scheduler::First] {
        world.config.vips[0].scheduler = scheduler;
        world.operator.clear();
        world.verdict("R2", Verdict::Up);
        assert_eq!((world.order().as_str(), world.fallback().limits), ("R1 R2", closed), "{scheduler:?}");
        assert!(world.compile().notes.vips.is_empty());

        world.operator.insert(id("R1"), DRAIN.into());
        world.verdict("R2", Verdict::Down);
        assert_eq!((world.order().as_str(), world.fallback().limits), (FALLBACK, open), "{scheduler:?}");
        assert_eq!(world.compile().notes.vips["PACS"], note);

        world.verdict("R2", Verdict::Up);
        assert_eq!((world.order().as_str(), world.fallback().limits), ("R2", closed), "{scheduler:?}");
        assert!(world.fallback().forward.is_some(), "its flows go on");
    }
    assert!(!world.compile().notes.rips.contains_key(&id(FALLBACK)), "it is none of the servers");
}

#[test]
fn a_fallback_server_out_of_reach_is_told_before_it_is_needed() {
    let mut world = World::with_fallback();
    let unreachable = "the fallback server 10.12.1.119 cannot be reached: no answer to ARP";
    world.before = world.compile().desired;
    let at = ip("10.12.1.119");
    world.facts.paths.insert(at, Path { mac: None, ..path(2) });
    assert!(world.fallback().forward.is_some(), "what was goes on until it is known to be wrong");
    world.facts.paths.insert(at, Path { mac: None, failed: true, ..path(2) });
    assert!(world.fallback().forward.is_none());
    let notes = world.compile().notes;
    assert_eq!(notes.problems, [format!("VIP PACS: {unreachable}")]);
    assert!(notes.vips.is_empty(), "the VIP itself is served");

    world.verdict("R1", Verdict::Down);
    world.verdict("R2", Verdict::Down);
    assert_eq!(world.order(), "");
    assert_eq!(world.compile().notes.vips["PACS"], format!("no server is in service, and {unreachable}"));
    assert_eq!(world.service().record.no_server, no_server::REJECT);
}

#[test]
fn who_was_the_fallback_server_is_checked_before_it_is_a_server() {
    let mut world = World::with_fallback();
    world.before = world.compile().desired;
    let rip = Rip { name: "R9".to_owned(), ip: ip("10.12.1.119"), ..world.config.vips[0].rips[0].clone() };
    world.config.vips[0].rips.push(rip);
    world.config.vips[0].fallback = Fallback::Reject;
    assert_eq!(world.fate("R9").0, RipState::Checking);
    assert!(!world.service().backends.contains_key(FALLBACK));
}

#[test]
fn the_way_to_the_fallback_server_is_watched_and_attached_and_has_a_source() {
    let mut world = World::with_fallback();
    world.config.vips[0].mode = Mode::L4Snat;
    world.facts.links.insert(3, link(3, "eth2"));
    world.facts.addresses.push(address(3, "10.99.0.1", 24));
    world.config.vips[0].fallback = Fallback::Server { ip: ip("10.99.0.9"), port: Some(8080) };
    world.facts.paths.insert(ip("10.99.0.9"), path(3));
    assert!(watched(&world.config).contains(&ip("10.99.0.9")));
    let compiled = world.compile();
    assert_eq!(compiled.desired.links, BTreeSet::from([2, 3]));
    assert_eq!(sources(&compiled), [ip("10.12.1.1"), ip("10.99.0.1")]);
    assert_eq!(world.fallback().port, Some(8080));

    world.config.node.interfaces = vec!["eth1".to_owned()];
    assert_eq!(
        world.compile().notes.vips["PACS"],
        "answers of the fallback server come by eth2, which is not among `node.interfaces`: add it there"
    );
    world.facts.addresses.clear();
    world.config.vips[0].interface = Some("eth1".to_owned());
    assert_eq!(world.order(), "", "SNAT without a source takes no flows for the fallback server either");
}

#[test]
fn what_becomes_of_new_flows_while_nobody_watches_is_recorded_in_every_mode() {
    for mode in [Mode::L4Dr, Mode::L4Nat, Mode::L4Snat] {
        let mut world = World::new();
        world.config.vips[0].mode = mode;
        let serve = world.service().record.flags;
        assert_eq!(serve & flags::FAIL_CLOSED, 0, "{mode:?}");
        world.config.vips[0].unattended = Unattended::Refuse;
        assert_eq!(world.service().record.flags, serve | flags::FAIL_CLOSED, "{mode:?}");
    }
}

fn by_address(group: Option<&str>) -> Persist {
    let group = group.map(str::to_owned);
    Persist::SourceIp { prefix_v4: 32, prefix_v6: 128, timeout: Duration::from_secs(300), group }
}

#[test]
fn vips_of_a_group_are_marked_with_it() {
    let mut world = World::new();
    for (persist, group, shared) in [
        (Persist::None, None, 0),
        (by_address(None), None, 0),
        (by_address(Some("pacs")), Some("pacs"), flags::SHARED),
    ] {
        world.config.vips[0].persist = persist;
        let service = world.service();
        assert_eq!((service.group.as_deref(), service.record.flags & flags::SHARED), (group, shared));
        assert_eq!(service.record.persist_group, 0, "the plan's business");
    }
}

/// Two names that the kernel would take for one.
fn colliding() -> (String, String) {
    let mut seen = HashMap::new();
    (0u32..)
        .find_map(|n| {
            let name = format!("g{n}");
            Some((seen.insert(group_id(&name), name.clone())?, name))
        })
        .unwrap()
}

#[test]
fn groups_that_cannot_be_told_apart_are_not_mixed_up() {
    let (one, other) = colliding();
    assert!(group_id(&one) & 1 << 31 != 0, "no service has that id");
    let mut world = World::new();
    world.config.vips[0].persist = by_address(Some(&one));
    let mut second = world.config.vips[0].clone();
    (second.name, second.ip) = ("WEB".to_owned(), ip("10.12.1.101"));
    second.persist = by_address(Some(&other));
    world.config.vips.push(second);
    let compiled = world.compile();
    let service = |name: &str| &compiled.desired.services[name];
    assert_eq!((service("PACS").group.as_ref(), service("WEB").group.as_ref()), (Some(&one), None));
    assert_eq!(service("WEB").record.flags & flags::SHARED, 0);
    let [problem] = compiled.notes.problems.as_slice() else { panic!("{:?}", compiled.notes.problems) };
    let start = format!("VIP WEB: its persistence group `{other}` cannot be told from `{one}`");
    assert!(problem.starts_with(&start), "{problem}");
}
