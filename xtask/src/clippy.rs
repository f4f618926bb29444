//! `cargo xtask clippy`: lints for both sides of the border.

use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::exec::{cargo, exec};
use crate::place;

pub(crate) fn run() -> Result<()> {
    host()?;
    bpf()
}

/// Everything that runs in user space, tests and benchmarks included.
pub(crate) fn host() -> Result<()> {
    exec(cargo().args(["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]))
}

/// The packet path and its programs, for the target they run on.
///
/// `cargo clippy` would start the clippy of the toolchain that runs us, which cannot read the libraries of the one
/// that compiles for BPF; so its own front end is called.
pub(crate) fn bpf() -> Result<()> {
    let toolchain = lb_ebpf_build::find()?;
    let cargo_clippy = toolchain.compiler.cargo_clippy().with_context(|| {
        format!("no clippy beside {}; run `cargo xtask setup` as root", toolchain.compiler.rustc.display())
    })?;
    let plain = lb_ebpf_build::cargo(&toolchain, place::root(), &place::target()?.join("bpf"), "clippy");
    let mut command = Command::new(cargo_clippy);
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
        .args(plain.get_args())
        .args(["--quiet", "--lib", "--bins", "--", "-D", "warnings"])
        .current_dir(place::root())
        .stdin(Stdio::null());
    exec(&mut command)
}
