//! What a packet costs: the real program, driven over lists of flows by `BPF_PROG_TEST_RUN`, beside the cost of
//! only touching the packet.

pub mod report;
pub mod rig;
pub mod rows;
