//! One flow, looked up by what its packets show, and copied into other tables.

use lb_common::flow::{Control, Ends, Hop, State};
use lb_ebpf::flow_table::{Entry, Inserted, Take, copy, find, insert};

use super::{
    FlowTables,
    entry::{Layout, describe, is_clients, is_paired},
    round::{Bucket, Tables, index},
};
use crate::dataplane::Flow;

/// A flow as its client's packets show it.
pub(in crate::dataplane::bpf) struct Single {
    pub(in crate::dataplane::bpf) flow: Flow,
    /// The way that the client's packets come, under NAT and SNAT.
    pub(in crate::dataplane::bpf) hop: Option<Hop>,
}

impl FlowTables {
    /// The flow that packets with these ends belong to.
    pub(in crate::dataplane::bpf) fn single(&self, ends: &Ends, now: u32, tick_nanos: u64) -> Option<Single> {
        if ends.family == 4 {
            single(&self.tables_v4(), ends, now, tick_nanos)
        } else {
            single(&self.tables_v6(), ends, now, tick_nanos)
        }
    }

    /// Copies the entries of a flow from other tables, both if it has two. False when they find no place.
    pub(in crate::dataplane::bpf) fn adopt(&self, from: &Self, ends: &Ends) -> bool {
        if ends.family == 4 {
            adopt(&self.tables_v4(), &from.tables_v4(), ends)
        } else {
            adopt(&self.tables_v6(), &from.tables_v6(), ends)
        }
    }
}

fn single<const WORDS: usize, const KEY: usize>(
    tables: &Tables<'_, WORDS>,
    ends: &Ends,
    now: u32,
    tick_nanos: u64,
) -> Option<Single>
where
    [u64; WORDS]: Layout<KEY>,
{
    let found = in_order(tables).into_iter().find_map(|table| entry(table, ends, tables.seed));
    let words = found.filter(|words| is_clients(words.decision()))?;
    let hop = is_paired(words.decision()).then(|| words.rewrite().hop());
    Some(Single { flow: describe(&words, now, tick_nanos)?, hop })
}

fn adopt<const WORDS: usize, const KEY: usize>(
    to: &Tables<'_, WORDS>,
    from: &Tables<'_, WORDS>,
    ends: &Ends,
) -> bool
where
    [u64; WORDS]: Layout<KEY>,
{
    let found = in_order(from).into_iter().find_map(|table| entry(table, ends, from.seed));
    let sibling = found.filter(|words| is_paired(words.decision())).map(|w| w.rewrite().sibling(ends));
    let mut all = true;
    for ends in std::iter::once(*ends).chain(sibling) {
        for (to_table, from_table) in in_order(to).into_iter().zip(in_order(from)) {
            if let Some(words) = entry(from_table, &ends, from.seed) {
                all &= put(to_table, &words, &ends, to.seed);
            }
        }
    }
    all
}

/// A copy of the entry for packets with these ends.
fn entry<const WORDS: usize, const KEY: usize>(
    table: &[Bucket<WORDS>],
    ends: &Ends,
    seed: u64,
) -> Option<[u64; WORDS]>
where
    [u64; WORDS]: Layout<KEY>,
{
    let key = <[u64; WORDS]>::key(ends, seed);
    let bucket = table.get(index(table, key.hash))?;
    let hit = find(bucket, &key)?;
    // It may have changed hands meanwhile.
    copy(bucket.get(hit.way)?).filter(|words| words.ends() == *ends)
}

fn put<const WORDS: usize, const KEY: usize>(
    table: &[Bucket<WORDS>],
    words: &[u64; WORDS],
    ends: &Ends,
    seed: u64,
) -> bool
where
    [u64; WORDS]: Layout<KEY>,
{
    let control = Control(words[0]);
    let key = <[u64; WORDS]>::key(ends, seed);
    let (Some(bucket), Some(state)) = (table.get(index(table, key.hash)), State::from_u8(control.state()))
    else {
        return false;
    };
    let new = Entry {
        decision: words.decision().0,
        rewrite: &words.rewrite(),
        state,
        now: control.last_seen(),
        take: Take::Free,
    };
    matches!(insert(bucket, &key, &new), Inserted::Free)
}

const fn in_order<'a, const WORDS: usize>(tables: &Tables<'a, WORDS>) -> [&'a [Bucket<WORDS>]; 2] {
    [tables.established, tables.half_open]
}
