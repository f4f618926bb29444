//! What the loaded program counts and remembers, and how time passes for it.

use std::collections::{BTreeMap, BTreeSet};

use aya::maps::{MapData, PerCpuArray, RingBuf};
use lb_common::{
    counter::{BackendTraffic, Reason, ServiceTraffic},
    event::{Event, EventKind},
    flow::{Bucket4, Bucket6, Control, Decision, Ends, VOID_GENERATION, WORDS_V4, WORDS_V6},
    fragment::{FragmentEntry, FragmentKey},
    limits::map,
    persist::{PersistEntry, PersistKey},
};
use zerocopy::FromBytes as _;

use super::{compare::flow_of, dut::Dut};
use crate::model::parse::Flow;

impl Dut {
    /// Sums of a service's counters over the CPUs.
    pub fn service_traffic(&mut self, service: u16) -> ServiceTraffic {
        let map: PerCpuArray<&MapData, ServiceTraffic> =
            self.ebpf.map(map::SERVICE_TRAFFIC).unwrap().try_into().unwrap();
        let mut sum = ServiceTraffic::default();
        for cpu in map.get(&u32::from(service), 0).unwrap().iter() {
            sum.flows += cpu.flows;
        }
        sum
    }

    /// Sums of a backend's counters over the CPUs.
    pub fn backend_traffic(&mut self, slot: u16) -> BackendTraffic {
        let map: PerCpuArray<&MapData, BackendTraffic> =
            self.ebpf.map(map::BACKEND_TRAFFIC).unwrap().try_into().unwrap();
        let mut sum = BackendTraffic::default();
        for cpu in map.get(&u32::from(slot), 0).unwrap().iter() {
            sum.packets += cpu.packets;
            sum.bytes += cpu.bytes;
        }
        sum
    }

    /// Sums of the reason counters that are not zero.
    pub fn reasons(&mut self) -> BTreeMap<Reason, u64> {
        let map: PerCpuArray<&MapData, u64> = self.ebpf.map(map::REASONS).unwrap().try_into().unwrap();
        Reason::ALL
            .iter()
            .map(|&reason| (reason, map.get(&(reason as u32), 0).unwrap().iter().sum()))
            .filter(|&(_, count)| count != 0)
            .collect()
    }

    /// Events since the last call.
    pub fn events(&mut self) -> Vec<Event> {
        let mut ring: RingBuf<&mut MapData> = self.ebpf.map_mut(map::EVENTS).unwrap().try_into().unwrap();
        let mut events = Vec::new();
        while let Some(item) = ring.next() {
            events.push(Event::read_from_bytes(&item).unwrap());
        }
        events
    }

    /// Persistence entries.
    pub fn persisted(&mut self) -> Vec<(PersistKey, PersistEntry)> {
        self.hash::<PersistKey, PersistEntry>(map::PERSIST).iter().map(Result::unwrap).collect()
    }

    /// Persistence entries of clients that have not proved themselves.
    pub fn persisted_new(&mut self) -> Vec<(PersistKey, PersistEntry)> {
        self.hash::<PersistKey, PersistEntry>(map::PERSIST_NEW).iter().map(Result::unwrap).collect()
    }

    /// Datagrams whose first fragment was seen.
    pub fn fragments(&mut self) -> Vec<(FragmentKey, FragmentEntry)> {
        self.hash::<FragmentKey, FragmentEntry>(map::FRAGMENTS).iter().map(Result::unwrap).collect()
    }

    /// Lets events and ICMP errors of this tick be sent again: one of each kind per tick is the rule, and the clock may
    /// stand.
    pub fn forget_ticks(&mut self) {
        for (name, kinds) in [(map::EVENT_TICKS, EventKind::COUNT), ("TELL_TICKS", 1)] {
            let mut map: PerCpuArray<&mut MapData, u64> =
                self.ebpf.map_mut(name).unwrap().try_into().unwrap();
            for kind in 0..kinds {
                let cpus = map.get(&kind, 0).unwrap().iter().map(|_| 0).collect::<Vec<u64>>();
                map.set(kind, cpus.try_into().unwrap(), 0).unwrap();
            }
        }
    }

    /// Every entry of a table of IPv4 flows (`map::FLOWS_V4`, `map::HALF_OPEN_V4`), bucket by bucket.
    #[must_use]
    pub fn words_v4(&self, name: &str) -> Vec<[u64; WORDS_V4]> {
        self.read::<Bucket4>(name).iter().flat_map(|bucket| bucket.unwrap().0).collect()
    }

    /// Every entry of a table of IPv6 flows (`map::FLOWS_V6`, `map::HALF_OPEN_V6`), bucket by bucket.
    #[must_use]
    pub fn words_v6(&self, name: &str) -> Vec<[u64; WORDS_V6]> {
        self.read::<Bucket6>(name).iter().flat_map(|bucket| bucket.unwrap().0).collect()
    }

    /// Live entries of a table of IPv4 flows.
    #[must_use]
    pub fn entries_v4(&self, name: &str) -> Vec<[u64; WORDS_V4]> {
        let mut words = self.words_v4(name);
        words.retain(|entry| Control(entry[0]).is_live());
        words
    }

    /// Live entries of a table of IPv6 flows.
    #[must_use]
    pub fn entries_v6(&self, name: &str) -> Vec<[u64; WORDS_V6]> {
        let mut words = self.words_v6(name);
        words.retain(|entry| Control(entry[0]).is_live());
        words
    }

    /// Writes every control word of a table of IPv4 flows anew.
    pub fn set_controls_v4(&mut self, name: &str, new: impl Fn(Control) -> Control) {
        let mut map = self.array::<Bucket4>(name);
        for i in 0..map.len() {
            let mut bucket = map.get(&i, 0).unwrap();
            bucket.0.iter_mut().for_each(|words| words[0] = new(Control(words[0])).0);
            map.set(i, bucket, 0).unwrap();
        }
    }

    /// Ends these flows as an operator does.
    pub fn void(&mut self, flows: &BTreeSet<Flow>) {
        let ended = |decision: u64| {
            let old = Decision(decision);
            Decision::new(old.kind(), old.service(), old.slot(), VOID_GENERATION).0
        };
        for name in [map::FLOWS_V4, map::HALF_OPEN_V4] {
            let mut map = self.array::<Bucket4>(name);
            for i in 0..map.len() {
                let mut bucket = map.get(&i, 0).unwrap();
                let ours = |[control, a, b, ..]: &[u64; WORDS_V4]| {
                    Control(*control).is_live() && flows.contains(&flow_of(&Ends::of_v4(&[*a, *b])))
                };
                if bucket.0.iter().any(ours) {
                    bucket
                        .0
                        .iter_mut()
                        .filter(|words| ours(words))
                        .for_each(|words| words[3] = ended(words[3]));
                    map.set(i, bucket, 0).unwrap();
                }
            }
        }
        for name in [map::FLOWS_V6, map::HALF_OPEN_V6] {
            let mut map = self.array::<Bucket6>(name);
            for i in 0..map.len() {
                let mut bucket = map.get(&i, 0).unwrap();
                let ours = |[control, a, b, c, d, e, ..]: &[u64; WORDS_V6]| {
                    Control(*control).is_live()
                        && flows.contains(&flow_of(&Ends::of_v6(&[*a, *b, *c, *d, *e])))
                };
                if bucket.0.iter().any(ours) {
                    bucket
                        .0
                        .iter_mut()
                        .filter(|words| ours(words))
                        .for_each(|words| words[6] = ended(words[6]));
                    map.set(i, bucket, 0).unwrap();
                }
            }
        }
    }

    /// Lets `ticks` pass for every flow, every persistence entry, every fragmented datagram and the heartbeat.
    pub fn age(&mut self, ticks: u32) {
        let aged = |words: &mut [u64]| {
            words[0] = words[0] & !0xffff_ffff | u64::from((words[0] as u32).wrapping_sub(ticks));
        };
        for name in [map::FLOWS_V4, map::HALF_OPEN_V4] {
            let mut map = self.array::<Bucket4>(name);
            for i in 0..map.len() {
                let mut bucket = map.get(&i, 0).unwrap();
                if bucket.0.iter().any(|words| words[0] != 0) {
                    bucket.0.iter_mut().for_each(|words| aged(words));
                    map.set(i, bucket, 0).unwrap();
                }
            }
        }
        for name in [map::FLOWS_V6, map::HALF_OPEN_V6] {
            let mut map = self.array::<Bucket6>(name);
            for i in 0..map.len() {
                let mut bucket = map.get(&i, 0).unwrap();
                if bucket.0.iter().any(|words| words[0] != 0) {
                    bucket.0.iter_mut().for_each(|words| aged(words));
                    map.set(i, bucket, 0).unwrap();
                }
            }
        }
        for (name, entries) in [(map::PERSIST, self.persisted()), (map::PERSIST_NEW, self.persisted_new())] {
            for (key, entry) in entries {
                let last_seen = entry.last_seen.wrapping_sub(ticks);
                self.hash(name).insert(key, PersistEntry { last_seen, ..entry }, 0).unwrap();
            }
        }
        let beat: u64 = self.read(map::HEARTBEAT).get(&0, 0).unwrap();
        self.array(map::HEARTBEAT).set(0, u64::from((beat as u32).wrapping_sub(ticks)), 0).unwrap();
        for (key, entry) in self.fragments() {
            let seen = entry.seen.wrapping_sub(ticks);
            self.hash(map::FRAGMENTS).insert(key, FragmentEntry { seen, ..entry }, 0).unwrap();
        }
    }
}
