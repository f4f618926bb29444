//! Who is checked, what is asked, when it is due, and what became of it. Pure: time is passed in.
#![forbid(unsafe_code)]

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant, SystemTime},
};

use super::{
    fall_rise::FallRise,
    jitter::Jitter,
    probe::{self, Peer},
};
use crate::model::{
    config::{Check, CheckKind},
    health::{CheckResult, FailureReason, Health, HealthMap, RipId, Target, Verdict},
};

/// Shorter intervals count as this, so that no configuration makes the engine spin.
const MIN_INTERVAL: Duration = Duration::from_millis(100);

/// What is asked on the wire, and how often. Targets that agree in all of it share the answer; rise and fall are
/// counted for each on its own.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Question {
    pub(super) subject: probe::Subject,
    pub(super) timeout: Duration,
    interval: Duration,
}

impl Question {
    /// `None` for a check that is off.
    fn of(target: &Target) -> Option<Self> {
        let Check { kind, interval, timeout, .. } = &target.check;
        (*kind != CheckKind::Off).then(|| Self {
            subject: probe::Subject::Server(Peer::of(target), kind.clone()),
            timeout: *timeout,
            interval: *interval,
        })
    }
}

/// Names a question for as long as somebody asks it; never used again, so that an answer which comes after the last
/// asker has gone finds nobody.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) struct QuestionId(u64);

#[derive(Debug)]
struct Asked {
    question: Question,
    askers: BTreeSet<RipId>,
    timing: Timing,
}

#[derive(Clone, Copy, Debug)]
enum Timing {
    Due(Instant),
    Running { since: Instant },
}

#[derive(Debug)]
struct Subject {
    target: Target,
    question: Option<QuestionId>,
    count: FallRise,
    since: SystemTime,
    last: Option<CheckResult>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Roster {
    subjects: BTreeMap<RipId, Subject>,
    questions: HashMap<QuestionId, Asked>,
    ids: HashMap<Question, QuestionId>,
    due: BTreeSet<(Instant, QuestionId)>,
    next_id: u64,
    jitter: Jitter,
    /// Subjects whose health is not yet published, gone ones among them.
    unpublished: BTreeSet<RipId>,
}

impl Roster {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            subjects: BTreeMap::new(),
            questions: HashMap::new(),
            ids: HashMap::new(),
            due: BTreeSet::new(),
            next_id: 0,
            jitter: Jitter::new(seed),
            unpublished: BTreeSet::new(),
        }
    }

    /// Makes this the list of targets. A target that is unchanged is not disturbed. One with another check (or
    /// port) keeps its verdict until the new check has one. One with another address is another machine: nothing is
    /// known of it. New questions are due at once. Of several targets with one id the last counts.
    pub(super) fn follow(&mut self, targets: &[Target], now: Instant, wall: SystemTime) {
        let wanted: BTreeMap<&RipId, &Target> = targets.iter().map(|target| (&target.id, target)).collect();
        let gone: Vec<RipId> = self.subjects.keys().filter(|id| !wanted.contains_key(id)).cloned().collect();
        for id in gone {
            if let Some(subject) = self.subjects.remove(&id) {
                self.leave(subject.question, &id);
                self.unpublished.insert(id);
            }
        }
        for target in wanted.into_values() {
            if self.subjects.get(&target.id).is_none_or(|subject| subject.target != *target) {
                let before = self.subjects.remove(&target.id);
                self.adopt(before, target, now, wall);
            }
        }
    }

    /// When the next question is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// The question that has been due longest, which counts as running from now.
    pub(super) fn start_due(&mut self, now: Instant) -> Option<(QuestionId, Question)> {
        let (at, id) = self.due.first().copied().filter(|(at, _)| *at <= now)?;
        self.due.remove(&(at, id));
        let asked = self.questions.get_mut(&id)?;
        asked.timing = Timing::Running { since: now };
        Some((id, asked.question.clone()))
    }

    /// Takes the answer to a question, and says whether a verdict changed by it.
    pub(super) fn finish(&mut self, id: QuestionId, result: &CheckResult, now: Instant) -> bool {
        let Some(asked) = self.questions.get_mut(&id) else {
            return false; // Its last asker went while it ran.
        };
        if let Timing::Running { since } = asked.timing {
            let at = (since + self.jitter.spread(asked.question.interval.max(MIN_INTERVAL))).max(now);
            asked.timing = Timing::Due(at);
            self.due.insert((at, id));
        }
        let mut turned = false;
        for asker in &asked.askers {
            let Some(subject) = self.subjects.get_mut(asker) else {
                continue;
            };
            turned |= subject.take(result);
            self.unpublished.insert(asker.clone());
        }
        turned
    }

    /// Whether [`Roster::publish`] has something to say.
    pub(super) fn is_published(&self) -> bool {
        self.unpublished.is_empty()
    }

    /// Brings the map up to date with what changed since the last time.
    pub(super) fn publish(&mut self, map: &mut HealthMap) {
        for id in std::mem::take(&mut self.unpublished) {
            match self.subjects.get(&id) {
                Some(subject) => map.insert(id, subject.health()),
                None => map.remove(&id),
            };
        }
    }

    fn adopt(&mut self, before: Option<Subject>, target: &Target, now: Instant, wall: SystemTime) {
        let same_machine = before.as_ref().is_some_and(|b| b.target.addr.ip() == target.addr.ip());
        let before_question = before.as_ref().and_then(|b| b.question);
        let question = Question::of(target);
        let unasked = question.is_none();
        // Join before leaving, so that a question which stays the same is never without an asker.
        let question = question.map(|question| self.join(question, before_question, &target.id, now));
        if before_question != question {
            self.leave(before_question, &target.id);
        }
        let mut subject = match before {
            Some(mut subject) if same_machine => {
                if subject.question != question {
                    subject.count.restart();
                }
                subject
            }
            _ => Subject {
                target: target.clone(),
                question,
                count: FallRise::new(Verdict::Unknown),
                since: wall,
                last: None,
            },
        };
        if unasked {
            if subject.count.verdict() != Verdict::Up {
                subject.since = wall;
            }
            subject.count = FallRise::new(Verdict::Up);
            subject.last = None;
        }
        subject.target = target.clone();
        subject.question = question;
        self.subjects.insert(target.id.clone(), subject);
        self.unpublished.insert(target.id.clone());
    }

    /// Adds an asker. A question that others ask already is asked again at once, for the newcomer.
    fn join(
        &mut self,
        question: Question,
        before: Option<QuestionId>,
        asker: &RipId,
        now: Instant,
    ) -> QuestionId {
        if let Some(id) = self.ids.get(&question).copied()
            && let Some(asked) = self.questions.get_mut(&id)
        {
            asked.askers.insert(asker.clone());
            if let Timing::Due(at) = asked.timing
                && before != Some(id)
                && at > now
            {
                self.due.remove(&(at, id));
                self.due.insert((now, id));
                asked.timing = Timing::Due(now);
            }
            return id;
        }
        let id = QuestionId(self.next_id);
        self.next_id += 1;
        self.ids.insert(question.clone(), id);
        self.due.insert((now, id));
        let askers = BTreeSet::from([asker.clone()]);
        self.questions.insert(id, Asked { question, askers, timing: Timing::Due(now) });
        id
    }

    fn leave(&mut self, question: Option<QuestionId>, asker: &RipId) {
        let Some(id) = question else { return };
        let Some(asked) = self.questions.get_mut(&id) else {
            return;
        };
        asked.askers.remove(asker);
        if asked.askers.is_empty() {
            if let Timing::Due(at) = asked.timing {
                self.due.remove(&(at, id));
            }
            self.ids.remove(&asked.question);
            self.questions.remove(&id);
        }
    }
}

impl Subject {
    /// Counts a check, and says whether the verdict changed.
    fn take(&mut self, result: &CheckResult) -> bool {
        let before = self.count.verdict();
        self.last = Some(result.clone());
        let after = match &result.failure {
            Some(failure) if failure.reason == FailureReason::Local => before,
            failure => self.count.record(failure.is_none(), self.target.check.rise, self.target.check.fall),
        };
        if after != before {
            self.since = result.at;
        }
        after != before
    }

    fn health(&self) -> Health {
        Health { last: self.last.clone(), ..Health::new(self.count.verdict(), self.since) }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use proptest::prelude::*;

    use super::*;
    use crate::model::health::Failure;

    const INTERVAL: Duration = Duration::from_secs(5);

    fn target(rip: &str, ip: [u8; 4]) -> Target {
        Target::new(
            RipId { vip: "PACS".to_owned(), rip: rip.to_owned() },
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
            self.roster.publish(&mut self.map);
        }

        fn start_all(&mut self) -> Vec<QuestionId> {
            std::iter::from_fn(|| self.roster.start_due(self.now).map(|(id, _)| id)).collect()
        }

        fn answer(&mut self, id: QuestionId, reason: Option<FailureReason>) {
            self.roster.finish(id, &result(reason), self.now);
            self.roster.publish(&mut self.map);
        }

        /// One more round: everything that falls due within an interval and its spread is asked and answered.
        fn round(&mut self, reason: Option<FailureReason>) -> usize {
            let ids = self.start_all();
            for id in &ids {
                self.answer(*id, reason);
            }
            self.now += INTERVAL * 11 / 10;
            ids.len()
        }

        fn verdict(&self, rip: &str) -> Verdict {
            self.map[&RipId { vip: "PACS".to_owned(), rip: rip.to_owned() }].verdict
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
                last.iter().filter_map(Question::of).map(|question| format!("{question:?}")).collect();
            prop_assert_eq!(scene.roster.questions.len(), questions.len());
            prop_assert_eq!(scene.roster.ids.len(), questions.len());
            let due = scene.roster.questions.values().filter(|q| matches!(q.timing, Timing::Due(_))).count();
            prop_assert_eq!(scene.roster.due.len(), due);
        }
    }
}
