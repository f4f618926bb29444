//! Arguments of the verbs about the kernel's tables.

use std::net::IpAddr;

use clap::{Args, Subcommand};

use super::{
    Form,
    values::{ClientEnd, RipTarget, VipEnd, parse_ip},
};

/// `lbctl flows kill`.
#[derive(Args, Debug)]
pub struct KillArgs {
    #[command(flatten)]
    /// Which connections.
    pub which: Which,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
}

/// Connections that satisfy every condition that is there; there must be one.
#[derive(Args, Debug)]
#[group(required = true, multiple = true)]
pub struct Which {
    /// Connections to this VIP
    #[arg(long, value_name = "NAME")]
    pub vip: Option<String>,
    /// Connections to this real server, in one VIP or in whichever has it
    #[arg(long, value_name = "[VIP/]RIP")]
    pub rip: Option<RipTarget>,
    /// Connections from this client, or from one port of it
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    pub client: Option<ClientEnd>,
}

/// `lbctl table`.
#[derive(Debug, Subcommand)]
pub enum TableVerb {
    /// List the VIPs with persistence
    List {
        /// Form of the output
        #[arg(short, long, value_name = "FORM", default_value = "table")]
        output: Form,
    },
    /// Show which clients a VIP remembers, and where they go
    Show(ShowArgs),
    /// Forget clients of a VIP (or, with last-successful, the server in use): who connects next is scheduled anew
    Clear(ClearArgs),
}

/// `lbctl table show`.
#[derive(Args, Debug)]
pub struct ShowArgs {
    /// VIP's name
    pub vip: String,
    /// Only this client
    #[arg(long, value_name = "ADDRESS", value_parser = parse_ip)]
    pub client: Option<IpAddr>,
    /// Only this value of the parameter that clients are known by (url-param)
    #[arg(long, value_name = "VALUE")]
    pub key: Option<String>,
    /// Only those that go to this real server
    #[arg(long, value_name = "NAME")]
    pub rip: Option<String>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub limit: usize,
    /// Form of the output
    #[arg(short, long, value_name = "FORM", default_value = "table")]
    pub output: Form,
}

/// `lbctl table clear`.
#[derive(Args, Debug)]
pub struct ClearArgs {
    /// VIP's name
    pub vip: String,
    /// Only this client
    #[arg(long, value_name = "ADDRESS", value_parser = parse_ip)]
    pub client: Option<IpAddr>,
    /// Only this value of the parameter that clients are known by (url-param)
    #[arg(long, value_name = "VALUE")]
    pub key: Option<String>,
    /// Only those that go to this real server
    #[arg(long, value_name = "NAME")]
    pub rip: Option<String>,
}

/// `lbctl explain`.
#[derive(Args, Debug)]
pub struct ExplainArgs {
    /// Client, with a port to ask about a connection in progress
    #[arg(value_name = "CLIENT[:PORT]")]
    pub client: ClientEnd,
    /// VIP by name or address, and port
    #[arg(value_name = "VIP:PORT")]
    pub vip: VipEnd,
    /// A UDP datagram, not a TCP segment
    #[arg(long)]
    pub udp: bool,
    /// Form of the output
    #[arg(short, long, value_name = "FORM", default_value = "table")]
    pub output: Form,
}
