#![forbid(unsafe_code)]

mod path;
mod signals;

use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;
use crate::model::{
    check::Check,
    health::{Failure, FailureReason, Health, Verdict},
};

const INTERVAL: Duration = Duration::from_secs(5);

fn id(rip: &str) -> RipId {
    RipId { vip: "PACS".to_owned(), rip: rip.to_owned() }
}

fn target(rip: &str, ip: [u8; 4]) -> Target {
    Target::new(
        id(rip),
        SocketAddr::from((ip, 104)),
        Check {
            kind: CheckKind::Connect,
            interval: INTERVAL,
            timeout: Duration::from_secs(2),
            rise: 2,
            fall: 2,
            ..Check::default()
        },
    )
}

fn result(reason: Option<FailureReason>) -> CheckResult {
    let failure = reason.map(|reason| Failure { reason, text: String::new() });
    CheckResult::new(SystemTime::now(), Duration::from_millis(1), Vec::new(), failure)
}

/// A roster, its clock, and what it has published.
struct Scene {
    roster: Roster,
    now: Instant,
    map: HealthMap,
}

impl Scene {
    fn new(targets: &[Target]) -> Self {
        let mut scene = Self { roster: Roster::new(1), now: Instant::now(), map: HealthMap::new() };
        scene.follow(targets);
        scene
    }

    fn follow(&mut self, targets: &[Target]) {
        self.roster.follow(targets, self.now, SystemTime::now());
        self.roster.publish(&mut self.map, self.now);
    }

    fn start_all(&mut self) -> Vec<QuestionId> {
        std::iter::from_fn(|| self.roster.start_due(self.now).map(|(id, _)| id)).collect()
    }

    fn answer(&mut self, id: QuestionId, reason: Option<FailureReason>) {
        self.roster.finish(id, &result(reason), self.now);
        self.roster.publish(&mut self.map, self.now);
    }

    /// One more round: everything that falls due within an interval is asked and answered.
    fn round(&mut self, reason: Option<FailureReason>) -> usize {
        self.round_of_both(reason, reason)
    }

    /// One more round, in which servers answer one way, and VIPs at them another.
    fn round_of_both(&mut self, server: Option<FailureReason>, path: Option<FailureReason>) -> usize {
        let ids = self.start_all();
        for id in &ids {
            let reason = match self.roster.questions[id].question.asked() {
                Asked::Server => server,
                Asked::Path => path,
            };
            self.answer(*id, reason);
        }
        self.now += INTERVAL;
        ids.len()
    }

    fn health(&self, rip: &str) -> &Health {
        &self.map[&id(rip)]
    }

    fn verdict(&self, rip: &str) -> Verdict {
        self.health(rip).verdict
    }
}

const REFUSED: Option<FailureReason> = Some(FailureReason::ConnectRefused);

#[test]
fn an_identical_question_is_asked_once_and_counted_for_each() {
    let mut patient = target("B", [10, 0, 0, 1]);
    patient.check.fall = 3;
    let mut scene = Scene::new(&[target("A", [10, 0, 0, 1]), patient, target("C", [10, 0, 0, 2])]);
    assert_eq!(scene.verdict("A"), Verdict::Unknown);
    assert_eq!(scene.round(None), 2);
    assert_eq!((scene.verdict("A"), scene.verdict("B")), (Verdict::Up, Verdict::Up));
    scene.round(REFUSED);
    scene.round(REFUSED);
    assert_eq!((scene.verdict("A"), scene.verdict("B")), (Verdict::Down, Verdict::Up));
    scene.round(REFUSED);
    assert_eq!(scene.verdict("B"), Verdict::Down);
}

#[test]
fn an_unchanged_target_is_not_disturbed_by_a_new_one() {
    let mut scene = Scene::new(&[target("A", [10, 0, 0, 1])]);
    scene.round(None);
    let due = scene.roster.next_due();
    scene.now -= INTERVAL; // Before A is due again.
    scene.follow(&[target("A", [10, 0, 0, 1]), target("B", [10, 0, 0, 2])]);
    assert_eq!(scene.start_all().len(), 1, "B, and B alone, is asked at once");
    assert_eq!(scene.roster.next_due(), due);
}

#[test]
fn rise_and_fall_change_without_a_new_check() {
    let mut scene = Scene::new(&[target("A", [10, 0, 0, 1])]);
    scene.round(None);
    scene.round(REFUSED);
    let due = scene.roster.next_due();
    let mut strict = target("A", [10, 0, 0, 1]);
    strict.check.fall = 1;
    scene.follow(&[strict]);
    assert_eq!(scene.roster.next_due(), due);
    assert_eq!(scene.verdict("A"), Verdict::Up);
    scene.round(REFUSED);
    assert_eq!(scene.verdict("A"), Verdict::Down);
}

#[test]
fn a_changed_check_keeps_the_verdict_until_the_new_one_has_its_own() {
    let mut scene = Scene::new(&[target("A", [10, 0, 0, 1])]);
    scene.round(None);
    scene.round(REFUSED);
    let mut changed = target("A", [10, 0, 0, 1]);
    changed.addr.set_port(11112);
    scene.follow(&[changed]);
    assert_eq!(scene.verdict("A"), Verdict::Up);
    assert_eq!(scene.round(REFUSED), 1, "asked at once");
    assert_eq!(scene.verdict("A"), Verdict::Up, "failures of the old check do not count");
    scene.round(REFUSED);
    assert_eq!(scene.verdict("A"), Verdict::Down);
}

#[test]
fn another_address_is_another_machine() {
    let mut scene = Scene::new(&[target("A", [10, 0, 0, 1])]);
    scene.round(None);
    scene.follow(&[target("A", [10, 0, 0, 9])]);
    assert_eq!(scene.verdict("A"), Verdict::Unknown);
    assert!(scene.map.values().all(|health| health.last.is_none()));
}

#[test]
fn an_answer_for_a_target_that_left_goes_nowhere() {
    let mut scene = Scene::new(&[target("A", [10, 0, 0, 1])]);
    let running = scene.start_all();
    scene.follow(&[]);
    assert!(scene.map.is_empty());
    scene.follow(&[target("A", [10, 0, 0, 1])]);
    scene.answer(running[0], None);
    assert_eq!(scene.verdict("A"), Verdict::Unknown, "the answer was to the question of before");
    assert_eq!(scene.round(None), 1);
    assert_eq!(scene.verdict("A"), Verdict::Up);
    scene.follow(&[]);
    assert_eq!(scene.roster.next_due(), None);
    assert!(scene.roster.questions.is_empty() && scene.roster.ids.is_empty());
}

#[test]
fn what_could_not_be_tried_is_shown_and_not_counted() {
    let mut scene = Scene::new(&[target("A", [10, 0, 0, 1])]);
    scene.round(None);
    for _ in 0..5 {
        scene.round(Some(FailureReason::Local));
    }
    assert_eq!(scene.verdict("A"), Verdict::Up);
    let last = scene.map.values().next().unwrap().last.as_ref().unwrap();
    assert_eq!(last.failure.as_ref().unwrap().reason, FailureReason::Local);
}

#[test]
fn a_check_that_is_off_is_up_and_asks_nothing() {
    let mut off = target("A", [10, 0, 0, 1]);
    off.check.kind = CheckKind::Off;
    let mut scene = Scene::new(std::slice::from_ref(&off));
    assert_eq!((scene.verdict("A"), scene.round(None)), (Verdict::Up, 0));
    scene.follow(&[target("A", [10, 0, 0, 1])]);
    scene.round(REFUSED);
    scene.round(REFUSED);
    assert_eq!(scene.verdict("A"), Verdict::Down);
    scene.follow(&[off]);
    assert_eq!((scene.verdict("A"), scene.round(None)), (Verdict::Up, 0));
}

proptest! {
    /// Whatever lists come and go while answers arrive or not, the roster's books agree with the last list.
    #[test]
    fn any_sequence_of_lists_leaves_the_books_in_order(
        lists in prop::collection::vec(prop::collection::btree_map(0_u8..6, (0_u8..4, 0_u8..3), 0..6), 1..12),
        answered in any::<u64>(),
    ) {
        let mut scene = Scene::new(&[]);
        let mut running = Vec::new();
        let mut last = Vec::new();
        for (step, list) in lists.into_iter().enumerate() {
            last = list
                .into_iter()
                .map(|(rip, (ip, kind))| {
                    let mut target = target(&rip.to_string(), [10, 0, 0, ip]);
                    if kind == 0 {
                        target.check.kind = CheckKind::Off;
                    }
                    target.check.rise = kind.into();
                    target
                })
                .collect::<Vec<_>>();
            scene.follow(&last);
            running.extend(scene.start_all());
            if answered >> step & 1 == 1 {
                for id in running.drain(..) {
                    scene.answer(id, None);
                }
            }
            scene.now += INTERVAL * 2;
        }
        prop_assert_eq!(
            scene.map.keys().collect::<Vec<_>>(),
            last.iter().map(|target| &target.id).collect::<Vec<_>>()
        );
        let questions: BTreeSet<String> =
            last.iter().flat_map(Question::of).flatten().map(|question| format!("{question:?}")).collect();
        prop_assert_eq!(scene.roster.questions.len(), questions.len());
        prop_assert_eq!(scene.roster.ids.len(), questions.len());
        let due = scene.roster.questions.values().filter(|q| matches!(q.timing, Timing::Due(_))).count();
        prop_assert_eq!(scene.roster.due.len(), due);
    }
}
