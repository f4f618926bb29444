//! How busy servers are: the counts that least-connection scheduling and limits go by (`lb_common::load`).

use lb_common::{
    flow::{Decision, State, kind},
    load::{self, Limits, flags},
};

use crate::{
    env::Env,
    flow_table::{Hit, SharedWord, Word as _},
    steer,
};

/// A [`load::Load`] as both sides of the border share it.
pub type Words = [SharedWord; 4];

const ACTIVE: usize = 0;
const LIMITS: usize = 1;
const FULL: usize = 2;
const SYN_REPEATS: usize = 3;

/// True when nobody may be sent there who is not there already.
#[inline(always)]
pub fn is_closed<E: Env>(env: &E, slot: u32) -> bool {
    env.load(slot).is_some_and(|words| Limits::of(words[LIMITS].load()).flags & flags::CLOSED != 0)
}

/// What a server has, for those who choose: [`NO_ROOM`], or its active connections above 16 bits of weight. Writes down
/// when it becomes full, and when it is no more.
#[inline(always)]
pub fn held<E: Env>(env: &E, slot: u32) -> u64 {
    let Some(words) = env.load(slot) else { return NO_ROOM };
    let limits = Limits::of(words[LIMITS].load());
    let active = words[ACTIVE].load();
    if limits.max != 0 {
        let full = words[FULL].load() != 0;
        let room = load::room(limits, active, full);
        if room == full {
            // Another CPU may write the opposite at the same time: the next flow sets it right.
            words[FULL].store(u64::from(!room));
        }
        if !room {
            return NO_ROOM;
        }
    }
    load::held(active) << 16 | limits.weight as u64
}

/// The server takes no more.
pub const NO_ROOM: u64 = u64::MAX;

/// Counts a flow that its client has proved.
#[inline(always)]
pub fn begun<E: Env>(env: &E, decision: Decision) {
    let Some(words) = env.load(u32::from(decision.slot())) else { return };
    words[ACTIVE].add(1);
    // Read first: with servers that answer it is zero, and the line is another CPU's, too.
    if words[SYN_REPEATS].load() != 0 {
        words[SYN_REPEATS].store(0);
    }
}

/// Counts a SYN that came again: the client has no answer yet.
#[inline(always)]
pub fn syn_repeated<E: Env>(env: &E, decision: Decision) {
    if let Some(words) = env.load(u32::from(decision.slot())) {
        words[SYN_REPEATS].add(1);
    }
}

/// Takes a flow off the count that was in `before`, and is not active any more. Only the client's entry counts.
#[inline(always)]
pub fn ended<E: Env>(env: &E, decision: Decision, before: u8) {
    if is_active(before) && decision.kind() != kind::REPLY {
        add(env, decision, u64::MAX);
    }
}

/// The same for an entry that was retired wherever it stood: its server may be dead, whose count the controller sets.
///
/// Not inlined, like all that is rare and called from several places.
#[inline(never)]
pub fn retired<E: Env>(env: &E, hit: &Hit) {
    let decision = Decision(hit.decision);
    if steer::live(env, decision).is_some() {
        ended(env, decision, hit.control.state());
    }
}

/// True for a state that counts as an active connection.
#[inline(always)]
#[must_use]
pub const fn is_active(state: u8) -> bool {
    state == State::Established as u8 || state == State::Datagrams as u8
}

#[inline(always)]
fn add<E: Env>(env: &E, decision: Decision, delta: u64) {
    if let Some(words) = env.load(u32::from(decision.slot())) {
        words[ACTIVE].add(delta);
    }
}
