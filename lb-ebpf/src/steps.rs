//! What follows what, off the hot path.
//!
//! Each step is a function of its own in the kernel, which the verifier looks at once and which gives back one number:
//! what is to be done next. What they have in common stands in the [scratch memory](crate::scratch).
//!
//! ```text
//! read -----------+
//! read_odd -------+-> decide -+--------------------------------------------------> deliver -> tell
//!     |                       +-> step, half_step, confirm (a pair that is known) +
//!     |                       +-> prepare -> claim (give_up) | try_source ... -> enter (back_out) +
//!     |                       +-> answer_reset (the server is gone)
//!     +-> read_icmp -> decide_icmp -> relay
//! ```

#![expect(clippy::wildcard_enum_match_arm, reason = "what is not the step expected is handed on")]

use lb_common::{counter::Reason, limits::SOURCE_TRIES};

use crate::{
    env::Env,
    odd,
    path::{self, Verdict},
};

/// What is to be done next. A BPF function gives back one number, so it is one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum Next {
    /// Go on with what stands in the scratch memory.
    Go = 0,
    /// Leave the frame to the kernel.
    Pass = 1,
    /// Drop it.
    Drop = 2,
    /// Answer it with a RST.
    Reset = 3,
    /// Tell its sender that its time to live has ended.
    TellExpired = 4,
    /// Tell its sender how long a packet may be.
    TellTooBig = 5,
    /// It may be an ICMP error about a flow.
    Icmp = 6,
    /// Step the established pair that it belongs to.
    Step = 7,
    /// Step the half-open pair that it belongs to.
    HalfStep = 8,
    /// Begin a pair.
    Prepare = 9,
    /// Make a new pair's entry for the server's packets.
    Claim = 10,
    /// The same, but its ends are free to choose.
    FindSource = 11,
    /// Its flow is gone: decide anew.
    Anew = 12,
    /// The source that was tried is another flow's.
    Taken = 13,
    /// Move the half-open pair that it belongs to to the established ones.
    Confirm = 14,
    /// There is no room for a pair that proved itself.
    Full = 15,
    /// Another CPU was in the way; what comes next tries again.
    Wait = 16,
}

impl Next {
    /// The reverse of `as u32`.
    #[inline(always)]
    #[must_use]
    pub const fn from_u32(number: u32) -> Self {
        match number {
            0 => Self::Go,
            1 => Self::Pass,
            3 => Self::Reset,
            4 => Self::TellExpired,
            5 => Self::TellTooBig,
            6 => Self::Icmp,
            7 => Self::Step,
            8 => Self::HalfStep,
            9 => Self::Prepare,
            10 => Self::Claim,
            11 => Self::FindSource,
            12 => Self::Anew,
            13 => Self::Taken,
            14 => Self::Confirm,
            15 => Self::Full,
            16 => Self::Wait,
            _ => Self::Drop,
        }
    }

    /// Counts a reason and says what goes with it.
    #[inline(always)]
    pub fn because<E: Env>(env: &E, reason: Reason) -> Self {
        match path::refuse(env, reason) {
            Verdict::Drop => Self::Drop,
            Verdict::Answer | Verdict::Forward { .. } | Verdict::Pass => Self::Pass,
        }
    }
}

/// The steps of one family; the kernel's are functions of the program. Those that end with a verdict give the XDP action.
pub trait Steps {
    /// Reads a packet with ports.
    fn read(&self) -> Next;
    /// Reads a fragment or a packet with extension headers.
    fn read_odd(&self) -> Next;
    /// Reads an ICMP error.
    fn read_icmp(&self) -> Next;
    /// [`crate::first::decide`].
    fn decide(&self) -> Next;
    /// [`crate::icmp::decide`].
    fn decide_icmp(&self) -> Next;
    /// [`crate::pair::step`].
    fn step(&self) -> Next;
    /// [`crate::pair::half_step`].
    fn half_step(&self) -> Next;
    /// [`crate::pair::confirm_reply`].
    fn confirm_reply(&self) -> Next;
    /// [`crate::pair::confirm`].
    fn confirm(&self) -> Next;
    /// [`crate::pair::follow`].
    fn follow(&self) -> Next;
    /// [`crate::pair::full`].
    fn full(&self) -> Next;
    /// [`crate::pair::prepare`].
    fn prepare(&self) -> Next;
    /// [`crate::pair::claim`].
    fn claim(&self) -> Next;
    /// [`crate::pair::give_up`].
    fn give_up(&self) -> Next;
    /// [`crate::pair::try_source`].
    fn try_source(&self, n: u32) -> Next;
    /// [`crate::pair::no_source`].
    fn no_source(&self) -> Next;
    /// [`crate::pair::enter`].
    fn enter(&self) -> Next;
    /// [`crate::pair::back_out`].
    fn back_out(&self) -> Next;
    /// [`odd::remember`], with what was decided.
    fn remember(&self, decided: Next);
    /// [`path::deliver`]; what else is to be done if that does not end it.
    fn deliver(&self) -> Result<u32, Next>;
    /// [`crate::icmp::relay`].
    fn relay(&self) -> u32;
    /// The action for what neither decides nor delivers.
    fn end(&self, next: Next) -> u32;
}

/// A packet that the hot part left over.
#[inline(always)]
pub fn more<E: Env, S: Steps>(env: &E, steps: &S) -> u32 {
    match steps.read() {
        Next::Go => go(steps, settle(env, steps)),
        next => steps.end(next),
    }
}

/// A fragment, a packet with extension headers, an ICMP error.
#[inline(always)]
pub fn odd<E: Env, S: Steps>(env: &E, steps: &S) -> u32 {
    match steps.read_odd() {
        Next::Go if odd::is_decided(env) => go(steps, Next::Go),
        Next::Go => {
            let next = settle(env, steps);
            steps.remember(next);
            go(steps, next)
        }
        Next::Icmp => match steps.read_icmp() {
            Next::Go => match steps.decide_icmp() {
                Next::Go => steps.relay(),
                next => steps.end(next),
            },
            next => steps.end(next),
        },
        next => steps.end(next),
    }
}

#[inline(always)]
fn go<S: Steps>(steps: &S, next: Next) -> u32 {
    if next != Next::Go {
        return steps.end(next);
    }
    match steps.deliver() {
        Ok(action) => action,
        Err(next) => steps.end(next),
    }
}

/// Decides for a packet, pairs included.
#[inline(always)]
fn settle<E: Env, S: Steps>(env: &E, steps: &S) -> Next {
    let mut next = steps.decide();
    if matches!(next, Next::Step | Next::HalfStep) {
        next = if next == Next::Step { steps.step() } else { steps.half_step() };
        if next == Next::Confirm {
            next = confirm(steps);
        }
        if next == Next::Go && env.scratch().is_some_and(|s| s.moved != 0) {
            return steps.follow();
        }
        if next != Next::Anew {
            return next;
        }
        next = steps.decide();
        // Another CPU has begun it anew meanwhile. What stands in the scratch memory is of before.
        if matches!(next, Next::Step | Next::HalfStep) {
            return Next::because(env, Reason::TwinPacket);
        }
    }
    if next != Next::Prepare {
        return next;
    }
    next = match steps.prepare() {
        Next::Claim => claim(env, steps),
        Next::FindSource => find_source(steps),
        next => next,
    };
    if next == Next::Go {
        next = steps.enter();
    }
    if next == Next::Taken { steps.back_out() } else { next }
}

/// Claims the ends that a NAT flow must have, once more if they were its own before.
#[inline(always)]
fn claim<E: Env, S: Steps>(env: &E, steps: &S) -> Next {
    let mut next = steps.claim();
    if next == Next::Taken {
        next = steps.give_up();
        if next == Next::Claim {
            next = steps.claim();
        }
    }
    if next == Next::Taken { Next::because(env, Reason::ReplyClash) } else { next }
}

/// Moves a pair to the established ones; its packet is delivered if that has to wait, too.
#[inline(always)]
fn confirm<S: Steps>(steps: &S) -> Next {
    let mut next = steps.confirm_reply();
    if next == Next::Go {
        next = steps.confirm();
    }
    match next {
        Next::Full => steps.full(),
        Next::Wait => Next::Go,
        next => next,
    }
}

/// Tries source after source until one is free.
#[inline(always)]
fn find_source<S: Steps>(steps: &S) -> Next {
    for n in 0..SOURCE_TRIES {
        let next = steps.try_source(n);
        if next != Next::Taken {
            return next;
        }
    }
    steps.no_source()
}
