//! Small state that survives the daemon: JSON with a version, replaced whole, on disk before anyone hears of it.
#![forbid(unsafe_code)]

use std::{
    fs::{self, File, OpenOptions},
    io,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::replace_file::replace_file;

/// Why state could not be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file does not hold what it should.
    #[error("state file {}: {detail}; {cure}", .path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
        /// What to do.
        cure: &'static str,
    },
    /// The file system refuses.
    #[error("cannot {verb} {}: {error}; lbd needs a state directory that it can write to (--state-dir)", .path.display())]
    Io {
        /// What was tried.
        verb: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

#[derive(Deserialize, Serialize)]
struct Envelope<T> {
    version: u32,
    data: T,
}

/// Reads state; `None` when there is no file yet. `cure` ends the error line of a file that cannot be used.
///
/// # Errors
///
/// When the file cannot be read, is not JSON, or was written by a newer build.
pub fn load<T: DeserializeOwned>(
    path: &Path,
    version: u32,
    cure: &'static str,
) -> Result<Option<T>, StateError> {
    load_any(path, version..=version, cure)
}

/// [`load`] of state whose earlier versions are written in the same form.
///
/// # Errors
///
/// As of [`load`].
pub fn load_any<T: DeserializeOwned>(
    path: &Path,
    versions: RangeInclusive<u32>,
    cure: &'static str,
) -> Result<Option<T>, StateError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error("read", path, error)),
    };
    let corrupt = |detail: String| StateError::Corrupt { path: path.to_owned(), detail, cure };
    let found: Version = serde_json::from_slice(&bytes).map_err(|e| corrupt(e.to_string()))?;
    if !versions.contains(&found.version) {
        let known = versions.end();
        return Err(corrupt(format!("has version {}, this build knows {known}", found.version)));
    }
    let envelope: Envelope<T> = serde_json::from_slice(&bytes).map_err(|e| corrupt(e.to_string()))?;
    Ok(Some(envelope.data))
}

/// Replaces state. When this returns `Ok`, a power cut does not lose it; when it fails, the old file stands.
///
/// # Errors
///
/// When the file system refuses.
pub async fn store<T: Serialize + Sync>(path: &Path, version: u32, data: &T) -> Result<(), StateError> {
    let mut bytes = serde_json::to_vec_pretty(&Envelope { version, data })
        .map_err(|e| io_error("encode", path, io::Error::other(e)))?;
    bytes.push(b'\n');
    let path = path.to_owned();
    let written = tokio::task::spawn_blocking(move || {
        replace_file(&path, &bytes).map_err(|error| io_error("write", &path, error))
    })
    .await;
    written.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

/// Held by the one daemon that uses a state directory; the kernel releases it when the process ends.
#[derive(Debug)]
pub struct DirectoryLock {
    _file: File,
}

/// Makes the state directory if it is missing, and takes it for this process.
///
/// # Errors
///
/// When it cannot be made, or another daemon has it.
pub fn lock_directory(directory: &Path) -> Result<DirectoryLock, LockError> {
    fs::create_dir_all(directory).map_err(|e| io_error("create", directory, e))?;
    let path = directory.join("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|e| io_error("open", &path, e))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(DirectoryLock { _file: file }),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(LockError::Held(directory.to_owned())),
        Err(error) => Err(io_error("lock", &path, error.into()).into()),
    }
}

/// Why a state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another daemon has it.
    #[error("another lbd is running with the state directory {}: stop it first (systemctl stop lbd)", .0.display())]
    Held(PathBuf),
    /// The file system refuses.
    #[error(transparent)]
    State(#[from] StateError),
}

fn io_error(verb: &'static str, path: &Path, error: io::Error) -> StateError {
    StateError::Io { verb, path: path.to_owned(), error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_stored_is_loaded_and_nothing_is_loaded_from_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        assert!(load::<Vec<u32>>(&path, 1, "").unwrap().is_none());
        store(&path, 1, &vec![1, 2]).await.unwrap();
        store(&path, 1, &vec![3]).await.unwrap();
        assert_eq!(load::<Vec<u32>>(&path, 1, "").unwrap(), Some(vec![3]));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[tokio::test]
    async fn a_file_of_another_version_or_no_json_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        store(&path, 2, &"something newer").await.unwrap();
        let error = load::<Vec<u32>>(&path, 1, "move it away").unwrap_err().to_string();
        assert!(error.contains("has version 2, this build knows 1; move it away"), "{error}");
        fs::write(&path, "{").unwrap();
        assert!(load::<Vec<u32>>(&path, 1, "").is_err());
        assert_eq!(fs::read(&path).unwrap(), b"{");
    }

    #[test]
    fn only_one_holds_a_state_directory() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock_directory(dir.path()).unwrap();
        let error = lock_directory(dir.path()).unwrap_err().to_string();
        assert!(error.starts_with("another lbd is running"), "{error}");
        drop(held);
        lock_directory(dir.path()).unwrap();
    }
}
