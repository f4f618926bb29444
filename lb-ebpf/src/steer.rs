//! Who gets a new flow: persistence first, then the service's look-up table.

use lb_common::{
    backend::{Backend, state},
    counter::Reason,
    event::EventKind,
    flow::{Decision, Ends},
    hash,
    limits::{LEAST_OF, MAX_SERVERS, TABLE_SLOTS},
    load::is_less,
    persist::{PersistEntry, PersistKey},
    service::{Service, Table, flags, no_server, pick},
};

use crate::{
    env::Env,
    life::{TOUCH_TICKS, idle},
    load,
    scratch::{Scratch, Search},
};

/// How a table place is found for this flow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum By {
    /// As the service says.
    Service = 0,
    /// By the flow's hash whatever the service says, and however busy servers are: for packets that may come again
    /// without an entry to remember the choice, so that the choice is the same each time.
    Hash = 1,
}

/// The backend of a live decision, or `None` when the decision no longer counts.
#[inline(always)]
pub fn live<E: Env>(env: &E, decision: Decision) -> Option<&Backend> {
    let backend = env.backend(u32::from(decision.slot()))?;
    (backend.generation == decision.generation() && backend.state == state::LIVE).then_some(backend)
}

/// Decides for the new flow in the scratch memory, whose service stands there: afterwards its decision does, too. The
/// reason, if there is one, is what becomes of the packet.
///
/// # Errors
///
/// Why there is no decision.
#[inline(always)]
pub fn ask<E: Env>(env: &E, by: By) -> Result<(), Reason> {
    match env.choose(by as u32) {
        DECIDED => Ok(()),
        number => Err(reason(number)),
    }
}

/// A reason why nobody is chosen, from its number.
#[inline(always)]
const fn reason(number: u32) -> Reason {
    const NO_SERVER_DROP: u32 = Reason::NoServerDrop as u32;
    const NO_SERVER_REJECT: u32 = Reason::NoServerReject as u32;
    const NO_SERVICE: u32 = Reason::NoService as u32;
    match number {
        NO_SERVER_DROP => Reason::NoServerDrop,
        NO_SERVER_REJECT => Reason::NoServerReject,
        NO_SERVICE => Reason::NoService,
        _ => Reason::StaleTable,
    }
}

/// What [`choose`] gives when there is a decision; a [`Reason`] otherwise.
const DECIDED: u32 = u32::MAX;

/// [`ask`], as a function of its own gives it. `by` is a [`By`].
#[inline(always)]
pub fn choose<E: Env>(env: &E, by: u32) -> u32 {
    let by = if by == By::Service as u32 { By::Service } else { By::Hash };
    let chosen = choose_for(env, by);
    let Some(s) = env.scratch() else { return Reason::StaleTable as u32 };
    match chosen {
        Ok(decision) => {
            s.decision = decision.0;
            DECIDED
        }
        Err(reason) => reason as u32,
    }
}

#[inline(always)]
fn choose_for<E: Env>(env: &E, by: By) -> Result<Decision, Reason> {
    let s = env.scratch().ok_or(Reason::StaleTable)?;
    let record = env.service(s.service).ok_or(Reason::NoService)?;
    if record.flags & flags::FAIL_CLOSED != 0 && env.is_unattended(s.now) {
        env.count(Reason::Unattended);
        return Err(no_server(record));
    }
    let known = if record.persist_prefix == 0 { NONE } else { remembered(env, s, record) };
    if known.0 != 0 {
        if by == By::Hash || has_room(env, u32::from(known.slot())) {
            return Ok(known);
        }
        // For once: what is remembered stays.
        env.count(Reason::Spilled);
    }
    // One call for all cases: the verifier follows each.
    let decision = schedule(env, record, by)?;
    // What the hash decides is remembered, too: the client's next flow may not be its to decide.
    let is_new = record.persist_prefix != 0 && known.0 == 0;
    Ok(if is_new { remember(env, record, decision) } else { decision })
}

/// No decision: the kind of one is never 0. A BPF function gives back one number.
const NONE: Decision = Decision(0);

/// What persistence says.
///
/// Not inlined, as what follows: their stacks are not their caller's.
#[inline(never)]
fn remembered<E: Env>(env: &E, s: &Scratch, record: &Service) -> Decision {
    let key = persist_key(record, &s.seen.ends);
    let service = s.service as u16;
    if let Some(entry) = env.persisted(&key) {
        let decision = counts(env, record, service, entry, idle(s.now, entry.last_seen));
        if decision.0 != 0 {
            renew(env, s.now, &key, entry);
            return decision;
        }
    }
    match env.persisted_new(&key) {
        Some(entry) => of_new(env, s, record, entry),
        None => NONE,
    }
}

/// The decision that an entry of a client stands for that has not proved itself.
#[inline(always)]
fn of_new<E: Env>(env: &E, s: &Scratch, record: &Service, entry: PersistEntry) -> Decision {
    if idle(s.now, entry.last_seen) >= env.persist_new_ticks() {
        return NONE;
    }
    counts(env, record, s.service as u16, entry, 0)
}

/// Remembers the decision for the first flow of a client, or takes the one that another CPU has just made.
#[inline(never)]
fn remember<E: Env>(env: &E, record: &Service, decision: Decision) -> Decision {
    let Some(s) = env.scratch() else { return decision };
    let key = persist_key(record, &s.seen.ends);
    let entry = PersistEntry { slot: decision.slot(), generation: decision.generation(), last_seen: s.now };
    if env.persist_new(&key, &entry, true) {
        return decision;
    }
    if let Some(theirs) = env.persisted_new(&key) {
        let theirs = of_new(env, s, record, theirs);
        if theirs.0 != 0 {
            return theirs;
        }
    }
    env.persist_new(&key, &entry, false);
    decision
}

/// Writes the time of an entry that a flow has used.
#[inline(always)]
fn renew<E: Env>(env: &E, now: u32, key: &PersistKey, entry: PersistEntry) {
    if idle(now, entry.last_seen) >= TOUCH_TICKS {
        env.persist(key, &PersistEntry { last_seen: now, ..entry }, false);
    }
}

/// The decision that an entry of this age stands for, if it still counts: it is young enough, its server lives and takes
/// new flows.
#[inline(always)]
fn counts<E: Env>(env: &E, record: &Service, service: u16, entry: PersistEntry, idle: u32) -> Decision {
    let known = Decision::new(record.mode, service, entry.slot, entry.generation);
    if idle >= record.persist_ticks || live(env, known).is_none() {
        return NONE;
    }
    let mut slot = entry.slot;
    if record.flags & flags::SHARED != 0 {
        let Some(twin) = env.twin(slot, service) else { return NONE };
        slot = twin;
    }
    match env.backend(u32::from(slot)) {
        Some(backend) if backend.state == state::LIVE && !load::is_closed(env, u32::from(slot)) => {
            Decision::new(record.mode, service, slot, backend.generation)
        }
        _ => NONE,
    }
}

/// Remembers where the flow in the scratch memory went, whose client has proved it.
#[inline(always)]
pub fn stick<E: Env>(env: &E) {
    let Some(s) = env.scratch() else { return };
    let decision = Decision(s.decision);
    let service = decision.service();
    let Some(record) = env.service(u32::from(service)) else { return };
    if record.persist_prefix == 0 {
        return;
    }
    let key = persist_key(record, &s.seen.ends);
    let known = env.persisted(&key);
    if let Some(entry) = known
        && counts(env, record, service, entry, idle(s.now, entry.last_seen)).0 != 0
    {
        // This flow may have been sent elsewhere for once.
        renew(env, s.now, &key, entry);
        return;
    }
    let entry = PersistEntry { slot: decision.slot(), generation: decision.generation(), last_seen: s.now };
    if !env.persist(&key, &entry, known.is_none()) && env.persisted(&key).is_none() {
        env.count(Reason::PersistTableFull);
    }
}

/// The key that a client's persistence entry stands under.
#[inline(always)]
const fn persist_key(record: &Service, ends: &Ends) -> PersistKey {
    PersistKey::new(record.persist_group, record.persist_prefix, ends.src, ends.family)
}

/// Asks the look-up table.
#[inline(always)]
fn schedule<E: Env>(env: &E, record: &Service, by: By) -> Result<Decision, Reason> {
    let packed = schedule_packed(env, record, by);
    if packed >> 56 != 0 { Ok(Decision(packed)) } else { Err(reason(packed as u32)) }
}

/// A decision, or a reason, which is a small number.
#[inline(never)]
fn schedule_packed<E: Env>(env: &E, record: &Service, by: By) -> u64 {
    match schedule_for(env, record, by) {
        Ok(decision) => decision.0,
        Err(reason) => reason as u64,
    }
}

#[inline(always)]
fn schedule_for<E: Env>(env: &E, record: &Service, by: By) -> Result<Decision, Reason> {
    let Scratch { service, ref seen, .. } = *env.scratch().ok_or(Reason::StaleTable)?;
    let Some(table) = env.table(service).filter(|table| table.len != 0) else {
        return Err(no_server(record));
    };
    let by_client = record.pick == pick::HASH_CLIENT;
    let hash = if by_client { hash::client(seen.ends.src) } else { steering_hash(&seen.ends) };
    let mut slot = match (by, record.pick) {
        (By::Service, pick::LEAST) => env.least(env.rotate(service, table.servers)),
        (By::Service, pick::FIRST) => u32::from(table.list[0]),
        (By::Service, pick::ROTATE) => u32::from(place(table, env.rotate(service, table.len))),
        _ => u32::from(place(table, scale(hash, table.len))),
    };
    if by == By::Service && (slot == NOBODY || !has_room(env, slot)) {
        // Whoever is next: not the same one for all, but for who goes by the list's order.
        let start = if record.pick == pick::FIRST { 0 } else { scale(hash, table.servers) };
        let next = env.next_with_room(start);
        if next == NOBODY {
            env.count(Reason::ServersFull);
            return Err(no_server(record));
        }
        if slot != NOBODY {
            env.count(Reason::Spilled);
        }
        slot = next;
    }
    let backend = env.backend(slot).filter(|b| b.state == state::LIVE).ok_or(Reason::StaleTable)?;
    Ok(Decision::new(record.mode, service as u16, slot as u16, backend.generation))
}

/// The least loaded of the servers that are looked at and have room; [`NOBODY`] if none has.
///
/// Functions of their own, as their loops' bodies are: the verifier would follow a loop once for each way that leads to it.
#[inline(always)]
pub fn least<E: Env>(env: &E, start: u32) -> u32 {
    begin_search(env, start);
    for n in 0..LEAST_OF {
        if env.compare(n) == 0 {
            break;
        }
    }
    found(env)
}

/// The first server from `start` on that has room; [`NOBODY`] if none has.
#[inline(always)]
pub fn next_with_room<E: Env>(env: &E, start: u32) -> u32 {
    begin_search(env, start);
    for n in 0..MAX_SERVERS as u32 {
        if env.try_next(n) == 0 {
            break;
        }
    }
    found(env)
}

#[inline(always)]
fn begin_search<E: Env>(env: &E, start: u32) {
    if let Some(s) = env.scratch() {
        s.search = Search { start, found: NOBODY, held: 0 };
    }
}

#[inline(always)]
fn found<E: Env>(env: &E) -> u32 {
    env.scratch().map_or(NOBODY, |s| s.search.found)
}

/// No slot.
pub const NOBODY: u32 = u32::MAX;

/// One step of the search for the least loaded server that has room: looks at the n-th from the start. 0 = that was all.
///
/// A function of its own, as [`try_next`] is: the verifier would follow a loop's branches once for each server.
#[inline(always)]
pub fn compare<E: Env>(env: &E, n: u32) -> u32 {
    let Some(s) = env.scratch() else { return 0 };
    let Some(slot) = listed(env, s, n) else { return 0 };
    let held = load::held(env, slot);
    let (active, weight) = (held >> 16, held as u16);
    if held != load::NO_ROOM
        && weight != 0
        && (s.search.found == NOBODY || is_less(active, weight, s.search.held >> 16, s.search.held as u16))
    {
        (s.search.found, s.search.held) = (slot, held);
    }
    1
}

/// One step of the search for a server that has room, whichever. 0 = found, or that was all.
#[inline(always)]
pub fn try_next<E: Env>(env: &E, n: u32) -> u32 {
    let Some(s) = env.scratch() else { return 0 };
    let Some(slot) = listed(env, s, n) else { return 0 };
    if !has_room(env, slot) {
        return 1;
    }
    s.search.found = slot;
    0
}

/// The n-th server of the list from the search's start on, once round.
#[inline(always)]
fn listed<E: Env>(env: &E, s: &Scratch, n: u32) -> Option<u32> {
    let table = env.table(s.service).filter(|table| n < table.servers)?;
    let n = s.search.start.wrapping_add(n);
    let n = if n >= table.servers { n - table.servers } else { n };
    // The mask cannot change an index below `servers`; it is what the verifier can see.
    Some(u32::from(table.list[n as usize & (MAX_SERVERS - 1)]))
}

#[inline(always)]
fn has_room<E: Env>(env: &E, slot: u32) -> bool {
    load::held(env, slot) != load::NO_ROOM
}

/// The server at a place of the table.
#[inline(always)]
const fn place(table: &Table, index: u32) -> u16 {
    // As in `listed`.
    table.slots[index as usize & (TABLE_SLOTS - 1)]
}

/// What becomes of a flow that nobody takes.
#[inline(always)]
const fn no_server(record: &Service) -> Reason {
    if record.no_server == no_server::DROP { Reason::NoServerDrop } else { Reason::NoServerReject }
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
    fn scaling_reaches_both_ends_and_never_beyond() {
        for len in [1, 2, 3, 7, 65_536] {
            assert_eq!(scale(0, len), 0);
            assert_eq!(scale(u64::MAX, len), len - 1);
        }
    }
}
