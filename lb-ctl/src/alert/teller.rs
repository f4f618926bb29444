//! What is told, and when: the difference between what is so and what was told, once a little time has passed in which
//! more may happen. Pure: situation and time come in, events go out.
//!
//! It goes by levels, not by edges: a daemon that was away compares what it finds with what it had told, so that nothing
//! is told twice and nothing is missed.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::situation::{Failing, Situation, Standing, Subject};
use crate::model::health::FailureReason;

/// What is told of a subject.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(super) struct Event {
    /// What happened.
    pub(super) kind: Kind,
    /// To whom.
    #[serde(flatten)]
    pub(super) subject: Subject,
    /// Class of the failure, of a check.
    pub(super) reason: Option<FailureReason>,
    /// One line for people: how it fails, or failed.
    pub(super) text: String,
    /// Since when it fails, or failed.
    pub(super) since_epoch_secs: u64,
}

/// What happened.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Kind {
    /// It fails.
    Failed,
    /// It was back for a moment, and fails again.
    Relapsed,
    /// It still fails, and was told to long ago.
    Still,
    /// It failed for a moment, and is back.
    Blinked,
    /// It is back.
    Recovered,
}

/// A failure that people know of.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Told {
    /// Since when it is.
    since_epoch_secs: u64,
    /// When they last heard of it.
    told_epoch_secs: u64,
    reason: Option<FailureReason>,
    text: String,
}

/// By both clocks: the wall's for people and for what outlives the daemon, the steady one for waiting.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    /// Steady.
    pub(super) steady: Instant,
    /// Seconds since the epoch.
    pub(super) epoch_secs: u64,
}

/// The times that a configuration gives.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// From the first event to the telling.
    pub(super) group: Duration,
    /// From telling to telling again; zero = never.
    pub(super) repeat: Duration,
}

/// What was told, and what waits to be.
#[derive(Clone, Debug, Default)]
pub(super) struct Teller {
    told: BTreeMap<Subject, Told>,
    window: Option<Window>,
}

/// The time after a first event.
#[derive(Clone, Debug)]
struct Window {
    opened: Instant,
    /// What was not as it had been told at some time in it.
    stirred: BTreeMap<Subject, Stir>,
}

/// How it was first seen to be otherwise.
#[derive(Clone, Debug)]
enum Stir {
    Failed(Told),
    Back,
}

impl Teller {
    /// One who has told this.
    pub(super) fn new(told: impl IntoIterator<Item = (Subject, Told)>) -> Self {
        Self { told: told.into_iter().collect(), window: None }
    }

    /// All that was told and not taken back.
    pub(super) fn told(&self) -> impl Iterator<Item = (&Subject, &Told)> {
        self.told.iter()
    }

    /// Takes notice of a situation. True when something that was told is no longer there to be told of.
    pub(super) fn look(&mut self, situation: &Situation, now: Now) -> bool {
        let before = self.told.len();
        self.told.retain(|subject, _| situation.standing(subject).is_some());
        for told in self.told.values_mut() {
            // A clock that was set back does not put reminders off.
            told.told_epoch_secs = told.told_epoch_secs.min(now.epoch_secs);
        }
        let mut stirred = Vec::new();
        for (subject, standing) in situation.iter() {
            if let (Standing::Failing(failing), None) = (standing, self.told.get(subject)) {
                stirred.push((subject.clone(), Stir::Failed(Told::of(failing, now))));
            }
        }
        for subject in self.told.keys() {
            if situation.standing(subject) == Some(&Standing::Well) {
                stirred.push((subject.clone(), Stir::Back));
            }
        }
        if !stirred.is_empty() {
            let window = || Window { opened: now.steady, stirred: BTreeMap::new() };
            let window = self.window.get_or_insert_with(window);
            for (subject, stir) in stirred {
                window.stirred.entry(subject).or_insert(stir);
            }
        }
        before != self.told.len()
    }

    /// When there will be something to tell, if nothing more happens.
    pub(super) fn due(&self, situation: &Situation, pace: Pace, now: Now) -> Option<Instant> {
        let window = self.window.as_ref().map(|window| window.opened + pace.group);
        let repeat = self
            .failing(situation)
            .filter_map(|(_, told)| told.repeats_in(pace, now))
            .min()
            .map(|wait| now.steady + wait);
        window.into_iter().chain(repeat).min()
    }

    /// What is to be told now; it counts as told from here on.
    pub(super) fn tell(&mut self, situation: &Situation, pace: Pace, now: Now) -> Vec<Event> {
        let mut events = Vec::new();
        if let Some(window) = self.window.take_if(|window| window.opened + pace.group <= now.steady) {
            for (subject, stir) in window.stirred {
                events.extend(self.settle(subject, stir, situation, now));
            }
        }
        // One reminder a time: what would be due soon goes with what is due.
        if self.failing(situation).any(|(_, told)| told.repeats_in(pace, now) == Some(Duration::ZERO)) {
            let still: Vec<Subject> = self
                .failing(situation)
                .filter(|(_, told)| told.told_epoch_secs != now.epoch_secs)
                .map(|(subject, _)| subject.clone())
                .collect();
            for subject in still {
                if let Some(told) = self.told.get_mut(&subject) {
                    told.told_epoch_secs = now.epoch_secs;
                    events.push(told.event(Kind::Still, subject));
                }
            }
        }
        events
    }

    /// What has become of a subject in the window that is over.
    fn settle(&mut self, subject: Subject, stir: Stir, situation: &Situation, now: Now) -> Option<Event> {
        let standing = situation.standing(&subject)?;
        match (standing, stir) {
            (Standing::Unsaid, _) => None,
            (Standing::Well, Stir::Failed(told)) => Some(told.event(Kind::Blinked, subject)),
            (Standing::Well, Stir::Back) => {
                let told = self.told.remove(&subject)?;
                Some(told.event(Kind::Recovered, subject))
            }
            (Standing::Failing(failing), stir) => {
                let (kind, since) = match stir {
                    Stir::Failed(first) => (Kind::Failed, first.since_epoch_secs),
                    Stir::Back => (Kind::Relapsed, now.epoch_secs),
                };
                let told = Told { since_epoch_secs: since, ..Told::of(failing, now) };
                let event = told.event(kind, subject.clone());
                self.told.insert(subject, told);
                Some(event)
            }
        }
    }

    /// What was told, still fails, and is to be told again for that.
    fn failing(&self, situation: &Situation) -> impl Iterator<Item = (&Subject, &Told)> {
        self.told
            .iter()
            .filter(|(subject, _)| subject.is_repeated())
            .filter(|(subject, _)| matches!(situation.standing(subject), Some(Standing::Failing(_))))
    }
}

impl Told {
    fn of(failing: &Failing, now: Now) -> Self {
        Self {
            since_epoch_secs: failing.since_epoch_secs.unwrap_or(now.epoch_secs),
            told_epoch_secs: now.epoch_secs,
            reason: failing.reason,
            text: failing.text.clone(),
        }
    }

    fn event(&self, kind: Kind, subject: Subject) -> Event {
        let Self { since_epoch_secs, reason, ref text, .. } = *self;
        Event { kind, subject, reason, text: text.clone(), since_epoch_secs }
    }

    /// Time until it is told again; `None` = it is not.
    fn repeats_in(&self, pace: Pace, now: Now) -> Option<Duration> {
        let passed = now.epoch_secs.saturating_sub(self.told_epoch_secs);
        (!pace.repeat.is_zero()).then(|| pace.repeat.saturating_sub(Duration::from_secs(passed)))
    }
}
