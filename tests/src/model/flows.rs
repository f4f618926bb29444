//! A flow table: buckets of four ways, nothing chained. Which bucket and which way come first is part of the
//! contract, so that a full bucket is full for the model too.

use lb_common::{
    flow::{Hop, State, WAYS},
    hash,
};

use super::parse::Flow;

/// Whom a flow goes to, and how.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Choice {
    /// One of [`lb_common::flow::kind`].
    pub kind: u8,
    /// Service id.
    pub service: u16,
    /// Backend slot.
    pub slot: u16,
    /// Backend's generation at the time.
    pub generation: u16,
}

/// What becomes of a NAT or SNAT flow's packets in one direction.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rewrite {
    /// What they show afterwards.
    pub flow: Flow,
    /// Way to the client, in both directions' entries.
    pub hop: Hop,
}

/// A remembered flow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Entry {
    /// Who it is.
    pub flow: Flow,
    /// Where it goes.
    pub choice: Choice,
    /// What its packets become; `None` under direct routing.
    pub rewrite: Option<Rewrite>,
    /// How far it is.
    pub state: State,
    /// When it was seen last, to within a second.
    pub last_seen: u64,
}

impl Entry {
    /// Key of the entry for the other direction.
    #[must_use]
    pub fn sibling(&self) -> Option<Flow> {
        self.rewrite.map(|rewrite| rewrite.flow.reversed())
    }
}

/// Where a flow is looked for: bits from 32 up pick the bucket, bits 54 and 55 the first way.
#[must_use]
pub fn place(seed: u64, flow: &Flow) -> u64 {
    let ends = flow.ends();
    if flow.src.is_ipv4() {
        let [addrs, ports] = ends.key_v4();
        hash::flow4(seed, addrs, ports)
    } else {
        hash::flow6(seed, ends.src, ends.dst, ends.ports_word())
    }
}

/// A table.
#[derive(Clone, Debug)]
pub struct FlowTable {
    buckets: Vec<[Option<Entry>; WAYS]>,
    seed: u64,
}

impl FlowTable {
    /// A table with room for so many flows.
    #[must_use]
    pub fn new(flows: u32, seed: u64) -> Self {
        Self { buckets: vec![[None; WAYS]; flows as usize / WAYS], seed }
    }

    /// A flow's bucket and its first way.
    fn bucket(&mut self, flow: &Flow) -> (&mut [Option<Entry>; WAYS], usize) {
        let place = place(self.seed, flow);
        let bucket = (place >> 32) as usize % self.buckets.len();
        (&mut self.buckets[bucket], (place >> 54) as usize % WAYS)
    }

    /// A flow's entry.
    pub fn find(&mut self, flow: &Flow) -> Option<&mut Entry> {
        self.bucket(flow).0.iter_mut().flatten().find(|entry| entry.flow == *flow)
    }

    /// Forgets a flow.
    pub fn remove(&mut self, flow: &Flow) {
        for way in self.bucket(flow).0 {
            if way.is_some_and(|entry| entry.flow == *flow) {
                *way = None;
            }
        }
    }

    /// Remembers a flow in the first free way. False when there is none.
    pub fn insert(&mut self, entry: Entry) -> bool {
        let (bucket, first) = self.bucket(&entry.flow);
        let free = (0..WAYS).map(|n| (first + n) % WAYS).find(|&way| bucket[way].is_none());
        if let Some(way) = free {
            bucket[way] = Some(entry);
        }
        free.is_some()
    }

    /// Remembers a flow, in place of the bucket's oldest if need be. True if an older one was lost.
    pub fn insert_over_oldest(&mut self, entry: Entry) -> bool {
        if self.insert(entry) {
            return false;
        }
        let (bucket, first) = self.bucket(&entry.flow);
        let seen = |way: usize| bucket[way].map(|other| other.last_seen);
        let oldest = (0..WAYS).map(|n| (first + n) % WAYS).min_by_key(|&way| seen(way));
        if let Some(way) = oldest {
            bucket[way] = Some(entry);
        }
        true
    }

    /// True when all ways of this flow's bucket are taken by flows seen less than `young` ticks ago.
    pub fn is_crowded(&mut self, flow: &Flow, now: u64, young: u64) -> bool {
        self.bucket(flow).0.iter().all(|way| way.is_some_and(|entry| now - entry.last_seen < young))
    }

    /// True when all ways of this flow's bucket are taken.
    pub fn is_full(&mut self, flow: &Flow) -> bool {
        self.bucket(flow).0.iter().all(Option::is_some)
    }

    /// Every flow.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.buckets.iter().flatten().flatten()
    }
}
