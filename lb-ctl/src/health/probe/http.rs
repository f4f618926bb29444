//! http
#![forbid(unsafe_code)]

use super::{Peer, Stopwatch, Tools, failure};
use crate::model::{
    check::HttpCheck,
    health::{Failure, FailureReason},
};

/// Asks.
pub(super) async fn probe(
    peer: &Peer,
    check: &HttpCheck,
    tools: &Tools,
    clock: &mut Stopwatch,
) -> Result<(), Failure> {
    let _ = (peer, check, tools, clock);
    Err(failure(FailureReason::Local, "check: not tried".to_owned()))
}
