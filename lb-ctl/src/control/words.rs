//! The operator's word: what is asked of it, and what time makes of it.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::Instant;

use super::{Controller, Refused};
use crate::{
    dataplane::{FlowCensus, Installed},
    model::{
        command::Outcome,
        config::{Config, Persist},
        health::{RipId, SynRepeatCounts},
        operator::{Forced, Left, Order, Word, utc},
    },
};

/// Pause before a change that the disk refused is tried again.
const RETRY: Duration = Duration::from_secs(30);

impl Controller {
    /// Says whether servers take connections.
    pub(super) async fn set_state(&mut self, rips: &[RipId], order: Order) -> Result<Outcome, Refused> {
        if let Order::Drain { deadline_epoch_secs: Some(at), .. } = order {
            self.must_come("the drain ends", at)?;
        }
        let said = |word: Word| Word { order, ..word };
        let told = |word: Word| word.order.to_string();
        let changes = self.say(rips, said, told).await?;
        let mut warnings = Vec::new();
        for vip in self.config.vips.iter().filter(|v| v.enabled && rips.iter().any(|id| id.vip == v.name)) {
            let online = vip.rips.iter().any(|rip| {
                let id = RipId { vip: vip.name.clone(), rip: rip.name.clone() };
                self.operator.word(&id).order == Order::Online
            });
            if !online {
                warnings.push(format!("{} has no real server left that takes new connections", vip.name));
            }
        }
        Ok(Outcome { changes, warnings, ..Outcome::default() })
    }

    /// Says what counts in place of verdicts.
    pub(super) async fn force(&mut self, rips: &[RipId], forced: Option<Forced>) -> Result<Outcome, Refused> {
        if let Some(Forced { until_epoch_secs: Some(at), .. }) = forced {
            self.must_come("the forced verdict ends", at)?;
        }
        let told = |word: Word| word.forced.map_or_else(|| "checked".to_owned(), |forced| forced.to_string());
        let changes = self.say(rips, |word| Word { forced, ..word }, told).await?;
        Ok(Outcome { changes, ..Outcome::default() })
    }

    /// Forgets which server a VIP uses, at the next compilation.
    pub(super) fn forget(&mut self, vip: String) -> Result<Outcome, Refused> {
        self.find_vip(&vip)?;
        let changes = vec![format!("{vip}: the server in use is forgotten")];
        self.forgotten.insert(vip);
        Ok(Outcome { changes, ..Outcome::default() })
    }

    /// Changes what is said of servers. Gives a line for each of which something else is said than before.
    async fn say(
        &mut self,
        rips: &[RipId],
        said: impl Fn(Word) -> Word,
        told: impl Fn(Word) -> String,
    ) -> Result<Vec<String>, Refused> {
        for id in rips {
            self.must_exist(id)?;
        }
        let was: Vec<(&RipId, Word)> = rips.iter().map(|id| (id, self.operator.word(id))).collect();
        let changes: Vec<String> = was
            .iter()
            .filter(|(_, word)| said(*word) != *word)
            .map(|(id, word)| format!("{}/{}: {} -> {}", id.vip, id.rip, told(*word), told(said(*word))))
            .collect();
        self.operator.set(was.iter().map(|(id, word)| ((*id).clone(), said(*word)))).await?;
        self.drains.restart();
        for change in &changes {
            tracing::info!("{change}");
        }
        Ok(changes)
    }

    fn must_come(&self, what: &str, at_epoch_secs: u64) -> Result<(), Refused> {
        if at_epoch_secs > epoch_secs((self.to.clock)()) {
            return Ok(());
        }
        let at = utc(at_epoch_secs);
        Err(Refused::Invalid(format!("{what} at {at}, which is over: name a time to come, or none")))
    }

    /// Takes in a sweep of the flow tables: what do servers that drain have left?
    pub(super) fn take_census(&mut self) {
        let census = self.to.census.borrow_and_update().clone();
        let reconciled = self.to.reconciled.borrow().clone();
        if self.goal.number == 0 || reconciled.number.min(self.to.proxied.borrow().number) < self.goal.number
        {
            self.drains.restart();
        } else {
            let proxied = self.to.proxied.borrow().clone();
            self.drains.count(self.operator.words(), &reconciled.installed, &census, &proxied);
        }
        let repeats = syn_repeats(&reconciled.installed, &census);
        self.to.syn_repeats.send_if_modified(|published| {
            let differs = **published != repeats;
            if differs {
                *published = Arc::new(repeats);
            }
            differs
        });
    }

    /// Puts into force what time has made of the operator's word. True when that is anything; on disk then.
    pub(super) async fn advance(&mut self) -> bool {
        if self.retry_at.is_some_and(|at| Instant::now() < at) {
            return false;
        }
        let now = epoch_secs((self.to.clock)());
        let (mut said, mut lines) = (Vec::new(), Vec::new());
        for (id, word) in self.operator.words() {
            let (then, why) = word.at(now, self.left(id));
            if then != *word {
                lines.extend(why.iter().map(|why| format!("{}/{}: {why}", id.vip, id.rip)));
                said.push((id.clone(), then));
            }
        }
        if said.is_empty() {
            return false;
        }
        if let Err(error) = self.operator.set(said).await {
            let problem = format!("{}: not done: {error}", lines.join("; "));
            tracing::error!("{problem}; tried again in {} s", RETRY.as_secs());
            self.operator_problem = Some(problem);
            self.retry_at = Some(Instant::now() + RETRY);
            self.publish_view();
            return false;
        }
        (self.operator_problem, self.retry_at) = (None, None);
        for line in &lines {
            tracing::info!("{line}");
        }
        true
    }

    /// When [`Self::advance`] or a slow start has something to do next.
    pub(super) fn due(&self) -> Option<Instant> {
        let (now, wall) = (Instant::now(), (self.to.clock)());
        let in_time = |epoch_secs: u64| {
            let at = UNIX_EPOCH.checked_add(Duration::from_secs(epoch_secs))?;
            now.checked_add(at.duration_since(wall).unwrap_or_default())
        };
        let words = self.operator.words().values();
        let next = words.filter_map(Word::next_epoch_secs).min().and_then(in_time);
        // What the disk refused waits for its turn.
        let next = next.map(|at| self.retry_at.map_or(at, |retry| retry.max(at)));
        next.into_iter().chain(self.ramps.next_step(&self.config, now)).min()
    }

    fn left(&self, id: &RipId) -> Left {
        self.drains.left(id, persists(&self.config, id))
    }
}

/// By name: whose SYNs came again in vain.
fn syn_repeats(installed: &Installed, census: &FlowCensus) -> SynRepeatCounts {
    let named = |(slot, &count): (&u16, &u64)| {
        let (who, _) = installed.backends.get(slot)?;
        let (service, _) = installed.services.get(&who.service)?;
        Some((RipId { vip: service.name.clone(), rip: who.name.clone() }, count))
    };
    census.syn_repeats_by_slot.iter().filter_map(named).collect()
}

/// True when a server's VIP sends clients back to their server.
fn persists(config: &Config, id: &RipId) -> bool {
    config.vips.iter().any(|vip| vip.name == id.vip && matches!(vip.persist, Persist::SourceIp { .. }))
}

/// Whole seconds; 0 for a clock that was never set.
fn epoch_secs(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}
