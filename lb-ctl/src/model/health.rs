//! Health of real servers: what to check, and what checks found.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use super::config::Check;

/// A real server of a VIP, by name: the identity that health, operator state and status share.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct RipId {
    /// VIP's name.
    pub vip: String,
    /// Real server's name.
    pub rip: String,
}

/// One thing to check.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Target {
    /// Whom the result is for.
    pub id: RipId,
    /// Where to ask.
    pub addr: SocketAddr,
    /// What, how often, how long.
    pub check: Check,
}

/// Everything to check.
pub type Targets = Vec<Target>;

/// What is known of every target.
pub type HealthMap = BTreeMap<RipId, Health>;

/// What is known of one real server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Health {
    /// Verdict after rise and fall.
    pub verdict: Verdict,
    /// Since when.
    pub since: SystemTime,
    /// The last check, if one has ended.
    pub last: Option<CheckResult>,
}

/// Verdict after rise and fall. Unknown is not up.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Failed `fall` checks in a row.
    Down,
    /// No verdict yet.
    Unknown,
    /// Passed `rise` checks in a row.
    Up,
}

/// One check.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CheckResult {
    /// When it ended.
    pub at: SystemTime,
    /// How long it took in all.
    pub took: Duration,
    /// Its steps in order, each with the time it took; the last one is where it failed, if it failed.
    pub steps: Vec<Step>,
    /// What went wrong, if anything.
    pub failure: Option<Failure>,
}

/// One step of a check.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Step {
    /// `connect`, `associate`, `echo`, `release`.
    pub name: String,
    /// Microseconds.
    pub took_micros: u64,
}

/// Why a check failed.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Failure {
    /// Class, stable, for alerts and statistics.
    pub reason: FailureReason,
    /// One line for people: `A-ASSOCIATE-RJ: called AE title not recognised`.
    pub text: String,
}

/// Classes of failure.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureReason {
    /// The server answered with RST: nothing listens on the port.
    ConnectRefused,
    /// No answer to SYN before the deadline.
    ConnectTimeout,
    /// No route, host or network unreachable.
    Unreachable,
    /// The connection was closed or reset in the middle.
    ConnectionClosed,
    /// Connected, but no A-ASSOCIATE-AC or -RJ before the deadline.
    AssociateTimeout,
    /// A-ASSOCIATE-RJ: our calling AE title.
    RejectedCallingAet,
    /// A-ASSOCIATE-RJ: the called AE title.
    RejectedCalledAet,
    /// A-ASSOCIATE-RJ: too many associations, or temporary congestion.
    RejectedBusy,
    /// A-ASSOCIATE-RJ for any other reason.
    Rejected,
    /// A-ABORT from the server.
    Aborted,
    /// The association was accepted, but not Verification (1.2.840.10008.1.1).
    VerificationNotAccepted,
    /// C-ECHO: no answer before the deadline.
    EchoTimeout,
    /// C-ECHO answered with a status other than success.
    EchoFailed,
    /// The server does not speak DICOM.
    ProtocolError,
    /// This machine could not even try (no descriptors, no permission).
    Local,
}
