//! Counters: per CPU in the kernel, summed by the controller.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What one CPU counted for a service, and where its round robin stands.
///
/// What was forwarded for a service is the sum of its backends, which saves a counter per packet; what backends
/// had that are gone is in [`crate::service::ServiceInfo`].
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct ServiceTraffic {
    /// Flows steered: first packets.
    pub flows: u64,
    /// Next table entry for [`crate::service::pick::ROTATE`] on this CPU.
    pub cursor: u64,
}

/// What one CPU forwarded to a backend.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct BackendTraffic {
    /// Packets forwarded.
    pub packets: u64,
    /// Bytes forwarded, from the Ethernet header to the end of the IP packet.
    pub bytes: u64,
}

/// What becomes of a packet for a [`Reason`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fate {
    /// Left to the kernel.
    Pass,
    /// Dropped.
    Drop,
    /// Forwarded all the same; something beside it is worth counting.
    Note,
    /// Answered: the sender got another packet back for it.
    Answer,
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $number:literal, $name:literal, $fate:ident;)+) => {
        /// Why a packet was not simply forwarded. The number is the index into `REASONS`.
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        #[repr(u32)]
        pub enum Reason {
            $($(#[doc = $doc])+ $variant = $number,)+
        }

        impl Reason {
            /// Every reason, in the order of its number.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
            /// Number of reasons.
            pub const COUNT: u32 = Self::ALL.len() as u32;

            /// Name in `lbctl`, the API and metrics.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// What becomes of the packet.
            #[must_use]
            pub const fn fate(self) -> Fate {
                match self { $(Self::$variant => Fate::$fate,)+ }
            }

            /// One sentence for people.
            #[must_use]
            pub const fn explain(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+).trim_ascii(),)+ }
            }
        }
    };
}

reasons! {
    /// Neither IPv4 nor IPv6 (ARP, for one).
    NotIp = 0, "not_ip", Pass;
    /// More than two VLAN tags.
    VlanDepth = 1, "vlan_depth", Pass;
    /// Too short, or a header contradicts itself.
    Malformed = 2, "malformed", Pass;
    /// Neither for a VIP nor from a server that answers through this machine.
    NotVip = 3, "not_vip", Pass;
    /// To a VIP, or from a server of NAT or SNAT, but neither TCP nor UDP (a ping, for one).
    NotTcpUdp = 4, "not_tcp_udp", Pass;
    /// A fragment whose datagram's first one has not been seen: it came too early, or is of a datagram long gone.
    FragmentUnknown = 5, "fragment_unknown", Drop;
    /// An IPv6 packet for a VIP with more extension headers than are followed, or with one that hides what comes after.
    ExtensionHeader = 6, "extension_header", Pass;
    /// To a VIP, but no service is on that port and protocol; or a server's own traffic.
    NoService = 7, "no_service", Pass;
    /// No server takes new flows; the kernel answers with RST or port unreachable.
    NoServerReject = 8, "no_server_reject", Pass;
    /// No server takes new flows; the service says drop.
    NoServerDrop = 9, "no_server_drop", Drop;
    /// The look-up table named a server that is no longer live, or replies may not leave by their interface.
    StaleTable = 10, "stale_table", Drop;
    /// VLAN tags could not be added or removed.
    VlanRewrite = 11, "vlan_rewrite", Drop;
    /// The flow's server went away; the client's packet was steered anew.
    FlowOrphaned = 12, "flow_orphaned", Note;
    /// No room for another established flow: direct routing goes on by the look-up table alone, a pair stays half-open.
    FlowTableFull = 13, "flow_table_full", Note;
    /// The oldest half-open flow of a bucket made room for a newer one.
    HalfOpenOverwritten = 14, "half_open_overwritten", Note;
    /// Two CPUs began the same flow at the same moment; the sender repeats the packet that lost.
    TwinPacket = 15, "twin_packet", Drop;
    /// A TCP segment in the middle of a connection that had no entry.
    MidStream = 16, "mid_stream", Note;
    /// No room for another persistence entry.
    PersistTableFull = 17, "persist_table_full", Note;
    /// An event found the ring buffer full.
    EventLost = 18, "event_lost", Note;
    /// Another CPU took the place for a new flow's entry; the flow's hash decides until it has one.
    EntryTaken = 19, "entry_taken", Note;
    /// No source port was free for a new SNAT flow; the kernel answers with RST or port unreachable.
    NoSourcePort = 20, "no_source_port", Pass;
    /// No room for a new NAT or SNAT flow; the kernel answers with RST or port unreachable.
    FlowRefused = 21, "flow_refused", Pass;
    /// A packet into a flow whose server is dead; its sender got a RST.
    FlowReset = 22, "flow_reset", Answer;
    /// An ICMP error about a balanced flow; it went to the end that it is for.
    IcmpError = 23, "icmp_error", Note;
    /// An ICMP error that quotes no flow that is known.
    IcmpUnknown = 24, "icmp_unknown", Pass;
    /// The time to live of a NAT or SNAT packet ended here; its sender was told.
    TtlExpired = 25, "ttl_expired", Answer;
    /// A NAT or SNAT packet longer than its way out takes; its sender was told.
    TooBig = 26, "too_big", Answer;
    /// A packet whose time to live ended here, or that is longer than its way out takes, about which nobody may be
    /// told (RFC 1122, 3.2.2), or not so soon again.
    Untold = 27, "untold", Drop;
    /// The client's packets of a NAT or SNAT flow come another way; replies follow.
    HopMoved = 28, "hop_moved", Note;
    /// Replies should go by the routing table, and it had no way to the client; they go the way that its packets came.
    NoRoute = 29, "no_route", Note;
    /// Another NAT or SNAT flow has the same ends between this machine and the server; the kernel answers with RST or
    /// port unreachable.
    ReplyClash = 30, "reply_clash", Pass;
    /// A packet of a NAT or SNAT flow whose entry for the other direction was lost; the flow begins anew.
    HalfPair = 31, "half_pair", Note;
    /// A RST of a NAT or SNAT connection that is not known.
    MidStreamReset = 32, "mid_stream_reset", Drop;
    /// Every server that takes new flows has as many connections as it may; the flow is refused as if there were none.
    ServersFull = 33, "servers_full", Note;
    /// The server picked, or the one that persistence would send the client to, has as many connections as it may;
    /// another took the flow.
    Spilled = 34, "spilled", Note;
    /// A new flow of a service that takes none while the controller is dead.
    Unattended = 35, "unattended", Note;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_numbered_without_gaps_and_named_once() {
        for (i, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, i);
            assert!(reason.explain().ends_with('.'), "{:?}", reason.explain());
            assert_eq!(Reason::ALL.iter().filter(|r| r.name() == reason.name()).count(), 1);
        }
    }
}
