//! Who is checked, what is asked, when it is due, and what became of it. Pure: time is passed in.
#![forbid(unsafe_code)]

mod subject;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use self::subject::Subject;
use super::{
    jitter::Jitter,
    probe::{self, Peer},
};
use crate::model::{
    check::CheckKind,
    health::{Asked, CheckResult, HealthMap, PathTarget, RipId, SynRepeatCounts, Target, Transition},
};

/// Shorter intervals count as this, so that no configuration makes the engine spin.
const MIN_INTERVAL: Duration = Duration::from_millis(100);
/// Checks fall due on ticks of a clock, so that those which are close together are begun, and answered, in one go: two
/// thousand checks a second take 7.9 % of a processor so, 10.3 % with ticks of 10 ms. A tick is never later than the interval.
const TICK: Duration = Duration::from_millis(25);

/// What is asked on the wire, and how often. Targets that agree in all of it share the answer; rise and fall are
/// counted for each on its own.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Question {
    pub(super) subject: probe::Subject,
    pub(super) timeout: Duration,
    interval: Duration,
}

impl Question {
    /// What is asked of the server itself, and what is asked of its VIP there.
    fn of(target: &Target) -> [Option<Self>; 2] {
        let check = &target.check;
        let ask = |subject| Self { subject, timeout: check.timeout, interval: check.interval };
        let server = (check.kind != CheckKind::Off)
            .then(|| ask(probe::Subject::Server(Peer::of(target), check.kind.clone())));
        let path = match &target.path {
            PathTarget::Direct(path) => Some(ask(probe::Subject::Path(Arc::clone(path)))),
            PathTarget::Off | PathTarget::Waiting(_) => None,
        };
        [server, path]
    }

    const fn asked(&self) -> Asked {
        match self.subject {
            probe::Subject::Server(..) => Asked::Server,
            probe::Subject::Path(_) => Asked::Path,
        }
    }

    /// VIPs whose verdicts decide the answer.
    fn tracked(&self) -> Vec<&str> {
        match &self.subject {
            probe::Subject::Server(_, kind) => kind.tracked(),
            probe::Subject::Path(_) => Vec::new(),
        }
    }
}

/// Names a question for as long as somebody asks it; never used again, so that an answer which comes after the last
/// asker has gone finds nobody.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) struct QuestionId(u64);

#[derive(Debug)]
struct Standing {
    question: Arc<Question>,
    askers: BTreeSet<RipId>,
    timing: Timing,
}

#[derive(Clone, Copy, Debug)]
enum Timing {
    Due(Instant),
    /// `again` = due at once when it ends, since something has changed meanwhile.
    Running {
        since: Instant,
        again: bool,
    },
}

/// See the module.
#[derive(Debug)]
pub(super) struct Roster {
    subjects: BTreeMap<RipId, Subject>,
    questions: HashMap<QuestionId, Standing>,
    ids: HashMap<Arc<Question>, QuestionId>,
    due: BTreeSet<(Instant, QuestionId)>,
    /// By VIP: the questions that go by its verdicts.
    trackers: BTreeSet<(String, QuestionId)>,
    next_id: u64,
    jitter: Jitter,
    /// A tick: the first answer.
    epoch: Option<Instant>,
    /// Subjects whose health is not yet published, gone ones among them.
    unpublished: BTreeSet<RipId>,
    /// VIPs with a verdict that is not yet published.
    turned: BTreeSet<String>,
    transitions: Vec<Transition>,
}

impl Roster {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            subjects: BTreeMap::new(),
            questions: HashMap::new(),
            ids: HashMap::new(),
            due: BTreeSet::new(),
            trackers: BTreeSet::new(),
            next_id: 0,
            jitter: Jitter::new(seed),
            epoch: None,
            unpublished: BTreeSet::new(),
            turned: BTreeSet::new(),
            transitions: Vec::new(),
        }
    }

    /// Makes this the list of targets. A target that is unchanged is not disturbed. One with another check (or port, or
    /// way to its VIP) keeps its verdict until the new one has its own. One with another address is another machine:
    /// nothing is known of it. New questions are due at once. Of several targets with one id the last counts.
    pub(super) fn follow(&mut self, targets: &[Target], now: Instant, wall: SystemTime) {
        let wanted: BTreeMap<&RipId, &Target> = targets.iter().map(|target| (&target.id, target)).collect();
        let gone: Vec<RipId> = self.subjects.keys().filter(|id| !wanted.contains_key(id)).cloned().collect();
        for id in gone {
            if let Some(subject) = self.subjects.remove(&id) {
                for question in questions_of(&subject) {
                    self.leave(question, &id);
                }
                self.turned.insert(id.vip.clone());
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

    /// Takes what the packet path saw of SYNs that came again.
    pub(super) fn count_syn_repeats(&mut self, counts: &SynRepeatCounts, now: Instant) {
        for (id, subject) in &mut self.subjects {
            if subject.update_syn_repeats(counts.get(id).copied().unwrap_or(0), now) {
                self.unpublished.insert(id.clone());
            }
        }
    }

    /// When the next question is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// The question that has been due longest, which counts as running from now.
    pub(super) fn start_due(&mut self, now: Instant) -> Option<(QuestionId, Arc<Question>)> {
        let (at, id) = self.due.first().copied().filter(|(at, _)| *at <= now)?;
        self.due.remove(&(at, id));
        let standing = self.questions.get_mut(&id)?;
        standing.timing = Timing::Running { since: now, again: false };
        Some((id, Arc::clone(&standing.question)))
    }

    /// Takes the answer to a question, and says whether somebody should hear of it at once: a verdict changed, or what a
    /// server wants.
    pub(super) fn finish(&mut self, id: QuestionId, result: &CheckResult, now: Instant) -> bool {
        let Some(standing) = self.questions.get_mut(&id) else {
            return false; // Its last asker went while it ran.
        };
        if let Timing::Running { since, again } = standing.timing {
            let interval = standing.question.interval.max(MIN_INTERVAL);
            let epoch = *self.epoch.get_or_insert(now);
            let at =
                if again { now } else { tick_before(since + self.jitter.shorten(interval), epoch).max(now) };
            standing.timing = Timing::Due(at);
            self.due.insert((at, id));
        }
        let asked = standing.question.asked();
        let mut urgent = false;
        let mut turned = Vec::new();
        for asker in &standing.askers {
            let Some(subject) = self.subjects.get_mut(asker) else {
                continue;
            };
            let news = subject.take(asked, result, now);
            urgent |= news.advised || news.turned.is_some();
            turned.extend(news.turned);
            self.unpublished.insert(asker.clone());
        }
        for transition in turned {
            self.turn(transition);
        }
        urgent
    }

    /// Makes every question about these servers due now, and names them with who asks. A server that is not there, or
    /// not asked anything, is passed over.
    pub(super) fn run_now(&mut self, rips: &[RipId], now: Instant) -> Vec<(RipId, Asked, QuestionId)> {
        let mut asked = Vec::new();
        for id in rips {
            let Some(subject) = self.subjects.get(id) else { continue };
            let [server, path] = questions_of(subject);
            asked.extend(server.map(|question| (id.clone(), Asked::Server, question)));
            asked.extend(path.map(|question| (id.clone(), Asked::Path, question)));
        }
        for (_, _, question) in &asked {
            self.hasten(*question, now);
        }
        asked
    }

    /// Whether somebody still asks this.
    pub(super) fn is_asked(&self, id: QuestionId) -> bool {
        self.questions.contains_key(&id)
    }

    /// Changes of verdicts since the last time, in the order in which they came about.
    pub(super) fn take_transitions(&mut self) -> Vec<Transition> {
        std::mem::take(&mut self.transitions)
    }

    /// Whether [`Roster::publish`] has something to say.
    pub(super) fn is_published(&self) -> bool {
        self.unpublished.is_empty()
    }

    /// Brings the map up to date with what changed since the last time. Who tracks a VIP with a new verdict is asked again
    /// at once: not before, since the map is what such a check goes by.
    pub(super) fn publish(&mut self, map: &mut HealthMap, now: Instant) {
        for id in std::mem::take(&mut self.unpublished) {
            match self.subjects.get(&id) {
                Some(subject) => map.insert(id, subject.health()),
                None => map.remove(&id),
            };
        }
        for vip in std::mem::take(&mut self.turned) {
            self.hasten_trackers(&vip, now);
        }
    }

    fn adopt(&mut self, before: Option<Subject>, target: &Target, now: Instant, wall: SystemTime) {
        let same_machine = before.as_ref().is_some_and(|b| b.target.addr.ip() == target.addr.ip());
        let asked_before = before.as_ref().map_or([None; 2], questions_of);
        // Join before leaving, so that a question which stays the same is never without an asker.
        let [server, path] = Question::of(target);
        let server = server.map(|question| self.join(question, asked_before, &target.id, now));
        let path = path.map(|question| self.join(question, asked_before, &target.id, now));
        for question in asked_before {
            if question != server && question != path {
                self.leave(question, &target.id);
            }
        }
        let (subject, turned) = match before {
            Some(mut subject) if same_machine => {
                let turned = subject.retarget(target, server, path, now, wall);
                (subject, turned)
            }
            before => {
                let subject = Subject::new(target, server, path, wall);
                let turned = before.and_then(|before| subject::replaced(&before, &subject, wall));
                (subject, turned)
            }
        };
        self.subjects.insert(target.id.clone(), subject);
        self.unpublished.insert(target.id.clone());
        if let Some(transition) = turned {
            self.turn(transition);
        }
    }

    fn turn(&mut self, transition: Transition) {
        self.turned.insert(transition.id.vip.clone());
        self.transitions.push(transition);
    }

    fn hasten_trackers(&mut self, vip: &str, now: Instant) {
        let from = (vip.to_owned(), QuestionId(0));
        let tracking: Vec<QuestionId> =
            self.trackers.range(from..).take_while(|(of, _)| of == vip).map(|(_, id)| *id).collect();
        for id in tracking {
            self.hasten(id, now);
        }
    }

    /// Makes a question due now; one that is running, when it ends.
    fn hasten(&mut self, id: QuestionId, now: Instant) {
        let Some(standing) = self.questions.get_mut(&id) else { return };
        match &mut standing.timing {
            Timing::Due(at) if *at > now => {
                self.due.remove(&(*at, id));
                *at = now;
                self.due.insert((now, id));
            }
            Timing::Due(_) => {}
            Timing::Running { again, .. } => *again = true,
        }
    }

    /// Adds an asker. A question that others ask already is asked again at once, for the newcomer, unless it is just
    /// being asked.
    fn join(
        &mut self,
        question: Question,
        asked_before: [Option<QuestionId>; 2],
        asker: &RipId,
        now: Instant,
    ) -> QuestionId {
        if let Some(id) = self.ids.get(&question).copied()
            && let Some(standing) = self.questions.get_mut(&id)
        {
            standing.askers.insert(asker.clone());
            if matches!(standing.timing, Timing::Due(_)) && !asked_before.contains(&Some(id)) {
                self.hasten(id, now);
            }
            return id;
        }
        let id = QuestionId(self.next_id);
        self.next_id += 1;
        self.trackers.extend(question.tracked().into_iter().map(|vip| (vip.to_owned(), id)));
        let question = Arc::new(question);
        self.ids.insert(Arc::clone(&question), id);
        self.due.insert((now, id));
        let askers = BTreeSet::from([asker.clone()]);
        self.questions.insert(id, Standing { question, askers, timing: Timing::Due(now) });
        id
    }

    fn leave(&mut self, question: Option<QuestionId>, asker: &RipId) {
        let Some(id) = question else { return };
        let Some(standing) = self.questions.get_mut(&id) else {
            return;
        };
        standing.askers.remove(asker);
        if !standing.askers.is_empty() {
            return;
        }
        if let Timing::Due(at) = standing.timing {
            self.due.remove(&(at, id));
        }
        self.ids.remove(&standing.question);
        for vip in standing.question.tracked() {
            self.trackers.remove(&(vip.to_owned(), id));
        }
        self.questions.remove(&id);
    }
}

/// The last tick that is not after a time.
fn tick_before(at: Instant, epoch: Instant) -> Instant {
    let since = at.saturating_duration_since(epoch).as_nanos();
    let beyond = u64::try_from(since % TICK.as_nanos()).unwrap_or_default();
    at.checked_sub(Duration::from_nanos(beyond)).unwrap_or(at)
}

/// What is asked about a server: of itself, and of its VIP there.
fn questions_of(subject: &Subject) -> [Option<QuestionId>; 2] {
    [subject.server.question, subject.path.as_ref().and_then(|line| line.question)]
}
