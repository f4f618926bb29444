//! `cargo xtask bench`: what a packet costs.

use anyhow::Result;

use crate::exec::{cargo, exec};
use crate::setup;

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Fewer rounds: for a look while working, not for a figure to quote.
    #[arg(long)]
    quick: bool,
    /// Live frames from end to end instead, beside the kernel's own ways; then connections and bulk transfer.
    #[arg(long)]
    live: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    setup::ensure()?;
    let mut command = cargo();
    let program = if args.live { "live" } else { "bench" };
    command.args(["run", "--quiet", "--release", "--package", "lb-tests", "--bin", program, "--"]);
    if args.quick {
        command.arg("--quick");
    }
    exec(&mut command)
}
