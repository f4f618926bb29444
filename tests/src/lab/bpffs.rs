//! The BPF file system, where pins live.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use super::proc::finish;

/// Where every tool expects it.
const BPFFS: &str = "/sys/fs/bpf";

/// Held while looking and mounting; only root writes there.
const LOCK: &str = "/run/lbt-bpffs.lock";

/// The place for a pin, or a directory of pins, called `name`.
#[must_use]
pub fn path(name: &str) -> PathBuf {
    Path::new(BPFFS).join(name)
}

/// Mounts it unless it is there. Two mounts would hide each other's pins, so one program at a time looks.
///
/// # Panics
///
/// When the kernel refuses.
pub fn mount() {
    let lock = File::create(LOCK)
        .and_then(|file| file.lock().map(|()| file))
        .unwrap_or_else(|error| panic!("cannot take the lock for mounting {BPFFS}: {error}"));
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    if !mounts.lines().any(|line| line.split(' ').skip(1).take(2).eq([BPFFS, "bpf"])) {
        finish(Command::new("mount").args(["-t", "bpf", "bpf", BPFFS])).expect_success();
    }
    drop(lock);
}
