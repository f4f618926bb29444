//! Every command a developer needs: `cargo xtask --help`.
#![forbid(unsafe_code)]

mod bench;
mod budget;
mod build;
mod clippy;
mod demo;
mod deny;
mod exec;
mod fmt;
mod place;
mod setup;
mod test;
mod tidy;
mod vmtest;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Set-up, build, demonstration, tests and measurements of the load balancer.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure the XDP program and write target/bench.json (root).
    Bench(bench::Args),
    /// Measure stack frames and types of the XDP program against their limits.
    Budget,
    /// Build the XDP program, and release binaries of lbd and lbctl.
    Build,
    /// Lint the host side and the BPF side; warnings are errors.
    Clippy,
    /// Show the whole product working in private network namespaces, with real DICOM servers and clients (root).
    Demo(demo::Args),
    /// Check licences, advisories and sources of dependencies with cargo-deny.
    Deny,
    /// Format every file.
    Fmt(fmt::Args),
    /// Install what is needed to build, test and demonstrate (root).
    Setup(setup::Args),
    /// Run everything: set-up, format, lints, tidy, unit tests, packet and lab tests, documentation.
    Test,
    /// Check the house rules.
    Tidy,
    /// Run packet tests under the stock kernels of Debian, and count instructions per packet (root).
    Vmtest(vmtest::Args),
}

fn main() -> ExitCode {
    let result = match Args::parse().command {
        Command::Bench(args) => bench::run(&args),
        Command::Budget => budget::run(),
        Command::Build => build::run(),
        Command::Clippy => clippy::run(),
        Command::Demo(args) => demo::run(&args),
        Command::Deny => deny::run(),
        Command::Fmt(args) => fmt::run(&args),
        Command::Setup(args) => setup::run(&args),
        Command::Test => test::run(),
        Command::Tidy => tidy::run(),
        Command::Vmtest(args) => vmtest::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            exec::note(format_args!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
