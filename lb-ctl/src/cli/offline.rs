//! Verbs that need no daemon.

use std::path::Path;

use super::text::plural;
use crate::{
    config::{self, Loaded},
    doctor::{self, Finding, Severity},
    model::config::Sources,
};

/// Result of an examination.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Report {
    /// What was found, ready to print.
    pub text: String,
    /// False when something does not work.
    pub healthy: bool,
}

/// Checks the configuration whose main file is `path`: what it contains and every warning, or every fault in it
/// with its place and cure.
pub async fn check_config(path: &Path) -> Result<String, String> {
    Ok(load(path).await?.to_string())
}

/// Examines this machine for what the configuration whose main file is `path` needs of it.
pub async fn doctor(path: &Path) -> Result<Report, String> {
    let config = load(path).await?.config;
    let facts = doctor::gather(&config).await;
    Ok(report(&doctor::examine(&facts, &config)))
}

pub(super) async fn load(path: &Path) -> Result<Loaded, String> {
    let sources = Sources { main: path.to_owned() };
    let loaded = tokio::task::spawn_blocking(move || config::load(&sources)).await;
    let loaded = loaded.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
    loaded.map_err(|errors| errors.to_string())
}

/// A line for each finding and one for its cure, the worst last, where the eye is.
fn report(findings: &[Finding]) -> Report {
    let mut findings: Vec<&Finding> = findings.iter().collect();
    findings.sort_by_key(|finding| finding.severity);
    let mut text = String::new();
    for Finding { severity, check, text: found, cure } in &findings {
        text.push_str(&format!("{:7}  {check}: {found}\n", name(*severity)));
        if let Some(cure) = cure {
            text.push_str(&format!("{:7}  -> {cure}\n", ""));
        }
    }
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count() as u64;
    let (problems, warnings) = (count(Severity::Problem), count(Severity::Warning));
    let healthy = problems == 0;
    let (checks, problems) = (plural(findings.len() as u64, "check"), plural(problems, "problem"));
    text.push_str(&format!("{checks}: {problems}, {}", plural(warnings, "warning")));
    Report { text, healthy }
}

const fn name(severity: Severity) -> &'static str {
    match severity {
        Severity::Ok => "ok",
        Severity::Note => "note",
        Severity::Warning => "warning",
        Severity::Problem => "PROBLEM",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(severity: Severity, check: &'static str, cure: Option<&str>) -> Finding {
        Finding { severity, check, text: format!("{check} is so"), cure: cure.map(str::to_owned) }
    }

    #[test]
    fn the_worst_stands_last_with_its_cure_and_only_problems_are_unhealthy() {
        let mut findings =
            vec![finding(Severity::Warning, "mtu", Some("raise it")), finding(Severity::Ok, "kernel", None)];
        assert!(report(&findings).healthy);
        findings.insert(0, finding(Severity::Problem, "subnet", Some("add an address")));
        let report = report(&findings);
        assert!(!report.healthy);
        assert_eq!(
            report.text.lines().collect::<Vec<_>>(),
            [
                "ok       kernel: kernel is so",
                "warning  mtu: mtu is so",
                "         -> raise it",
                "PROBLEM  subnet: subnet is so",
                "         -> add an address",
                "3 checks: 1 problem, 1 warning",
            ]
        );
    }
}
