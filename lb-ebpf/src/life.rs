//! A flow's states as one direction of it shows them. Pure; time comes in.

use lb_common::flow::State;

use crate::wire::tcp::Flags;

/// An entry's time is written when it is this many ticks old: about a second, so that a busy flow's cache line
/// stays clean and expiry is still exact to a second or two.
pub const TOUCH_TICKS: u32 = 8;

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

/// What a packet does to the half-open flow it belongs to.
#[inline(always)]
#[must_use]
pub const fn half_open(flags: Option<Flags>, idle: u32) -> Step {
    match flags {
        None => Step::Become(State::Datagrams),
        Some(flags) if flags.is_rst() => Step::End,
        Some(flags) if flags.is_open() => {
            if idle >= TOUCH_TICKS {
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
    fn half_open_flows_are_confirmed_by_anything_but_another_syn() {
        for (flags, idle, want) in [
            (SYN, 0, Step::Keep),
            (SYN, TOUCH_TICKS, Step::Become(State::New)),
            (ACK, 0, Step::Become(State::Established)),
            (FIN, 0, Step::Become(State::Closing)),
            (RST, 0, Step::End),
            (None, 0, Step::Become(State::Datagrams)),
        ] {
            assert_eq!(half_open(flags, idle), want, "{flags:?} {idle}");
        }
    }
}
