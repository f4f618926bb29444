//! Headers as they stand in the frame. Each file: the struct (alignment 1, wire order), its accessors, golden bytes.

pub mod eth;
pub mod icmp;
pub mod ipv4;
pub mod ipv6;
pub mod tcp;
pub mod udp;
