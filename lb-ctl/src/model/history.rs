//! Configurations that were in force, as they are kept and shown.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A configuration that came into force.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Version {
    /// When and why.
    #[serde(flatten)]
    pub head: VersionHead,
    /// Every file that it was read from, the main one first.
    pub files: Vec<KeptFile>,
}

/// What a list of versions says of each.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct VersionHead {
    /// Rises by one with each; no number is given twice.
    pub number: u64,
    /// Seconds since the epoch when it was kept.
    pub at_epoch_secs: u64,
    /// What brought it into force.
    pub cause: Cause,
    /// What it changed, a line each; empty when only comments or layout differ.
    pub changes: Vec<String>,
}

/// What brings a configuration into force.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// The files were read again.
    Apply,
    /// A command edited the files.
    Edit,
    /// The files were put back as they were.
    Rollback {
        /// Number of the version that they are of.
        to: u64,
    },
    /// The daemon started.
    Start,
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Apply => f.write_str("apply"),
            Self::Edit => f.write_str("edit"),
            Self::Rollback { to } => write!(f, "rollback to {to}"),
            Self::Start => f.write_str("start"),
        }
    }
}

/// One file as it was.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct KeptFile {
    /// Where it was.
    pub path: PathBuf,
    /// What was in it.
    pub text: String,
}
