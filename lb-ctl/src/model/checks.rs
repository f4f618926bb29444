//! Checks as the API shows them: bodies of requests about what is asked of servers, and what they answered.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::{
    health::{Advice, Asked, CheckResult, Failure, FailureReason, RipId, Step, Verdict},
    operator::Word,
};

/// Query of `GET /v1/checks` and body of `POST /v1/checks/run`: which servers; without a name, all.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CheckQuery {
    /// VIP's name.
    pub vip: Option<String>,
    /// Real server's name; only beside its VIP's.
    pub rip: Option<String>,
}

/// A server's check: an element of `GET /v1/checks`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct CheckStatus {
    /// Which server.
    #[serde(flatten)]
    pub id: RipId,
    /// `connect`, `https`, `dicom-echo` ...
    pub kind: String,
    /// Address and port that are asked.
    pub addr: SocketAddr,
    /// Address that is asked from; `None` = the one that the routing table chooses.
    pub source: Option<IpAddr>,
    /// Milliseconds from the start of one check to the start of the next, at most.
    pub interval_millis: u64,
    /// Deadline of one check in milliseconds.
    pub timeout_millis: u64,
    /// Checks that must pass in a row before the server counts as up.
    pub rise: u32,
    /// What `rise` is multiplied by, since the server went down too often of late; 1 = it did not.
    pub damping: u32,
    /// Checks that must fail in a row before the server counts as down.
    pub fall: u32,
    /// What the kind alone has.
    pub settings: Vec<Setting>,
    /// What checks say of the server.
    pub verdict: Verdict,
    /// Milliseconds since the epoch when that began; `None` = it is not known to the engine yet.
    pub since_epoch_millis: Option<u64>,
    /// What an operator said of the server; its verdict counts in place of the check's.
    pub operator: Word,
    /// Class of what failed last.
    pub reason: Option<FailureReason>,
    /// What failed last, or what is waited for, in a line.
    pub text: Option<String>,
    /// The last check of the server itself.
    pub server: Option<Attempt>,
    /// How the VIP is tried at the server; `None` = it is not.
    pub way: Option<String>,
    /// The last try of the VIP at the server.
    pub path: Option<Attempt>,
    /// What the server says of itself.
    pub advice: Advice,
    /// SYNs of clients that came again since a new connection last got through.
    pub syn_repeats: u64,
    /// Whether they count as a failed check.
    pub syn_repeats_count: bool,
}

/// A setting of a check.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Setting {
    /// As in TOML.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// A check that was made.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Attempt {
    /// When it ended, in milliseconds since the epoch.
    pub at_epoch_millis: u64,
    /// How long it took in all, in microseconds.
    pub took_micros: u64,
    /// Its steps.
    pub steps: Vec<Step>,
    /// What went wrong, if anything.
    pub failure: Option<Failure>,
    /// What a script, an agent or a web server said last.
    pub output: Option<String>,
    /// What is worth knowing though nothing failed.
    pub note: Option<String>,
}

impl From<&CheckResult> for Attempt {
    fn from(result: &CheckResult) -> Self {
        let at = result.at.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self {
            at_epoch_millis: u64::try_from(at.as_millis()).unwrap_or(u64::MAX),
            took_micros: u64::try_from(result.took.as_micros()).unwrap_or(u64::MAX),
            steps: result.steps.clone(),
            failure: result.failure.clone(),
            output: result.output.clone(),
            note: result.note.clone(),
        }
    }
}

/// Query of `GET /v1/checks/history`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct HistoryQuery {
    /// VIP's name.
    pub vip: String,
    /// Real server's name.
    pub rip: String,
    /// At most so many changes, the newest ones.
    pub limit: Option<usize>,
}

/// A check that was run on request: an element of the answer to `POST /v1/checks/run`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct RunStatus {
    /// Which server.
    #[serde(flatten)]
    pub id: RipId,
    /// What was asked.
    pub asked: Asked,
    /// What was found.
    #[serde(flatten)]
    pub attempt: Attempt,
}
