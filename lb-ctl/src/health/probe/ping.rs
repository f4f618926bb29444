//! ping
#![forbid(unsafe_code)]

use super::{Peer, Stopwatch, failure};
use crate::model::health::{Failure, FailureReason};

/// Asks.
pub(super) async fn probe(peer: &Peer, clock: &mut Stopwatch) -> Result<(), Failure> {
    let _ = (peer, clock);
    Err(failure(FailureReason::Local, "check: not tried".to_owned()))
}
