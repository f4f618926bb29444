//! Rewrites: one file each, read top to bottom as the headers lie in the frame.

pub mod nat;
pub mod reset;
pub mod tell;
pub mod way;
