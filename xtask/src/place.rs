//! Where we are: the workspace, the directory of its binaries, and who runs us.

use std::env;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The workspace root.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or_else(|| Path::new("."))
}

/// Where cargo puts binaries of the profile that we were built with ourselves (`target/debug`).
pub(crate) fn binaries() -> Result<PathBuf> {
    let own = env::current_exe().context("cannot find out where cargo put this program")?;
    own.parent().map(Path::to_owned).context("this program stands in no directory")
}

/// Cargo's target directory.
pub(crate) fn target() -> Result<PathBuf> {
    let binaries = binaries()?;
    binaries.parent().map(Path::to_owned).context("the directory of binaries has no parent")
}

/// A program in `PATH`, or where Debian keeps programs for administrators.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// Whether we are root.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// Names of a crate's integration tests, as cargo finds them: files of its `tests` directory, and directories of it that
/// have a `main.rs`.
pub(crate) fn integration_tests(krate: &str) -> Result<Vec<String>> {
    let dir = root().join(krate).join("tests");
    let entries = fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("cannot read {}", dir.display()))?.path();
        let is_test = path.extension().is_some_and(|end| end == "rs") || path.join("main.rs").is_file();
        names.extend(path.file_stem().filter(|_| is_test).map(|name| name.to_string_lossy().into_owned()));
    }
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_integration_test_is_found() {
        let names = integration_tests("tests").unwrap();
        assert!(
            ["packet_dr", "scenarios"].iter().all(|name| names.iter().any(|found| found == name)),
            "{names:?}"
        );
    }

    #[test]
    fn the_workspace_root_holds_the_rooms() {
        assert!(root().join("lb-ebpf/Cargo.toml").is_file());
    }

    #[test]
    fn programs_are_found_by_name_and_absent_ones_are_not() {
        assert!(find_program("sh").is_some());
        assert_eq!(find_program("no-such-program-as-this"), None);
    }
}
