//! `cargo xtask test`: every check there is, cheapest first.

use std::env;
use std::panic::resume_unwind;
use std::process::Command;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::exec::{cargo, exec, note, output};
use crate::{budget, clippy, fmt, place, setup, tidy, vmtest};

/// A step's name, how to run it alone, and what it does.
type Step = (&'static str, &'static str, fn() -> Result<()>);

const STEPS: [Step; 10] = [
    ("set-up", "cargo xtask setup", setup::ensure),
    ("format", "cargo xtask fmt --check", fmt::check),
    ("tidy", "cargo xtask tidy", tidy::run),
    ("lints, host", "cargo xtask clippy", clippy::host),
    ("lints, BPF", "cargo xtask clippy", clippy::bpf),
    ("budget", "cargo xtask budget", budget::run),
    ("unit tests", "cargo test --workspace --exclude lb-tests", unit_tests),
    ("packet and lab tests", "cargo test --package lb-tests", lab_tests),
    ("another kernel", "cargo xtask vmtest --suite trixie --quick", vmtest::step),
    ("documentation", "RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps", documentation),
];

pub(crate) fn run() -> Result<()> {
    let start = Instant::now();
    for (number, (name, repeat, step)) in STEPS.iter().enumerate() {
        note(format_args!("== {}/{} {name}", number + 1, STEPS.len()));
        let begun = Instant::now();
        step().with_context(|| format!("step `{name}` failed; to repeat it alone: {repeat}"))?;
        note(format_args!("== {name}: ok in {:.1} s", begun.elapsed().as_secs_f32()));
    }
    let skipped = if place::is_root() { "" } else { "; NOT root, so packet and lab tests were skipped" };
    note(format_args!(
        "== all {} steps passed in {:.0} s{skipped}",
        STEPS.len(),
        start.elapsed().as_secs_f32()
    ));
    Ok(())
}

/// Whether this is continuous integration, where a skipped test is a failed one.
fn is_ci() -> bool {
    env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false")
}

/// What needs neither root nor a lab.
fn unit_tests() -> Result<()> {
    exec(cargo().args(["test", "--quiet", "--workspace", "--exclude", "lb-tests"]))
}

/// Tests that keep a core busy with packets and tables and wait for nobody. The others mostly wait: for checks,
/// deadlines, servers.
const BUSY: [&str; 6] =
    ["packet_", "random_operations", "dataplane", "distribution", "full_table", "flow_table_kernel"];

/// What needs root, the kernel, and real servers. Without root they skip and say so; in CI that is a failure. Those that
/// compute run beside those that wait.
fn lab_tests() -> Result<()> {
    exec(lab().arg("--no-run"))?;
    let (busy, waiting): (Vec<_>, Vec<_>) = place::integration_tests("tests")?
        .into_iter()
        .partition(|name| BUSY.iter().any(|prefix| name.starts_with(prefix)));
    let chosen = |names: &[String]| {
        let mut command = lab();
        command.args(names.iter().flat_map(|name| ["--test", name]));
        command
    };
    thread::scope(|scope| {
        let computing = scope.spawn(|| output(&mut chosen(&busy)));
        let waited = exec(chosen(&waiting).args(["--lib", "--bins"]));
        let computed = computing.join().unwrap_or_else(|panic| resume_unwind(panic));
        waited.and(computed).map(|said| note(format_args!("{}", said.trim_end())))
    })
}

fn lab() -> Command {
    let mut command = cargo();
    command.args(["test", "--quiet", "--package", "lb-tests"]);
    if is_ci() {
        command.env("LB_REQUIRE_ROOT", "1");
    }
    command
}

fn documentation() -> Result<()> {
    exec(
        cargo()
            .args(["doc", "--quiet", "--workspace", "--no-deps", "--document-private-items"])
            .env("RUSTDOCFLAGS", "-D warnings"),
    )
}
