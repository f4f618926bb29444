//! Flows that an operator ends.
//!
//! TCP entries stay, void, so that the packet path answers whoever sends into them; UDP has no answer, its entries go.

use lb_common::flow::{Control, VOID_GENERATION, WAYS};
use lb_ebpf::flow_table::{Hit, SharedWord, copy, retire, void};

use super::{
    FlowTables,
    entry::{Layout, are_siblings, is_clients, is_paired, source},
    paired::{FIRST_V6, in_order, pair},
    round::{Bucket, Tables, is_tcp},
};
use crate::dataplane::{FlowFilter, Killed, Place};

/// How often an entry is tried that changes under the controller's hands, which a packet every second does at most.
const TRIES: usize = 64;

impl FlowTables {
    /// Ends the flows that stand in the tables now; names up to `limit` pairs.
    pub(in crate::dataplane::bpf) fn kill(&self, which: &FlowFilter, limit: usize) -> Killed {
        let mut killed = Killed::default();
        kill(&self.tables_v4(), 0, which, limit, &mut killed);
        kill(&self.tables_v6(), FIRST_V6, which, limit, &mut killed);
        killed
    }
}

/// Ends the flows of a family, whose tables have numbers from `first` on.
pub(super) fn kill<const WORDS: usize, const KEY: usize>(
    tables: &Tables<'_, WORDS>,
    first: usize,
    which: &FlowFilter,
    limit: usize,
    killed: &mut Killed,
) where
    [u64; WORDS]: Layout<KEY>,
{
    for (table, buckets) in (first..).zip(in_order(tables)) {
        for (n, bucket) in buckets.iter().enumerate() {
            for way in 0..WAYS {
                let Some(words) = end(bucket, way, |words| is_wanted(words, which)) else { continue };
                killed.flows += 1;
                if !is_paired(words.decision()) {
                    continue;
                }
                for (bucket, hit) in tables.siblings(&words).into_iter().flatten() {
                    let decision = words.decision();
                    end(bucket, hit.way, |other| are_siblings(decision, other.decision()));
                }
                if is_tcp(&words) && killed.pairs.len() < limit {
                    let place = Place { table, entry: n * WAYS + way, control: words[0] };
                    killed.pairs.push(pair(&words, place));
                }
            }
        }
    }
}

/// Ends one entry if it is `wanted`, and gives its words as they were.
fn end<const WORDS: usize, const KEY: usize>(
    bucket: &Bucket<WORDS>,
    way: usize,
    wanted: impl Fn(&[u64; WORDS]) -> bool,
) -> Option<[u64; WORDS]>
where
    [u64; WORDS]: Layout<KEY>,
{
    let entry: &[SharedWord; WORDS] = &bucket[way];
    for _ in 0..TRIES {
        let words = copy(entry).filter(|words| wanted(words))?;
        let hit = Hit { way, control: Control(words[0]), decision: words.decision().0 };
        let ended = if is_tcp(&words) { void(bucket, &hit) } else { retire(bucket, &hit) };
        if ended {
            return Some(words);
        }
    }
    None
}

/// True for the client's entry of a flow that is wanted and goes on.
fn is_wanted<const WORDS: usize, const KEY: usize>(words: &[u64; WORDS], which: &FlowFilter) -> bool
where
    [u64; WORDS]: Layout<KEY>,
{
    let decision = words.decision();
    is_clients(decision)
        && decision.generation() != VOID_GENERATION
        && which.holds(decision.service(), decision.slot(), source(&words.ends()))
}
