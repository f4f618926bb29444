//! What the operator said of real servers: drain, halt. Kept in `operator.json` of the state directory, so that it
//! survives restarts, and configuration edits that leave the server where it is.
//!
//! A server that the configuration in force no longer has is forgotten at once: one that comes back under the same
//! name later starts online, as every new server does. A configuration that cannot be applied forgets nothing.
#![forbid(unsafe_code)]

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    model::{command::OperatorState, config::Config, health::RipId},
    state_file::{self, StateError},
};

const VERSION: u32 = 1;

/// The operator's word, in memory and on disk.
#[derive(Debug)]
pub struct OperatorFile {
    path: PathBuf,
    states: BTreeMap<RipId, OperatorState>,
}

#[derive(Deserialize, Serialize)]
struct Entry {
    #[serde(flatten)]
    id: RipId,
    state: OperatorState,
}

impl OperatorFile {
    /// Reads the file of a state directory; a missing file says that every server is online.
    ///
    /// # Errors
    ///
    /// When it cannot be read or understood: a halted server must not come back by accident.
    pub fn open(state_dir: &Path) -> Result<Self, StateError> {
        let path = state_dir.join("operator.json");
        let cure = "mend it, or move it away: every server is online then";
        let entries: Vec<Entry> = state_file::load(&path, VERSION, cure)?.unwrap_or_default();
        let states = entries.into_iter().map(|e| (e.id, e.state)).collect();
        Ok(Self { path, states })
    }

    /// Servers that are not online.
    #[must_use]
    pub const fn states(&self) -> &BTreeMap<RipId, OperatorState> {
        &self.states
    }

    /// Puts servers into a state, on disk when this returns.
    ///
    /// # Errors
    ///
    /// When the disk refuses; nothing has changed then.
    pub async fn set(&mut self, rips: &[RipId], state: OperatorState) -> Result<(), StateError> {
        let mut states = self.states.clone();
        for id in rips {
            match state {
                OperatorState::Online => states.remove(id),
                OperatorState::Drain | OperatorState::Halt => states.insert(id.clone(), state),
            };
        }
        self.replace(states).await
    }

    /// Forgets servers that a configuration does not have.
    ///
    /// # Errors
    ///
    /// When the disk refuses; nothing has changed then.
    pub async fn prune(&mut self, config: &Config) -> Result<(), StateError> {
        let mut states = self.states.clone();
        states.retain(|id, _| {
            let vip = config.vips.iter().find(|v| v.name == id.vip);
            vip.is_some_and(|v| v.rips.iter().any(|r| r.name == id.rip))
        });
        self.replace(states).await
    }

    async fn replace(&mut self, states: BTreeMap<RipId, OperatorState>) -> Result<(), StateError> {
        if states == self.states {
            return Ok(());
        }
        let entries: Vec<Entry> = states.iter().map(|(id, &state)| Entry { id: id.clone(), state }).collect();
        state_file::store(&self.path, VERSION, &entries).await?;
        self.states = states;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(rip: &str) -> RipId {
        RipId { vip: "PACS".to_owned(), rip: rip.to_owned() }
    }

    #[tokio::test]
    async fn drain_and_halt_survive_and_online_needs_no_entry() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = OperatorFile::open(dir.path()).unwrap();
        file.set(&[id("R1"), id("R2")], OperatorState::Drain).await.unwrap();
        file.set(&[id("R2")], OperatorState::Halt).await.unwrap();
        file.set(&[id("R1")], OperatorState::Online).await.unwrap();
        let again = OperatorFile::open(dir.path()).unwrap();
        assert_eq!(again.states(), &BTreeMap::from([(id("R2"), OperatorState::Halt)]));
    }

    #[tokio::test]
    async fn what_cannot_be_written_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = OperatorFile::open(dir.path()).unwrap();
        drop(dir);
        let error = file.set(&[id("R1")], OperatorState::Halt).await.unwrap_err().to_string();
        assert!(error.contains("--state-dir"), "{error}");
        assert!(file.states().is_empty());
    }
}
