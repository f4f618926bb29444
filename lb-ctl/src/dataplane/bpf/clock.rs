//! The packet path's clock, seen from here. The kernel counts jiffies; nobody tells user space how many, nor how
//! many a second has. A small program of the object, `clock`, reads them on demand.
#![forbid(unsafe_code)]

use std::time::Duration;

use aya::{
    TestRun as _, TestRunOptions,
    maps::{Array, MapData},
    programs::Xdp,
};
use lb_common::settings::Settings;
use rustix::time::{ClockId, clock_gettime};

use super::{Error, fail, fault};

/// Name of the program that reads the kernel's clocks.
pub(super) const PROGRAM: &str = "clock";
/// Name of the map that it writes them to.
pub(super) const MAP: &str = "CLOCK";

/// Timer rates that kernels are built with.
const USUAL_HZ: [u32; 5] = [100, 250, 300, 512, 1000];
/// How long the timer is watched: a tick of the slowest kernel is a tenth of it.
const WATCH: Duration = Duration::from_millis(100);
/// A timer that has not moved for this long stands still.
const STUCK: Duration = Duration::from_secs(2);

/// Both clocks at one instant.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Reading {
    jiffies: u64,
    /// `CLOCK_MONOTONIC`.
    nanos: u64,
}

/// Runs the `clock` program once.
pub(super) fn read(program: &Xdp, map: &Array<MapData, [u64; 2]>) -> Result<Reading, Error> {
    let packet = [0; 64];
    program
        .test_run(TestRunOptions { data_in: Some(&packet), ..TestRunOptions::new() })
        .map_err(|e| fault("the kernel's clock cannot be read: running the program `clock` failed", e))?;
    let [jiffies, nanos] = map
        .get(&0, 0)
        .map_err(|e| fault("the kernel's clock cannot be read: map `CLOCK` does not answer", e))?;
    Ok(Reading { jiffies, nanos })
}

/// Measures the kernel's timer rate: from one tick of the timer to another, a tenth of a second apart.
pub(super) fn measure_hz(program: &Xdp, map: &Array<MapData, [u64; 2]>) -> Result<u32, Error> {
    let start = edge(program, map)?;
    #[expect(clippy::disallowed_methods, reason = "what is measured is how far a clock gets in this time")]
    std::thread::sleep(WATCH);
    let end = edge(program, map)?;
    Ok(rate(start, end))
}

/// The first reading after the timer's next tick.
fn edge(program: &Xdp, map: &Array<MapData, [u64; 2]>) -> Result<Reading, Error> {
    let first = read(program, map)?;
    loop {
        let now = read(program, map)?;
        if now.jiffies != first.jiffies {
            return Ok(now);
        }
        if now.nanos.saturating_sub(first.nanos) > STUCK.as_nanos() as u64 {
            return Err(fail(format!(
                "the kernel's timer stands at {} jiffies for {} s: this virtual machine gets no timer interrupts; restart it",
                now.jiffies,
                STUCK.as_secs()
            )));
        }
    }
}

/// Ticks per second between two readings; a usual rate when one is within a twentieth of it.
fn rate(start: Reading, end: Reading) -> u32 {
    let nanos = end.nanos.saturating_sub(start.nanos).max(1);
    let jiffies = end.jiffies.saturating_sub(start.jiffies);
    let measured = ((u128::from(jiffies) * 1_000_000_000 + u128::from(nanos) / 2) / u128::from(nanos)) as u32;
    USUAL_HZ.into_iter().find(|usual| measured.abs_diff(*usual) * 20 <= *usual).unwrap_or(measured.max(1))
}

/// Tells the packet path's time without asking the kernel: jiffies follow `CLOCK_MONOTONIC`, so one reading of
/// both is good until the next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Clock {
    reading: Reading,
    hz: u32,
    tick_shift: u32,
}

impl Clock {
    pub(super) const fn new(reading: Reading, settings: &Settings) -> Self {
        Self { reading, hz: settings.hz, tick_shift: settings.tick_shift }
    }

    /// The tick that it is now.
    pub(super) fn now(&self) -> u32 {
        let time = clock_gettime(ClockId::Monotonic);
        let nanos = time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned();
        self.tick_at(nanos)
    }

    fn tick_at(&self, nanos: u64) -> u32 {
        let passed =
            u128::from(nanos.saturating_sub(self.reading.nanos)) * u128::from(self.hz) / 1_000_000_000;
        // The packet path, too, keeps the low 32 bits.
        (self.reading.jiffies.wrapping_add(passed as u64) >> self.tick_shift) as u32
    }
}

#[cfg(test)]
mod tests {
    use lb_common::settings::tick_shift;

    use super::*;

    #[test]
    fn a_usual_rate_is_recognised_in_spite_of_jitter() {
        for (hz, jiffies, nanos) in [
            (100, 11, 110_300_000),
            (250, 26, 104_020_000),
            (300, 31, 103_330_000),
            (1000, 101, 101_004_000),
            (64, 7, 109_375_000),
        ] {
            let start = Reading { jiffies: 4_294_000_000, nanos: 77 };
            let end = Reading { jiffies: start.jiffies + jiffies, nanos: start.nanos + nanos };
            assert_eq!(rate(start, end), hz);
        }
    }

    #[test]
    fn time_goes_on_from_the_last_reading() {
        let settings = Settings { hz: 250, tick_shift: tick_shift(250), ..Settings::default() };
        let clock = Clock::new(Reading { jiffies: 3200, nanos: 5_000_000_000 }, &settings);
        assert_eq!(clock.tick_at(5_000_000_000), 100);
        assert_eq!(clock.tick_at(5_000_000_000 + 128_000_000), 101);
        assert_eq!(clock.tick_at(4_000_000_000), 100);
    }
}
