//! `cargo xtask demo`: the user's first minute.

use anyhow::Result;

use crate::exec::{cargo, exec, note};
use crate::{place, setup};

/// How to leave things.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Leave everything running, and print how to look at it.
    #[arg(long)]
    keep: bool,
    /// Show a published deployment in place of the two archives.
    #[arg(long)]
    deployment: Option<Deployment>,
}

/// Deployments of which there is a demonstration, by the names of their files in `config/deployments`.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Deployment {
    /// GE HealthCare Centricity Cardio Workflow: fifteen VIPs, layer 4 and layer 7.
    GeCcw,
}

impl Deployment {
    const fn name(self) -> &'static str {
        match self {
            Self::GeCcw => "ge-ccw",
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    setup::ensure()?;
    // The development profile: it builds in a fraction of the time, and what is shown runs in the kernel anyway.
    note(format_args!("building lbd, lbctl and the demonstration"));
    exec(cargo().args(["build", "--quiet", "--package", "lb-ctl", "--bins"]))?;
    exec(cargo().args(["build", "--quiet", "--package", "lb-tests", "--bin", "demo"]))?;
    let binaries = place::binaries()?;
    let mut command = cargo();
    command
        .args(["run", "--quiet", "--package", "lb-tests", "--bin", "demo", "--", "--lbd"])
        .arg(binaries.join("lbd"))
        .arg("--lbctl")
        .arg(binaries.join("lbctl"));
    if args.keep {
        command.arg("--keep");
    }
    if let Some(deployment) = args.deployment {
        command.args(["--deployment", deployment.name()]);
    }
    exec(&mut command)
}
