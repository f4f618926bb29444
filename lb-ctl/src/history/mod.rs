//! Configurations that were in force: `STATE_DIR/history`, one file for each, with the text of every source file.
//! The last hundred are kept. Calls block on the disk; one daemon uses the directory, which is locked.
#![forbid(unsafe_code)]

mod journal;

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

use self::journal::Change;
pub use self::journal::Recovered;
use crate::{
    config::{self, ConfigErrors, Loaded, Text, Texts},
    model::{
        config::{Config, Sources},
        history::{Cause, KeptFile, Version, VersionHead},
    },
    replace_file::{create_directory, remove_file},
    state_file::{self, StateError},
};

const VERSION: u32 = 1;
/// Configurations that are kept.
const KEPT: usize = 100;
/// What to do with a kept configuration that cannot be read.
const CURE: &str = "move it away: only this one version is lost";

/// Why the history does not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// What is kept cannot be read or written.
    #[error(transparent)]
    State(#[from] StateError),
    /// A configuration file cannot be read, written or removed.
    #[error("cannot {verb} {}: {error}; check the permissions of its directory and the room on the disk", .path.display())]
    File {
        /// What was tried.
        verb: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// There is no such version.
    #[error("no version {number} is kept: {there}; see `lbctl config history`")]
    Unknown {
        /// Number asked for.
        number: u64,
        /// Which there are.
        there: String,
    },
    /// There is nothing before what is in force.
    #[error("no configuration before the present one is kept: there is nothing to go back to")]
    NothingBefore,
    /// Rolling back would lose edits.
    #[error(
        "{files} was edited since version {present} came into force, and a rollback would lose that: put it into force \
         with `lbctl config apply` (see `lbctl config diff`), or repeat the command with --force"
    )]
    Edited {
        /// The files.
        files: String,
        /// Version in force.
        present: u64,
    },
    /// The version belongs to another configuration.
    #[error("version {number} has {}, which is no part of {}: start lbd with the --config that it is of", .path.display(), .main.display())]
    Elsewhere {
        /// Version.
        number: u64,
        /// Its file.
        path: PathBuf,
        /// Main file of the configuration in force.
        main: PathBuf,
    },
    /// This build does not take it.
    #[error("version {number} is no valid configuration for this lbd, and nothing was changed:\n\n{errors}")]
    Invalid {
        /// Version.
        number: u64,
        /// Every fault.
        errors: ConfigErrors,
    },
}

/// The history of a configuration.
#[derive(Clone, Debug)]
pub struct History {
    directory: PathBuf,
    sources: Sources,
}

/// A way back that was checked but not gone.
#[derive(Clone, Debug)]
pub struct Rollback {
    /// Version that it leads to.
    pub to: u64,
    /// The configuration after it.
    pub loaded: Loaded,
    changes: Vec<Change>,
}

impl History {
    /// The history of the configuration read from `sources`, in a state directory.
    #[must_use]
    pub fn new(state_dir: &Path, sources: Sources) -> Self {
        Self { directory: state_dir.join("history"), sources }
    }

    /// Keeps a configuration that came into force, if it differs from the one kept last.
    ///
    /// # Errors
    ///
    /// When the disk refuses.
    pub fn keep(
        &self,
        texts: &Texts,
        config: &Config,
        cause: Cause,
        now: SystemTime,
    ) -> Result<(), HistoryError> {
        let files = kept_files(texts)?;
        let numbers = self.numbers()?;
        let mut changes = vec!["the first configuration that is kept".to_owned()];
        if let Some(&last) = numbers.last() {
            match self.version(last) {
                Ok(version) if version.files == files => return Ok(()),
                Ok(version) => changes = changes_since(&version, config),
                Err(error) => {
                    tracing::warn!("{error}");
                    changes = vec![format!("version {last} cannot be read: what changed since is not known")];
                }
            }
        }
        self.make_directory().map_err(|error| state_error("create", &self.directory, error))?;
        // A number is the last one's successor, and the last one is never removed: none is given twice.
        let number = numbers.last().map_or(1, |last| last + 1);
        let at_epoch_secs = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs());
        let head = VersionHead { number, at_epoch_secs, cause, changes };
        state_file::store_blocking(&self.path(number), VERSION, &Version { head, files })?;
        let too_many = (numbers.len() + 1).saturating_sub(KEPT);
        for &old in numbers.iter().take(too_many) {
            let path = self.path(old);
            remove_file(&path).map_err(|error| state_error("remove", &path, error))?;
        }
        Ok(())
    }

    /// What is kept, the newest last.
    ///
    /// # Errors
    ///
    /// When one of them cannot be read.
    pub fn list(&self) -> Result<Vec<VersionHead>, HistoryError> {
        let read = |number| self.load(number);
        self.numbers()?.into_iter().map(read).collect()
    }

    /// One of them, whole.
    ///
    /// # Errors
    ///
    /// When it is not there, or cannot be read.
    pub fn version(&self, number: u64) -> Result<Version, HistoryError> {
        self.load(number)
    }

    /// Checks the way back to a version; `None` = the one before the present. With `force`, edits of the files that
    /// are not in force are lost by it.
    ///
    /// # Errors
    ///
    /// Why it cannot be gone.
    pub fn plan_rollback(&self, to: Option<u64>, force: bool) -> Result<Rollback, HistoryError> {
        let numbers = self.numbers()?;
        let Some((&present, earlier)) = numbers.split_last() else {
            return Err(HistoryError::NothingBefore);
        };
        let to = to.or_else(|| earlier.last().copied()).ok_or(HistoryError::NothingBefore)?;
        let target = self.version(to)?;
        self.is_ours(&target)?;
        let wanted = by_path(&target.files);
        let now = self.on_disk(wanted.keys())?;
        if !force {
            let in_force = self.version(present)?;
            refuse_edited(present, &by_path(&in_force.files), &now)?;
        }
        let mut changes = Vec::new();
        for (path, before) in &now {
            let after = wanted.get(path);
            if before.as_ref() != after {
                let (before, after) = (before.clone(), after.cloned());
                changes.push(Change { path: path.clone(), before, after });
            }
        }
        let loaded = config::load_texts(texts_of(&target))
            .map_err(|errors| HistoryError::Invalid { number: to, errors })?;
        Ok(Rollback { to, loaded, changes })
    }

    /// Puts the files back; all of them or none, even if the machine stops in the middle and
    /// [`recover`](Self::recover) is called when it is back.
    ///
    /// # Errors
    ///
    /// Which file could not be changed.
    pub fn roll_back(&self, rollback: &Rollback) -> Result<(), HistoryError> {
        if rollback.changes.is_empty() { Ok(()) } else { journal::make(&self.directory, &rollback.changes) }
    }

    /// Finishes a rollback that a crash broke off. To be called before the files are read for the first time.
    ///
    /// # Errors
    ///
    /// When it cannot be finished.
    pub fn recover(&self) -> Result<Recovered, HistoryError> {
        journal::recover(&self.directory)
    }

    /// For root alone: a configuration may be in files that others must not read.
    fn make_directory(&self) -> io::Result<()> {
        create_directory(&self.directory)?;
        fs::set_permissions(&self.directory, fs::Permissions::from_mode(0o700))
    }

    fn path(&self, number: u64) -> PathBuf {
        self.directory.join(format!("{number:08}.json"))
    }

    /// Numbers of the versions that are kept, rising.
    fn numbers(&self) -> Result<Vec<u64>, HistoryError> {
        let failed = |error| state_error("read", &self.directory, error);
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error).into()),
        };
        let mut numbers = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            numbers.extend(name.to_str().and_then(|n| n.strip_suffix(".json")?.parse::<u64>().ok()));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// A kept file, or as much of it as `T` asks for.
    fn load<T: serde::de::DeserializeOwned>(&self, number: u64) -> Result<T, HistoryError> {
        if let Some(found) = state_file::load(&self.path(number), VERSION, CURE)? {
            return Ok(found);
        }
        let numbers = self.numbers()?;
        let there = match (numbers.first(), numbers.last()) {
            (Some(first), Some(last)) => format!("there are {first} to {last}"),
            _ => "there are none yet".to_owned(),
        };
        Err(HistoryError::Unknown { number, there })
    }

    /// Refuses what would write files that are no part of this configuration.
    fn is_ours(&self, version: &Version) -> Result<(), HistoryError> {
        let main = absolute(&self.sources.main)?;
        let conf_d = absolute(&self.sources.conf_d())?;
        let is_ours = |path: &Path| path == main || path.parent() == Some(&conf_d);
        match version.files.iter().find(|file| !is_ours(&file.path)) {
            None => Ok(()),
            Some(file) => {
                Err(HistoryError::Elsewhere { number: version.head.number, path: file.path.clone(), main })
            }
        }
    }

    /// The files of the configuration and `others` as they are now; `None` = there is no such file.
    fn on_disk<'a>(
        &self,
        others: impl Iterator<Item = &'a PathBuf>,
    ) -> Result<BTreeMap<PathBuf, Option<String>>, HistoryError> {
        let conf_d = absolute(&self.sources.conf_d())?;
        let listed = match config::toml_files(&conf_d) {
            Ok(files) => files,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(file_error("read", &conf_d, error)),
        };
        let main = absolute(&self.sources.main)?;
        let paths = listed.into_iter().chain([main]).chain(others.cloned());
        paths.map(|path| Ok((path.clone(), journal::read_text(&path)?))).collect()
    }
}

fn refuse_edited(
    present: u64,
    in_force: &BTreeMap<PathBuf, String>,
    now: &BTreeMap<PathBuf, Option<String>>,
) -> Result<(), HistoryError> {
    let text = |path: &PathBuf| now.get(path).and_then(Option::as_ref);
    let paths = in_force.keys().chain(now.keys().filter(|path| !in_force.contains_key(*path)));
    let edited: Vec<String> = paths
        .filter(|&path| text(path) != in_force.get(path))
        .map(|path| path.display().to_string())
        .collect();
    if edited.is_empty() {
        return Ok(());
    }
    Err(HistoryError::Edited { files: edited.join(" and "), present })
}

fn changes_since(version: &Version, config: &Config) -> Vec<String> {
    let number = version.head.number;
    config::load_texts(texts_of(version)).map_or_else(
        |_not_understood| {
            vec![format!("version {number} is not understood by this lbd: what changed since is not known")]
        },
        |before| config::diff(&before.config, config),
    )
}

fn texts_of(version: &Version) -> Texts {
    let text = |file: &KeptFile| Text { path: file.path.clone(), text: file.text.clone() };
    Texts { additions: PathBuf::new(), files: version.files.iter().map(text).collect() }
}

fn kept_files(texts: &Texts) -> Result<Vec<KeptFile>, HistoryError> {
    let kept = |file: &Text| Ok(KeptFile { path: absolute(&file.path)?, text: file.text.clone() });
    texts.files.iter().map(kept).collect()
}

fn by_path(files: &[KeptFile]) -> BTreeMap<PathBuf, String> {
    files.iter().map(|file| (file.path.clone(), file.text.clone())).collect()
}

/// Paths are kept as they are from everywhere.
fn absolute(path: &Path) -> Result<PathBuf, HistoryError> {
    std::path::absolute(path).map_err(|error| file_error("find", path, error))
}

fn file_error(verb: &'static str, path: &Path, error: io::Error) -> HistoryError {
    HistoryError::File { verb, path: path.to_owned(), error }
}

fn state_error(verb: &'static str, path: &Path, error: io::Error) -> StateError {
    StateError::Io { verb, path: path.to_owned(), error }
}

#[cfg(test)]
mod tests;
