//! What the functions of one run hand each other.
//!
//! Off the hot path the program is several functions, which share 512 bytes of stack and give back one number each. So
//! what they have in common stands here, in memory that each CPU has of its own.

use lb_common::flow::{Ends, Rewrite};

use crate::{flow_table::Hit, parse::Link, wire::tcp::Flags};

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Scratch {
    /// The packet.
    pub seen: Seen,
    /// What was decided for it: a [`lb_common::flow::Decision`].
    pub decision: u64,
    /// Its rewrite, unless the decision is direct routing.
    pub rewrite: Rewrite,
    /// What the server sees of a new flow's packets.
    pub there: Ends,
    /// The other entry of its pair: what that one's packets show.
    pub reply: Ends,
    /// The other entry's rewrite.
    pub back: Rewrite,
    /// The packet's entry in a flow table, as it was found.
    pub hit: Hit,
    /// Service that the flow is new to.
    pub service: u32,
    /// A search for a server that has room.
    pub search: Search,
    /// Now, in ticks.
    pub now: u32,
    /// Identification of the datagram that the packet is a fragment of, wire bytes.
    pub fragment_id: u32,
    /// 1 = the client's packets come another way than they did, and `came` is it.
    pub moved: u32,
    /// The way that the packet came: [`lb_common::flow::Hop::words`].
    pub came: [u64; 2],
    /// State that a half-open pair goes to: a [`lb_common::flow::State`].
    pub state: u32,
    /// [`piece`].
    pub piece: u32,
    /// Largest packet that the sender should be told of.
    pub mtu: u32,
}

/// A walk through a service's list of servers.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Search {
    /// Number of the server to begin with.
    pub start: u32,
    /// Slot of the best one so far; all ones = none.
    pub found: u32,
    /// What that one holds: [`crate::load::held`].
    pub held: u64,
}

/// What of a datagram a packet is.
pub mod piece {
    /// All of it.
    pub const WHOLE: u32 = 0;
    /// The first fragment.
    pub const FIRST: u32 = 1;
    /// Another fragment, which has no transport header.
    pub const LATER: u32 = 2;
}

/// What was read from a packet that may be balanced.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Seen {
    /// Ends as the packet shows them.
    pub ends: Ends,
    /// Flow hash.
    pub hash: u64,
    /// Frame length, from the Ethernet header to the end of the IP packet.
    pub bytes: u32,
    /// Where the transport header starts in the frame.
    pub l4: u32,
    /// Ethernet header and tags.
    pub link: Link,
    /// TCP's control bits; 0 for UDP.
    pub flags: u8,
    /// Time to live, or hop limit.
    pub ttl: u8,
}

impl Seen {
    /// TCP's control bits; `None` = UDP.
    #[inline(always)]
    #[must_use]
    pub const fn tcp(&self) -> Option<Flags> {
        if self.ends.proto == lb_common::net::PROTO_TCP { Some(Flags(self.flags)) } else { None }
    }

    /// Length of the IP packet in bytes.
    #[inline(always)]
    #[must_use]
    pub const fn ip_bytes(&self) -> u32 {
        self.bytes.wrapping_sub(self.link.l3() as u32)
    }
}
