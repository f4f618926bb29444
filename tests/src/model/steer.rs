//! Who gets a new flow: persistence first, then the service's look-up table.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::{
    backend::state,
    counter::Reason,
    hash,
    service::{no_server, pick},
};

use super::{Model, Persisted, TOUCH_TICKS, flows::Choice, parse::Flow};

impl Model {
    /// The service of this packet's destination.
    pub(super) fn service_of(&self, flow: &Flow) -> Option<u16> {
        let key = |port| (flow.dst.ip(), port, flow.proto);
        self.keys.get(&key(flow.dst.port())).or_else(|| self.keys.get(&key(0))).copied()
    }

    /// A live backend that still is the one that was chosen.
    pub(super) fn live(&self, choice: Choice) -> bool {
        self.backends
            .get(&choice.slot)
            .is_some_and(|backend| backend.state == state::LIVE && backend.generation == choice.generation)
    }

    /// Persistence first, then the table.
    pub(super) fn choose(&mut self, service: u16, flow: &Flow, by_hash: bool) -> Result<Choice, Reason> {
        let record = self.services[&service];
        if record.persist_prefix == 0 {
            return self.schedule(service, flow, by_hash);
        }
        let id = (record.persist_group, network(flow.src.ip(), record.persist_prefix));
        let now = self.now;
        if let Some(known) = self.persisted.get(&id).copied() {
            let choice =
                Choice { kind: record.mode, service, slot: known.slot, generation: known.generation };
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
        Ok(Choice { kind: record.mode, service, slot, generation })
    }
}

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
