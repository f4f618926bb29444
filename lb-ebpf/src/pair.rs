//! Flows with both directions in sight: NAT and SNAT. Two entries each, one for either direction, which lead to each
//! other (`lb_common::flow`, "Pairs") and are kept in step here.
//!
//! The entry for the server's packets is inserted first: it is what makes the flow's ends between this machine and the
//! server its own, and so the claim on a source port. No lock and no list of free ports is needed: whoever inserts
//! has the port, and who finds it taken tries the next.

use lb_common::{
    counter::Reason,
    event::EventKind,
    flow::{Decision, Ends, Rewrite, State, VOID_GENERATION, kind},
    hash,
    service::{Sources, flags, mode},
};

use crate::{
    action::way,
    env::{Env, Tables},
    first,
    flow_table::{self, Bucket, Entry, Hit, Inserted, Key, Take, Word},
    life::{self, PairStep, Step, TOUCH_TICKS},
    load,
    scratch::Scratch,
    steer,
    steps::Next,
    wire::tcp::Flags,
};

/// The hop in a client's entry whose replies go by the routing table: nothing to compare packets with.
const NO_HOP: [u64; 2] = [0; 2];

/// Key and hash of the packet's own flow. Not on the stack, which is short here.
#[inline(always)]
pub fn own_key<'a, E, const WORDS: usize, const KEY: usize>(env: &'a E, s: &Scratch) -> Option<&'a Key<KEY>>
where
    E: Env + Tables<WORDS, KEY>,
{
    let key = Tables::<WORDS, KEY>::own_key(env)?;
    key.words = <E as Tables<WORDS, KEY>>::key_words(&s.seen.ends);
    key.hash = Tables::<WORDS, KEY>::hash(env, &key.words);
    Some(key)
}

/// Key and hash of the other entry's flow, whose ends stand in `s.reply`, likewise.
#[inline(always)]
fn reply_key<'a, E, const WORDS: usize, const KEY: usize>(env: &'a E, s: &Scratch) -> Option<&'a Key<KEY>>
where
    E: Env + Tables<WORDS, KEY>,
{
    let key = Tables::<WORDS, KEY>::reply_key(env)?;
    key.words = <E as Tables<WORDS, KEY>>::key_words(&s.reply);
    key.hash = Tables::<WORDS, KEY>::hash(env, &key.words);
    Some(key)
}

/// Begins a flow that was decided for: makes its rewrite, as far as its source is known.
#[inline(always)]
pub fn prepare<E: Env>(env: &E) -> Next {
    let Some(s) = env.scratch() else { return Next::Drop };
    match prepare_in(env, s) {
        Ok(next) => next,
        Err(reason) => Next::because(env, reason),
    }
}

#[inline(always)]
fn prepare_in<E: Env>(env: &E, s: &mut Scratch) -> Result<Next, Reason> {
    let record = env.service(s.service).ok_or(Reason::NoService)?;
    let target = env.target(u32::from(Decision(s.decision).slot())).ok_or(Reason::StaleTable)?;
    let ends = &s.seen.ends;
    let (client_port, asked) = (ends.ports & 0xffff, ends.ports >> 16);
    let port = if target.port == 0 { asked } else { u32::from(target.port) };
    let came = came_by(env, s).ok_or(Reason::Malformed)?;
    let (hop, back_hop) = if record.flags & flags::RETURN_BY_ROUTE == 0 {
        (came, came)
    } else {
        (NO_HOP, route_or(env, ends, came))
    };
    s.there = Ends { dst: target.addr, ports: client_port | port << 16, ..*ends };
    s.rewrite.hop_words = hop;
    s.back.hop_words = back_hop;
    make_rewrites(s);
    Ok(if record.mode == mode::NAT { Next::Claim } else { Next::FindSource })
}

#[inline(always)]
fn came_by<E: Env>(env: &E, s: &Scratch) -> Option<[u64; 2]> {
    way::came_by(env, &env.packet(), s.seen.link)
}

/// Makes the flow's own entry, when the other one stands. [`Next::Taken`]: it could not; [`back_out`] goes on.
#[inline(always)]
pub fn enter<E, const WORDS: usize, const KEY: usize>(env: &E) -> Next
where
    E: Env + Tables<WORDS, KEY>,
{
    let Some(s) = env.scratch() else { return Next::Drop };
    let Some(own) = own_key::<E, WORDS, KEY>(env, s) else { return Next::Drop };
    let Some(half) = Tables::<WORDS, KEY>::half_open(env, own.hash) else { return Next::Drop };
    let Some(flows) = Tables::<WORDS, KEY>::established(env, own.hash) else { return Next::Drop };
    let entry = Entry {
        decision: s.decision,
        rewrite: &s.rewrite,
        state: State::New,
        now: s.now,
        take: Take::Oldest,
    };
    match flow_table::insert_before(half, flows, own, &entry) {
        Inserted::Free => {}
        Inserted::Overwrote => {
            env.count(Reason::HalfOpenOverwritten);
            let service = s.service as u16;
            steer::tell(env, EventKind::HalfOpenOverwritten, service, &s.seen.ends, s.now);
        }
        Inserted::Exists | Inserted::Full | Inserted::Taken | Inserted::Twin => return Next::Taken,
    }
    env.count_flow(s.service);
    Next::Go
}

/// The flow's own entry could not be made: takes the other one back, unless it is another CPU's packet of this very flow
/// that has just established both.
#[inline(always)]
pub fn back_out<E, const WORDS: usize, const KEY: usize>(env: &E) -> Next
where
    E: Env + Tables<WORDS, KEY>,
{
    let Some(s) = env.scratch() else { return Next::Drop };
    let Some(own) = own_key::<E, WORDS, KEY>(env, s) else { return Next::Drop };
    let half = Tables::<WORDS, KEY>::half_open(env, own.hash);
    let flows = Tables::<WORDS, KEY>::established(env, own.hash);
    for bucket in [half, flows].into_iter().flatten() {
        // An entry that leads to ours is ours.
        if flow_table::find_into(bucket, own, &mut s.hit)
            && flow_table::rewrite(bucket, &s.hit).is_some_and(|to| to.sibling(&s.seen.ends) == s.reply)
        {
            env.count_flow(s.service);
            return Next::Go;
        }
    }
    // Without an entry the next packet would not find the same source port. The sender repeats what matters.
    retire_reply::<E, WORDS, KEY>(env, s);
    Next::because(env, Reason::TwinPacket)
}

/// The way to the client by the routing table, or the way that its packet came.
#[inline(always)]
fn route_or<E: Env>(env: &E, ends: &Ends, came: [u64; 2]) -> [u64; 2] {
    env.route(&ends.reversed()).unwrap_or_else(|| {
        env.count(Reason::NoRoute);
        came
    })
}

/// Makes both rewrites, whose hops are known, from what the client shows and what the server sees.
///
/// Not inlined: its stack is not its caller's, which goes on to insert.
#[inline(never)]
const fn make_rewrites(s: &mut Scratch) {
    s.rewrite = Rewrite::by(&s.seen.ends, &s.there, s.rewrite.hop_words);
    s.reply = s.there.reversed();
    s.back = Rewrite::by(&s.reply, &s.seen.ends.reversed(), s.back.hop_words);
}

#[inline(always)]
const fn reply_decision(decision: Decision) -> u64 {
    Decision::new(kind::REPLY, decision.service(), decision.slot(), decision.generation()).0
}

/// Makes the other entry of a NAT flow, whose ends are given. [`Next::Taken`]: they stand already.
#[inline(always)]
pub fn claim<E, const WORDS: usize, const KEY: usize>(env: &E) -> Next
where
    E: Env + Tables<WORDS, KEY>,
{
    let Some(s) = env.scratch() else { return Next::Drop };
    match claim_in::<E, WORDS, KEY>(env, s) {
        Ok(()) => Next::Go,
        Err(Reason::ReplyClash) => Next::Taken,
        Err(reason) => {
            if matches!(reason, Reason::FlowRefused) {
                steer::tell(env, EventKind::FlowRefused, s.service as u16, &s.seen.ends, s.now);
            }
            Next::because(env, reason)
        }
    }
}

/// Looks at whom the ends belong to that a new flow wants. [`Next::Claim`]: they were this flow's, whose other half was
/// lost, and are free.
#[inline(always)]
pub fn give_up<E, const WORDS: usize, const KEY: usize>(env: &E) -> Next
where
    E: Env + Tables<WORDS, KEY>,
{
    let Some(s) = env.scratch() else { return Next::Drop };
    let Some(reply) = reply_key::<E, WORDS, KEY>(env, s) else { return Next::Drop };
    let half = Tables::<WORDS, KEY>::half_open(env, reply.hash);
    let flows = Tables::<WORDS, KEY>::established(env, reply.hash);
    // What was there a moment ago and is gone was not another flow's for long: only a pair that is not finished is
    // taken back so soon.
    let mut next = Reason::TwinPacket;
    for bucket in [half, flows].into_iter().flatten() {
        if !flow_table::find_into(bucket, reply, &mut s.hit) {
            continue;
        }
        if !leads_back(bucket, &s.hit, s) {
            next = Reason::ReplyClash;
            break;
        }
        // Another CPU is about to make the other half.
        if life::idle(s.now, s.hit.control.last_seen()) < TOUCH_TICKS {
            next = Reason::TwinPacket;
            break;
        }
        flow_table::retire(bucket, &s.hit);
        next = Reason::HalfPair;
    }
    if !matches!(next, Reason::HalfPair) {
        return Next::because(env, next);
    }
    env.count(Reason::HalfPair);
    Next::Claim
}

/// The n-th try for a source. The sequence follows from the client's ends alone, so that a flow whose entry was lost
/// most likely finds the port that it had.
#[inline(always)]
pub fn try_source<E, const WORDS: usize, const KEY: usize>(env: &E, n: u32) -> Next
where
    E: Env + Tables<WORDS, KEY>,
{
    let Some(s) = env.scratch() else { return Next::Drop };
    let Some(sources) = env.sources(s.service) else { return Next::Drop };
    let Some((source, port)) = candidate(sources, &s.seen.ends, n) else {
        return no_source(env);
    };
    s.there.src = source;
    s.there.ports = u32::from(port.to_be()) | s.there.ports & 0xffff_0000;
    make_rewrites(s);
    match claim_in::<E, WORDS, KEY>(env, s) {
        Ok(()) => Next::Go,
        // Another port is found by another bucket.
        Err(Reason::ReplyClash | Reason::FlowRefused) => Next::Taken,
        Err(reason) => Next::because(env, reason),
    }
}

/// No source is free.
#[inline(always)]
pub fn no_source<E: Env>(env: &E) -> Next {
    let Some(s) = env.scratch() else { return Next::Drop };
    steer::tell(env, EventKind::NoSourcePort, s.service as u16, &s.seen.ends, s.now);
    Next::because(env, Reason::NoSourcePort)
}

/// Inserts the other entry, half-open.
#[inline(always)]
fn claim_in<E, const WORDS: usize, const KEY: usize>(env: &E, s: &Scratch) -> Result<(), Reason>
where
    E: Env + Tables<WORDS, KEY>,
{
    let reply = reply_key::<E, WORDS, KEY>(env, s).ok_or(Reason::StaleTable)?;
    let half = Tables::<WORDS, KEY>::half_open(env, reply.hash).ok_or(Reason::StaleTable)?;
    let flows = Tables::<WORDS, KEY>::established(env, reply.hash).ok_or(Reason::StaleTable)?;
    // Nine tries of ten that fail do so here, without a claim that others see.
    if flow_table::find_apart(half, reply).is_some() || flow_table::find_apart(flows, reply).is_some() {
        return Err(Reason::ReplyClash);
    }
    // There will be no room for it once the client has answered: say no now, while the client takes it for one.
    if flow_table::is_crowded(flows, s.now, u32::MAX) {
        return Err(Reason::FlowRefused);
    }
    let entry = Entry {
        decision: reply_decision(Decision(s.decision)),
        rewrite: &s.back,
        state: State::New,
        now: s.now,
        take: Take::Oldest,
    };
    match flow_table::insert_before(half, flows, reply, &entry) {
        Inserted::Free => Ok(()),
        Inserted::Overwrote => {
            env.count(Reason::HalfOpenOverwritten);
            Ok(())
        }
        Inserted::Exists => Err(Reason::ReplyClash),
        Inserted::Full | Inserted::Taken | Inserted::Twin => Err(Reason::TwinPacket),
    }
}

/// The n-th source address and port (host order) for a client's flow; `None` when there are none at all.
#[inline(always)]
fn candidate(sources: &Sources, ends: &Ends, n: u32) -> Option<([u64; 2], u16)> {
    let h = hash::finish(hash::mix(hash::steer(ends.src, ends.dst, ends.ports_word()), u64::from(n)));
    let index = scaled((h >> 32) as u32, sources.count);
    if sources.count == 0 || sources.ports == 0 {
        return None;
    }
    let address = sources.addrs.get(index as usize)?;
    let port = scaled(h as u32, u32::from(sources.ports)) as u16;
    Some((*address, sources.first_port.wrapping_add(port)))
}

#[inline(always)]
const fn scaled(hash: u32, len: u32) -> u32 {
    ((hash as u64 * len as u64) >> 32) as u32
}

/// Takes back the other entry, wherever it is, if it leads to this one. Its ends stand in `s.reply`.
///
/// Not inlined, like all that is rare and called from several places.
#[inline(never)]
fn retire_reply<E, const WORDS: usize, const KEY: usize>(env: &E, s: &Scratch)
where
    E: Env + Tables<WORDS, KEY>,
{
    let Some(reply) = reply_key::<E, WORDS, KEY>(env, s) else { return };
    let half = Tables::<WORDS, KEY>::half_open(env, reply.hash);
    let flows = Tables::<WORDS, KEY>::established(env, reply.hash);
    for bucket in [half, flows].into_iter().flatten() {
        if let Some(hit) = flow_table::find_apart(bucket, reply)
            && leads_back(bucket, &hit, s)
            && flow_table::retire(bucket, &hit)
        {
            load::retired(env, &hit);
        }
    }
}

/// True when the other entry, which was found, leads to this one. One whose own other half was lost may be of a flow
/// that has begun anew with other ends.
#[inline(never)]
fn leads_back<W: Word, const WORDS: usize>(bucket: &Bucket<W, WORDS>, hit: &Hit, s: &Scratch) -> bool {
    flow_table::rewrite(bucket, hit).is_some_and(|back| back.sibling(&s.reply) == s.seen.ends)
}

/// Steps the established pair that the packet in the scratch memory belongs to.
#[inline(always)]
pub fn step<E, const WORDS: usize, const KEY: usize>(env: &E) -> Next
where
    E: Env + Tables<WORDS, KEY>,
{
    let Some(s) = env.scratch() else { return Next::Drop };
    let Some(flows) = Tables::<WORDS, KEY>::established(env, s.seen.hash) else { return Next::Drop };
    let Some(rewrite) = flow_table::rewrite(flows, &s.hit) else { return Next::Anew };
    s.rewrite = rewrite;
    s.reply = s.rewrite.sibling(&s.seen.ends);
    let decision = Decision(s.hit.decision);
    if steer::live(env, decision).is_none() {
        return orphan::<E, WORDS, KEY>(env, s, flows);
    }
    let from_client = decision.kind() != kind::REPLY;
    if from_client {
        note_way(env, s);
    }
    let state = s.hit.control.state();
    let step = s.seen.tcp().map_or(PairStep::Keep, |flags| life::pair(state, from_client, flags));
    match step {
        PairStep::Keep => {
            if life::idle(s.now, s.hit.control.last_seen()) >= TOUCH_TICKS {
                flow_table::touch(flows, &s.hit, s.now);
            }
        }
        PairStep::Fin { own, other } => {
            if flow_table::update(flows, &s.hit, own, s.now) {
                load::ended(env, decision, state);
            }
            if let Some(reply) = reply_key::<E, WORDS, KEY>(env, s)
                && let Some(flows) = Tables::<WORDS, KEY>::established(env, reply.hash)
                && flow_table::find_into(flows, reply, &mut s.hit)
                && flow_table::update(flows, &s.hit, other, s.now)
            {
                load::retired(env, &s.hit);
            }
        }
        PairStep::End | PairStep::Reopen => {
            if flow_table::retire(flows, &s.hit) {
                load::ended(env, decision, state);
            }
            retire_reply::<E, WORDS, KEY>(env, s);
            s.moved = 0;
            if step == PairStep::Reopen {
                return Next::Anew;
            }
        }
    }
    Next::Go
}

/// Steps the half-open pair that the packet in the scratch memory belongs to.
#[inline(always)]
pub fn half_step<E, const WORDS: usize, const KEY: usize>(env: &E) -> Next
where
    E: Env + Tables<WORDS, KEY>,
{
    let Some(s) = env.scratch() else { return Next::Drop };
    let Some(half) = Tables::<WORDS, KEY>::half_open(env, s.seen.hash) else { return Next::Drop };
    let Some(rewrite) = flow_table::rewrite(half, &s.hit) else { return Next::Anew };
    s.rewrite = rewrite;
    s.reply = s.rewrite.sibling(&s.seen.ends);
    let decision = Decision(s.hit.decision);
    if steer::live(env, decision).is_none() {
        return orphan::<E, WORDS, KEY>(env, s, half);
    }
    if decision.kind() != kind::REPLY {
        // Half-open entries make room for younger ones: without the other half a SYN has no way back. What proves the
        // client makes the other half again.
        if s.seen.tcp().is_some_and(Flags::is_open) && !has_reply::<E, WORDS, KEY>(env, s) {
            flow_table::retire(half, &s.hit);
            env.count(Reason::HalfPair);
            return Next::Anew;
        }
        note_way(env, s);
    }
    let idle = life::idle(s.now, s.hit.control.last_seen());
    let step = match (decision.kind(), s.seen.tcp()) {
        (kind::REPLY, Some(flags)) if flags.is_rst() => Step::End,
        // What a server says proves nothing of the client.
        (kind::REPLY, _) if idle >= TOUCH_TICKS => Step::Become(State::New),
        (kind::REPLY, _) => Step::Keep,
        (_, flags) => life::half_open(flags, idle),
    };
    match step {
        Step::Keep | Step::Reopen => {}
        Step::Become(State::New) => {
            flow_table::update(half, &s.hit, State::New, s.now);
            if decision.kind() != kind::REPLY {
                load::syn_repeated(env, decision);
            }
        }
        Step::Become(state) => {
            s.state = state as u32;
            return Next::Confirm;
        }
        Step::End => {
            flow_table::retire(half, &s.hit);
            retire_reply::<E, WORDS, KEY>(env, s);
            s.moved = 0;
        }
    }
    Next::Go
}

/// A packet of a flow whose server is gone. `bucket` holds its entry.
#[inline(always)]
fn orphan<E, const WORDS: usize, const KEY: usize>(
    env: &E,
    s: &Scratch,
    bucket: &Bucket<<E as Tables<WORDS, KEY>>::Word, WORDS>,
) -> Next
where
    E: Env + Tables<WORDS, KEY>,
{
    let service = env.service(u32::from(Decision(s.hit.decision).service()));
    let is_void = Decision(s.hit.decision).generation() == VOID_GENERATION;
    let resets = is_void || service.is_some_and(|record| record.flags & flags::RESET != 0);
    // The entry stays for a while, so that what comes after this packet is answered, too.
    if resets && s.seen.tcp().is_some_and(|flags| !flags.is_open()) {
        return Next::Reset;
    }
    flow_table::retire(bucket, &s.hit);
    retire_reply::<E, WORDS, KEY>(env, s);
    env.count(Reason::FlowOrphaned);
    Next::Anew
}

/// True when the other half of the half-open entry in `s` is there, or has just been established by another CPU.
#[inline(always)]
fn has_reply<E, const WORDS: usize, const KEY: usize>(env: &E, s: &Scratch) -> bool
where
    E: Env + Tables<WORDS, KEY>,
{
    let Some(reply) = reply_key::<E, WORDS, KEY>(env, s) else { return false };
    let half = Tables::<WORDS, KEY>::half_open(env, reply.hash);
    let flows = Tables::<WORDS, KEY>::established(env, reply.hash);
    for bucket in [half, flows].into_iter().flatten() {
        if flow_table::find_apart(bucket, reply).is_some_and(|hit| leads_back(bucket, &hit, s)) {
            return true;
        }
    }
    false
}

/// Notes that a client's packet came another way than those before.
#[inline(always)]
fn note_way<E: Env>(env: &E, s: &mut Scratch) {
    let known = s.rewrite.hop_words;
    if known == NO_HOP {
        return;
    }
    if let Some(came) = came_by(env, s).filter(|came| *came != known) {
        s.came = came;
        s.moved = 1;
    }
}

/// Follows a client whose packets come another way than they did: replies go where the packets come from.
#[inline(always)]
pub fn follow<E, const WORDS: usize, const KEY: usize>(env: &E) -> Next
where
    E: Env + Tables<WORDS, KEY>,
{
    let Some(s) = env.scratch() else { return Next::Drop };
    // The other entry first: should it be lost to another CPU now, this one still says that it is to be done.
    if let Some(reply) = reply_key::<E, WORDS, KEY>(env, s) {
        amend::<E, WORDS, KEY>(env, reply, s);
    }
    if let Some(own) = own_key::<E, WORDS, KEY>(env, s) {
        amend::<E, WORDS, KEY>(env, own, s);
    }
    env.count(Reason::HopMoved);
    Next::Go
}

/// Writes the way that the packet came into an entry, wherever it is.
#[inline(never)]
fn amend<E, const WORDS: usize, const KEY: usize>(env: &E, key: &Key<KEY>, s: &Scratch)
where
    E: Env + Tables<WORDS, KEY>,
{
    let half = Tables::<WORDS, KEY>::half_open(env, key.hash);
    let flows = Tables::<WORDS, KEY>::established(env, key.hash);
    for bucket in [half, flows].into_iter().flatten() {
        if let Some(hit) = flow_table::find_apart(bucket, key) {
            flow_table::amend(bucket, &hit, s.came, s.now);
        }
    }
}

/// Moves a half-open pair to the established ones, whose client proved itself by the packet in the scratch memory:
/// first the other entry. [`Next::Go`]: this one may follow.
#[inline(always)]
pub fn confirm_reply<E, const WORDS: usize, const KEY: usize>(env: &E) -> Next
where
    E: Env + Tables<WORDS, KEY>,
{
    let Some(s) = env.scratch() else { return Next::Drop };
    let Some(reply) = reply_key::<E, WORDS, KEY>(env, s) else { return Next::Drop };
    let Some(half) = Tables::<WORDS, KEY>::half_open(env, reply.hash) else { return Next::Drop };
    let Some(flows) = Tables::<WORDS, KEY>::established(env, reply.hash) else { return Next::Drop };
    match flow_table::find_apart(half, reply).and_then(|hit| flow_table::rewrite(half, &hit)) {
        Some(back) => s.back = back,
        None if remake_back(env, s) => {}
        None => return Next::Drop,
    }
    if s.back.sibling(&s.reply) != s.seen.ends {
        return clash::<E, WORDS, KEY>(env, s);
    }
    match establish_reply(flows, reply, s) {
        Inserted::Free | Inserted::Overwrote => Next::Go,
        // The next packet tries again.
        Inserted::Taken | Inserted::Twin => Next::Wait,
        // Another CPU moved the same pair, perhaps into the last place, or these ends were another flow's before they
        // could be made again.
        inserted @ (Inserted::Exists | Inserted::Full) => match flow_table::find_apart(flows, reply) {
            Some(hit) if leads_back(flows, &hit, s) => Next::Go,
            Some(_) => clash::<E, WORDS, KEY>(env, s),
            None if inserted == Inserted::Full => Next::Full,
            None => Next::Wait,
        },
    }
}

/// The other entry was lost, and its ends are another flow's now: this flow is over.
#[inline(always)]
fn clash<E, const WORDS: usize, const KEY: usize>(env: &E, s: &Scratch) -> Next
where
    E: Env + Tables<WORDS, KEY>,
{
    if let Some(half) = Tables::<WORDS, KEY>::half_open(env, s.seen.hash) {
        flow_table::retire(half, &s.hit);
    }
    Next::because(env, Reason::ReplyClash)
}

/// The other entry made room for a younger one: its rewrite, made again from what this entry knows.
#[inline(never)]
fn remake_back<E: Env>(env: &E, s: &mut Scratch) -> bool {
    let mut hop = s.rewrite.hop_words;
    if hop == NO_HOP {
        let Some(came) = came_by(env, s) else { return false };
        hop = route_or(env, &s.seen.ends, came);
    }
    s.back = Rewrite::by(&s.reply, &s.seen.ends.reversed(), hop);
    true
}

#[inline(always)]
const fn confirmed_state(s: &Scratch) -> State {
    const CLOSING: u32 = State::Closing as u32;
    const DATAGRAMS: u32 = State::Datagrams as u32;
    match s.state {
        CLOSING => State::Closing,
        DATAGRAMS => State::Datagrams,
        _ => State::Established,
    }
}

/// Then this entry; both half-open ones are retired. [`Next::Full`]: it stays half-open.
#[inline(always)]
pub fn confirm<E, const WORDS: usize, const KEY: usize>(env: &E) -> Next
where
    E: Env + Tables<WORDS, KEY>,
{
    let Some(s) = env.scratch() else { return Next::Drop };
    let Some(own) = own_key::<E, WORDS, KEY>(env, s) else { return Next::Drop };
    let Some(half) = Tables::<WORDS, KEY>::half_open(env, own.hash) else { return Next::Drop };
    let Some(flows) = Tables::<WORDS, KEY>::established(env, own.hash) else { return Next::Drop };
    let entry = Entry {
        decision: s.decision,
        rewrite: &s.rewrite,
        state: confirmed_state(s),
        now: s.now,
        take: Take::Free,
    };
    match flow_table::insert(flows, own, &entry) {
        inserted @ (Inserted::Free | Inserted::Overwrote | Inserted::Exists) => {
            let Some(reply) = reply_key::<E, WORDS, KEY>(env, s) else { return Next::Drop };
            let Some(replies) = Tables::<WORDS, KEY>::established(env, reply.hash) else { return Next::Drop };
            // See `full`. The next packet tries again.
            if flow_table::find_apart(replies, reply).is_none() {
                if let Some(hit) = flow_table::find_apart(flows, own) {
                    flow_table::retire(flows, &hit);
                }
                return Next::Go;
            }
            flow_table::retire(half, &s.hit);
            if let Some(half) = Tables::<WORDS, KEY>::half_open(env, reply.hash) {
                retire_in(half, reply, s);
            }
            if inserted == Inserted::Free {
                first::settled(env, Decision(s.decision), confirmed_state(s));
            }
            Next::Go
        }
        // Another CPU may have put it into the last place.
        Inserted::Full if flow_table::find_apart(flows, own).is_some() => Next::Go,
        Inserted::Full => Next::Full,
        // The next packet tries again.
        Inserted::Taken | Inserted::Twin => Next::Go,
    }
}

/// There is no room for a pair that proved itself: it stays half-open as long as it can.
///
/// The other entry is taken back. Another CPU may put this one beside it at the same moment. It looks for the other one
/// after that, and here this one is looked for, so at least one of the two sees what happened.
#[inline(always)]
pub fn full<E, const WORDS: usize, const KEY: usize>(env: &E) -> Next
where
    E: Env + Tables<WORDS, KEY>,
{
    let Some(s) = env.scratch() else { return Next::Drop };
    let Some(half) = Tables::<WORDS, KEY>::half_open(env, s.seen.hash) else { return Next::Drop };
    if let Some(reply) = reply_key::<E, WORDS, KEY>(env, s)
        && let Some(flows) = Tables::<WORDS, KEY>::established(env, reply.hash)
    {
        retire_in(flows, reply, s);
        if let Some(own) = own_key::<E, WORDS, KEY>(env, s)
            && let Some(own_flows) = Tables::<WORDS, KEY>::established(env, own.hash)
            && flow_table::find_apart(own_flows, own).is_some()
        {
            establish_reply(flows, reply, s);
            return Next::Go;
        }
    }
    first::stays_half_open::<E, WORDS, KEY>(env, half, s);
    Next::Go
}

/// Establishes the other entry, whose rewrite stands in `s`.
///
/// Not inlined, like all that is rare and called from several places.
#[inline(never)]
fn establish_reply<W: Word, const WORDS: usize, const KEY: usize>(
    flows: &Bucket<W, WORDS>,
    reply: &Key<KEY>,
    s: &Scratch,
) -> Inserted {
    let state = if s.state == State::Closing as u32 { State::PeerClosing } else { confirmed_state(s) };
    let entry = Entry {
        decision: reply_decision(Decision(s.decision)),
        rewrite: &s.back,
        state,
        now: s.now,
        take: Take::Free,
    };
    flow_table::insert(flows, reply, &entry)
}

/// Takes back one of the other entry's two places: the half-open one once it is established, or the other way round.
#[inline(never)]
fn retire_in<W: Word, const WORDS: usize, const KEY: usize>(
    bucket: &Bucket<W, WORDS>,
    reply: &Key<KEY>,
    s: &Scratch,
) {
    if let Some(hit) = flow_table::find_apart(bucket, reply)
        && leads_back(bucket, &hit, s)
    {
        flow_table::retire(bucket, &hit);
    }
}
