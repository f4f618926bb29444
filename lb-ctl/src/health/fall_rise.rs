//! Rise and fall: from single checks to a verdict. Pure.
//!
//! The counts are there against flapping. A server that was never seen to fail has nothing to flap from, so its
//! first check, if it passes, makes it up at once: a restarted daemon must not keep a working archive out of
//! service for `rise` intervals. After any failure the counts rule in both directions.
#![forbid(unsafe_code)]

use crate::model::health::Verdict;

/// The verdict on one server, and how far it is from the next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FallRise {
    verdict: Verdict,
    /// Outcome of the last check, and how many in a row were like it; 0 = none since the streak began.
    last_passed: bool,
    streak: u32,
}

impl FallRise {
    /// A server of which `verdict` is known, and no check yet.
    #[must_use]
    pub const fn new(verdict: Verdict) -> Self {
        Self { verdict, last_passed: false, streak: 0 }
    }

    /// What holds now.
    #[must_use]
    pub const fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// Forgets the checks so far, keeps the verdict: the question changed, the server did not.
    pub const fn restart(&mut self) {
        self.streak = 0;
    }

    /// Counts one check and gives the verdict after it. `rise` and `fall` of 0 mean what 1 means.
    pub fn record(&mut self, passed: bool, rise: u32, fall: u32) -> Verdict {
        let first = self.streak == 0 && self.verdict == Verdict::Unknown;
        if self.last_passed == passed {
            self.streak = self.streak.saturating_add(1);
        } else {
            self.last_passed = passed;
            self.streak = 1;
        }
        if passed && (first || self.streak >= rise) {
            self.verdict = Verdict::Up;
        } else if !passed && self.streak >= fall {
            self.verdict = Verdict::Down;
        }
        self.verdict
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn verdicts(checks: &[bool], rise: u32, fall: u32) -> Vec<Verdict> {
        let mut state = FallRise::new(Verdict::Unknown);
        checks.iter().map(|passed| state.record(*passed, rise, fall)).collect()
    }

    /// The rule read off the whole history, instead of counted along the way.
    fn by_the_book(checks: &[bool], rise: u32, fall: u32) -> Verdict {
        let ends_with = |history: &[bool], passed: bool, count: u32| {
            let count = count.max(1) as usize;
            history.len() >= count && history[history.len() - count..].iter().all(|c| *c == passed)
        };
        (1..=checks.len())
            .rev()
            .find_map(|end| {
                let history = &checks[..end];
                if history == [true] || ends_with(history, true, rise) {
                    Some(Verdict::Up)
                } else if ends_with(history, false, fall) {
                    Some(Verdict::Down)
                } else {
                    None
                }
            })
            .unwrap_or(Verdict::Unknown)
    }

    #[test]
    fn a_first_pass_is_enough_a_first_failure_is_not() {
        assert_eq!(verdicts(&[true], 3, 3), [Verdict::Up]);
        assert_eq!(
            verdicts(&[false, false, false], 3, 3),
            [Verdict::Unknown, Verdict::Unknown, Verdict::Down]
        );
    }

    #[test]
    fn after_a_first_failure_it_takes_rise_passes() {
        assert_eq!(verdicts(&[false, true, true], 2, 3), [Verdict::Unknown, Verdict::Unknown, Verdict::Up]);
    }

    #[test]
    fn a_restart_keeps_the_verdict_and_forgets_the_streak() {
        let mut state = FallRise::new(Verdict::Up);
        assert_eq!(state.record(false, 2, 2), Verdict::Up);
        state.restart();
        assert_eq!(state.record(false, 2, 2), Verdict::Up);
        assert_eq!(state.record(false, 2, 2), Verdict::Down);
    }

    proptest! {
        #[test]
        fn counting_agrees_with_the_rule_read_off_the_history(
            checks in prop::collection::vec(any::<bool>(), 0..40),
            rise in 0_u32..6,
            fall in 0_u32..6,
        ) {
            let counted = verdicts(&checks, rise, fall).last().copied().unwrap_or(Verdict::Unknown);
            prop_assert_eq!(counted, by_the_book(&checks, rise, fall));
        }
    }
}
