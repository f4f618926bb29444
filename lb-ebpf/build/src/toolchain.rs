//! Which compiler and linker build for BPF on this machine.

use std::env;
use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::build::TARGET;

/// The newest LLVM whose bitcode the linker reads: `cargo xtask setup` builds it against this one.
pub const MAX_LLVM: u32 = 22;

/// Debian's compiler: its `-bpf` package holds a ready `core` for the target, which rustup does not offer.
const SYSTEM_RUSTC: &str = "/usr/bin/rustc";

/// The oldest system compiler that accepts the workspace (`rust-version` is 1.95, Debian ships 1.96).
const MIN_SYSTEM_RUST: (u32, u32) = (1, 96);

/// Where the target's `core` comes from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Core {
    /// Compiled already, in the compiler's sysroot.
    InSysroot,
    /// Built with `-Z build-std=core` from the component rust-src.
    FromSource,
}

/// A Rust compiler that can build for the BPF target.
#[derive(Clone, Debug)]
pub struct Compiler {
    /// The compiler itself, not a rustup proxy.
    pub rustc: PathBuf,
    /// The cargo that has to drive it; `None` means whichever is running already.
    pub cargo: Option<PathBuf>,
    /// Where `core` comes from.
    pub core: Core,
    /// Its release, for people: `1.96.0`.
    pub release: String,
}

impl Compiler {
    /// The clippy of this compiler, if it is installed: lints of another release cannot read its libraries.
    #[must_use]
    pub fn cargo_clippy(&self) -> Option<PathBuf> {
        let beside = |name| self.rustc.with_file_name(name);
        (beside("clippy-driver").is_file() && beside("cargo-clippy").is_file())
            .then(|| beside("cargo-clippy"))
    }
}

impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let core = match self.core {
            Core::InSysroot => "core in its sysroot",
            Core::FromSource => "core built from rust-src",
        };
        write!(f, "{} {} ({core})", self.rustc.display(), self.release)
    }
}

/// All that is needed to build an XDP program.
#[derive(Clone, Debug)]
pub struct Toolchain {
    /// Compiles to bitcode.
    pub compiler: Compiler,
    /// `bpf-linker`: turns bitcode into the object.
    pub linker: PathBuf,
}

/// Why there is no [`Toolchain`]: each entry names one thing that is missing, and in brackets why what was found won't do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Missing(pub Vec<String>);

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the XDP program cannot be built without {}; run `cargo xtask setup` as root",
            self.0.join(" and ")
        )
    }
}

impl std::error::Error for Missing {}

/// Finds compiler and linker.
///
/// # Errors
///
/// Names everything that is missing, in one sentence that ends in the cure.
pub fn find() -> Result<Toolchain, Missing> {
    match (find_compiler(), find_linker()) {
        (Ok(compiler), Ok(linker)) => Ok(Toolchain { compiler, linker }),
        (compiler, linker) => Err(Missing(compiler.err().into_iter().chain(linker.err()).collect())),
    }
}

/// Finds a compiler: Debian's with the BPF `core`, else rustup's nightly with rust-src.
///
/// # Errors
///
/// Says what was looked at and what each of them lacks.
pub fn find_compiler() -> Result<Compiler, String> {
    let system = match system_compiler() {
        Ok(compiler) => return Ok(compiler),
        Err(why) => why,
    };
    let nightly = match nightly_compiler() {
        Ok(compiler) => return Ok(compiler),
        Err(why) => why,
    };
    Err(format!("a Rust compiler for {TARGET} ({system}; {nightly})"))
}

/// Finds a `bpf-linker` that starts, in `PATH` or where cargo installs programs.
///
/// # Errors
///
/// Says that it is not there, or why it does not start.
pub fn find_linker() -> Result<PathBuf, String> {
    let cargo_bin = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")))
        .map(|home| home.join("bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    let Some(linker) = env::split_paths(&path)
        .chain(cargo_bin)
        .map(|dir| dir.join("bpf-linker"))
        .find(|file| file.is_file())
    else {
        return Err("bpf-linker (neither in PATH nor in cargo's bin directory)".to_owned());
    };
    match output(&linker, ["--version"]) {
        Ok(_) => Ok(linker),
        Err(why) => Err(format!("bpf-linker ({} does not start: {why})", linker.display())),
    }
}

fn system_compiler() -> Result<Compiler, String> {
    let rustc = PathBuf::from(SYSTEM_RUSTC);
    if !rustc.is_file() {
        return Err(format!("{SYSTEM_RUSTC} is not there"));
    }
    let version = Version::of(&rustc)?;
    let (major, minor) = MIN_SYSTEM_RUST;
    if version.number < MIN_SYSTEM_RUST {
        return Err(format!("{SYSTEM_RUSTC} is {}, older than {major}.{minor}", version.release));
    }
    version.check_llvm(SYSTEM_RUSTC)?;
    let libraries = output(&rustc, ["--print", "target-libdir", "--target", TARGET])?;
    let has_core = Path::new(libraries.trim()).read_dir().is_ok_and(|mut entries| {
        entries.any(|entry| entry.is_ok_and(|e| e.file_name().to_string_lossy().starts_with("libcore-")))
    });
    if !has_core {
        return Err(format!("{SYSTEM_RUSTC} {} has no core for it", version.release));
    }
    Ok(Compiler { rustc, cargo: None, core: Core::InSysroot, release: version.release })
}

fn nightly_compiler() -> Result<Compiler, String> {
    let rustc = output("rustup", ["which", "--toolchain", "nightly", "rustc"])
        .map(|path| PathBuf::from(path.trim()))
        .map_err(|_| "rustup has no nightly".to_owned())?;
    let version = Version::of(&rustc)?;
    version.check_llvm("rustup's nightly")?;
    let sysroot = output(&rustc, ["--print", "sysroot"])?;
    if !Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core").is_dir() {
        return Err("rustup's nightly lacks the component rust-src".to_owned());
    }
    let cargo = Some(rustc.with_file_name("cargo"));
    Ok(Compiler { rustc, cargo, core: Core::FromSource, release: version.release })
}

/// What `rustc -vV` says.
#[derive(Debug, Eq, PartialEq)]
struct Version {
    release: String,
    number: (u32, u32),
    llvm: u32,
}

impl Version {
    fn of(rustc: &Path) -> Result<Self, String> {
        let text = output(rustc, ["-vV"])?;
        Self::parse(&text)
            .ok_or_else(|| format!("{} -vV does not name its release and LLVM", rustc.display()))
    }

    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        let release = field("release")?.to_owned();
        let mut numbers = release.split('.').map(str::parse);
        let number = (numbers.next()?.ok()?, numbers.next()?.ok()?);
        let llvm = field("LLVM version")?.split('.').next()?.parse().ok()?;
        Some(Self { release, number, llvm })
    }

    fn check_llvm(&self, name: &str) -> Result<(), String> {
        if self.llvm <= MAX_LLVM {
            return Ok(());
        }
        Err(format!("{name} {} writes bitcode of LLVM {}, newer than {MAX_LLVM}", self.release, self.llvm))
    }
}

/// Standard output of a program that must succeed; the error is the last line it wrote, or why it did not run.
fn output<const N: usize>(program: impl AsRef<OsStr>, args: [&str; N]) -> Result<String, String> {
    let program = program.as_ref();
    let run = Command::new(program)
        .args(args)
        // Looking must not make rustup download a toolchain.
        .env("RUSTUP_AUTO_INSTALL", "0")
        .output()
        .map_err(|e| format!("{} cannot be run: {e}", program.display()))?;
    if run.status.success() {
        return Ok(String::from_utf8_lossy(&run.stdout).into_owned());
    }
    let stderr = String::from_utf8_lossy(&run.stderr);
    Err(match stderr.trim().lines().next_back() {
        Some(line) => line.to_owned(),
        None => format!("{} ended with {}", program.display(), run.status),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEBIAN: &str = "rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)\nbinary: rustc\n\
                          host: x86_64-unknown-linux-gnu\nrelease: 1.96.0\nLLVM version: 22.1.8\n";

    #[test]
    fn release_and_llvm_are_read_from_what_rustc_says_of_itself() {
        let version = Version::parse(DEBIAN).unwrap();
        assert_eq!(version, Version { release: "1.96.0".into(), number: (1, 96), llvm: 22 });
        let nightly = DEBIAN.replace("release: 1.96.0", "release: 1.99.0-nightly");
        assert_eq!(Version::parse(&nightly).unwrap().number, (1, 99));
        assert_eq!(Version::parse("rustc 1.96.0"), None);
    }

    #[test]
    fn a_compiler_newer_than_the_linker_is_refused_before_it_writes_unreadable_bitcode() {
        let version = Version::parse(&DEBIAN.replace("22.1.8", "23.1.0")).unwrap();
        let why = version.check_llvm("rustup's nightly").unwrap_err();
        assert!(why.contains("LLVM 23, newer than 22"), "{why}");
        assert_eq!(Version::parse(DEBIAN).unwrap().check_llvm("x"), Ok(()));
    }

    #[test]
    fn what_is_missing_is_one_sentence_that_ends_in_the_cure() {
        let text = Missing(vec!["a compiler".into(), "bpf-linker".into()]).to_string();
        assert!(
            text.ends_with("without a compiler and bpf-linker; run `cargo xtask setup` as root"),
            "{text}"
        );
        assert!(!text.contains('\n'));
    }

    #[test]
    fn a_program_that_fails_is_quoted_by_its_last_line() {
        assert_eq!(output("sh", ["-c", "echo one >&2; echo two >&2; exit 3"]), Err("two".to_owned()));
        assert!(output("/nonexistent/program", []).unwrap_err().contains("cannot be run"));
        assert_eq!(output("echo", ["x"]), Ok("x\n".to_owned()));
    }
}
