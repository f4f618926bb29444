//! Live frames: a generator in the kernel, a veth, the device under test, a veth, and what counts them.
//!
//! Where [`super::rig`] measures the program alone, this measures a packet's whole way, the interfaces included, and
//! beside the program the kernel's own ways: routing, address translation, IPVS. The same cases run under a machine
//! whose clock ticks once per instruction; there, nanoseconds are instructions, and repeat to the last per cent.

pub mod connections;
pub mod generator;
pub mod line;
pub mod report;
pub mod ways;
