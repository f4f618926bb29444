//! Arguments by which an operator says what real servers are to do.

use std::{net::IpAddr, time::Duration};

use clap::{Args, Subcommand, ValueEnum};

use super::{
    RipTarget,
    values::{parse_ip, parse_span},
};

/// `lbctl server`.
#[derive(Debug, Subcommand)]
pub enum ServerVerb {
    /// Give a machine no new connections, in every VIP that has its address; those in progress go on
    Drain {
        #[command(flatten)]
        /// Which.
        servers: Servers,
        #[command(flatten)]
        /// How.
        how: DrainArgs,
    },
    /// Give a machine nothing at all, in every VIP that has its address
    Halt {
        #[command(flatten)]
        /// Which.
        servers: Servers,
        #[command(flatten)]
        /// How.
        how: HaltArgs,
    },
    /// Bring a machine back into service, in every VIP that has its address
    Online(Servers),
}

/// Real servers by name.
#[derive(Args, Debug)]
pub struct RipTargets {
    /// VIP/RIP, or with --all-vips (or where one VIP alone has it) RIP
    #[arg(required = true, value_name = "VIP/RIP")]
    pub rips: Vec<RipTarget>,
    /// In every VIP that has a real server of this name
    #[arg(long)]
    pub all_vips: bool,
}

/// Machines by address.
#[derive(Args, Debug)]
pub struct Servers {
    /// Address of the machine
    #[arg(required = true, value_name = "IP", value_parser = parse_ip)]
    pub ips: Vec<IpAddr>,
}

/// How a server is drained.
#[derive(Args, Clone, Copy, Debug)]
pub struct DrainArgs {
    /// New connections of its clients go elsewhere, even those that persistence would send there; on layer 7 they do unless
    /// --keep-persistent is given
    #[arg(long, conflicts_with = "keep_persistent")]
    pub migrate: bool,
    /// Clients that persistence sends there still get there; on layer 4 they do unless --migrate is given
    #[arg(long)]
    pub keep_persistent: bool,
    /// Time that connections in progress have, e.g. 10m
    #[arg(long, value_name = "TIME", value_parser = parse_span)]
    pub timeout: Option<Duration>,
    /// What becomes of the server once the time is over or nothing is left of its connections
    #[arg(long, value_name = "STATE")]
    pub then: Option<Then>,
    /// Wait until no connection is left, or it is halted, or the time is over
    #[arg(long)]
    pub wait: bool,
}

/// What follows a drain.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Then {
    /// It is halted
    Halt,
}

/// How a server is halted.
#[derive(Args, Clone, Copy, Debug)]
pub struct HaltArgs {
    /// Let connections in progress go on; nothing new gets there, whatever persistence says
    #[arg(long)]
    pub keep_sessions: bool,
}
