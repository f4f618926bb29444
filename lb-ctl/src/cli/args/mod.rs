//! What can be typed: the verbs of `lbctl`, their arguments and their help.

mod alerts;
mod arp_help;
mod checks;
mod operator;
mod proxy;
mod tables;
#[cfg(test)]
mod tests;
mod tls;
mod values;

use std::{net::IpAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum, builder::PossibleValuesParser};

use self::values::{
    parse_assignment, parse_ip, parse_named_address, parse_named_ip, parse_ports, parse_timeout,
};
pub(super) use self::{
    alerts::AlertVerb,
    arp_help::{ArpHelpArgs, System},
    checks::{CheckVerb, Checked, ForcedVerdict, TestArgs, TestKind},
    operator::{DrainArgs, HaltArgs, RipTargets, ServerVerb, Servers},
    proxy::ProxyArgs,
    tables::{ClearArgs, ExplainArgs, KillArgs, ShowArgs, TableVerb, Which},
    tls::{CaVerb, CertAddArgs, CertVerb, TlsCheckArgs, TlsVerb},
    values::{NamedAddress, NamedIp, QualifiedRip, RipTarget},
};
use crate::{
    api::client::DEFAULT_SOCKET,
    model::{command::Assignment, status::CountBy},
};

const EXAMPLES: &str = "\
Examples:
  lbctl status                                    the overview; exit code 3 when something is not green
  lbctl vip add DICOM --mode l4-dr --ip 10.12.1.100 --ports 104,11112 \\
        --check dicom-echo --calling-aet LOADBALANCER --called-aet PACS \\
        --rip DICOM1=10.12.1.110 --rip DICOM2=10.12.1.111
  lbctl vip add VIEWER --mode l7-http --ip 10.12.1.160 --ports 80 --tls-port 443 --cert viewer \\
        --https-redirect 308 --rip VIEWER1=10.12.1.170:80
                                                  TLS that ends here
  lbctl rip drain DICOM/DICOM1                    no new connections; those in progress go on
  lbctl rip drain DICOM/DICOM1 --migrate --timeout 30m --then halt --wait
                                                  before it is patched
  lbctl server halt 10.12.1.110                   in every VIP that has it
  lbctl rip online DICOM/DICOM1                   back in service
  lbctl vip set DICOM idle_timeout=12h --dry-run  what would change
  lbctl vip set DICOM mode=l4-nat --dry-run       from direct routing to NAT
  lbctl alert test                                a message to everybody who is told of failures
  lbctl check run DICOM                           check its servers now
  lbctl check test dicom-echo 10.12.1.110:104 --called PACS
                                                  try a check out; needs no daemon
  lbctl config check                              check the files; needs no daemon
  lbctl config diff && lbctl apply                what an edited file would change, then change it
  lbctl flows count --by client                   who is connected
  lbctl flows kill --client 10.12.7.4             end its connections
  lbctl explain 10.12.7.4 DICOM:104               which server it would get, and why
  lbctl arp-help linux --vip DICOM                what a real server behind direct routing needs
  lbctl tls cert add pacs pacs.pfx                a certificate from Windows; asks for its password
  lbctl tls check WEB                             what clients of the VIP meet
  lbctl table clear DICOM --client 10.12.7.4      forget which server it had

Every verb may be shortened while it is unique: `lbctl v l` is `lbctl vip list`.

Exit codes: 0 done; 1 wrong usage or a local error; 2 lbd refused or cannot be reached; 3 something is not green
(status), not right (doctor), or fails (check).";

/// Looks after the load balancer: shows what it does, and changes it while it runs.
#[derive(Debug, Parser)]
#[command(name = "lbctl", version, after_help = EXAMPLES, infer_subcommands = true, max_term_width = 110)]
pub struct Cli {
    /// Socket that lbd listens on
    #[arg(long, global = true, help_heading = "Daemon", value_name = "PATH", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
    /// Longest wait for an answer of lbd, e.g. 5s
    #[arg(long, global = true, help_heading = "Daemon", value_name = "TIME", default_value = "10s",
          value_parser = parse_timeout)]
    pub answer_timeout: Duration,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// Verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Show every VIP and real server: colour, connections, health
    Status(StatusArgs),
    /// Virtual services: list, show, add, change, delete
    #[command(subcommand, arg_required_else_help = true)]
    Vip(VipVerb),
    /// Real servers: list, add, change, delete, drain, halt, bring online
    #[command(subcommand, arg_required_else_help = true)]
    Rip(RipVerb),
    /// Machines by address, in every VIP that has them: drain, halt, bring online
    #[command(subcommand, arg_required_else_help = true)]
    Server(ServerVerb),
    /// Health checks: list, show, run, try one out, overrule one
    #[command(subcommand, arg_required_else_help = true)]
    Check(CheckVerb),
    /// Alerts: send a test
    #[command(subcommand, arg_required_else_help = true)]
    Alert(AlertVerb),
    /// Configuration files: check, compare, apply, show
    #[command(subcommand, arg_required_else_help = true)]
    Config(ConfigVerb),
    /// Read the configuration files again and apply what changed (as `config apply`)
    Apply,
    /// Connections in progress: list, count, end
    #[command(subcommand, arg_required_else_help = true)]
    Flows(FlowsVerb),
    /// Clients and servers that persistence remembers: list, show, forget
    #[command(subcommand, arg_required_else_help = true)]
    Table(TableVerb),
    /// Certificates and authorities: list, show, add, replace, delete, check
    #[command(subcommand, arg_required_else_help = true)]
    Tls(TlsVerb),
    /// Tell which real server a client's packet would go to, and why; exit code 3 when none gets it
    Explain(ExplainArgs),
    /// Examine this machine: driver, MTU, rp_filter, ARP, offloads, subnets, kernel; needs no daemon
    Doctor(DoctorArgs),
    /// Print what a real server needs for direct routing: the VIP on loopback, no answers to ARP for it
    ArpHelp(ArpHelpArgs),
    /// Write the completion script of a shell to standard output
    #[command(after_help = "For bash: lbctl completions bash > /etc/bash_completion.d/lbctl")]
    Completions {
        /// Shell to write it for
        shell: CompletionShell,
    },
}

/// `lbctl status`.
#[derive(Args, Debug)]
pub struct StatusArgs {
    /// Show it again and again, every 2 seconds or as often as said, until interrupted
    #[arg(short, long, value_name = "TIME", num_args = 0..=1, require_equals = true,
          default_missing_value = "2s", value_parser = parse_timeout)]
    pub watch: Option<Duration>,
    /// Form of the output
    #[arg(short, long, value_name = "FORM", default_value = "table")]
    pub output: Form,
}

/// `lbctl vip`.
#[derive(Debug, Subcommand)]
pub enum VipVerb {
    /// List the VIPs
    List {
        /// Form of the output
        #[arg(short, long, value_name = "FORM", default_value = "table")]
        output: ListForm,
    },
    /// Show all that is known of a VIP and its real servers
    Show {
        /// VIP's name
        vip: String,
        /// Form of the output
        #[arg(short, long, value_name = "FORM", default_value = "table")]
        output: Form,
    },
    /// Add a VIP, at once and in the configuration file
    Add(Box<VipAddArgs>),
    /// Change keys of a VIP, e.g. idle_timeout=12h check.called_aet=PACS
    Set {
        /// VIP's name
        vip: String,
        /// Keys and values as in the configuration file; a bare word is taken as a string
        #[arg(required = true, value_name = "KEY=VALUE", value_parser = parse_assignment)]
        assignments: Vec<Assignment>,
        #[command(flatten)]
        /// `--dry-run`.
        dry_run: DryRun,
    },
    /// Delete a VIP and end its service
    Delete {
        /// VIP's name
        vip: String,
        #[command(flatten)]
        /// `--dry-run`.
        dry_run: DryRun,
    },
}

/// `lbctl vip add`.
#[derive(Args, Debug)]
pub struct VipAddArgs {
    /// Name of the new VIP
    pub vip: String,
    /// How packets reach the servers
    #[arg(long, value_parser = PossibleValuesParser::new(MODES))]
    pub mode: String,
    /// Virtual address
    #[arg(long, value_name = "ADDRESS", value_parser = parse_ip)]
    pub ip: IpAddr,
    /// Ports and ranges, separated by commas, or `all`; the first is the one that checks ask
    #[arg(long, value_name = "PORTS", value_parser = parse_ports)]
    pub ports: String,
    /// Transport protocol, or both
    #[arg(long, value_parser = PossibleValuesParser::new(PROTOCOLS))]
    pub protocol: Option<String>,
    /// Who gets a new connection
    #[arg(long, value_parser = PossibleValuesParser::new(SCHEDULERS))]
    pub scheduler: Option<String>,
    /// Whether clients come back to their server, or all stay on the server in use (with scheduler first)
    #[arg(long, value_parser = PossibleValuesParser::new(PERSISTS))]
    pub persist: Option<String>,
    /// Send a client to the same server in all VIPs of this group (with --persist source-ip)
    #[arg(long, value_name = "NAME")]
    pub persist_group: Option<String>,
    /// What clients get when no server is up: on layer 4 `reject` or `drop`, on layer 7 `page` or `off`; or this server
    #[arg(long, value_name = "reject|drop|page|off|ADDRESS[:PORT]")]
    pub fallback: Option<String>,
    /// Time in which a server that came up works its way to its whole weight, e.g. 30s
    #[arg(long, value_name = "TIME")]
    pub slow_start: Option<String>,
    /// What becomes of new connections while lbd does not run
    #[arg(long, value_parser = PossibleValuesParser::new(UNATTENDED))]
    pub unattended: Option<String>,
    /// How the servers are checked
    #[arg(long, value_parser = PossibleValuesParser::new(CHECKS))]
    pub check: Option<String>,
    /// Port that is checked, if not the server's or the VIP's first
    #[arg(long, value_name = "PORT", requires = "check", value_parser = clap::value_parser!(u16).range(1..))]
    pub check_port: Option<u16>,
    /// Path and query that an http or https check asks for
    #[arg(long, value_name = "PATH", requires = "check")]
    pub check_path: Option<String>,
    /// Script that is run, by its name in scripts/ beside the configuration
    #[arg(long, value_name = "NAME", requires = "check")]
    pub check_script: Option<String>,
    /// Calling AE title of a dicom-echo check: ours
    #[arg(long, value_name = "AET")]
    pub calling_aet: Option<String>,
    /// Called AE title of a dicom-echo check: the archive's
    #[arg(long, value_name = "AET")]
    pub called_aet: Option<String>,
    /// A real server, at any port but with direct routing; may be repeated
    #[arg(long = "rip", value_name = "NAME=ADDRESS[:PORT]", value_parser = parse_named_address)]
    pub rips: Vec<NamedAddress>,
    /// Whom servers see with SNAT and on layer 7: `interface` (this machine), `vip`, or addresses separated by commas
    #[arg(long, value_name = "SOURCE")]
    pub source: Option<String>,
    /// Source ports of SNAT, e.g. 10240-32767
    #[arg(long, value_name = "PORTS")]
    pub source_ports: Option<String>,
    /// How replies of NAT and SNAT find the client
    #[arg(long = "return", value_parser = PossibleValuesParser::new(RETURN_PATHS))]
    pub return_path: Option<String>,
    /// Let connections with a server that fails time out (but with direct routing), instead of resetting them
    #[arg(long)]
    pub no_reset: bool,
    #[command(flatten)]
    /// Layer 7.
    pub proxy: ProxyArgs,
    #[command(flatten)]
    /// `--dry-run`.
    pub dry_run: DryRun,
}

/// `lbctl rip`.
#[derive(Debug, Subcommand)]
pub enum RipVerb {
    /// List the real servers of all VIPs, or of one
    List {
        /// VIP's name
        vip: Option<String>,
        /// Form of the output
        #[arg(short, long, value_name = "FORM", default_value = "table")]
        output: ListForm,
    },
    /// Add a real server to a VIP, at once and in the configuration file
    Add {
        /// VIP's name
        vip: String,
        /// Name and address of the new real server, at any port but with direct routing
        #[arg(value_name = "NAME=ADDRESS[:PORT]", value_parser = parse_named_ip)]
        rip: NamedIp,
        /// Share of new connections, 0 to 256
        #[arg(long, value_parser = clap::value_parser!(u16).range(..=256))]
        weight: Option<u16>,
        /// Most active connections; beyond it new ones go to other servers (0 = no limit)
        #[arg(long, value_name = "N")]
        max_connections: Option<u16>,
        /// Once full, take new connections again with fewer than this (0 = as soon as there is room)
        #[arg(long, value_name = "N")]
        min_connections: Option<u16>,
        #[command(flatten)]
        /// `--dry-run`.
        dry_run: DryRun,
    },
    /// Change keys of a real server, e.g. weight=50
    Set {
        /// VIP's and real server's name
        #[arg(value_name = "VIP/RIP")]
        rip: QualifiedRip,
        /// Keys and values as in the configuration file; a bare word is taken as a string
        #[arg(required = true, value_name = "KEY=VALUE", value_parser = parse_assignment)]
        assignments: Vec<Assignment>,
        #[command(flatten)]
        /// `--dry-run`.
        dry_run: DryRun,
    },
    /// Delete a real server from a VIP
    Delete {
        /// VIP's and real server's name
        #[arg(value_name = "VIP/RIP")]
        rip: QualifiedRip,
        #[command(flatten)]
        /// `--dry-run`.
        dry_run: DryRun,
    },
    /// Give a real server no new connections; those in progress go on
    Drain {
        #[command(flatten)]
        /// Which.
        targets: RipTargets,
        #[command(flatten)]
        /// How.
        how: DrainArgs,
    },
    /// Give a real server nothing at all
    Halt {
        #[command(flatten)]
        /// Which.
        targets: RipTargets,
        #[command(flatten)]
        /// How.
        how: HaltArgs,
    },
    /// Bring a real server back into service (while its check passes)
    Online(RipTargets),
}

/// `lbctl config`.
#[derive(Debug, Subcommand)]
pub enum ConfigVerb {
    /// Check the configuration files, showing every fault with its place and cure; needs no daemon
    Check {
        /// Main file; conf.d beside it is read too
        #[arg(value_name = "FILE", default_value = DEFAULT_CONFIG)]
        file: PathBuf,
    },
    /// Show what apply would change: the files against what is in force, and what becomes of traffic
    Diff,
    /// List the configurations that were in force, the newest last
    History {
        /// Form of the output
        #[arg(short, long, value_name = "FORM", default_value = "table")]
        output: Form,
    },
    /// Put the files back as they were in an earlier configuration, and apply them
    Rollback {
        /// Its number, as `config history` lists it; the one before the present if not given
        #[arg(value_name = "NUMBER")]
        number: Option<u64>,
        /// Lose what was edited in the files and is not in force
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        dry_run: DryRun,
    },
    /// Read the configuration files again and apply what changed
    Apply,
    /// Print the configuration in force as TOML, or the files of an earlier one
    Show {
        /// Number of the earlier one, as `config history` lists it
        #[arg(value_name = "NUMBER")]
        number: Option<u64>,
    },
}

/// `lbctl flows`.
#[derive(Debug, Subcommand)]
pub enum FlowsVerb {
    /// List connections
    List {
        /// Only those to this VIP
        #[arg(long, value_name = "NAME")]
        vip: Option<String>,
        /// Only those to this real server
        #[arg(long, value_name = "NAME")]
        rip: Option<String>,
        /// Only those from this client
        #[arg(long, value_name = "ADDRESS", value_parser = parse_ip)]
        client: Option<IpAddr>,
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = 1000)]
        limit: usize,
        /// Form of the output
        #[arg(short, long, value_name = "FORM", default_value = "table")]
        output: Form,
    },
    /// End connections: of a VIP, with a real server, from a client, or what satisfies all of these
    Kill(KillArgs),
    /// Count connections by VIP, real server, client or state
    Count {
        /// What to count by
        #[arg(long, default_value = "vip")]
        by: CountKey,
        /// Form of the output
        #[arg(short, long, value_name = "FORM", default_value = "table")]
        output: Form,
    },
}

/// `lbctl doctor`.
#[derive(Args, Debug)]
pub struct DoctorArgs {
    /// Main configuration file: what it names is examined
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
}

/// `--dry-run`.
#[derive(Args, Clone, Copy, Debug)]
pub struct DryRun {
    /// Say what would change, change nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

/// Form of an overview.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Form {
    /// For people
    Table,
    /// For programs: as the API gives it
    Json,
}

/// Form of a list.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum ListForm {
    /// For people
    Table,
    /// With packets, bytes and MACs
    Wide,
    /// For programs: as the API gives it
    Json,
    /// Names alone, one per line
    Name,
}

/// What `flows count` counts by.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum CountKey {
    /// Client address
    Client,
    /// Real server
    Rip,
    /// State of the connection
    State,
    /// VIP
    Vip,
}

impl From<CountKey> for CountBy {
    fn from(key: CountKey) -> Self {
        match key {
            CountKey::Client => Self::Client,
            CountKey::Rip => Self::Rip,
            CountKey::State => Self::State,
            CountKey::Vip => Self::Vip,
        }
    }
}

/// Shells that completions can be written for.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum CompletionShell {
    /// GNU Bash
    Bash,
    /// Z shell
    Zsh,
    /// fish
    Fish,
}

const DEFAULT_CONFIG: &str = "/etc/lbd/lbd.toml";

const MODES: [&str; 5] = ["l4-dr", "l4-nat", "l4-snat", "l7-http", "l7-tcp"];
const PROTOCOLS: [&str; 3] = ["tcp", "udp", "tcp+udp"];
const SCHEDULERS: [&str; 5] = ["first", "maglev", "source-hash", "wlc", "wrr"];
const PERSISTS: [&str; 4] = ["cookie", "last-successful", "none", "source-ip"];
const UNATTENDED: [&str; 2] = ["refuse", "serve"];
const RETURN_PATHS: [&str; 2] = ["last-hop", "route"];
const CHECKS: [&str; 9] =
    ["connect", "http", "https", "dicom-echo", "mllp", "ping", "script", "agent", "off"];
