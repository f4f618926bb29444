//! How servers are checked: what is asked, how often, and by which way.

use std::{collections::BTreeMap, net::IpAddr, ops::RangeInclusive, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

/// How the servers of a VIP are checked, or one server of it.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Check {
    /// What is asked of the server.
    pub kind: CheckKind,
    /// Port asked; `None` = the server's own port, or the VIP's first (R12).
    pub port: Option<u16>,
    /// Address that checks are made from; `None` = the one that the routing table chooses.
    pub source: Option<IpAddr>,
    /// Time from the start of one check to the start of the next.
    pub interval: Duration,
    /// Deadline over one whole check.
    pub timeout: Duration,
    /// Checks that must pass in a row before the server counts as up.
    pub rise: u32,
    /// Checks that must fail in a row before the server counts as down.
    pub fall: u32,
    /// Under direct routing the VIP is tried too, at the server's MAC. Means nothing in other modes.
    pub dr_path: bool,
    /// What becomes of connections that clients try to open in vain.
    pub syn_repeats: SynRepeats,
}

/// The check of a VIP that names none (R40).
impl Default for Check {
    fn default() -> Self {
        Self {
            kind: CheckKind::default(),
            port: None,
            source: None,
            interval: Duration::from_secs(4),
            timeout: Duration::from_secs(3),
            rise: 2,
            fall: 2,
            dr_path: true,
            syn_repeats: SynRepeats::default(),
        }
    }
}

/// What a check asks of the server.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub enum CheckKind {
    /// Nothing: the server always counts as up.
    Off,
    /// A TCP connection (R40).
    #[default]
    Connect,
    /// A request over HTTP or HTTPS (R41).
    Http(Box<HttpCheck>),
    /// A DICOM association, C-ECHO, release (R43).
    DicomEcho(DicomCheck),
    /// An HL7 receiver behind MLLP.
    Mllp(MllpCheck),
    /// ICMP echo.
    Ping,
    /// A program of the site's own (R42).
    Script(ScriptCheck),
    /// The server itself says how it is, in a line of text.
    Agent,
    /// Another VIP: passes while one of its servers is up.
    Track {
        /// Its name.
        vip: String,
    },
    /// Passes when every part passes.
    All(Vec<Part>),
    /// Passes when one part passes.
    Any(Vec<Part>),
}

impl CheckKind {
    /// As in TOML, the API and on the command line.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Connect => "connect",
            Self::Http(http) => {
                if http.tls.is_some() {
                    "https"
                } else {
                    "http"
                }
            }
            Self::DicomEcho(_) => "dicom-echo",
            Self::Mllp(_) => "mllp",
            Self::Ping => "ping",
            Self::Script(_) => "script",
            Self::Agent => "agent",
            Self::Track { .. } => "track",
            Self::All(_) => "all",
            Self::Any(_) => "any",
        }
    }

    /// True when a port is asked, by the check itself or by one of its parts that names none.
    #[must_use]
    pub fn asks_port(&self) -> bool {
        match self {
            Self::Off | Self::Ping | Self::Track { .. } => false,
            Self::Connect
            | Self::Http(_)
            | Self::DicomEcho(_)
            | Self::Mllp(_)
            | Self::Script(_)
            | Self::Agent => true,
            Self::All(parts) | Self::Any(parts) => {
                parts.iter().any(|part| part.port.is_none() && part.kind.asks_port())
            }
        }
    }

    /// True when a script is run, as the check or as a part of it.
    #[must_use]
    pub fn runs_script(&self) -> bool {
        match self {
            Self::Script(_) => true,
            Self::All(parts) | Self::Any(parts) => parts.iter().any(|part| part.kind.runs_script()),
            Self::Off
            | Self::Connect
            | Self::Http(_)
            | Self::DicomEcho(_)
            | Self::Mllp(_)
            | Self::Ping
            | Self::Agent
            | Self::Track { .. } => false,
        }
    }

    /// This kind, or one of its parts, passes with another VIP: that VIP's name.
    #[must_use]
    pub fn tracked(&self) -> Vec<&str> {
        match self {
            Self::Track { vip } => vec![vip],
            Self::All(parts) | Self::Any(parts) => {
                parts.iter().flat_map(|part| part.kind.tracked()).collect()
            }
            Self::Off
            | Self::Connect
            | Self::Http(_)
            | Self::DicomEcho(_)
            | Self::Mllp(_)
            | Self::Ping
            | Self::Script(_)
            | Self::Agent => Vec::new(),
        }
    }
}

/// One of several checks that make one.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Part {
    /// What is asked.
    pub kind: CheckKind,
    /// Port asked; `None` = that of the whole check.
    pub port: Option<u16>,
}

/// A request over HTTP.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct HttpCheck {
    /// `Some` = HTTPS.
    pub tls: Option<TlsClient>,
    /// Method: `GET`, `HEAD`, `OPTIONS`, `POST`.
    pub method: String,
    /// Path and query, beginning with `/`.
    pub path: String,
    /// `Host` header; `None` = address and port.
    pub host: Option<String>,
    /// Status codes that pass. A redirect is an answer like any other; it is never followed.
    pub status: Vec<RangeInclusive<u16>>,
    /// What the body must be; `None` = it is not read.
    pub body: Option<BodyMatch>,
    /// Bytes of the body that are read at most; a longer one fails.
    pub max_body_bytes: u32,
}

/// What a body must be.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum BodyMatch {
    /// This text, but for white space around it.
    Equals(String),
    /// This text somewhere.
    Contains(String),
    /// Something that this regular expression matches.
    Regex(String),
}

/// A DICOM association.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct DicomCheck {
    /// Calling AE title, ours.
    pub calling_aet: String,
    /// Called AE title, the archive's.
    pub called_aet: String,
    /// `Some` = DICOM over TLS.
    pub tls: Option<TlsClient>,
    /// Query that must be answered too, for one result at most.
    pub find: Option<FindModel>,
    /// An A-ASSOCIATE-RJ passes: the archive answers, and that is all that is asked.
    pub accept_reject: bool,
}

impl DicomCheck {
    /// An association and an echo, in the clear.
    #[must_use]
    pub fn new(calling_aet: impl Into<String>, called_aet: impl Into<String>) -> Self {
        Self {
            calling_aet: calling_aet.into(),
            called_aet: called_aet.into(),
            tls: None,
            find: None,
            accept_reject: false,
        }
    }
}

/// Information model of a C-FIND (PS3.4 C.6 and K.6).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum FindModel {
    /// Patient Root.
    Patient,
    /// Study Root.
    Study,
    /// Modality Worklist.
    Worklist,
}

impl FindModel {
    /// As in TOML.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Patient => "patient",
            Self::Study => "study",
            Self::Worklist => "worklist",
        }
    }
}

/// An HL7 receiver.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct MllpCheck {
    /// Message that is sent, segments apart by CR or LF; `{time}` and `{id}` in it are replaced. `None` = nothing is sent:
    /// the connection alone is tried, since a message may do something at the receiver.
    pub message: Option<String>,
    /// Acknowledgment codes (MSA-1) that pass; empty = `AA` alone.
    pub accept: Vec<String>,
}

/// A program of the site's own, called with VIP, VIP's port, server, server's port.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct ScriptCheck {
    /// File name, which the program may go by.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
}

/// How we are a client of TLS.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct TlsClient {
    /// Whether the server's certificate counts.
    pub verify: Verify,
    /// Certificate that we show when asked.
    pub client_cert: Option<ClientCert>,
    /// Name that is asked for and must be in the certificate; `None` = the HTTP host, else the address.
    pub sni: Option<String>,
}

/// By what a server's certificate is verified.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Verify {
    /// It is not.
    Off,
    /// By the system's authorities.
    System,
    /// By a family of authorities.
    Family(CaFamily),
}

/// Certificate authorities that stand together under a name (R31).
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct CaFamily {
    /// Name in `[pki.ca]`.
    pub name: String,
    /// PEM files.
    pub pems: Vec<PathBuf>,
}

/// A certificate with its key (R30).
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct ClientCert {
    /// Name in `[pki.cert]`.
    pub name: String,
    /// PEM file with certificate, chain and key.
    pub pem: PathBuf,
}

/// What becomes of connections that clients try to open in vain: SYNs that come again, while no new connection gets
/// through to the server.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SynRepeats {
    /// They count as a failed check.
    Count,
    /// They are shown.
    #[default]
    Show,
}

impl SynRepeats {
    /// As in TOML.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Show => "show",
        }
    }
}

/// Certificates and authorities, by name. Paths are absolute.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Pki {
    /// PEM files with certificate, chain and key.
    pub certs: BTreeMap<String, PathBuf>,
    /// Families: by label, a PEM file.
    pub families: BTreeMap<String, BTreeMap<String, PathBuf>>,
}
