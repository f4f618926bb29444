//! What is built here to run there.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};

use crate::exec::{cargo, command_line, exec, note};
use crate::place;

/// A test program.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Binary {
    /// Name of the file in `tests/tests`, or of the directory there.
    pub(super) name: String,
    /// Where cargo put it.
    pub(super) path: PathBuf,
}

/// Builds these test programs, and the daemon, which scenarios look for beside themselves.
pub(super) fn tests(names: &[&str]) -> Result<Vec<Binary>> {
    exec(cargo().args(["build", "--quiet", "--package", "lb-ctl", "--bins"]))?;
    let mut command = cargo();
    command.args(["test", "--no-run", "--package", "lb-tests", "--color", "never"]);
    for name in names {
        command.args(["--test", name]);
    }
    let line = command_line(&command);
    let mut child =
        command.stderr(Stdio::piped()).spawn().with_context(|| format!("cannot start `{line}`"))?;
    let mut found = Vec::new();
    if let Some(output) = child.stderr.take() {
        for line in BufReader::new(output).lines() {
            let line = line.context("cannot read what cargo says")?;
            match executable(&line) {
                Some(binary) => found.push(binary),
                None => note(format_args!("{line}")),
            }
        }
    }
    let status = child.wait().with_context(|| format!("cannot wait for `{line}`"))?;
    ensure!(status.success(), "`{line}` failed ({status})");
    Ok(found)
}

/// Builds the measurement of live frames.
pub(super) fn live() -> Result<PathBuf> {
    exec(cargo().args(["build", "--quiet", "--package", "lb-tests", "--bin", "live"]))?;
    Ok(place::binaries()?.join("live"))
}

/// The program in a line such as `  Executable tests/net.rs (target/debug/deps/net-0123)`.
fn executable(line: &str) -> Option<Binary> {
    let (source, path) = line.trim().strip_prefix("Executable ")?.strip_suffix(')')?.split_once(" (")?;
    let name = source.strip_prefix("tests/")?;
    let name = name.strip_suffix("/main.rs").or_else(|| name.strip_suffix(".rs"))?;
    Some(Binary { name: name.to_owned(), path: place::root().join(path) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executables_are_told_from_other_lines() {
        let name = |line| executable(line).map(|binary| binary.name);
        assert_eq!(name("  Executable tests/net.rs (target/debug/deps/net-1)").as_deref(), Some("net"));
        let scenarios = executable("  Executable tests/scenarios/main.rs (/t/scenarios-2)").unwrap();
        assert_eq!((scenarios.name.as_str(), scenarios.path), ("scenarios", PathBuf::from("/t/scenarios-2")));
        for line in [
            "   Compiling net v0.1.0 (tests/net)",
            "    Finished `test` profile",
            "Executable unittests src/lib.rs (x)",
        ] {
            assert_eq!(name(line), None, "{line}");
        }
    }
}
