//! One round through the tables of a family: what may not stay is retired, the rest is counted.
//!
//! The two entries of a NAT or SNAT flow stay and go together. Each knows only when its own direction was last seen,
//! so a flow is past its time when both are; whoever is met first retires both.

use lb_common::flow::{Control, Decision, State, VOID_GENERATION, WAYS, kind};
use lb_ebpf::flow_table::{Hit, SharedWord, Word as _, abandon, bucket_index, copy, find, retire};

use super::{
    super::persistence::Due,
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

/// Where an entry was found.
pub(super) type Found<'a, const WORDS: usize> = (&'a Bucket<WORDS>, Hit);

impl<'a, const WORDS: usize> Tables<'a, WORDS> {
    /// The other entry of a pair. A flow that is about to be confirmed has it in both tables; it is looked for where
    /// it comes from first.
    pub(super) fn siblings<const KEY: usize>(&self, words: &[u64; WORDS]) -> [Option<Found<'a, WORDS>>; 2]
    where
        [u64; WORDS]: Layout<KEY>,
    {
        let key = <[u64; WORDS]>::key(&words.rewrite().sibling(&words.ends()), self.seed);
        [self.half_open, self.established].map(|table| {
            let bucket = table.get(index(table, key.hash))?;
            let hit = find(bucket, &key)?;
            are_siblings(words.decision(), Decision(hit.decision)).then_some((bucket, hit))
        })
    }
}

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
    /// Stays. A void flow waits for its ends to hear that it is over.
    Kept {
        control: Control,
        decision: Decision,
        void: bool,
    },
}

/// Sweeps both tables of a family. Flows that keep what is `due` are noted there.
pub(super) fn sweep<const WORDS: usize, const KEY: usize>(
    tables: &Tables<'_, WORDS>,
    rules: &Rules,
    watch: &mut Watch,
    due: &mut Due,
    tally: &mut Tally,
) where
    [u64; WORDS]: Layout<KEY>,
{
    for (table, buckets) in [(Table::HalfOpen, tables.half_open), (Table::Established, tables.established)] {
        for (n, bucket) in buckets.iter().enumerate() {
            let round = Round { tables, table, rules, look_at_pairs: watch.is_turn_of(n) };
            for (way, entry) in bucket.iter().enumerate() {
                let control = Control(entry[0].load());
                if control.state() == State::Free as u8 {
                    continue;
                }
                let swept = round.glance(entry, control).unwrap_or_else(|| round.entry(bucket, way, watch));
                match swept {
                    Swept::Nothing => {}
                    Swept::Retired(entries) => tally.retired += entries,
                    Swept::Kept { control, decision, void } => {
                        tally.count(table, control, decision, void);
                        if due.wants(decision.service()) && goes_on(control, decision) {
                            keep(entry, due);
                        }
                    }
                }
            }
        }
    }
}

/// True for the client's entry of a flow that has not begun to end, and is no longer new.
const fn goes_on(control: Control, decision: Decision) -> bool {
    let state = State::from_u8(control.state());
    is_clients(decision) && matches!(state, Some(State::Established | State::Datagrams))
}

/// Notes the client of an entry as one with a flow.
fn keep<const WORDS: usize, const KEY: usize>(entry: &[SharedWord; WORDS], due: &mut Due)
where
    [u64; WORDS]: Layout<KEY>,
{
    if let Some(words) = copy(entry) {
        let (ends, seen) = (words.ends(), Control(words[0]).last_seen());
        due.note(words.decision().service(), ends.src, ends.family, seen);
    }
}

struct Round<'r, 't, const WORDS: usize> {
    tables: &'r Tables<'t, WORDS>,
    table: Table,
    rules: &'r Rules,
    look_at_pairs: bool,
}

impl<const WORDS: usize> Round<'_, '_, WORDS> {
    /// What nearly all entries are: one that counts and is in its time. Anything else is for [`Self::entry`]. Reads two
    /// words of one cache line.
    fn glance<const KEY: usize>(&self, entry: &[SharedWord; WORDS], control: Control) -> Option<Swept>
    where
        [u64; WORDS]: Layout<KEY>,
    {
        let decision = Decision(entry[1 + KEY].load());
        let whole = Control(entry[0].load()).seq() == control.seq();
        let alone = !is_paired(decision) || !self.look_at_pairs || self.rules.is_young(control);
        let plain = control.is_live()
            && control.state() != State::Moving as u8
            && self.rules.service_counts(decision)
            && self.rules.backend_counts(decision.slot(), decision.generation())
            && self.rules.is_in_time(control, decision);
        (whole && alone && plain).then_some(Swept::Kept { control, decision, void: false })
    }

    fn entry<const KEY: usize>(&self, bucket: &Bucket<WORDS>, way: usize, watch: &mut Watch) -> Swept
    where
        [u64; WORDS]: Layout<KEY>,
    {
        let entry = &bucket[way];
        let control = Control(entry[0].load());
        let state = State::from_u8(control.state());
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
            let killed = decision.generation() == VOID_GENERATION;
            let answered = is_tcp(&words) && (killed || is_paired(decision) && self.rules.resets(decision));
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
        let siblings = self.tables.siblings(&words);
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

pub(super) fn is_tcp<const WORDS: usize, const KEY: usize>(words: &[u64; WORDS]) -> bool
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
