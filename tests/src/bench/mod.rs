//! What a packet costs: the real program, driven over lists of flows by `BPF_PROG_TEST_RUN`, beside the cost of
//! only touching the packet.
#![expect(clippy::unwrap_used, reason = "a harness: what cannot be done fails the test, where it happens")]

pub mod live;
pub mod report;
pub mod rig;
pub mod rows;
pub mod sweep;
