//! Services: what a VIP is to the packet path.

use core::net::{Ipv4Addr, Ipv6Addr};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{
    counter::BackendTraffic,
    hash,
    limits::{FILTER_WORDS, MAX_NAME, MAX_SERVERS, MAX_SOURCES, TABLE_SLOTS},
    net,
};

/// Key of an IPv4 service: 8 bytes, one hash look-up.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct ServiceKey4 {
    /// VIP address, wire bytes.
    pub addr: u32,
    /// Port, wire bytes; 0 stands for every port.
    pub port: u16,
    /// IP protocol number.
    pub proto: u8,
    /// Zero.
    pub pad: u8,
}

impl ServiceKey4 {
    /// A key from what people write; `port` in host order.
    #[must_use]
    pub const fn new(ip: Ipv4Addr, port: u16, proto: u8) -> Self {
        Self { addr: net::addr4(ip), port: net::wire_port(port), proto, pad: 0 }
    }
}

/// Key of an IPv6 service.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct ServiceKey6 {
    /// VIP address, wire bytes in two words.
    pub addr: [u64; 2],
    /// Port, wire bytes; 0 stands for every port.
    pub port: u16,
    /// IP protocol number.
    pub proto: u8,
    /// Zero.
    pub pad: [u8; 5],
}

impl ServiceKey6 {
    /// A key from what people write; `port` in host order.
    #[must_use]
    pub const fn new(ip: Ipv6Addr, port: u16, proto: u8) -> Self {
        Self { addr: net::addr6(ip), port: net::wire_port(port), proto, pad: [0; 5] }
    }
}

/// Value of both service hashes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct ServiceRef {
    /// Index into `SERVICES`, `TABLES` and the counters.
    pub service: u32,
}

/// What the packet path must know of a service before it steers a new flow. Two words, each written whole.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Service {
    /// [`mode`]: how packets reach the server.
    pub mode: u8,
    /// [`pick`]: how a table slot is picked for a new flow.
    pub pick: u8,
    /// [`no_server`]: what becomes of a new flow when the table is empty.
    pub no_server: u8,
    /// Leading bits of the client address that persistence looks at; 0 = no persistence.
    pub persist_prefix: u8,
    /// [`flags`].
    pub flags: u8,
    /// Zero.
    pub pad: [u8; 3],
    /// Ticks of idleness after which a persistence entry no longer counts.
    pub persist_ticks: u32,
    /// Group id that persistence entries are kept under, so that VIPs can share them.
    pub persist_group: u32,
}

/// Values of [`Service::mode`], and of the kind of the client's flow entries.
pub mod mode {
    /// Direct routing: only MACs (and VLAN tags) change.
    pub const DR: u8 = crate::flow::kind::DR;
    /// Destination rewritten; the server sees the client's address and answers through this machine.
    pub const NAT: u8 = crate::flow::kind::NAT;
    /// Source and destination rewritten; the server sees one of the service's [`super::Sources`].
    pub const SNAT: u8 = crate::flow::kind::SNAT;
}

/// Bits of [`Service::flags`].
pub mod flags {
    /// Replies go by the routing table, and not the way that the client's packets came. NAT and SNAT only.
    pub const RETURN_BY_ROUTE: u8 = 1;
    /// Who still sends into a TCP flow whose server is dead gets a RST. NAT and SNAT only.
    pub const RESET: u8 = 2;
    /// New flows are refused while no controller lives: its heartbeat is older than
    /// [`crate::settings::UNATTENDED_SECS`].
    pub const FAIL_CLOSED: u8 = 4;
    /// Other services write persistence entries under the same group; the same server has another slot there, which
    /// `TWINS` knows.
    pub const SHARED: u8 = 8;
}

/// Source addresses and ports of a SNAT service.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Sources {
    /// Addresses in use, from the front; 0 = the service cannot take new flows.
    pub count: u32,
    /// First port, host order.
    pub first_port: u16,
    /// Number of ports from there.
    pub ports: u16,
    /// Addresses as in [`crate::flow::Ends`].
    pub addrs: [[u64; 2]; MAX_SOURCES],
}

/// Values of [`Service::pick`].
pub mod pick {
    /// Next entry of the table, one cursor per CPU (round robin).
    pub const ROTATE: u8 = 0;
    /// By the hash of the whole 5-tuple (Maglev).
    pub const HASH_FLOW: u8 = 1;
    /// By the hash of the client address alone.
    pub const HASH_CLIENT: u8 = 2;
    /// The server with the fewest active connections for its weight, of the first [`crate::limits::LEAST_OF`] from a
    /// cursor on (one per CPU), so that equals take turns.
    pub const LEAST: u8 = 3;
    /// The first server of the list.
    pub const FIRST: u8 = 4;
}

/// Values of [`Service::no_server`].
pub mod no_server {
    /// Leave the packet to the kernel, which owns the VIP address and answers with RST or port unreachable.
    pub const REJECT: u8 = 0;
    /// Drop without a word.
    pub const DROP: u8 = 1;
}

/// One look-up table, replaced whole: the value of the inner maps of `TABLES`.
///
/// [`pick::ROTATE`] walks the first `len` entries, so that weights come out exactly; hashes are scaled onto them.
/// `len == 0`: no server takes new flows. [`pick::LEAST`] and [`pick::FIRST`] go by the list of servers, and so does
/// everyone else when the server picked is full: the next one of the list that is not takes the flow.
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Table {
    /// Entries in use; 0 = empty table.
    pub len: u32,
    /// Servers in the list; 0 only when `len` is.
    pub servers: u32,
    /// Backend slots.
    pub slots: [u16; TABLE_SLOTS],
    /// Backend slot of every server that takes new flows, once, in the order of its entrants: that of the configuration
    /// for a failover list.
    pub list: [u16; MAX_SERVERS],
}

/// A name as it stands in a record: NUL-padded UTF-8.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(transparent)]
pub struct Name(pub [u8; MAX_NAME + 1]);

impl Name {
    /// `None` when `text` is longer than [`MAX_NAME`] bytes or contains a NUL.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        if text.len() > MAX_NAME || text.bytes().any(|b| b == 0) {
            return None;
        }
        let mut bytes = [0; MAX_NAME + 1];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Some(Self(bytes))
    }

    /// The text, or `None` when the bytes are not UTF-8.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        let end = self.0.iter().position(|&b| b == 0).unwrap_or(self.0.len());
        core::str::from_utf8(&self.0[..end]).ok()
    }
}

impl Default for Name {
    fn default() -> Self {
        Self([0; MAX_NAME + 1])
    }
}

/// Who a service id stands for. Written and read by the controller only, so that a restarted controller finds
/// its services again by name.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct ServiceInfo {
    /// VIP name; empty = the id is free.
    pub name: Name,
    /// Seconds an established flow may be idle.
    pub idle_timeout_secs: u32,
    /// Zero.
    pub pad: u32,
    /// Packets and bytes that were forwarded to backends which the service has no more.
    pub departed: BackendTraffic,
}

/// Bit number of an IPv4 address in the filter of balanced addresses.
///
/// The filter answers "could this address be ours?" with one load that stays in the first-level cache, so that
/// traffic that is not balanced never touches the flow table. A set bit may be a coincidence, a clear one not.
#[inline(always)]
#[must_use]
pub const fn filter_bit4(addr: u32) -> u32 {
    hash::fold_bits((addr as u64).wrapping_mul(hash::K1))
}

/// Bit number of an IPv6 address in the filter of balanced addresses.
#[inline(always)]
#[must_use]
pub const fn filter_bit6(addr: [u64; 2]) -> u32 {
    hash::fold_bits((addr[0] ^ addr[1].rotate_left(32)).wrapping_mul(hash::K1))
}

/// Bit number of the IPv4 address of a NAT or SNAT server: packets *from* it may be replies.
#[inline(always)]
#[must_use]
pub const fn filter_source_bit4(addr: u32) -> u32 {
    filter_bit4(!addr)
}

/// Bit number of the IPv6 address of a NAT or SNAT server.
#[inline(always)]
#[must_use]
pub const fn filter_source_bit6(addr: [u64; 2]) -> u32 {
    filter_bit6([!addr[0], addr[1]])
}

/// Word index and mask of a filter bit.
#[inline(always)]
#[must_use]
pub const fn filter_word(bit: u32) -> (u32, u64) {
    ((bit >> 6) & (FILTER_WORDS as u32 - 1), 1 << (bit & 63))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_refuse_what_does_not_fit() {
        let name = Name::new("CCW_WEB_8070-49200-49201").unwrap();
        assert_eq!(name.as_str(), Some("CCW_WEB_8070-49200-49201"));
        assert_eq!(Name::new(&"x".repeat(MAX_NAME)).unwrap().as_str().unwrap().len(), MAX_NAME);
        assert!(Name::new(&"x".repeat(MAX_NAME + 1)).is_none());
        assert!(Name::new("a\0b").is_none());
    }

    #[test]
    fn filter_bits_spread_over_the_whole_filter() {
        let mut words = [0u64; FILTER_WORDS];
        for host in 0..=255u8 {
            let (word, mask) = filter_word(filter_bit4(net::addr4(Ipv4Addr::new(10, 12, 1, host))));
            words[word as usize] |= mask;
        }
        let set: u32 = words.iter().map(|w| w.count_ones()).sum();
        assert!(set >= 250, "256 neighbouring addresses share {} bits", 256 - set);
    }
}
