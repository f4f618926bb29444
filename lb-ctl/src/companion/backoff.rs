//! Pauses between attempts that fail.
#![forbid(unsafe_code)]

use std::time::Duration;

use tokio::time::Instant;

/// Shortest pause.
const FIRST: Duration = Duration::from_secs(1);
/// Longest pause.
const LONGEST: Duration = Duration::from_secs(30);
/// Who ran for so long did not fail for what it was begun with.
const SOUND: Duration = Duration::from_secs(10);

/// How long to wait before the next attempt.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    next: Option<Duration>,
    began_at: Option<Instant>,
}

impl Backoff {
    /// An attempt has succeeded, as far as can be seen.
    pub(super) fn began(&mut self) {
        self.began_at = Some(Instant::now());
    }

    /// Pause after a failure. Who had begun is begun again at once, the first time in a row; after that each pause is
    /// twice the last one.
    pub(super) fn pause(&mut self) -> Duration {
        if let Some(at) = self.began_at.take() {
            if at.elapsed() >= SOUND {
                self.next = None;
            }
            if self.next.is_none() {
                self.next = Some(FIRST);
                return Duration::ZERO;
            }
        }
        let pause = self.next.unwrap_or(FIRST);
        self.next = Some((pause * 2).min(LONGEST));
        pause
    }
}
