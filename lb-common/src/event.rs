//! Events: what the packet path tells the controller as it happens. Rare by construction: one of each kind per
//! tick and CPU; the counters are what counts.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What happened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum EventKind {
    /// A bucket of established flows was full: the flow is forwarded by the look-up table alone.
    FlowTableFull = 0,
    /// A service had no server for a new flow.
    NoServer = 1,
    /// A live half-open flow was overwritten by a newer one: a SYN flood, or a table too small.
    HalfOpenOverwritten = 2,
    /// SNAT found no free source port for a new flow.
    NoSourcePort = 3,
    /// NAT or SNAT had no room for a new flow and refused it.
    FlowRefused = 4,
}

impl EventKind {
    /// Number of kinds.
    pub const COUNT: u32 = 5;

    /// The kind with this number; `None` for one that this build does not know.
    #[must_use]
    pub const fn from_u32(value: u32) -> Option<Self> {
        match value {
            0 => Some(Self::FlowTableFull),
            1 => Some(Self::NoServer),
            2 => Some(Self::HalfOpenOverwritten),
            3 => Some(Self::NoSourcePort),
            4 => Some(Self::FlowRefused),
            _ => None,
        }
    }
}

/// One record of the ring buffer.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Event {
    /// [`EventKind`].
    pub kind: u32,
    /// Tick at which it happened.
    pub tick: u32,
    /// Service id.
    pub service: u32,
    /// Client port, wire bytes.
    pub client_port: u16,
    /// VIP port, wire bytes.
    pub vip_port: u16,
    /// Client address, wire bytes; IPv4 in the low half of the first word.
    pub client: [u64; 2],
    /// VIP address, likewise.
    pub vip: [u64; 2],
    /// IP protocol number.
    pub proto: u8,
    /// 4 or 6.
    pub family: u8,
    /// Zero.
    pub pad: [u8; 6],
}
