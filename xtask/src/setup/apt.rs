//! Packages, without questions, without daemons starting, and without removing anything.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::needs::Cure;
use crate::exec::{note, output};
use crate::place::find_program;

/// Names under which releases package a compiler for BPF, the wanted one first. The first package of each is the
/// compiler, whose version decides.
const COMPILERS: [&[&str]; 2] = [
    &["rustc-web", "libstd-rust-web-dev-bpf", "rust-web-clippy"],
    &["rustc", "libstd-rust-dev-bpf", "rust-clippy"],
];

/// The oldest of them that will do.
const MIN_RUST: (u32, u32) = (1, 96);

/// What bpf-linker is compiled against.
const LLVM_PACKAGES: [&str; 1] = ["llvm-22-dev"];

/// Installs its arguments while no package can start a daemon. The shell's traps put the machine's own policy back
/// however this ends, Ctrl-C included; what an earlier, killed run left behind is put back too.
const INSTALL: &str = r#"
set -eu
policy=/usr/sbin/policy-rc.d
kept=$policy.kept-by-lb-setup
marker='# Put here by cargo xtask setup, for the time of the installation.'
restore() {
    rm -f "$policy"
    if [ -e "$kept" ]; then mv "$kept" "$policy"; fi
}
if [ -e "$policy" ] && ! grep -qF "$marker" "$policy"; then mv "$policy" "$kept"; fi
trap restore EXIT
trap 'exit 130' HUP INT TERM
printf '#!/bin/sh\n%s\nexit 101\n' "$marker" >"$policy"
chmod 755 "$policy"
apt-get install -qq --yes --no-install-recommends --no-remove \
    -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 -- "$@"
"#;

/// Installs the packages that the cures ask for, after asking which of them this release has.
pub(super) fn install(cures: &[Cure]) -> Result<()> {
    if find_program("apt-get").is_none() {
        bail!(
            "there is no apt-get: this set-up knows Debian and Ubuntu only; what is missing has to be installed by hand"
        );
    }
    note(format_args!("updating the lists of packages"));
    if let Err(error) =
        output(quiet(Command::new("apt-get")).args(["update", "-qq", "-o", "DPkg::Lock::Timeout=300"]))
    {
        // One broken source among many is no reason to stop: what we need may well come from another.
        note(format_args!("going on with the lists as they are: {error:#}"));
    }
    let mut packages = plain(cures);
    if cures.contains(&Cure::Compiler) {
        packages.extend(choose_compiler(candidate)?);
    }
    let packages: Vec<&str> = packages.into_iter().collect();
    note(format_args!("installing {} (some minutes)", packages.join(" ")));
    let mut command = quiet(Command::new("sh"));
    command.args(["-c", INSTALL, "sh"]).args(&packages);
    output(&mut command).with_context(|| {
        format!(
            "apt could not install {}; if it refuses because Debian's own rustc or rustup would have to go, install a \
             nightly instead: `rustup toolchain install nightly --component rust-src,clippy`",
            packages.join(" ")
        )
    })?;
    keep_from_starting(cures)
}

/// The packages to name to someone who is not root: apt has not been asked, so the first choice stands.
pub(super) fn without_asking(cures: &[Cure]) -> Vec<&'static str> {
    let mut packages = plain(cures);
    if cures.contains(&Cure::Compiler) {
        packages.extend(COMPILERS[0]);
    }
    packages.into_iter().collect()
}

/// Packages that are called the same everywhere.
fn plain(cures: &[Cure]) -> BTreeSet<&'static str> {
    let mut packages = BTreeSet::new();
    for cure in cures {
        match cure {
            Cure::Packages { names, .. } => packages.extend(*names),
            Cure::Linker { wants_llvm: true } => packages.extend(LLVM_PACKAGES),
            Cure::Linker { wants_llvm: false } | Cure::Compiler | Cure::Component { .. } | Cure::BpfFs => {}
        }
    }
    packages
}

/// The first compiler that is packaged whole and new enough.
fn choose_compiler(candidate: impl Fn(&str) -> Result<Option<String>>) -> Result<&'static [&'static str]> {
    let mut tried = Vec::new();
    for packages in COMPILERS {
        let versions = packages.iter().map(|name| candidate(name)).collect::<Result<Vec<_>>>()?;
        let number = versions[0].as_deref().and_then(rust_version);
        if versions.iter().all(Option::is_some) && number >= Some(MIN_RUST) {
            return Ok(packages);
        }
        for (name, version) in packages.iter().zip(versions) {
            tried.push(format!("{name} {}", version.as_deref().unwrap_or("not packaged")));
        }
    }
    bail!(
        "this release packages no compiler for BPF from Rust {}.{} on (tried: {}); install a nightly instead, and run this \
         again: `rustup toolchain install nightly --component rust-src,clippy`",
        MIN_RUST.0,
        MIN_RUST.1,
        tried.join(", ")
    )
}

/// The version that apt would install.
fn candidate(package: &str) -> Result<Option<String>> {
    let mut command = quiet(Command::new("apt-cache"));
    let policy = output(command.env("LC_ALL", "C").args(["policy", package]))?;
    Ok(policy
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate: "))
        .filter(|version| *version != "(none)")
        .map(str::to_owned))
}

/// `1.96.0+dfsg1-1~deb12u2` is Rust 1.96.
fn rust_version(version: &str) -> Option<(u32, u32)> {
    let (_epoch, version) = version.split_once(':').unwrap_or(("", version));
    let mut numbers = version.split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// What a package enabled on its own would start at the next boot, on ports that a load balancer may want.
fn keep_from_starting(cures: &[Cure]) -> Result<()> {
    if find_program("systemctl").is_none() {
        return Ok(());
    }
    for cure in cures {
        if let Cure::Packages { daemon: Some(daemon), .. } = cure {
            output(quiet(Command::new("systemctl")).args(["disable", "--quiet", daemon]))?;
            note(format_args!("{daemon} is installed but neither started nor enabled: the lab runs its own"));
        }
    }
    Ok(())
}

/// Asks nothing: no terminal, no debconf, no menu of services to restart.
fn quiet(mut command: Command) -> Command {
    command.env("DEBIAN_FRONTEND", "noninteractive").env("NEEDRESTART_SUSPEND", "1").stdin(Stdio::null());
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release(packages: &'static [(&'static str, &'static str)]) -> impl Fn(&str) -> Result<Option<String>> {
        move |name| Ok(packages.iter().find(|(n, _)| *n == name).map(|(_, version)| (*version).to_owned()))
    }

    #[test]
    fn the_security_suites_of_debian_12_and_13_have_the_first_choice() {
        let bookworm = release(&[
            ("rustc-web", "1.96.0+dfsg1-1~deb12u2"),
            ("libstd-rust-web-dev-bpf", "1.96.0+dfsg1-1~deb12u2"),
            ("rust-web-clippy", "1.96.0+dfsg1-1~deb12u2"),
            ("rustc", "1.63.0+dfsg1-2"),
        ]);
        assert_eq!(choose_compiler(bookworm).unwrap(), COMPILERS[0]);
    }

    #[test]
    fn a_release_with_a_new_enough_plain_compiler_has_the_second() {
        let newer = release(&[
            ("rustc", "1.98.0+dfsg1-1"),
            ("libstd-rust-dev-bpf", "1.98.0+dfsg1-1"),
            ("rust-clippy", "1.98.0+dfsg1-1"),
        ]);
        assert_eq!(choose_compiler(newer).unwrap(), COMPILERS[1]);
    }

    #[test]
    fn a_release_without_one_gets_an_error_that_says_what_was_tried_and_what_to_do() {
        let old = release(&[("rustc-web", "1.85.0+dfsg3-1"), ("rustc", "1.63.0+dfsg1-2")]);
        let error = choose_compiler(old).unwrap_err().to_string();
        for part in [
            "rustc-web 1.85.0+dfsg3-1",
            "libstd-rust-dev-bpf not packaged",
            "rustup toolchain install nightly",
        ] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn rust_versions_are_read_from_debian_versions() {
        assert_eq!(rust_version("1.96.0+dfsg1-1~deb12u2"), Some((1, 96)));
        assert_eq!(rust_version("2:1.101.0-1"), Some((1, 101)));
        assert_eq!(rust_version("unknown"), None);
    }

    #[test]
    fn llvm_is_asked_for_only_where_it_is_missing() {
        assert_eq!(plain(&[Cure::Linker { wants_llvm: true }]), LLVM_PACKAGES.into());
        assert_eq!(plain(&[Cure::Linker { wants_llvm: false }]), BTreeSet::new());
    }
}
