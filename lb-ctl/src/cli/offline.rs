//! Verbs that need no daemon.

use std::path::Path;

/// Result of an examination.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Report {
    /// What was found, ready to print.
    pub text: String,
    /// False when something is wrong.
    pub healthy: bool,
}

/// Checks the configuration whose main file is `path`: what it contains, in a line, or every fault in it with its
/// place and cure.
pub async fn check_config(path: &Path) -> Result<String, String> {
    Err(format!("cannot check {}: this build of lbctl cannot read configuration files", path.display()))
}

/// Examines this machine for what the configuration whose main file is `path` needs of it.
pub async fn doctor(path: &Path) -> Result<Report, String> {
    Err(format!("cannot examine this machine for {}: this build of lbctl has no doctor", path.display()))
}
