//! The packet path's surroundings in the kernel: maps and helpers behind [`Env`].

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST, xdp_action::XDP_DROP, xdp_md},
    helpers::{bpf_jiffies64, bpf_ktime_get_ns, bpf_map_lookup_elem, bpf_redirect_map, bpf_xdp_adjust_head},
};
use lb_common::{
    backend::Backend,
    counter::Reason,
    event::{Event, EventKind},
    flow::{Ends, KEY_V4, KEY_V6, WORDS_V4, WORDS_V6},
    persist::{PersistEntry, PersistKey},
    service::{Service, ServiceKey4, ServiceKey6, Table},
};
use lb_ebpf::{
    env::{Env, Tables},
    flow_table::{Bucket, SharedWord, bucket_index},
    packet::Packet,
};

use crate::maps::{self, constants};

/// One run of the program.
pub struct Kernel {
    ctx: *mut xdp_md,
}

impl Kernel {
    /// The run that `ctx` belongs to.
    #[inline(always)]
    pub const fn new(ctx: *mut xdp_md) -> Self {
        Self { ctx }
    }

    /// Interface that the frame came in by.
    #[inline(always)]
    pub fn ingress_ifindex(&self) -> u32 {
        // SAFETY: the context is valid for the whole run.
        unsafe { (*self.ctx).ingress_ifindex }
    }
}

/// Sends the frame out of another interface. One that is not in the device map drops it.
#[inline(always)]
pub fn redirect(ifindex: u32) -> u32 {
    let devices = (&raw const maps::DEVICES).cast_mut().cast();
    // SAFETY: the map is a device map; the helper checks the index. The flags are the verdict on a miss.
    unsafe { bpf_redirect_map(devices, u64::from(ifindex), u64::from(XDP_DROP)) as u32 }
}

/// Writes the clock's two hands.
#[inline(always)]
pub fn read_clock() {
    if let Some(hands) = maps::CLOCK.get_ptr_mut(0) {
        // SAFETY: helper without arguments.
        let jiffies = unsafe { bpf_jiffies64() };
        // SAFETY: helper without arguments.
        let nanos = unsafe { bpf_ktime_get_ns() };
        // SAFETY: the map's only element, written by nobody else.
        unsafe { *hands = [jiffies, nanos] };
    }
}

impl Tables<WORDS_V4, KEY_V4> for Kernel {
    type Word = SharedWord;

    #[inline(always)]
    fn key_words(ends: &Ends) -> [u64; KEY_V4] {
        ends.key_v4()
    }

    #[inline(always)]
    fn ends_of(words: &[u64; KEY_V4]) -> Ends {
        Ends::of_v4(words)
    }

    #[inline(always)]
    fn established(&self, hash: u64) -> Option<&Bucket<SharedWord, WORDS_V4>> {
        maps::FLOWS_V4.get(bucket_index(hash, constants::bucket_mask_v4()))
    }

    #[inline(always)]
    fn half_open(&self, hash: u64) -> Option<&Bucket<SharedWord, WORDS_V4>> {
        maps::HALF_OPEN_V4.get(bucket_index(hash, constants::bucket_mask_half_v4()))
    }

    #[inline(always)]
    fn service_id(&self, ends: &Ends) -> Option<u32> {
        let mut key =
            ServiceKey4 { addr: ends.dst[0] as u32, port: ends.dst_port(), proto: ends.proto, pad: 0 };
        // SAFETY: the map is not preallocated, so an element is not reused while it is read.
        if let Some(found) = unsafe { maps::SERVICE_KEYS_V4.get(key) } {
            return Some(found.service);
        }
        // Every port that has no key of its own.
        key.port = 0;
        // SAFETY: as above.
        unsafe { maps::SERVICE_KEYS_V4.get(key) }.map(|found| found.service)
    }
}

impl Tables<WORDS_V6, KEY_V6> for Kernel {
    type Word = SharedWord;

    #[inline(always)]
    fn key_words(ends: &Ends) -> [u64; KEY_V6] {
        ends.key_v6()
    }

    #[inline(always)]
    fn ends_of(words: &[u64; KEY_V6]) -> Ends {
        Ends::of_v6(words)
    }

    #[inline(always)]
    fn established(&self, hash: u64) -> Option<&Bucket<SharedWord, WORDS_V6>> {
        maps::FLOWS_V6.get(bucket_index(hash, constants::bucket_mask_v6()))
    }

    #[inline(always)]
    fn half_open(&self, hash: u64) -> Option<&Bucket<SharedWord, WORDS_V6>> {
        maps::HALF_OPEN_V6.get(bucket_index(hash, constants::bucket_mask_half_v6()))
    }

    #[inline(always)]
    fn service_id(&self, ends: &Ends) -> Option<u32> {
        let mut key = ServiceKey6 { addr: ends.dst, port: ends.dst_port(), proto: ends.proto, pad: [0; 5] };
        // SAFETY: the map is not preallocated, so an element is not reused while it is read.
        if let Some(found) = unsafe { maps::SERVICE_KEYS_V6.get(key) } {
            return Some(found.service);
        }
        // Every port that has no key of its own.
        key.port = 0;
        // SAFETY: as above.
        unsafe { maps::SERVICE_KEYS_V6.get(key) }.map(|found| found.service)
    }
}

impl Env for Kernel {
    #[inline(always)]
    fn packet(&self) -> Packet<'_> {
        // SAFETY: the context is valid for the whole run.
        let data = unsafe { (*self.ctx).data };
        // SAFETY: as above.
        let data_end = unsafe { (*self.ctx).data_end };
        // SAFETY: the bounds are the context's, and whoever resizes the frame takes the view it gets back.
        unsafe { Packet::from_raw(data as usize, data_end as usize) }
    }

    #[inline(always)]
    fn now(&self) -> u32 {
        // SAFETY: helper without arguments.
        let jiffies = unsafe { bpf_jiffies64() };
        (jiffies >> (constants::tick_shift() & 63)) as u32
    }

    #[inline(always)]
    fn flow_seed(&self) -> u64 {
        constants::flow_seed()
    }

    #[inline(always)]
    fn filter(&self, word: u32) -> u64 {
        maps::FILTER.get(0).and_then(|words| words.get(word as usize)).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn service(&self, service: u32) -> Option<&Service> {
        maps::SERVICES.get(service)
    }

    #[inline(always)]
    fn table(&self, service: u32) -> Option<&Table> {
        let inner = maps::TABLES.get(service)?;
        // A key of its own on the stack: `&0` would become a constant in a section of its own, which the loader
        // takes for the start of `.rodata`.
        let first: u32 = 0;
        // SAFETY: a map that the kernel gave, and a key of its size.
        let table = unsafe {
            bpf_map_lookup_elem(core::ptr::from_ref(inner).cast_mut().cast(), (&raw const first).cast())
        };
        // SAFETY: null, or the only element of an array of `Table`s, which is never freed while a program runs.
        unsafe { table.cast::<Table>().as_ref() }
    }

    #[inline(always)]
    fn backend(&self, slot: u32) -> Option<&Backend> {
        maps::BACKENDS.get(slot)
    }

    #[inline(always)]
    fn rotate(&self, service: u32, len: u32) -> u32 {
        let Some(traffic) = maps::SERVICE_TRAFFIC.get_ptr_mut(service) else {
            return 0;
        };
        // SAFETY: this CPU's own element; programs of one CPU do not interrupt each other.
        let traffic = unsafe { &mut *traffic };
        let index = traffic.cursor as u32;
        // A shorter table than last time starts again from the front.
        let index = if index < len { index } else { 0 };
        traffic.cursor = u64::from(index) + 1;
        index
    }

    #[inline(always)]
    fn persisted(&self, key: &PersistKey) -> Option<PersistEntry> {
        // SAFETY: the map is not preallocated, so an element is not reused while it is read.
        unsafe { maps::PERSIST.get(key) }.copied()
    }

    #[inline(always)]
    fn persist(&self, key: &PersistKey, entry: &PersistEntry, new: bool) -> bool {
        let flags = if new { BPF_NOEXIST } else { BPF_ANY };
        maps::PERSIST.insert(key, entry, u64::from(flags)).is_ok()
    }

    #[inline(always)]
    fn count_forwarded(&self, slot: u32, bytes: u32) {
        if let Some(traffic) = maps::BACKEND_TRAFFIC.get_ptr_mut(slot) {
            // SAFETY: this CPU's own element; programs of one CPU do not interrupt each other.
            let traffic = unsafe { &mut *traffic };
            traffic.packets += 1;
            traffic.bytes += u64::from(bytes);
        }
    }

    #[inline(always)]
    fn count_flow(&self, service: u32) {
        if let Some(traffic) = maps::SERVICE_TRAFFIC.get_ptr_mut(service) {
            // SAFETY: as in `count_forwarded`.
            unsafe { (*traffic).flows += 1 };
        }
    }

    #[inline(always)]
    fn count(&self, reason: Reason) {
        if let Some(count) = maps::REASONS.get_ptr_mut(reason as u32) {
            // SAFETY: as in `count_forwarded`.
            unsafe { *count += 1 };
        }
    }

    #[inline(always)]
    fn event(&self, kind: EventKind, service: u32, ends: &Ends, now: u32) {
        let Some(last) = maps::EVENT_TICKS.get_ptr_mut(kind as u32) else {
            return;
        };
        // SAFETY: as in `count_forwarded`.
        let last = unsafe { &mut *last };
        // Stored plus one, so that the zero of a new map is no tick.
        if *last == u64::from(now) + 1 {
            return;
        }
        *last = u64::from(now) + 1;
        let Some(mut entry) = maps::EVENTS.reserve::<Event>(0) else {
            self.count(Reason::EventLost);
            return;
        };
        entry.write(Event {
            kind: kind as u32,
            tick: now,
            service,
            client_port: ends.ports as u16,
            vip_port: ends.dst_port(),
            client: ends.src,
            vip: ends.dst,
            proto: ends.proto,
            family: ends.family,
            pad: [0; 6],
        });
        entry.submit(0);
    }

    #[inline(always)]
    fn resize(&self, delta: i32) -> Option<Packet<'_>> {
        // SAFETY: the context is valid for the whole run; the caller gives up its view of the frame.
        let refused = unsafe { bpf_xdp_adjust_head(self.ctx, delta) };
        (refused == 0).then(|| self.packet())
    }
}
