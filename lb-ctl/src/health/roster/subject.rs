//! One server: the two questions about it, and the one verdict on it. Pure: time is passed in.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::{
    super::{fall_rise::FallRise, flaps::Flaps},
    QuestionId,
};
use crate::model::{
    check::{CheckKind, SynRepeats},
    health::{
        Advice, Asked, CheckResult, Failure, FailureReason, Health, PathTarget, TELLING_SYN_REPEATS, Target,
        Transition, Verdict, syns_in_vain,
    },
};

/// Time without another one in which clients that try in vain still do: TCP's pauses are a second, two, four, and the tables
/// are swept every few seconds.
const SYN_PATIENCE: Duration = Duration::from_secs(5);

/// A server of a VIP.
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) target: Target,
    pub(super) server: Line,
    /// `None` where the VIP is not tried.
    pub(super) path: Option<Line>,
    verdict: Verdict,
    since: SystemTime,
    advice: Advice,
    flaps: Flaps,
    syns: SynWatch,
    /// What `rise` is multiplied by, as it was when last a check was counted.
    damping: u32,
}

/// One question about a server: how far it is from a verdict, and the last answer.
#[derive(Debug)]
pub(super) struct Line {
    /// `None` while it is not asked.
    pub(super) question: Option<QuestionId>,
    count: FallRise,
    last: Option<CheckResult>,
}

impl Line {
    const fn new(verdict: Verdict, question: Option<QuestionId>) -> Self {
        Self { question, count: FallRise::new(verdict), last: None }
    }
}

/// SYNs that clients had to send again.
#[derive(Clone, Copy, Debug, Default)]
struct SynWatch {
    /// Since a new connection last got through.
    count: u64,
    /// When another one was seen last.
    grew: Option<Instant>,
}

impl SynWatch {
    const fn update(&mut self, count: u64, now: Instant) {
        // A smaller one has begun anew in between.
        if count > self.count || (count < self.count && count > 0) {
            self.grew = Some(now);
        }
        self.count = count;
    }

    /// True while clients try in vain. A server that nobody tries any more, since it was taken out, is not held to it.
    fn is_in_vain(&self, now: Instant, interval: Duration) -> bool {
        let lately = interval.max(SYN_PATIENCE);
        self.count >= TELLING_SYN_REPEATS
            && self.grew.is_some_and(|grew| now.saturating_duration_since(grew) <= lately)
    }
}

/// What an answer did.
#[derive(Debug, Default)]
pub(super) struct News {
    /// The verdict changed.
    pub(super) turned: Option<Transition>,
    /// The server wants something else than before.
    pub(super) advised: bool,
}

impl Subject {
    /// A server of which nothing is known.
    pub(super) fn new(
        target: &Target,
        server: Option<QuestionId>,
        path: Option<QuestionId>,
        wall: SystemTime,
    ) -> Self {
        let verdict = if target.check.kind == CheckKind::Off { Verdict::Up } else { Verdict::Unknown };
        let path = (target.path != PathTarget::Off).then(|| Line::new(Verdict::Unknown, path));
        let mut subject = Self {
            target: target.clone(),
            server: Line::new(verdict, server),
            path,
            verdict,
            since: wall,
            advice: Advice::default(),
            flaps: Flaps::new(),
            syns: SynWatch::default(),
            damping: 1,
        };
        subject.verdict = subject.worse();
        subject
    }

    /// The same machine is asked something else, or in another way.
    pub(super) fn retarget(
        &mut self,
        target: &Target,
        server: Option<QuestionId>,
        path: Option<QuestionId>,
        now: Instant,
        wall: SystemTime,
    ) -> Option<Transition> {
        if target.check.kind == CheckKind::Off {
            self.server = Line::new(Verdict::Up, None);
            self.advice = Advice::default();
        } else if self.server.question != server {
            self.server.count.restart();
        }
        self.server.question = server;
        self.path = match (&target.path, self.path.take()) {
            (PathTarget::Off, _) => None,
            (PathTarget::Waiting(_) | PathTarget::Direct(_), None) => {
                // Who was up before its VIP was tried is so until the tries say otherwise.
                let verdict = if self.verdict == Verdict::Up { Verdict::Up } else { Verdict::Unknown };
                Some(Line::new(verdict, path))
            }
            (PathTarget::Waiting(_) | PathTarget::Direct(_), Some(mut line)) => {
                if self.target.path != target.path {
                    line.count.restart();
                }
                line.question = path;
                Some(line)
            }
        };
        self.target = target.clone();
        self.settle(now, wall)
    }

    /// Counts an answer.
    pub(super) fn take(&mut self, asked: Asked, result: &CheckResult, now: Instant) -> News {
        let mut result = result.clone();
        let is_local = result.failure.as_ref().is_some_and(|failure| failure.reason == FailureReason::Local);
        let mut advised = false;
        if asked == Asked::Server && !is_local {
            advised = self.advice != result.advice;
            self.advice = result.advice;
            let in_vain = self.target.check.syn_repeats == SynRepeats::Count
                && self.syns.is_in_vain(now, self.target.check.interval);
            if in_vain && result.failure.is_none() {
                result.failure = Some(syns_unanswered(self.syns.count));
            }
        }
        self.damping = self.flaps.factor(now);
        let check = &self.target.check;
        let rise = check.rise.max(1).saturating_mul(self.damping);
        let line = match asked {
            Asked::Server => Some(&mut self.server),
            Asked::Path => self.path.as_mut(),
        };
        let Some(line) = line else {
            return News::default(); // It is not asked any more.
        };
        if !is_local {
            line.count.record(result.failure.is_none(), rise, check.fall);
        }
        let at = result.at;
        line.last = Some(result);
        News { turned: self.settle(now, at), advised }
    }

    /// SYNs that came again since a new connection last got through. True when it is another number than before.
    pub(super) const fn update_syn_repeats(&mut self, count: u64, now: Instant) -> bool {
        let before = self.syns.count;
        self.syns.update(count, now);
        before != count
    }

    pub(super) fn health(&self) -> Health {
        let waiting = match &self.target.path {
            PathTarget::Waiting(why) => Some(why.clone()),
            PathTarget::Off | PathTarget::Direct(_) => None,
        };
        Health {
            last: self.server.last.clone(),
            path: self.path.as_ref().and_then(|line| line.last.clone()),
            waiting,
            advice: self.advice,
            syn_repeats: self.syns.count,
            damping: self.damping,
            ..Health::new(self.verdict, self.since)
        }
    }

    /// The worse of both verdicts. While the VIP cannot be tried, the verdict on its path is the one of before.
    fn worse(&self) -> Verdict {
        let server = self.server.count.verdict();
        match (server, self.path.as_ref().map_or(server, |line| line.count.verdict())) {
            (Verdict::Down, _) | (_, Verdict::Down) => Verdict::Down,
            (Verdict::Up, Verdict::Up) => Verdict::Up,
            (Verdict::Unknown, _) | (_, Verdict::Unknown) => Verdict::Unknown,
        }
    }

    fn settle(&mut self, now: Instant, wall: SystemTime) -> Option<Transition> {
        let (from, to) = (self.verdict, self.worse());
        if from == to {
            return None;
        }
        self.verdict = to;
        self.since = wall;
        self.flaps.record(to, now);
        self.damping = self.flaps.factor(now);
        let (reason, text) = self.why();
        Some(Transition {
            at_epoch_millis: epoch_millis(wall),
            id: self.target.id.clone(),
            from,
            to,
            reason,
            text,
        })
    }

    /// What the verdict comes of.
    fn why(&self) -> (Option<FailureReason>, String) {
        match self.verdict {
            Verdict::Up if self.target.check.kind == CheckKind::Off => (None, "its check is off".to_owned()),
            Verdict::Up => (None, "passes".to_owned()),
            Verdict::Unknown => {
                let waiting = match &self.target.path {
                    PathTarget::Waiting(why) => why.as_str(),
                    PathTarget::Off | PathTarget::Direct(_) => "no verdict yet",
                };
                (None, waiting.to_owned())
            }
            Verdict::Down => {
                let lines = [Some(&self.server), self.path.as_ref()];
                let down = lines.into_iter().flatten().find(|line| line.count.verdict() == Verdict::Down);
                let failure = down.and_then(|line| line.last.as_ref()?.failure.as_ref());
                failure.map_or_else(
                    || (None, "failed".to_owned()),
                    |failure| (Some(failure.reason), failure.text.clone()),
                )
            }
        }
    }
}

/// A change of verdict that no answer brought about: the name stands for another machine now.
pub(super) fn replaced(before: &Subject, after: &Subject, wall: SystemTime) -> Option<Transition> {
    (before.verdict != after.verdict).then(|| Transition {
        at_epoch_millis: epoch_millis(wall),
        id: after.target.id.clone(),
        from: before.verdict,
        to: after.verdict,
        reason: None,
        text: format!("its address is {} now", after.target.addr.ip()),
    })
}

fn syns_unanswered(count: u64) -> Failure {
    Failure { reason: FailureReason::SynsUnanswered, text: syns_in_vain(count) }
}

fn epoch_millis(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
