//! Checks that somebody wants now, and waits for.
#![forbid(unsafe_code)]

use std::time::Instant;

use tokio::sync::oneshot;

use super::roster::QuestionId;
use crate::model::health::{Asked, CheckResult, RipId, RunResults};

/// Asks for checks to be run now, beside their intervals; they count like others.
#[derive(Debug)]
pub struct RunRequest {
    /// Of which servers.
    pub rips: Vec<RipId>,
    /// Gets what they found; a server that is not checked has no result.
    pub reply: oneshot::Sender<RunResults>,
}

/// Those who wait.
#[derive(Debug, Default)]
pub(super) struct Runs(Vec<Run>);

#[derive(Debug)]
struct Run {
    /// Checks that began before were not asked for.
    since: Instant,
    awaited: Vec<(RipId, Asked, QuestionId)>,
    results: RunResults,
    reply: oneshot::Sender<RunResults>,
}

impl Runs {
    pub(super) const fn len(&self) -> usize {
        self.0.len()
    }

    /// Somebody waits from now on.
    pub(super) fn add(
        &mut self,
        awaited: Vec<(RipId, Asked, QuestionId)>,
        reply: oneshot::Sender<RunResults>,
        now: Instant,
    ) {
        self.0.push(Run { since: now, awaited, results: RunResults::new(), reply });
    }

    /// Takes the answer to a question that was asked at `began`.
    pub(super) fn take(&mut self, question: QuestionId, began: Instant, result: &CheckResult) {
        for run in self.0.iter_mut().filter(|run| run.since <= began) {
            run.awaited.retain(|(id, asked, awaited)| {
                if *awaited == question {
                    run.results.push((id.clone(), *asked, result.clone()));
                }
                *awaited != question
            });
        }
    }

    /// Tells those whose questions have all been answered, or are asked no more. True when there were any.
    pub(super) fn reply(&mut self, is_asked: impl Fn(QuestionId) -> bool) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let (done, waiting): (Vec<Run>, Vec<Run>) =
            std::mem::take(&mut self.0).into_iter().partition(|run| {
                run.reply.is_closed() || !run.awaited.iter().any(|(_, _, question)| is_asked(*question))
            });
        self.0 = waiting;
        let any = !done.is_empty();
        for mut run in done {
            run.results.sort_by(|(a, of_a, _), (b, of_b, _)| (a, of_a).cmp(&(b, of_b)));
            drop(run.reply.send(run.results)); // Who asked may have gone away meanwhile.
        }
        any
    }
}
