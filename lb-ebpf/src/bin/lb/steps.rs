//! The steps of the path as functions of the program: global ones, so that the verifier looks at each once and by itself.
//! What follows what is said in [`lb_ebpf::steps`].

use aya_ebpf::bindings::{
    xdp_action::{XDP_DROP, XDP_PASS, XDP_TX},
    xdp_md,
};
use lb_common::flow::{KEY_V4, KEY_V6, WORDS_V4, WORDS_V6};
use lb_ebpf::{
    action::{
        reset,
        tell::{self, What},
    },
    env::Env as _,
    first, icmp, odd, pair,
    path::{self, Verdict},
    steer,
    steps::{self, Next, Steps},
};

use crate::kernel::{self, Kernel};

/// The XDP action of a verdict.
#[inline(always)]
pub fn action(kernel: &Kernel, verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Drop => XDP_DROP,
        Verdict::Answer => XDP_TX,
        Verdict::Forward { ifindex } if ifindex == kernel.ingress() => XDP_TX,
        Verdict::Forward { ifindex } => kernel::redirect(ifindex),
        Verdict::Pass => XDP_PASS,
    }
}

/// The action of what ends here, whichever way.
#[inline(always)]
fn done(kernel: &Kernel, done: Result<Verdict, Next>) -> u32 {
    match done {
        Ok(verdict) => action(kernel, verdict),
        Err(Next::Pass) => XDP_PASS,
        Err(_) => XDP_DROP,
    }
}

/// Does what neither decides nor delivers.
#[inline(always)]
fn end(kernel: &Kernel, next: Next) -> u32 {
    match next {
        Next::Pass => XDP_PASS,
        Next::Reset => answer_reset(kernel.ctx()),
        Next::TellExpired => tell_expired(kernel.ctx()),
        Next::TellTooBig => tell_too_big(kernel.ctx()),
        Next::Anew
        | Next::Claim
        | Next::Confirm
        | Next::Drop
        | Next::FindSource
        | Next::Full
        | Next::Go
        | Next::HalfStep
        | Next::Icmp
        | Next::Prepare
        | Next::Step
        | Next::Taken
        | Next::Wait => XDP_DROP,
    }
}

/// No XDP action: the packet needs more.
pub const MORE: u32 = 16;

macro_rules! functions {
    ($($(#[doc = $doc:literal])+ $name:ident($kernel:ident $(, $n:ident)?) = $body:expr;)+) => {$(
        $(#[doc = $doc])+
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $name(ctx: *mut xdp_md $(, $n: u32)?) -> u32 {
            let $kernel = &Kernel::of_step(ctx);
            $body
        }
    )+};
}

functions! {
    /// [`path::routed_v6`]; [`MORE`] if it needs more.
    routed_v6(kernel) = match path::routed_v6(kernel) {
        Some(verdict) => action(kernel, verdict),
        None => MORE,
    };
    /// [`steps::more`] for IPv4.
    more_v4(kernel) = steps::more(kernel, &V4(kernel));
    /// [`steps::more`] for IPv6.
    more_v6(kernel) = steps::more(kernel, &V6(kernel));
    /// [`steps::odd`] for IPv4.
    odd_v4(kernel) = steps::odd(kernel, &V4(kernel));
    /// [`steps::odd`] for IPv6.
    odd_v6(kernel) = steps::odd(kernel, &V6(kernel));
    /// [`path::deliver`]; above [`MORE`], what else is to be done.
    deliver(kernel) = match path::deliver(kernel) {
        Ok(verdict) => action(kernel, verdict),
        Err(next) => MORE + next as u32,
    };
    /// [`icmp::relay`].
    relay(kernel) = done(kernel, icmp::relay(kernel));
    /// [`reset::answer`].
    answer_reset(kernel) = done(kernel, reset::answer(kernel));
    /// [`tell::answer`]: the time to live ended.
    tell_expired(kernel) = done(kernel, tell::answer(kernel, What::Expired));
    /// [`tell::answer`]: too long.
    tell_too_big(kernel) = done(kernel, tell::answer(kernel, What::TooBig));
    /// [`path::read_v4`].
    read_v4(kernel) = path::read_v4(kernel) as u32;
    /// [`path::read_v6`].
    read_v6(kernel) = path::read_v6(kernel) as u32;
    /// [`odd::read_v4`].
    read_odd_v4(kernel) = odd::read_v4(kernel) as u32;
    /// [`odd::read_v6`].
    read_odd_v6(kernel) = odd::read_v6(kernel) as u32;
    /// [`icmp::read_v4`].
    read_icmp_v4(kernel) = icmp::read_v4(kernel) as u32;
    /// [`icmp::read_v6`].
    read_icmp_v6(kernel) = icmp::read_v6(kernel) as u32;
    /// [`odd::remember`].
    remember(kernel, decided) = {
        odd::remember(kernel, Next::from_u32(decided));
        0
    };
    /// [`pair::no_source`].
    no_source(kernel) = pair::no_source(kernel) as u32;
    /// [`steer::choose`].
    choose(kernel, by) = steer::choose(kernel, by);
    /// [`steer::least`].
    least(kernel, start) = steer::least(kernel, start);
    /// [`steer::next_with_room`].
    next_with_room(kernel, start) = steer::next_with_room(kernel, start);
    /// [`steer::compare`].
    compare(kernel, n) = steer::compare(kernel, n);
    /// [`steer::try_next`].
    try_next(kernel, n) = steer::try_next(kernel, n);
    /// [`steer::stick`].
    stick(kernel) = {
        steer::stick(kernel);
        0
    };
    /// [`pair::prepare`].
    prepare(kernel) = pair::prepare(kernel) as u32;
}

/// Steps that differ by the tables' family only.
macro_rules! family {
    (
        $family:ident, $words:ident, $key:ident, $read:ident, $read_odd:ident, $read_icmp:ident,
        $decide:ident, $decide_icmp:ident, $step:ident, $half_step:ident, $confirm_reply:ident, $confirm:ident,
        $full:ident, $follow:ident, $claim:ident, $give_up:ident,
        $try_source:ident, $enter:ident, $back_out:ident
    ) => {
        functions! {
            /// [`first::decide`].
            $decide(kernel) = first::decide::<Kernel, $words, $key>(kernel) as u32;
            /// [`icmp::decide`].
            $decide_icmp(kernel) = icmp::decide::<Kernel, $words, $key>(kernel) as u32;
            /// [`pair::step`].
            $step(kernel) = pair::step::<Kernel, $words, $key>(kernel) as u32;
            /// [`pair::half_step`].
            $half_step(kernel) = pair::half_step::<Kernel, $words, $key>(kernel) as u32;
            /// [`pair::confirm_reply`].
            $confirm_reply(kernel) = pair::confirm_reply::<Kernel, $words, $key>(kernel) as u32;
            /// [`pair::confirm`].
            $confirm(kernel) = pair::confirm::<Kernel, $words, $key>(kernel) as u32;
            /// [`pair::follow`].
            $follow(kernel) = pair::follow::<Kernel, $words, $key>(kernel) as u32;
            /// [`pair::full`].
            $full(kernel) = pair::full::<Kernel, $words, $key>(kernel) as u32;
            /// [`pair::claim`].
            $claim(kernel) = pair::claim::<Kernel, $words, $key>(kernel) as u32;
            /// [`pair::give_up`].
            $give_up(kernel) = pair::give_up::<Kernel, $words, $key>(kernel) as u32;
            /// [`pair::try_source`].
            $try_source(kernel, n) = pair::try_source::<Kernel, $words, $key>(kernel, n) as u32;
            /// [`pair::enter`].
            $enter(kernel) = pair::enter::<Kernel, $words, $key>(kernel) as u32;
            /// [`pair::back_out`].
            $back_out(kernel) = pair::back_out::<Kernel, $words, $key>(kernel) as u32;
        }

        struct $family<'a>(&'a Kernel);

        impl Steps for $family<'_> {
            #[inline(always)]
            fn read(&self) -> Next {
                Next::from_u32($read(self.0.ctx()))
            }

            #[inline(always)]
            fn read_odd(&self) -> Next {
                Next::from_u32($read_odd(self.0.ctx()))
            }

            #[inline(always)]
            fn read_icmp(&self) -> Next {
                Next::from_u32($read_icmp(self.0.ctx()))
            }

            #[inline(always)]
            fn decide(&self) -> Next {
                Next::from_u32($decide(self.0.ctx()))
            }

            #[inline(always)]
            fn decide_icmp(&self) -> Next {
                Next::from_u32($decide_icmp(self.0.ctx()))
            }

            #[inline(always)]
            fn step(&self) -> Next {
                Next::from_u32($step(self.0.ctx()))
            }

            #[inline(always)]
            fn half_step(&self) -> Next {
                Next::from_u32($half_step(self.0.ctx()))
            }

            #[inline(always)]
            fn confirm_reply(&self) -> Next {
                Next::from_u32($confirm_reply(self.0.ctx()))
            }

            #[inline(always)]
            fn confirm(&self) -> Next {
                Next::from_u32($confirm(self.0.ctx()))
            }

            #[inline(always)]
            fn follow(&self) -> Next {
                Next::from_u32($follow(self.0.ctx()))
            }

            #[inline(always)]
            fn full(&self) -> Next {
                Next::from_u32($full(self.0.ctx()))
            }

            #[inline(always)]
            fn prepare(&self) -> Next {
                Next::from_u32(prepare(self.0.ctx()))
            }

            #[inline(always)]
            fn claim(&self) -> Next {
                Next::from_u32($claim(self.0.ctx()))
            }

            #[inline(always)]
            fn give_up(&self) -> Next {
                Next::from_u32($give_up(self.0.ctx()))
            }

            #[inline(always)]
            fn try_source(&self, n: u32) -> Next {
                Next::from_u32($try_source(self.0.ctx(), n))
            }

            #[inline(always)]
            fn no_source(&self) -> Next {
                Next::from_u32(no_source(self.0.ctx()))
            }

            #[inline(always)]
            fn enter(&self) -> Next {
                Next::from_u32($enter(self.0.ctx()))
            }

            #[inline(always)]
            fn back_out(&self) -> Next {
                Next::from_u32($back_out(self.0.ctx()))
            }

            #[inline(always)]
            fn remember(&self, decided: Next) {
                remember(self.0.ctx(), decided as u32);
            }

            #[inline(always)]
            fn deliver(&self) -> Result<u32, Next> {
                match deliver(self.0.ctx()) {
                    action if action < MORE => Ok(action),
                    more => Err(Next::from_u32(more - MORE)),
                }
            }

            #[inline(always)]
            fn relay(&self) -> u32 {
                relay(self.0.ctx())
            }

            #[inline(always)]
            fn end(&self, next: Next) -> u32 {
                end(self.0, next)
            }
        }
    };
}

family!(
    V4,
    WORDS_V4,
    KEY_V4,
    read_v4,
    read_odd_v4,
    read_icmp_v4,
    decide_v4,
    decide_icmp_v4,
    step_v4,
    half_step_v4,
    confirm_reply_v4,
    confirm_v4,
    full_v4,
    follow_v4,
    claim_v4,
    give_up_v4,
    try_source_v4,
    enter_v4,
    back_out_v4
);
family!(
    V6,
    WORDS_V6,
    KEY_V6,
    read_v6,
    read_odd_v6,
    read_icmp_v6,
    decide_v6,
    decide_icmp_v6,
    step_v6,
    half_step_v6,
    confirm_reply_v6,
    confirm_v6,
    full_v6,
    follow_v6,
    claim_v6,
    give_up_v6,
    try_source_v6,
    enter_v6,
    back_out_v6
);
