//! What the log says of servers and VIPs, a line for each that changed.

use crate::{
    compile::Notes,
    model::{
        health::{HealthMap, RipId},
        status::RipState,
    },
};

/// Tells what is another than it was.
pub(super) fn transitions(before: &Notes, now: &Notes, health: &HealthMap) {
    for (id, note) in &now.rips {
        let was = before.rips.get(id);
        if was.map(|w| w.state) == Some(note.state) {
            continue;
        }
        let failure = health.get(id).and_then(|h| h.last.as_ref()?.failure.as_ref());
        let why = note.detail.as_deref().or(failure.map(|f| f.text.as_str()));
        let why = why.map_or_else(String::new, |why| format!(": {why}"));
        let RipId { vip, rip } = id;
        match note.state {
            RipState::Active => tracing::info!("{vip}/{rip} is up and takes connections"),
            RipState::Checking => tracing::info!("{vip}/{rip} is being checked{why}"),
            RipState::Down => tracing::warn!("{vip}/{rip} is DOWN{why}"),
            RipState::Drain => tracing::info!("{vip}/{rip} is draining{why}"),
            RipState::Halt => tracing::info!("{vip}/{rip} is halted"),
        }
    }
    for (vip, problem) in now.vips.iter().filter(|(vip, p)| before.vips.get(*vip) != Some(p)) {
        tracing::error!("VIP {vip}: {problem}");
    }
    for problem in now.problems.iter().filter(|p| !before.problems.contains(p)) {
        tracing::error!("{problem}");
    }
}
