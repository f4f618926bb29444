//! The nested cargo that compiles `lb-ebpf` for the kernel.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use crate::toolchain::{Core, Toolchain};

/// The target triple of every XDP program.
pub const TARGET: &str = "bpfel-unknown-none";

/// The profile of the workspace's `Cargo.toml` for the kernel side.
const PROFILE: &str = "bpf";

/// `cpu=v3` has the 32-bit arithmetic, and the atomics with a result that the flow table claims its entries with.
///
/// The kernel lets packets be read at any alignment (where the machine does); told so, LLVM reads a header field in
/// one load instead of byte by byte.
const RUSTFLAGS: &str = "-Ctarget-cpu=v3 -Ctarget-feature=+allows-misaligned-mem-access -Clink-arg=--btf";

/// What of cargo's environment is the user's and not the outer build's: it has to reach the nested cargo.
const KEPT: [&str; 8] = [
    "CARGO_HOME",
    "CARGO_HTTP_",
    "CARGO_NET_",
    "CARGO_REGISTRIES_",
    "CARGO_REGISTRY_",
    "CARGO_RESOLVER_",
    "CARGO_SOURCE_",
    "CARGO_TERM_",
];

/// What an outer cargo or clippy sets for its own compiler, beside `CARGO_*`.
const DROPPED: [&str; 7] = [
    "CLIPPY_ARGS",
    "CLIPPY_CONF_DIR",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_WRAPPER",
    "RUSTDOC",
    "RUSTDOCFLAGS",
    "RUSTFLAGS",
];

/// Why an object could not be built.
#[derive(Debug)]
pub enum BuildError {
    /// The nested cargo could not be started.
    Start {
        /// The cargo that was tried.
        cargo: PathBuf,
        /// Why it did not start.
        source: io::Error,
    },
    /// The nested cargo failed; it has said why on standard error.
    Failed {
        /// The program that was being built.
        bin: String,
        /// How cargo ended.
        status: ExitStatus,
    },
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start { cargo, source } => write!(f, "cannot start {}: {source}", cargo.display()),
            Self::Failed { bin, status } => write!(
                f,
                "building the XDP program `{bin}` failed ({status}); `cargo xtask build` shows the compiler's messages"
            ),
        }
    }
}

impl std::error::Error for BuildError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Start { source, .. } => Some(source),
            Self::Failed { .. } => None,
        }
    }
}

/// Builds the program `bin` of `lb-ebpf` and returns where its object is.
///
/// `target_dir` may be shared by concurrent builds: cargo locks it. The compiler's messages go to standard error.
///
/// # Errors
///
/// When the nested cargo does not start, or fails.
pub fn build(
    toolchain: &Toolchain,
    workspace_root: &Path,
    bin: &str,
    target_dir: &Path,
) -> Result<PathBuf, BuildError> {
    let mut command = cargo(toolchain, workspace_root, target_dir, "build");
    command.args(["--bin", bin]).stdin(Stdio::null()).stdout(Stdio::null());
    let status = command
        .status()
        .map_err(|source| BuildError::Start { cargo: command.get_program().into(), source })?;
    if !status.success() {
        return Err(BuildError::Failed { bin: bin.to_owned(), status });
    }
    Ok(target_dir.join(TARGET).join(PROFILE).join(bin))
}

/// A cargo command (`build`, `check`, ...) on `lb-ebpf` for the BPF target; the caller says which programs of it.
#[must_use]
pub fn cargo(toolchain: &Toolchain, workspace_root: &Path, target_dir: &Path, verb: &str) -> Command {
    let compiler = &toolchain.compiler;
    let program = compiler.cargo.clone().map_or_else(running_cargo, Into::into);
    let mut command = Command::new(&program);
    for (name, _) in env::vars_os().filter(|(name, _)| is_of_the_outer_build(&name.to_string_lossy())) {
        command.env_remove(name);
    }
    command
        .current_dir(workspace_root)
        .env("CARGO", &program)
        .env("RUSTC", &compiler.rustc)
        // aya-ebpf uses `asm_experimental_arch`, and Debian's compiler is a stable one.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &toolchain.linker)
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_RUSTFLAGS", RUSTFLAGS)
        .args([verb, "--package", "lb-ebpf", "--profile", PROFILE, "--target", TARGET])
        .arg("--target-dir")
        .arg(target_dir);
    match compiler.core {
        Core::InSysroot => {}
        Core::FromSource => {
            command.arg("-Zbuild-std=core");
        }
    }
    command
}

/// The cargo that runs us, if one does.
fn running_cargo() -> OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

fn is_of_the_outer_build(name: &str) -> bool {
    DROPPED.contains(&name) || name.starts_with("CARGO_") && !KEPT.iter().any(|kept| name.starts_with(kept))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outer_builds_environment_is_dropped_and_the_users_network_settings_are_kept() {
        for name in [
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_MANIFEST_DIR",
            "CARGO_TARGET_DIR",
            "CARGO_BUILD_TARGET",
            "CARGO_PKG_NAME",
            "RUSTC_WRAPPER",
            "RUSTC_WORKSPACE_WRAPPER",
            "RUSTFLAGS",
            "CLIPPY_ARGS",
        ] {
            assert!(is_of_the_outer_build(name), "{name}");
        }
        for name in ["CARGO_HOME", "CARGO_NET_OFFLINE", "CARGO_REGISTRIES_MINE_INDEX", "PATH", "HTTPS_PROXY"]
        {
            assert!(!is_of_the_outer_build(name), "{name}");
        }
    }

    #[test]
    fn core_is_built_from_source_only_where_the_sysroot_lacks_it() {
        let toolchain = |core| Toolchain {
            compiler: crate::Compiler {
                rustc: "/r/rustc".into(),
                cargo: Some("/r/cargo".into()),
                core,
                release: String::new(),
            },
            linker: "/r/bpf-linker".into(),
        };
        let has_build_std = |core| {
            let command = cargo(&toolchain(core), Path::new("/"), Path::new("/t"), "build");
            assert_eq!(command.get_program(), "/r/cargo");
            command.get_args().any(|arg| arg == "-Zbuild-std=core")
        };
        assert!(has_build_std(Core::FromSource));
        assert!(!has_build_std(Core::InSysroot));
    }
}
