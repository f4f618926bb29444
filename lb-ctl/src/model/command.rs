//! What an operator can ask a running daemon to do: bodies of the API's requests.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{
    health::RipId,
    operator::{Forced, Order},
    tls::PkiEdit,
};

/// A request that changes something. Applied at once and kept: configuration edits go to the TOML, operator
/// states to the state file, both on disk before the answer.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "command")]
pub enum Command {
    /// Read the configuration again and apply the difference.
    Apply,
    /// Change the configuration: the text edits of one `lbctl vip|rip add|set|delete`.
    Edit {
        /// What to edit.
        edit: Box<Edit>,
        /// Say what would change, change nothing.
        dry_run: bool,
    },
    /// Put the configuration files back as they were in a version of the history, and apply them.
    Rollback {
        /// Its number; `None` = the one before the present.
        to: Option<u64>,
        /// Lose edits of the files that are not in force.
        force: bool,
        /// Say what would change, change nothing.
        dry_run: bool,
    },
    /// Say whether real servers take connections.
    SetState {
        /// Which.
        rips: Vec<RipId>,
        /// What is said of them.
        state: Order,
    },
    /// Say what counts in place of checks' verdicts.
    Force {
        /// Of which real servers.
        rips: Vec<RipId>,
        /// The verdict; `None` = the check decides again.
        forced: Option<Forced>,
    },
    /// Forget the server that a VIP with last-successful persistence uses: the first one of its list is next.
    Forget {
        /// VIP's name.
        vip: String,
    },
}

/// An edit of the TOML.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "edit")]
pub enum Edit {
    /// Add a real server to a VIP (its own list, or the pool it uses).
    RipAdd {
        /// VIP's name.
        vip: String,
        /// Real server's name.
        rip: String,
        /// Address.
        ip: IpAddr,
        /// Port; `None` = the one that the client asked for.
        port: Option<u16>,
        /// Weight; `None` = the default.
        weight: Option<u16>,
        /// Most active connections; `None` = the default.
        max_connections: Option<u16>,
        /// Fewer active connections than this make room again; `None` = the default.
        min_connections: Option<u16>,
    },
    /// Remove a real server.
    RipDelete(RipId),
    /// Change keys of a real server.
    RipSet {
        /// Which.
        id: RipId,
        /// Key and TOML value, as typed: `weight=50`.
        assignments: Vec<Assignment>,
    },
    /// Add a VIP.
    VipAdd(Box<VipSpec>),
    /// Remove a VIP.
    VipDelete {
        /// VIP's name.
        vip: String,
    },
    /// Change keys of a VIP.
    VipSet {
        /// VIP's name.
        vip: String,
        /// Key and TOML value, as typed: `idle_timeout="12h"`, `check.called_aet=PACS`.
        assignments: Vec<Assignment>,
    },
    /// Add or remove a certificate or an authority, with its file.
    Pki(PkiEdit),
}

/// `key=value` as typed. The key may be dotted; the value is TOML, or a bare word taken as a string.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Assignment {
    /// Dotted key.
    pub key: String,
    /// Value as typed.
    pub value: String,
}

/// `lbctl vip add`. `None` leaves the key out of the TOML, so that its default applies.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct VipSpec {
    /// Label.
    pub name: String,
    /// `l4-dr`, `l4-nat`, `l4-snat`, `l7-tcp`, `l7-http`.
    pub mode: String,
    /// Virtual address.
    pub ip: String,
    /// Ports: `104,11112-11120`, or `all`.
    pub ports: String,
    /// `tcp`, `udp`, `tcp+udp`.
    pub protocol: Option<String>,
    /// Scheduler's name.
    pub scheduler: Option<String>,
    /// `none`, `source-ip`, `last-successful`, `cookie`.
    pub persist: Option<String>,
    /// Persistence group of `source-ip`.
    pub persist_group: Option<String>,
    /// `reject` or `drop`, on layer 7 `page` or `off`, or a server: `10.0.0.9`, `10.0.0.9:80`.
    pub fallback: Option<String>,
    /// Time in which a server that came up works its way to its whole weight: `30s`.
    pub slow_start: Option<String>,
    /// `serve` or `refuse`.
    pub unattended: Option<String>,
    /// Type of the check, one that can be said in a word: `connect`, `dicom-echo`, `https`.
    pub check: Option<String>,
    /// Port that is checked.
    #[serde(default)]
    pub check_port: Option<u16>,
    /// Path of an `http` or `https` check.
    #[serde(default)]
    pub check_path: Option<String>,
    /// Name of a script.
    #[serde(default)]
    pub check_script: Option<String>,
    /// Calling AE title of a `dicom-echo` check.
    pub calling_aet: Option<String>,
    /// Called AE title of a `dicom-echo` check.
    pub called_aet: Option<String>,
    /// Source of SNAT and layer 7: `interface`, `vip`, or addresses, `10.0.0.5,10.0.0.6`.
    pub source: Option<String>,
    /// Source ports of SNAT: `10240-32767`.
    pub source_ports: Option<String>,
    /// `last-hop` or `route`.
    #[serde(rename = "return")]
    pub return_path: Option<String>,
    /// Whether connections with a server that fails are reset.
    pub reset: Option<bool>,
    /// What has meaning on layer 7 alone.
    #[serde(default)]
    pub proxy: ProxySpec,
    /// Real servers: name and address (with the port, if one was typed: it is refused for direct routing).
    pub rips: Vec<(String, String)>,
}

/// The part of `lbctl vip add` that has meaning on layer 7 alone.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct ProxySpec {
    /// Port that TLS ends at.
    pub tls_port: Option<u16>,
    /// Names of certificates: `viewer`, or `viewer,archive`.
    pub cert: Option<String>,
    /// Family of authorities that clients' certificates are of.
    pub client_ca: Option<String>,
    /// By what servers are verified over TLS: a family, `system`, `off`.
    pub backend_verify: Option<String>,
    /// Status of the answer that sends clients to TLS.
    pub https_redirect: Option<u16>,
}

/// Answer to a command.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Outcome {
    /// What changed (or would change), a line each; empty = nothing.
    pub changes: Vec<String>,
    /// What is worth knowing though nothing is wrong.
    pub warnings: Vec<String>,
    /// What would become of traffic, a line each; only of what has not been done.
    #[serde(default)]
    pub traffic: Vec<String>,
}

/// Answer when the daemon refuses. HTTP status 4xx or 5xx, body this.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Refusal {
    /// What is wrong, where, and the cure. May have several lines (rendered configuration errors).
    pub error: String,
}
