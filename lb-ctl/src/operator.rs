//! What the operator said of real servers: drain, halt, forced verdicts. Kept in `operator.json` of the state directory,
//! so that it survives restarts, and configuration edits that leave the server where it is.
//!
//! A server that the configuration in force no longer has is forgotten at once: one that comes back under the same
//! name later starts online, as every new server does. A configuration that cannot be applied forgets nothing.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{
    model::{
        config::Config,
        health::RipId,
        operator::{Word, Words},
    },
    state_file::{self, StateError},
};

const VERSION: u32 = 2;
/// Had `drain` and `halt` alone, which are written now as they were then.
const FIRST_VERSION: u32 = 1;

/// The operator's word, in memory and on disk.
#[derive(Debug)]
pub struct OperatorFile {
    path: PathBuf,
    words: Words,
}

#[derive(Deserialize, Serialize)]
struct Entry {
    #[serde(flatten)]
    id: RipId,
    #[serde(flatten)]
    word: Word,
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
        let entries: Vec<Entry> =
            state_file::load_any(&path, FIRST_VERSION..=VERSION, cure)?.unwrap_or_default();
        let words = entries.into_iter().map(|e| (e.id, e.word)).collect();
        Ok(Self { path, words })
    }

    /// Servers of which something is said.
    #[must_use]
    pub const fn words(&self) -> &Words {
        &self.words
    }

    /// What is said of one.
    #[must_use]
    pub fn word(&self, id: &RipId) -> Word {
        self.words.get(id).copied().unwrap_or_default()
    }

    /// Says something else of servers, on disk when this returns.
    ///
    /// # Errors
    ///
    /// When the disk refuses; nothing has changed then.
    pub async fn set(&mut self, said: impl IntoIterator<Item = (RipId, Word)>) -> Result<(), StateError> {
        let mut words = self.words.clone();
        for (id, word) in said {
            if word.is_default() {
                words.remove(&id);
            } else {
                words.insert(id, word);
            }
        }
        self.replace(words).await
    }

    /// Forgets servers that a configuration does not have.
    ///
    /// # Errors
    ///
    /// When the disk refuses; nothing has changed then.
    pub async fn prune(&mut self, config: &Config) -> Result<(), StateError> {
        let mut words = self.words.clone();
        words.retain(|id, _| {
            let vip = config.vips.iter().find(|v| v.name == id.vip);
            vip.is_some_and(|v| v.rips.iter().any(|r| r.name == id.rip))
        });
        self.replace(words).await
    }

    async fn replace(&mut self, words: Words) -> Result<(), StateError> {
        if words == self.words {
            return Ok(());
        }
        let entries: Vec<Entry> = words.iter().map(|(id, &word)| Entry { id: id.clone(), word }).collect();
        state_file::store(&self.path, VERSION, &entries).await?;
        self.words = words;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::operator::{Forced, Order};

    const DRAIN: Order = Order::Drain { migrate: None, deadline_epoch_secs: None, then_halt: false };
    const HALT: Order = Order::Halt { keep_sessions: false };

    fn id(rip: &str) -> RipId {
        RipId { vip: "PACS".to_owned(), rip: rip.to_owned() }
    }

    #[tokio::test]
    async fn drain_and_halt_survive_and_online_needs_no_entry() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = OperatorFile::open(dir.path()).unwrap();
        file.set([(id("R1"), DRAIN.into()), (id("R2"), DRAIN.into())]).await.unwrap();
        file.set([(id("R2"), HALT.into())]).await.unwrap();
        file.set([(id("R1"), Word::default())]).await.unwrap();
        let again = OperatorFile::open(dir.path()).unwrap();
        assert_eq!(again.words(), &Words::from([(id("R2"), HALT.into())]));
    }

    #[tokio::test]
    async fn what_cannot_be_written_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = OperatorFile::open(dir.path()).unwrap();
        drop(dir);
        let error = file.set([(id("R1"), HALT.into())]).await.unwrap_err().to_string();
        assert!(error.contains("--state-dir"), "{error}");
        assert!(file.words().is_empty());
    }

    #[test]
    fn a_file_of_the_first_version_keeps_its_meaning() {
        let dir = tempfile::tempdir().unwrap();
        let text = r#"{"version": 1, "data": [
            {"vip": "PACS", "rip": "R1", "state": "drain"}, {"vip": "PACS", "rip": "R2", "state": "halt"}]}"#;
        std::fs::write(dir.path().join("operator.json"), text).unwrap();
        let file = OperatorFile::open(dir.path()).unwrap();
        assert_eq!((file.word(&id("R1")), file.word(&id("R2"))), (DRAIN.into(), HALT.into()));
        std::fs::write(dir.path().join("operator.json"), text.replace("halt", "hault")).unwrap();
        assert!(OperatorFile::open(dir.path()).is_err(), "a state that nobody knows is no state");
    }

    fn word() -> impl Strategy<Value = Word> {
        let at = prop::option::of(any::<u64>());
        let order = prop_oneof![
            Just(Order::Online),
            any::<bool>().prop_map(|keep_sessions| Order::Halt { keep_sessions }),
            (any::<Option<bool>>(), at.clone(), any::<bool>()).prop_map(
                |(migrate, deadline_epoch_secs, then_halt)| {
                    Order::Drain { migrate, deadline_epoch_secs, then_halt }
                }
            ),
        ];
        let forced = (any::<bool>(), at).prop_map(|(up, until_epoch_secs)| Forced { up, until_epoch_secs });
        (order, prop::option::of(forced)).prop_map(|(order, forced)| Word { order, forced })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn whatever_is_said_is_read_back(said in prop::collection::vec((0..4u8, word()), 0..12)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let dir = tempfile::tempdir().unwrap();
            let mut expected = Words::new();
            runtime.block_on(async {
                let mut file = OperatorFile::open(dir.path()).unwrap();
                for (n, word) in said {
                    let id = id(&format!("R{n}"));
                    expected.insert(id.clone(), word);
                    file.set([(id, word)]).await.unwrap();
                    expected.retain(|_, word| !word.is_default());
                    prop_assert_eq!(file.words(), &expected);
                    let again = OperatorFile::open(dir.path()).unwrap();
                    prop_assert_eq!(again.words(), &expected);
                }
                Ok(())
            })?;
        }
    }
}
