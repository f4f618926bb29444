//! What servers that drain have left, as the sweeps of the flow tables count it.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    dataplane::{FlowCensus, Installed},
    model::{
        health::RipId,
        operator::{Left, Order, Words},
    },
};

/// Sweeps in a row that must find nothing: the first one may have begun before the server left the table, and a
/// connection that began just then counts once its client has answered.
const QUIET_SWEEPS: u32 = 3;

/// Servers that drain, and for how many sweeps they have had no connection.
#[derive(Debug, Default)]
pub(super) struct Drains {
    quiet: BTreeMap<RipId, u32>,
    /// Clients that persistence leads anywhere.
    persistent: u64,
}

impl Drains {
    /// Takes in a sweep. `installed` is what the kernel holds; what is not there has no connections.
    pub(super) fn count(&mut self, words: &Words, installed: &Installed, census: &FlowCensus) {
        self.persistent = census.persistent;
        let entrants: BTreeSet<u16> =
            installed.tables.values().flat_map(|t| t.entrants.iter().map(|e| e.slot)).collect();
        let mut busy = BTreeSet::new();
        for (slot, (who, _)) in &installed.backends {
            let active = census.active_by_slot.get(slot).copied().unwrap_or(0);
            if (active > 0 || entrants.contains(slot))
                && let Some((service, _)) = installed.services.get(&who.service)
            {
                busy.insert((service.name.as_str(), who.name.as_str()));
            }
        }
        let before = std::mem::take(&mut self.quiet);
        for (id, word) in words {
            if matches!(word.order, Order::Drain { .. })
                && !busy.contains(&(id.vip.as_str(), id.rip.as_str()))
            {
                let sweeps = before.get(id).map_or(0, |sweeps| *sweeps);
                self.quiet.insert(id.clone(), sweeps.saturating_add(1));
            }
        }
    }

    /// Counts anew: the kernel does not hold yet what was decided.
    pub(super) fn restart(&mut self) {
        self.quiet.clear();
    }

    /// What a server has left. `persists` says whether its VIP sends clients back to their server.
    pub(super) fn left(&self, id: &RipId, persists: bool) -> Left {
        match self.quiet.get(id) {
            Some(QUIET_SWEEPS..) if persists && self.persistent > 0 => Left::Persistence,
            Some(QUIET_SWEEPS..) => Left::Nothing,
            Some(_) | None => Left::Connections,
        }
    }
}
