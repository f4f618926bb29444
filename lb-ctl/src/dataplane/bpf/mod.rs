//! The kernel's side of the border, through aya: the only importer of it. [`open()`] adopts what an earlier
//! controller left pinned, or makes everything anew; [`detach`] takes everything away, also when the program of
//! this build cannot be loaded.
//!
//! What stands under the pin directory:
//!
//! ```text
//! SETTINGS, FILTER, ...   one pin per map of `lb_common::limits::map::PINNED`
//! link-<ifindex>          one per interface that the program is attached to
//! ```
//!
//! Traffic is forwarded by what is pinned, not by this process. `SETTINGS` is written last when maps are made and
//! removed first when they go, so a directory with an ABI version in it is complete.

mod clock;
mod explain;
mod flows;
mod installed;
mod links;
mod loads;
mod open;
mod persistence;
mod pins;
mod read;
mod sweep;
mod sys;
mod write;

use std::{error::Error as StdError, io, path::PathBuf};

use aya::maps::MapError;

pub use self::{open::open, pins::detach, read::BpfReader, write::BpfWriter};
use super::Error;

/// What [`open()`] needs to know.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Options {
    /// Directory on a BPF file system, `/sys/fs/bpf/lbd` as a rule. Made if missing.
    pub pin_dir: PathBuf,
    /// Room for established IPv4 flows; rounded up to a power of two.
    pub flows_v4: u32,
    /// Room for established IPv6 flows; rounded up to a power of two.
    pub flows_v6: u32,
    /// Room for half-open flows of each family; rounded up to a power of two.
    pub half_open: u32,
}

/// The data plane, open.
pub struct Opened {
    /// For the reconciler.
    pub writer: BpfWriter,
    /// For telemetry.
    pub reader: BpfReader,
    /// What the operator should know though nothing is wrong, a line each.
    pub notes: Vec<String>,
}

/// An error without a cause below it.
fn fail(text: impl Into<String>) -> Error {
    Error { text: text.into(), source: None }
}

/// An error with a cause: every word of the chain below it on the one line. A missing privilege ends in its cure.
fn fault(text: impl Into<String>, source: impl StdError + Send + Sync + 'static) -> Error {
    let mut text = text.into();
    let mut cause: Option<&(dyn StdError + 'static)> = Some(&source);
    while let Some(error) = cause {
        let line = error.to_string();
        // Some of aya's errors repeat the one below them.
        if !text.ends_with(&line) {
            text = format!("{text}: {line}");
        }
        cause = error.source();
    }
    if os_errno(&source) == Some(libc::EPERM) {
        text.push_str("; run lbd as root, or give its unit CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON");
    }
    Error { text, source: Some(Box::new(source)) }
}

/// True when a map says that there is no such key.
fn is_absent(error: &MapError) -> bool {
    matches!(error, MapError::KeyNotFound) || os_errno(error) == Some(libc::ENOENT)
}

/// The system call's error number at the bottom of a chain of errors.
fn os_errno(error: &(dyn StdError + 'static)) -> Option<i32> {
    os_error(error).and_then(io::Error::raw_os_error)
}

/// The system call's error at the bottom of a chain of errors.
fn os_error<'e>(mut error: &'e (dyn StdError + 'static)) -> Option<&'e io::Error> {
    loop {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return Some(io);
        }
        error = error.source()?;
    }
}
