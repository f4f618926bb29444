//! Arguments of the verbs about checks.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use clap::{Args, Subcommand, ValueEnum};

use super::{
    Form, QualifiedRip,
    values::{ClientEnd, parse_ip, parse_span, parse_timeout},
};
use crate::model::check::FindModel;

/// `lbctl check`.
#[derive(Debug, Subcommand)]
pub enum CheckVerb {
    /// List checks: what is asked, and what was found
    List {
        /// Only those of this VIP
        vip: Option<String>,
        /// Form of the output
        #[arg(short, long, value_name = "FORM", default_value = "table")]
        output: Form,
    },
    /// Show everything about the check of a real server: settings, the last steps with their times, the past
    Show {
        /// VIP's and real server's name
        #[arg(value_name = "VIP/RIP")]
        rip: QualifiedRip,
        /// So many of the last changes of its verdict
        #[arg(long, value_name = "N", default_value_t = 20)]
        history: usize,
        /// Form of the output
        #[arg(short, long, value_name = "FORM", default_value = "table")]
        output: Form,
    },
    /// Have lbd check now, and show what it found; exit code 3 when a check fails
    Run {
        /// A VIP, or one real server of it
        #[arg(value_name = "VIP[/RIP]")]
        which: Checked,
        /// Each step on a line of its own, and what servers said
        #[arg(short, long)]
        verbose: bool,
    },
    /// Check any address from here, without lbd; exit code 3 when the check fails
    Test(Box<TestArgs>),
    /// Overrule the check of a real server, for a while or until it is told otherwise
    Force {
        /// VIP's and real server's name
        #[arg(value_name = "VIP/RIP")]
        rip: QualifiedRip,
        /// What counts in place of the check's verdict; with `auto` the check decides again
        verdict: ForcedVerdict,
        /// The check decides again after this time, e.g. 10m
        #[arg(long = "for", value_name = "TIME", value_parser = parse_span)]
        span: Option<Duration>,
    },
}

/// What counts in place of a check's verdict.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum ForcedVerdict {
    /// The check's verdict
    Auto,
    /// Down, whatever the check says
    Down,
    /// Up, whatever the check says
    Up,
}

/// `VIP` or `VIP/RIP`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Checked {
    /// VIP's name.
    pub vip: String,
    /// Real server's name; `None` = all.
    pub rip: Option<String>,
}

impl FromStr for Checked {
    type Err = String;

    fn from_str(typed: &str) -> Result<Self, String> {
        let (vip, rip) = typed.split_once('/').map_or((typed, None), |(vip, rip)| (vip, Some(rip)));
        if vip.is_empty() || rip.is_some_and(|rip| rip.is_empty() || rip.contains('/')) {
            return Err(format!("`{typed}` is neither VIP nor VIP/RIP, e.g. DICOM or DICOM/DICOM1"));
        }
        Ok(Self { vip: vip.to_owned(), rip: rip.map(str::to_owned) })
    }
}

/// `lbctl check test`.
#[derive(Args, Debug)]
pub struct TestArgs {
    /// What is asked
    pub kind: TestKind,
    /// Whom; without a port the one that is usual: 80, 443, 104 or 2575
    #[arg(value_name = "ADDRESS[:PORT]")]
    pub server: ClientEnd,
    /// dicom-echo: our AE title, if it is not LOADBALANCER
    #[arg(long, value_name = "AET")]
    pub calling: Option<String>,
    /// dicom-echo: the server's AE title
    #[arg(long, value_name = "AET")]
    pub called: Option<String>,
    /// dicom-echo: a query that must be answered too
    #[arg(long, value_name = "MODEL")]
    pub find: Option<FindKind>,
    /// dicom-echo: over TLS (https always is)
    #[arg(long)]
    pub tls: bool,
    /// https, --tls: how the server's certificate is verified: off (if not given), system, or a PEM file of
    /// authorities
    #[arg(long, value_name = "BY")]
    pub verify: Option<String>,
    /// https, --tls: a PEM file with certificate and key that is shown to the server
    #[arg(long, value_name = "FILE")]
    pub client_cert: Option<PathBuf>,
    /// https, --tls: the server's name
    #[arg(long, value_name = "NAME")]
    pub sni: Option<String>,
    /// http, https: what is asked for
    #[arg(long, value_name = "PATH")]
    pub path: Option<String>,
    /// http, https: Host header
    #[arg(long, value_name = "NAME")]
    pub host: Option<String>,
    /// http, https: text that the body must contain
    #[arg(long, value_name = "TEXT")]
    pub expect: Option<String>,
    /// mllp: a file with the message that is sent; without, the connection alone is tried
    #[arg(long, value_name = "FILE")]
    pub message: Option<PathBuf>,
    /// script: the program
    #[arg(long, value_name = "FILE")]
    pub script: Option<PathBuf>,
    /// script: the VIP that the program is told
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub vip: Option<SocketAddr>,
    /// Address to ask from
    #[arg(long, value_name = "ADDRESS", value_parser = parse_ip)]
    pub source: Option<IpAddr>,
    /// Deadline of the whole check
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = parse_timeout)]
    pub timeout: Duration,
}

/// Checks that can be made without a configuration.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum TestKind {
    /// A TCP connection
    Connect,
    /// A web server
    Http,
    /// A web server, over TLS
    Https,
    /// A DICOM association and an echo
    DicomEcho,
    /// An HL7 receiver
    Mllp,
    /// ICMP echo
    Ping,
    /// A program of your own
    Script,
    /// A server's agent
    Agent,
}

/// Information models of a query.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum FindKind {
    /// Patient Root
    Patient,
    /// Study Root
    Study,
    /// Modality Worklist
    Worklist,
}

impl From<FindKind> for FindModel {
    fn from(kind: FindKind) -> Self {
        match kind {
            FindKind::Patient => Self::Patient,
            FindKind::Study => Self::Study,
            FindKind::Worklist => Self::Worklist,
        }
    }
}
