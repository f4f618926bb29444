//! The first packets of a flow: before it is established, and while nobody knows it.

use lb_common::{
    counter::Reason,
    event::EventKind,
    flow::{Decision, State},
};

use crate::{
    env::{Env, Tables},
    flow_table::{self, Entry, Hit, Inserted, Key, Take},
    life::{self, Step},
    steer::{self, By},
    wire::tcp::Flags,
};

/// A half-open table whose bucket holds nothing older than this many ticks (some 3 s) is being flooded.
const FLOOD_TICKS: u32 = 24;

/// The decision for a packet without an established flow. `flags` is `None` for UDP.
#[inline(always)]
pub fn decide<E, const WORDS: usize, const KEY: usize>(
    env: &E,
    key: &Key<KEY>,
    flags: Option<Flags>,
    now: u32,
) -> Result<Decision, Reason>
where
    E: Env + Tables<WORDS, KEY>,
{
    let half = Tables::<WORDS, KEY>::half_open(env, key.hash).ok_or(Reason::StaleTable)?;
    if let Some(hit) = flow_table::find_apart(half, key) {
        let decision = Decision(hit.decision);
        if steer::live(env, decision).is_some() {
            match life::half_open(flags, life::idle(now, hit.control.last_seen())) {
                Step::Keep | Step::Reopen => {}
                Step::Become(State::New) => {
                    flow_table::update(half, &hit, State::New, now);
                }
                Step::Become(state) => confirm::<E, WORDS, KEY>(env, key, &hit, state, now),
                Step::End => {
                    flow_table::retire(half, &hit);
                }
            }
            return Ok(decision);
        }
        flow_table::retire(half, &hit);
        env.count(Reason::FlowOrphaned);
    }
    begin::<E, WORDS, KEY>(env, key, flags, now)
}

/// Moves a half-open flow that proved itself to the established ones.
#[inline(always)]
fn confirm<E, const WORDS: usize, const KEY: usize>(
    env: &E,
    key: &Key<KEY>,
    hit: &Hit,
    state: State,
    now: u32,
) where
    E: Env + Tables<WORDS, KEY>,
{
    let Some(flows) = Tables::<WORDS, KEY>::established(env, key.hash) else { return };
    let Some(half) = Tables::<WORDS, KEY>::half_open(env, key.hash) else { return };
    let entry = Entry { decision: hit.decision, state, now, take: Take::Free };
    match flow_table::insert(flows, key, &entry) {
        Inserted::Free | Inserted::Overwrote | Inserted::Exists => {
            flow_table::retire(half, hit);
        }
        Inserted::Full => {
            // It stays half-open as long as it can, and is told its server by the table after that.
            flow_table::update(half, hit, State::New, now);
            env.count(Reason::FlowTableFull);
            steer::tell::<E, WORDS, KEY>(
                env,
                EventKind::FlowTableFull,
                Decision(hit.decision).service(),
                key,
                now,
            );
        }
        // The next packet tries again.
        Inserted::Taken | Inserted::Twin => {}
    }
}

/// The first packet of a flow.
#[inline(always)]
fn begin<E, const WORDS: usize, const KEY: usize>(
    env: &E,
    key: &Key<KEY>,
    flags: Option<Flags>,
    now: u32,
) -> Result<Decision, Reason>
where
    E: Env + Tables<WORDS, KEY>,
{
    let half = Tables::<WORDS, KEY>::half_open(env, key.hash).ok_or(Reason::StaleTable)?;
    let flows = Tables::<WORDS, KEY>::established(env, key.hash).ok_or(Reason::StaleTable)?;
    let service = Tables::<WORDS, KEY>::service_id(env, &E::ends_of(&key.words)).ok_or(Reason::NoService)?;
    let opens = flags.is_none_or(Flags::is_open);
    // Under a flood an entry may be gone before the client answers, in a full table there is no room for it later,
    // and in mid-stream there is none to begin with. The next packet must find the same server by itself, so the
    // hash decides.
    let remembered = opens
        && !flow_table::is_crowded(half, now, FLOOD_TICKS)
        && !flow_table::is_crowded(flows, now, u32::MAX);
    let by = if remembered { By::Service } else { By::Hash };
    let mut decision = match steer::choose::<E, WORDS, KEY>(env, service, key, by, now) {
        Ok(decision) => decision,
        Err(reason) => {
            if matches!(reason, Reason::NoServerDrop | Reason::NoServerReject) {
                steer::tell::<E, WORDS, KEY>(env, EventKind::NoServer, service as u16, key, now);
            }
            return Err(reason);
        }
    };
    if !opens {
        env.count(Reason::MidStream);
        // A reset needs no memory.
        if flags.is_some_and(Flags::is_rst) {
            return Ok(decision);
        }
    }
    let entry = Entry { decision: decision.0, state: State::New, now, take: Take::Oldest };
    match flow_table::insert_before(half, flows, key, &entry) {
        Inserted::Free => {}
        Inserted::Overwrote => {
            env.count(Reason::HalfOpenOverwritten);
            steer::tell::<E, WORDS, KEY>(env, EventKind::HalfOpenOverwritten, service as u16, key, now);
        }
        Inserted::Exists => {
            // Another CPU was first with the same flow, and may be establishing it: its choice holds. Flows move from
            // here to there, so who looks here first and there second cannot miss one on its way.
            return flow_table::find_apart(half, key)
                .or_else(|| flow_table::find_apart(flows, key))
                .map(|hit| Decision(hit.decision))
                .ok_or(Reason::TwinPacket);
        }
        // Its other packet goes where that CPU decides. To send this one elsewhere would split the flow; the sender
        // repeats what matters.
        Inserted::Twin => return Err(Reason::TwinPacket),
        // Without an entry the next packet must find the same server by itself.
        Inserted::Full | Inserted::Taken => {
            env.count(Reason::EntryTaken);
            decision = steer::choose::<E, WORDS, KEY>(env, service, key, By::Hash, now)?;
        }
    }
    env.count_flow(service);
    Ok(decision)
}
