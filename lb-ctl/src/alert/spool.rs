//! Messages on their way, a file each, so that neither a restart nor a mail server that is away loses one. Blocks.

use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    replace_file::{create_directory, remove_file},
    state_file::{StateError, load, store_blocking},
};

/// Layout of a file.
const VERSION: u32 = 1;

/// A message to one destination.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Parcel {
    /// Number of the message: no two alike, the oldest the lowest.
    pub(super) number: u64,
    /// Number of the destination among those of the message.
    pub(super) part: u32,
    /// Seconds since the epoch at which it was made.
    pub(super) at_epoch_secs: u64,
    /// Where it goes.
    pub(super) destination: Destination,
    /// What goes there.
    pub(super) content: Content,
}

/// Where a message goes.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Destination {
    /// A mail address.
    Mail(String),
    /// A URL. What stands behind its host may be a secret.
    Webhook(String),
}

/// What is sent.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Content {
    /// Name of this machine.
    pub(super) node: String,
    /// Subject line.
    pub(super) subject: String,
    /// Text of a mail, or what is posted.
    pub(super) text: String,
    /// Everybody who gets it by mail.
    pub(super) all: Vec<String>,
}

impl Parcel {
    fn file_name(&self) -> String {
        format!("{:010}-{:05}.json", self.number, self.part)
    }
}

/// As people see it: a URL without what may be secret.
impl std::fmt::Display for Destination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Mail(to) => f.write_str(to),
            Self::Webhook(url) => {
                let end = url
                    .find("://")
                    .map(|at| at + 3)
                    .and_then(|from| Some(from + url.get(from..)?.find('/')?));
                match end.and_then(|end| url.get(..end)) {
                    Some(host) => write!(f, "{host}/..."),
                    None => f.write_str(url),
                }
            }
        }
    }
}

/// The directory.
#[derive(Clone, Debug)]
pub(super) struct Spool(PathBuf);

impl Spool {
    /// Opens it below a state directory, and gives what waits in it, the oldest first. Messages with a number above
    /// `committed`, if there is one, were never said to be told: they are removed, since they will be told anew. Files that cannot be read
    /// are left alone, and said.
    ///
    /// # Errors
    ///
    /// When it cannot be made or listed.
    pub(super) fn open(state_dir: &Path, committed: Option<u64>) -> Result<(Self, Vec<Parcel>), StateError> {
        let directory = state_dir.join("spool");
        let failed = |verb: &'static str| {
            let path = directory.clone();
            move |error| StateError::Io { verb, path, error }
        };
        create_directory(&directory).map_err(failed("create"))?;
        // URLs may hold secrets.
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).map_err(failed("protect"))?;
        let entries = fs::read_dir(&directory).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let mut paths: Vec<PathBuf> =
            entries.map_err(failed("list"))?.into_iter().map(|entry| entry.path()).collect();
        paths.retain(|path| path.extension() == Some(OsStr::new("json")));
        paths.sort_unstable();
        let spool = Self(directory);
        let mut waiting = Vec::new();
        for path in paths {
            match load::<Parcel>(&path, VERSION, "move it away: this message is not sent") {
                Ok(Some(parcel)) if committed.is_none_or(|last| parcel.number <= last) => {
                    waiting.push(parcel)
                }
                Ok(Some(parcel)) => spool.remove(&parcel)?,
                Ok(None) => {}
                Err(error) => tracing::error!("{error}"),
            }
        }
        Ok((spool, waiting))
    }

    /// Keeps messages; on disk when this returns.
    ///
    /// # Errors
    ///
    /// When one cannot be written.
    pub(super) fn keep(&self, parcels: &[Parcel]) -> Result<(), StateError> {
        parcels.iter().try_for_each(|parcel| store_blocking(&self.path(parcel), VERSION, parcel))
    }

    /// Forgets a message; one that is not there is well.
    ///
    /// # Errors
    ///
    /// When it cannot be removed.
    pub(super) fn remove(&self, parcel: &Parcel) -> Result<(), StateError> {
        let path = self.path(parcel);
        remove_file(&path).map_err(|error| StateError::Io { verb: "remove", path, error })
    }

    fn path(&self, parcel: &Parcel) -> PathBuf {
        self.0.join(parcel.file_name())
    }
}
