//! The flow tables as pairs of NAT and SNAT entries: which connections lead to servers that died.
#![forbid(unsafe_code)]

use std::{collections::BTreeSet, sync::Arc};

use lb_common::{
    flow::{Control, Decision, Ends, Rewrite, WAYS, WORDS_V4, WORDS_V6, kind},
    net::PROTO_TCP,
};
use lb_ebpf::flow_table::{Word as _, copy};

use super::flows::{Bucket, FlowTables};
use crate::dataplane::{PairedFlow, Pairs, Place};

/// The flow tables, for those who only look for pairs.
pub(super) struct TablePairs(pub(super) Arc<FlowTables>);

impl Pairs for TablePairs {
    fn flows_of(&self, dead: &BTreeSet<(u16, u16)>, limit: usize) -> (Vec<PairedFlow>, u64) {
        let mut found = Found { dead, limit, flows: Vec::new(), total: 0 };
        for (table, buckets) in (0..).zip(self.0.tables_v4()) {
            for (entry, way) in buckets.as_flattened().iter().enumerate() {
                if let Some([control, key_0, key_1, decision, rewrite @ ..]) = copy(way) {
                    let place = Place { table, entry, control };
                    found.meet(place, decision, || (Ends::of_v4(&[key_0, key_1]), Rewrite::of_v4(&rewrite)));
                }
            }
        }
        for (table, buckets) in (FIRST_V6..).zip(self.0.tables_v6()) {
            for (entry, way) in buckets.as_flattened().iter().enumerate() {
                if let Some([control, a, b, c, d, e, decision, rewrite @ .., _, _]) = copy(way) {
                    let place = Place { table, entry, control };
                    found.meet(place, decision, || (Ends::of_v6(&[a, b, c, d, e]), Rewrite::of_v6(&rewrite)));
                }
            }
        }
        (found.flows, found.total)
    }

    fn stands(&self, flow: &PairedFlow) -> bool {
        let Place { table, entry, control } = flow.place;
        let now = if table < FIRST_V6 {
            control_of::<WORDS_V4>(&self.0.tables_v4(), table, entry)
        } else {
            control_of::<WORDS_V6>(&self.0.tables_v6(), table - FIRST_V6, entry)
        };
        now.is_some_and(|now| now.is_live() && now.seq() == Control(control).seq())
    }
}

/// Number of the first table of IPv6.
const FIRST_V6: usize = 2;

fn control_of<const WORDS: usize>(
    tables: &[&[Bucket<WORDS>]],
    table: usize,
    entry: usize,
) -> Option<Control> {
    let bucket = tables.get(table)?.get(entry / WAYS)?;
    Some(Control(bucket.get(entry % WAYS)?.first()?.load()))
}

struct Found<'a> {
    dead: &'a BTreeSet<(u16, u16)>,
    limit: usize,
    flows: Vec<PairedFlow>,
    total: u64,
}

impl Found<'_> {
    /// Takes an entry of client's packets, if its server died; the pair's other entry says nothing more.
    fn meet(&mut self, place: Place, decision: u64, entry: impl FnOnce() -> (Ends, Rewrite)) {
        let decision = Decision(decision);
        let (slot, generation) = (decision.slot(), decision.generation());
        if !matches!(decision.kind(), kind::NAT | kind::SNAT) || !self.dead.contains(&(slot, generation)) {
            return;
        }
        let (client, rewrite) = entry();
        if client.proto != PROTO_TCP {
            return;
        }
        self.total += 1;
        if self.flows.len() < self.limit {
            let server = rewrite.applied(&client);
            self.flows.push(PairedFlow { client, server, hop: rewrite.hop, slot, generation, place });
        }
    }
}
