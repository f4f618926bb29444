//! The proxy's files: its configuration, certificates and authorities. Some hold keys, so nobody but root reads any.
#![forbid(unsafe_code)]

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use super::{
    certs::{Gathered, certificate_file, family_file, named_certs, named_families},
    render::Places,
};
use crate::model::proxied::Proxies;

/// Replaces a file in one step. It need not outlive the machine, so nothing waits for the disk. Blocks.
pub(super) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(".tmp");
    let temporary = directory.join(name);
    // One that a killed daemon left may have another mode.
    remove(&temporary)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    fs::rename(&temporary, path)
}

/// Removes a file; one that is not there is well. Blocks.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Writes what differs from what is there, and gives those that held something else before. Blocks.
pub(super) fn put_certificates(places: &Places, gathered: &Gathered) -> io::Result<Vec<PathBuf>> {
    let mut changed = Vec::new();
    for (name, bytes) in &gathered.files {
        let path = places.dir().join(name);
        let before = match fs::read(&path) {
            Ok(before) => Some(before),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        if before.as_ref() == Some(bytes) {
            continue;
        }
        write(&path, bytes)?;
        if before.is_some() {
            changed.push(name.clone());
        }
    }
    Ok(changed)
}

/// Removes certificates and authorities that no VIP names any more. Blocks.
pub(super) fn remove_certificates_but_those_of(proxies: &Proxies, places: &Places) -> io::Result<()> {
    let named: BTreeSet<PathBuf> = proxies
        .vips
        .iter()
        .filter_map(|desired| desired.vip.proxy.as_deref())
        .flat_map(|proxy| {
            let certs = named_certs(proxy).into_iter().map(|cert| certificate_file(&cert.name));
            certs.chain(named_families(proxy).into_iter().map(|family| family_file(&family.name)))
        })
        .collect();
    for directory in ["certs", "ca"] {
        let entries = match fs::read_dir(places.dir().join(directory)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for entry in entries {
            let name = Path::new(directory).join(entry?.file_name());
            if !named.contains(&name) {
                remove(&places.dir().join(name))?;
            }
        }
    }
    Ok(())
}
