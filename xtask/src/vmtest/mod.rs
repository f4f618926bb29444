//! `cargo xtask vmtest`: the packet path under the kernels that people have, and its price in instructions.
//!
//! Everything is built here and runs there: `vm.sh` boots a suite's stock kernel over this machine's own files.

mod binaries;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use self::binaries::Binary;
use crate::exec::{command_line, note};
use crate::{place, setup};

/// Which kernels, and how much.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The Debian suite whose kernel to boot.
    #[arg(long, value_enum, default_value_t = Choice::All)]
    suite: Choice,
    /// What continuous integration runs: the shorter tests, fewer random packets, instructions under Linux 6.12.
    #[arg(long)]
    quick: bool,
}

/// What may be asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Choice {
    /// Linux 6.1.
    Bookworm,
    /// Linux 6.12.
    Trixie,
    /// The newest that is packaged.
    Sid,
    /// Each of them.
    All,
}

impl Choice {
    const fn suites(self) -> &'static [&'static str] {
        match self {
            Self::Bookworm => &["bookworm"],
            Self::Trixie => &["trixie"],
            Self::Sid => &["sid"],
            Self::All => &["bookworm", "trixie", "sid"],
        }
    }
}

/// The suite whose kernel instructions are counted under, and which continuous integration boots.
const COUNTED: &str = "trixie";
/// Most seconds that the tests of one suite may take; an emulated processor is some twenty times slower.
const TESTS_SECONDS: u32 = 3600;
/// Most seconds that counting instructions may take.
const COUNT_SECONDS: u32 = 300;

/// What is run under each kernel.
struct Tests {
    /// Test program.
    program: &'static str,
    /// Its arguments: names of tests; none means all.
    only: &'static [&'static str],
    /// Left out where time is short: each test loads the program, and an emulated processor takes seconds to verify it.
    long: bool,
}

const fn tests(program: &'static str, only: &'static [&'static str]) -> Tests {
    Tests { program, only, long: false }
}

const fn long(program: &'static str) -> Tests {
    Tests { program, only: &[], long: true }
}

const TESTS: [Tests; 15] = [
    tests("packet_dr", &[]),
    tests("packet_random", &[]),
    // What the kernel of a small machine often lacks, and a stock one has.
    tests("net", &["a_vlan_interface_names_its_tag_and_its_parent"]),
    tests("bonding", &["--ignored"]),
    tests("scenarios", &["datagrams_reach_every_server_and_answers_come_from_the_vip"]),
    long("packet_nat"),
    long("packet_snat"),
    long("packet_parse"),
    long("packet_flows"),
    long("packet_steer"),
    long("packet_fragments"),
    long("packet_hops"),
    long("packet_icmp"),
    long("packet_pair"),
    long("packet_reset"),
];

pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!(place::is_root(), "not root, but the machines read this one's files as root; run it as root");
    setup::ensure()?;
    let programs = build(args.quick)?;
    let mut failures = Vec::new();
    for suite in args.suite.suites() {
        failures.extend(tests_under(suite, &programs, args.quick)?);
    }
    if args.suite.suites().contains(&COUNTED) {
        failures.extend(count_instructions(&programs)?);
    }
    judge(&failures)
}

/// The step of `cargo xtask test`.
pub(crate) fn step() -> Result<()> {
    if !place::is_root() {
        note(format_args!("SKIPPED: other kernels are booted by root only"));
        return Ok(());
    }
    let programs = build(true)?;
    let mut failures = tests_under(COUNTED, &programs, true)?;
    failures.extend(count_instructions(&programs)?);
    judge(&failures)
}

fn judge(failures: &[String]) -> Result<()> {
    if failures.is_empty() {
        return Ok(());
    }
    bail!("failed under other kernels:\n  {}", failures.join("\n  "))
}

/// What is built here to run there.
struct Programs {
    tests: Vec<Binary>,
    live: PathBuf,
}

/// Those that are run: all, or the short ones.
fn chosen(quick: bool) -> impl Iterator<Item = &'static Tests> {
    TESTS.iter().filter(move |tests| !(quick && tests.long))
}

fn build(quick: bool) -> Result<Programs> {
    let names: Vec<&str> = chosen(quick).map(|tests| tests.program).collect();
    Ok(Programs { tests: binaries::tests(&names)?, live: binaries::live()? })
}

/// Runs the tests under a suite's kernel; what failed, each with suite, program and test.
fn tests_under(suite: &str, programs: &Programs, quick: bool) -> Result<Vec<String>> {
    let mut lines = String::from("uname -r; export LB_REQUIRE_ROOT=1\n");
    let packets = if quick { 300 } else { 2000 };
    lines.push_str(&format!("export LB_PACKETS={packets}\n"));
    for Tests { program, only, .. } in chosen(quick) {
        let binary = programs.tests.iter().find(|binary| binary.name == *program);
        let path = &binary.with_context(|| format!("cargo built no test program `{program}`"))?.path;
        let arguments = only.join(" ");
        lines.push_str(&format!(
            "echo 'program {program}'; {} {arguments} || echo 'ended {program}'\n",
            path.display()
        ));
    }
    let said = run_in_machine(suite, &["-t", &TESTS_SECONDS.to_string()], &["bash", "-c", &lines])?;
    Ok(failures_in(suite, &said))
}

/// Counts instructions per packet, and keeps the figures in `target/vmtest.json`.
fn count_instructions(programs: &Programs) -> Result<Vec<String>> {
    let live = programs.live.display().to_string();
    let options = ["-i", "-t", &COUNT_SECONDS.to_string()];
    let said = run_in_machine(
        COUNTED,
        &options,
        &["bash", "-c", &format!("{live} --instructions || echo 'ended live'")],
    )?;
    let json = said.lines().find(|line| line.starts_with('['));
    let path = place::target()?.join("vmtest.json");
    if let Some(json) = json {
        fs::write(&path, json).with_context(|| format!("cannot write {}", path.display()))?;
        note(format_args!("figures are in {}", path.display()));
    }
    let error = said.lines().find_map(|line| line.strip_prefix("Error: "));
    Ok(match (json, error) {
        (Some(_), None) => Vec::new(),
        (_, Some(error)) => vec![format!("{COUNTED}: instructions: {error}")],
        (None, None) => vec![format!("{COUNTED}: instructions: no figures; the output is above")],
    })
}

/// Runs a command under a suite's kernel, and gives what it said.
fn run_in_machine(suite: &str, options: &[&str], command: &[&str]) -> Result<String> {
    let begun = Instant::now();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/vmtest/vm.sh");
    let mut machine = Command::new(&script);
    machine
        .args(options)
        .arg(suite)
        .args(command)
        // Tests find their files from here.
        .current_dir(place::root().join("tests"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    note(format_args!("booting the kernel of {suite}"));
    let mut child = machine.spawn().with_context(|| format!("cannot start {}", script.display()))?;
    let mut said = String::new();
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).split(b'\n') {
            let line = line.context("cannot read what the machine says")?;
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches('\r');
            if is_told(line) {
                note(format_args!("{suite}: {line}"));
            }
            said.push_str(line);
            said.push('\n');
        }
    }
    let status = child.wait().context("cannot wait for the machine")?;
    // The commands end well whatever their tests say; what is left is the machine's own trouble, which is above.
    ensure!(
        status.success(),
        "{suite}: no result from the machine ({status}); its reason is above, and this repeats it: `{}`",
        command_line(&machine)
    );
    note(format_args!("{suite}: {:.0} s", begun.elapsed().as_secs_f32()));
    Ok(said)
}

/// Whether a line is for people: not that a test passed, nor figures for programs.
fn is_told(line: &str) -> bool {
    let dull = line.is_empty() || line.starts_with("running ") || line.ends_with(" ... ok");
    !dull && !line.starts_with('[')
}

/// Failed tests in what a suite's run said, each with suite, program and test.
fn failures_in(suite: &str, said: &str) -> Vec<String> {
    let mut program = "";
    let mut named = false;
    let mut failures = Vec::new();
    for line in said.lines() {
        if let Some(name) = line.strip_prefix("program ") {
            (program, named) = (name, false);
        } else if let Some(test) =
            line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED"))
        {
            failures.push(format!("{suite}: {program}: {test}"));
            named = true;
        } else if line.starts_with("ended ") && !named {
            failures.push(format!("{suite}: {program}: ended without naming a test; its output is above"));
        } else if line.contains("SKIPPED") {
            failures.push(format!("{suite}: {program}: {line}"));
        }
    }
    failures
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_named_by_suite_program_and_test() {
        let said = "6.12\nprogram net\ntest a ... ok\ntest b ... FAILED\nended net\nprogram bonding\nended bonding\n";
        assert_eq!(
            failures_in("trixie", said),
            ["trixie: net: b", "trixie: bonding: ended without naming a test; its output is above",]
        );
    }

    #[test]
    fn a_skipped_test_is_a_failed_one_there() {
        let said = "program net\ntest a ... ok\nSKIPPED: this kernel has no VLAN interfaces (8021q)\n";
        assert_eq!(failures_in("sid", said).len(), 1);
    }
}
