//! Health of real servers: what to check, and what checks found.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use lb_common::net::Mac;
use serde::{Deserialize, Serialize};

use super::check::{Check, DicomCheck};

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
    /// VIP's address and first port: what a script is told.
    pub vip: SocketAddr,
    /// Whether the VIP is tried at the server, too.
    pub path: PathTarget,
}

impl Target {
    /// A server of which only that is said which every check needs; its VIP is not tried.
    #[must_use]
    pub const fn new(id: RipId, addr: SocketAddr, check: Check) -> Self {
        Self { id, addr, check, vip: addr, path: PathTarget::Off }
    }
}

/// Whether the VIP is tried at the server, by the way that clients' packets go.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PathTarget {
    /// It is not: other modes, checks that are off, `dr_path = false`.
    Off,
    /// It cannot be yet; the text says why. A server that was not up stays unknown meanwhile.
    Waiting(String),
    /// So.
    Direct(Arc<DirectPath>),
}

/// The way of a client's packets to a server under direct routing.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct DirectPath {
    /// Interface that the server is reached by.
    pub ifindex: u32,
    /// Its name.
    pub interface: String,
    /// Its hardware address.
    pub source_mac: Mac,
    /// This machine's address in the server's subnet: whom the server answers.
    pub source: IpAddr,
    /// Where the frames go.
    pub server_mac: Mac,
    /// The server's own address.
    pub server: IpAddr,
    /// The VIP and the port that is tried.
    pub vip: SocketAddr,
    /// What is asked once connected; `None` = the connection is all.
    pub echo: Option<DicomCheck>,
}

/// Everything to check.
pub type Targets = Vec<Target>;

/// What is known of every target.
pub type HealthMap = BTreeMap<RipId, Health>;

/// What is known of one real server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Health {
    /// Verdict after rise and fall: of the server's own check and of the VIP's path, the worse.
    pub verdict: Verdict,
    /// Since when.
    pub since: SystemTime,
    /// The last check of the server itself, if one has ended.
    pub last: Option<CheckResult>,
    /// The last try of the VIP at the server, if one has ended.
    pub path: Option<CheckResult>,
    /// What keeps the VIP from being tried.
    pub waiting: Option<String>,
    /// What the server says of itself, by its agent.
    pub advice: Advice,
    /// SYNs that came again since a new connection last got through.
    pub syn_repeats: u64,
    /// What `rise` is multiplied by, since the server went down too often of late; 1 = it did not.
    pub damping: u32,
}

impl Health {
    /// A server of which nothing but this is known.
    #[must_use]
    pub fn new(verdict: Verdict, since: SystemTime) -> Self {
        Self {
            verdict,
            since,
            last: None,
            path: None,
            waiting: None,
            advice: Advice::default(),
            syn_repeats: 0,
            damping: 1,
        }
    }

    /// What failed: the server's own check first, then the VIP's path.
    #[must_use]
    pub fn failure(&self) -> Option<&Failure> {
        [&self.last, &self.path].into_iter().find_map(|result| result.as_ref()?.failure.as_ref())
    }
}

/// What a server says of itself.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Advice {
    /// Share of its weight that it wants, in percent; `None` = it does not say.
    pub percent: Option<u8>,
    /// What it wants to be.
    pub state: Option<AdvisedState>,
}

/// What a server wants to be.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AdvisedState {
    /// It keeps its connections and wants no new ones.
    Drain,
    /// It wants nothing at all.
    Maint,
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
    /// What a script, an agent or a web server said last, cut to [`CheckResult::MAX_OUTPUT_BYTES`].
    pub output: Option<String>,
    /// What is worth knowing though nothing failed.
    pub note: Option<String>,
    /// What the server says of itself.
    pub advice: Advice,
}

impl CheckResult {
    /// Longest output that is kept.
    pub const MAX_OUTPUT_BYTES: usize = 4096;

    /// A check that said no more than this.
    #[must_use]
    pub fn new(at: SystemTime, took: Duration, steps: Vec<Step>, failure: Option<Failure>) -> Self {
        Self { at, took, steps, failure, output: None, note: None, advice: Advice::default() }
    }
}

/// One step of a check.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Step {
    /// `connect`, `tls`, `associate`, `echo`, `find`, `release`, `request`, `body`, `message`, `ping`, `script`, `agent`, `track`;
    /// the same behind `vip ` when the VIP is tried, and behind the part's kind and port in a check of several.
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
    /// Connected, but no answer to what was asked before the deadline.
    AnswerTimeout,
    /// TLS: the handshake failed, or had not ended before the deadline.
    TlsHandshake,
    /// TLS: the certificate has expired, or is not valid yet.
    TlsExpired,
    /// TLS: no authority that counts has signed the certificate.
    TlsUnknownIssuer,
    /// TLS: the certificate is for another name.
    TlsWrongName,
    /// TLS: the server wants a certificate of ours, or refuses the one it got.
    TlsClientCertificate,
    /// HTTP: a status that does not pass.
    HttpStatus,
    /// HTTP: a body that does not match.
    HttpBody,
    /// HTTP: a body longer than is read.
    HttpBodyTooLong,
    /// C-FIND answered with a status of failure, or is not supported.
    FindFailed,
    /// MLLP: a negative acknowledgment, or one of another message.
    MllpRefused,
    /// No answer to ICMP echo.
    PingTimeout,
    /// The script ended with an exit code other than 0, or by a signal.
    ScriptFailed,
    /// The script had not ended before the deadline.
    ScriptTimeout,
    /// The server's agent says that it is down.
    AgentDown,
    /// No server of the tracked VIP is up.
    TrackedDown,
    /// VIP at the server: SYN unanswered; a firewall, or the VIP is not there and packets are routed away.
    PathUnanswered,
    /// VIP at the server: RST; the VIP is not on loopback, or the service is not bound to it.
    PathRefused,
    /// VIP at the server: it answers from its own address.
    PathOwnAddress,
    /// VIP at the server: another server answers.
    PathOtherServer,
    /// Clients try to connect in vain: their SYNs come again and again.
    SynsUnanswered,
    /// This machine could not even try (no descriptors, no permission).
    Local,
}

impl FailureReason {
    /// True for what the VIP's path found.
    #[must_use]
    pub const fn is_of_path(self) -> bool {
        matches!(
            self,
            Self::PathUnanswered | Self::PathRefused | Self::PathOwnAddress | Self::PathOtherServer
        )
    }
}

/// A change of verdict: an element of the history.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Transition {
    /// Milliseconds since the epoch.
    pub at_epoch_millis: u64,
    /// Which server.
    #[serde(flatten)]
    pub id: RipId,
    /// Verdict before.
    pub from: Verdict,
    /// Verdict from then on.
    pub to: Verdict,
    /// Class of the failure that did it.
    pub reason: Option<FailureReason>,
    /// Why, in a line.
    pub text: String,
}

/// By server: SYNs that came again since a new connection last got through. Cumulative no longer than that: it falls to
/// zero when one does.
pub type SynRepeatCounts = BTreeMap<RipId, u64>;

/// SYNs that must have come again for it to be said, or to count as a failed check: a lost packet or two are no sign of a
/// server that lets nobody in.
pub const TELLING_SYN_REPEATS: u64 = 3;

/// What is said of so many.
#[must_use]
pub fn syns_in_vain(repeats: u64) -> String {
    format!("clients' SYNs came again {repeats} times and no new connection got through")
}

/// Which check a result is of.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Asked {
    /// The server itself.
    Server,
    /// The VIP at the server.
    Path,
}

/// What checks that were run on request found.
pub type RunResults = Vec<(RipId, Asked, CheckResult)>;
