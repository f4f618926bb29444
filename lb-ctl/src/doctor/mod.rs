//! Is this machine fit for the configuration? Facts are gathered first, then looked at by pure checks, so that every
//! check has a test. Works with and without a running daemon.
//!
//! Each [`Finding`] names what was looked at, what was found and, unless all is well, the cure.
#![forbid(unsafe_code)]

mod addresses;
mod bonds;
mod drivers;
mod facts;
mod gather;
mod host;
mod interfaces;
mod routing;

use serde::Serialize;

pub use facts::{Bond, Facts, Interface, KernelVersion, Xdp};
pub use gather::gather;

use crate::model::config::Config;

/// One thing that was looked at.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Short, stable name of the check: `kernel`, `driver`, `subnet` ...
    pub check: &'static str,
    /// What was found, and where: one line.
    pub text: String,
    /// What to do about it: one line. `None` when there is nothing to do.
    pub cure: Option<String>,
}

/// How bad a finding is, best first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// Worth knowing.
    Note,
    /// Works, but slower or less safely than it could.
    Warning,
    /// Does not work.
    Problem,
}

/// Looks at everything, the host first, then interfaces, then the machine as a router, then addresses.
#[must_use]
pub fn examine(facts: &Facts, config: &Config) -> Vec<Finding> {
    let mut findings = host::examine(facts, config);
    findings.extend(interfaces::examine(facts, config));
    findings.extend(addresses::examine(facts, config));
    findings
}

impl Finding {
    fn ok(check: &'static str, text: impl Into<String>) -> Self {
        Self { severity: Severity::Ok, check, text: text.into(), cure: None }
    }

    fn note(check: &'static str, text: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { severity: Severity::Note, check, text: text.into(), cure: Some(cure.into()) }
    }

    fn warning(check: &'static str, text: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, check, text: text.into(), cure: Some(cure.into()) }
    }

    fn problem(check: &'static str, text: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { severity: Severity::Problem, check, text: text.into(), cure: Some(cure.into()) }
    }
}

#[cfg(test)]
mod tests;
