//! How busy a backend is, and how busy it may be.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// One backend's entry of the `LOADS` map: four words, each read and written whole.
///
/// `active` is kept by both sides at a time, so it only ever changes by atomic additions: the packet path adds one when
/// a client has proved a flow, and takes one away when that flow sees its first FIN or a RST. What it cannot see (flows
/// that fall silent, a server that dies) the controller's sweep adds or takes away: the difference between what it
/// counted and what stood here when it began. Between sweeps the number may be off by the flows that changed during one.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Load {
    /// Active connections: established TCP connections, and UDP flows of more than one datagram. Wraps below zero, so
    /// read it as an `i64`.
    pub active: u64,
    /// [`Limits`] as a word.
    pub limits: u64,
    /// 1 = full: it reached its maximum, and has not come below its minimum since. The packet path writes it.
    pub full: u64,
    /// SYNs that came again since a client last proved a new connection. The packet path counts them, and starts anew with
    /// each connection that gets through.
    pub syn_repeats: u64,
}

/// What the controller says of a backend. One word.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C, align(8))]
pub struct Limits {
    /// Most active connections; 0 = no limit. Beyond it new flows go to other servers.
    pub max: u16,
    /// Once full, it takes new flows again when it has fewer than this; 0 = as soon as it has fewer than `max`.
    pub min: u16,
    /// Relative share of new flows for [`crate::service::pick::LEAST`]; 0 takes none.
    pub weight: u16,
    /// [`flags`].
    pub flags: u16,
}

/// Bits of [`Limits::flags`].
pub mod flags {
    /// Takes no new flow at all, not even of a client that persistence would send there.
    pub const CLOSED: u16 = 1;
}

impl Limits {
    /// As it stands in [`Load::limits`].
    #[inline(always)]
    #[must_use]
    pub const fn word(self) -> u64 {
        zerocopy::transmute!(self)
    }

    /// The reverse.
    #[inline(always)]
    #[must_use]
    pub const fn of(word: u64) -> Self {
        zerocopy::transmute!(word)
    }
}

/// Whether a backend with these numbers has room for another flow, and whether it counts as full from now on.
#[inline(always)]
#[must_use]
pub const fn room(limits: Limits, active: u64, full: bool) -> bool {
    let active = active as i64;
    if limits.max == 0 {
        return true;
    }
    if active >= limits.max as i64 {
        return false;
    }
    !full || limits.min == 0 || active < limits.min as i64
}

/// True when the first of two backends, which hold so many connections, is the less loaded one for its weight: what
/// takes the next flow by [`crate::service::pick::LEAST`]. The flow itself counts, so that an idle heavy server goes before an idle light one.
#[inline(always)]
#[must_use]
pub const fn is_less(held: u64, weight: u16, than_held: u64, than_weight: u16) -> bool {
    (held + 1) * (than_weight as u64) < (than_held + 1) * weight as u64
}

/// [`Load::active`] as a number that is not negative, and does not overflow when it is multiplied by a weight.
#[inline(always)]
#[must_use]
pub const fn held(active: u64) -> u64 {
    let active = active as i64;
    if active < 0 { 0 } else { active as u64 & 0xffff_ffff }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_one_word() {
        let limits = Limits { max: 50, min: 40, weight: 256, flags: flags::CLOSED };
        assert_eq!(Limits::of(limits.word()), limits);
        assert_eq!(size_of::<Load>(), 32);
    }

    #[test]
    fn a_full_backend_has_room_again_below_its_minimum() {
        let limits = Limits { max: 10, min: 8, ..Limits::default() };
        for (active, full, expected) in [
            (9, false, true),
            (10, false, false),
            (11, true, false),
            (9, true, false),
            (8, true, false),
            (7, true, true),
        ] {
            assert_eq!(room(limits, active, full), expected, "{active} {full}");
        }
        assert!(room(Limits { min: 0, ..limits }, 9, true));
        assert!(room(Limits::default(), u64::MAX >> 1, false));
        assert!(room(limits, -1i64 as u64, false), "counts may be off for a moment");
    }

    #[test]
    fn the_less_loaded_for_its_weight_goes_first() {
        assert!(is_less(0, 100, 1, 100) && !is_less(1, 100, 0, 100));
        assert!(!is_less(1, 100, 1, 100), "equals do not displace each other");
        assert!(is_less(0, 200, 0, 100), "the heavier of two idle ones");
        assert!(is_less(2, 200, 1, 100) && !is_less(3, 200, 1, 100));
    }
}
