//! `cargo xtask setup`: from a machine with only Rust to one that builds, tests and demonstrates.
//!
//! What is there is found by looking for it, never by asking the package manager: a second run takes no time, and a
//! program that someone put in place by other means is as good as ours.

mod apt;
mod needs;

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::exec::{exec, note, output};
use crate::place;
use needs::{Cure, Need};

/// What `bpf-linker` is installed from. Its LLVM has to read what the BPF compiler writes.
const LINKER: &str = "bpf-linker@0.13.0";

/// Look, or mend.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Install nothing: say what is missing, and exit with 1 if something is.
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let missing = needs::missing();
    if missing.is_empty() {
        note(format_args!("set-up is complete: {}", needs::compiler_in_use()));
        return Ok(());
    }
    if args.check {
        list(&missing);
        bail!("{} missing; run `cargo xtask setup` as root", things(missing.len()));
    }
    install(missing)
}

/// Installs what is missing, and is silent when nothing is.
pub(crate) fn ensure() -> Result<()> {
    let missing = needs::missing();
    if missing.is_empty() { Ok(()) } else { install(missing) }
}

fn install(missing: Vec<Need>) -> Result<()> {
    list(&missing);
    ensure!(
        place::is_root(),
        "not root, so nothing was installed; run `cargo xtask setup` as root, which does:\n  {}",
        by_hand(&missing).join("\n  ")
    );
    let cures: Vec<Cure> = missing.into_iter().map(|need| need.cure).collect();
    if cures.iter().any(Cure::needs_apt) {
        apt::install(&cures)?;
    }
    for cure in &cures {
        match cure {
            Cure::Packages { .. } | Cure::Compiler => {}
            Cure::Component { toolchain, component } => {
                note(format_args!("adding {component} to Rust"));
                output(&mut rustup_component(toolchain.as_deref(), component))?;
            }
            Cure::Linker { .. } => {
                note(format_args!("compiling {LINKER} (a minute or two)"));
                exec(&mut cargo_install_linker())?;
            }
            Cure::BpfFs => {
                output(&mut mount_bpffs())
                    .context("lbd keeps its maps in bpffs; in a container, let the host mount it")?;
                note(format_args!("mounted bpffs on {}", needs::BPFFS));
            }
        }
    }
    let left = needs::missing();
    if left.is_empty() {
        note(format_args!("set-up is complete: {}", needs::compiler_in_use()));
        return Ok(());
    }
    list(&left);
    bail!("{} still missing after the installation", things(left.len()))
}

fn list(missing: &[Need]) {
    for need in missing {
        note(format_args!("missing: {}; it {}", need.what, need.why));
    }
}

fn things(count: usize) -> String {
    if count == 1 { "1 thing is".to_owned() } else { format!("{count} things are") }
}

/// The same installation as command lines, for someone who would rather type them.
fn by_hand(missing: &[Need]) -> Vec<String> {
    let cures: Vec<Cure> = missing.iter().map(|need| need.cure.clone()).collect();
    let mut lines = Vec::new();
    let packages = apt::without_asking(&cures);
    if !packages.is_empty() {
        lines.push(format!("apt-get install --no-install-recommends {}", packages.join(" ")));
    }
    for cure in &cures {
        match cure {
            Cure::Packages { .. } | Cure::Compiler => {}
            Cure::Component { toolchain, component } => {
                lines.push(crate::exec::command_line(&rustup_component(toolchain.as_deref(), component)));
            }
            Cure::Linker { .. } => lines.push(crate::exec::command_line(&cargo_install_linker())),
            Cure::BpfFs => lines.push(crate::exec::command_line(&mount_bpffs())),
        }
    }
    lines
}

fn cargo_install_linker() -> Command {
    let mut command = crate::exec::cargo();
    command
        .env("LLVM_PREFIX", needs::LLVM)
        .args(["install", "--quiet", "--force", "--locked", "--no-default-features"])
        .args(["--features", "llvm-22", LINKER]);
    command
}

fn rustup_component(toolchain: Option<&str>, component: &str) -> Command {
    let mut command = Command::new("rustup");
    command.args(["component", "add", component]).stdin(Stdio::null());
    if let Some(toolchain) = toolchain {
        command.args(["--toolchain", toolchain]);
    }
    command
}

fn mount_bpffs() -> Command {
    let mut command = Command::new("mount");
    command.args(["-t", "bpf", "bpf", needs::BPFFS]);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn someone_who_is_not_root_is_told_every_command() {
        let need = |cure| Need { what: String::new(), why: "", cure };
        let lines = by_hand(&[
            need(Cure::Packages { names: &["dcmtk"], daemon: None }),
            need(Cure::Compiler),
            need(Cure::Linker { wants_llvm: true }),
            need(Cure::BpfFs),
        ]);
        assert!(lines[0].starts_with("apt-get install --no-install-recommends dcmtk "), "{lines:?}");
        assert!(
            lines[0].contains("libstd-rust-web-dev-bpf") && lines[0].contains("llvm-22-dev"),
            "{lines:?}"
        );
        assert!(lines[1].starts_with("LLVM_PREFIX=/usr/lib/llvm-22 cargo install"), "{lines:?}");
        assert_eq!(lines[2], "mount -t bpf bpf /sys/fs/bpf");
    }

    #[test]
    fn one_thing_is_and_two_things_are() {
        assert_eq!((things(1), things(2)), ("1 thing is".to_owned(), "2 things are".to_owned()));
    }
}
