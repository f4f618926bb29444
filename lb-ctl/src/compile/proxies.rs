//! What the companion proxy should do: layer-7 VIPs and what each of their servers may do.

use std::collections::BTreeMap;

use super::{Inputs, Notes, RipNote, advised, entrants};
use crate::model::{
    config::{Persist, Rip, Scheduler, Vip},
    health::{RipId, Verdict},
    operator::{Forced, Order, Word},
    proxied::{DesiredProxy, Service, Takes},
    status::RipState,
};

/// One VIP as the proxy should serve it; says what became of each of its servers.
pub(super) fn put(vip: &Vip, inputs: &Inputs<'_>, notes: &mut Notes) -> DesiredProxy {
    let mut servers = BTreeMap::new();
    for rip in &vip.rips {
        let id = RipId { vip: vip.name.clone(), rip: rip.name.clone() };
        let (service, note) = fate(&id, rip, vip, inputs);
        servers.insert(rip.name.clone(), service);
        notes.rips.insert(id, note);
    }
    if vip.scheduler == Scheduler::First && vip.persist == Persist::None {
        name_standby(vip, &servers, notes);
    }
    DesiredProxy { vip: vip.clone(), servers }
}

/// Says of the servers behind the first that they wait. With persistence only the proxy knows who is in use.
fn name_standby(vip: &Vip, servers: &BTreeMap<String, Service>, notes: &mut Notes) {
    let takes = |rip: &&Rip| servers.get(&rip.name).is_some_and(|s| s.takes == Takes::Everything);
    let mut in_use: BTreeMap<Option<&String>, &str> = BTreeMap::new();
    for rip in vip.rips.iter().filter(takes) {
        let first = *in_use.entry(rip.pool.as_ref()).or_insert(&rip.name);
        let id = RipId { vip: vip.name.clone(), rip: rip.name.clone() };
        if first != rip.name
            && let Some(note) = notes.rips.get_mut(&id)
        {
            note.detail = Some(format!("standby: {first} is in use"));
        }
    }
}

fn fate(id: &RipId, rip: &Rip, vip: &Vip, inputs: &Inputs<'_>) -> (Service, RipNote) {
    let carried = inputs.carried.contains(id);
    let weight = if rip.weight == 0 { 0 } else { entrants::ramped(rip, vip, inputs) };
    let fate = |takes, ends_sessions, state, detail| {
        let fresh = takes == Takes::Everything && !carried;
        (Service { takes, weight, ends_sessions }, RipNote { state, detail, fresh })
    };
    let Word { order, forced } = inputs.operator.get(id).copied().unwrap_or_default();
    if let Order::Halt { keep_sessions } = order {
        return fate(Takes::Nothing, !keep_sessions, RipState::Halt, None);
    }
    let health = inputs.health.get(id);
    let verdict = match forced {
        Some(Forced { up: true, .. }) => Verdict::Up,
        Some(Forced { up: false, .. }) => Verdict::Down,
        None => health.map_or(Verdict::Unknown, |health| health.verdict),
    };
    match verdict {
        Verdict::Down => return fate(Takes::Nothing, vip.reset, RipState::Down, None),
        Verdict::Unknown if !carried => {
            let waiting = health.and_then(|health| health.waiting.clone());
            let why = waiting.unwrap_or_else(|| "not checked yet".to_owned());
            return fate(Takes::Nothing, false, RipState::Checking, Some(why));
        }
        Verdict::Unknown | Verdict::Up => {}
    }
    if let Order::Drain { migrate, .. } = order {
        // The server in use would never be left: all clients' persistence is one entry.
        let all_or_none = matches!(vip.persist, Persist::LastSuccessful { .. });
        let takes = if all_or_none || migrate.unwrap_or(true) { Takes::Nothing } else { Takes::Persistent };
        return fate(takes, false, RipState::Drain, None);
    }
    if rip.weight == 0 {
        let why = "weight 0: takes no new connections".to_owned();
        return fate(Takes::Persistent, false, RipState::Drain, Some(why));
    }
    if forced.is_none()
        && let Some((state, says, _)) = advised(health)
    {
        let takes = if state == RipState::Halt { Takes::Nothing } else { Takes::Persistent };
        return fate(takes, false, state, Some(says));
    }
    let slow = inputs.ramps.get(id).map(|percent| format!("slow start {percent} %"));
    fate(Takes::Everything, false, RipState::Active, slow)
}
