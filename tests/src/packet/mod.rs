//! Packets through the real program by `BPF_PROG_TEST_RUN`: what goes in, what must come out, what must be counted.
#![expect(clippy::unwrap_used, reason = "a harness: what cannot be done fails the test, where it happens")]

pub mod bench;
pub mod case;
pub mod compare;
pub mod cpus;
pub mod dut;
pub mod frame;
pub mod memory;
pub mod plane;
pub mod talk;
