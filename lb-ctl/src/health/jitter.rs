//! Intervals that drift apart. Pure.
#![forbid(unsafe_code)]

use std::time::Duration;

/// Spreads intervals by up to a tenth either way, so that checks which began together drift apart. The numbers are
/// those of the splitmix64 generator: a seed gives the same ones every time.
#[derive(Debug)]
pub(super) struct Jitter(u64);

impl Jitter {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The interval, or up to a tenth more or less.
    pub(super) fn spread(&mut self, interval: Duration) -> Duration {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        // 0 to 2000 steps of a ten-thousandth, about the middle.
        let steps = u32::try_from(z % 2001).unwrap_or_default();
        interval / 10_000 * (9_000 + steps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_spreads_over_a_tenth_either_way_and_repeats() {
        let interval = Duration::from_secs(10);
        let draw = |seed| {
            let mut jitter = Jitter::new(seed);
            (0..1000).map(|_| jitter.spread(interval)).collect::<Vec<_>>()
        };
        let spread = draw(7);
        assert!(spread.iter().all(|d| (9_000..=11_000).contains(&d.as_millis())));
        assert!(
            spread.iter().any(|d| d.as_millis() < 9_200) && spread.iter().any(|d| d.as_millis() > 10_800)
        );
        assert_eq!(spread, draw(7));
        assert_ne!(spread, draw(8));
    }
}
