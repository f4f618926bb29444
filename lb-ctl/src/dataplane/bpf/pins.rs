//! The pin directory: making it, judging what stands in it, clearing it.
#![forbid(unsafe_code)]

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use aya::maps::{Array, Map, MapData, MapError};
use lb_common::{ABI_VERSION, limits::map, settings::Settings};

use super::{Error, fail, fault, links};

/// `BPF_FS_MAGIC` (linux/magic.h).
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;
/// Cure for a directory that this build cannot use.
const START_ANEW: &str = "run `lbd --detach` (interrupts traffic) and start again";

/// What stands in the pin directory.
pub(super) enum Found {
    /// Nothing, or what a crash left half-made: the directory is there now, and empty.
    Nothing,
    /// A complete set of maps of this ABI version.
    Maps(Settings),
}

/// A pin directory, held by the one controller that uses it: two over the same maps would each undo what the
/// other does. The kernel releases it when the process ends.
#[derive(Clone)]
pub(super) struct PinDir {
    /// Where it is.
    pub(super) path: PathBuf,
    _lock: Arc<fs::File>,
}

/// Makes the pin directory if it is missing and takes it for this process.
pub(super) fn take(pin_dir: &Path) -> Result<PinDir, Error> {
    require_bpffs(pin_dir)?;
    make_dir(pin_dir)?;
    lock(pin_dir)
}

fn lock(pin_dir: &Path) -> Result<PinDir, Error> {
    let directory = fs::File::open(pin_dir)
        .map_err(|e| fault(format!("directory {} cannot be opened", pin_dir.display()), e))?;
    match rustix::fs::flock(&directory, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(PinDir { path: pin_dir.to_owned(), _lock: Arc::new(directory) }),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(fail(format!(
            "another lbd runs with the pins under {}: stop it first (systemctl stop lbd), or choose another --pin-dir",
            pin_dir.display()
        ))),
        Err(error) => {
            Err(fault(format!("directory {} cannot be locked", pin_dir.display()), io::Error::from(error)))
        }
    }
}

/// Clears the pin directory if it is half-made, and says what stands in it.
pub(super) fn prepare(PinDir { path: pin_dir, .. }: &PinDir) -> Result<Found, Error> {
    let names = list(pin_dir)?;
    let linked = names.iter().any(|name| links::pinned_ifindex(name).is_some());
    let settings = if names.iter().any(|name| name == map::SETTINGS) {
        Some(read_settings(pin_dir)?).filter(|settings| settings.abi_version != 0)
    } else {
        None
    };
    let Some(settings) = settings else {
        if linked {
            return Err(fail(format!(
                "maps under {} have no settings, but the program is attached: traffic goes on as it is; {START_ANEW}",
                pin_dir.display()
            )));
        }
        for name in &names {
            remove(&pin_dir.join(name))?;
        }
        return Ok(Found::Nothing);
    };
    if settings.abi_version != ABI_VERSION {
        return Err(other_version(pin_dir, &settings.abi_version));
    }
    if let Some(missing) = map::PINNED.iter().find(|name| !names.iter().any(|n| n == *name)) {
        return Err(fail(format!(
            "map {} is missing: something removed it; traffic goes on as it is; {START_ANEW}",
            pin_dir.join(missing).display()
        )));
    }
    Ok(Found::Maps(settings))
}

/// Takes everything away that a controller ever made under `pin_dir`: the program off its interfaces, then the
/// pins, then the directory. Needs neither the program nor maps of this build's version. Returns what was done, a
/// line each; nothing when there is no such directory.
///
/// # Errors
///
/// Names the first thing that could not be removed, after trying all.
pub fn detach(pin_dir: &Path) -> Result<Vec<String>, Error> {
    if !pin_dir.exists() {
        return Ok(Vec::new());
    }
    require_bpffs(pin_dir)?;
    clear(&lock(pin_dir)?)
}

/// [`detach`] for who holds the directory.
pub(super) fn clear(PinDir { path: pin_dir, .. }: &PinDir) -> Result<Vec<String>, Error> {
    let mut done = Vec::new();
    let mut first_error = None;
    let mut attempt = |result: Result<(), Error>, line: String| match result {
        Ok(()) => done.push(line),
        Err(error) => {
            first_error.get_or_insert(error);
        }
    };
    let mut names = list(pin_dir)?;
    // Links first, or frames would meet a program without its settings; then the settings, so that a directory
    // with settings is a complete one.
    names.sort_by_key(|name| (links::pinned_ifindex(name).is_none(), name != map::SETTINGS, name.clone()));
    let mut maps = 0;
    for name in &names {
        let path = pin_dir.join(name);
        match links::pinned_ifindex(name) {
            Some(ifindex) => {
                attempt(links::detach(&path), format!("took the program off {}", links::name(ifindex)))
            }
            None => match remove(&path) {
                Ok(()) => maps += 1,
                Err(error) => attempt(Err(error), String::new()),
            },
        }
    }
    attempt(
        fs::remove_dir(pin_dir)
            .map_err(|e| fault(format!("directory {} cannot be removed", pin_dir.display()), e)),
        format!("removed {maps} maps and {}", pin_dir.display()),
    );
    first_error.map_or(Ok(done), Err)
}

/// Interfaces with a pinned link.
pub(super) fn linked_interfaces(pin_dir: &Path) -> Result<Vec<u32>, Error> {
    Ok(list(pin_dir)?.iter().filter_map(|name| links::pinned_ifindex(name)).collect())
}

/// Removes one pin; one that is not there is fine.
pub(super) fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(fault(format!("pin {} cannot be removed", path.display()), error)),
    }
}

fn read_settings(pin_dir: &Path) -> Result<Settings, Error> {
    let path = pin_dir.join(map::SETTINGS);
    let settings = MapData::from_pin(&path)
        .and_then(Map::from_map_data)
        .and_then(|m| Array::<MapData, Settings>::try_from(m)?.get(&0, 0));
    match settings {
        Ok(settings) => Ok(settings),
        // Another version's settings are of another size.
        Err(MapError::InvalidValueSize { .. } | MapError::InvalidMapType { .. }) => {
            Err(other_version(pin_dir, &"unknown"))
        }
        Err(error) => Err(fault(format!("settings {} cannot be read", path.display()), error)),
    }
}

fn other_version(pin_dir: &Path, theirs: &dyn std::fmt::Display) -> Error {
    fail(format!(
        "maps under {} were made by another version (ABI {theirs}, this is {ABI_VERSION}): traffic goes on as it is; \
         {START_ANEW}",
        pin_dir.display()
    ))
}

/// The directory, or the nearest one above it that exists, must be on a BPF file system.
fn require_bpffs(pin_dir: &Path) -> Result<(), Error> {
    let there = pin_dir
        .ancestors()
        .find(|dir| dir.exists())
        .ok_or_else(|| fail(format!("{} is not an absolute path", pin_dir.display())))?;
    let stat = rustix::fs::statfs(there)
        .map_err(|e| fault(format!("{} cannot be examined", there.display()), io::Error::from(e)))?;
    if stat.f_type.cast_unsigned() == BPF_FS_MAGIC {
        return Ok(());
    }
    let mount_at: PathBuf =
        if pin_dir.starts_with("/sys/fs/bpf") { "/sys/fs/bpf".into() } else { there.into() };
    Err(fail(format!(
        "{} is not on a BPF file system, so maps cannot be pinned there; run `mount -t bpf bpf {}`",
        pin_dir.display(),
        mount_at.display()
    )))
}

fn make_dir(pin_dir: &Path) -> Result<(), Error> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(pin_dir)
        .map_err(|e| fault(format!("directory {} cannot be made", pin_dir.display()), e))
}

fn list(pin_dir: &Path) -> Result<Vec<String>, Error> {
    let unreadable = |e| fault(format!("directory {} cannot be read", pin_dir.display()), e);
    fs::read_dir(pin_dir)
        .map_err(unreadable)?
        .map(|entry| {
            // A BPF file system holds what we named; a name that is not text would be nobody's.
            entry.map_err(unreadable)?.file_name().into_string().map_err(|name| {
                fail(format!("{} does not belong here; remove it", pin_dir.join(name).display()))
            })
        })
        .collect()
}
