//! Persistence entries: those that are past their time go, those of clients that still have a flow stay, and people can
//! see and clear them.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, btree_map::Entry};

use aya::maps::{HashMap, IterableMap as _, MapData, MapError};
use lb_common::{
    limits::{FILTER_WORDS, MAX_SERVICES, map},
    net::{ip4, ip6},
    persist::{PersistEntry, PersistKey},
    service::{filter_bit6, filter_word},
    settings::Settings,
};
use lb_ebpf::life::idle;
use zerocopy::FromZeros as _;

use super::{
    Error, fault,
    flows::Rules,
    is_absent,
    sys::{Cursor, lookup_batch},
};
use crate::dataplane::{Installed, PersistFilter, Persisted};

/// Entries read with one system call.
const BATCH: usize = 4096;
/// Seconds before its end at which an entry is looked at: whether its client has a flow that goes on. Longer than the
/// longest time from one sweep to the next.
const DUE_SECS: u32 = 6;
/// `BPF_EXIST` (linux/bpf.h): change an entry, make none.
const EXISTING: u64 = 2;

type Map = HashMap<MapData, PersistKey, PersistEntry>;

/// Entries met by a sweep.
#[derive(Default)]
pub(super) struct Census {
    /// Those that stay, by slot.
    pub(super) kept: BTreeMap<u16, u64>,
    /// Those removed.
    pub(super) retired: u64,
}

/// Entries that end soon unless their client has a flow.
pub(in crate::dataplane::bpf) struct Due {
    /// By service: what its entries stand under, if some of its group are due.
    services: Vec<Option<Group>>,
    /// A bit for each client, so that most flows of others are passed over without a look-up.
    clients: Vec<u64>,
    entries: std::collections::HashMap<PersistKey, Ending>,
}

/// What a service's entries stand under.
#[derive(Clone, Copy)]
struct Group {
    id: u32,
    prefix: u8,
}

/// An entry that ends soon.
struct Ending {
    entry: PersistEntry,
    /// Last packet of its client's flows.
    last_seen: Option<u32>,
}

impl Due {
    /// Nothing.
    pub(super) fn none() -> Self {
        Self { services: Vec::new(), clients: Vec::new(), entries: std::collections::HashMap::new() }
    }

    fn add(&mut self, key: PersistKey, entry: PersistEntry) {
        self.clients.resize(FILTER_WORDS, 0);
        let (word, mask) = filter_word(filter_bit6(key.client));
        self.clients[word as usize] |= mask;
        self.entries.insert(key, Ending { entry, last_seen: None });
    }

    /// True when there is nothing that a flow could keep.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// True when a flow of this service may keep an entry.
    pub(super) fn wants(&self, service: u16) -> bool {
        self.group(service).is_some()
    }

    /// Takes note of a flow that goes on: the client's address as in [`lb_common::flow::Ends`], and its last packet.
    pub(super) fn note(&mut self, service: u16, client: [u64; 2], family: u8, last_seen: u32) {
        let Some(group) = self.group(service) else { return };
        let key = PersistKey::new(group.id, group.prefix, client, family);
        let (word, mask) = filter_word(filter_bit6(key.client));
        if self.clients.get(word as usize).is_none_or(|clients| clients & mask == 0) {
            return;
        }
        let Some(ending) = self.entries.get_mut(&key) else { return };
        if ending.last_seen.is_none_or(|known| idle(last_seen, known) > 0) {
            ending.last_seen = Some(last_seen);
        }
    }

    fn group(&self, service: u16) -> Option<Group> {
        self.services.get(usize::from(service)).copied().flatten()
    }
}

/// Looks through all entries: those whose server no longer counts, or whose group no service has any more, go at once.
/// Those that end soon are given back.
pub(super) fn look_through(
    entries: &mut Map,
    installed: &Installed,
    settings: &Settings,
    rules: &Rules,
) -> Result<(Census, Due), Error> {
    let groups = groups(installed);
    let soon = settings.ticks(DUE_SECS);
    let counts = |key: &PersistKey, entry: &PersistEntry| {
        groups.contains_key(&key.group) && rules.backend_counts(entry.slot, entry.generation)
    };
    let (mut census, mut due, mut void) = (Census::default(), Due::none(), Vec::new());
    for_each(entries, map::PERSIST, |key, entry| {
        let ticks = groups.get(&key.group).copied().unwrap_or_default();
        if !counts(key, entry) {
            void.push(*key);
        } else {
            *census.kept.entry(entry.slot).or_default() += 1;
            if !rules.is_used(entry.last_seen, ticks.saturating_sub(soon)) {
                due.add(*key, *entry);
            }
        }
    })?;
    for key in &void {
        // A packet may have written it anew since it was read.
        match current(entries, key)? {
            Some(entry) if counts(key, &entry) => *census.kept.entry(entry.slot).or_default() += 1,
            Some(_) => census.retired += u64::from(remove(entries, map::PERSIST, key)?),
            None => {}
        }
    }
    if !due.is_empty() {
        due.services = services(installed, &due);
    }
    Ok((census, due))
}

/// Entries whose client has a flow get the time of that flow's last packet; those that are past their time go.
pub(super) fn settle(
    entries: &mut Map,
    installed: &Installed,
    rules: &Rules,
    due: Due,
    census: &mut Census,
) -> Result<(), Error> {
    let groups = groups(installed);
    for (key, Ending { entry, last_seen }) in due.entries {
        let ticks = groups.get(&key.group).copied().unwrap_or_default();
        let newest = last_seen.filter(|seen| idle(*seen, entry.last_seen) > 0).unwrap_or(entry.last_seen);
        let stays = rules.is_fresh(newest, ticks);
        if stays && newest == entry.last_seen {
            continue;
        }
        // A packet may have renewed it since it was read: then it is as it should be.
        if current(entries, &key)? != Some(entry) {
            continue;
        }
        if stays {
            renew(entries, &key, PersistEntry { last_seen: newest, ..entry })?;
        } else if remove(entries, map::PERSIST, &key)? {
            let kept = census.kept.entry(entry.slot).or_default();
            *kept = kept.saturating_sub(1);
            census.retired += 1;
        }
    }
    Ok(())
}

/// Removes entries, those of clients that have not proved themselves too, and says how many of the others there were.
pub(super) fn clear(
    proved: &mut Map,
    unproved: &mut Map,
    which: &PersistFilter,
    installed: &Installed,
) -> Result<u64, Error> {
    let prefixes = installed.persist_prefixes();
    let mut cleared = 0;
    // A new client that proves itself meanwhile moves from one to the other, and is met there.
    for (entries, name) in [(unproved, map::PERSIST_NEW), (proved, map::PERSIST)] {
        let mut wanted = Vec::new();
        for_each(entries, name, |key, entry| {
            if which.holds(key, entry.slot, &prefixes) {
                wanted.push(*key);
            }
        })?;
        for key in &wanted {
            let removed = remove(entries, name, key)?;
            cleared += u64::from(removed && name == map::PERSIST);
        }
    }
    Ok(cleared)
}

/// Entries, up to `limit`, and how many there are in all.
pub(super) fn list(
    entries: &Map,
    limit: usize,
    now: u32,
    tick_nanos: u64,
) -> Result<(Vec<Persisted>, u64), Error> {
    let (mut listed, mut total) = (Vec::new(), 0);
    for_each(entries, map::PERSIST, |key, entry| {
        total += 1;
        if listed.len() < limit {
            listed.push(Persisted {
                client: if key.family == 4 {
                    ip4(key.client[0] as u32).into()
                } else {
                    ip6(key.client).into()
                },
                group: key.group,
                slot: entry.slot,
                generation: entry.generation,
                idle_millis: u64::from(idle(now, entry.last_seen)) * tick_nanos / 1_000_000,
            });
        }
    })?;
    Ok((listed, total))
}

/// Ticks that entries of each persistence group live; the longest, where services share one.
fn groups(installed: &Installed) -> BTreeMap<u32, u32> {
    let mut groups = BTreeMap::new();
    for (_, record) in installed.services.values().filter(|(_, record)| record.persist_prefix > 0) {
        match groups.entry(record.persist_group) {
            Entry::Vacant(place) => _ = place.insert(record.persist_ticks),
            Entry::Occupied(mut ticks) => _ = ticks.insert(record.persist_ticks.max(*ticks.get())),
        }
    }
    groups
}

/// Services of whose groups entries are due.
fn services(installed: &Installed, due: &Due) -> Vec<Option<Group>> {
    let groups: std::collections::BTreeSet<u32> = due.entries.keys().map(|key| key.group).collect();
    let mut services = vec![None; MAX_SERVICES as usize];
    for (&service, (_, record)) in &installed.services {
        if record.persist_prefix > 0
            && groups.contains(&record.persist_group)
            && let Some(place) = services.get_mut(usize::from(service))
        {
            *place = Some(Group { id: record.persist_group, prefix: record.persist_prefix });
        }
    }
    services
}

/// Shows every entry once, and perhaps some twice when others go meanwhile.
fn for_each(entries: &Map, name: &str, mut see: impl FnMut(&PersistKey, &PersistEntry)) -> Result<(), Error> {
    let mut keys = vec![PersistKey::new_zeroed(); BATCH];
    let mut values = vec![PersistEntry::new_zeroed(); BATCH];
    let mut cursor = Cursor::Start;
    while !matches!(cursor, Cursor::End) {
        let read = lookup_batch(entries.map().fd(), &mut cursor, &mut keys, &mut values)
            .map_err(|e| fault(format!("map `{name}` cannot be read"), e))?;
        keys.iter().zip(&values).take(read).for_each(|(key, entry)| see(key, entry));
    }
    Ok(())
}

fn current(entries: &Map, key: &PersistKey) -> Result<Option<PersistEntry>, Error> {
    match entries.get(key, 0) {
        Ok(entry) => Ok(Some(entry)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(fault(format!("map `{}` cannot be read", map::PERSIST), error)),
    }
}

fn renew(entries: &mut Map, key: &PersistKey, entry: PersistEntry) -> Result<(), Error> {
    match entries.insert(key, entry, EXISTING) {
        Err(error) if !is_absent(&error) => {
            Err(fault(format!("map `{}`: cannot renew an entry", map::PERSIST), error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// True when there was such an entry.
fn remove(entries: &mut Map, name: &str, key: &PersistKey) -> Result<bool, Error> {
    match entries.remove(key) {
        Ok(()) => Ok(true),
        Err(error) if is_absent(&error) => Ok(false),
        Err(error) => Err(fault(format!("map `{name}`: cannot remove an entry"), error)),
    }
}
