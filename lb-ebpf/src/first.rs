//! Packets that the hot part leaves over: the first ones of a flow, those that change an established one, and those
//! of flows whose server is gone.

use lb_common::{
    counter::Reason,
    event::EventKind,
    flow::{Decision, State, VOID_GENERATION, kind},
    service::mode,
};

use crate::{
    env::{Env, Tables},
    flow_table::{self, Bucket, Entry, Inserted, Key, Take},
    life::{self, Step},
    load, pair,
    scratch::Scratch,
    steer::{self, By},
    steps::Next,
    wire::tcp::Flags,
};

/// A half-open table whose bucket holds nothing older than this many ticks (some 3 s) is being flooded.
const FLOOD_TICKS: u32 = 24;

/// Decides for the packet in the scratch memory: afterwards its decision stands there, or something else is to be done.
#[inline(always)]
pub fn decide<E, const WORDS: usize, const KEY: usize>(env: &E) -> Next
where
    E: Env + Tables<WORDS, KEY>,
{
    let Some(s) = env.scratch() else { return Next::Drop };
    s.now = env.now();
    s.moved = 0;
    match decide_in::<E, WORDS, KEY>(env, s) {
        Ok(next) => next,
        Err(reason) => Next::because(env, reason),
    }
}

#[inline(always)]
fn decide_in<E, const WORDS: usize, const KEY: usize>(env: &E, s: &mut Scratch) -> Result<Next, Reason>
where
    E: Env + Tables<WORDS, KEY>,
{
    let key = pair::own_key::<E, WORDS, KEY>(env, s).ok_or(Reason::StaleTable)?;
    let flows = Tables::<WORDS, KEY>::established(env, key.hash).ok_or(Reason::StaleTable)?;
    if flow_table::find_into(flows, key, &mut s.hit) {
        let decision = Decision(s.hit.decision);
        s.decision = decision.0;
        if decision.kind() != kind::DR {
            return Ok(Next::Step);
        }
        if is_answered(s, decision) {
            return Ok(Next::Reset);
        }
        if of_established::<E, WORDS, KEY>(env, s, flows) {
            return Ok(Next::Go);
        }
    }
    let half = Tables::<WORDS, KEY>::half_open(env, key.hash).ok_or(Reason::StaleTable)?;
    if flow_table::find_into(half, key, &mut s.hit) {
        let decision = Decision(s.hit.decision);
        s.decision = decision.0;
        if decision.kind() != kind::DR {
            return Ok(Next::HalfStep);
        }
        if is_answered(s, decision) {
            return Ok(Next::Reset);
        }
        if of_half_open::<E, WORDS, KEY>(env, s, half, key) {
            return Ok(Next::Go);
        }
    }
    begin::<E, WORDS, KEY>(env, key)
}

/// True for a segment of a connection that an operator has ended. Its entry stays for a while, so that what comes after
/// is answered, too; a SYN begins another.
#[inline(always)]
fn is_answered(s: &Scratch, decision: Decision) -> bool {
    decision.generation() == VOID_GENERATION && s.seen.tcp().is_some_and(|flags| !flags.is_open())
}

/// A packet of an established flow. False when the flow was retired: the packet begins another.
#[inline(always)]
fn of_established<E, const WORDS: usize, const KEY: usize>(
    env: &E,
    s: &Scratch,
    flows: &Bucket<<E as Tables<WORDS, KEY>>::Word, WORDS>,
) -> bool
where
    E: Env + Tables<WORDS, KEY>,
{
    if steer::live(env, Decision(s.hit.decision)).is_none() {
        flow_table::retire(flows, &s.hit);
        env.count(Reason::FlowOrphaned);
        return false;
    }
    let (state, idle) = (s.hit.control.state(), life::idle(s.now, s.hit.control.last_seen()));
    let step = life::established(state, s.seen.tcp(), idle);
    life::take(env, flows, &s.hit, step, s.now);
    !matches!(step, Step::Reopen)
}

/// A packet of a half-open flow. False when the flow was retired: the packet begins another.
#[inline(always)]
fn of_half_open<E, const WORDS: usize, const KEY: usize>(
    env: &E,
    s: &Scratch,
    half: &Bucket<<E as Tables<WORDS, KEY>>::Word, WORDS>,
    key: &Key<KEY>,
) -> bool
where
    E: Env + Tables<WORDS, KEY>,
{
    if steer::live(env, Decision(s.hit.decision)).is_none() {
        flow_table::retire(half, &s.hit);
        env.count(Reason::FlowOrphaned);
        return false;
    }
    match life::half_open(s.seen.tcp(), life::idle(s.now, s.hit.control.last_seen())) {
        Step::Keep | Step::Reopen => {}
        Step::Become(State::New) => {
            flow_table::update(half, &s.hit, State::New, s.now);
            load::syn_repeated(env, Decision(s.hit.decision));
        }
        Step::Become(state) => confirm::<E, WORDS, KEY>(env, key, state, s),
        Step::End => {
            flow_table::retire(half, &s.hit);
        }
    }
    true
}

/// Moves a half-open flow that proved itself to the established ones.
#[inline(always)]
fn confirm<E, const WORDS: usize, const KEY: usize>(env: &E, key: &Key<KEY>, state: State, s: &Scratch)
where
    E: Env + Tables<WORDS, KEY>,
{
    let Some(flows) = Tables::<WORDS, KEY>::established(env, key.hash) else { return };
    let Some(half) = Tables::<WORDS, KEY>::half_open(env, key.hash) else { return };
    let entry = Entry { decision: s.hit.decision, rewrite: &s.rewrite, state, now: s.now, take: Take::Free };
    match flow_table::insert(flows, key, &entry) {
        inserted @ (Inserted::Free | Inserted::Overwrote | Inserted::Exists) => {
            flow_table::retire(half, &s.hit);
            if inserted == Inserted::Free {
                settled(env, Decision(s.hit.decision), state);
            }
        }
        Inserted::Full => stays_half_open::<E, WORDS, KEY>(env, half, s),
        // The next packet tries again.
        Inserted::Taken | Inserted::Twin => {}
    }
}

/// What follows when a client has proved a flow, and its entry stands among the established ones.
#[inline(always)]
pub fn settled<E: Env>(env: &E, decision: Decision, state: State) {
    if load::is_active(state as u8) {
        load::begun(env, decision);
    }
    env.stick();
}

/// There is no room for a flow that proved itself: it stays half-open as long as it can.
#[inline(always)]
pub fn stays_half_open<E, const WORDS: usize, const KEY: usize>(
    env: &E,
    half: &Bucket<<E as Tables<WORDS, KEY>>::Word, WORDS>,
    s: &Scratch,
) where
    E: Env + Tables<WORDS, KEY>,
{
    flow_table::update(half, &s.hit, State::New, s.now);
    env.count(Reason::FlowTableFull);
    let service = Decision(s.hit.decision).service();
    steer::tell(env, EventKind::FlowTableFull, service, &s.seen.ends, s.now);
}

/// The first packet of a flow.
#[inline(always)]
fn begin<E, const WORDS: usize, const KEY: usize>(env: &E, key: &Key<KEY>) -> Result<Next, Reason>
where
    E: Env + Tables<WORDS, KEY>,
{
    let by = look::<E, WORDS, KEY>(env, key)?;
    let asked = steer::ask(env, by);
    let s = env.scratch().ok_or(Reason::StaleTable)?;
    if let Err(reason) = asked {
        if matches!(reason, Reason::NoServerDrop | Reason::NoServerReject) {
            steer::tell(env, EventKind::NoServer, s.service as u16, &s.seen.ends, s.now);
        }
        return Err(reason);
    }
    if s.seen.tcp().is_some_and(|flags| !flags.is_open()) {
        env.count(Reason::MidStream);
    }
    if Decision(s.decision).kind() != kind::DR {
        return Ok(Next::Prepare);
    }
    // A reset needs no memory.
    if s.seen.tcp().is_some_and(Flags::is_rst) {
        return Ok(Next::Go);
    }
    let half = Tables::<WORDS, KEY>::half_open(env, key.hash).ok_or(Reason::StaleTable)?;
    let flows = Tables::<WORDS, KEY>::established(env, key.hash).ok_or(Reason::StaleTable)?;
    let entry = Entry {
        decision: s.decision,
        rewrite: &s.rewrite,
        state: State::New,
        now: s.now,
        take: Take::Oldest,
    };
    match flow_table::insert_before(half, flows, key, &entry) {
        Inserted::Free => {}
        Inserted::Overwrote => {
            env.count(Reason::HalfOpenOverwritten);
            steer::tell(env, EventKind::HalfOpenOverwritten, s.service as u16, &s.seen.ends, s.now);
        }
        Inserted::Exists => {
            // Another CPU was first with the same flow, and may be establishing it: its choice holds. Flows move from
            // here to there, so who looks here first and there second cannot miss one on its way.
            let hit = flow_table::find_apart(half, key).or_else(|| flow_table::find_apart(flows, key));
            s.decision = hit.ok_or(Reason::TwinPacket)?.decision;
            return Ok(Next::Go);
        }
        // Its other packet goes where that CPU decides. To send this one elsewhere would split the flow; the sender
        // repeats what matters.
        Inserted::Twin => return Err(Reason::TwinPacket),
        // Without an entry the next packet must find the same server by itself.
        Inserted::Full | Inserted::Taken => {
            env.count(Reason::EntryTaken);
            steer::ask(env, By::Hash)?;
        }
    }
    if let Some(s) = env.scratch() {
        env.count_flow(s.service);
    }
    Ok(Next::Go)
}

/// Finds the service of a flow's first packet, and how its server is to be found.
#[inline(always)]
fn look<E, const WORDS: usize, const KEY: usize>(env: &E, key: &Key<KEY>) -> Result<By, Reason>
where
    E: Env + Tables<WORDS, KEY>,
{
    let s = env.scratch().ok_or(Reason::StaleTable)?;
    let half = Tables::<WORDS, KEY>::half_open(env, key.hash).ok_or(Reason::StaleTable)?;
    let flows = Tables::<WORDS, KEY>::established(env, key.hash).ok_or(Reason::StaleTable)?;
    let service = Tables::<WORDS, KEY>::service_id(env, &s.seen.ends).ok_or(Reason::NoService)?;
    let routed = env.service(service).is_some_and(|record| record.mode != mode::DR);
    s.service = service;
    let tcp = s.seen.tcp();
    if routed && tcp.is_some_and(Flags::is_rst) {
        return Err(Reason::MidStreamReset);
    }
    let full = flow_table::is_crowded(flows, s.now, u32::MAX);
    if routed && full {
        steer::tell(env, EventKind::FlowRefused, service as u16, &s.seen.ends, s.now);
        return Err(Reason::FlowRefused);
    }
    // Under a flood an entry may be gone before the client answers, in a full table there is no room for it later,
    // and in mid-stream there is none to begin with. The next packet must find the same server by itself, so the
    // hash decides.
    let opens = tcp.is_none_or(Flags::is_open);
    let remembered = opens && !full && !flow_table::is_crowded(half, s.now, FLOOD_TICKS);
    Ok(if remembered { By::Service } else { By::Hash })
}
