//! `cargo xtask deny`: dependencies against deny.toml.

use anyhow::{Result, ensure};

use crate::exec::{cargo, exec};
use crate::place::find_program;

pub(crate) fn run() -> Result<()> {
    ensure!(
        find_program("cargo-deny").is_some(),
        "cargo-deny is not installed; run `cargo install cargo-deny --locked` (compiles for some minutes)"
    );
    exec(cargo().args(["deny", "check"]))
}
