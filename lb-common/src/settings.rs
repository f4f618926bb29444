//! What controller and packet path must agree on for the life of the pinned maps.
//!
//! **Time.** The packet path counts in ticks: `jiffies64 >> tick_shift`, read for the price of one load. The
//! controller measures the kernel's tick rate when it first loads the program and keeps what it found here, so
//! that a later controller reads the same entries in the same unit.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Seconds without a heartbeat after which a service with [`crate::service::flags::FAIL_CLOSED`] takes no new flows.
/// Longer than any restart or upgrade of the controller takes.
pub const UNATTENDED_SECS: u32 = 15;

/// The one entry of the `SETTINGS` map. The controller sets the same values as constants of the program.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Settings {
    /// [`crate::ABI_VERSION`] of the controller that created the maps; 0 = the maps are new.
    pub abi_version: u32,
    /// Kernel timer interrupts per second (CONFIG_HZ).
    pub hz: u32,
    /// Secret seed of the flow hash.
    pub flow_seed: u64,
    /// Entries of the flow tables: IPv4, IPv6, half-open (of each family).
    pub flows: [u32; 3],
    /// Shift from jiffies to ticks.
    pub tick_shift: u32,
}

/// Shift that makes a tick between an eighth and a quarter of a second long for any usual CONFIG_HZ.
///
/// HZ 1000 gives 7 (128 ms), 300 gives 6 (213 ms), 250 gives 5 (128 ms), 100 gives 4 (160 ms).
#[must_use]
pub const fn tick_shift(hz: u32) -> u32 {
    let mut shift = 0;
    while (1u64 << shift) * 8 < hz as u64 {
        shift += 1;
    }
    shift
}

impl Settings {
    /// Length of a tick in nanoseconds.
    #[must_use]
    pub const fn tick_nanos(&self) -> u64 {
        if self.hz == 0 { 0 } else { (1_000_000_000u64 << self.tick_shift) / self.hz as u64 }
    }

    /// Ticks that a time takes, rounded up, at least 1; saturates.
    #[must_use]
    pub const fn ticks(&self, secs: u32) -> u32 {
        let per_tick = self.tick_nanos();
        if per_tick == 0 {
            return u32::MAX;
        }
        let ticks = (secs as u64 * 1_000_000_000).div_ceil(per_tick);
        if ticks == 0 {
            1
        } else if ticks > u32::MAX as u64 {
            u32::MAX
        } else {
            ticks as u32
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_is_a_fraction_of_a_second_on_every_kernel() {
        for hz in [24, 100, 250, 300, 1000] {
            let s = Settings { hz, tick_shift: tick_shift(hz), ..Settings::default() };
            let nanos = s.tick_nanos();
            assert!((100_000_000..=250_000_000).contains(&nanos), "{hz} Hz: {nanos} ns");
            let hour = u64::from(s.ticks(3600)) * nanos;
            assert!((3_600_000_000_000..3_600_300_000_000).contains(&hour), "{hz} Hz: {hour}");
        }
    }
}
