//! Packets through the real program by `BPF_PROG_TEST_RUN`: what goes in, what must come out, what must be counted.

pub mod bench;
pub mod case;
pub mod dut;
pub mod frame;
