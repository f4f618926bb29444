//! Who gets a new flow: persistence first, then the service's look-up table.

use lb_common::{
    backend::{Backend, state},
    counter::Reason,
    event::EventKind,
    flow::{Decision, Ends},
    hash,
    persist::{PersistEntry, PersistKey, mask_half, mask4},
    service::{Service, no_server, pick},
};

use crate::{
    env::Env,
    life::{TOUCH_TICKS, idle},
};

/// How a table place is found for this flow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum By {
    /// As the service says.
    Service,
    /// By the flow's hash whatever the service says: for packets that may come again without an entry to
    /// remember the choice, so that the choice is the same each time.
    Hash,
}

/// The backend of a live decision, or `None` when the decision no longer counts.
#[inline(always)]
pub fn live<E: Env>(env: &E, decision: Decision) -> Option<&Backend> {
    let backend = env.backend(u32::from(decision.slot()))?;
    (backend.generation == decision.generation() && backend.state == state::LIVE).then_some(backend)
}

/// Decides for a new flow of `service`. The reason, if there is one, is what becomes of the packet.
#[inline(always)]
pub fn choose<E: Env>(env: &E, service: u32, ends: &Ends, by: By, now: u32) -> Result<Decision, Reason> {
    unpack(choose_packed(env, service, ends, by, now))
}

/// Not inlined, so that its stack is not its caller's; and a BPF function gives back one number.
#[inline(never)]
fn choose_packed<E: Env>(env: &E, service: u32, ends: &Ends, by: By, now: u32) -> u64 {
    match choose_for(env, service, ends, by, now) {
        Ok(decision) => decision.0,
        Err(reason) => reason as u64,
    }
}

/// The reverse of what [`choose_packed`] does. A decision's kind, its highest byte, is never 0.
#[inline(always)]
const fn unpack(packed: u64) -> Result<Decision, Reason> {
    const NO_SERVER_DROP: u64 = Reason::NoServerDrop as u64;
    const NO_SERVER_REJECT: u64 = Reason::NoServerReject as u64;
    const NO_SERVICE: u64 = Reason::NoService as u64;
    if packed >> 56 != 0 {
        return Ok(Decision(packed));
    }
    Err(match packed {
        NO_SERVER_DROP => Reason::NoServerDrop,
        NO_SERVER_REJECT => Reason::NoServerReject,
        NO_SERVICE => Reason::NoService,
        _ => Reason::StaleTable,
    })
}

#[inline(always)]
fn choose_for<E: Env>(env: &E, service: u32, ends: &Ends, by: By, now: u32) -> Result<Decision, Reason> {
    let record = env.service(service).ok_or(Reason::NoService)?;
    if record.persist_prefix == 0 {
        return schedule(env, service, record, ends, by);
    }
    let key = persist_key(record, ends);
    let decided =
        |entry: &PersistEntry| Decision::new(record.mode, service as u16, entry.slot, entry.generation);
    let known = env.persisted(&key);
    if let Some(entry) = known {
        let decision = decided(&entry);
        let idle = idle(now, entry.last_seen);
        if idle < record.persist_ticks && live(env, decision).is_some() {
            if idle >= TOUCH_TICKS {
                env.persist(&key, &PersistEntry { last_seen: now, ..entry }, false);
            }
            return Ok(decision);
        }
    }
    let decision = schedule(env, service, record, ends, by)?;
    let entry = PersistEntry { slot: decision.slot(), generation: decision.generation(), last_seen: now };
    if env.persist(&key, &entry, known.is_none()) {
        return Ok(decision);
    }
    // Another CPU was first with the same client: its choice holds.
    if let Some(theirs) = env.persisted(&key).map(|entry| decided(&entry)) {
        return Ok(if live(env, theirs).is_some() { theirs } else { decision });
    }
    env.count(Reason::PersistTableFull);
    Ok(decision)
}

/// The key that a client's persistence entry stands under.
#[inline(always)]
fn persist_key(record: &Service, ends: &Ends) -> PersistKey {
    let prefix = record.persist_prefix;
    let client = if ends.family == 4 {
        [ends.src[0] & mask4(prefix) as u64, 0]
    } else {
        [ends.src[0] & mask_half(prefix), ends.src[1] & mask_half(prefix.saturating_sub(64))]
    };
    PersistKey { client, group: record.persist_group, family: u32::from(ends.family) }
}

/// Asks the look-up table.
#[inline(always)]
fn schedule<E: Env>(
    env: &E,
    service: u32,
    record: &Service,
    ends: &Ends,
    by: By,
) -> Result<Decision, Reason> {
    let Some(table) = env.table(service).filter(|table| table.len != 0) else {
        return Err(if record.no_server == no_server::DROP {
            Reason::NoServerDrop
        } else {
            Reason::NoServerReject
        });
    };
    let index = match (record.pick, by) {
        (pick::ROTATE, By::Service) => env.rotate(service, table.len),
        (pick::HASH_CLIENT, _) => scale(hash::client(ends.src), table.len),
        _ => scale(steering_hash(ends), table.len),
    };
    // The mask cannot change an index below `len`; it is what the verifier can see.
    let slot = table.slots[index as usize & (lb_common::limits::TABLE_SLOTS - 1)];
    let backend =
        env.backend(u32::from(slot)).filter(|b| b.state == state::LIVE).ok_or(Reason::StaleTable)?;
    Ok(Decision::new(record.mode, service as u16, slot, backend.generation))
}

/// Tells the controller. Not inlined: it is rare, and needs stack.
#[inline(never)]
pub fn tell<E: Env>(env: &E, kind: EventKind, service: u16, ends: &Ends, now: u32) {
    env.event(kind, u32::from(service), ends, now);
}

/// The hash that picks a server: the same on every node, unlike the one that finds the flow's bucket.
#[inline(always)]
fn steering_hash(ends: &Ends) -> u64 {
    let ports = u64::from(ends.ports) | u64::from(ends.proto) << 32;
    hash::steer(ends.src, ends.dst, ports)
}

/// Maps a hash evenly onto `0..len` without a division.
#[inline(always)]
const fn scale(hash: u64, len: u32) -> u32 {
    (((hash >> 32) * len as u64) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_or_a_reason_survives_packing() {
        let decision = Decision::new(1, 7, 9, 3);
        assert_eq!(unpack(decision.0), Ok(decision));
        for reason in [Reason::NoService, Reason::NoServerDrop, Reason::NoServerReject, Reason::StaleTable] {
            assert_eq!(unpack(reason as u64), Err(reason));
        }
    }

    #[test]
    fn scaling_reaches_both_ends_and_never_beyond() {
        for len in [1, 2, 3, 7, 65_536] {
            assert_eq!(scale(0, len), 0);
            assert_eq!(scale(u64::MAX, len), len - 1);
        }
    }
}
