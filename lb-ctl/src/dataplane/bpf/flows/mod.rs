//! The flow tables as memory: read, counted and swept without a system call per entry. Entries are copied and
//! retired by the functions of the packet path itself (`lb_ebpf::flow_table`), which hold the protocol.
#![forbid(unsafe_code)]

mod entry;
mod kill;
mod paired;
mod round;
mod rules;
mod single;

use aya::maps::MapData;
use lb_common::{
    flow::{WAYS, WORDS_V4, WORDS_V6},
    limits::map,
    settings::Settings,
};
use lb_ebpf::flow_table::copy;

pub(super) use self::rules::{Rules, Watch};
use self::{
    entry::{Layout, describe, is_clients},
    round::{Bucket, Tables, Tally, sweep},
};
use super::{Error, fault, persistence::Due, sys::SharedMemory};
use crate::dataplane::{Flow, FlowCensus};

/// The four flow tables.
pub(super) struct FlowTables {
    established_v4: SharedMemory,
    established_v6: SharedMemory,
    half_open_v4: SharedMemory,
    half_open_v6: SharedMemory,
    /// Seed of the flow hash.
    seed: u64,
}

impl FlowTables {
    /// Maps the tables. `open` gives the map of a name; the sizes are those it was created with.
    pub(super) fn map(
        settings: &Settings,
        mut open: impl FnMut(&'static str) -> Result<MapData, Error>,
    ) -> Result<Self, Error> {
        let [v4, v6, half_open] = settings.flows;
        let mut table = |name: &'static str, flows: u32, words: usize| {
            let bytes = flows as usize * words * size_of::<u64>();
            SharedMemory::map(open(name)?.fd(), bytes)
                .map_err(|e| fault(format!("map `{name}` cannot be mapped into memory ({bytes} bytes)"), e))
        };
        Ok(Self {
            established_v4: table(map::FLOWS_V4, v4, WORDS_V4)?,
            established_v6: table(map::FLOWS_V6, v6, WORDS_V6)?,
            half_open_v4: table(map::HALF_OPEN_V4, half_open, WORDS_V4)?,
            half_open_v6: table(map::HALF_OPEN_V6, half_open, WORDS_V6)?,
            seed: settings.flow_seed,
        })
    }

    fn tables_v4(&self) -> Tables<'_, WORDS_V4> {
        Tables {
            established: buckets_of(&self.established_v4),
            half_open: buckets_of(&self.half_open_v4),
            seed: self.seed,
        }
    }

    fn tables_v6(&self) -> Tables<'_, WORDS_V6> {
        Tables {
            established: buckets_of(&self.established_v6),
            half_open: buckets_of(&self.half_open_v6),
            seed: self.seed,
        }
    }

    /// Every flow, up to `limit`, and how many there are in all.
    pub(super) fn list(&self, limit: usize, now: u32, tick_nanos: u64) -> (Vec<Flow>, u64) {
        let mut list = List { flows: Vec::new(), total: 0, limit, now, tick_nanos };
        list.add(&self.tables_v4());
        list.add(&self.tables_v6());
        (list.flows, list.total)
    }

    /// Retires what `rules` no longer allow and counts the rest. Flows that keep what is `due` are noted there.
    pub(super) fn sweep(&self, rules: &Rules, watch: &mut Watch, due: &mut Due) -> FlowCensus {
        let mut v4 = Tally::default();
        sweep(&self.tables_v4(), rules, watch, due, &mut v4);
        // Slots and services are counted over both families.
        let mut v6 =
            Tally { active: v4.active, closing: v4.closing, sources: v4.sources, ..Tally::default() };
        sweep(&self.tables_v6(), rules, watch, due, &mut v6);
        watch.end(rules);
        let by_number = |counts: Vec<u64>| (0..).zip(counts).filter(|(_, count)| *count > 0).collect();
        FlowCensus {
            established_v4: v4.established,
            established_v6: v6.established,
            replies_v4: v4.replies,
            replies_v6: v6.replies,
            half_open: v4.half_open + v6.half_open,
            retired: v4.retired + v6.retired,
            active_by_slot: by_number(v6.active),
            closing_by_slot: by_number(v6.closing),
            sources_in_use: by_number(v6.sources),
            ..FlowCensus::default()
        }
    }
}

fn buckets_of<const WORDS: usize>(memory: &SharedMemory) -> &[Bucket<WORDS>] {
    memory.words::<WORDS>().as_chunks().0
}

/// Buckets that hold this many flows.
pub(super) const fn buckets(flows: u32) -> u32 {
    flows / WAYS as u32
}

/// Flows as they are listed.
struct List {
    flows: Vec<Flow>,
    total: u64,
    limit: usize,
    now: u32,
    tick_nanos: u64,
}

impl List {
    fn add<const WORDS: usize, const KEY: usize>(&mut self, tables: &Tables<'_, WORDS>)
    where
        [u64; WORDS]: Layout<KEY>,
    {
        for entry in [tables.established, tables.half_open].into_iter().flatten().flatten() {
            let Some(words) = copy(entry).filter(|words| is_clients(words.decision())) else { continue };
            self.total += 1;
            if self.flows.len() < self.limit {
                self.flows.extend(describe(&words, self.now, self.tick_nanos));
            }
        }
    }
}

#[cfg(test)]
mod tests;
