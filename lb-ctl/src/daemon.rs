//! The daemon's three ways to run: serve, check the configuration, remove everything.
#![forbid(unsafe_code)]

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context as _, anyhow};

use crate::{
    alert,
    api::server,
    app::{self, App, Parts},
    config,
    control::ConfigStore as _,
    dataplane::bpf,
    edges::{self, Files, Machine, Wire},
    haproxy,
    health::journal::Journal,
    model::{config::Sources, history::Cause},
    net::foreign,
    routing,
    shutdown::Signals,
    state_file::lock_directory,
};

/// Where everything is.
#[derive(Clone, Debug)]
pub struct Places {
    /// Main configuration file.
    pub config: PathBuf,
    /// Socket of the API.
    pub socket: PathBuf,
    /// Directory on a BPF file system.
    pub pin_dir: PathBuf,
    /// Directory for what must outlive the daemon and is no configuration.
    pub state_dir: PathBuf,
    /// Directory for what need not outlive the machine: the companion proxy's configuration, sockets and certificates.
    pub runtime_dir: PathBuf,
}

impl Places {
    fn store(&self) -> Files {
        Files::new(Sources { main: self.config.clone() }, &self.state_dir)
    }
}

/// Reads and checks the configuration; gives every warning and what there is.
///
/// # Errors
///
/// Every fault of it.
pub fn check(places: &Places) -> anyhow::Result<Vec<String>> {
    let loaded = config::load(&Sources { main: places.config.clone() })?;
    Ok(vec![loaded.to_string()])
}

/// Runs until a signal ends it, and leaves the kernel forwarding. Nothing is touched before privileges are there, no other
/// daemon is, and (but for a rollback of its files that was broken off) the configuration is understood.
///
/// # Errors
///
/// Why it cannot start, or which task ended of itself.
pub async fn serve(places: &Places) -> anyhow::Result<()> {
    let store = places.store();
    edges::require_privileges()?;
    if !places.state_dir.exists() {
        // Nothing can have been broken off: a configuration with faults leaves no trace at all.
        store.load()?;
    }
    let _lock = lock_directory(&places.state_dir)?;
    if let Some(told) = store.recover()? {
        tracing::warn!("{told}");
    }
    let loaded = store.load()?;
    let (operator, owned) = app::open_state(&places.state_dir)?;
    let listener = server::bind(&places.socket)?;
    // Before the first task: a signal that comes early must not kill the daemon half-way.
    let signals = Signals::new().context("cannot catch signals")?;
    let opened = edges::open_dataplane(&places.pin_dir, &loaded.config.node)?;
    for note in &opened.notes {
        tracing::warn!("{note}");
    }
    if let Err(refused) = store.keep(&loaded, Cause::Start) {
        tracing::warn!("the configuration is not kept in the history: {refused}");
    }
    let vips = loaded.config.vips.len();
    tracing::info!("lbd {} serves {vips} VIPs", env!("CARGO_PKG_VERSION"));
    let (state_dir, runtime_dir) = (places.state_dir.clone(), places.runtime_dir.clone());
    let found = haproxy::find(&runtime_dir).await;
    let app = App::start(Parts {
        store: Arc::new(store),
        loaded,
        operator,
        owned,
        listener,
        writer: Box::new(opened.writer),
        reader: Box::new(opened.reader),
        book: Machine,
        post: Wire::default(),
        network: edges::network,
        checks: edges::checks,
        journal: Journal::open(&places.state_dir)?,
        foreign: foreign::run,
        alerts: |connections, shutdown| alert::run(connections, state_dir, shutdown),
        carried: found.carried,
        proxy: |connections, shutdown| haproxy::run(connections, runtime_dir, shutdown),
        routing: routing::run,
    });
    app.run(signals, edges::notify).await?;
    tracing::info!("stopped; the kernel goes on forwarding (lbd --detach removes everything)");
    Ok(())
}

/// Removes everything that daemons made; gives a line for each thing removed.
///
/// # Errors
///
/// When a daemon runs, or something could not be removed.
pub async fn detach(places: &Places) -> anyhow::Result<Vec<String>> {
    edges::require_privileges()?;
    server::refuse_live(&places.socket)?;
    let _lock = lock_directory(&places.state_dir)?;
    let (_, owned) = app::open_state(&places.state_dir)?;
    let pin_dir = places.pin_dir.clone();
    let mut removed = app::detach(&Machine, owned, move || bpf::detach(&pin_dir)).await?;
    removed.extend(haproxy::detach(&places.runtime_dir).await?);
    removed.extend(routing::remove().await.map_err(|text| anyhow!(text))?);
    if removed.is_empty() {
        let (pins, state) = (places.pin_dir.display(), places.state_dir.display());
        removed.push(format!("nothing to remove under {pins} and {state}"));
    }
    Ok(removed)
}
