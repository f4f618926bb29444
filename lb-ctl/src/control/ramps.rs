//! Slow start: how much of its weight a server has that came up a short while ago.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use crate::{
    compile::Notes,
    model::{
        config::{Config, Scheduler, Vip},
        health::RipId,
        status::RipState,
    },
};

/// Steps in which the weight grows: each is written to the kernel.
const STEPS: u32 = 10;

/// Servers that have not their whole weight yet.
#[derive(Debug, Default)]
pub(super) struct Ramps {
    /// When each came up.
    since: BTreeMap<RipId, Instant>,
}

impl Ramps {
    /// Notes who came up, and forgets who no longer takes flows. True when anybody came up.
    pub(super) fn follow(&mut self, notes: &Notes, config: &Config, now: Instant) -> bool {
        self.since.retain(|id, _| notes.rips.get(id).is_some_and(|note| note.state == RipState::Active));
        let mut began = false;
        for (id, _) in notes.rips.iter().filter(|(_, note)| note.fresh) {
            if slow_start(config, id).is_some() {
                self.since.insert(id.clone(), now);
                began = true;
            }
        }
        began
    }

    /// Percent of its weight, for each server that has not the whole.
    pub(super) fn percents(&self, config: &Config, now: Instant) -> BTreeMap<RipId, u16> {
        let percent = |id: &RipId, since: &Instant| {
            let step = step(now - *since, slow_start(config, id)?);
            (step < STEPS).then(|| u16::try_from(step.max(1) * 100 / STEPS).ok()).flatten()
        };
        self.since.iter().filter_map(|(id, since)| Some((id.clone(), percent(id, since)?))).collect()
    }

    /// When the next of them gains weight.
    pub(super) fn next_step(&self, config: &Config, now: Instant) -> Option<Instant> {
        let next = |id: &RipId, since: &Instant| {
            let whole = slow_start(config, id)?;
            let step = step(now - *since, whole);
            if step < STEPS { since.checked_add(whole / STEPS * (step + 1)) } else { None }
        };
        self.since.iter().filter_map(|(id, since)| next(id, since)).min()
    }
}

/// Steps that are over, up to all of them.
fn step(elapsed: Duration, whole: Duration) -> u32 {
    let each = (whole / STEPS).as_nanos().max(1);
    u32::try_from(elapsed.as_nanos() / each).unwrap_or(STEPS).min(STEPS)
}

/// How long a server takes to its whole weight; `None` = it has it at once, or weights mean nothing.
fn slow_start(config: &Config, id: &RipId) -> Option<Duration> {
    let is_slow = |vip: &&Vip| vip.enabled && vip.scheduler != Scheduler::First && !vip.slow_start.is_zero();
    config.vips.iter().find(|vip| vip.name == id.vip).filter(is_slow).map(|vip| vip.slow_start)
}
