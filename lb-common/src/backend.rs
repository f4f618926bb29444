//! Backends: one real server of one VIP.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{net::Mac, service::Name};

/// What the packet path writes into a frame for a backend: 32 bytes, so that 512 servers stay in the L1 cache.
///
/// A flow is honoured only while `generation` equals the one it was made with **and** the backend is `LIVE`.
/// The controller raises the generation whenever flows to the backend must no longer count: the slot went to
/// another server, or the server went down or was halted.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Backend {
    /// See above. With `state` in the first word, which is written whole.
    pub generation: u16,
    /// [`state`].
    pub state: u8,
    /// VLAN tags that the frame must carry on its way out: 0, 1 or 2.
    pub vlan_depth: u8,
    /// Interface that the frame leaves by (the physical one, below any VLAN interface).
    pub ifindex: u32,
    /// Server's MAC.
    pub dst_mac: Mac,
    /// MAC of the interface the frame leaves by.
    pub src_mac: Mac,
    /// VLAN identifiers, outer first, host order; unused ones 0.
    pub vlan: [u16; 2],
    /// Tag protocol identifier of the outer tag when there are two, host order; a lone or inner tag is 802.1Q.
    pub outer_tpid: u16,
    /// Largest IP packet that the interface takes, in bytes; 0 = not known. Only NAT and SNAT look at it: they route.
    pub mtu: u16,
    /// Zero.
    pub pad: [u16; 2],
}

impl Backend {
    /// Both MACs as they stand at the front of a frame, its first eight bytes and the next four: two loads.
    #[inline(always)]
    #[must_use]
    pub fn front(&self) -> (u64, u32) {
        let [_, _, a, b, c, ..]: [u32; 8] = zerocopy::transmute!(*self);
        (a as u64 | (b as u64) << 32, c)
    }
}

/// Values of [`Backend::state`].
pub mod state {
    /// No server in this slot, or one that must get nothing: down by health, halted.
    pub const DEAD: u8 = 0;
    /// Flows that exist are forwarded. Whether new ones come is decided by the look-up table alone: a draining
    /// server is live but in no table.
    pub const LIVE: u8 = 1;
}

/// Where NAT and SNAT send a new flow of a slot.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Target {
    /// Server's address as in [`crate::flow::Ends`].
    pub addr: [u64; 2],
    /// Its port, wire bytes; 0 = the one that the client asked for.
    pub port: u16,
    /// Zero.
    pub pad: [u16; 3],
}

/// An interface as replies leave by it: one word, written whole.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C, align(8))]
pub struct LinkRecord {
    /// Its MAC; zero = nothing leaves by it.
    pub mac: Mac,
    /// Largest IP packet in bytes; 0 = not known.
    pub mtu: u16,
}

impl LinkRecord {
    /// MAC in the low 48 bits, wire bytes, lowest first; MTU above.
    #[inline(always)]
    #[must_use]
    pub const fn word(self) -> u64 {
        zerocopy::transmute!(self)
    }
}

/// Who a slot stands for. Written and read by the controller only.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct BackendInfo {
    /// Real server's name; empty = the slot is free.
    pub name: Name,
    /// Address, IPv4 as IPv4-mapped.
    pub addr: [u8; 16],
    /// Service id that the slot belongs to.
    pub service: u32,
    /// Zero.
    pub pad: u32,
}
