//! What a packet costs: the real program, driven over lists of flows by `BPF_PROG_TEST_RUN`, beside the cost of
//! only touching the packet.
#![allow(
    clippy::unwrap_used,
    reason = "a test rig: where it fails, a panic with its place is what is wanted"
)]

pub mod report;
pub mod rig;
pub mod rows;
