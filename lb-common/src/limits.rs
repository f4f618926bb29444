//! Map names and capacities. What can be sized in TOML has its default here.

/// Name of the XDP program inside the object.
pub const PROGRAM: &str = "lb";

/// Services (VIPs; a VIP with several ports is one service): ids 0..MAX_SERVICES.
pub const MAX_SERVICES: u32 = 2048;
/// Backends (a real server of one VIP): slots 0..MAX_BACKENDS; fits the `u16` of tables and flows.
pub const MAX_BACKENDS: u32 = 16_384;
/// Service keys (address, port, protocol) per address family.
pub const MAX_SERVICE_KEYS: u32 = 16_384;
/// Network interfaces, by ifindex, that packets can leave by.
pub const MAX_IFINDEX: u32 = 4096;
/// Slots of one look-up table: a power of two, at least 100 for each of 512 servers (Maglev, NSDI 2016, 5.3).
pub const TABLE_SLOTS: usize = 65_536;
/// 64-bit words of the filter of balanced addresses: 64 K bits, 8 KiB, so that it stays in the first-level cache.
pub const FILTER_WORDS: usize = 1024;
/// Bytes of the ring buffer for events.
pub const EVENT_BYTES: u32 = 256 * 1024;
/// Persistence entries, of both address families together.
pub const MAX_PERSIST: u32 = 131_072;
/// Clients that have begun a flow and not proved it yet, which persistence remembers for [`crate::persist::NEW_SECS`].
pub const MAX_PERSIST_NEW: u32 = 16_384;
/// Pairs of a server's slot and another service that has the same server.
pub const MAX_TWINS: u32 = 65_536;
/// Real servers of one VIP.
pub const MAX_SERVERS: usize = 512;
/// Servers that [`crate::service::pick::LEAST`] compares for one flow.
pub const LEAST_OF: u32 = 64;
/// Source addresses of one SNAT service.
pub const MAX_SOURCES: usize = 16;
/// Source ports tried for a new SNAT flow before it is refused.
pub const SOURCE_TRIES: u32 = 64;
/// Datagrams whose fragments are remembered.
pub const MAX_FRAGMENTS: u32 = 8192;
/// Longest name of a VIP or real server in bytes, so that it fits its record.
pub const MAX_NAME: usize = 63;

/// Default number of established IPv4 flows that the table has room for.
pub const DEFAULT_FLOWS_V4: u32 = 1 << 20;
/// Default number of established IPv6 flows that the table has room for.
pub const DEFAULT_FLOWS_V6: u32 = 1 << 18;
/// Default number of half-open flows of each family.
pub const DEFAULT_HALF_OPEN: u32 = 1 << 14;
/// Smallest and largest number of flows that may be asked for in any flow table.
pub const FLOWS_RANGE: core::ops::RangeInclusive<u32> = 1024..=1 << 26;

/// Names of the maps in the object, which are also their names under the pin directory.
pub mod map {
    /// Array of one [`crate::settings::Settings`].
    pub const SETTINGS: &str = "SETTINGS";
    /// Array of one `[u64; FILTER_WORDS]`: bits of balanced addresses, see [`crate::service::filter_bit4`].
    pub const FILTER: &str = "FILTER";
    /// Hash: [`crate::service::ServiceKey4`] to [`crate::service::ServiceRef`].
    pub const SERVICE_KEYS_V4: &str = "SERVICE_KEYS_V4";
    /// Hash: [`crate::service::ServiceKey6`] to [`crate::service::ServiceRef`].
    pub const SERVICE_KEYS_V6: &str = "SERVICE_KEYS_V6";
    /// Array by service id: [`crate::service::Service`].
    pub const SERVICES: &str = "SERVICES";
    /// Array by service id: [`crate::service::ServiceInfo`]; only the controller reads it.
    pub const SERVICE_INFO: &str = "SERVICE_INFO";
    /// Array of maps by service id: inner arrays of one [`crate::service::Table`].
    pub const TABLES: &str = "TABLES";
    /// Array by slot: [`crate::backend::Backend`].
    pub const BACKENDS: &str = "BACKENDS";
    /// Array by service id: [`crate::service::Sources`].
    pub const SOURCES: &str = "SOURCES";
    /// Array by slot: [`crate::backend::Target`].
    pub const TARGETS: &str = "TARGETS";
    /// Array by ifindex: [`crate::backend::LinkRecord`].
    pub const LINKS: &str = "LINKS";
    /// LRU hash: [`crate::fragment::FragmentKey`] to [`crate::fragment::FragmentEntry`].
    pub const FRAGMENTS: &str = "FRAGMENTS";
    /// Array by slot: [`crate::backend::BackendInfo`]; only the controller reads it.
    pub const BACKEND_INFO: &str = "BACKEND_INFO";
    /// Array of [`crate::flow::Bucket4`]: established IPv4 flows.
    pub const FLOWS_V4: &str = "FLOWS_V4";
    /// Array of [`crate::flow::Bucket6`]: established IPv6 flows.
    pub const FLOWS_V6: &str = "FLOWS_V6";
    /// Array of [`crate::flow::Bucket4`]: half-open IPv4 flows.
    pub const HALF_OPEN_V4: &str = "HALF_OPEN_V4";
    /// Array of [`crate::flow::Bucket6`]: half-open IPv6 flows.
    pub const HALF_OPEN_V6: &str = "HALF_OPEN_V6";
    /// Hash: [`crate::persist::PersistKey`] to [`crate::persist::PersistEntry`], of clients that have proved themselves.
    pub const PERSIST: &str = "PERSIST";
    /// LRU hash of the same, of clients that have not yet: a flood of forged addresses ends here.
    pub const PERSIST_NEW: &str = "PERSIST_NEW";
    /// Hash: [`crate::persist::TwinKey`] to a slot, `u32`.
    pub const TWINS: &str = "TWINS";
    /// Array by slot: [`crate::load::Load`].
    pub const LOADS: &str = "LOADS";
    /// Array of one `u64`: tick at which the controller was last seen.
    pub const HEARTBEAT: &str = "HEARTBEAT";
    /// Device map by ifindex.
    pub const DEVICES: &str = "DEVICES";
    /// Per-CPU array by service id: [`crate::counter::ServiceTraffic`].
    pub const SERVICE_TRAFFIC: &str = "SERVICE_TRAFFIC";
    /// Per-CPU array by slot: [`crate::counter::BackendTraffic`].
    pub const BACKEND_TRAFFIC: &str = "BACKEND_TRAFFIC";
    /// Per-CPU array by [`crate::counter::Reason`]: `u64`.
    pub const REASONS: &str = "REASONS";
    /// Per-CPU array by [`crate::event::EventKind`]: tick of the last event, so that events cannot flood.
    pub const EVENT_TICKS: &str = "EVENT_TICKS";
    /// Ring buffer of [`crate::event::Event`].
    pub const EVENTS: &str = "EVENTS";

    /// Every map that is pinned and adopted by the next controller.
    pub const PINNED: [&str; 28] = [
        SETTINGS,
        FILTER,
        SERVICE_KEYS_V4,
        SERVICE_KEYS_V6,
        SERVICES,
        SERVICE_INFO,
        TABLES,
        BACKENDS,
        BACKEND_INFO,
        SOURCES,
        TARGETS,
        LINKS,
        FRAGMENTS,
        FLOWS_V4,
        FLOWS_V6,
        HALF_OPEN_V4,
        HALF_OPEN_V6,
        PERSIST,
        PERSIST_NEW,
        TWINS,
        LOADS,
        HEARTBEAT,
        DEVICES,
        SERVICE_TRAFFIC,
        BACKEND_TRAFFIC,
        REASONS,
        EVENT_TICKS,
        EVENTS,
    ];
}

/// Bytes of kernel memory that the flow tables take for these numbers of flows.
#[must_use]
pub const fn flow_table_bytes(flows_v4: u32, flows_v6: u32, half_open: u32) -> u64 {
    let (v4, v6, half) = (flows_v4 as u64, flows_v6 as u64, half_open as u64);
    v4 * 64 + v6 * 128 + half * (64 + 128)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_flow_tables_fit_128_mib() {
        let bytes = flow_table_bytes(DEFAULT_FLOWS_V4, DEFAULT_FLOWS_V6, DEFAULT_HALF_OPEN);
        assert!(bytes <= 128 << 20, "{bytes}");
    }

    #[test]
    fn slots_fit_the_table_entry() {
        assert!(MAX_BACKENDS <= u32::from(u16::MAX) && MAX_SERVICES <= u32::from(u16::MAX));
        assert!(TABLE_SLOTS.is_power_of_two() && FILTER_WORDS.is_power_of_two());
    }
}
