//! Replacing a file so that a crash leaves the old one or the new, never a part: how configuration and state are
//! kept.
#![forbid(unsafe_code)]

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown},
    path::{Path, PathBuf},
};

/// Mode of a file that was not there before.
const NEW_MODE: u32 = 0o644;
/// The same of one that holds a secret, and of a directory for such files.
const NEW_PRIVATE_MODE: u32 = 0o600;
const NEW_PRIVATE_DIRECTORY_MODE: u32 = 0o700;

/// Replaces what is in a file in one step: a reader, or this machine after a power cut, finds the old bytes or the
/// new. Mode and owner stay; a new file gets mode 0644; a symbolic link stays one. On disk when this returns. Blocks.
///
/// # Errors
///
/// What the file system says; the old file is then still whole.
pub(crate) fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace(path, bytes, NEW_MODE)
}

/// The same for a file that holds a secret: a new one is for its owner alone.
///
/// # Errors
///
/// What the file system says; the old file is then still whole.
pub(crate) fn replace_private_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace(path, bytes, NEW_PRIVATE_MODE)
}

fn replace(path: &Path, bytes: &[u8], new_mode: u32) -> io::Result<()> {
    // Renaming onto a link would replace the link: go to what it names.
    let target = match fs::canonicalize(path) {
        Ok(target) => target,
        Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
        Err(error) => return Err(error),
    };
    let directory = directory_of(&target);
    let name = target.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let name = name.to_string_lossy();
    clear_left_over(&directory, &name)?;
    // Hidden, so that it is no part of conf.d while it exists; one writer per process, so the pid makes it unique.
    let temporary = directory.join(format!(".{name}.{}.tmp", std::process::id()));
    let written =
        write_new(&temporary, &target, bytes, new_mode).and_then(|()| fs::rename(&temporary, &target));
    if let Err(error) = written {
        // The first error is the one to report; a left-over temporary file does no harm.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    sync_directory(&directory)
}

/// Removes a file so that a power cut does not bring it back; one that is not there is well. Blocks.
///
/// # Errors
///
/// What the file system says.
pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Ok(()) => sync_directory(&directory_of(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Makes a directory, and those above it, so that a power cut does not take it away. Blocks.
///
/// # Errors
///
/// What the file system says.
pub(crate) fn create_directory(path: &Path) -> io::Result<()> {
    create(path, &DirBuilder::new())
}

/// The same for files that hold secrets: what is made is for its owner alone.
///
/// # Errors
///
/// What the file system says.
pub(crate) fn create_private_directory(path: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.mode(NEW_PRIVATE_DIRECTORY_MODE);
    create(path, &builder)
}

fn create(path: &Path, builder: &DirBuilder) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let above = directory_of(path);
    create(&above, builder)?;
    match builder.create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => sync_directory(&above),
    }
}

fn directory_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Names in a directory are on disk when this returns.
fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Removes temporary files of processes that were killed while they replaced the file. One whose process lives is
/// left alone; taken for dead by mistake, it would fail to rename its file, and the old one would stand.
fn clear_left_over(directory: &Path, name: &str) -> io::Result<()> {
    let prefix = format!(".{name}.");
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let found = entry.file_name();
        let pid = found.to_str().and_then(|f| f.strip_prefix(&prefix)?.strip_suffix(".tmp")?.parse().ok());
        if pid.is_some_and(is_gone) {
            match fs::remove_file(entry.path()) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

fn is_gone(pid: i32) -> bool {
    let gone = |pid| rustix::process::test_kill_process(pid) == Err(rustix::io::Errno::SRCH);
    rustix::process::Pid::from_raw(pid).is_some_and(gone)
}

fn write_new(temporary: &Path, target: &Path, bytes: &[u8], new_mode: u32) -> io::Result<()> {
    // A crash may have left one behind under a pid that is ours now.
    match fs::remove_file(temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(temporary)?;
    let mode = match fs::metadata(target) {
        Ok(old) => {
            fchown(&file, Some(old.uid()), Some(old.gid()))?;
            old.mode() & 0o7777
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => new_mode,
        Err(error) => return Err(error),
    };
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replacing_a_file_keeps_its_mode_and_its_link_and_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let (real, link) = (directory.path().join("real.toml"), directory.path().join("lbd.toml"));
        fs::write(&real, "old").unwrap();
        fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        replace_file(&link, b"new").unwrap();
        assert_eq!(fs::read_to_string(&real).unwrap(), "new");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::metadata(&real).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    #[test]
    fn what_killed_processes_left_beside_a_file_is_cleared_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lbd.toml");
        let mut process = std::process::Command::new("true").spawn().unwrap();
        let dead = process.id();
        process.wait().unwrap();
        let parent = std::os::unix::process::parent_id();
        let others =
            [format!(".lbd.toml.{parent}.tmp"), format!(".x.toml.{dead}.tmp"), ".lbd.toml.x.tmp".into()];
        for name in others.iter().chain([&format!(".lbd.toml.{dead}.tmp")]) {
            fs::write(directory.path().join(name), "half").unwrap();
        }
        replace_file(&path, b"new").unwrap();
        let left: std::collections::BTreeSet<String> = fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(left, others.into_iter().chain(["lbd.toml".to_owned()]).collect());
    }

    #[test]
    fn a_file_that_cannot_be_replaced_stays_and_nothing_is_left_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("taken");
        fs::create_dir(&path).unwrap();
        replace_file(&path, b"new").unwrap_err();
        assert!(path.is_dir());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
