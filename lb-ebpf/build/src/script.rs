//! What a build script that embeds XDP programs does.

use std::env;
use std::error::Error;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::build::build;
use crate::toolchain::find;

/// Which programs of `lb-ebpf` a build script embeds.
#[derive(Clone, Copy, Debug)]
pub enum Programs {
    /// The one of this name.
    One(&'static str),
    /// Every program in `lb-ebpf/src/bin`.
    All,
}

/// The whole of a build script: builds the programs and puts each into `OUT_DIR` as `NAME.o`.
///
/// It has to be called from the build script of a package directly below the workspace root. What goes wrong becomes
/// one `cargo::error`.
pub fn build_script(programs: Programs) -> ExitCode {
    if let Err(error) = run(programs) {
        say(format_args!("error={error}"));
    }
    // Cargo fails the build for the error just said. A failing exit code would only make it add the whole of this
    // script's output to that one sentence.
    ExitCode::SUCCESS
}

fn run(programs: Programs) -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR")?)
        .parent()
        .ok_or("CARGO_MANIFEST_DIR has no parent directory")?
        .to_owned();
    for input in [
        "lb-ebpf/src",
        "lb-ebpf/Cargo.toml",
        "lb-common/src",
        "lb-common/Cargo.toml",
        "Cargo.toml",
        "Cargo.lock",
    ] {
        rerun_if_changed(&root.join(input));
    }
    let toolchain = find()?;
    rerun_if_changed(&toolchain.compiler.rustc);
    rerun_if_changed(&toolchain.linker);
    let out_dir = PathBuf::from(variable("OUT_DIR")?);
    let target_dir = shared_target_dir(&out_dir);
    let names = match programs {
        Programs::One(name) => vec![name.to_owned()],
        Programs::All => program_names(&root.join("lb-ebpf/src/bin"))?,
    };
    for name in names {
        let object = build(&toolchain, &root, &name, &target_dir)?;
        let embedded = out_dir.join(format!("{name}.o"));
        fs::copy(&object, &embedded)
            .map_err(|e| format!("cannot copy {} to {}: {e}", object.display(), embedded.display()))?;
    }
    Ok(())
}

/// One directory for every build script and profile, beside the outer build's own, so that aya-ebpf is compiled once.
/// `OUT_DIR` is `TARGET_DIR/PROFILE/build/PACKAGE/out`.
fn shared_target_dir(out_dir: &Path) -> PathBuf {
    out_dir.ancestors().nth(4).unwrap_or(out_dir).join("bpf")
}

/// Names of the programs as cargo finds them: `NAME.rs` or `NAME/main.rs`.
fn program_names(directory: &Path) -> Result<Vec<String>, String> {
    let unreadable = |e: io::Error| format!("cannot read {}: {e}", directory.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let is_program = path.extension().is_some_and(|e| e == "rs") || path.join("main.rs").is_file();
        if let (true, Some(name)) = (is_program, path.file_stem()) {
            names.push(name.to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn variable(name: &str) -> Result<std::ffi::OsString, String> {
    env::var_os(name).ok_or_else(|| format!("{name} is not set: this runs in a build script only"))
}

fn rerun_if_changed(path: &Path) {
    say(format_args!("rerun-if-changed={}", path.display()));
}

#[expect(clippy::print_stdout, reason = "cargo reads a build script's standard output")]
fn say(instruction: std::fmt::Arguments<'_>) {
    println!("cargo::{instruction}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_the_way_cargo_finds_them() {
        let bins = Path::new(env!("CARGO_MANIFEST_DIR")).join("../src/bin");
        let names = program_names(&bins).unwrap();
        assert!(names.contains(&"lb".to_owned()), "{names:?}");
        assert!(program_names(&bins.join("absent")).unwrap_err().contains("absent"));
    }

    #[test]
    fn every_profile_shares_one_directory_for_bpf_objects() {
        for profile in ["debug", "release"] {
            let out_dir = format!("/w/target/{profile}/build/lb-ctl-0123/out");
            assert_eq!(shared_target_dir(Path::new(&out_dir)), Path::new("/w/target/bpf"));
        }
    }
}
