//! Packets through the real program by `BPF_PROG_TEST_RUN`: what goes in, what must come out, what must be counted.
#![allow(
    clippy::unwrap_used,
    reason = "a test rig: where it fails, a panic with its place is what is wanted"
)]

pub mod bench;
pub mod case;
pub mod dut;
pub mod frame;
