//! One check of one server: the steps, the deadline over all of them, and what went wrong.
#![forbid(unsafe_code)]

mod command_set;
mod connect;
mod dicom_echo;
mod pdu;

use std::{
    future::Future,
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use tokio::time::{Instant, timeout_at};

use crate::model::{
    config::CheckKind,
    health::{CheckResult, Failure, FailureReason, Step, Target},
};

/// Checks a target once, now, whatever its interval, rise and fall say. Takes no longer than its timeout. A target
/// whose check is off passes without a step.
pub async fn run_once(target: &Target) -> CheckResult {
    ask(target.addr, &target.check.kind, target.check.timeout).await
}

/// Asks the server at `addr` once; everything together ends within `timeout`.
pub(super) async fn ask(addr: SocketAddr, kind: &CheckKind, timeout: Duration) -> CheckResult {
    let mut clock = Stopwatch::start(timeout);
    let outcome = match kind {
        CheckKind::Off => Ok(()),
        CheckKind::Connect => connect::probe(addr, &mut clock).await,
        CheckKind::DicomEcho { calling_aet, called_aet } => {
            dicom_echo::probe(addr, calling_aet, called_aet, &mut clock).await
        }
    };
    clock.finish(outcome.err())
}

/// The time of a check: its one deadline, and what its steps took.
struct Stopwatch {
    started: Instant,
    step_started: Instant,
    timeout: Duration,
    steps: Vec<Step>,
}

impl Stopwatch {
    fn start(timeout: Duration) -> Self {
        let now = Instant::now();
        Self { started: now, step_started: now, timeout, steps: Vec::new() }
    }

    fn deadline(&self) -> Instant {
        self.started + self.timeout
    }

    fn remaining(&self) -> Duration {
        self.deadline().saturating_duration_since(Instant::now())
    }

    /// Ends the running step: it took from the end of the one before until now.
    fn mark(&mut self, name: &str) {
        let now = Instant::now();
        let took = now.duration_since(self.step_started);
        self.step_started = now;
        self.steps.push(Step {
            name: name.to_owned(),
            took_micros: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
        });
    }

    /// Runs a step under the deadline. When that passes first, the step fails for `late`, and the text says
    /// `{name}: no answer{from} within 3 s`.
    async fn step<T>(
        &mut self,
        name: &str,
        late: FailureReason,
        from: &str,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let outcome = timeout_at(self.deadline(), work).await.unwrap_or_else(|_elapsed| {
            Err(failure(late, format!("{name}: no answer{from} within {}", in_words(self.timeout))))
        });
        self.mark(name);
        outcome
    }

    fn finish(self, failure: Option<Failure>) -> CheckResult {
        CheckResult { at: SystemTime::now(), took: self.started.elapsed(), steps: self.steps, failure }
    }
}

const fn failure(reason: FailureReason, text: String) -> Failure {
    Failure { reason, text }
}

/// `3 s`, `1.5 s`, `250 ms`: the way people write a time-out.
fn in_words(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        format!("{} ms", duration.as_millis())
    } else {
        format!("{} s", (duration.as_secs_f64() * 1000.0).round() / 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_read_as_people_write_them() {
        assert_eq!(in_words(Duration::from_secs(3)), "3 s");
        assert_eq!(in_words(Duration::from_millis(1500)), "1.5 s");
        assert_eq!(in_words(Duration::from_millis(250)), "250 ms");
    }
}
