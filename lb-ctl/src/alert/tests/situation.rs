//! What is so, from what other tasks say.

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use lb_common::net::Mac;

use super::{
    super::situation::{Left, Sources},
    *,
};
use crate::{
    compile::{Notes, RipNote},
    control::View,
    model::{
        config::{Config, Mode, Ports, Rip, Vip},
        health::{CheckResult, Failure, Health, HealthMap, Verdict},
        net::{ForeignAnswer, ForeignAnswers, NetFacts, Path},
        operator::{Forced, Order, Word, Words},
        proxied::Proxied,
        status::RipState,
        tls::{Lasts, Validity},
    },
    reconcile::{Goal, Reconciled},
};

const VIP: &str = "10.12.1.100";

struct World {
    view: View,
    health: HealthMap,
    foreign: ForeignAnswers,
    facts: NetFacts,
    reconciled: Reconciled,
    proxied: Proxied,
}

fn id(rip: &str) -> RipId {
    RipId { vip: "DICOM".into(), rip: rip.into() }
}

fn health(verdict: Verdict) -> Health {
    let failure = Failure { reason: FailureReason::ConnectRefused, text: "connect refused".into() };
    let failure = (verdict == Verdict::Down).then_some(failure);
    let result = CheckResult::new(SystemTime::UNIX_EPOCH, Duration::ZERO, Vec::new(), failure);
    let since = SystemTime::UNIX_EPOCH + Duration::from_secs(EPOCH);
    Health { last: Some(result), ..Health::new(verdict, since) }
}

/// A VIP with R1 and R2, both up.
fn world() -> World {
    let rips = ["R1", "R2"].map(|name| Rip::new(name, format!("10.12.1.11{}", &name[1..]).parse().unwrap()));
    let ports = Ports::Ranges(vec![104..=104]);
    let vip = Vip { rips: rips.to_vec(), ..Vip::new("DICOM", Mode::L4Dr, VIP.parse().unwrap(), ports) };
    let path = |last: u8| Path {
        ifindex: Some(2),
        gateway: None,
        local: false,
        mac: Some(Mac([2, 0, 0, 0, 0, last])),
        failed: false,
    };
    World {
        view: View {
            config: Arc::new(Config { vips: vec![vip], ..Config::default() }),
            operator: Words::new(),
            notes: Notes::default(),
            goal: Arc::new(Goal { number: 1, ..Goal::default() }),
            config_problem: None,
            operator_problem: None,
        },
        health: [(id("R1"), health(Verdict::Up)), (id("R2"), health(Verdict::Up))].into(),
        foreign: ForeignAnswers::new(),
        facts: NetFacts {
            complete: true,
            paths: (1..=2).map(|n| (format!("10.12.1.11{n}").parse().unwrap(), path(n))).collect(),
            ..NetFacts::default()
        },
        reconciled: Reconciled { number: 1, settled: true, ..Reconciled::default() },
        proxied: Proxied::default(),
    }
}

impl World {
    fn look(&self) -> Situation {
        Situation::of(&self.sources())
    }

    fn sources(&self) -> Sources<'_> {
        Sources {
            view: &self.view,
            health: &self.health,
            foreign: &self.foreign,
            foreign_heard: true,
            facts: &self.facts,
            reconciled: &self.reconciled,
            proxied: &self.proxied,
            validities: Some(&[]),
        }
    }

    fn text(&self, subject: &Subject) -> Option<String> {
        match self.look().standing(subject) {
            Some(Standing::Failing(failing)) => Some(failing.text.clone()),
            Some(Standing::Well | Standing::Unsaid) | None => None,
        }
    }

    fn vip(&mut self) -> &mut Vip {
        &mut Arc::get_mut(&mut self.view.config).unwrap().vips[0]
    }
}

fn outage() -> Subject {
    Subject::Outage { vip: "DICOM".into() }
}

fn unserved() -> Subject {
    Subject::Unserved { vip: "DICOM".into() }
}

#[test]
fn a_server_fails_by_its_check_or_for_want_of_a_way_and_never_by_an_operators_word() {
    let noted = |state, detail: Option<&str>| RipNote { state, detail: detail.map(Into::into), fresh: false };
    let forced = |up| Word { forced: Some(Forced { up, until_epoch_secs: None }), ..Word::default() };
    let drain = Order::Drain { migrate: None, deadline_epoch_secs: None, then_halt: false };
    let table: [(&str, Verdict, Word, RipNote, Option<&str>); 8] = [
        ("up", Verdict::Up, Word::default(), noted(RipState::Active, None), Some("well")),
        ("down", Verdict::Down, Word::default(), noted(RipState::Down, None), Some("connect refused")),
        ("unknown", Verdict::Unknown, Word::default(), noted(RipState::Active, None), None),
        ("no MAC", Verdict::Up, Word::default(), noted(RipState::Down, Some("no ARP")), Some("no ARP")),
        ("drained", Verdict::Down, drain.into(), noted(RipState::Down, None), None),
        (
            "halted",
            Verdict::Up,
            Order::Halt { keep_sessions: false }.into(),
            noted(RipState::Halt, None),
            None,
        ),
        ("forced up", Verdict::Down, forced(true), noted(RipState::Active, None), Some("well")),
        ("forced down", Verdict::Up, forced(false), noted(RipState::Down, None), None),
    ];
    for (name, verdict, word, note, expected) in table {
        let mut world = world();
        world.health.insert(id("R1"), health(verdict));
        world.view.operator.insert(id("R1"), word);
        world.view.notes.rips.insert(id("R1"), note);
        let found = match world.look().standing(&server("R1")).unwrap() {
            Standing::Well => Some("well".to_owned()),
            Standing::Failing(failing) => Some(failing.text.clone()),
            Standing::Unsaid => None,
        };
        assert_eq!(found.as_deref(), expected, "{name}");
    }
}

#[test]
fn a_vip_is_out_when_its_last_server_fails_and_not_while_one_is_unknown() {
    let mut world = world();
    world.health.insert(id("R1"), health(Verdict::Down));
    assert_eq!(world.look().standing(&outage()), Some(&Standing::Well));
    assert_eq!(world.look().left["DICOM"], Left { serving: 1, of: 2 });
    world.health.insert(id("R2"), health(Verdict::Unknown));
    assert_eq!(world.look().standing(&outage()), Some(&Standing::Unsaid));
    world.view.operator.insert(id("R2"), Order::Halt { keep_sessions: false }.into());
    let text = world.text(&outage()).unwrap();
    assert_eq!(
        text,
        "no real server is left: 1 down, 1 taken out by an operator; new connections are refused"
    );
    world.view.operator.insert(id("R1"), Order::Halt { keep_sessions: false }.into());
    assert_eq!(world.look().standing(&outage()), Some(&Standing::Unsaid), "nothing failed");
    world.vip().enabled = false;
    assert_eq!(world.look().standing(&outage()), None);
}

#[test]
fn a_vip_is_not_served_when_its_address_is_refused_and_well_only_once_that_is_known() {
    let mut world = world();
    assert_eq!(world.look().standing(&unserved()), Some(&Standing::Well));
    world.reconciled.settled = false;
    assert_eq!(world.look().standing(&unserved()), Some(&Standing::Unsaid));
    world.reconciled.addresses = BTreeMap::from([(VIP.parse().unwrap(), "in use by another host".into())]);
    assert_eq!(world.text(&unserved()).as_deref(), Some("in use by another host"));
    world.view.notes.vips.insert("DICOM".into(), "no interface".into());
    assert_eq!(world.text(&unserved()).as_deref(), Some("no interface"));
    world.facts.complete = false;
    world.reconciled.addresses.clear();
    assert_eq!(world.look().standing(&unserved()), Some(&Standing::Unsaid));
}

#[test]
fn what_the_proxy_refuses_is_not_served_and_is_well_only_once_it_has_it() {
    let mut world = world();
    world.vip().mode = Mode::L7Tcp;
    assert_eq!(
        world.look().standing(&unserved()),
        Some(&Standing::Unsaid),
        "the proxy has not said anything"
    );
    world.proxied = Proxied {
        number: 1,
        refused: [("DICOM".to_owned(), "its certificate has expired".to_owned())].into(),
        ..Proxied::default()
    };
    assert_eq!(world.text(&unserved()).as_deref(), Some("its certificate has expired"));
    world.proxied.refused.clear();
    assert_eq!(world.look().standing(&unserved()), Some(&Standing::Well));
}

#[test]
fn who_answers_for_a_vip_is_named_with_the_cure() {
    let mut world = world();
    let answer =
        |last| ForeignAnswer { ip: VIP.parse().unwrap(), ifindex: 2, mac: Mac([2, 0, 0, 0, 0, last]) };
    world.foreign = [answer(2), answer(9)].into();
    let subject = |last: u8| Subject::Foreign {
        vip: Some("DICOM".into()),
        ip: VIP.parse().unwrap(),
        mac: Mac([2, 0, 0, 0, 0, last]).to_string(),
    };
    let known = world.text(&subject(2)).unwrap();
    assert!(known.starts_with("R2 answers ARP for 10.12.1.100"), "{known}");
    assert!(known.contains("`lbctl arp-help linux --vip DICOM`"), "{known}");
    let unknown = world.text(&subject(9)).unwrap();
    assert!(
        unknown.starts_with("another machine answers ARP for 10.12.1.100 (02:00:00:00:00:09"),
        "{unknown}"
    );
    world.foreign.clear();
    assert_eq!(world.look().standing(&subject(2)), Some(&Standing::Well));
}

fn certificate(days: u32) -> Subject {
    Subject::Certificate { name: "certificate web".into(), days }
}

fn lasting(lasts: Lasts) -> [Validity; 1] {
    [Validity { name: "certificate web".into(), lasts }]
}

#[test]
fn each_step_of_a_certificate_is_a_subject_of_its_own() {
    let world = world();
    let within = |days| lasting(Lasts::Within { days, text: format!("within {days}") });
    let of = |validities: Option<&[Validity]>| Situation::of(&Sources { validities, ..world.sources() });
    let month = of(Some(&within(30)));
    assert!(matches!(month.standing(&certificate(30)), Some(Standing::Failing(f)) if f.text == "within 30"));
    assert_eq!(month.standing(&certificate(7)), None);
    // The step before is no subject any more, so that nobody hears that it is over.
    let week = of(Some(&within(7)));
    assert_eq!(week.standing(&certificate(30)), None);
    assert!(matches!(week.standing(&certificate(7)), Some(Standing::Failing(_))));
    for days in [30, 7, 1, 0] {
        assert_eq!(of(Some(&lasting(Lasts::Long))).standing(&certificate(days)), Some(&Standing::Well));
        assert_eq!(of(Some(&lasting(Lasts::Unknown))).standing(&certificate(days)), Some(&Standing::Unsaid));
        // Before anybody has looked, what was told goes on being so; what nothing uses any more does not.
        assert_eq!(of(None).standing(&certificate(days)), Some(&Standing::Unsaid));
        assert_eq!(of(Some(&[])).standing(&certificate(days)), None);
    }
}
