//! Rewrites: one file each, read top to bottom as the headers lie in the frame.

pub mod dr;
