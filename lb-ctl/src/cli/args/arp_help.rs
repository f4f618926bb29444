//! Arguments of `lbctl arp-help`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

const AFTER: &str = "\
Examples:
  lbctl arp-help linux --vip DICOM                          asks lbd for the VIP's address
  lbctl arp-help linux --vip DICOM --config lbd.toml        asks the configuration file
  lbctl arp-help windows --vip 10.12.1.100                  asks nobody
  lbctl arp-help linux --vip DICOM | ssh root@pacs1 sh      does it";

/// `lbctl arp-help`.
#[derive(Args, Debug)]
#[command(after_help = AFTER)]
pub struct ArpHelpArgs {
    /// System of the real server
    pub system: System,
    /// VIP's name, or its address
    #[arg(long, value_name = "NAME|ADDRESS")]
    pub vip: String,
    /// Main configuration file to look the name up in; lbd is not asked then
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// System of a real server.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum System {
    /// A POSIX shell, with systemd or without
    Linux,
    /// PowerShell, and netsh for older ones (from Windows Server 2012)
    Windows,
    /// A POSIX shell, and launchd
    Macos,
}
