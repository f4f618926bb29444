//! How busy backends are, and how busy they may be: memory that the packet path counts in at the same time.
#![forbid(unsafe_code)]

use std::sync::atomic::{
    AtomicU64,
    Ordering::{AcqRel, Acquire, Release},
};

use lb_common::{
    limits::{MAX_BACKENDS, map},
    load::{Limits, Load},
};

use super::{Error, fail, fault, sys::SharedMemory};

/// Words of a [`Load`], in its order.
const WORDS: usize = size_of::<Load>() / size_of::<u64>();

/// The `LOADS` map.
pub(super) struct Loads(SharedMemory);

impl Loads {
    /// Maps it into memory.
    pub(super) fn map(map: &aya::maps::MapData) -> Result<Self, Error> {
        SharedMemory::map(map.fd(), MAX_BACKENDS as usize * size_of::<Load>())
            .map(Self)
            .map_err(|e| fault(format!("map `{}` cannot be mapped into memory", map::LOADS), e))
    }

    /// What a slot's backend may take.
    pub(super) fn limits(&self, slot: u16) -> Result<Limits, Error> {
        let [_, limits, ..] = self.at(slot)?;
        Ok(Limits::of(limits.load(Acquire)))
    }

    /// Says what a slot's backend may take: one word, so that no packet meets half of it.
    pub(super) fn limit(&self, slot: u16, limits: Limits) -> Result<(), Error> {
        let [_, word, ..] = self.at(slot)?;
        word.store(limits.word(), Release);
        Ok(())
    }

    /// Active flows as they are counted now.
    pub(super) fn active(&self, slot: u16) -> Result<u64, Error> {
        let [active, ..] = self.at(slot)?;
        Ok(active.load(Acquire))
    }

    /// Corrects a count by what it was off when it was `read`. The packet path goes on counting meanwhile, so nothing
    /// but a difference may be written.
    pub(super) fn correct(&self, slot: u16, read: u64, exact: u64) -> Result<(), Error> {
        let [active, ..] = self.at(slot)?;
        if exact != read {
            active.fetch_add(exact.wrapping_sub(read), AcqRel);
        }
        Ok(())
    }

    /// Counts a slot's flows from zero: those that it had do not count any more.
    pub(super) fn start_anew(&self, slot: u16) -> Result<(), Error> {
        let [active, _, full, syn_repeats] = self.at(slot)?;
        active.fetch_sub(active.load(Acquire), AcqRel);
        full.store(0, Release);
        syn_repeats.store(0, Release);
        Ok(())
    }

    /// SYNs that came again since a client last proved a connection with a slot's backend.
    pub(super) fn syn_repeats(&self, slot: u16) -> Result<u64, Error> {
        let [.., syn_repeats] = self.at(slot)?;
        Ok(syn_repeats.load(Acquire))
    }

    fn at(&self, slot: u16) -> Result<&[AtomicU64; WORDS], Error> {
        self.0.atomics::<WORDS>().get(usize::from(slot)).ok_or_else(|| {
            fail(format!("slot {slot} has no load: slots are below {MAX_BACKENDS}; report this"))
        })
    }
}
