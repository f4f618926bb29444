//! What a flow must satisfy to stay.

use std::collections::HashMap;

use lb_common::{
    flow::{Control, Decision, State, VOID_GENERATION},
    limits::{MAX_BACKENDS, MAX_SERVICES},
    settings::Settings,
};
use lb_ebpf::life::{TOUCH_TICKS, idle};

/// First packet seen and none since. A handshake that is alive repeats its SYN after 1, 3, 7 and 15 s (RFC 6298
/// backoff), so a flow that has been silent for longer than the longest of these gaps is given up; a SYN that comes
/// later begins the handshake anew, wherever it is steered. A flow whose established bucket is full lives here too.
pub(super) const NEW_SECS: u32 = 30;
/// One side sent FIN. The other may still be sending, which shows as acknowledgements at least; silence for twice
/// the maximum segment lifetime (RFC 9293, 3.4.2) ends it.
pub(super) const CLOSING_SECS: u32 = 120;
/// Both sides sent FIN, and both were seen: what may still come is a repeated last segment.
pub(super) const CLOSED_SECS: u32 = 30;
/// UDP has no end to see. Two minutes is the least that RFC 4787 (4.3) asks of anything that keeps UDP state.
pub(super) const DATAGRAMS_SECS: u32 = 120;
/// A claim, or the writing of a hop, takes the packet path less than a microsecond. One that still stands,
/// unchanged, after this long belongs to a program that is gone.
pub(super) const BUSY_SECS: u32 = 10;
/// Flows that lost their server stay this long where both ends are told so: the next packet of either is answered
/// with a RST.
pub(super) const VOID_SECS: u32 = 10;
/// Both entries of a pair are there within microseconds; one that is alone for this long has lost the other.
pub(super) const ALONE_SECS: u32 = 2;
/// Whether an entry that is in its time still has its sibling is looked up once in so many sweeps: it costs a cache
/// miss, and a million idle flows would cost a million at each.
pub(super) const PAIR_SWEEPS: usize = 8;

/// No generation: nothing is forwarded to the slot.
const NOT_LIVE: u32 = u32::MAX;

/// What a sweep goes by.
pub(in crate::dataplane::bpf) struct Rules {
    /// Now, in ticks.
    pub(super) now: u32,
    /// Generation that flows to a slot must have.
    generations: Vec<u32>,
    /// By service.
    services: Vec<ServiceRules>,
    new: u32,
    closing: u32,
    closed: u32,
    datagrams: u32,
    busy: u32,
    void: u32,
    alone: u32,
}

#[derive(Clone, Copy, Default)]
struct ServiceRules {
    /// Ticks an established flow may be idle; 0 = no such service.
    established: u32,
    /// Senders into flows that lost their server get a RST.
    resets: bool,
}

impl Rules {
    /// Rules under which every flow is void: services and backends are still to be named.
    pub(in crate::dataplane::bpf) fn new(settings: &Settings, now: u32) -> Self {
        Self {
            now,
            generations: vec![NOT_LIVE; MAX_BACKENDS as usize],
            services: vec![ServiceRules::default(); MAX_SERVICES as usize],
            new: settings.ticks(NEW_SECS),
            closing: settings.ticks(CLOSING_SECS),
            closed: settings.ticks(CLOSED_SECS),
            datagrams: settings.ticks(DATAGRAMS_SECS),
            busy: settings.ticks(BUSY_SECS),
            void: settings.ticks(VOID_SECS),
            alone: settings.ticks(ALONE_SECS),
        }
    }

    /// Flows to this slot count when they have this generation.
    pub(in crate::dataplane::bpf) fn allow_backend(&mut self, slot: u16, generation: u16) {
        if let Some(place) = self.generations.get_mut(usize::from(slot)) {
            *place = u32::from(generation);
        }
    }

    /// Established flows of this service may be idle for so many ticks (at least one).
    pub(in crate::dataplane::bpf) fn allow_service(&mut self, service: u16, idle_ticks: u32) {
        if let Some(place) = self.services.get_mut(usize::from(service)) {
            place.established = idle_ticks.max(1);
        }
    }

    /// Both ends of this service's TCP flows are told when their server is gone.
    pub(in crate::dataplane::bpf) fn reset_flows_of(&mut self, service: u16) {
        if let Some(place) = self.services.get_mut(usize::from(service)) {
            place.resets = true;
        }
    }

    /// True when flows and persistence entries to this slot with this generation count.
    pub(in crate::dataplane::bpf) fn backend_counts(&self, slot: u16, generation: u16) -> bool {
        self.generations.get(usize::from(slot)) == Some(&u32::from(generation))
    }

    /// True while something last seen at `last_seen` has not been idle for longer than `ticks`. The packet path
    /// writes the time only when it is [`TOUCH_TICKS`] old, so that much is added.
    pub(in crate::dataplane::bpf) const fn is_fresh(&self, last_seen: u32, ticks: u32) -> bool {
        idle(self.now, last_seen) <= ticks.saturating_add(TOUCH_TICKS)
    }

    /// True while something last seen at `last_seen` has been idle for less than `ticks`, as the packet path counts.
    pub(in crate::dataplane::bpf) const fn is_used(&self, last_seen: u32, ticks: u32) -> bool {
        idle(self.now, last_seen) < ticks
    }

    /// True when the flow's service exists.
    pub(super) fn service_counts(&self, decision: Decision) -> bool {
        self.service(decision).established > 0
    }

    /// True when senders into this service's flows are told that the server is gone.
    pub(super) fn resets(&self, decision: Decision) -> bool {
        self.service(decision).resets
    }

    /// True while an entry is within the time of its state.
    pub(super) fn is_in_time(&self, control: Control, decision: Decision) -> bool {
        let limit = match State::from_u8(control.state()) {
            Some(State::New) => self.new,
            Some(State::Established) => self.service(decision).established,
            Some(State::Closing | State::PeerClosing) => self.closing,
            Some(State::Closed) => self.closed,
            Some(State::Datagrams) => self.datagrams,
            // Its writer is at it.
            Some(State::Moving) => return true,
            Some(State::Free | State::Busy) | None => return false,
        };
        self.is_fresh(control.last_seen(), limit)
    }

    /// True for an entry that is too young to miss its sibling.
    pub(super) const fn is_young(&self, control: Control) -> bool {
        idle(self.now, control.last_seen()) <= self.alone
    }

    fn service(&self, decision: Decision) -> ServiceRules {
        self.services.get(usize::from(decision.service())).copied().unwrap_or_default()
    }
}

/// What stood at earlier sweeps, and since when.
#[derive(Default)]
pub(in crate::dataplane::bpf) struct Watch {
    /// Claims, and hops being written, by the address of the control word.
    claims: HashMap<usize, (u64, Since)>,
    /// Slots and generations with flows that are void.
    void: HashMap<(u16, u16), Since>,
    sweeps: usize,
}

#[derive(Clone, Copy)]
struct Since {
    first: u32,
    last: u32,
}

impl Watch {
    /// True when this very control word has stood for as long as the rules allow.
    pub(super) fn is_dead(&mut self, place: usize, control: Control, rules: &Rules) -> bool {
        let now = Since { first: rules.now, last: rules.now };
        let (word, since) = self.claims.entry(place).or_insert((control.0, now));
        if *word != control.0 {
            (*word, *since) = (control.0, now);
        }
        since.last = rules.now;
        idle(rules.now, since.first) > rules.busy
    }

    /// True when flows with this decision have been void for as long as the rules allow.
    pub(super) fn is_void_for_long(&mut self, decision: Decision, rules: &Rules) -> bool {
        let now = Since { first: rules.now, last: rules.now };
        let since = self.void.entry((decision.slot(), decision.generation())).or_insert(now);
        since.last = rules.now;
        idle(rules.now, since.first) > rules.void
    }

    /// Flows are about to be killed: they stay for their time from now, whatever was killed a moment ago.
    pub(in crate::dataplane::bpf) fn expect_killed(&mut self) {
        self.void.retain(|(_, generation), _| *generation != VOID_GENERATION);
    }

    /// True when it is this bucket's turn to have its pairs looked at.
    pub(super) const fn is_turn_of(&self, bucket: usize) -> bool {
        bucket % PAIR_SWEEPS == self.sweeps % PAIR_SWEEPS
    }

    /// Ends a sweep: what was not met again is forgotten.
    pub(super) fn end(&mut self, rules: &Rules) {
        self.claims.retain(|_, (_, since)| since.last == rules.now);
        self.void.retain(|_, since| since.last == rules.now);
        self.sweeps = self.sweeps.wrapping_add(1);
    }
}
