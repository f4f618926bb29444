//! What moves checks and verdicts beside answers: time, clients, other VIPs, people.
#![forbid(unsafe_code)]

use super::*;
use crate::model::check::SynRepeats;

impl Scene {
    /// The packet path has seen so many SYNs of A come again.
    fn syns(&mut self, count: u64) {
        self.roster.count_syn_repeats(&[(id("A"), count)].into(), self.now);
        self.roster.publish(&mut self.map, self.now);
    }
}

fn counting() -> Target {
    let mut target = target("A", [10, 0, 0, 1]);
    target.check.syn_repeats = SynRepeats::Count;
    target
}

#[test]
fn syns_in_vain_count_as_failed_checks_where_that_is_wanted() {
    let mut scene = Scene::new(&[counting()]);
    scene.round(None);
    scene.syns(3);
    scene.round(None);
    assert_eq!(scene.verdict("A"), Verdict::Up);
    scene.syns(7);
    scene.round(None);
    assert_eq!((scene.verdict("A"), scene.health("A").syn_repeats), (Verdict::Down, 7));
    let failure = scene.health("A").failure().unwrap();
    assert_eq!(failure.reason, FailureReason::SynsUnanswered);
    assert_eq!(failure.text, "clients' SYNs came again 7 times and no new connection got through");
}

#[test]
fn syns_are_shown_and_do_not_count_where_that_is_not_wanted() {
    let mut scene = Scene::new(&[target("A", [10, 0, 0, 1])]);
    for count in [0, 10, 20, 30] {
        scene.syns(count);
        scene.round(None);
        assert_eq!((scene.verdict("A"), scene.health("A").syn_repeats), (Verdict::Up, count));
    }
}

#[test]
fn few_syns_or_a_connection_that_got_through_fail_nothing() {
    let mut scene = Scene::new(&[counting()]);
    for count in [2, 2, 0, 2, 0, 1] {
        scene.syns(count);
        scene.round(None);
        assert_eq!(scene.health("A").failure(), None, "{count}");
    }
}

#[test]
fn few_at_a_time_add_up_until_nobody_tries_any_more() {
    let mut target = counting();
    target.check.interval = Duration::from_millis(500);
    let mut scene = Scene::new(&[target]);
    for count in [1, 2, 2, 3, 3] {
        scene.syns(count);
        scene.round(None);
    }
    assert_eq!(scene.verdict("A"), Verdict::Down);
    while scene.health("A").failure().is_some() {
        scene.round(None);
        scene.syns(3);
    }
    scene.round(None);
    scene.round(None);
    assert_eq!(scene.verdict("A"), Verdict::Up, "it was out of service, and nobody could try");
}

#[test]
fn a_server_that_flaps_needs_more_passes_and_says_so() {
    let mut scene = Scene::new(&[target("A", [10, 0, 0, 1])]);
    scene.round(None);
    let mut passes = Vec::new();
    for _ in 0..4 {
        while scene.verdict("A") == Verdict::Up {
            scene.round(REFUSED);
        }
        passes.push(0);
        while scene.verdict("A") != Verdict::Up {
            scene.round(None);
            *passes.last_mut().unwrap() += 1;
        }
    }
    assert_eq!(passes, [2, 2, 2, 4]);
    assert_eq!(scene.health("A").damping, 2);
    for _ in 0..130 {
        scene.round(None);
    }
    assert_eq!(scene.health("A").damping, 1, "ten minutes up are enough");
}

#[test]
fn who_tracks_a_vip_is_asked_at_once_when_its_verdicts_have_changed() {
    let mut tracker = target("T", [10, 0, 0, 9]);
    tracker.id.vip = "VIEWER".to_owned();
    tracker.check.kind = CheckKind::Track { vip: "PACS".to_owned() };
    tracker.check.interval = INTERVAL * 100;
    let mut scene = Scene::new(&[target("A", [10, 0, 0, 1]), tracker]);
    assert_eq!(scene.round(None), 2);
    assert_eq!(scene.round(None), 2, "A, and T, since A came up");
    assert_eq!(scene.round(REFUSED), 1, "nothing changed");
    let ids = scene.start_all();
    scene.roster.finish(ids[0], &result(REFUSED), scene.now);
    assert_eq!(scene.start_all(), [], "it goes by what is published, which is not yet");
    scene.roster.publish(&mut scene.map, scene.now);
    assert_eq!(scene.start_all().len(), 1);
    scene.follow(&[]);
    assert!(scene.roster.trackers.is_empty());
}

#[test]
fn a_tracker_that_is_being_asked_is_asked_again_when_it_has_answered() {
    let mut tracker = target("T", [10, 0, 0, 9]);
    tracker.id.vip = "VIEWER".to_owned();
    tracker.check.kind = CheckKind::Track { vip: "PACS".to_owned() };
    let mut scene = Scene::new(&[target("A", [10, 0, 0, 1]), tracker]);
    let ids = scene.start_all();
    scene.answer(ids[0], None);
    assert_eq!(scene.start_all(), []);
    scene.answer(ids[1], Some(FailureReason::TrackedDown));
    assert_eq!(scene.start_all(), [ids[1]]);
}

#[test]
fn changes_of_verdicts_are_told_in_order_and_with_their_reason() {
    let mut scene = Scene::new(&[target("A", [10, 0, 0, 1])]);
    for reason in [None, REFUSED, REFUSED, None, None] {
        scene.round(reason);
    }
    scene.follow(&[target("A", [10, 0, 0, 9])]);
    let told = scene.roster.take_transitions();
    let turns: Vec<_> = told.iter().map(|t| (t.from, t.to, t.reason, t.text.as_str())).collect();
    assert_eq!(
        turns,
        [
            (Verdict::Unknown, Verdict::Up, None, "passes"),
            (Verdict::Up, Verdict::Down, REFUSED, ""),
            (Verdict::Down, Verdict::Up, None, "passes"),
            (Verdict::Up, Verdict::Unknown, None, "its address is 10.0.0.9 now"),
        ]
    );
    assert!(scene.roster.take_transitions().is_empty());
}

#[test]
fn what_is_to_run_now_is_due_now_and_named() {
    let mut off = target("B", [10, 0, 0, 2]);
    off.check.kind = CheckKind::Off;
    let mut scene = Scene::new(&[target("A", [10, 0, 0, 1]), off]);
    let first = scene.start_all();
    scene.answer(first[0], None);
    assert_eq!(scene.start_all(), []);
    let run = scene.roster.run_now(&[id("A"), id("B"), id("C")], scene.now);
    assert_eq!(run, [(id("A"), Asked::Server, first[0])]);
    assert_eq!(scene.start_all(), first);
}

#[test]
fn checks_that_are_close_together_fall_due_together() {
    let targets: Vec<Target> = (0..200).map(|n| target(&n.to_string(), [10, 0, 1, n])).collect();
    let mut scene = Scene::new(&targets);
    for id in scene.start_all() {
        scene.now += Duration::from_micros(100);
        scene.answer(id, None);
    }
    let times: BTreeSet<Instant> = scene.roster.due.iter().map(|(at, _)| *at).collect();
    // A tenth of an interval, and the time that the answers took, which is less than a tick.
    let ticks = (INTERVAL / 10).as_millis() / TICK.as_millis() + 3;
    assert!(times.len() as u128 <= ticks, "{} of {ticks}", times.len());
    let epoch = scene.roster.epoch.unwrap();
    assert!(times.iter().all(|at| (*at - epoch).as_nanos().is_multiple_of(TICK.as_nanos())));
}

proptest! {
    /// A server that dies between two checks is found down within `fall` intervals, however they are drawn.
    #[test]
    fn a_fall_takes_no_longer_than_fall_intervals(seed in any::<u64>(), fall in 1_u32..5, dies_at in 0.0..1.0_f64) {
        let mut target = target("A", [10, 0, 0, 1]);
        target.check.fall = fall;
        let mut scene = Scene::new(&[]);
        scene.roster = Roster::new(seed);
        scene.follow(&[target]);
        for id in scene.start_all() {
            scene.answer(id, None);
        }
        let died = scene.now + INTERVAL.mul_f64(dies_at);
        while scene.verdict("A") == Verdict::Up {
            scene.now = scene.roster.next_due().unwrap();
            let reason = if scene.now >= died { REFUSED } else { None };
            for id in scene.start_all() {
                scene.answer(id, reason);
            }
        }
        prop_assert!(scene.now - died <= INTERVAL * fall);
    }
}
