//! Every map, with who writes and who reads it. Names are those of `lb_common::limits::map`; capacities marked
//! "sized" are set by the controller when it creates them.

use aya_ebpf::{
    bindings::{bpf_fib_lookup, bpf_map_type::BPF_MAP_TYPE_ARRAY},
    btf_maps::ArrayOfMaps,
    macros::{btf_map, map},
    maps::{Array, DevMap, HashMap, LruHashMap, PerCpuArray, RingBuf},
};
use lb_common::{
    backend::{Backend, BackendInfo, LinkRecord, Target},
    counter::{BackendTraffic, Reason, ServiceTraffic},
    event::EventKind,
    flow::{KEY_V4, KEY_V6, WAYS, WORDS_V4, WORDS_V6},
    fragment::{FragmentEntry, FragmentKey},
    limits,
    persist::{PersistEntry, PersistKey, TwinKey},
    service::{Service, ServiceInfo, ServiceKey4, ServiceKey6, ServiceRef, Sources, Table},
    settings::Settings,
};
use lb_ebpf::{
    flow_table::{Bucket, Key, SharedWord},
    load,
    scratch::Scratch,
};

/// `BPF_F_MMAPABLE`: values start page-aligned and the controller maps them.
const MMAPABLE: u32 = 1 << 10;
/// `BPF_F_NO_PREALLOC`: an element that is removed stays what it was until nobody reads it any more.
const NO_PREALLOC: u32 = 1;

/// Controller: what it and this program agreed on. Not read here; the same values are constants below.
#[map]
pub static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);

/// Controller writes, path reads: bits of balanced addresses.
#[map]
pub static FILTER: Array<[u64; limits::FILTER_WORDS]> = Array::with_max_entries(1, MMAPABLE);

/// Controller writes, path reads on a new flow.
#[map]
pub static SERVICE_KEYS_V4: HashMap<ServiceKey4, ServiceRef> =
    HashMap::with_max_entries(limits::MAX_SERVICE_KEYS, NO_PREALLOC);

/// Controller writes, path reads on a new flow.
#[map]
pub static SERVICE_KEYS_V6: HashMap<ServiceKey6, ServiceRef> =
    HashMap::with_max_entries(limits::MAX_SERVICE_KEYS, NO_PREALLOC);

/// Controller writes, path reads on a new flow.
#[map]
pub static SERVICES: Array<Service> = Array::with_max_entries(limits::MAX_SERVICES, 0);

/// Controller only: names of the services.
#[map]
pub static SERVICE_INFO: Array<ServiceInfo> = Array::with_max_entries(limits::MAX_SERVICES, 0);

/// Controller replaces inner maps, path reads on a new flow.
#[btf_map]
pub static TABLES: ArrayOfMaps<TableMap, { limits::MAX_SERVICES as usize }> = ArrayOfMaps::new();

/// An inner map of `TABLES`, as the loader reads it from the types: an array of one [`Table`].
///
/// It gives sizes and not types of key and value. Before 6.2 the kernel takes a map with types for another kind than
/// one without, and those that the controller makes have none.
#[repr(C)]
pub struct TableMap {
    r#type: *const [i32; BPF_MAP_TYPE_ARRAY as usize],
    key_size: *const [i32; size_of::<u32>()],
    value_size: *const [i32; size_of::<Table>()],
    max_entries: *const [i32; 1],
}

/// Controller writes, path reads for every forwarded packet.
#[map]
pub static BACKENDS: Array<Backend> = Array::with_max_entries(limits::MAX_BACKENDS, 0);

/// Controller writes, path reads on a new NAT or SNAT flow.
#[map]
pub static TARGETS: Array<Target> = Array::with_max_entries(limits::MAX_BACKENDS, 0);

/// Controller writes, path reads on a new SNAT flow.
#[map]
pub static SOURCES: Array<Sources> = Array::with_max_entries(limits::MAX_SERVICES, 0);

/// Controller writes, path reads for every reply of NAT and SNAT: interfaces, each at its own index.
#[map]
pub static LINKS: Array<LinkRecord> = Array::with_max_entries(limits::MAX_IFINDEX, 0);

/// Path writes with a datagram's first fragment, path reads with the others.
#[map]
pub static FRAGMENTS: LruHashMap<FragmentKey, FragmentEntry> =
    LruHashMap::with_max_entries(limits::MAX_FRAGMENTS, 0);

/// Path only: see [`Scratch`].
#[map]
pub static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// Path only: what the routing table is asked.
#[map]
pub static ROUTE: PerCpuArray<bpf_fib_lookup> = PerCpuArray::with_max_entries(1, 0);

/// Path only: key of the packet's own flow.
#[map]
pub static OWN_KEY_V4: PerCpuArray<Key<KEY_V4>> = PerCpuArray::with_max_entries(1, 0);

/// Path only: key of the packet's own flow.
#[map]
pub static OWN_KEY_V6: PerCpuArray<Key<KEY_V6>> = PerCpuArray::with_max_entries(1, 0);

/// Path only: key of the entry for the other direction.
#[map]
pub static REPLY_KEY_V4: PerCpuArray<Key<KEY_V4>> = PerCpuArray::with_max_entries(1, 0);

/// Path only: key of the entry for the other direction.
#[map]
pub static REPLY_KEY_V6: PerCpuArray<Key<KEY_V6>> = PerCpuArray::with_max_entries(1, 0);

/// Path only: when this CPU last sent an ICMP error.
#[map]
pub static TELL_TICKS: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Controller only: names of the backends.
#[map]
pub static BACKEND_INFO: Array<BackendInfo> = Array::with_max_entries(limits::MAX_BACKENDS, 0);

/// Path claims and changes, controller sweeps: established IPv4 flows. Sized.
#[map]
pub static FLOWS_V4: Array<Bucket<SharedWord, WORDS_V4>> =
    Array::with_max_entries(limits::DEFAULT_FLOWS_V4 / WAYS as u32, MMAPABLE);

/// Path claims and changes, controller sweeps: established IPv6 flows. Sized.
#[map]
pub static FLOWS_V6: Array<Bucket<SharedWord, WORDS_V6>> =
    Array::with_max_entries(limits::DEFAULT_FLOWS_V6 / WAYS as u32, MMAPABLE);

/// Path claims and changes, controller sweeps: half-open IPv4 flows. Sized.
#[map]
pub static HALF_OPEN_V4: Array<Bucket<SharedWord, WORDS_V4>> =
    Array::with_max_entries(limits::DEFAULT_HALF_OPEN / WAYS as u32, MMAPABLE);

/// Path claims and changes, controller sweeps: half-open IPv6 flows. Sized.
#[map]
pub static HALF_OPEN_V6: Array<Bucket<SharedWord, WORDS_V6>> =
    Array::with_max_entries(limits::DEFAULT_HALF_OPEN / WAYS as u32, MMAPABLE);

/// Path reads on a new flow and writes when a client has proved one, controller sweeps.
#[map]
pub static PERSIST: HashMap<PersistKey, PersistEntry> =
    HashMap::with_max_entries(limits::MAX_PERSIST, NO_PREALLOC);

/// Path only: what a new flow was decided for, until its client has proved it.
#[map]
pub static PERSIST_NEW: LruHashMap<PersistKey, PersistEntry> =
    LruHashMap::with_max_entries(limits::MAX_PERSIST_NEW, 0);

/// Controller writes, path reads on a new flow of a service that shares its persistence.
#[map]
pub static TWINS: HashMap<TwinKey, u32> = HashMap::with_max_entries(limits::MAX_TWINS, NO_PREALLOC);

/// Path and controller add to it, path reads on a new flow: [`lb_common::load::Load`]s.
#[map]
pub static LOADS: Array<load::Words> = Array::with_max_entries(limits::MAX_BACKENDS, MMAPABLE);

/// Controller writes, path reads on a new flow of a service that wants it alive.
#[map]
pub static HEARTBEAT: Array<SharedWord> = Array::with_max_entries(1, MMAPABLE);

/// Controller writes: interfaces that frames may leave by, each at its own index.
#[map]
pub static DEVICES: DevMap = DevMap::with_max_entries(limits::MAX_IFINDEX, 0);

/// Path writes, controller sums.
#[map]
pub static SERVICE_TRAFFIC: PerCpuArray<ServiceTraffic> =
    PerCpuArray::with_max_entries(limits::MAX_SERVICES, 0);

/// Path writes, controller sums.
#[map]
pub static BACKEND_TRAFFIC: PerCpuArray<BackendTraffic> =
    PerCpuArray::with_max_entries(limits::MAX_BACKENDS, 0);

/// Path writes, controller sums.
#[map]
pub static REASONS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Reason::COUNT, 0);

/// Path only: when this CPU last sent an event of each kind.
#[map]
pub static EVENT_TICKS: PerCpuArray<u64> = PerCpuArray::with_max_entries(EventKind::COUNT, 0);

/// Path writes, controller reads.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(limits::EVENT_BYTES, 0);

/// `clock` writes, controller reads right after: jiffies, and `bpf_ktime_get_ns` at the same moment.
#[map]
pub static CLOCK: Array<[u64; 2]> = Array::with_max_entries(1, 0);

/// Constants that the controller sets before it loads the program.
pub mod constants {
    /// Secret seed of the flow hash.
    #[unsafe(no_mangle)]
    static FLOW_SEED: u64 = 0;
    /// Shift from jiffies to ticks.
    #[unsafe(no_mangle)]
    static TICK_SHIFT: u32 = 0;
    /// Buckets of `FLOWS_V4`, less one.
    #[unsafe(no_mangle)]
    static BUCKET_MASK_V4: u32 = 0;
    /// Buckets of `FLOWS_V6`, less one.
    #[unsafe(no_mangle)]
    static BUCKET_MASK_V6: u32 = 0;
    /// Buckets of `HALF_OPEN_V4`, less one.
    #[unsafe(no_mangle)]
    static BUCKET_MASK_HALF_V4: u32 = 0;
    /// Buckets of `HALF_OPEN_V6`, less one.
    #[unsafe(no_mangle)]
    static BUCKET_MASK_HALF_V6: u32 = 0;

    /// Ticks that a first fragment's entry counts.
    #[unsafe(no_mangle)]
    static FRAGMENT_TICKS: u32 = u32::MAX;
    /// Ticks that a choice counts for a client that has not proved itself.
    #[unsafe(no_mangle)]
    static PERSIST_NEW_TICKS: u32 = u32::MAX;
    /// Ticks without a heartbeat after which there is no controller.
    #[unsafe(no_mangle)]
    static UNATTENDED_TICKS: u32 = u32::MAX;

    macro_rules! getters {
        ($($name:ident: $ty:ty = $constant:ident;)+) => {$(
            #[doc = concat!("The constant `", stringify!($constant), "`.")]
            #[inline(always)]
            pub fn $name() -> $ty {
                // SAFETY: a plain static, read volatile because its value is only set when the object is loaded.
                unsafe { core::ptr::read_volatile(&raw const $constant) }
            }
        )+};
    }

    getters! {
        flow_seed: u64 = FLOW_SEED;
        tick_shift: u32 = TICK_SHIFT;
        bucket_mask_v4: u32 = BUCKET_MASK_V4;
        bucket_mask_v6: u32 = BUCKET_MASK_V6;
        bucket_mask_half_v4: u32 = BUCKET_MASK_HALF_V4;
        bucket_mask_half_v6: u32 = BUCKET_MASK_HALF_V6;
        fragment_ticks: u32 = FRAGMENT_TICKS;
        persist_new_ticks: u32 = PERSIST_NEW_TICKS;
        unattended_ticks: u32 = UNATTENDED_TICKS;
    }
}
