//! The lab.

pub mod bench;
pub mod packet;
