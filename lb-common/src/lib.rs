//! The ABI between the XDP programs and the controller, and the pure functions that both sides need.
//!
//! Rules of this crate:
//!
//! - `no_std`, no allocation, no I/O: everything here compiles for the BPF target and for the host.
//! - Types that cross the border are `#[repr(C)]`, have no implicit padding (zerocopy's `IntoBytes` refuses it)
//!   and no Rust enum, `bool` or `Option` inside: any bit pattern the other side writes is a valid value.
//! - Addresses and ports stand as they stand in the packet. An IPv4 address held in a `u32`, or a port in a
//!   `u16`, is the *native-endian reading of the network-order bytes*: never compared for order, only for
//!   equality, and converted by the functions of [`net`].
//! - Any change to a type, a map name or a meaning raises [`ABI_VERSION`].
#![cfg_attr(not(any(test, feature = "user")), no_std)]
#![deny(unsafe_code)]

pub mod backend;
pub mod checksum;
pub mod counter;
pub mod event;
pub mod flow;
pub mod fragment;
pub mod hash;
pub mod limits;
pub mod load;
pub mod maglev;
pub mod net;
pub mod persist;
#[cfg(feature = "user")]
pub mod pod;
pub mod service;
pub mod settings;

/// Raised whenever pinned maps of an older build can no longer be adopted by a newer one.
///
/// The controller writes it to the pinned `SETTINGS` map and compares it before it adopts anything.
pub const ABI_VERSION: u32 = 3;
