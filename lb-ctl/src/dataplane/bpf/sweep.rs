//! The writer's round through flows, loads and persistence entries.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use lb_common::{backend::state, service::flags, settings::Settings};

use super::{Error, flows::Rules, loads::Loads};
use crate::dataplane::{FlowCensus, Installed};

/// The rules that follow from what is installed.
pub(super) fn rules(installed: &Installed, settings: &Settings, now: u32) -> Rules {
    let mut rules = Rules::new(settings, now);
    for (&slot, (_, backend)) in &installed.backends {
        if backend.state == state::LIVE {
            rules.allow_backend(slot, backend.generation);
        }
    }
    for (&service, (identity, record)) in &installed.services {
        rules.allow_service(service, settings.ticks(identity.idle_timeout_secs));
        if record.flags & flags::RESET != 0 {
            rules.reset_flows_of(service);
        }
    }
    rules
}

/// Active flows of every slot with a backend, as the packet path counts them now.
pub(super) fn counted(installed: &Installed, loads: &Loads) -> Result<Vec<(u16, u64)>, Error> {
    installed.backends.keys().map(|&slot| Ok((slot, loads.active(slot)?))).collect()
}

/// SYNs that came again in vain, of every slot with a backend that had some.
pub(super) fn syn_repeats(installed: &Installed, loads: &Loads) -> Result<BTreeMap<u16, u64>, Error> {
    let mut repeats = BTreeMap::new();
    for &slot in installed.backends.keys() {
        match loads.syn_repeats(slot)? {
            0 => {}
            some => drop(repeats.insert(slot, some)),
        }
    }
    Ok(repeats)
}

/// Corrects these counts, which were read before the tables were, by what was found in the tables.
pub(super) fn correct(counted: &[(u16, u64)], found: &FlowCensus, loads: &Loads) -> Result<(), Error> {
    for &(slot, read) in counted {
        let exact = found.active_by_slot.get(&slot).copied().unwrap_or_default();
        loads.correct(slot, read, exact)?;
    }
    Ok(())
}
