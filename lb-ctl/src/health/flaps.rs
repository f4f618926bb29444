//! Servers that go down again and again: they have to pass more often before they count as up. Pure: time is passed in.
#![forbid(unsafe_code)]

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::model::health::Verdict;

/// Time in which a server may go down [`FREE`] times; and time for which it must be up to be trusted again.
const WINDOW: Duration = Duration::from_secs(600);
/// Times that a server may go down in that time without consequence.
const FREE: usize = 3;
/// What `rise` is multiplied by at most.
const MAX_FACTOR: u32 = 8;

/// When a server went down of late, and what that costs it.
#[derive(Debug)]
pub(super) struct Flaps {
    /// The last of them, no more than matter.
    downs: VecDeque<Instant>,
    factor: u32,
    up_since: Option<Instant>,
}

impl Flaps {
    pub(super) const fn new() -> Self {
        Self { downs: VecDeque::new(), factor: 1, up_since: None }
    }

    /// Notes a change of verdict.
    pub(super) fn record(&mut self, verdict: Verdict, now: Instant) {
        self.forgive(now);
        self.up_since = (verdict == Verdict::Up).then_some(now);
        if verdict != Verdict::Down {
            return;
        }
        self.downs.retain(|at| now.saturating_duration_since(*at) < WINDOW);
        self.downs.push_back(now);
        if self.downs.len() > FREE {
            self.factor = (self.factor * 2).min(MAX_FACTOR);
            self.downs.pop_front();
        }
    }

    /// What `rise` is multiplied by now.
    pub(super) fn factor(&mut self, now: Instant) -> u32 {
        self.forgive(now);
        self.factor
    }

    fn forgive(&mut self, now: Instant) {
        if self.up_since.is_some_and(|since| now.saturating_duration_since(since) >= WINDOW) {
            *self = Self { up_since: self.up_since, ..Self::new() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// Goes down and up so many times, a pause after each change, and gives the factor after each time.
    fn flap(flaps: &mut Flaps, now: &mut Instant, times: usize, pause: Duration) -> Vec<u32> {
        let flap = |_| {
            for verdict in [Verdict::Down, Verdict::Up] {
                flaps.record(verdict, *now);
                *now += pause;
            }
            flaps.factor(*now)
        };
        (0..times).map(flap).collect()
    }

    #[test]
    fn from_the_fourth_time_in_ten_minutes_on_rise_doubles_up_to_eight_times() {
        let (mut flaps, mut now) = (Flaps::new(), Instant::now());
        assert_eq!(flap(&mut flaps, &mut now, 8, MINUTE / 2), [1, 1, 1, 2, 4, 8, 8, 8]);
    }

    #[test]
    fn who_goes_down_seldom_is_not_damped() {
        let (mut flaps, mut now) = (Flaps::new(), Instant::now());
        assert_eq!(flap(&mut flaps, &mut now, 20, MINUTE * 2), [1; 20]);
    }

    #[test]
    fn ten_minutes_up_are_forgiveness_and_ten_minutes_down_are_not() {
        let (mut flaps, mut now) = (Flaps::new(), Instant::now());
        flap(&mut flaps, &mut now, 5, MINUTE / 2);
        assert_eq!(flaps.factor(now + MINUTE * 9), 4);
        flaps.record(Verdict::Down, now);
        now += MINUTE * 60;
        assert_eq!(flaps.factor(now), 8);
        flaps.record(Verdict::Up, now);
        assert_eq!(flaps.factor(now + MINUTE * 10), 1);
        now += MINUTE * 10;
        assert_eq!(flap(&mut flaps, &mut now, 3, MINUTE / 2), [1, 1, 1], "and all of it is forgotten");
    }
}
