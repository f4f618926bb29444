//! What is written into frames: the way out, NAT and SNAT, and answers of our own. One file each, read top to bottom as
//! the headers lie in the frame.

pub mod nat;
pub mod reset;
pub mod tell;
pub mod way;
