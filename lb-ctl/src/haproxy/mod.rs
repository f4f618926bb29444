//! The companion proxy: HAProxy, which takes connections of layer-7 VIPs and makes them anew.
#![forbid(unsafe_code)]

mod blame;
pub mod certs;
mod choice;
mod files;
mod process;
pub mod render;
pub mod rules;
mod runtime;
mod states;
mod stats;
mod tables;
mod task;
pub mod version;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::sync::{mpsc, oneshot, watch};

use self::{render::Places, runtime::Master};
use crate::{
    model::{health::RipId, proxied::Proxied},
    reconcile::Goal,
    shutdown::Shutdown,
};

/// What the task is connected to.
pub struct Connections {
    /// From the controller.
    pub goal: watch::Receiver<Arc<Goal>>,
    /// To those who show it, and to the controller.
    pub published: watch::Sender<Arc<Proxied>>,
    /// From the API.
    pub asks: mpsc::Receiver<Ask>,
}

/// What people ask of the proxy's tables. Errors are lines for people.
#[derive(Debug)]
pub enum Ask {
    /// Whom a VIP remembers.
    Entries(String, oneshot::Sender<Result<Vec<Remembered>, String>>),
    /// Forget some of them, and say how many.
    Forget(Forget, oneshot::Sender<Result<u64, String>>),
}

/// Which entries are to be forgotten: those that all of it holds for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Forget {
    /// VIP's name.
    pub vip: String,
    /// Server's name.
    pub rip: Option<String>,
    /// Client's address, or value of the parameter.
    pub key: Option<String>,
}

/// Whom a VIP remembers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Remembered {
    /// Client's address, value of the parameter, or `all clients`.
    pub key: String,
    /// Server's name.
    pub rip: Option<String>,
    /// Seconds until it is forgotten.
    pub left_secs: u64,
}

/// What a proxy that is running already is found doing.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Servers that take new connections.
    pub carried: BTreeSet<RipId>,
}

/// Looks whether a proxy of ours runs already: a daemon before this one has left it.
pub async fn find(runtime_dir: &Path) -> Found {
    let places = Places::below(runtime_dir);
    let master = Master::new(&places);
    let Ok(workers) = master.workers().await else { return Found::default() };
    let Some(worker) = workers.present else { return Found::default() };
    match master.ask(worker.pid, &["show stat"]).await {
        Ok(text) => Found { carried: stats::in_service(&stats::parse(&text)) },
        Err(error) => {
            tracing::warn!(
                "haproxy (process {}) runs and does not say what it does: {error}",
                workers.master
            );
            Found::default()
        }
    }
}

/// The task, until shutdown; the proxy goes on without it.
///
/// # Errors
///
/// When a task that it needs is gone.
pub async fn run(to: Connections, runtime_dir: PathBuf, shutdown: Shutdown) -> anyhow::Result<()> {
    task::run(to, Places::below(&runtime_dir), shutdown).await
}

/// Ends a proxy that a daemon has left, with every connection that it has, and removes its files. Gives a line for each
/// thing removed.
///
/// # Errors
///
/// When it does not end, or a file cannot be removed.
pub async fn detach(runtime_dir: &Path) -> anyhow::Result<Vec<String>> {
    process::detach(&Places::below(runtime_dir)).await
}
