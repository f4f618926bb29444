//! `cargo xtask fmt`: one format for every file.

use anyhow::Result;

use crate::exec::{cargo, exec};

/// Change or only look.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Change nothing; fail when a file is not formatted.
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if args.check { check() } else { exec(cargo().args(["fmt", "--all"])) }
}

/// Fails when a file is not formatted.
pub(crate) fn check() -> Result<()> {
    exec(cargo().args(["fmt", "--all", "--check"]))
}
