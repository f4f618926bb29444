//! Intervals that drift apart. Pure.
#![forbid(unsafe_code)]

use std::time::Duration;

/// Shortens intervals by up to a tenth, so that checks which began together drift apart. It never lengthens one: a
/// server that fails is down after `fall` intervals, and not later. The numbers are those of the splitmix64 generator:
/// a seed gives the same ones every time.
#[derive(Debug)]
pub(super) struct Jitter(u64);

impl Jitter {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The interval, or up to a tenth less.
    pub(super) fn shorten(&mut self, interval: Duration) -> Duration {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        // 0 to 1000 steps of a ten-thousandth.
        let steps = u32::try_from(z % 1001).unwrap_or_default();
        interval / 10_000 * (10_000 - steps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_shortens_by_up_to_a_tenth_and_repeats() {
        let interval = Duration::from_secs(10);
        let draw = |seed| {
            let mut jitter = Jitter::new(seed);
            (0..1000).map(|_| jitter.shorten(interval)).collect::<Vec<_>>()
        };
        let drawn = draw(7);
        assert!(drawn.iter().all(|d| (9_000..=10_000).contains(&d.as_millis())));
        assert!(drawn.iter().any(|d| d.as_millis() < 9_100) && drawn.iter().any(|d| d.as_millis() > 9_900));
        assert_eq!(drawn, draw(7));
        assert_ne!(drawn, draw(8));
    }
}
