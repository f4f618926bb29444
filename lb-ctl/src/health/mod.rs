//! Health checks: one engine asks every real server how it is, and publishes what it found.
//!
//! ```text
//! watch<Targets> -> Engine -> Roster (pure: who, what, when) -> probe (I/O) -> Roster -> watch<HealthMap>
//! ```
//!
//! Rules that the files share:
//!
//! - A check has one deadline over everything it does, and ends with a classified reason and a line for people.
//! - Unknown is not up. The very first check of a server decides when it passes; after any failure it takes `rise`
//!   passes in a row to be up and `fall` failures in a row to be down ([`fall_rise`]).
//! - A check that this machine could not even try ([`Local`](crate::model::health::FailureReason::Local)) is
//!   shown, but counts neither way: a lack of descriptors here must not take every server out of service.
//! - A server is asked how it is itself, and under direct routing whether the VIP answers at its MAC; the worse
//!   verdict holds.
//! - Identical questions (same address, kind, interval and timeout) are asked once, for all servers they stand for.
#![forbid(unsafe_code)]

pub mod apart;
mod engine;
pub mod fall_rise;
mod flaps;
mod jitter;
pub mod journal;
mod probe;
mod roster;
mod runs;

pub use engine::{Connections, Engine};
pub use probe::{run_once, try_path};
pub use runs::RunRequest;
