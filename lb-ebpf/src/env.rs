//! What the packet path asks of its surroundings. The kernel's answers are in the binary; tests run the
//! program itself.

use lb_common::{
    backend::Backend,
    counter::Reason,
    event::EventKind,
    flow::{Ends, KEY_V4, KEY_V6, WORDS_V4, WORDS_V6},
    persist::{PersistEntry, PersistKey},
    service::{Service, Table},
};

use crate::{
    flow_table::{Bucket, Word},
    packet::Packet,
};

/// The tables of one family, told apart by the number of words in a flow entry and in its key.
pub trait Tables<const WORDS: usize, const KEY: usize> {
    /// Words of the flow tables' memory.
    type Word: Word;

    /// The key words of a flow with these ends: [`Ends::key_v4`] or [`Ends::key_v6`].
    fn key_words(ends: &Ends) -> [u64; KEY];
    /// The reverse: [`Ends::of_v4`] or [`Ends::of_v6`].
    fn ends_of(words: &[u64; KEY]) -> Ends;
    /// Bucket of established flows for this hash.
    fn established(&self, hash: u64) -> Option<&Bucket<Self::Word, WORDS>>;
    /// Bucket of half-open flows for this hash.
    fn half_open(&self, hash: u64) -> Option<&Bucket<Self::Word, WORDS>>;
    /// Service id for a flow's VIP address, port and protocol.
    fn service_id(&self, ends: &Ends) -> Option<u32>;
}

/// Maps, clock and counters.
pub trait Env: Tables<WORDS_V4, KEY_V4> + Tables<WORDS_V6, KEY_V6> {
    /// The frame. One view at a time.
    fn packet(&self) -> Packet<'_>;
    /// Now, in ticks; wraps.
    fn now(&self) -> u32;
    /// Secret seed of the flow hash.
    fn flow_seed(&self) -> u64;
    /// A word of the filter of balanced addresses.
    fn filter(&self, word: u32) -> u64;
    /// A service's record.
    fn service(&self, service: u32) -> Option<&Service>;
    /// A service's look-up table.
    fn table(&self, service: u32) -> Option<&Table>;
    /// A backend's record.
    fn backend(&self, slot: u32) -> Option<&Backend>;
    /// Next index below `len` for round robin.
    fn rotate(&self, service: u32, len: u32) -> u32;
    /// Persistence entry of a client, however old.
    fn persisted(&self, key: &PersistKey) -> Option<PersistEntry>;
    /// Writes a persistence entry; if it is `new`, only where there is none. False when it was not written: there
    /// is one, or no room.
    fn persist(&self, key: &PersistKey, entry: &PersistEntry, new: bool) -> bool;
    /// Counts a forwarded packet for its backend, and so for its service.
    fn count_forwarded(&self, slot: u32, bytes: u32);
    /// Counts a newly steered flow.
    fn count_flow(&self, service: u32);
    /// Counts a reason.
    fn count(&self, reason: Reason);
    /// Tells the controller, unless it has just been told.
    fn event(&self, kind: EventKind, service: u32, ends: &Ends, now: u32);
    /// Grows (`delta` < 0) or shrinks the frame at its front; afterwards only the returned view is valid.
    fn resize(&self, delta: i32) -> Option<Packet<'_>>;
}
