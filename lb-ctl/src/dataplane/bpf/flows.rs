//! The flow tables as memory: read, counted and swept without a system call per entry. Entries are copied and
//! retired by the functions of the packet path itself (`lb_ebpf::flow_table`), which hold the protocol.
#![forbid(unsafe_code)]

use std::{collections::HashMap, net::IpAddr};

use aya::maps::MapData;
use lb_common::{
    flow::{Control, Decision, State, WAYS, WORDS_V4, WORDS_V6, ports_of},
    limits::{MAX_BACKENDS, MAX_SERVICES, map},
    net::{host_port, ip4, ip6},
    settings::Settings,
};
use lb_ebpf::{
    flow_table::{Hit, SharedWord, Word as _, copy, retire},
    life::TOUCH_TICKS,
};

use super::{Error, fault, sys::SharedMemory};
use crate::{
    dataplane::{Flow, FlowCensus},
    model::config::Protocol,
};

/// First packet seen and none since. A handshake that is alive repeats its SYN after 1, 3, 7 and 15 s (RFC 6298
/// backoff), so a flow that has been silent for longer than the longest of these gaps is given up; a SYN that comes
/// later begins the handshake anew, wherever it is steered. A flow whose established bucket is full lives here too.
const NEW_SECS: u32 = 30;
/// The client sent FIN. The server may still be sending, which shows here as the client's acknowledgements;
/// silence for twice the maximum segment lifetime (RFC 9293, 3.4.2) ends it.
const CLOSING_SECS: u32 = 120;
/// UDP has no end to see. Two minutes is the least that RFC 4787 (4.3) asks of anything that keeps UDP state.
const DATAGRAMS_SECS: u32 = 120;
/// A claim takes the packet path less than a microsecond. One that still stands, unchanged, after this long
/// belongs to a program that is gone.
const BUSY_SECS: u32 = 10;

/// No generation: nothing is forwarded to the slot.
const NOT_LIVE: u32 = u32::MAX;

/// One bucket of a table with entries of `WORDS` words.
pub(super) type Bucket<const WORDS: usize> = [[SharedWord; WORDS]; WAYS];

/// The four flow tables.
pub(super) struct FlowTables {
    established_v4: SharedMemory,
    established_v6: SharedMemory,
    half_open_v4: SharedMemory,
    half_open_v6: SharedMemory,
}

impl FlowTables {
    /// Maps the tables. `open` gives the map of a name; the sizes are those it was created with.
    pub(super) fn map(
        settings: &Settings,
        mut open: impl FnMut(&'static str) -> Result<MapData, Error>,
    ) -> Result<Self, Error> {
        let [v4, v6, half_open] = settings.flows;
        let mut table = |name: &'static str, flows: u32, words: usize| {
            let bytes = flows as usize * words * size_of::<u64>();
            SharedMemory::map(open(name)?.fd(), bytes)
                .map_err(|e| fault(format!("map `{name}` cannot be mapped into memory ({bytes} bytes)"), e))
        };
        Ok(Self {
            established_v4: table(map::FLOWS_V4, v4, WORDS_V4)?,
            established_v6: table(map::FLOWS_V6, v6, WORDS_V6)?,
            half_open_v4: table(map::HALF_OPEN_V4, half_open, WORDS_V4)?,
            half_open_v6: table(map::HALF_OPEN_V6, half_open, WORDS_V6)?,
        })
    }

    /// Both tables of IPv4, established flows first.
    pub(super) fn tables_v4(&self) -> [&[Bucket<WORDS_V4>]; 2] {
        [buckets_of(&self.established_v4), buckets_of(&self.half_open_v4)]
    }

    /// Both tables of IPv6, likewise.
    pub(super) fn tables_v6(&self) -> [&[Bucket<WORDS_V6>]; 2] {
        [buckets_of(&self.established_v6), buckets_of(&self.half_open_v6)]
    }

    /// Every flow, up to `limit`, and how many there are in all.
    pub(super) fn list(&self, limit: usize, now: u32, tick_nanos: u64) -> (Vec<Flow>, u64) {
        let mut flows = Vec::new();
        let mut total = 0;
        let mut take = |words: &[u64]| {
            total += 1;
            if flows.len() < limit {
                flows.extend(describe(words, now, tick_nanos));
            }
        };
        for entry in self.tables_v4().into_iter().flatten().flatten() {
            if let Some(words) = copy(entry) {
                take(&words);
            }
        }
        for entry in self.tables_v6().into_iter().flatten().flatten() {
            if let Some(words) = copy(entry) {
                take(&words);
            }
        }
        (flows, total)
    }

    /// Retires what `rules` no longer allow and counts the rest.
    pub(super) fn sweep(&self, rules: &Rules, watch: &mut ClaimWatch) -> FlowCensus {
        let mut tally = Tally::default();
        for table in self.tables_v4() {
            tally.established_v4 += sweep_table(table, rules, watch, &mut tally.rest);
        }
        for table in self.tables_v6() {
            tally.established_v6 += sweep_table(table, rules, watch, &mut tally.rest);
        }
        watch.forget_before(rules.now);
        tally.into_census()
    }
}

fn buckets_of<const WORDS: usize>(memory: &SharedMemory) -> &[Bucket<WORDS>] {
    memory.words::<WORDS>().as_chunks().0
}

/// Counts of one sweep.
#[derive(Default)]
struct Tally {
    established_v4: u64,
    established_v6: u64,
    rest: Counts,
}

struct Counts {
    half_open: u64,
    retired: u64,
    active: Vec<u64>,
    closing: Vec<u64>,
}

impl Default for Counts {
    fn default() -> Self {
        let none = vec![0; MAX_BACKENDS as usize];
        Self { half_open: 0, retired: 0, active: none.clone(), closing: none }
    }
}

impl Tally {
    fn into_census(self) -> FlowCensus {
        let by_slot = |counts: Vec<u64>| (0..).zip(counts).filter(|(_, count)| *count > 0).collect();
        FlowCensus {
            established_v4: self.established_v4,
            established_v6: self.established_v6,
            half_open: self.rest.half_open,
            retired: self.rest.retired,
            active_by_slot: by_slot(self.rest.active),
            closing_by_slot: by_slot(self.rest.closing),
            ..FlowCensus::default()
        }
    }
}

/// Sweeps one table and returns how many flows past their first packet it keeps.
fn sweep_table<const WORDS: usize>(
    table: &[Bucket<WORDS>],
    rules: &Rules,
    watch: &mut ClaimWatch,
    counts: &mut Counts,
) -> u64 {
    let mut established = 0;
    for bucket in table {
        for way in 0..WAYS {
            match sweep_entry(bucket, way, rules, watch) {
                Swept::Nothing => {}
                Swept::Retired => counts.retired += 1,
                Swept::HalfOpen => counts.half_open += 1,
                Swept::Established { slot, closing } => {
                    established += 1;
                    let by_slot = if closing { &mut counts.closing } else { &mut counts.active };
                    if let Some(count) = by_slot.get_mut(usize::from(slot)) {
                        *count += 1;
                    }
                }
            }
        }
    }
    established
}

/// Buckets that hold this many flows.
pub(super) const fn buckets(flows: u32) -> u32 {
    flows / WAYS as u32
}

/// What a flow must satisfy to stay.
pub(super) struct Rules {
    /// Now, in ticks.
    pub(super) now: u32,
    /// Generation that flows to a slot must have.
    generations: Vec<u32>,
    /// Ticks an established flow of a service may be idle; 0 = no such service.
    established: Vec<u32>,
    new: u32,
    closing: u32,
    datagrams: u32,
    busy: u32,
}

impl Rules {
    /// Rules under which every flow is void: services and backends are still to be named.
    pub(super) fn new(settings: &Settings, now: u32) -> Self {
        Self {
            now,
            generations: vec![NOT_LIVE; MAX_BACKENDS as usize],
            established: vec![0; MAX_SERVICES as usize],
            new: settings.ticks(NEW_SECS),
            closing: settings.ticks(CLOSING_SECS),
            datagrams: settings.ticks(DATAGRAMS_SECS),
            busy: settings.ticks(BUSY_SECS),
        }
    }

    /// Flows to this slot count when they have this generation.
    pub(super) fn allow_backend(&mut self, slot: u16, generation: u16) {
        if let Some(place) = self.generations.get_mut(usize::from(slot)) {
            *place = u32::from(generation);
        }
    }

    /// Established flows of this service may be idle for so many ticks (at least one).
    pub(super) fn allow_service(&mut self, service: u16, idle_ticks: u32) {
        if let Some(place) = self.established.get_mut(usize::from(service)) {
            *place = idle_ticks.max(1);
        }
    }

    /// True when flows and persistence entries to this slot with this generation count.
    pub(super) fn backend_counts(&self, slot: u16, generation: u16) -> bool {
        self.generations.get(usize::from(slot)) == Some(&u32::from(generation))
    }

    /// True while something last seen at `last_seen` has not been idle for longer than `ticks`. The packet path
    /// writes the time only when it is [`TOUCH_TICKS`] old, so that much is added.
    pub(super) const fn is_fresh(&self, last_seen: u32, ticks: u32) -> bool {
        idle_ticks(self.now, last_seen) <= ticks.saturating_add(TOUCH_TICKS)
    }

    fn keeps(&self, control: Control, decision: Decision) -> bool {
        let Some(&established) =
            self.established.get(usize::from(decision.service())).filter(|&&ticks| ticks > 0)
        else {
            return false;
        };
        let limit = match State::from_u8(control.state()) {
            Some(State::New) => self.new,
            Some(State::Established) => established,
            Some(State::Closing | State::PeerClosing | State::Closed) => self.closing,
            Some(State::Datagrams) => self.datagrams,
            Some(State::Free | State::Busy | State::Moving) | None => return false,
        };
        self.backend_counts(decision.slot(), decision.generation())
            && self.is_fresh(control.last_seen(), limit)
    }
}

/// Claims that stood at an earlier sweep: where (the address of the control word), what it was, and since when.
#[derive(Default)]
pub(super) struct ClaimWatch(HashMap<usize, Claim>);

struct Claim {
    control: u64,
    since: u32,
    seen: u32,
}

impl ClaimWatch {
    /// True when this very claim has stood for as long as the rules allow.
    fn is_dead(&mut self, place: usize, control: Control, rules: &Rules) -> bool {
        let claim =
            self.0.entry(place).or_insert(Claim { control: control.0, since: rules.now, seen: rules.now });
        if claim.control != control.0 {
            (claim.control, claim.since) = (control.0, rules.now);
        }
        claim.seen = rules.now;
        idle_ticks(rules.now, claim.since) > rules.busy
    }

    /// Forgets claims that were not met again in the sweep at `now`.
    fn forget_before(&mut self, now: u32) {
        self.0.retain(|_, claim| claim.seen == now);
    }
}

enum Swept {
    Nothing,
    Retired,
    HalfOpen,
    Established { slot: u16, closing: bool },
}

fn sweep_entry<const WORDS: usize>(
    bucket: &Bucket<WORDS>,
    way: usize,
    rules: &Rules,
    watch: &mut ClaimWatch,
) -> Swept {
    let entry = &bucket[way];
    let control = Control(entry[0].load());
    if control.state() == State::Free as u8 {
        return Swept::Nothing;
    }
    if control.state() == State::Busy as u8 {
        let place = std::ptr::from_ref(&entry[0]).addr();
        let claim = Hit { way, control, decision: 0 };
        return if watch.is_dead(place, control, rules) && retire(bucket, &claim) {
            Swept::Retired
        } else {
            Swept::Nothing
        };
    }
    let Some(words) = copy(entry) else {
        // It changed hands meanwhile: a flow too young to be judged.
        return Swept::Nothing;
    };
    let hit = Hit { way, control: Control(words[0]), decision: words[decision_word(WORDS)] };
    let decision = Decision(hit.decision);
    if !rules.keeps(hit.control, decision) && retire(bucket, &hit) {
        return Swept::Retired;
    }
    if hit.control.state() == State::New as u8 {
        Swept::HalfOpen
    } else {
        Swept::Established { slot: decision.slot(), closing: hit.control.state() == State::Closing as u8 }
    }
}

/// Which word of an entry holds the decision.
const fn decision_word(words: usize) -> usize {
    if words == WORDS_V6 { 6 } else { 3 }
}

/// A flow for people, from a copy of its entry; `None` for an entry that no build writes.
fn describe(words: &[u64], now: u32, tick_nanos: u64) -> Option<Flow> {
    let control = Control(words[0]);
    let decision = Decision(words[decision_word(words.len())]);
    let (client, vip, ports): (IpAddr, IpAddr, u64) = if words.len() == WORDS_V6 {
        (ip6([words[1], words[2]]).into(), ip6([words[3], words[4]]).into(), words[5])
    } else {
        let (client, vip) = (words[1] as u32, (words[1] >> 32) as u32);
        (ip4(client).into(), ip4(vip).into(), words[2])
    };
    let (client_port, vip_port, protocol) = ports_of(ports);
    let protocol = match i32::from(protocol) {
        libc::IPPROTO_TCP => Protocol::Tcp,
        libc::IPPROTO_UDP => Protocol::Udp,
        _ => return None,
    };
    Some(Flow {
        client: (client, host_port(client_port)),
        vip: (vip, host_port(vip_port)),
        protocol,
        state: State::from_u8(control.state())?,
        service: decision.service(),
        slot: decision.slot(),
        generation: decision.generation(),
        idle_millis: u64::from(idle_ticks(now, control.last_seen())) * tick_nanos / 1_000_000,
    })
}

/// Ticks since `last_seen`; 0 for a packet that came after the clock was read.
const fn idle_ticks(now: u32, last_seen: u32) -> u32 {
    let idle = now.wrapping_sub(last_seen);
    if idle > u32::MAX / 2 { 0 } else { idle }
}

#[cfg(test)]
mod tests {
    use std::array::from_fn;

    use lb_common::{flow::Ends, service::mode};

    use super::*;

    const SETTINGS: Settings = Settings {
        abi_version: 1,
        hz: 1000,
        flow_seed: 0,
        flows: [0; 3],
        // 128 ms.
        tick_shift: 7,
    };
    const WAY: usize = 2;
    const SLOT: u16 = 5;
    const SERVICE: u16 = 2;
    const GENERATION: u16 = 9;

    fn rules(now: u32) -> Rules {
        let mut rules = Rules::new(&SETTINGS, now);
        rules.allow_backend(SLOT, GENERATION);
        rules.allow_service(SERVICE, SETTINGS.ticks(3600));
        rules
    }

    /// A bucket with one flow, in way 2.
    fn bucket(state: State, last_seen: u32, decision: Decision) -> Bucket<WORDS_V4> {
        let bucket: Bucket<WORDS_V4> = from_fn(|_| from_fn(|_| SharedWord::new(0)));
        let ends = Ends::between(([10, 0, 0, 1], 40_000).into(), ([10, 12, 1, 100], 104).into(), 6);
        let [addrs, ports] = ends.key_v4();
        let words = [Control::new(7, 3, state, last_seen).0, addrs, ports, decision.0];
        for (word, value) in bucket[WAY].iter().zip(words) {
            word.store(value);
        }
        bucket
    }

    const fn ours() -> Decision {
        Decision::new(mode::DR, SERVICE, SLOT, GENERATION)
    }

    fn control(bucket: &Bucket<WORDS_V4>) -> Control {
        Control(bucket[WAY][0].load())
    }

    fn is_retired(bucket: &Bucket<WORDS_V4>, rules: &Rules) -> bool {
        let swept = sweep_entry(bucket, WAY, rules, &mut ClaimWatch::default());
        let retired = matches!(swept, Swept::Retired);
        assert_eq!(retired, control(bucket).state() == State::Free as u8);
        retired
    }

    #[test]
    fn each_state_is_retired_past_its_own_time_and_not_before() {
        for (state, secs) in [
            (State::New, NEW_SECS),
            (State::Established, 3600),
            (State::Closing, CLOSING_SECS),
            (State::Datagrams, DATAGRAMS_SECS),
        ] {
            // Time wraps in the middle, as it does after 17 years.
            let seen = u32::MAX - 10;
            let last = seen.wrapping_add(SETTINGS.ticks(secs) + TOUCH_TICKS);
            assert!(!is_retired(&bucket(state, seen, ours()), &rules(last)), "{state:?}");
            let past = rules(last.wrapping_add(1));
            assert!(is_retired(&bucket(state, seen, ours()), &past), "{state:?}");
        }
    }

    #[test]
    fn a_flow_goes_at_once_when_its_server_or_service_no_longer_counts() {
        for decision in [
            Decision::new(mode::DR, SERVICE, SLOT, GENERATION - 1),
            Decision::new(mode::DR, SERVICE, SLOT + 1, 0),
            Decision::new(mode::DR, SERVICE + 1, SLOT, GENERATION),
            Decision::new(mode::DR, u16::MAX, u16::MAX, u16::MAX),
        ] {
            let bucket = bucket(State::Established, 100, decision);
            assert!(is_retired(&bucket, &rules(100)), "{decision:?}");
        }
    }

    #[test]
    fn a_packet_that_comes_after_the_clock_was_read_keeps_its_flow() {
        assert!(!is_retired(&bucket(State::New, 105, ours()), &rules(100)));
    }

    #[test]
    fn a_claim_is_freed_only_when_the_same_one_stands_from_sweep_to_sweep() {
        let bucket = bucket(State::Busy, 0, ours());
        let mut watch = ClaimWatch::default();
        let later = 1000 + SETTINGS.ticks(BUSY_SECS) + 1;
        let sweep = |now, watch: &mut ClaimWatch| {
            let swept = sweep_entry(&bucket, WAY, &rules(now), watch);
            watch.forget_before(now);
            matches!(swept, Swept::Retired)
        };
        assert!(!sweep(1000, &mut watch));
        // The entry was claimed anew in between.
        bucket[WAY][0].store(Control::new(8, 3, State::Busy, 0).0);
        assert!(!sweep(later, &mut watch));
        assert!(!sweep(later + 1, &mut watch));
        assert!(sweep(later + SETTINGS.ticks(BUSY_SECS) + 1, &mut watch));
    }

    #[test]
    fn a_sweep_counts_what_it_keeps() {
        let table = [
            bucket(State::Established, 100, ours()),
            bucket(State::Closing, 100, ours()),
            bucket(State::Datagrams, 100, ours()),
            bucket(State::New, 100, ours()),
            bucket(State::New, 100, Decision::new(mode::DR, SERVICE, SLOT, 0)),
            bucket(State::Free, 100, ours()),
        ];
        let mut counts = Counts::default();
        let established = sweep_table(&table, &rules(100), &mut ClaimWatch::default(), &mut counts);
        assert_eq!((established, counts.half_open, counts.retired), (3, 1, 1));
        let by_slot = [&counts.active, &counts.closing];
        assert_eq!(by_slot.map(|counts| counts[usize::from(SLOT)]), [2, 1]);
        assert_eq!(by_slot.map(|counts| counts.iter().sum::<u64>()), [2, 1]);
    }

    #[test]
    fn a_flow_is_described_as_people_write_it() {
        let bucket = bucket(State::Established, 100, ours());
        let words = copy(&bucket[WAY]).unwrap();
        assert_eq!(
            describe(&words, 110, SETTINGS.tick_nanos()),
            Some(Flow {
                client: ([10, 0, 0, 1].into(), 40_000),
                vip: ([10, 12, 1, 100].into(), 104),
                protocol: Protocol::Tcp,
                state: State::Established,
                service: SERVICE,
                slot: SLOT,
                generation: GENERATION,
                idle_millis: 1280,
            })
        );
    }
}
