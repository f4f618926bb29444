//! Who gets a new flow: persistence first, then the service's look-up table.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::{
    backend::state,
    counter::Reason,
    hash,
    limits::LEAST_OF,
    load::{Limits, flags::CLOSED},
    service::{
        Service,
        flags::{FAIL_CLOSED, SHARED},
        no_server, pick,
    },
};

use super::{Busy, Model, PersistId, Persisted, TOUCH_TICKS, flows::Choice, parse::Flow};

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
        if record.flags & FAIL_CLOSED != 0 && self.now - self.heartbeat >= self.unattended_ticks {
            self.count(Reason::Unattended);
            return Err(nobody(&record));
        }
        if record.persist_prefix == 0 {
            return self.schedule(service, flow, by_hash);
        }
        let id = persist_id(&record, flow);
        if let Some(choice) = self.remembered(service, id) {
            if by_hash || self.has_room(choice.slot) {
                return Ok(choice);
            }
            // For once: the entry stays.
            self.count(Reason::Spilled);
            return self.schedule(service, flow, by_hash);
        }
        let choice = self.schedule(service, flow, by_hash)?;
        let Choice { slot, generation, .. } = choice;
        self.persisted_new.insert(id, Persisted { slot, generation, last_seen: self.now });
        Ok(choice)
    }

    /// What persistence says, and its entry is as young as the flow.
    fn remembered(&mut self, service: u16, id: PersistId) -> Option<Choice> {
        if let Some(known) = self.persisted.get(&id).copied()
            && let Some(choice) = self.counting(service, known)
        {
            self.renew(id, known);
            return Some(choice);
        }
        let new = self.persisted_new.get(&id).copied()?;
        let young = self.now - new.last_seen < self.persist_new_ticks;
        self.counting(service, Persisted { last_seen: self.now, ..new }).filter(|_| young)
    }

    fn renew(&mut self, id: PersistId, known: Persisted) {
        if self.now - known.last_seen >= TOUCH_TICKS {
            self.persisted.insert(id, Persisted { last_seen: self.now, ..known });
        }
    }

    /// What an entry stands for in a service, if it counts there.
    fn counting(&self, service: u16, known: Persisted) -> Option<Choice> {
        let record = &self.services[&service];
        let there = Choice { kind: record.mode, service, slot: known.slot, generation: known.generation };
        if self.now - known.last_seen >= u64::from(record.persist_ticks) || !self.live(there) {
            return None;
        }
        let shared = record.flags & SHARED != 0;
        let slot = if shared { *self.twins.get(&(known.slot, service))? } else { known.slot };
        let backend = self.backends.get(&slot).filter(|backend| backend.state == state::LIVE)?;
        let closed = self.loads.get(&slot).is_some_and(|busy| busy.limits.flags & CLOSED != 0);
        (!closed).then_some(Choice { slot, generation: backend.generation, ..there })
    }

    /// A client has proved a flow: it is remembered where it went, unless it is remembered elsewhere.
    pub(super) fn stick(&mut self, choice: Choice, flow: &Flow) {
        let record = self.services[&choice.service];
        if record.persist_prefix == 0 {
            return;
        }
        let id = persist_id(&record, flow);
        let known = self.persisted.get(&id).copied();
        if let Some(known) = known.filter(|&known| self.counting(choice.service, known).is_some()) {
            self.renew(id, known);
        } else if known.is_some() || self.persisted.len() < self.persist_room {
            let Choice { slot, generation, .. } = choice;
            self.persisted.insert(id, Persisted { slot, generation, last_seen: self.now });
        } else {
            self.count(Reason::PersistTableFull);
        }
    }

    /// True if a server takes another flow. One that was full waits until it is below its minimum.
    fn has_room(&mut self, slot: u16) -> bool {
        let busy = self.loads.entry(slot).or_default();
        let Limits { max, min, .. } = busy.limits;
        if max == 0 {
            return true;
        }
        let below = if busy.full && min != 0 { min.min(max) } else { max };
        busy.full = busy.active >= below.into();
        !busy.full
    }

    fn schedule(&mut self, service: u16, flow: &Flow, by_hash: bool) -> Result<Choice, Reason> {
        let record = self.services[&service];
        let places = self.tables.get(&service).cloned().unwrap_or_default();
        if places.is_empty() {
            return Err(nobody(&record));
        }
        let hash = if record.pick == pick::HASH_CLIENT {
            hash::client(flow.ends().src)
        } else {
            steering_hash(flow)
        };
        let slot = if by_hash {
            places[scaled(hash, places.len())]
        } else {
            self.pick(service, hash, &places).ok_or_else(|| {
                self.count(Reason::ServersFull);
                nobody(&record)
            })?
        };
        let backend = self.backends.get(&slot).filter(|backend| backend.state == state::LIVE);
        let generation = backend.ok_or(Reason::StaleTable)?.generation;
        Ok(Choice { kind: record.mode, service, slot, generation })
    }

    /// A server that has room.
    fn pick(&mut self, service: u16, hash: u64, places: &[u16]) -> Option<u16> {
        let by = self.services[&service].pick;
        let list = self.lists[&service].clone();
        let picked = match by {
            pick::LEAST => {
                let start = self.rotate(service, list.len());
                let looked_at: Vec<u16> = from(&list, start).take(LEAST_OF as usize).collect();
                self.least(&looked_at)
            }
            pick::FIRST => Some(list[0]),
            pick::ROTATE => Some(places[self.rotate(service, places.len())]),
            _ => Some(places[scaled(hash, places.len())]),
        };
        if let Some(slot) = picked.filter(|&slot| self.has_room(slot)) {
            return Some(slot);
        }
        let start = if by == pick::FIRST { 0 } else { scaled(hash, list.len()) };
        let other = from(&list, start).find(|&slot| self.has_room(slot));
        if picked.is_some() && other.is_some() {
            self.count(Reason::Spilled);
        }
        other
    }

    /// The server with the fewest connections for its weight, the new one included.
    fn least(&mut self, servers: &[u16]) -> Option<u16> {
        let mut best: Option<(u16, u64, u64)> = None;
        for &slot in servers {
            let Busy { active, limits, .. } = self.loads.get(&slot).copied().unwrap_or_default();
            let has_room = self.has_room(slot);
            if limits.weight == 0 || !has_room {
                continue;
            }
            let (held, weight) = (active.max(0) as u64 + 1, u64::from(limits.weight));
            if best.is_none_or(|(_, best_held, best_weight)| held * best_weight < best_held * weight) {
                best = Some((slot, held, weight));
            }
        }
        best.map(|(slot, ..)| slot)
    }

    /// Whose turn it is among `len`.
    fn rotate(&mut self, service: u16, len: usize) -> usize {
        let cursor = self.cursors.entry(service).or_default();
        let index = if *cursor < len { *cursor } else { 0 };
        *cursor = index + 1;
        index
    }
}

/// A list from `start` on, once round.
fn from(list: &[u16], start: usize) -> impl Iterator<Item = u16> + '_ {
    list[start..].iter().chain(&list[..start]).copied()
}

/// What becomes of a flow that nobody takes.
const fn nobody(record: &Service) -> Reason {
    if record.no_server == no_server::DROP { Reason::NoServerDrop } else { Reason::NoServerReject }
}

fn persist_id(record: &Service, flow: &Flow) -> PersistId {
    (record.persist_group, network(flow.src.ip(), record.persist_prefix))
}

/// The hash that every node computes alike.
#[must_use]
pub const fn steering_hash(flow: &Flow) -> u64 {
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
