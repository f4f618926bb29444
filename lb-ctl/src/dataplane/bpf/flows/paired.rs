//! Connections of NAT and SNAT that lead to servers which died.

use std::collections::BTreeSet;

use lb_common::{
    flow::{Control, WAYS},
    net::PROTO_TCP,
};
use lb_ebpf::flow_table::{Word as _, copy};

use super::{
    FlowTables,
    entry::{Layout, is_clients, is_paired},
    round::{Bucket, Tables},
};
use crate::dataplane::{PairedFlow, Pairs, Place};

impl Pairs for FlowTables {
    fn flows_of(&self, dead: &BTreeSet<(u16, u16)>, limit: usize) -> (Vec<PairedFlow>, u64) {
        let mut found = Found::new(dead, limit);
        found.add(&self.tables_v4(), 0);
        found.add(&self.tables_v6(), FIRST_V6);
        (found.flows, found.total)
    }

    fn stands(&self, flow: &PairedFlow) -> bool {
        let Place { table, entry, control } = flow.place;
        let now = match table.checked_sub(FIRST_V6) {
            None => control_at(&self.tables_v4(), table, entry),
            Some(table) => control_at(&self.tables_v6(), table, entry),
        };
        now.is_some_and(|now| now.is_live() && now.seq() == Control(control).seq())
    }
}

/// Number of the first table of IPv6; those of IPv4 go before.
pub(super) const FIRST_V6: usize = 2;

/// Tables of a family in the order of their numbers.
pub(super) const fn in_order<'a, const WORDS: usize>(
    tables: &Tables<'a, WORDS>,
) -> [&'a [Bucket<WORDS>]; FIRST_V6] {
    [tables.established, tables.half_open]
}

pub(super) fn control_at<const WORDS: usize>(
    tables: &Tables<'_, WORDS>,
    table: usize,
    entry: usize,
) -> Option<Control> {
    let bucket = in_order(tables).get(table)?.get(entry / WAYS)?;
    Some(Control(bucket.get(entry % WAYS)?.first()?.load()))
}

/// What was found so far.
pub(super) struct Found<'a> {
    dead: &'a BTreeSet<(u16, u16)>,
    limit: usize,
    pub(super) flows: Vec<PairedFlow>,
    pub(super) total: u64,
}

impl<'a> Found<'a> {
    pub(super) const fn new(dead: &'a BTreeSet<(u16, u16)>, limit: usize) -> Self {
        Self { dead, limit, flows: Vec::new(), total: 0 }
    }

    /// Takes the entries of clients' packets; the other one of a pair says nothing more.
    pub(super) fn add<const WORDS: usize, const KEY: usize>(
        &mut self,
        tables: &Tables<'_, WORDS>,
        first: usize,
    ) where
        [u64; WORDS]: Layout<KEY>,
    {
        for (table, buckets) in (first..).zip(in_order(tables)) {
            for (entry, way) in buckets.as_flattened().iter().enumerate() {
                let Some(words) = copy(way) else { continue };
                let decision = words.decision();
                let (slot, generation) = (decision.slot(), decision.generation());
                let dead = self.dead.contains(&(slot, generation));
                if !dead || !is_paired(decision) || !is_clients(decision) || words.ends().proto != PROTO_TCP {
                    continue;
                }
                self.total += 1;
                if self.flows.len() < self.limit {
                    self.flows.push(pair(&words, Place { table, entry, control: words[0] }));
                }
            }
        }
    }
}

/// A flow of NAT or SNAT, from its client's entry.
pub(super) fn pair<const WORDS: usize, const KEY: usize>(words: &[u64; WORDS], place: Place) -> PairedFlow
where
    [u64; WORDS]: Layout<KEY>,
{
    let (client, rewrite, decision) = (words.ends(), words.rewrite(), words.decision());
    PairedFlow {
        client,
        server: rewrite.applied(&client),
        hop: rewrite.hop(),
        slot: decision.slot(),
        generation: decision.generation(),
        place,
    }
}
