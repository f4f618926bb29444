//! The daemon: arguments, log, configuration, tasks, signals.
#![forbid(unsafe_code)]

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::Context as _;
use clap::Parser;
use lb_ctl::{
    api::{client::DEFAULT_SOCKET, server},
    app::{self, App, Parts},
    control::ConfigStore as _,
    dataplane::bpf,
    edges::{self, Files, Machine},
    model::config::Sources,
    shutdown::Signals,
    state_file::lock_directory,
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
    /// Directory for operator states (drain, halt) and the list of addresses that lbd added
    #[arg(long, default_value = "/var/lib/lbd")]
    state_dir: PathBuf,
    /// Read and check the configuration, then exit
    #[arg(long, conflicts_with = "detach")]
    check: bool,
    /// Remove everything that lbd made (program, maps, addresses), then exit; connections through it end
    #[arg(long)]
    detach: bool,
}

#[expect(clippy::print_stderr, reason = "the last word of a program for people")]
fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lbd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    let store = Files(Sources {
        main: args.config.clone(),
    });
    if args.check {
        return check(&store);
    }
    start_log();
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    if args.detach {
        return runtime.block_on(detach(args));
    }
    runtime.block_on(serve(args, store))
}

#[expect(clippy::print_stdout, reason = "what --check was asked for")]
fn check(store: &Files) -> anyhow::Result<()> {
    let loaded = store.load()?;
    for warning in &loaded.warnings {
        println!("warning: {warning}");
    }
    println!(
        "{}: {} VIPs, no errors",
        store.0.main.display(),
        loaded.config.vips.len()
    );
    Ok(())
}

async fn serve(args: &Args, store: Files) -> anyhow::Result<()> {
    let loaded = store.load()?;
    edges::require_privileges()?;
    let _lock = lock_directory(&args.state_dir)?;
    let (operator, owned) = app::open_state(&args.state_dir)?;
    let listener = server::bind(&args.socket)?;
    // Before the first task: a signal that comes early must not kill the daemon half-way.
    let signals = Signals::new().context("cannot catch signals")?;
    let opened = edges::open_dataplane(&args.pin_dir, &loaded.config.node)?;
    for note in &opened.notes {
        tracing::warn!("{note}");
    }
    tracing::info!(
        "lbd {} serves {} VIPs",
        env!("CARGO_PKG_VERSION"),
        loaded.config.vips.len()
    );
    let app = App::start(Parts {
        store: Arc::new(store),
        loaded,
        operator,
        owned,
        listener,
        writer: Box::new(opened.writer),
        reader: Box::new(opened.reader),
        book: Machine,
        network: edges::network,
        checks: edges::checks,
    });
    app.run(signals, edges::notify).await?;
    tracing::info!("stopped; the kernel goes on forwarding (lbd --detach removes everything)");
    Ok(())
}

#[expect(clippy::print_stdout, reason = "what was removed, for the one who asked")]
async fn detach(args: &Args) -> anyhow::Result<()> {
    edges::require_privileges()?;
    server::refuse_live(&args.socket)?;
    let _lock = lock_directory(&args.state_dir)?;
    let (_, owned) = app::open_state(&args.state_dir)?;
    let pin_dir = args.pin_dir.clone();
    let removed = app::detach(&Machine, owned, move || bpf::detach(&pin_dir)).await?;
    for line in &removed {
        println!("{line}");
    }
    if removed.is_empty() {
        println!(
            "nothing to remove under {} and {}",
            args.pin_dir.display(),
            args.state_dir.display()
        );
    }
    Ok(())
}

fn start_log() {
    let filter = EnvFilter::try_from_env("LBD_LOG").unwrap_or_else(|_unset| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .init();
}
