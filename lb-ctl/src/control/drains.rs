//! What servers that drain have left, as the sweeps of the flow tables count it.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    dataplane::{FlowCensus, Installed},
    model::{
        health::RipId,
        operator::{Left, Order, Words},
        proxied::Proxied,
    },
};

/// Sweeps in a row that must find nothing: the first one may have begun before the server left the table, and a
/// connection that began just then counts once its client has answered.
const QUIET_SWEEPS: u32 = 3;

/// Servers that drain, and for how many sweeps they have had no connection.
#[derive(Debug, Default)]
pub(super) struct Drains {
    quiet: BTreeMap<RipId, u32>,
    /// Those that persistence leads clients to.
    persistent: BTreeSet<RipId>,
}

impl Drains {
    /// Takes in a sweep. `installed` is what the kernel holds, `proxied` what the proxy does; what is in neither has no
    /// connections.
    pub(super) fn count(
        &mut self,
        words: &Words,
        installed: &Installed,
        census: &FlowCensus,
        proxied: &Proxied,
    ) {
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
        for (vip, status) in &proxied.vips {
            let servers =
                status.servers.iter().filter(|(_, server)| server.connections > 0 || server.in_service);
            busy.extend(servers.map(|(rip, _)| (vip.as_str(), rip.as_str())));
        }
        self.persistent = persistent(words, installed, census);
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
            Some(QUIET_SWEEPS..) if persists && self.persistent.contains(id) => Left::Persistence,
            Some(QUIET_SWEEPS..) => Left::Nothing,
            Some(_) | None => Left::Connections,
        }
    }
}

/// Servers that drain and that persistence leads clients to, whichever VIP of the group its entries name.
fn persistent(words: &Words, installed: &Installed, census: &FlowCensus) -> BTreeSet<RipId> {
    let mut wanted = BTreeSet::new();
    for (slot, (who, _)) in &installed.backends {
        let Some((service, _)) = installed.services.get(&who.service) else { continue };
        let id = RipId { vip: service.name.clone(), rip: who.name.clone() };
        let drains = words.get(&id).is_some_and(|word| matches!(word.order, Order::Drain { .. }));
        let leads_here =
            |named: &u16| named == slot || installed.twins.get(&(*named, who.service)) == Some(slot);
        let mut entries = census.persistent_by_slot.iter();
        if drains && entries.any(|(named, count)| *count > 0 && leads_here(named)) {
            wanted.insert(id);
        }
    }
    wanted
}

#[cfg(test)]
mod tests {
    use lb_common::{backend::Backend, service::Service};

    use super::*;
    use crate::{
        dataplane::{BackendIdentity, ServiceIdentity},
        model::operator::Word,
    };

    #[test]
    fn only_clients_of_this_server_hold_its_drain_whichever_vip_they_came_by() {
        // Slots 0 and 1 are the servers of A, 2 is the first one's twin in B.
        let mut installed = Installed::default();
        for (service, name) in [(0, "A"), (1, "B")] {
            let identity = ServiceIdentity { name: name.to_owned(), idle_timeout_secs: 3600 };
            installed.services.insert(service, (identity, Service::default()));
        }
        for (slot, service, name) in [(0, 0, "R1"), (1, 0, "R2"), (2, 1, "R1")] {
            let ip = [10, 0, 0, if name == "R1" { 1 } else { 2 }].into();
            let identity = BackendIdentity { service, name: name.to_owned(), ip, port: None };
            installed.backends.insert(slot, (identity, Backend::default()));
        }
        installed.twins = [((2, 0), 0), ((0, 1), 2)].into();
        let id = RipId { vip: "A".to_owned(), rip: "R1".to_owned() };
        let order = Order::Drain { migrate: None, deadline_epoch_secs: None, then_halt: true };
        let words = Words::from([(id.clone(), Word { order, ..Word::default() })]);
        for (named, left) in [(0, Left::Persistence), (1, Left::Nothing), (2, Left::Persistence)] {
            let census = FlowCensus { persistent_by_slot: [(named, 1)].into(), ..FlowCensus::default() };
            let mut drains = Drains::default();
            for _ in 0..QUIET_SWEEPS {
                drains.count(&words, &installed, &census, &Proxied::default());
            }
            assert_eq!(drains.left(&id, true), left, "an entry names slot {named}");
        }
    }
}
