//! mllp
#![forbid(unsafe_code)]

use super::{Peer, Stopwatch, Tools, failure};
use crate::model::{
    check::MllpCheck,
    health::{Failure, FailureReason},
};

/// Asks.
pub(super) async fn probe(
    peer: &Peer,
    check: &MllpCheck,
    tools: &Tools,
    clock: &mut Stopwatch,
) -> Result<(), Failure> {
    let _ = (peer, check, tools, clock);
    Err(failure(FailureReason::Local, "check: not tried".to_owned()))
}
