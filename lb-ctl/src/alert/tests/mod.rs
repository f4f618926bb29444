//! What is told, by tables and by chance; nothing is sent.

mod outbox;
mod situation;
mod teller;
mod words;

use std::time::Duration;

use tokio::time::Instant;

use super::{
    situation::{Failing, Situation, Standing, Subject},
    teller::{Now, Pace},
};
use crate::model::health::{FailureReason, RipId};

/// The time that the tests begin at.
const EPOCH: u64 = 1_778_243_841;

const PACE: Pace = Pace { group: Duration::from_secs(3), repeat: Duration::from_secs(24 * 3600) };

/// A clock that is moved by hand.
#[derive(Clone, Copy)]
struct Clock {
    began: Instant,
    secs: u64,
}

impl Clock {
    fn new() -> Self {
        Self { began: Instant::now(), secs: 0 }
    }

    fn pass(&mut self, secs: u64) -> Now {
        self.secs += secs;
        Now { steady: self.began + Duration::from_secs(self.secs), epoch_secs: EPOCH + self.secs }
    }
}

fn server(name: &str) -> Subject {
    Subject::Server(RipId { vip: "DICOM".into(), rip: name.into() })
}

fn failing(text: &str) -> Standing {
    Standing::Failing(Failing {
        reason: Some(FailureReason::ConnectRefused),
        text: text.into(),
        since_epoch_secs: None,
    })
}

fn situation(standings: &[(Subject, Standing)]) -> Situation {
    Situation::made_of(standings.iter().cloned(), true)
}
