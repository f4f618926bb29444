//! Changing several files so that a crash in the middle is made good.
//!
//! A file is replaced in one step, a set of them is not. So what is going to be done is written down first, with what
//! was there before; the note is removed when all is done. A daemon that finds the note at its start does the rest.
//! Whoever edited one of the files in between has the last word: nothing more is done then.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{HistoryError, file_error, state_error};
use crate::{
    replace_file::{create_directory, remove_file, replace_file},
    state_file,
};

const VERSION: u32 = 1;
const FILE: &str = "unfinished.json";

/// What is to become of a file.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Change {
    /// The file.
    pub(super) path: PathBuf,
    /// What is in it; `None` = there is no such file.
    pub(super) before: Option<String>,
    /// What is to be in it; `None` = it is to go.
    pub(super) after: Option<String>,
}

/// What became of a change of files that a crash broke off.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Recovered {
    /// There was none.
    Nothing,
    /// These files were still to be changed, and are.
    Finished(Vec<PathBuf>),
    /// Somebody edited these meanwhile: all files were left as they are.
    Left(Vec<PathBuf>),
}

/// Makes all changes, or none.
///
/// # Errors
///
/// Which file could not be changed. Those that were are put back; where even that fails, the next start finishes.
pub(super) fn make(directory: &Path, changes: &[Change]) -> Result<(), HistoryError> {
    let note = directory.join(FILE);
    state_file::store_blocking(&note, VERSION, &changes)?;
    for (done, change) in changes.iter().enumerate() {
        let Err(error) = put(&change.path, change.after.as_deref()) else { continue };
        // The one that failed may be there all the same, when only its directory could not be synced.
        let undone = changes.iter().take(done + 1).try_for_each(|c| put(&c.path, c.before.as_deref()));
        if undone.is_ok() {
            forget(&note)?;
        }
        return Err(error);
    }
    forget(&note)
}

/// Finishes what a crash broke off.
///
/// # Errors
///
/// When the note of it cannot be understood, or a file cannot be changed.
pub(super) fn recover(directory: &Path) -> Result<Recovered, HistoryError> {
    let note = directory.join(FILE);
    let cure = "compare the configuration files with what they should be, then remove it";
    let Some(changes) = state_file::load::<Vec<Change>>(&note, VERSION, cure)? else {
        return Ok(Recovered::Nothing);
    };
    let (mut due, mut edited) = (Vec::new(), Vec::new());
    for change in &changes {
        let now = read_text(&change.path)?;
        if now == change.after {
            continue;
        }
        if now == change.before { &mut due } else { &mut edited }.push(change);
    }
    let paths = |changes: &[&Change]| changes.iter().map(|change| change.path.clone()).collect();
    let recovered = if edited.is_empty() {
        due.iter().try_for_each(|change| put(&change.path, change.after.as_deref()))?;
        Recovered::Finished(paths(&due))
    } else {
        Recovered::Left(paths(&edited))
    };
    forget(&note)?;
    Ok(recovered)
}

/// What is in a configuration file; `None` when there is none.
pub(super) fn read_text(path: &Path) -> Result<Option<String>, HistoryError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(file_error("read", path, error)),
    }
}

fn put(path: &Path, text: Option<&str>) -> Result<(), HistoryError> {
    let Some(text) = text else {
        return remove_file(path).map_err(|error| file_error("remove", path, error));
    };
    let above = path.parent().unwrap_or(path);
    create_directory(above).map_err(|error| file_error("create", above, error))?;
    replace_file(path, text.as_bytes()).map_err(|error| file_error("write", path, error))
}

fn forget(note: &Path) -> Result<(), HistoryError> {
    Ok(remove_file(note).map_err(|error| state_error("remove", note, error))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(path: PathBuf, before: Option<&str>, after: Option<&str>) -> Change {
        Change { path, before: before.map(str::to_owned), after: after.map(str::to_owned) }
    }

    /// Three files: one that changes, one that goes, one that comes.
    fn scene(directory: &Path) -> Vec<Change> {
        fs::write(directory.join("a"), "old").unwrap();
        fs::write(directory.join("b"), "going").unwrap();
        vec![
            change(directory.join("a"), Some("old"), Some("new")),
            change(directory.join("b"), Some("going"), None),
            change(directory.join("conf.d/c"), None, Some("come")),
        ]
    }

    fn texts(directory: &Path) -> [Option<String>; 3] {
        ["a", "b", "conf.d/c"].map(|name| read_text(&directory.join(name)).unwrap())
    }

    #[test]
    fn whatever_was_done_before_a_crash_the_rest_is_done_at_the_next_start() {
        for done in 0..=3 {
            let directory = tempfile::tempdir().unwrap();
            let changes = scene(directory.path());
            state_file::store_blocking(&directory.path().join(FILE), VERSION, &changes).unwrap();
            for change in &changes[..done] {
                put(&change.path, change.after.as_deref()).unwrap();
            }
            let left = changes[done..].iter().map(|change| change.path.clone()).collect();
            assert_eq!(recover(directory.path()).unwrap(), Recovered::Finished(left));
            assert_eq!(texts(directory.path()), [Some("new".into()), None, Some("come".into())]);
            assert_eq!(recover(directory.path()).unwrap(), Recovered::Nothing);
        }
    }

    #[test]
    fn a_file_that_somebody_edited_after_the_crash_stays_and_so_do_the_others() {
        let directory = tempfile::tempdir().unwrap();
        let changes = scene(directory.path());
        state_file::store_blocking(&directory.path().join(FILE), VERSION, &changes).unwrap();
        fs::write(directory.path().join("b"), "edited").unwrap();
        let edited = vec![directory.path().join("b")];
        assert_eq!(recover(directory.path()).unwrap(), Recovered::Left(edited));
        assert_eq!(texts(directory.path()), [Some("old".into()), Some("edited".into()), None]);
        assert_eq!(recover(directory.path()).unwrap(), Recovered::Nothing);
    }

    #[test]
    fn when_one_file_cannot_be_changed_those_before_it_are_put_back() {
        let directory = tempfile::tempdir().unwrap();
        let mut changes = scene(directory.path());
        fs::create_dir(directory.path().join("taken")).unwrap();
        changes.push(change(directory.path().join("taken"), None, Some("no place")));
        let error = make(directory.path(), &changes).unwrap_err().to_string();
        assert!(error.contains("taken"), "{error}");
        assert_eq!(texts(directory.path()), [Some("old".into()), Some("going".into()), None]);
    }

    #[test]
    fn all_is_done_and_no_note_is_left() {
        let directory = tempfile::tempdir().unwrap();
        make(directory.path(), &scene(directory.path())).unwrap();
        assert_eq!(texts(directory.path()), [Some("new".into()), None, Some("come".into())]);
        assert!(!directory.path().join(FILE).exists());
    }
}
