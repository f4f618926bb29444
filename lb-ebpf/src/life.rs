//! A flow's states: as one direction of it shows them, and as a pair's both do. Time comes in.

use lb_common::flow::{Decision, State};

use crate::{
    env::Env,
    flow_table::{self, Bucket, Hit, Word},
    load,
    wire::tcp::Flags,
};

/// An entry's time is written when it is this many ticks old: about a second, so that a busy flow's cache line
/// stays clean and expiry is still exact to a second or two.
pub const TOUCH_TICKS: u32 = 8;

/// A SYN that comes this many ticks (half a second at least) after the one before is the client's next try: TCP waits a
/// second for an answer (RFC 6298, 2.1). What comes sooner is a duplicate of the network's.
pub const REPEAT_TICKS: u32 = 4;

/// Ticks from `last_seen` to `now`. A time ahead of this CPU's is now: another CPU wrote its tick after this one
/// had read its own.
#[inline(always)]
#[must_use]
pub const fn idle(now: u32, last_seen: u32) -> u32 {
    let idle = now.wrapping_sub(last_seen);
    if idle > u32::MAX / 2 { 0 } else { idle }
}

/// What a packet does to the established flow it belongs to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// Nothing.
    Keep,
    /// The entry changes state or time.
    Become(State),
    /// The flow ends with this packet, which still goes to its server.
    End,
    /// The flow had ended; this packet opens another with the same ends.
    Reopen,
}

/// The step of an established flow. `flags` is `None` for UDP; `idle` counts ticks since the entry's time.
#[inline(always)]
#[must_use]
pub const fn established(state: u8, flags: Option<Flags>, idle: u32) -> Step {
    let aged = idle >= TOUCH_TICKS;
    let Some(flags) = flags else {
        return if aged { Step::Become(State::Datagrams) } else { Step::Keep };
    };
    let closing = state == State::Closing as u8;
    if flags.changes_state() {
        if flags.is_rst() {
            return Step::End;
        }
        // RFC 9293, 3.6.1: a SYN for a connection in its last states may open a new one. Before FIN it is a
        // retransmission, or a client that lost its memory: the server answers both (RFC 9293, 3.5.1).
        if flags.is_open() && closing {
            return Step::Reopen;
        }
        if flags.is_fin() && !closing {
            return Step::Become(State::Closing);
        }
    }
    if !aged {
        return Step::Keep;
    }
    Step::Become(if closing { State::Closing } else { State::Established })
}

/// Does to a flow under direct routing what was said of it. Losing a race means that another packet of the flow has just
/// done the same.
#[inline(always)]
pub fn take<E: Env, W: Word, const WORDS: usize>(
    env: &E,
    flows: &Bucket<W, WORDS>,
    hit: &Hit,
    step: Step,
    now: u32,
) {
    let (done, active) = match step {
        Step::Keep => return,
        Step::Become(state) => (flow_table::update(flows, hit, state, now), load::is_active(state as u8)),
        Step::End | Step::Reopen => (flow_table::retire(flows, hit), false),
    };
    if done && !active {
        load::ended(env, Decision(hit.decision), hit.control.state());
    }
}

/// What a segment does to the established pair it belongs to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PairStep {
    /// Nothing.
    Keep,
    /// FIN: both entries change state.
    Fin {
        /// This side's.
        own: State,
        /// The other side's.
        other: State,
    },
    /// The flow ends with this segment, which is still delivered.
    End,
    /// The flow had ended; this segment opens another with the same ends.
    Reopen,
}

/// The step of an established pair whose entry for this direction has the state `own`. The other side's state follows
/// from it: each FIN is written to both.
#[inline(always)]
#[must_use]
pub const fn pair(own: u8, from_client: bool, flags: Flags) -> PairStep {
    const CLOSING: u8 = State::Closing as u8;
    const PEER_CLOSING: u8 = State::PeerClosing as u8;
    const CLOSED: u8 = State::Closed as u8;
    if flags.is_rst() {
        return PairStep::End;
    }
    if flags.is_open() {
        // As for direct routing; only a client opens.
        let ended = matches!(own, CLOSING | PEER_CLOSING | CLOSED);
        return if ended && from_client { PairStep::Reopen } else { PairStep::Keep };
    }
    if !flags.is_fin() {
        return PairStep::Keep;
    }
    match own {
        CLOSING | CLOSED => PairStep::Keep,
        PEER_CLOSING => PairStep::Fin { own: State::Closed, other: State::Closed },
        _ => PairStep::Fin { own: State::Closing, other: State::PeerClosing },
    }
}

/// What a packet does to the half-open flow it belongs to. [`State::New`] again: the client tries once more.
#[inline(always)]
#[must_use]
pub const fn half_open(flags: Option<Flags>, idle: u32) -> Step {
    match flags {
        None => Step::Become(State::Datagrams),
        Some(flags) if flags.is_rst() => Step::End,
        Some(flags) if flags.is_open() => {
            if idle >= REPEAT_TICKS {
                Step::Become(State::New)
            } else {
                Step::Keep
            }
        }
        Some(flags) if flags.is_fin() => Step::Become(State::Closing),
        Some(_) => Step::Become(State::Established),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYN: Option<Flags> = Some(Flags(Flags::SYN));
    const ACK: Option<Flags> = Some(Flags(Flags::ACK));
    const FIN: Option<Flags> = Some(Flags(Flags::FIN | Flags::ACK));
    const RST: Option<Flags> = Some(Flags(Flags::RST));

    #[test]
    fn idleness_survives_the_clock_wrapping_and_a_clock_that_is_ahead() {
        assert_eq!((idle(7, 2), idle(3, u32::MAX - 1), idle(5, 5)), (5, 5, 0));
        assert_eq!((idle(5, 6), idle(u32::MAX, 0)), (0, 0));
    }

    #[test]
    fn established_flows_step_as_the_table_says() {
        let (est, closing) = (State::Established as u8, State::Closing as u8);
        for (state, flags, idle, want) in [
            (est, ACK, 0, Step::Keep),
            (est, ACK, TOUCH_TICKS, Step::Become(State::Established)),
            (est, SYN, 0, Step::Keep),
            (est, FIN, 0, Step::Become(State::Closing)),
            (est, RST, 0, Step::End),
            (closing, ACK, 0, Step::Keep),
            (closing, ACK, TOUCH_TICKS, Step::Become(State::Closing)),
            (closing, FIN, 0, Step::Keep),
            (closing, SYN, 0, Step::Reopen),
            (closing, RST, 0, Step::End),
            (State::Datagrams as u8, None, 0, Step::Keep),
            (State::Datagrams as u8, None, TOUCH_TICKS, Step::Become(State::Datagrams)),
        ] {
            assert_eq!(established(state, flags, idle), want, "{state} {flags:?} {idle}");
        }
    }

    #[test]
    fn a_pair_closes_when_both_sides_said_so_in_either_order() {
        let (est, closing) = (State::Established as u8, State::Closing as u8);
        let (peer, closed) = (State::PeerClosing as u8, State::Closed as u8);
        let first = PairStep::Fin { own: State::Closing, other: State::PeerClosing };
        let second = PairStep::Fin { own: State::Closed, other: State::Closed };
        for (own, from_client, flags, want) in [
            (est, true, FIN, first),
            (est, false, FIN, first),
            (peer, true, FIN, second),
            (closing, true, FIN, PairStep::Keep),
            (closed, false, FIN, PairStep::Keep),
            (est, true, SYN, PairStep::Keep),
            (closing, true, SYN, PairStep::Reopen),
            (peer, true, SYN, PairStep::Reopen),
            (closed, true, SYN, PairStep::Reopen),
            (closed, false, SYN, PairStep::Keep),
            (est, false, Some(Flags(Flags::SYN | Flags::ACK)), PairStep::Keep),
            (est, true, RST, PairStep::End),
            (closed, false, RST, PairStep::End),
            (est, false, ACK, PairStep::Keep),
        ] {
            assert_eq!(pair(own, from_client, flags.unwrap()), want, "{own} {from_client} {flags:?}");
        }
    }

    #[test]
    fn half_open_flows_are_confirmed_by_anything_but_another_syn() {
        for (flags, idle, want) in [
            (SYN, 0, Step::Keep),
            (SYN, REPEAT_TICKS - 1, Step::Keep),
            (SYN, REPEAT_TICKS, Step::Become(State::New)),
            (ACK, 0, Step::Become(State::Established)),
            (FIN, 0, Step::Become(State::Closing)),
            (RST, 0, Step::End),
            (None, 0, Step::Become(State::Datagrams)),
        ] {
            assert_eq!(half_open(flags, idle), want, "{flags:?} {idle}");
        }
    }
}
