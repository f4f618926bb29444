//! Files of certificates are put in place and removed, as edits of the configuration say. Blocks.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::{
    facts::facts,
    judge::{self, Known},
    pem::{certificates, parse},
    report::{authorities, epoch_secs},
    users::Users,
};
use crate::{
    config::{Edited, FileChange},
    control::Refused,
    model::tls::Level,
    replace_file::{create_private_directory, remove_file, replace_private_file},
};

/// Files as they were before others were put in their place.
#[derive(Debug)]
pub struct Placed(Vec<(PathBuf, Option<Vec<u8>>)>);

/// Puts files in place, or none of them. Readable to their owner alone; one that was there keeps its mode.
///
/// # Errors
///
/// Why not; everything is then as it was.
pub fn put(changes: &[FileChange]) -> Result<Placed, Refused> {
    let mut placed = Placed(Vec::new());
    for change in changes {
        let FileChange::Write { path, text, replace } = change else { continue };
        let done = put_one(path, text.reveal(), *replace).map(|before| placed.0.push((path.clone(), before)));
        if let Err(refused) = done {
            let left = placed.take_back();
            return Err(if left.is_empty() {
                refused
            } else {
                Refused::Failed(format!("{refused}; {}", left.join("; ")))
            });
        }
    }
    Ok(placed)
}

fn put_one(path: &Path, text: &str, replace: bool) -> Result<Option<Vec<u8>>, Refused> {
    let shown = path.display();
    let before = match fs::read(path) {
        Ok(_) if !replace => {
            return Err(Refused::Invalid(format!(
                "{shown} is there already, and nothing names it: move it away, or add `--replace`"
            )));
        }
        Ok(bytes) => Some(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(Refused::Failed(format!("cannot read {shown}: {error}"))),
    };
    let made = path.parent().map_or(Ok(()), create_private_directory);
    let written = made.and_then(|()| replace_private_file(path, text.as_bytes()));
    written.map(|()| before).map_err(|error| {
        Refused::Failed(format!(
            "cannot write {shown}: {error}; check the permissions of the directory and the room on the disk"
        ))
    })
}

impl Placed {
    /// Puts everything back; names what cannot be.
    #[must_use]
    pub fn take_back(self) -> Vec<String> {
        let mut left = Vec::new();
        for (path, before) in self.0 {
            let back = match &before {
                Some(bytes) => replace_private_file(&path, bytes),
                None => remove_file(&path),
            };
            if let Err(error) = back {
                left.push(format!("{} stays changed: {error}", path.display()));
            }
        }
        left
    }
}

/// Removes files that nothing names any more; tells which stay.
#[must_use]
pub fn remove(changes: &[FileChange]) -> Vec<String> {
    let mut told = Vec::new();
    for change in changes {
        let FileChange::Remove { path } = change else { continue };
        if let Err(error) = remove_file(path) {
            told.push(format!("{} stays: {error}: remove it by hand", path.display()));
        }
    }
    told
}

/// What changes, a line for each file: `file /etc/lbd/pki/web.pem: CN=web, until 2027-05-08 12:37:21 UTC`.
#[must_use]
pub fn changes(changes: &[FileChange]) -> Vec<String> {
    let line = |change: &FileChange| match change {
        FileChange::Remove { path } => format!("- file {}", path.display()),
        FileChange::Write { path, text, replace: _ } => {
            let found = certificates(text.reveal().as_bytes()).unwrap_or_default();
            let own = found.first().and_then(|own| parse(own)).map(|own| facts(&own));
            let says = own.map_or_else(String::new, |own| {
                format!(": {}, until {}", own.subject, judge::date(own.not_after_epoch_secs))
            });
            format!("+ file {}{says}", path.display())
        }
    };
    changes.iter().map(line).collect()
}

/// What is worth knowing of files that an edit puts in place.
#[must_use]
pub fn advice(edited: &Edited, now: SystemTime) -> Vec<String> {
    let config = &edited.loaded.config;
    let users = Users::of(config);
    let now = epoch_secs(now);
    let mut lines = Vec::new();
    for change in &edited.files {
        let FileChange::Write { path, text, .. } = change else { continue };
        let Ok(chain) = certificates(text.reveal().as_bytes()) else { continue };
        let cert = config.pki.certs.iter().find(|(_, file)| *file == path);
        let (what, findings) = match cert {
            Some((name, _)) => {
                let roles = users.roles(name);
                let mut findings =
                    judge::identity(&chain, roles, &Known::with_system(authorities(config)), now);
                if !roles.server && !roles.client {
                    let own = chain.first().and_then(|own| parse(own));
                    findings.extend(own.and_then(|own| judge::limits(&facts(&own))));
                }
                (format!("certificate {name}"), findings)
            }
            None => ("the authority".to_owned(), judge::dates(&chain, now)),
        };
        let telling = findings.into_iter().filter(|finding| finding.level > Level::Well);
        lines.extend(telling.map(|finding| format!("{what}: {}", finding.text)));
    }
    lines
}
