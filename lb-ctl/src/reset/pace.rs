//! A bounded rate.
#![forbid(unsafe_code)]

use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};

/// Frames sent in one go.
const BURST: u32 = 40;
/// Time from one go to the next: 20,000 frames a second, some 10 Mbit/s.
const EVERY: Duration = Duration::from_millis(2);

/// Gives permits at a bounded rate.
#[derive(Debug)]
pub(super) struct Pace {
    tick: Option<Interval>,
    left: u32,
}

impl Pace {
    pub(super) const fn new() -> Self {
        Self { tick: None, left: 0 }
    }

    /// Waits until another frame may be sent.
    pub(super) async fn permit(&mut self) {
        if self.left == 0 {
            let tick = self.tick.get_or_insert_with(|| {
                let mut tick = interval(EVERY);
                // Time that was not used does not add up to a larger burst.
                tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
                tick
            });
            tick.tick().await;
            self.left = BURST;
        }
        self.left -= 1;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_second_sees_more_than_the_rate() {
        let mut pace = Pace::new();
        let mut sent = Vec::new();
        for _ in 0..50_000 {
            pace.permit().await;
            sent.push(Instant::now());
        }
        // A window of a second may begin with one burst and end with another.
        let most = (Duration::from_secs(1).as_millis() / EVERY.as_millis() + 1) as usize * BURST as usize;
        for (at, first) in sent.iter().enumerate() {
            if let Some(later) = sent.get(at + most) {
                assert!(*later - *first > Duration::from_secs(1));
            }
        }
        assert!(sent[49_999] - sent[0] < Duration::from_secs(3));
    }
}
