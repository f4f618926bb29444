//! What was told, on disk: what a daemon that starts compares with what it finds.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{situation::Subject, teller::Told};
use crate::state_file::{StateError, load, store_blocking};

/// Layout of the file.
const VERSION: u32 = 1;

/// The file, and the number of the last message.
#[derive(Clone, Debug)]
pub(super) struct Ledger {
    path: PathBuf,
    number: Option<u64>,
}

#[derive(Deserialize, Serialize)]
struct Stored {
    last_number: u64,
    told: Vec<Entry>,
}

#[derive(Deserialize, Serialize)]
struct Entry {
    #[serde(flatten)]
    subject: Subject,
    #[serde(flatten)]
    told: Told,
}

impl Ledger {
    /// Reads what a state directory holds. Blocks.
    ///
    /// # Errors
    ///
    /// When it cannot be read or understood.
    pub(super) fn open(state_dir: &Path) -> Result<(Self, Vec<(Subject, Told)>), StateError> {
        let path = state_dir.join("alerts.json");
        let stored = load::<Stored>(&path, VERSION, "move it away: what is down is told again then")?;
        let Some(Stored { last_number, told }) = stored else {
            return Ok((Self { path, number: None }, Vec::new()));
        };
        let told = told.into_iter().map(|entry| (entry.subject, entry.told)).collect();
        Ok((Self { path, number: Some(last_number) }, told))
    }

    /// The number of the last message that counts as told; `None` = there is no file, and every message counts.
    pub(super) const fn committed(&self) -> Option<u64> {
        self.number
    }

    /// Begins a file that was not there, above the number of every message that there is. Blocks.
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub(super) fn begin(&mut self, highest: u64) -> Result<(), StateError> {
        if self.number.is_some() {
            return Ok(());
        }
        self.number = Some(highest);
        self.store(Vec::new())
    }

    /// A number for a message, above all before it.
    pub(super) fn next_number(&mut self) -> u64 {
        let next = self.number.map_or(1, |last| last + 1);
        self.number = Some(next);
        next
    }

    /// Writes down what was told, with every number given so far; on disk when this returns. Blocks.
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub(super) fn store(&self, told: Vec<(Subject, Told)>) -> Result<(), StateError> {
        let told = told.into_iter().map(|(subject, told)| Entry { subject, told }).collect();
        store_blocking(&self.path, VERSION, &Stored { last_number: self.number.unwrap_or_default(), told })
    }
}
