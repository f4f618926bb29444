//! The flow tables as memory: read, counted and swept without a system call per entry.
//!
//! Retiring follows the rule of the packet path (`lb-ebpf`, `flow_table`): while an entry is published, its control
//! word is the only one that changes, and it changes by compare-and-swap. A swap to `Free` that succeeds therefore
//! retires exactly the entry that was looked at; one that fails lost to a packet, and the entry stays.
#![forbid(unsafe_code)]

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::atomic::{AtomicU64, Ordering},
};

use aya::maps::MapData;
use lb_common::{
    flow::{Control, Decision, State, WAYS, WORDS_V4, WORDS_V6, ports_of},
    limits::{MAX_BACKENDS, MAX_SERVICES, map},
    net::{host_port, ip4, ip6},
    settings::Settings,
};

use super::{Error, fault, sys::SharedWords};
use crate::{
    dataplane::{Flow, FlowCensus},
    model::config::Protocol,
};

/// First packet seen and none since. A handshake that is alive repeats its SYN after 1, 3, 7 and 15 s (RFC 6298
/// backoff), so a flow that has been silent for longer than the longest of these gaps is given up; should it come
/// back, the look-up table sends it to the same server.
const NEW_SECS: u32 = 30;
/// The client sent FIN. The server may still be sending, which shows here as the client's acknowledgements;
/// silence for twice the maximum segment lifetime (RFC 9293, 3.4.2) ends it.
const CLOSING_SECS: u32 = 120;
/// UDP has no end to see. Two minutes is the least that RFC 4787 (4.3) asks of anything that keeps UDP state.
const DATAGRAMS_SECS: u32 = 120;
/// The packet path writes the time of a flow's last packet at most once per second.
const LAST_SEEN_SLACK_SECS: u32 = 1;
/// A claim takes the packet path less than a microsecond. One that still stands, unchanged, after this long
/// belongs to a program that is gone.
const BUSY_SECS: u32 = 10;

/// No generation: nothing is forwarded to the slot.
const NOT_LIVE: u32 = u32::MAX;

/// The four flow tables.
pub(super) struct FlowTables {
    tables: [FlowTable; 4],
}

struct FlowTable {
    words: SharedWords,
    words_per_entry: usize,
}

impl FlowTable {
    fn entries(&self) -> impl Iterator<Item = &[AtomicU64]> {
        self.words.words().chunks_exact(self.words_per_entry)
    }
}

impl FlowTables {
    /// Maps the tables. `open` gives the map of a name; the sizes are those it was created with.
    pub(super) fn map(
        settings: &Settings,
        mut open: impl FnMut(&'static str) -> Result<MapData, Error>,
    ) -> Result<Self, Error> {
        let [v4, v6, half_open] = settings.flows;
        let mut table =
            |name: &'static str, flows: u32, words_per_entry: usize| -> Result<FlowTable, Error> {
                let data = open(name)?;
                let bytes = flows as usize * words_per_entry * size_of::<u64>();
                let words = SharedWords::map(data.fd(), bytes).map_err(|e| {
                    fault(
                        format!("map `{name}` cannot be mapped into memory ({bytes} bytes)"),
                        e,
                    )
                })?;
                Ok(FlowTable {
                    words,
                    words_per_entry,
                })
            };
        Ok(Self {
            tables: [
                table(map::FLOWS_V4, v4, WORDS_V4)?,
                table(map::FLOWS_V6, v6, WORDS_V6)?,
                table(map::HALF_OPEN_V4, half_open, WORDS_V4)?,
                table(map::HALF_OPEN_V6, half_open, WORDS_V6)?,
            ],
        })
    }

    /// Every flow, up to `limit`, and how many there are in all.
    pub(super) fn list(&self, limit: usize, now: u32, tick_nanos: u64) -> (Vec<Flow>, u64) {
        let mut flows = Vec::new();
        let mut total = 0;
        for table in &self.tables {
            for entry in table.entries() {
                if !control(entry).is_live() {
                    continue;
                }
                total += 1;
                if flows.len() < limit
                    && let Some((control, words)) = copy(entry)
                    && let Some(flow) = describe(control, &words[..entry.len()], now, tick_nanos)
                {
                    flows.push(flow);
                }
            }
        }
        (flows, total)
    }

    /// Retires what `rules` no longer allow and counts the rest.
    pub(super) fn sweep(&self, rules: &Rules, watch: &mut ClaimWatch) -> FlowCensus {
        let mut census = FlowCensus::default();
        let mut by_slot = vec![0u64; MAX_BACKENDS as usize];
        for (number, table) in self.tables.iter().enumerate() {
            let v6 = table.words_per_entry == WORDS_V6;
            for (index, entry) in table.entries().enumerate() {
                let established = match sweep_entry(entry, rules, watch, (number, index)) {
                    Swept::Nothing => continue,
                    Swept::Retired => {
                        census.retired += 1;
                        continue;
                    }
                    Swept::HalfOpen => {
                        census.half_open += 1;
                        continue;
                    }
                    Swept::Established(decision) => decision,
                };
                if v6 {
                    census.established_v6 += 1;
                } else {
                    census.established_v4 += 1;
                }
                if let Some(count) = by_slot.get_mut(usize::from(established.slot())) {
                    *count += 1;
                }
            }
        }
        watch.forget_before(rules.now);
        census.by_slot = (0..).zip(by_slot).filter(|(_, count)| *count > 0).collect();
        census
    }
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
    slack: u32,
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
            slack: settings.ticks(LAST_SEEN_SLACK_SECS),
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

    /// True while something last seen at `last_seen` may still be idle under a limit of `ticks`.
    pub(super) const fn is_fresh(&self, last_seen: u32, ticks: u32) -> bool {
        idle_ticks(self.now, last_seen) <= ticks.saturating_add(self.slack)
    }

    fn keeps(&self, control: Control, decision: Decision) -> bool {
        let Some(&established) = self
            .established
            .get(usize::from(decision.service()))
            .filter(|&&ticks| ticks > 0)
        else {
            return false;
        };
        let limit = match State::from_u8(control.state()) {
            Some(State::New) => self.new,
            Some(State::Established) => established,
            Some(State::Closing) => self.closing,
            Some(State::Datagrams) => self.datagrams,
            Some(State::Free | State::Busy) | None => return false,
        };
        self.backend_counts(decision.slot(), decision.generation())
            && self.is_fresh(control.last_seen(), limit)
    }
}

/// Claims that stood at an earlier sweep: where, what the control word was, and since when.
#[derive(Default)]
pub(super) struct ClaimWatch(HashMap<(usize, usize), Claim>);

struct Claim {
    control: u64,
    since: u32,
    seen: u32,
}

impl ClaimWatch {
    /// True when this very claim has stood for as long as the rules allow.
    fn is_dead(&mut self, place: (usize, usize), control: Control, rules: &Rules) -> bool {
        let claim = self.0.entry(place).or_insert(Claim {
            control: control.0,
            since: rules.now,
            seen: rules.now,
        });
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
    Established(Decision),
}

fn sweep_entry(entry: &[AtomicU64], rules: &Rules, watch: &mut ClaimWatch, place: (usize, usize)) -> Swept {
    let control = control(entry);
    if control.state() == State::Free as u8 {
        return Swept::Nothing;
    }
    if control.state() == State::Busy as u8 {
        let dead = watch.is_dead(place, control, rules);
        return if dead && retire(entry, control) {
            Swept::Retired
        } else {
            Swept::Nothing
        };
    }
    let decision = Decision(entry[decision_word(entry)].load(Ordering::Acquire));
    if !rules.keeps(control, decision) && retire(entry, control) {
        return Swept::Retired;
    }
    if control.state() == State::New as u8 {
        Swept::HalfOpen
    } else {
        Swept::Established(decision)
    }
}

/// Frees an entry, unless it changed since `seen`.
fn retire(entry: &[AtomicU64], seen: Control) -> bool {
    let freed = seen.with(State::Free, seen.last_seen());
    entry[0]
        .compare_exchange(seen.0, freed.0, Ordering::AcqRel, Ordering::Relaxed)
        .is_ok()
}

fn control(entry: &[AtomicU64]) -> Control {
    Control(entry[0].load(Ordering::Acquire))
}

const fn decision_word(entry: &[AtomicU64]) -> usize {
    if entry.len() == WORDS_V6 { 6 } else { 3 }
}

/// A copy of one flow and not of halves of two, or `None` when it changed hands meanwhile.
fn copy(entry: &[AtomicU64]) -> Option<(Control, [u64; WORDS_V6])> {
    let before = control(entry);
    let mut words = [0; WORDS_V6];
    for (word, source) in words.iter_mut().zip(entry) {
        *word = source.load(Ordering::Acquire);
    }
    let after = control(entry);
    (after.is_live() && before.is_live() && before.seq() == after.seq()).then_some((after, words))
}

/// A flow for people; `None` for an entry that no build writes.
fn describe(control: Control, words: &[u64], now: u32, tick_nanos: u64) -> Option<Flow> {
    let (client, vip, ports, decision): (IpAddr, IpAddr, u64, u64) = if words.len() == WORDS_V6 {
        (
            ip6([words[1], words[2]]).into(),
            ip6([words[3], words[4]]).into(),
            words[5],
            words[6],
        )
    } else {
        let (client, vip) = (words[1] as u32, (words[1] >> 32) as u32);
        (ip4(client).into(), ip4(vip).into(), words[2], words[3])
    };
    let (client_port, vip_port, protocol) = ports_of(ports);
    let protocol = match i32::from(protocol) {
        libc::IPPROTO_TCP => Protocol::Tcp,
        libc::IPPROTO_UDP => Protocol::Udp,
        _ => return None,
    };
    let decision = Decision(decision);
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
    use lb_common::{
        flow::{addrs_word4, ports_word},
        net::{addr4, wire_port},
        service::mode,
    };

    use super::*;

    const SETTINGS: Settings = Settings {
        abi_version: 1,
        hz: 1000,
        flow_seed: 0,
        flows: [0; 3],
        // 128 ms.
        tick_shift: 7,
    };
    const SLOT: u16 = 5;
    const SERVICE: u16 = 2;
    const GENERATION: u16 = 9;

    fn rules(now: u32) -> Rules {
        let mut rules = Rules::new(&SETTINGS, now);
        rules.allow_backend(SLOT, GENERATION);
        rules.allow_service(SERVICE, SETTINGS.ticks(3600));
        rules
    }

    fn entry(state: State, last_seen: u32, decision: Decision) -> [AtomicU64; WORDS_V4] {
        let client = addr4([10, 0, 0, 1].into());
        let vip = addr4([10, 12, 1, 100].into());
        [
            Control::new(7, 3, state, last_seen).0,
            addrs_word4(client, vip),
            ports_word(wire_port(40_000), wire_port(104), 6),
            decision.0,
            0,
            0,
            0,
            0,
        ]
        .map(AtomicU64::new)
    }

    const fn ours() -> Decision {
        Decision::new(mode::DR, SERVICE, SLOT, GENERATION)
    }

    fn is_retired(entry: &[AtomicU64], rules: &Rules) -> bool {
        let swept = sweep_entry(entry, rules, &mut ClaimWatch::default(), (0, 0));
        let retired = matches!(swept, Swept::Retired);
        assert_eq!(retired, control(entry).state() == State::Free as u8);
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
            let last = seen.wrapping_add(SETTINGS.ticks(secs) + SETTINGS.ticks(LAST_SEEN_SLACK_SECS));
            assert!(
                !is_retired(&entry(state, seen, ours()), &rules(last)),
                "{state:?}"
            );
            assert!(
                is_retired(&entry(state, seen, ours()), &rules(last.wrapping_add(1))),
                "{state:?}"
            );
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
            assert!(is_retired(&entry(State::Established, 100, decision), &rules(100)));
        }
    }

    #[test]
    fn a_packet_that_comes_after_the_clock_was_read_keeps_its_flow() {
        assert!(!is_retired(&entry(State::New, 105, ours()), &rules(100)));
    }

    #[test]
    fn a_flow_that_a_packet_touched_meanwhile_is_not_retired() {
        let entry = entry(State::New, 100, ours());
        let seen = control(&entry);
        entry[0].store(seen.with(State::Established, 100_000).0, Ordering::Release);
        assert!(!retire(&entry, seen));
        assert!(control(&entry).is_live());
    }

    #[test]
    fn retiring_keeps_the_claim_counter() {
        let entry = entry(State::New, 100, ours());
        assert!(retire(&entry, control(&entry)));
        let freed = control(&entry);
        assert_eq!(
            (freed.seq(), freed.tag(), freed.state()),
            (7, 3, State::Free as u8)
        );
    }

    #[test]
    fn a_claim_is_freed_only_when_the_same_one_stands_from_sweep_to_sweep() {
        let entry = entry(State::Busy, 0, ours());
        let mut watch = ClaimWatch::default();
        let later = 1000 + SETTINGS.ticks(BUSY_SECS) + 1;
        let sweep = |now, watch: &mut ClaimWatch| {
            let swept = sweep_entry(&entry, &rules(now), watch, (0, 0));
            watch.forget_before(now);
            matches!(swept, Swept::Retired)
        };
        assert!(!sweep(1000, &mut watch));
        // The entry was claimed anew in between.
        entry[0].store(Control::new(8, 3, State::Busy, 0).0, Ordering::Release);
        assert!(!sweep(later, &mut watch));
        assert!(!sweep(later + 1, &mut watch));
        assert!(sweep(later + SETTINGS.ticks(BUSY_SECS) + 1, &mut watch));
    }

    #[test]
    fn a_flow_is_described_as_people_write_it() {
        let entry = entry(State::Established, 100, ours());
        let (control, words) = copy(&entry).unwrap();
        let flow = describe(control, &words[..WORDS_V4], 110, SETTINGS.tick_nanos()).unwrap();
        assert_eq!(
            flow,
            Flow {
                client: ([10, 0, 0, 1].into(), 40_000),
                vip: ([10, 12, 1, 100].into(), 104),
                protocol: Protocol::Tcp,
                state: State::Established,
                service: SERVICE,
                slot: SLOT,
                generation: GENERATION,
                idle_millis: 1280,
            }
        );
    }
}
