//! Who takes a service's new flows: in which order, and with which share.

use lb_common::load::Limits;

use super::Inputs;
use crate::{
    dataplane::Filling,
    model::{
        config::{Persist, Rip, Scheduler, Vip},
        desired::{DesiredService, Entrant},
        health::RipId,
    },
};

/// Most active connections and when there is room again, without a share of new ones.
pub(super) fn limits(rip: &Rip) -> Limits {
    Limits { max: rip.max_connections, min: rip.min_connections, ..Limits::default() }
}

/// Puts servers that take new flows, which come in the order of the configuration, into the order that counts.
pub(super) fn arrange(
    active: &mut Vec<&Rip>,
    vip: &Vip,
    before: Option<&DesiredService>,
    inputs: &Inputs<'_>,
) {
    match vip.scheduler {
        Scheduler::First => {
            if let Some(place) = in_use(active, vip, before, inputs) {
                let rip = active.remove(place);
                active.insert(0, rip);
            }
        }
        // Ties go to the earlier server, so the order must be the same wherever the table is built.
        Scheduler::Maglev | Scheduler::SourceHash | Scheduler::Wlc => {
            active.sort_by(|a, b| (a.ip, &a.name).cmp(&(b.ip, &b.name)));
        }
        Scheduler::Wrr => {}
    }
}

/// Where the server stands that all clients stay on (R50), if it is among those that take new flows. Of a failover list
/// it is the one with a share; the kernel's limits say so to a restarted controller, which cannot read tables back
/// without rights that it should not need.
fn in_use(active: &[&Rip], vip: &Vip, before: Option<&DesiredService>, inputs: &Inputs<'_>) -> Option<usize> {
    if !matches!(vip.persist, Persist::LastSuccessful { .. }) || inputs.forget.contains(&vip.name) {
        return None;
    }
    let list = before.filter(|service| service.filling == Filling::First)?;
    let (name, was) = list.backends.iter().find(|(_, backend)| backend.limits.weight > 0)?;
    active.iter().position(|rip| rip.ip == was.ip && (rip.port == was.port || rip.name == *name))
}

/// Gives servers, in the order that counts, their shares of new flows. All of them are among the service's backends.
pub(super) fn share_out(active: &[&Rip], vip: &Vip, service: &mut DesiredService, inputs: &Inputs<'_>) {
    for (place, rip) in active.iter().enumerate() {
        let now = ramped(rip, vip, inputs);
        // In the table, and in the limits.
        let (weight, share) = match vip.scheduler {
            // A weight means nothing to a list: its edit must not write a table. All of new flows are the first one's.
            Scheduler::First => (1, u16::from(place == 0)),
            // Least connections go by the limits' weight. The table is for packets whose flow is not known, and those
            // would change their server with every step of a slow start.
            Scheduler::Wlc => (rip.weight, now),
            Scheduler::Maglev | Scheduler::SourceHash | Scheduler::Wrr => (now, now),
        };
        if let Some(backend) = service.backends.get_mut(&rip.name) {
            backend.limits.weight = share;
        }
        service.entrants.push(Entrant { name: rip.name.clone(), weight });
    }
}

/// The weight that a server has now: it works its way to the whole of it after it came up, and may ask for less by its
/// agent.
pub(super) fn ramped(rip: &Rip, vip: &Vip, inputs: &Inputs<'_>) -> u16 {
    let id = RipId { vip: vip.name.clone(), rip: rip.name.clone() };
    let percent = inputs.ramps.get(&id).map_or(100, |&percent| u32::from(percent.min(100)));
    let advised = inputs.health.get(&id).and_then(|health| health.advice.percent);
    let advised = advised.map_or(100, |percent| u32::from(percent.min(100)));
    let weight = u32::from(rip.weight) * percent * advised / 10_000;
    u16::try_from(weight).unwrap_or(rip.weight).max(1)
}
