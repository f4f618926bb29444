//! The task that runs checks: feeds the [`Roster`] with time, targets and answers, and publishes what it says.
#![forbid(unsafe_code)]

use std::{
    collections::HashMap,
    future::Future,
    pin::pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustix::process::{Resource, getrlimit};
use tokio::{
    sync::{mpsc, watch},
    task::{Id, JoinError, JoinSet},
    time::{Instant, sleep_until, timeout},
};

use super::{
    probe::{self, Tools},
    roster::{QuestionId, Roster},
    runs::{RunRequest, Runs},
};
use crate::{
    model::health::{CheckResult, Failure, FailureReason, HealthMap, SynRepeatCounts, Targets, Transition},
    random::random,
};

/// Checks in flight at most, a descriptor each, and no more than half of the descriptors that this process may have. With
/// more due than that, intervals grow; the one that has waited longest goes first.
const MAX_IN_FLIGHT: usize = 4096;
/// A change of verdict waits this long for others: a switch that fails takes down many servers, and the data plane is
/// planned anew for all of them at once.
const GATHER: Duration = Duration::from_millis(20);
/// Time between changes of verdicts that are published one after the other: servers that fail together are found out over
/// the time of an interval, and each plan is for all that is known.
const PACE: Duration = Duration::from_millis(80);
/// Results that change no verdict wait this long for others, and go out together.
const COALESCE: Duration = Duration::from_millis(500);
/// Requests to run checks that are under way at most; more wait in their channel.
const MAX_RUNS: usize = 64;
/// Time that running checks have at the end to release their associations.
const FAREWELL: Duration = Duration::from_secs(1);

/// What the engine is connected to.
#[derive(Debug)]
pub struct Connections {
    /// What to check.
    pub targets: watch::Receiver<Targets>,
    /// Changes of verdicts within 80 ms, the rest within 500 ms.
    pub health: watch::Sender<HealthMap>,
    /// From the packet path.
    pub syn_repeats: watch::Receiver<Arc<SynRepeatCounts>>,
    /// Checks to run now.
    pub runs: mpsc::Receiver<RunRequest>,
    /// To the history.
    pub transitions: mpsc::Sender<Transition>,
}

/// The check engine: an actor to be spawned once.
#[derive(Debug)]
pub struct Engine {
    to: Connections,
    tools: Arc<Tools>,
    roster: Roster,
    runs: Runs,
    running: JoinSet<CheckResult>,
    asked: HashMap<Id, Begun>,
    max_in_flight: usize,
    publish_at: Option<Instant>,
    /// When a change of verdict was published last.
    turned_at: Option<Instant>,
}

/// A question that is being asked.
#[derive(Clone, Copy, Debug)]
struct Begun {
    question: QuestionId,
    at: Instant,
}

impl Engine {
    /// Checks what `targets` says. Entries of targets that it was never told of are left alone.
    #[must_use]
    pub fn new(to: Connections) -> Self {
        Self::with_seed(to, random())
    }

    /// As [`Engine::new`]; the seed decides by how much each interval is shortened.
    #[must_use]
    pub fn with_seed(to: Connections, seed: u64) -> Self {
        Self {
            tools: Arc::new(Tools::new(to.health.subscribe())),
            to,
            roster: Roster::new(seed),
            runs: Runs::default(),
            running: JoinSet::new(),
            asked: HashMap::new(),
            max_in_flight: max_in_flight(getrlimit(Resource::Nofile).current),
            publish_at: None,
            turned_at: None,
        }
    }

    /// Runs until `shutdown` is ready, or the sender of the targets is gone. Checks that run then have a second to
    /// end and release their associations; their results are not published.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) {
        let mut shutdown = pin!(shutdown);
        self.follow();
        loop {
            self.start_due();
            let wake = self.wake();
            tokio::select! {
                () = &mut shutdown => break,
                changed = self.to.targets.changed() => match changed {
                    Ok(()) => self.follow(),
                    Err(_sender_gone) => break,
                },
                Ok(()) = self.to.syn_repeats.changed() => self.count_syn_repeats(),
                Some(request) = self.to.runs.recv(), if self.runs.len() < MAX_RUNS => self.run_now(request),
                Some(ended) = self.running.join_next_with_id() => self.collect(ended),
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
            }
            if self.publish_at.is_some_and(|at| at <= Instant::now()) {
                self.publish();
            }
        }
        let _late_ones_are_aborted =
            timeout(FAREWELL, async { while self.running.join_next().await.is_some() {} }).await;
    }

    fn follow(&mut self) {
        let targets = self.to.targets.borrow_and_update().clone();
        self.tools.wires.know(&targets);
        self.roster.follow(&targets, Instant::now().into_std(), SystemTime::now());
        self.runs.reply(|question| self.roster.is_asked(question));
        self.publish();
    }

    fn count_syn_repeats(&mut self) {
        let counts = Arc::clone(&self.to.syn_repeats.borrow_and_update());
        self.roster.count_syn_repeats(&counts, Instant::now().into_std());
        self.publish_by(Instant::now() + COALESCE);
    }

    fn run_now(&mut self, RunRequest { rips, reply }: RunRequest) {
        let now = Instant::now().into_std();
        self.runs.add(self.roster.run_now(&rips, now), reply, now);
        self.runs.reply(|question| self.roster.is_asked(question));
    }

    fn start_due(&mut self) {
        while self.running.len() < self.max_in_flight {
            let at = Instant::now();
            let Some((id, question)) = self.roster.start_due(at.into_std()) else {
                break;
            };
            let tools = Arc::clone(&self.tools);
            let check = async move { probe::ask(&question.subject, question.timeout, &tools).await };
            self.asked.insert(self.running.spawn(check).id(), Begun { question: id, at });
        }
    }

    /// When there is something to do without being told: a check to start (if one may), results to publish.
    fn wake(&self) -> Option<Instant> {
        let due = if self.running.len() < self.max_in_flight { self.roster.next_due() } else { None };
        due.map(Instant::from_std).into_iter().chain(self.publish_at).min()
    }

    /// Takes the answer that came, and those that came with it.
    fn collect(&mut self, ended: Result<(Id, CheckResult), JoinError>) {
        let mut urgent = self.finish(ended);
        while let Some(ended) = self.running.try_join_next_with_id() {
            urgent |= self.finish(ended);
        }
        let now = Instant::now();
        let paced = self.turned_at.map_or(now, |at| at + PACE).max(now + GATHER);
        self.publish_by(if urgent { paced } else { now + COALESCE });
        if self.runs.reply(|question| self.roster.is_asked(question)) {
            // Who was told will look what became of it.
            self.publish();
        }
    }

    fn finish(&mut self, ended: Result<(Id, CheckResult), JoinError>) -> bool {
        let (task, result) = ended.unwrap_or_else(|error| (error.id(), broken(&error)));
        let Some(Begun { question, at }) = self.asked.remove(&task) else {
            return false;
        };
        self.runs.take(question, at.into_std(), &result);
        self.roster.finish(question, &result, Instant::now().into_std())
    }

    /// Has what is new published no later than at this time.
    fn publish_by(&mut self, at: Instant) {
        if !self.roster.is_published() {
            self.publish_at = Some(self.publish_at.map_or(at, |before| before.min(at)));
        }
    }

    /// The history first: who has seen a verdict finds in it how it came about.
    fn publish(&mut self) {
        self.publish_at = None;
        let now = Instant::now();
        for transition in self.roster.take_transitions() {
            self.turned_at = Some(now);
            if let Err(error) = self.to.transitions.try_send(transition) {
                let Transition { id, to, .. } = error.into_inner();
                tracing::warn!("the history misses that {}/{} is {to:?}: it takes no more", id.vip, id.rip);
            }
        }
        if !self.roster.is_published() {
            self.to.health.send_modify(|map| self.roster.publish(map, now.into_std()));
        }
    }
}

/// How many checks may be in flight, given how many descriptors may be open; `None` = any number.
fn max_in_flight(descriptors: Option<u64>) -> usize {
    let half = descriptors.and_then(|most| usize::try_from(most / 2).ok()).unwrap_or(MAX_IN_FLIGHT);
    half.clamp(1, MAX_IN_FLIGHT)
}

/// The result of a check that panicked: a defect of ours, and never the server's fault.
fn broken(error: &JoinError) -> CheckResult {
    tracing::error!(%error, "a health check panicked; please report this");
    let failure = Failure {
        reason: FailureReason::Local,
        text: format!("check: not tried, a defect in lbd: {error}; please report this"),
    };
    CheckResult::new(SystemTime::now(), Duration::ZERO, Vec::new(), Some(failure))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_take_half_of_the_descriptors_at_most() {
        let limits =
            [(Some(0), 1), (Some(1024), 512), (Some(16_384), 4096), (Some(u64::MAX), 4096), (None, 4096)];
        for (descriptors, most) in limits {
            assert_eq!(max_in_flight(descriptors), most);
        }
    }
}
