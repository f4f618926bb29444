//! Builds the XDP program into `OUT_DIR/lb.o`, where the crate embeds it from.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use lb_ebpf_build::{Programs, build_script};

fn main() -> ExitCode {
    build_script(Programs::One("lb"))
}
