//! What the packet path asks of its surroundings. The kernel's answers are in the binary; tests run the
//! program itself.

#![expect(clippy::mut_from_ref, reason = "the references are into this run's own memory, one at a time")]

use lb_common::{
    backend::{Backend, LinkRecord, Target},
    counter::Reason,
    event::EventKind,
    flow::{Ends, KEY_V4, KEY_V6, WORDS_V4, WORDS_V6},
    fragment::{FragmentEntry, FragmentKey},
    persist::{PersistEntry, PersistKey},
    service::{Service, Sources, Table},
};

use crate::{
    flow_table::{Bucket, Key, Word},
    load,
    packet::Packet,
    scratch::Scratch,
};

/// The tables of one family, told apart by the number of words in a flow entry and in its key.
pub trait Tables<const WORDS: usize, const KEY: usize> {
    /// Words of the flow tables' memory.
    type Word: Word;

    /// The key words of a flow with these ends: [`Ends::key_v4`] or [`Ends::key_v6`].
    fn key_words(ends: &Ends) -> [u64; KEY];
    /// The reverse: [`Ends::of_v4`] or [`Ends::of_v6`].
    fn ends_of(words: &[u64; KEY]) -> Ends;
    /// Memory of this run for the key of the packet's own flow. One reference at a time.
    fn own_key(&self) -> Option<&mut Key<KEY>>;
    /// Memory of this run for the key of a pair's other entry. One reference at a time.
    fn reply_key(&self) -> Option<&mut Key<KEY>>;
    /// Hash that a flow with these key words is found by.
    fn hash(&self, words: &[u64; KEY]) -> u64;
    /// Bucket of established flows for this hash.
    fn established(&self, hash: u64) -> Option<&Bucket<Self::Word, WORDS>>;
    /// Bucket of half-open flows for this hash.
    fn half_open(&self, hash: u64) -> Option<&Bucket<Self::Word, WORDS>>;
    /// Service id for a destination address, port and protocol.
    fn service_id(&self, ends: &Ends) -> Option<u32>;
}

/// Maps, clock and counters.
pub trait Env: Tables<WORDS_V4, KEY_V4> + Tables<WORDS_V6, KEY_V6> {
    /// The frame. One view at a time.
    fn packet(&self) -> Packet<'_>;
    /// Interface that the frame came in by.
    fn ingress(&self) -> u32;
    /// This run's scratch memory. One reference at a time.
    fn scratch(&self) -> Option<&mut Scratch>;
    /// Now, in ticks; wraps.
    fn now(&self) -> u32;
    /// Ticks of a [`lb_common::fragment::FRAGMENT_SECS`].
    fn fragment_ticks(&self) -> u32;
    /// Secret seed of the flow hash.
    fn flow_seed(&self) -> u64;
    /// A word of the filter of balanced addresses.
    fn filter(&self, word: u32) -> u64;
    /// A service's record.
    fn service(&self, service: u32) -> Option<&Service>;
    /// A service's look-up table.
    fn table(&self, service: u32) -> Option<&Table>;
    /// A service's source addresses and ports.
    fn sources(&self, service: u32) -> Option<&Sources>;
    /// A backend's record.
    fn backend(&self, slot: u32) -> Option<&Backend>;
    /// A backend's address and port.
    fn target(&self, slot: u32) -> Option<&Target>;
    /// How replies leave by an interface.
    fn link(&self, ifindex: u32) -> Option<&LinkRecord>;
    /// The way to `ends.dst` by the routing table, as [`lb_common::flow::Hop::words`]; `None` when it has none that is known to the neighbour table.
    fn route(&self, ends: &Ends) -> Option<[u64; 2]>;
    /// How busy a backend is.
    fn load(&self, slot: u32) -> Option<&load::Words>;
    /// [`crate::steer::least`] as a function of its own.
    fn least(&self, start: u32) -> u32;
    /// [`crate::steer::next_with_room`] as a function of its own.
    fn next_with_room(&self, start: u32) -> u32;
    /// [`crate::steer::compare`] as a function of its own.
    fn compare(&self, n: u32) -> u32;
    /// [`crate::steer::try_next`] as a function of its own.
    fn try_next(&self, n: u32) -> u32;
    /// Next index below `len` for round robin.
    fn rotate(&self, service: u32, len: u32) -> u32;
    /// [`crate::steer::choose`] as a function of its own.
    fn choose(&self, by: u32) -> u32;
    /// [`crate::steer::stick`] as a function of its own.
    fn stick(&self);
    /// True when the controller has not been seen for [`lb_common::settings::UNATTENDED_SECS`].
    fn is_unattended(&self, now: u32) -> bool;
    /// Persistence entry of a client, however old.
    fn persisted(&self, key: &PersistKey) -> Option<PersistEntry>;
    /// Writes a persistence entry; if it is `new`, only where there is none. False when it was not written: there
    /// is one, or no room.
    fn persist(&self, key: &PersistKey, entry: &PersistEntry, new: bool) -> bool;
    /// Persistence entry of a client that has not proved itself, however old.
    fn persisted_new(&self, key: &PersistKey) -> Option<PersistEntry>;
    /// Writes one; if it is `new`, only where there is none. False when there is one.
    fn persist_new(&self, key: &PersistKey, entry: &PersistEntry, new: bool) -> bool;
    /// Ticks of a [`lb_common::persist::NEW_SECS`].
    fn persist_new_ticks(&self) -> u32;
    /// Slot that a server, known by its slot in whichever service, has in this one.
    fn twin(&self, slot: u16, service: u16) -> Option<u16>;
    /// What was decided for a datagram's first fragment.
    fn fragment(&self, key: &FragmentKey) -> Option<&FragmentEntry>;
    /// Remembers what was decided for a datagram's first fragment.
    fn remember_fragment(&self, key: &FragmentKey, entry: &FragmentEntry);
    /// Counts a forwarded packet for its backend, and so for its service.
    fn count_forwarded(&self, slot: u32, bytes: u32);
    /// Counts a newly steered flow.
    fn count_flow(&self, service: u32);
    /// Counts a reason.
    fn count(&self, reason: Reason);
    /// Tells the controller, unless it has just been told.
    fn event(&self, kind: EventKind, service: u32, ends: &Ends, now: u32);
    /// False when this CPU has already sent an ICMP error in this tick (RFC 1812, 4.3.2.8; RFC 4443, 2.4 f).
    fn may_tell(&self, now: u32) -> bool;
    /// Grows (`delta` < 0) or shrinks the frame at its front; afterwards only the returned view is valid.
    fn resize(&self, delta: i32) -> Option<Packet<'_>>;
    /// Cuts the frame, all of its buffers, to so many bytes; afterwards only the returned view is valid.
    fn trim(&self, bytes: u32) -> Option<Packet<'_>>;
}
