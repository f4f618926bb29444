//! The daemon: arguments, log, one of its ways to run.
#![forbid(unsafe_code)]

use std::{env, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, bail};
use clap::Parser;
use lb_ctl::{
    api::client::DEFAULT_SOCKET,
    colour,
    daemon::{self, Places},
};
use tracing_subscriber::EnvFilter;

/// Load balancer for hospitals: the daemon. SIGHUP reads the configuration again; SIGTERM stops the daemon and
/// leaves the kernel forwarding.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Main configuration file; conf.d beside it is read too
    #[arg(long, default_value = "/etc/lbd/lbd.toml")]
    config: PathBuf,
    /// Socket that lbctl talks to
    #[arg(long, default_value = DEFAULT_SOCKET)]
    socket: PathBuf,
    /// Directory on a BPF file system for what must outlive the daemon
    #[arg(long, default_value = "/sys/fs/bpf/lbd")]
    pin_dir: PathBuf,
    /// Directory for operator states (drain, halt), the list of addresses that lbd added, the histories of the configuration
    /// and of checks, and alerts that wait to be sent
    #[arg(long, default_value = "/var/lib/lbd")]
    state_dir: PathBuf,
    /// Directory for the companion proxy's configuration, sockets and certificates
    #[arg(long, default_value = "/run/lbd")]
    runtime_dir: PathBuf,
    /// Read and check the configuration, then exit
    #[arg(long, conflicts_with = "detach")]
    check: bool,
    /// Remove everything that lbd made (program, maps, addresses), then exit; connections through it end
    #[arg(long)]
    detach: bool,
}

#[expect(clippy::print_stderr, reason = "the last word of a program for people")]
fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lbd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "what --check and --detach were asked for")]
fn run(args: Args) -> anyhow::Result<()> {
    let filter = match env::var("LBD_LOG") {
        Ok(wanted) => EnvFilter::try_new(&wanted).with_context(|| {
            format!("LBD_LOG={wanted} is no log filter: write e.g. `info` or `lb_ctl=debug`")
        })?,
        Err(env::VarError::NotPresent) => EnvFilter::new("info"),
        Err(error) => bail!("LBD_LOG: {error}"),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colour::is_wanted(&std::io::stderr()))
        .with_target(false)
        .init();
    let places = Places {
        config: args.config,
        socket: args.socket,
        pin_dir: args.pin_dir,
        state_dir: args.state_dir,
        runtime_dir: args.runtime_dir,
    };
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    let lines = if args.check {
        daemon::check(&places)?
    } else if args.detach {
        runtime.block_on(daemon::detach(&places))?
    } else {
        return runtime.block_on(daemon::serve(&places));
    };
    for line in lines {
        println!("{line}");
    }
    Ok(())
}
