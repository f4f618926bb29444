//! How flow entries are claimed, published, read, changed and retired: the one file that touches them. The layout
//! is `lb_common::flow`.
//!
//! Kernel CPUs and the controller work on the same memory without locks. The protocol:
//!
//! - **Claim.** Compare-and-swap of a free control word (or, among half-open flows, of the oldest live one) to
//!   `Busy` with the next `seq`. Until it publishes, the claimer is the only one that writes the entry.
//! - **Look around.** After the claim, every other way of the bucket is read once more. Both of two CPUs that
//!   insert one flow at a time have claimed before they look, so at least one sees the other, and yields: there
//!   is never a second entry that could name another server. A flow that moves to another table is published
//!   there before it is retired here, and an insertion here looks there last ([`insert_before`]).
//! - **Publish.** Key, decision and rewrite are written, then the control word is swapped to a live state.
//! - **Read.** Control, key, decision, control again: the same `seq` means the copy is of one flow.
//! - **Change, retire.** Compare-and-swap of the control word that was read. Nothing else changes after publishing but
//!   the hop of a pair's entries ([`amend`]) and, to [`VOID_GENERATION`], the generation of a decision ([`void`]): under
//!   `Moving`, which readers take for live and nobody else may change or retire.
//!
//! Loads and stores are plain 64-bit ones: LLVM has no atomic ones for this target, and x86-64 keeps loads in
//! order with loads and stores with stores, which is acquire and release. The tests check the protocol with
//! acquire and release under loom, so it does not rely on more. A compare-and-swap is a full barrier.
#![allow(unsafe_code, reason = "shared words need volatile access and a compare-and-swap intrinsic")]

use lb_common::flow::{
    Control, Decision, KEY_V4, REWRITE_V4, REWRITE_V6, Rewrite, State, VOID_GENERATION, WAYS, WORDS_V4, kind,
};

use crate::life::idle;

/// A 64-bit word that several CPUs read and write.
pub trait Word {
    /// Reads with acquire ordering.
    fn load(&self) -> u64;
    /// Writes with release ordering.
    fn store(&self, value: u64);
    /// Writes `new` if the word still is `current`; a full barrier. True if it was.
    fn swap_if(&self, current: u64, new: u64) -> bool;
    /// Adds to the word, wrapping, whatever others add at the same time.
    fn add(&self, delta: u64);
}

/// A word in a map's memory, on either side of the border.
#[cfg(target_arch = "bpf")]
#[repr(transparent)]
pub struct SharedWord(core::cell::UnsafeCell<u64>);

// SAFETY: sharing is what the word is for; every access is one volatile 64-bit load, store or exchange.
#[cfg(target_arch = "bpf")]
unsafe impl Sync for SharedWord {}

#[cfg(target_arch = "bpf")]
impl Word for SharedWord {
    #[inline(always)]
    fn load(&self) -> u64 {
        // SAFETY: the cell lies in a map value, aligned and alive as long as the program runs; a concurrent
        // write is a single 64-bit store, so the value is one that somebody wrote.
        unsafe { self.0.get().read_volatile() }
    }

    #[inline(always)]
    fn store(&self, value: u64) {
        // SAFETY: as in `load`.
        unsafe { self.0.get().write_volatile(value) }
    }

    #[inline(always)]
    fn swap_if(&self, current: u64, new: u64) -> bool {
        use core::intrinsics::{AtomicOrdering::SeqCst, atomic_cxchg};
        // SAFETY: as in `load`; the intrinsic becomes one BPF compare-and-exchange.
        let (_, done) = unsafe { atomic_cxchg::<u64, { SeqCst }, { SeqCst }>(self.0.get(), current, new) };
        done
    }

    #[inline(always)]
    fn add(&self, delta: u64) {
        use core::intrinsics::{AtomicOrdering::Relaxed, atomic_xadd};
        // SAFETY: as in `load`; the intrinsic becomes one BPF atomic addition.
        unsafe { atomic_xadd::<u64, u64, { Relaxed }>(self.0.get(), delta) };
    }
}

/// A word in a map's memory, on either side of the border.
#[cfg(not(target_arch = "bpf"))]
#[derive(Debug)]
#[repr(transparent)]
pub struct SharedWord(core::sync::atomic::AtomicU64);

#[cfg(not(target_arch = "bpf"))]
impl SharedWord {
    /// A word outside any map.
    #[must_use]
    pub const fn new(value: u64) -> Self {
        Self(core::sync::atomic::AtomicU64::new(value))
    }
}

#[cfg(not(target_arch = "bpf"))]
impl Word for SharedWord {
    fn load(&self) -> u64 {
        self.0.load(core::sync::atomic::Ordering::Acquire)
    }

    fn store(&self, value: u64) {
        self.0.store(value, core::sync::atomic::Ordering::Release);
    }

    fn swap_if(&self, current: u64, new: u64) -> bool {
        use core::sync::atomic::Ordering::SeqCst;
        self.0.compare_exchange(current, new, SeqCst, SeqCst).is_ok()
    }

    fn add(&self, delta: u64) {
        self.0.fetch_add(delta, core::sync::atomic::Ordering::Relaxed);
    }
}

/// One bucket: `WAYS` entries of `WORDS` words, the first of which is the control word.
pub type Bucket<W, const WORDS: usize> = [[W; WORDS]; WAYS];

/// Bucket of a flow with this hash, in a table of `mask + 1` buckets.
#[inline(always)]
#[must_use]
pub const fn bucket_index(hash: u64, mask: u32) -> u32 {
    (hash >> 32) as u32 & mask
}

/// A flow's key and where it belongs.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Key<const KEY: usize> {
    /// Key words as `lb_common::flow` lays them out.
    pub words: [u64; KEY],
    /// Hash of them. Bits 32 and up are the bucket, 54-55 the first way tried, 56-63 the tag. Beyond 4 M buckets (16 M
    /// flows) the first way goes with the bucket, and a hit may touch more lines.
    pub hash: u64,
}

impl<const KEY: usize> Key<KEY> {
    #[inline(always)]
    const fn tag(&self) -> u8 {
        (self.hash >> 56) as u8
    }

    /// The n-th way to try. Each flow starts at its own, so that a hit usually touches one cache line.
    #[inline(always)]
    const fn way(&self, n: usize) -> usize {
        ((self.hash >> 54) as usize + n) & (WAYS - 1)
    }
}

/// A live entry as it was read.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Hit {
    /// Way of the bucket.
    pub way: usize,
    /// Control word.
    pub control: Control,
    /// Decision word.
    pub decision: u64,
}

/// Finds a flow.
#[inline(always)]
pub fn find<W: Word, const WORDS: usize, const KEY: usize>(
    bucket: &Bucket<W, WORDS>,
    key: &Key<KEY>,
) -> Option<Hit> {
    for n in 0..WAYS {
        let way = key.way(n);
        if let Some(hit) = read(&bucket[way], key, way) {
            return Some(hit);
        }
    }
    None
}

/// [`find`] for the cold part of the path: not inlined, so that its stack is not its caller's.
#[inline(always)]
pub fn find_apart<W: Word, const WORDS: usize, const KEY: usize>(
    bucket: &Bucket<W, WORDS>,
    key: &Key<KEY>,
) -> Option<Hit> {
    let mut hit = Hit::default();
    find_into(bucket, key, &mut hit).then_some(hit)
}

/// [`find`], likewise. A BPF function gives back one number; the rest goes to `found`.
#[inline(never)]
pub fn find_into<W: Word, const WORDS: usize, const KEY: usize>(
    bucket: &Bucket<W, WORDS>,
    key: &Key<KEY>,
    found: &mut Hit,
) -> bool {
    if let Some(hit) = find(bucket, key) {
        *found = hit;
        return true;
    }
    false
}

/// Reads one way if it holds this flow.
#[inline(always)]
fn read<W: Word, const WORDS: usize, const KEY: usize>(
    entry: &[W; WORDS],
    key: &Key<KEY>,
    way: usize,
) -> Option<Hit> {
    const { assert!(KEY + 2 <= WORDS) };
    let control = Control(entry[0].load());
    if !control.is_live() {
        return None;
    }
    // One comparison for all words: they share a cache line, and the verifier follows every branch there is.
    let mut difference = 0;
    for i in 0..KEY {
        difference |= entry[1 + i].load() ^ key.words[i];
    }
    if difference != 0 {
        return None;
    }
    let decision = entry[1 + KEY].load();
    // The entry may have been retired and claimed for another flow meanwhile; its seq tells.
    // One that was retired and no more is still whole: this packet came just before.
    let again = Control(entry[0].load());
    if again.seq() != control.seq() {
        return None;
    }
    Some(Hit { way, control, decision })
}

/// The rewrite of a NAT or SNAT entry that was found; `None` when it changed hands since.
#[inline(always)]
pub fn rewrite<W: Word, const WORDS: usize>(bucket: &Bucket<W, WORDS>, hit: &Hit) -> Option<Rewrite> {
    if WORDS == WORDS_V4 {
        rewrite_words(bucket, hit).map(|words| Rewrite::of_v4(&words))
    } else {
        rewrite_words(bucket, hit).map(|words| Rewrite::of_v6(&words))
    }
}

/// The words of that rewrite, `N` of them: [`REWRITE_V4`] or [`REWRITE_V6`].
#[inline(always)]
pub fn rewrite_words<W: Word, const WORDS: usize, const N: usize>(
    bucket: &Bucket<W, WORDS>,
    hit: &Hit,
) -> Option<[u64; N]> {
    let entry = &bucket[hit.way & (WAYS - 1)];
    let mut words = [0; N];
    for (i, word) in words.iter_mut().enumerate() {
        *word = entry[(rewrite_word(WORDS) + i) % WORDS].load();
    }
    (Control(entry[0].load()).seq() == hit.control.seq()).then_some(words)
}

/// Index of an entry's first rewrite word.
#[inline(always)]
const fn rewrite_word(words: usize) -> usize {
    if words == WORDS_V4 { KEY_V4 + 2 } else { lb_common::flow::KEY_V6 + 2 }
}

/// What became of an insertion.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Inserted {
    /// Published in a free way.
    Free,
    /// Published in place of the oldest live entry.
    Overwrote,
    /// The flow is there already: somebody else was first, and [`find`] finds it.
    Exists,
    /// Every way is taken and none may be.
    Full,
    /// Another CPU took the way that this one wanted for another flow. Nothing was inserted.
    Taken,
    /// Another CPU is writing what looks like this very flow. Nothing was inserted.
    Twin,
}

/// Which entries an insertion may take.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Take {
    /// Free ones only: an established flow never makes room for another.
    Free,
    /// The oldest live one if none is free.
    Oldest,
}

/// What an insertion writes, and where it may.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Decision word.
    pub decision: u64,
    /// Its rewrite; not written for direct routing.
    pub rewrite: &'a Rewrite,
    /// State to publish.
    pub state: State,
    /// Now, in ticks.
    pub now: u32,
    /// Ways it may take.
    pub take: Take,
}

/// Inserts a flow that [`find`] did not find.
///
/// Tries once: who loses a race is told which one, and the caller knows a way to do without an entry.
///
/// Not inlined: it is called from several places off the hot path, and a frame of its own keeps theirs small.
#[inline(never)]
pub fn insert<W: Word, const WORDS: usize, const KEY: usize>(
    bucket: &Bucket<W, WORDS>,
    key: &Key<KEY>,
    new: &Entry<'_>,
) -> Inserted {
    let best = choose(bucket, key, new.now);
    let way = best as usize & (WAYS - 1);
    let free = best >= FREE_RANK << WAY_BITS;
    if !free && new.take == Take::Free {
        return if is_written(bucket, key) { Inserted::Twin } else { Inserted::Full };
    }
    let entry = &bucket[way];
    let seen = Control(entry[0].load());
    if (seen.state() == State::Free as u8) != free || seen.state() == State::Busy as u8 {
        return lost(seen, key);
    }
    let claimed = Control::new(seen.seq().wrapping_add(1), key.tag(), State::Busy, new.now);
    if !entry[0].swap_if(seen.0, claimed.0) {
        return lost(Control(entry[0].load()), key);
    }
    match look_around(bucket, key, way) {
        Around::Clear => {}
        Around::Exists => {
            entry[0].store(claimed.with(State::Free, new.now).0);
            return Inserted::Exists;
        }
        Around::Twin => {
            entry[0].store(claimed.with(State::Free, new.now).0);
            return Inserted::Twin;
        }
    }
    for i in 0..KEY {
        entry[1 + i].store(key.words[i]);
    }
    entry[1 + KEY].store(new.decision);
    if Decision(new.decision).kind() > kind::DR {
        store_rewrite(entry, new.rewrite);
    }
    // Nobody else changes a busy entry, so this cannot fail; it is a swap and not a store because the swap is a
    // barrier on every architecture.
    entry[0].swap_if(claimed.0, claimed.with(new.state, new.now).0);
    if free { Inserted::Free } else { Inserted::Overwrote }
}

#[inline(always)]
fn store_rewrite<W: Word, const WORDS: usize>(entry: &[W; WORDS], rewrite: &Rewrite) {
    let first = rewrite_word(WORDS);
    if WORDS == WORDS_V4 {
        for (i, word) in rewrite.words_v4().into_iter().enumerate() {
            entry[(first + i) % WORDS].store(word);
        }
    } else {
        for (i, word) in rewrite.words_v6().into_iter().enumerate() {
            entry[(first + i) % WORDS].store(word);
        }
    }
}

/// Inserts a flow that was found neither here nor in `after`, the bucket that flows move to from here.
///
/// Another CPU may have moved it between those two look-ups. It published it there before it retired it here, so
/// who does not see it here sees it there now, and takes back what it inserted.
#[inline(always)]
pub fn insert_before<W: Word, const WORDS: usize, const KEY: usize>(
    bucket: &Bucket<W, WORDS>,
    after: &Bucket<W, WORDS>,
    key: &Key<KEY>,
    new: &Entry<'_>,
) -> Inserted {
    let inserted = insert(bucket, key, new);
    if !matches!(inserted, Inserted::Free | Inserted::Overwrote) || find_apart(after, key).is_none() {
        return inserted;
    }
    if let Some(hit) = find_apart(bucket, key) {
        retire(bucket, &hit);
    }
    Inserted::Exists
}

/// Why a way could not be claimed: who has it now carries this flow's tag, or not.
#[inline(always)]
const fn lost<const KEY: usize>(winner: Control, key: &Key<KEY>) -> Inserted {
    if winner.tag() == key.tag() { Inserted::Twin } else { Inserted::Taken }
}

/// Rank of a free way; a live one's is its age plus one, a busy one's 0.
const FREE_RANK: u64 = 1 << 33;
/// Bits that hold the way below its rank.
const WAY_BITS: u32 = WAYS.ilog2();

/// The way an insertion should try, and its rank above it: a free one, else the one with the oldest live entry.
///
/// It is one number because the verifier would follow every combination of ways if it were several.
#[inline(always)]
fn choose<W: Word, const WORDS: usize, const KEY: usize>(
    bucket: &Bucket<W, WORDS>,
    key: &Key<KEY>,
    now: u32,
) -> u64 {
    let mut best = 0;
    for n in 0..WAYS {
        let way = key.way(n);
        let seen = Control(bucket[way][0].load());
        let rank = match seen.state() {
            state if state == State::Free as u8 => FREE_RANK,
            state if state == State::Busy as u8 || state == State::Moving as u8 => 0,
            _ => u64::from(idle(now, seen.last_seen())) + 1,
        };
        // The first of equals stays.
        if n == 0 || rank > best >> WAY_BITS {
            best = rank << WAY_BITS | way as u64;
        }
    }
    best
}

/// What a claimer sees in the other ways.
enum Around {
    Clear,
    Exists,
    Twin,
}

/// Looks for the same flow in every other way, after the claim of `mine`.
#[inline(always)]
fn look_around<W: Word, const WORDS: usize, const KEY: usize>(
    bucket: &Bucket<W, WORDS>,
    key: &Key<KEY>,
    mine: usize,
) -> Around {
    for n in 1..WAYS {
        let way = (mine + n) & (WAYS - 1);
        let control = Control(bucket[way][0].load());
        // A busy way with our tag may be about to become our flow. Whoever sees the other leaves, be it both.
        if control.state() == State::Busy as u8 && control.tag() == key.tag() {
            return Around::Twin;
        }
        if read(&bucket[way], key, way).is_some() {
            return Around::Exists;
        }
    }
    Around::Clear
}

/// True when somebody is writing what looks like this very flow: who has no room may be late, and not unlucky.
///
/// Not inlined, like all that is cold.
#[inline(never)]
fn is_written<W: Word, const WORDS: usize, const KEY: usize>(
    bucket: &Bucket<W, WORDS>,
    key: &Key<KEY>,
) -> bool {
    for entry in bucket {
        let control = Control(entry[0].load());
        if control.state() == State::Busy as u8 && control.tag() == key.tag() {
            return true;
        }
    }
    false
}

/// True when every way holds a live entry that was last seen less than `young` ticks ago: somebody inserts
/// faster than flows can be confirmed.
///
/// Not inlined, like all that is cold.
#[inline(never)]
pub fn is_crowded<W: Word, const WORDS: usize>(bucket: &Bucket<W, WORDS>, now: u32, young: u32) -> bool {
    for entry in bucket {
        let control = Control(entry[0].load());
        if control.state() == State::Free as u8 || idle(now, control.last_seen()) >= young {
            return false;
        }
    }
    true
}

/// Moves an entry to another state or time. False if it changed since it was read; then nothing happened.
#[inline(always)]
pub fn update<W: Word, const WORDS: usize>(
    bucket: &Bucket<W, WORDS>,
    hit: &Hit,
    state: State,
    now: u32,
) -> bool {
    // The mask is for the verifier: it loses sight of where `way` came from.
    bucket[hit.way & (WAYS - 1)][0].swap_if(hit.control.0, hit.control.with(state, now).0)
}

/// Writes an entry's time and nothing else. False if it changed since it was read, or its hop is being written.
#[inline(always)]
pub fn touch<W: Word, const WORDS: usize>(bucket: &Bucket<W, WORDS>, hit: &Hit, now: u32) -> bool {
    let Some(state) = State::from_u8(hit.control.state()) else { return false };
    !matches!(state, State::Moving) && update(bucket, hit, state, now)
}

/// Retires an entry. False if it changed since it was read, or its hop is being written; then nothing happened.
#[inline(always)]
pub fn retire<W: Word, const WORDS: usize>(bucket: &Bucket<W, WORDS>, hit: &Hit) -> bool {
    hit.control.state() != State::Moving as u8 && update(bucket, hit, State::Free, hit.control.last_seen())
}

/// Frees an entry that a writer left half-written: a claim or a hop that nobody finishes. False if it changed since it
/// was read.
pub fn abandon<W: Word, const WORDS: usize>(bucket: &Bucket<W, WORDS>, stood: &Hit) -> bool {
    update(bucket, stood, State::Free, stood.control.last_seen())
}

/// Writes the hop of a pair's entry. False if the entry changed since it was read, or somebody else does the same.
#[inline(always)]
pub fn amend<W: Word, const WORDS: usize>(
    bucket: &Bucket<W, WORDS>,
    hit: &Hit,
    hop: [u64; 2],
    now: u32,
) -> bool {
    let Some(state) = State::from_u8(hit.control.state()) else { return false };
    if matches!(state, State::Moving) || !update(bucket, hit, State::Moving, now) {
        return false;
    }
    let entry = &bucket[hit.way & (WAYS - 1)];
    let first = rewrite_word(WORDS) + if WORDS == WORDS_V4 { REWRITE_V4 } else { REWRITE_V6 } - 2;
    let [mac, tags] = hop;
    entry[first % WORDS].store(mac);
    entry[(first + 1) % WORDS].store(tags);
    // Nobody else changes an entry that is moving.
    entry[0].swap_if(hit.control.with(State::Moving, now).0, hit.control.with(state, now).0)
}

/// Ends a flow whose entry stays for a while: its decision gets [`VOID_GENERATION`]. State and time stay. False if the
/// entry changed since it was read, or somebody else is writing into it. For the controller.
pub fn void<W: Word, const WORDS: usize>(bucket: &Bucket<W, WORDS>, hit: &Hit) -> bool {
    let Some(state) = State::from_u8(hit.control.state()) else { return false };
    let seen = hit.control.last_seen();
    let may = hit.control.is_live() && !matches!(state, State::Moving);
    if !may || !update(bucket, hit, State::Moving, seen) {
        return false;
    }
    let entry = &bucket[hit.way & (WAYS - 1)];
    let was = Decision(hit.decision);
    let now = Decision::new(was.kind(), was.service(), was.slot(), VOID_GENERATION);
    entry[(rewrite_word(WORDS) - 1) % WORDS].store(now.0);
    // Nobody else changes an entry that is moving.
    entry[0].swap_if(hit.control.with(State::Moving, seen).0, hit.control.with(state, seen).0)
}

/// A consistent copy of one way's words, whatever flow it holds; `None` when it holds none. For the controller.
pub fn copy<W: Word, const WORDS: usize>(entry: &[W; WORDS]) -> Option<[u64; WORDS]> {
    let before = Control(entry[0].load());
    if !before.is_live() {
        return None;
    }
    let mut words = [0; WORDS];
    for (word, cell) in words.iter_mut().zip(entry).skip(1) {
        *word = cell.load();
    }
    let after = Control(entry[0].load());
    if after.seq() != before.seq() {
        return None;
    }
    words[0] = before.0;
    Some(words)
}

#[cfg(test)]
mod tests;
