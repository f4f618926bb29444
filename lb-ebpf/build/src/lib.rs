//! Finds a toolchain for the BPF target and builds the XDP programs with it.
//!
//! Three callers share it, so that an object is always built the same way: the build scripts of `lb-ctl` and
//! `lb-tests` ([`build_script`]), and `cargo xtask`. Only `std` is used: this crate stands in front of every build.
#![forbid(unsafe_code)]

mod build;
mod script;
mod toolchain;

pub use build::{BuildError, TARGET, build, cargo};
pub use script::{Programs, build_script};
pub use toolchain::{Compiler, Core, MAX_LLVM, Missing, Toolchain, find, find_compiler, find_linker};
