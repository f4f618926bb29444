//! The configuration as it is meant: checked, defaulted, resolved. What was typed is in `config::file`.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

/// A whole, valid configuration.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Config {
    /// What is particular to this machine.
    pub node: Node,
    /// VIPs in the order of the files.
    pub vips: Vec<Vip>,
}

/// What is particular to this machine; never replicated to a peer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Node {
    /// Name shown in the overview; the host name when not set.
    pub name: Option<String>,
    /// Interfaces to attach to; empty = those that VIPs and real servers are reached by.
    pub interfaces: Vec<String>,
    /// Room for established IPv4 flows (rounded up to a power of two).
    pub flows_v4: u32,
    /// Room for established IPv6 flows.
    pub flows_v6: u32,
    /// Room for half-open flows of each family.
    pub half_open: u32,
}

/// A virtual service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Vip {
    /// Label, unique.
    pub name: String,
    /// How packets reach the servers.
    pub mode: Mode,
    /// Virtual address.
    pub ip: IpAddr,
    /// Ports in the order written; the first is the default check port (R12).
    pub ports: Vec<u16>,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Interface that carries the address; `None` = the one whose subnet contains it.
    pub interface: Option<String>,
    /// Who gets a new flow.
    pub scheduler: Scheduler,
    /// Whether clients come back to the same server.
    pub persist: Persist,
    /// How servers are checked.
    pub check: Check,
    /// How long an established flow may be idle.
    pub idle_timeout: Duration,
    /// What becomes of new flows when no server is up.
    pub fallback: Fallback,
    /// False: configured, but not served; its address is not claimed.
    pub enabled: bool,
    /// Real servers in the order written (the order that `first` goes by).
    pub rips: Vec<Rip>,
}

/// A real server of a VIP.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rip {
    /// Label, unique within the VIP.
    pub name: String,
    /// Address.
    pub ip: IpAddr,
    /// Relative share of new flows, 0 to 256.
    pub weight: u16,
}

/// How packets reach the servers.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Mode {
    /// Layer 4, direct routing.
    #[serde(rename = "l4-dr")]
    L4Dr,
}

impl Mode {
    /// As in TOML, the API and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::L4Dr => "l4-dr",
        }
    }
}

/// Transport protocol of a VIP.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// As in TOML, the API and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// Who gets a new flow.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scheduler {
    /// The first server in the list that is up.
    First,
    /// Consistent hash of the whole 5-tuple.
    Maglev,
    /// Consistent hash of the client address.
    SourceHash,
    /// Weighted round robin.
    Wrr,
}

impl Scheduler {
    /// As in TOML, the API and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Maglev => "maglev",
            Self::SourceHash => "source-hash",
            Self::Wrr => "wrr",
        }
    }
}

/// Whether clients come back to the same server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Persist {
    /// Every connection is scheduled anew.
    None,
    /// By client address, for all ports of the VIP.
    SourceIp {
        /// Leading bits of an IPv4 client address that count.
        prefix_v4: u8,
        /// Leading bits of an IPv6 client address that count.
        prefix_v6: u8,
        /// Idle time after which the client is scheduled anew.
        timeout: Duration,
    },
}

/// What becomes of new flows when no server is up.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fallback {
    /// Dropped without a word.
    Drop,
    /// Refused: RST, or port unreachable.
    Reject,
}

/// How the servers of a VIP are checked.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Check {
    /// What is asked of the server.
    pub kind: CheckKind,
    /// Port asked; `None` = the VIP's first port.
    pub port: Option<u16>,
    /// Time from the start of one check to the start of the next.
    pub interval: Duration,
    /// Deadline over one whole check.
    pub timeout: Duration,
    /// Checks that must pass in a row before the server counts as up.
    pub rise: u32,
    /// Checks that must fail in a row before the server counts as down.
    pub fall: u32,
}

/// What a check asks of the server.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum CheckKind {
    /// Nothing: the server always counts as up.
    Off,
    /// A TCP connection (R40).
    Connect,
    /// A DICOM association, C-ECHO, release (R43).
    DicomEcho {
        /// Calling AE title, ours.
        calling_aet: String,
        /// Called AE title, the archive's.
        called_aet: String,
    },
}

/// Where a configuration is read from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Sources {
    /// The main file, e.g. `/etc/lbd/lbd.toml`.
    pub main: PathBuf,
}

impl Sources {
    /// `conf.d` beside the main file: one TOML file per application, read in the order of their names.
    #[must_use]
    pub fn conf_d(&self) -> PathBuf {
        self.main.with_file_name("conf.d")
    }
}
