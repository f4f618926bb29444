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
}

pub(crate) fn run(args: &Args) -> Result<()> {
    setup::ensure()?;
    let mut command = cargo();
    command.args(["run", "--quiet", "--release", "--package", "lb-tests", "--bin", "bench", "--"]);
    if args.quick {
        command.arg("--quick");
    }
    exec(&mut command)
}
