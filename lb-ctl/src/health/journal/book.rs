//! What is known of the past of every server. Pure: time is passed in.
#![forbid(unsafe_code)]

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use crate::model::health::{RipId, Transition};

/// Changes of verdict that are kept of each server.
const KEPT: usize = 100;
/// Time after which a server that is gone is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(30 * 86_400);
/// Lines that a file may have without it being looked how many of them are of use.
const FEW_LINES: usize = 1000;

/// A line of the file.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(untagged)]
pub(super) enum Entry {
    /// A verdict changed.
    Turned(Transition),
    /// A server is no longer checked.
    Gone {
        /// Milliseconds since the epoch.
        gone_at_epoch_millis: u64,
        /// Which.
        #[serde(flatten)]
        id: RipId,
    },
}

/// By server.
#[derive(Debug, Default)]
pub(super) struct Book(BTreeMap<RipId, Past>);

#[derive(Debug, Default)]
struct Past {
    turns: VecDeque<Transition>,
    gone_at_epoch_millis: Option<u64>,
}

impl Book {
    pub(super) fn enter(&mut self, entry: Entry) {
        match entry {
            Entry::Turned(turn) => {
                let past = self.0.entry(turn.id.clone()).or_default();
                past.gone_at_epoch_millis = None;
                past.turns.push_back(turn);
                if past.turns.len() > KEPT {
                    past.turns.pop_front();
                }
            }
            Entry::Gone { gone_at_epoch_millis, id } => {
                if let Some(past) = self.0.get_mut(&id) {
                    past.gone_at_epoch_millis = Some(gone_at_epoch_millis);
                }
            }
        }
    }

    /// Who has a past and is not here any more, of whom that is news. Who is back is not gone.
    pub(super) fn absent(&mut self, here: &BTreeSet<RipId>, now: SystemTime) -> Vec<Entry> {
        let mut news = Vec::new();
        for (id, past) in &mut self.0 {
            if here.contains(id) {
                past.gone_at_epoch_millis = None;
            } else if past.gone_at_epoch_millis.is_none() {
                news.push(Entry::Gone { gone_at_epoch_millis: epoch_millis(now), id: id.clone() });
            }
        }
        news
    }

    /// Forgets who has been gone for long.
    pub(super) fn prune(&mut self, now: SystemTime) {
        let since = epoch_millis(now.checked_sub(FORGOTTEN_AFTER).unwrap_or(UNIX_EPOCH));
        self.0.retain(|_, past| past.gone_at_epoch_millis.is_none_or(|at| at > since));
    }

    /// The newest changes of a server, the oldest first.
    pub(super) fn last(&self, id: &RipId, limit: usize) -> Vec<Transition> {
        let Some(past) = self.0.get(id) else {
            return Vec::new();
        };
        past.turns.iter().skip(past.turns.len().saturating_sub(limit)).cloned().collect()
    }

    /// True when a file of so many lines is twice as long as it has to be.
    pub(super) fn is_half_of(&self, lines: usize) -> bool {
        lines > FEW_LINES && lines / 2 > self.0.values().map(|past| past.turns.len() + 1).sum()
    }

    /// Everything, as a file has it.
    pub(super) fn entries(&self) -> impl Iterator<Item = Entry> {
        self.0.iter().flat_map(|(id, past)| {
            let gone = past
                .gone_at_epoch_millis
                .map(|gone_at_epoch_millis| Entry::Gone { gone_at_epoch_millis, id: id.clone() });
            past.turns.iter().cloned().map(Entry::Turned).chain(gone)
        })
    }
}

fn epoch_millis(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
