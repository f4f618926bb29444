//! The reference model: what the data plane must do, in plain, slow Rust. It is written from the specification and
//! shares nothing with the packet path but the hashes and constants that are part of the contract: where a flow is
//! kept, and which place of a look-up table it gets.

#![forbid(unsafe_code)]

pub mod flows;
pub mod parse;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use lb_common::{
    backend::{Backend, state},
    counter::{BackendTraffic, Fate, Reason, ServiceTraffic},
    flow::State,
    hash,
    net::{addr4, addr6},
    service::{Service, filter_bit4, filter_bit6, no_server, pick},
};

use self::{
    flows::{Choice, Entry, FlowTable},
    parse::{Flow, MACS, Seen},
};
use crate::packet::dut::{INGRESS, OTHER, Options, Ran, XDP_DROP, XDP_PASS, XDP_REDIRECT, XDP_TX};

/// Ticks between two writes of an entry's time.
pub const TOUCH_TICKS: u64 = 8;
/// A half-open bucket full of flows younger than this is being flooded.
pub const FLOOD_TICKS: u64 = 24;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// A client's server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Persisted {
    /// Backend slot.
    pub slot: u16,
    /// Backend's generation at the time.
    pub generation: u16,
    /// When it was used last, to within a second.
    pub last_seen: u64,
}

/// Group and client network.
pub type PersistId = (u32, IpAddr);

/// The data plane. Fields are what a controller writes and what it reads; [`Model::run`] is the packet path.
#[derive(Clone, Debug)]
pub struct Model {
    /// Services by id.
    pub services: BTreeMap<u16, Service>,
    /// Address, port, protocol to service; port 0 stands for every port that has no key of its own.
    pub keys: BTreeMap<(IpAddr, u16, u8), u16>,
    /// Places of the look-up tables by service.
    pub tables: BTreeMap<u16, Vec<u16>>,
    /// Backends by slot.
    pub backends: BTreeMap<u16, Backend>,
    /// Ticks since the beginning.
    pub now: u64,
    /// Established flows of IPv4 and IPv6.
    pub established: [FlowTable; 2],
    /// Half-open flows of IPv4 and IPv6.
    pub half_open: [FlowTable; 2],
    /// Persistence.
    pub persisted: BTreeMap<PersistId, Persisted>,
    /// Packets by reason.
    pub reasons: BTreeMap<Reason, u64>,
    /// New flows by service; `cursor` stays 0.
    pub service_traffic: BTreeMap<u16, ServiceTraffic>,
    /// What was forwarded by backend slot.
    pub backend_traffic: BTreeMap<u16, BackendTraffic>,
    cursors: BTreeMap<u16, usize>,
    devices: BTreeSet<u32>,
    persist_room: usize,
}

impl Model {
    /// An empty data plane.
    #[must_use]
    pub fn new(options: &Options) -> Self {
        let table = |flows| FlowTable::new(flows, options.seed);
        Self {
            services: BTreeMap::new(),
            keys: BTreeMap::new(),
            tables: BTreeMap::new(),
            backends: BTreeMap::new(),
            // Nothing is so old that its time would be before the beginning.
            now: 1 << 32,
            established: [table(options.flows_v4), table(options.flows_v6)],
            half_open: [table(options.half_open), table(options.half_open)],
            persisted: BTreeMap::new(),
            reasons: BTreeMap::new(),
            service_traffic: BTreeMap::new(),
            backend_traffic: BTreeMap::new(),
            cursors: BTreeMap::new(),
            devices: BTreeSet::from([OTHER]),
            persist_room: options.persist as usize,
        }
    }

    /// What becomes of a frame.
    pub fn run(&mut self, frame: &[u8]) -> Ran {
        let decided = parse::parse(frame, |vip| self.may_be_ours(vip))
            .and_then(|seen| self.choice(&seen).map(|choice| (seen, choice)));
        match decided {
            Ok((seen, choice)) => self.forward(frame, &seen, choice),
            Err(reason) => {
                self.count(reason);
                let verdict = if reason.fate() == Fate::Drop { XDP_DROP } else { XDP_PASS };
                Ran { verdict, frame: frame.to_vec() }
            }
        }
    }

    fn count(&mut self, reason: Reason) {
        *self.reasons.entry(reason).or_default() += 1;
    }

    /// Balanced addresses, and those that share a bit of the filter with one.
    fn may_be_ours(&self, address: IpAddr) -> bool {
        self.keys.keys().any(|(vip, ..)| filter_bit(*vip) == filter_bit(address))
    }

    /// A live backend that still is the one that was chosen.
    fn live(&self, choice: Choice) -> bool {
        self.backends
            .get(&choice.slot)
            .is_some_and(|backend| backend.state == state::LIVE && backend.generation == choice.generation)
    }

    /// Established flows first, then half-open ones, then everything that is new.
    fn choice(&mut self, seen: &Seen) -> Result<Choice, Reason> {
        let family = family(&seen.flow);
        if let Some(choice) = self.established_flow(seen, family) {
            return Ok(choice);
        }
        if let Some(choice) = self.half_open_flow(seen, family) {
            return Ok(choice);
        }
        self.new_flow(seen, family)
    }

    fn established_flow(&mut self, seen: &Seen, family: usize) -> Option<Choice> {
        let entry = *self.established[family].find(&seen.flow)?;
        if !self.live(entry.choice) {
            self.established[family].remove(&seen.flow);
            self.count(Reason::FlowOrphaned);
            return None;
        }
        let flags = seen.flags.unwrap_or(0);
        let closing = entry.state == State::Closing;
        if flags & RST != 0 {
            self.established[family].remove(&seen.flow);
            return Some(entry.choice);
        }
        if opens(flags) && closing {
            self.established[family].remove(&seen.flow);
            return None;
        }
        let state = if flags & FIN != 0 { State::Closing } else { entry.state };
        let now = self.now;
        if let Some(kept) = self.established[family].find(&seen.flow)
            && (state != entry.state || now - entry.last_seen >= TOUCH_TICKS)
        {
            (kept.state, kept.last_seen) = (state, now);
        }
        Some(entry.choice)
    }

    fn half_open_flow(&mut self, seen: &Seen, family: usize) -> Option<Choice> {
        let entry = *self.half_open[family].find(&seen.flow)?;
        if !self.live(entry.choice) {
            self.half_open[family].remove(&seen.flow);
            self.count(Reason::FlowOrphaned);
            return None;
        }
        let now = self.now;
        match seen.flags {
            Some(flags) if flags & RST != 0 => self.half_open[family].remove(&seen.flow),
            // The opening segment once more: the flow is as young as before.
            Some(flags) if opens(flags) => {
                if now - entry.last_seen >= TOUCH_TICKS {
                    self.refresh_half_open(&seen.flow, family);
                }
            }
            Some(flags) if flags & FIN != 0 => self.confirm(entry, State::Closing, family),
            Some(_) => self.confirm(entry, State::Established, family),
            None => self.confirm(entry, State::Datagrams, family),
        }
        Some(entry.choice)
    }

    fn refresh_half_open(&mut self, flow: &Flow, family: usize) {
        let now = self.now;
        if let Some(entry) = self.half_open[family].find(flow) {
            entry.last_seen = now;
        }
    }

    /// The flow is real: it moves to the established ones, if there is room.
    fn confirm(&mut self, entry: Entry, state: State, family: usize) {
        let confirmed = Entry { state, last_seen: self.now, ..entry };
        if self.established[family].insert(confirmed) {
            self.half_open[family].remove(&entry.flow);
        } else {
            self.refresh_half_open(&entry.flow, family);
            self.count(Reason::FlowTableFull);
        }
    }

    fn new_flow(&mut self, seen: &Seen, family: usize) -> Result<Choice, Reason> {
        let flow = seen.flow;
        let key = |port| (flow.vip, port, flow.proto);
        let found = self.keys.get(&key(flow.vip_port)).or_else(|| self.keys.get(&key(0)));
        let service = *found.ok_or(Reason::NoService)?;
        let opens = seen.flags.is_none_or(opens);
        // A choice that nobody may remember has to come out the same again.
        let by_hash = !opens
            || self.half_open[family].is_crowded(&flow, self.now, FLOOD_TICKS)
            || self.established[family].is_crowded(&flow, self.now, u64::MAX);
        let choice = self.choose(service, &flow, by_hash)?;
        if !opens {
            self.count(Reason::MidStream);
            if seen.flags.is_some_and(|flags| flags & RST != 0) {
                return Ok(choice);
            }
        }
        let entry = Entry { flow, choice, state: State::New, last_seen: self.now };
        if self.half_open[family].insert_over_oldest(entry) {
            self.count(Reason::HalfOpenOverwritten);
        }
        self.service_traffic.entry(service).or_default().flows += 1;
        Ok(choice)
    }

    /// Persistence first, then the table.
    fn choose(&mut self, service: u16, flow: &Flow, by_hash: bool) -> Result<Choice, Reason> {
        let record = self.services[&service];
        if record.persist_prefix == 0 {
            return self.schedule(service, flow, by_hash);
        }
        let id = (record.persist_group, network(flow.client, record.persist_prefix));
        let now = self.now;
        if let Some(known) = self.persisted.get(&id).copied() {
            let choice = Choice { service, slot: known.slot, generation: known.generation };
            let idle = now - known.last_seen;
            if idle < u64::from(record.persist_ticks) && self.live(choice) {
                if idle >= TOUCH_TICKS {
                    self.persisted.insert(id, Persisted { last_seen: now, ..known });
                }
                return Ok(choice);
            }
        }
        let choice = self.schedule(service, flow, by_hash)?;
        if self.persisted.contains_key(&id) || self.persisted.len() < self.persist_room {
            let Choice { slot, generation, .. } = choice;
            self.persisted.insert(id, Persisted { slot, generation, last_seen: now });
        } else {
            self.count(Reason::PersistTableFull);
        }
        Ok(choice)
    }

    fn schedule(&mut self, service: u16, flow: &Flow, by_hash: bool) -> Result<Choice, Reason> {
        let record = self.services[&service];
        let places = self.tables.get(&service).map_or(&[][..], Vec::as_slice);
        if places.is_empty() {
            let drop = record.no_server == no_server::DROP;
            return Err(if drop { Reason::NoServerDrop } else { Reason::NoServerReject });
        }
        let index = match record.pick {
            pick::ROTATE if !by_hash => {
                let cursor = self.cursors.entry(service).or_default();
                let index = if *cursor < places.len() { *cursor } else { 0 };
                *cursor = index + 1;
                index
            }
            pick::HASH_CLIENT => scaled(hash::client(flow.ends().src), places.len()),
            _ => scaled(steering_hash(flow), places.len()),
        };
        let slot = places[index];
        let backend = self.backends.get(&slot).filter(|backend| backend.state == state::LIVE);
        let generation = backend.ok_or(Reason::StaleTable)?.generation;
        Ok(Choice { service, slot, generation })
    }

    /// Direct routing: MACs and tags, and nothing of the IP packet.
    fn forward(&mut self, frame: &[u8], seen: &Seen, choice: Choice) -> Ran {
        let backend = self.backends[&choice.slot];
        let traffic = self.backend_traffic.entry(choice.slot).or_default();
        traffic.packets += 1;
        traffic.bytes += seen.bytes;
        let verdict = match backend.ifindex {
            INGRESS => XDP_TX,
            other if self.devices.contains(&other) => XDP_REDIRECT,
            _ => XDP_DROP,
        };
        Ran { verdict, frame: rewritten(frame, seen.tags, &backend) }
    }
}

/// The frame with the backend's MACs and tags. Tags keep their priorities; new ones take the outer one's.
fn rewritten(frame: &[u8], tags: usize, backend: &Backend) -> Vec<u8> {
    let depth = usize::from(backend.vlan_depth);
    let l3 = MACS + 4 * tags + 2;
    let mut out = [backend.dst_mac.0, backend.src_mac.0].concat();
    for n in 0..depth {
        let tpid = if depth == 2 && n == 0 { backend.outer_tpid } else { 0x8100 };
        let from = if tags == depth { n } else { 0 };
        let priority = if tags == 0 { 0 } else { frame[MACS + 4 * from + 2] & 0xf0 };
        out.extend(tpid.to_be_bytes());
        out.extend((u16::from(priority) << 8 | backend.vlan[n]).to_be_bytes());
    }
    out.extend(&frame[l3 - 2..]);
    out
}

/// SYN, and neither ACK nor RST.
const fn opens(flags: u8) -> bool {
    flags & (SYN | ACK | RST) == SYN
}

const fn family(flow: &Flow) -> usize {
    match flow.vip {
        IpAddr::V4(_) => 0,
        IpAddr::V6(_) => 1,
    }
}

const fn filter_bit(ip: IpAddr) -> u32 {
    match ip {
        IpAddr::V4(ip) => filter_bit4(addr4(ip)),
        IpAddr::V6(ip) => filter_bit6(addr6(ip)),
    }
}

/// An address as the steering hashes take it.
/// The hash that every node computes alike.
#[must_use]
pub fn steering_hash(flow: &Flow) -> u64 {
    let ends = flow.ends();
    hash::steer(ends.src, ends.dst, ends.ports_word())
}

/// Maps the upper half of a hash evenly onto `0..len`.
#[must_use]
pub const fn scaled(hash: u64, len: usize) -> usize {
    (((hash >> 32) * len as u64) >> 32) as usize
}

/// The network of `prefix` bits that an address is in.
#[must_use]
pub fn network(ip: IpAddr, prefix: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let host_bits = 32u32.saturating_sub(prefix.into());
            Ipv4Addr::from_bits((u64::from(ip.to_bits()) >> host_bits << host_bits) as u32).into()
        }
        IpAddr::V6(ip) => {
            let host_bits = 128u32.saturating_sub(prefix.into());
            let kept = ip.to_bits().checked_shr(host_bits).and_then(|bits| bits.checked_shl(host_bits));
            Ipv6Addr::from_bits(kept.unwrap_or(0)).into()
        }
    }
}
