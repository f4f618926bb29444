//! What program and model remember, side by side.

use std::{collections::BTreeMap, fmt, net::SocketAddr};

use lb_common::{
    flow::{
        self, Control, Decision, Ends, Hop, KEY_V4, KEY_V6, REWRITE_V4, REWRITE_V6, State, WORDS_V4,
        WORDS_V6, kind,
    },
    fragment::{FragmentEntry, FragmentKey},
    limits::map,
    load::{Limits, Load},
    net::{host_port, ip4, ip6},
    persist::{PersistEntry, PersistKey},
};

use super::{bench::Bench, dut::Dut};
use crate::model::{
    Busy, PersistId, Persisted,
    flows::{Choice, Entry, Rewrite},
    fragments::{Remembered, Whole, without_ports},
    parse::Flow,
};

impl Bench {
    /// Compares every remembered flow, persistence entry and fragmented datagram.
    ///
    /// # Errors
    ///
    /// What only one side remembers.
    pub fn compare_memory(&mut self) -> Result<(), String> {
        let now = self.model.now;
        for (name, table) in [
            (map::FLOWS_V4, &self.model.established[0]),
            (map::FLOWS_V6, &self.model.established[1]),
            (map::HALF_OPEN_V4, &self.model.half_open[0]),
            (map::HALF_OPEN_V6, &self.model.half_open[1]),
        ] {
            let is: BTreeMap<Flow, Entry> =
                entries(&self.dut, name, now).into_iter().map(|entry| (entry.flow, entry)).collect();
            let want = table.entries().map(|entry| (entry.flow, *entry)).collect();
            differences(name, &is, &want)?;
        }
        for (name, is, want) in [
            (map::PERSIST, self.dut.persisted(), &self.model.persisted),
            (map::PERSIST_NEW, self.dut.persisted_new(), &self.model.persisted_new),
        ] {
            let is = is.into_iter().map(|(key, PersistEntry { slot, generation, last_seen })| {
                (persist_id(&key), Persisted { slot, generation, last_seen: then(now, last_seen) })
            });
            differences(name, &is.collect(), want)?;
        }
        let is = self.model.loads.keys().map(|&slot| {
            let load = self.dut.load_of(slot);
            let limits = Limits::of(load.limits);
            let Load { active, full, syn_repeats, .. } = load;
            (slot, Busy { active: active as i64, limits, full: full != 0, syn_repeats })
        });
        differences("loads", &is.collect(), &self.model.loads)?;
        let is = self.dut.fragments().into_iter().map(|(key, entry)| datagram(&key, &entry, now)).collect();
        let want = self.model.fragments.iter().map(|(whole, kept)| {
            let rewrite = kept.rewrite.map(|rewrite| without_ports(rewrite, whole.3));
            (*whole, Remembered { rewrite, ..*kept })
        });
        differences("fragments", &is, &want.collect())
    }

    /// Compares everything: counters and memory.
    ///
    /// # Panics
    ///
    /// With what differs.
    pub fn agree(&mut self) {
        self.compare()
            .and_then(|()| self.compare_memory())
            .unwrap_or_else(|difference| panic!("{difference}"));
    }

    /// The program's entries of all tables, half-open ones over established ones.
    #[must_use]
    pub fn remembered(&self) -> BTreeMap<Flow, Entry> {
        let now = self.model.now;
        [map::FLOWS_V4, map::FLOWS_V6, map::HALF_OPEN_V4, map::HALF_OPEN_V6]
            .iter()
            .flat_map(|name| entries(&self.dut, name, now))
            .map(|entry| (entry.flow, entry))
            .collect()
    }
}

fn differences<K: Ord + fmt::Debug, V: PartialEq + fmt::Debug>(
    name: &str,
    is: &BTreeMap<K, V>,
    want: &BTreeMap<K, V>,
) -> Result<(), String> {
    let extra: Vec<_> = is.iter().filter(|(key, value)| want.get(key) != Some(value)).collect();
    let missing: Vec<_> = want.iter().filter(|(key, value)| is.get(key) != Some(value)).collect();
    if extra.is_empty() && missing.is_empty() {
        return Ok(());
    }
    Err(format!("{name}: the program has {extra:?}\nthe model has {missing:?}"))
}

/// The model's time for a tick of the program, whose clock stands at 0 while its entries grow older.
fn then(now: u64, last_seen: u32) -> u64 {
    now - u64::from(0u32.wrapping_sub(last_seen))
}

/// The live entries of a flow table, in the model's terms; `now` is its time.
///
/// # Panics
///
/// When there is no flow table with this name, or an entry has a state that no build writes.
#[must_use]
pub fn entries(dut: &Dut, name: &str, now: u64) -> Vec<Entry> {
    match name {
        map::FLOWS_V4 | map::HALF_OPEN_V4 => {
            dut.entries_v4(name).iter().map(|words| entry_v4(words, now)).collect()
        }
        map::FLOWS_V6 | map::HALF_OPEN_V6 => {
            dut.entries_v6(name).iter().map(|words| entry_v6(words, now)).collect()
        }
        other => panic!("{other} is no flow table"),
    }
}

fn entry_v4(words: &[u64; WORDS_V4], now: u64) -> Entry {
    let [control, a, b, decision, rest @ ..] = *words;
    let key: [u64; KEY_V4] = [a, b];
    let rest: [u64; REWRITE_V4] = rest;
    let rewrite = (rest != [0; REWRITE_V4]).then(|| flow::Rewrite::of_v4(&rest));
    entry(control, &Ends::of_v4(&key), decision, rewrite, now)
}

fn entry_v6(words: &[u64; WORDS_V6], now: u64) -> Entry {
    let [control, a, b, c, d, e, decision, rest @ .., _, _] = *words;
    let key: [u64; KEY_V6] = [a, b, c, d, e];
    let rest: [u64; REWRITE_V6] = rest;
    let rewrite = (rest != [0; REWRITE_V6]).then(|| flow::Rewrite::of_v6(&rest));
    entry(control, &Ends::of_v6(&key), decision, rewrite, now)
}

fn entry(control: u64, ends: &Ends, decision: u64, rewrite: Option<flow::Rewrite>, now: u64) -> Entry {
    let control = Control(control);
    let choice = choice_of(decision);
    // Under direct routing nobody looks at these words, which may be an older flow's.
    let rewrite = rewrite.filter(|_| choice.kind != kind::DR);
    Entry {
        flow: flow_of(ends),
        choice,
        rewrite: rewrite.map(|new| Rewrite { flow: flow_of(&new.applied(ends)), hop: new.hop() }),
        state: State::from_u8(control.state()).expect("a live entry has a state"),
        last_seen: then(now, control.last_seen()),
    }
}

const fn choice_of(decision: u64) -> Choice {
    let decision = Decision(decision);
    Choice {
        kind: decision.kind(),
        service: decision.service(),
        slot: decision.slot(),
        generation: decision.generation(),
    }
}

/// The five-tuple that these ends are.
#[must_use]
pub fn flow_of(ends: &Ends) -> Flow {
    let at = |addr: [u64; 2], port| {
        let ip = if ends.family == 4 { ip4(addr[0] as u32).into() } else { ip6(addr).into() };
        SocketAddr::new(ip, host_port(port))
    };
    Flow { src: at(ends.src, ends.src_port()), dst: at(ends.dst, ends.dst_port()), proto: ends.proto }
}

fn persist_id(key: &PersistKey) -> PersistId {
    let client = if key.family == 4 { ip4(key.client[0] as u32).into() } else { ip6(key.client).into() };
    (key.group, client)
}

fn datagram(key: &FragmentKey, entry: &FragmentEntry, now: u64) -> (Whole, Remembered) {
    let FragmentKey { src, dst, id, proto, family, .. } = *key;
    let ends = Ends { src, dst, ports: 0, proto, family };
    let flow = flow_of(&ends);
    // Identifications are kept as they stand in the packet.
    let id = if family == 4 { u16::from_be(id as u16).into() } else { u32::from_be(id) };
    let choice = (entry.decision != 0).then(|| choice_of(entry.decision));
    let rewrite = choice.is_some_and(|choice| choice.kind != kind::DR).then(|| Rewrite {
        flow: flow_of(&Ends { src: entry.src, dst: entry.dst, ..ends }),
        hop: Hop::of(entry.hop),
    });
    ((flow.src.ip(), flow.dst.ip(), id, proto), Remembered { choice, rewrite, seen: then(now, entry.seen) })
}
