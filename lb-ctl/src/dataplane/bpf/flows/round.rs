//! One round through the tables of a family: what may not stay is retired, the rest is counted.
//!
//! The two entries of a NAT or SNAT flow stay and go together. Each knows only when its own direction was last seen,
//! so a flow is past its time when both are; whoever is met first retires both.

use lb_common::flow::{Control, Decision, State, WAYS, kind};
use lb_ebpf::flow_table::{Hit, SharedWord, Word as _, abandon, bucket_index, copy, find, retire};

use super::{
    entry::{Layout, are_siblings, is_clients, is_paired},
    rules::{Rules, Watch},
};

/// One bucket of a table with entries of `WORDS` words.
pub(super) type Bucket<const WORDS: usize> = [[SharedWord; WORDS]; WAYS];

/// Both tables of a family.
#[derive(Clone, Copy)]
pub(super) struct Tables<'a, const WORDS: usize> {
    pub(super) established: &'a [Bucket<WORDS>],
    pub(super) half_open: &'a [Bucket<WORDS>],
    /// Seed of the flow hash.
    pub(super) seed: u64,
}

/// Where an entry stands, and where another one was found.
type Found<'a, const WORDS: usize> = (&'a Bucket<WORDS>, Hit);

/// Which of both tables.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Table {
    Established,
    HalfOpen,
}

/// Counts of one sweep through a family.
#[derive(Default)]
pub(super) struct Tally {
    /// Flows past their first packet.
    pub(super) established: u64,
    /// Entries for their servers' packets.
    pub(super) replies: u64,
    pub(super) half_open: u64,
    pub(super) retired: u64,
    /// By slot.
    pub(super) active: Vec<u64>,
    /// By slot.
    pub(super) closing: Vec<u64>,
    /// By service.
    pub(super) sources: Vec<u64>,
}

/// What became of an entry.
enum Swept {
    Nothing,
    /// Gone, and so many entries with it.
    Retired(u64),
    /// Stays. A void flow waits for its ends to hear that the server is gone.
    Kept {
        control: Control,
        decision: Decision,
        void: bool,
    },
}

/// Sweeps both tables of a family.
pub(super) fn sweep<const WORDS: usize, const KEY: usize>(
    tables: &Tables<'_, WORDS>,
    rules: &Rules,
    watch: &mut Watch,
    tally: &mut Tally,
) where
    [u64; WORDS]: Layout<KEY>,
{
    for (table, buckets) in [(Table::HalfOpen, tables.half_open), (Table::Established, tables.established)] {
        for (n, bucket) in buckets.iter().enumerate() {
            let look_at_pairs = watch.is_turn_of(n);
            for way in 0..WAYS {
                let round = Round { tables, table, rules, look_at_pairs };
                match round.entry(bucket, way, watch) {
                    Swept::Nothing => {}
                    Swept::Retired(entries) => tally.retired += entries,
                    Swept::Kept { control, decision, void } => tally.count(table, control, decision, void),
                }
            }
        }
    }
}

struct Round<'r, 't, const WORDS: usize> {
    tables: &'r Tables<'t, WORDS>,
    table: Table,
    rules: &'r Rules,
    look_at_pairs: bool,
}

impl<const WORDS: usize> Round<'_, '_, WORDS> {
    fn entry<const KEY: usize>(&self, bucket: &Bucket<WORDS>, way: usize, watch: &mut Watch) -> Swept
    where
        [u64; WORDS]: Layout<KEY>,
    {
        let entry = &bucket[way];
        let control = Control(entry[0].load());
        let state = State::from_u8(control.state());
        if state == Some(State::Free) {
            return Swept::Nothing;
        }
        if matches!(state, Some(State::Busy | State::Moving)) {
            let place = std::ptr::from_ref(&entry[0]).addr();
            let stood = Hit { way, control, decision: 0 };
            if watch.is_dead(place, control, self.rules) && abandon(bucket, &stood) {
                return Swept::Retired(1);
            }
        }
        // Nothing to copy: it is being claimed, or changed hands meanwhile and is too young to be judged.
        let Some(words) = copy(entry) else { return Swept::Nothing };
        let (control, decision) = (Control(words[0]), words.decision());
        let kept = Swept::Kept { control, decision, void: false };
        if state == Some(State::Moving) {
            return kept;
        }
        let hit = Hit { way, control, decision: decision.0 };
        let gone = || if retire(bucket, &hit) { Swept::Retired(1) } else { Swept::Nothing };
        if !self.rules.service_counts(decision) {
            return gone();
        }
        if !self.rules.backend_counts(decision.slot(), decision.generation()) {
            let answered = is_paired(decision) && is_tcp(&words) && self.rules.resets(decision);
            if answered && !watch.is_void_for_long(decision, self.rules) {
                return Swept::Kept { control, decision, void: true };
            }
            return gone();
        }
        let in_time = self.rules.is_in_time(control, decision);
        if !is_paired(decision) {
            return if in_time { kept } else { gone() };
        }
        if in_time && (!self.look_at_pairs || self.rules.is_young(control)) {
            return kept;
        }
        let siblings = self.siblings(&words);
        let other = |(_, hit): &Found<'_, WORDS>| self.rules.is_in_time(hit.control, Decision(hit.decision));
        if siblings.iter().flatten().any(other) || in_time && siblings.iter().any(Option::is_some) {
            // What moved to the other table has nothing to wait for here.
            let moved = !in_time && self.table == Table::HalfOpen && self.has_moved(&words);
            return if moved { gone() } else { kept };
        }
        if !retire(bucket, &hit) {
            // A packet came just now.
            return kept;
        }
        let others = siblings.iter().flatten().filter(|(bucket, hit)| retire(bucket, hit));
        Swept::Retired(1 + others.count() as u64)
    }

    /// The other entry of a pair. A flow that is about to be confirmed has it in both tables; it is looked for where
    /// it comes from first.
    fn siblings<const KEY: usize>(&self, words: &[u64; WORDS]) -> [Option<Found<'_, WORDS>>; 2]
    where
        [u64; WORDS]: Layout<KEY>,
    {
        let key = <[u64; WORDS]>::key(&words.rewrite().sibling(&words.ends()), self.tables.seed);
        [self.tables.half_open, self.tables.established].map(|table| {
            let bucket = table.get(index(table, key.hash))?;
            let hit = find(bucket, &key)?;
            are_siblings(words.decision(), Decision(hit.decision)).then_some((bucket, hit))
        })
    }

    /// True when a half-open flow is among the established ones.
    fn has_moved<const KEY: usize>(&self, words: &[u64; WORDS]) -> bool
    where
        [u64; WORDS]: Layout<KEY>,
    {
        let key = <[u64; WORDS]>::key(&words.ends(), self.tables.seed);
        let table = self.tables.established;
        table.get(index(table, key.hash)).is_some_and(|bucket| find(bucket, &key).is_some())
    }
}

/// Index of the bucket that a hash leads to; tables are powers of two.
pub(super) const fn index<const WORDS: usize>(table: &[Bucket<WORDS>], hash: u64) -> usize {
    bucket_index(hash, (table.len() as u32).wrapping_sub(1)) as usize
}

fn is_tcp<const WORDS: usize, const KEY: usize>(words: &[u64; WORDS]) -> bool
where
    [u64; WORDS]: Layout<KEY>,
{
    words.ends().proto == lb_common::net::PROTO_TCP
}

impl Tally {
    fn count(&mut self, table: Table, control: Control, decision: Decision, void: bool) {
        if !is_clients(decision) {
            self.replies += u64::from(table == Table::Established);
            return;
        }
        if decision.kind() == kind::SNAT {
            add(&mut self.sources, decision.service());
        }
        match table {
            Table::HalfOpen => self.half_open += 1,
            Table::Established => {
                self.established += 1;
                let state = State::from_u8(control.state());
                let closing = matches!(state, Some(State::Closing | State::PeerClosing | State::Closed));
                if !void {
                    add(if closing { &mut self.closing } else { &mut self.active }, decision.slot());
                }
            }
        }
    }
}

/// Counts one; grows to the largest number that was met.
fn add(counts: &mut Vec<u64>, number: u16) {
    let place = usize::from(number);
    if counts.len() <= place {
        counts.resize(place + 1, 0);
    }
    counts[place] += 1;
}
