//! The whole product in private network namespaces, with real servers and real clients: two archives behind one
//! service, or a published deployment. It says in plain words what happens, and exits 0 only when all of it held.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for people")]

mod archives;
mod ge_ccw;
mod stage;

use std::{
    fs::{self, File},
    path::PathBuf,
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Parser, ValueEnum};
use lb_tests::lab::{lbd::Programs, mllp};

use crate::stage::{DIR, clean, clean_when_interrupted, tell_failures};

/// Show the load balancer at work: real servers, real clients, an outage.
#[derive(Debug, Parser)]
struct Args {
    /// The daemon.
    #[arg(long, required_unless_present_any = ["clean", "receive_hl7"])]
    lbd: Option<PathBuf>,
    /// The command line.
    #[arg(long, required_unless_present_any = ["clean", "receive_hl7"])]
    lbctl: Option<PathBuf>,
    /// A published deployment in place of the two archives.
    #[arg(long)]
    deployment: Option<Deployment>,
    /// Configuration of the daemon for the two archives.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/demo.toml"))]
    config: PathBuf,
    /// Leave everything running at the end, and say how to look at it.
    #[arg(long)]
    keep: bool,
    /// Only take away what an earlier demonstration left running.
    #[arg(long)]
    clean: bool,
    /// Be a server of a demonstration: acknowledge HL7 messages in this name, on the port that follows.
    #[arg(long, hide = true, num_args = 2, value_names = ["NAME", "PORT"])]
    receive_hl7: Vec<String>,
}

/// Deployments of which there is a demonstration, by the names of their configurations.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Deployment {
    /// GE HealthCare Centricity Cardio Workflow: fifteen VIPs, layer 4 and layer 7.
    GeCcw,
}

fn main() -> Result<()> {
    let args = Args::parse();
    if let [name, port] = args.receive_hl7.as_slice() {
        let port = port.parse().with_context(|| format!("{port:?} is no port"))?;
        return Ok(mllp::receive_for_ever(name, port)?);
    }
    ensure!(
        rustix::process::geteuid().is_root(),
        "network namespaces need root: run the demonstration with sudo"
    );
    let lock = File::create(format!("{DIR}.lock")).with_context(|| format!("cannot write {DIR}.lock"))?;
    if lock.try_lock().is_err() {
        bail!("another demonstration is running: wait for its end, or interrupt it");
    }
    clean();
    let (Some(lbd), Some(lbctl)) = (args.lbd, args.lbctl) else {
        return Ok(());
    };
    let toml = fs::read_to_string(&args.config)
        .with_context(|| format!("cannot read the configuration {}", args.config.display()))?;

    clean_when_interrupted()?;
    tell_failures();
    let programs = Programs { lbd, lbctl };
    match args.deployment {
        None => archives::show(programs, &toml, args.keep),
        Some(Deployment::GeCcw) => ge_ccw::show(programs, args.keep),
    }
    Ok(())
}
