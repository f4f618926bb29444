//! The task that runs checks: feeds the [`Roster`] with time, targets and answers, and publishes what it says.
#![forbid(unsafe_code)]

use std::{
    collections::HashMap,
    future::Future,
    hash::{BuildHasher, Hasher, RandomState},
    pin::pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    task::{Id, JoinError, JoinSet},
    time::{Instant, sleep_until, timeout},
};

use super::{
    probe::{self, Tools},
    roster::{QuestionId, Roster},
};
use crate::model::health::{
    CheckResult, Failure, FailureReason, HealthMap, RipId, RunResults, SynRepeatCounts, Targets, Transition,
};

/// Checks in flight at most, a descriptor each: half of the 1024 that a service has by default. With more due than
/// that, intervals grow; the one that has waited longest goes first.
const MAX_IN_FLIGHT: usize = 512;
/// Results that change no verdict wait this long for others, and go out together.
const COALESCE: Duration = Duration::from_millis(100);
/// Time that running checks have at the end to release their associations.
const FAREWELL: Duration = Duration::from_secs(1);

/// Asks for checks to be run now, beside their intervals; they count like others.
#[derive(Debug)]
pub struct RunRequest {
    /// Of which servers.
    pub rips: Vec<RipId>,
    /// Gets what they found; a server that is not checked has no result.
    pub reply: oneshot::Sender<RunResults>,
}

/// What the engine is connected to.
#[derive(Debug)]
pub struct Connections {
    /// What to check.
    pub targets: watch::Receiver<Targets>,
    /// Verdict changes at once, the rest at most every 100 ms.
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
    running: JoinSet<CheckResult>,
    asked: HashMap<Id, QuestionId>,
    publish_at: Option<Instant>,
}

impl Engine {
    /// Checks what `targets` says. Entries of targets that it was never told of are left alone.
    #[must_use]
    pub fn new(to: Connections) -> Self {
        // The hasher's keys are random: the standard library's way to a random number.
        Self::with_seed(to, RandomState::new().build_hasher().finish())
    }

    /// As [`Engine::new`]; the seed decides by how much each interval is spread.
    #[must_use]
    pub fn with_seed(to: Connections, seed: u64) -> Self {
        Self {
            tools: Arc::new(Tools::new(to.health.subscribe())),
            to,
            roster: Roster::new(seed),
            running: JoinSet::new(),
            asked: HashMap::new(),
            publish_at: None,
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
        self.publish();
    }

    fn start_due(&mut self) {
        while self.running.len() < MAX_IN_FLIGHT {
            let Some((id, question)) = self.roster.start_due(Instant::now().into_std()) else {
                break;
            };
            let tools = Arc::clone(&self.tools);
            let check = async move { probe::ask(&question.subject, question.timeout, &tools).await };
            self.asked.insert(self.running.spawn(check).id(), id);
        }
    }

    /// When there is something to do without being told: a check to start (if one may), results to publish.
    fn wake(&self) -> Option<Instant> {
        let due = if self.running.len() < MAX_IN_FLIGHT { self.roster.next_due() } else { None };
        due.map(Instant::from_std).into_iter().chain(self.publish_at).min()
    }

    /// Takes the answer that came, and those that came with it, so that they are published together.
    fn collect(&mut self, ended: Result<(Id, CheckResult), JoinError>) {
        let mut turned = self.finish(ended);
        while let Some(ended) = self.running.try_join_next_with_id() {
            turned |= self.finish(ended);
        }
        if turned {
            self.publish();
        } else if !self.roster.is_published() {
            self.publish_at.get_or_insert_with(|| Instant::now() + COALESCE);
        }
    }

    fn finish(&mut self, ended: Result<(Id, CheckResult), JoinError>) -> bool {
        let (task, result) = ended.unwrap_or_else(|error| (error.id(), broken(&error)));
        match self.asked.remove(&task) {
            Some(id) => self.roster.finish(id, &result, Instant::now().into_std()),
            None => false,
        }
    }

    fn publish(&mut self) {
        self.publish_at = None;
        if !self.roster.is_published() {
            self.to.health.send_modify(|map| self.roster.publish(map));
        }
    }
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
