//! The writer's round through flows and persistence entries.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use aya::maps::{HashMap, IterableMap as _, MapData, MapError};
use lb_common::{
    backend::state,
    limits::map,
    persist::{PersistEntry, PersistKey},
    service::flags,
    settings::Settings,
};
use zerocopy::FromZeros as _;

use super::{
    Error, fault,
    flows::Rules,
    sys::{Cursor, lookup_batch},
};
use crate::dataplane::Installed;

/// Persistence entries read with one system call.
const BATCH: usize = 4096;

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

/// Persistence entries met by a sweep.
#[derive(Default)]
pub(super) struct PersistCensus {
    /// Those that stay.
    pub(super) kept: u64,
    /// Those removed.
    pub(super) retired: u64,
}

/// Removes persistence entries that are past their time, whose server no longer counts, or whose group no service
/// has any more.
pub(super) fn persistence(
    entries: &mut HashMap<MapData, PersistKey, PersistEntry>,
    installed: &Installed,
    rules: &Rules,
) -> Result<PersistCensus, Error> {
    let groups = groups(installed);
    let counts = |key: &PersistKey, entry: &PersistEntry| {
        groups.get(&key.group).is_some_and(|&ticks| rules.is_fresh(entry.last_seen, ticks))
            && rules.backend_counts(entry.slot, entry.generation)
    };
    let unreadable = |e| fault(format!("map `{}` cannot be read", map::PERSIST), e);
    let mut census = PersistCensus::default();
    let mut keys = vec![PersistKey::new_zeroed(); BATCH];
    let mut values = vec![PersistEntry::new_zeroed(); BATCH];
    let mut cursor = Cursor::Start;
    while !matches!(cursor, Cursor::End) {
        let read =
            lookup_batch(entries.map().fd(), &mut cursor, &mut keys, &mut values).map_err(unreadable)?;
        for (key, value) in keys.iter().zip(&values).take(read) {
            if counts(key, value) || is_renewed(entries, key, counts)? {
                census.kept += 1;
                continue;
            }
            match entries.remove(key) {
                Ok(()) => census.retired += 1,
                Err(error) if is_absent(&error) => {}
                Err(error) => {
                    return Err(fault(format!("map `{}`: cannot remove an entry", map::PERSIST), error));
                }
            }
        }
    }
    Ok(census)
}

/// True when a packet renewed the entry after the batch was read.
fn is_renewed(
    entries: &HashMap<MapData, PersistKey, PersistEntry>,
    key: &PersistKey,
    counts: impl Fn(&PersistKey, &PersistEntry) -> bool,
) -> Result<bool, Error> {
    match entries.get(key, 0) {
        Ok(entry) => Ok(counts(key, &entry)),
        Err(MapError::KeyNotFound) => Ok(false),
        Err(error) => Err(fault(format!("map `{}` cannot be read", map::PERSIST), error)),
    }
}

/// Ticks that entries of each persistence group live; the longest, where services share one.
fn groups(installed: &Installed) -> BTreeMap<u32, u32> {
    let mut groups = BTreeMap::new();
    for (_, record) in installed.services.values() {
        if record.persist_prefix > 0 {
            let ticks = groups.entry(record.persist_group).or_insert(0);
            *ticks = record.persist_ticks.max(*ticks);
        }
    }
    groups
}

/// True when a map says that there is no such key.
pub(super) fn is_absent(error: &MapError) -> bool {
    matches!(error, MapError::KeyNotFound) || super::os_errno(error) == Some(libc::ENOENT)
}
