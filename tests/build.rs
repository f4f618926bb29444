//! Builds every program of `lb-ebpf` into `OUT_DIR/NAME.o`: the real one, and those that drive it in benchmarks.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use lb_ebpf_build::{Programs, build_script};

fn main() -> ExitCode {
    build_script(Programs::All)
}
