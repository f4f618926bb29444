//! The packet path's surroundings in the kernel: maps and helpers behind [`Env`].

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST, bpf_fib_lookup as FibLookup, xdp_action::XDP_DROP, xdp_md},
    helpers::{
        bpf_fib_lookup, bpf_jiffies64, bpf_ktime_get_ns, bpf_map_lookup_elem, bpf_redirect_map,
        bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len,
    },
};
use lb_common::{
    backend::{Backend, LinkRecord, Target},
    counter::Reason,
    event::{Event, EventKind},
    flow::{Ends, KEY_V4, KEY_V6, WORDS_V4, WORDS_V6},
    fragment::{FragmentEntry, FragmentKey},
    hash,
    persist::{PersistEntry, PersistKey, TwinKey},
    service::{Service, ServiceKey4, ServiceKey6, Sources, Table},
};
use lb_ebpf::{
    env::{Env, Tables},
    flow_table::{Bucket, Key, SharedWord, Word as _, bucket_index},
    life, load,
    packet::Packet,
    scratch::Scratch,
};

use crate::{
    maps::{self, constants},
    steps,
};

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

    /// The same for a global function, which has to use its context: callers would not pass what is not used, and the
    /// verifier insists on it.
    #[inline(always)]
    pub fn of_step(ctx: *mut xdp_md) -> Self {
        // SAFETY: the context is valid for the whole run.
        let data = unsafe { &raw const (*ctx).data };
        // SAFETY: as above.
        unsafe { data.read_volatile() };
        Self { ctx }
    }

    /// The context, for another function of the program.
    #[inline(always)]
    pub const fn ctx(&self) -> *mut xdp_md {
        self.ctx
    }
}

/// Sends the frame out of another interface. One that is not in the device map drops it.
#[inline(always)]
pub fn redirect(ifindex: u32) -> u32 {
    let devices = (&raw const maps::DEVICES).cast_mut().cast();
    // SAFETY: the map is a device map; the helper checks the index. The flags are the verdict on a miss.
    unsafe { bpf_redirect_map(devices, u64::from(ifindex), u64::from(XDP_DROP)) as u32 }
}

/// The way to `ends.dst` by the routing table, for a packet that came in by this frame's interface.
///
/// Not inlined: it is rare.
#[inline(never)]
fn route_into(ctx: *mut xdp_md, ends: &Ends, hop: &mut u64) -> bool {
    const AF_INET: u8 = 2;
    const AF_INET6: u8 = 10;
    let Some(params) = maps::ROUTE.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: this CPU's own element, and programs of one CPU do not interrupt each other.
    let params = unsafe { &mut *params };
    // SAFETY: a structure of numbers, for which zeros are values.
    *params = unsafe { core::mem::zeroed() };
    params.family = if ends.family == 4 { AF_INET } else { AF_INET6 };
    params.l4_protocol = ends.proto;
    // SAFETY: the context is valid for the whole run.
    params.ifindex = unsafe { (*ctx).ingress_ifindex };
    if ends.family == 4 {
        params.__bindgen_anon_3.ipv4_src = ends.src[0] as u32;
        params.__bindgen_anon_4.ipv4_dst = ends.dst[0] as u32;
    } else {
        let words = |[hi, lo]: [u64; 2]| [hi as u32, (hi >> 32) as u32, lo as u32, (lo >> 32) as u32];
        params.__bindgen_anon_3.ipv6_src = words(ends.src);
        params.__bindgen_anon_4.ipv6_dst = words(ends.dst);
    }
    // SAFETY: the parameters have the size that is given.
    let found = unsafe { bpf_fib_lookup(ctx.cast(), params, size_of::<FibLookup>() as i32, 0) };
    // An interface that nothing may leave by is as good as no way: a VLAN interface, for one.
    let usable = maps::LINKS.get(params.ifindex).is_some_and(|link| link.mac.0 != [0; 6]);
    if found != 0 || !usable {
        return false;
    }
    let [a, b, c, d, e, f] = params.dmac;
    *hop = u64::from_le_bytes([a, b, c, d, e, f, 0, 0]) | u64::from(params.ifindex) << 48;
    true
}

#[inline(always)]
fn route(ctx: *mut xdp_md, ends: &Ends) -> Option<[u64; 2]> {
    let mut hop = 0;
    route_into(ctx, ends, &mut hop).then_some([hop, 0])
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
    fn own_key(&self) -> Option<&mut Key<KEY_V4>> {
        // SAFETY: as in `reply_key`.
        maps::OWN_KEY_V4.get_ptr_mut(0).map(|key| unsafe { &mut *key })
    }

    #[inline(always)]
    fn reply_key(&self) -> Option<&mut Key<KEY_V4>> {
        // SAFETY: this CPU's own element, and programs of one CPU do not interrupt each other. The library takes one
        // reference at a time.
        maps::REPLY_KEY_V4.get_ptr_mut(0).map(|key| unsafe { &mut *key })
    }

    #[inline(always)]
    fn hash(&self, &[addrs, ports]: &[u64; KEY_V4]) -> u64 {
        hash::flow4(constants::flow_seed(), addrs, ports)
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
    fn own_key(&self) -> Option<&mut Key<KEY_V6>> {
        // SAFETY: as in `reply_key`.
        maps::OWN_KEY_V6.get_ptr_mut(0).map(|key| unsafe { &mut *key })
    }

    #[inline(always)]
    fn reply_key(&self) -> Option<&mut Key<KEY_V6>> {
        // SAFETY: this CPU's own element, and programs of one CPU do not interrupt each other. The library takes one
        // reference at a time.
        maps::REPLY_KEY_V6.get_ptr_mut(0).map(|key| unsafe { &mut *key })
    }

    #[inline(always)]
    fn hash(&self, &[src_hi, src_lo, dst_hi, dst_lo, ports]: &[u64; KEY_V6]) -> u64 {
        hash::flow6(constants::flow_seed(), [src_hi, src_lo], [dst_hi, dst_lo], ports)
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
    fn ingress(&self) -> u32 {
        // SAFETY: the context is valid for the whole run.
        unsafe { (*self.ctx).ingress_ifindex }
    }

    #[inline(always)]
    fn scratch(&self) -> Option<&mut Scratch> {
        // SAFETY: this CPU's own element, and programs of one CPU do not interrupt each other. The library takes one
        // reference at a time.
        maps::SCRATCH.get_ptr_mut(0).map(|scratch| unsafe { &mut *scratch })
    }

    #[inline(always)]
    fn fragment_ticks(&self) -> u32 {
        constants::fragment_ticks()
    }

    #[inline(always)]
    fn sources(&self, service: u32) -> Option<&Sources> {
        maps::SOURCES.get(service)
    }

    #[inline(always)]
    fn target(&self, slot: u32) -> Option<&Target> {
        maps::TARGETS.get(slot)
    }

    #[inline(always)]
    fn link(&self, ifindex: u32) -> Option<&LinkRecord> {
        maps::LINKS.get(ifindex)
    }

    #[inline(always)]
    fn route(&self, ends: &Ends) -> Option<[u64; 2]> {
        route(self.ctx, ends)
    }

    #[inline(always)]
    fn fragment(&self, key: &FragmentKey) -> Option<&FragmentEntry> {
        // SAFETY: plain words, whatever they are. An entry that makes room for another while it is read was the one
        // longest unused; its fragment may then go where the other datagram goes, and is lost.
        unsafe { maps::FRAGMENTS.get(key) }
    }

    #[inline(always)]
    fn remember_fragment(&self, key: &FragmentKey, entry: &FragmentEntry) {
        if maps::FRAGMENTS.insert(key, entry, u64::from(BPF_ANY)).is_err() {
            self.count(Reason::FragmentUnknown);
        }
    }

    #[inline(always)]
    fn may_tell(&self, now: u32) -> bool {
        let Some(last) = maps::TELL_TICKS.get_ptr_mut(0) else {
            return false;
        };
        // SAFETY: as in `count_forwarded`.
        let last = unsafe { &mut *last };
        // Stored plus one, so that the zero of a new map is no tick.
        if *last == u64::from(now) + 1 {
            return false;
        }
        *last = u64::from(now) + 1;
        true
    }

    #[inline(always)]
    fn trim(&self, bytes: u32) -> Option<Packet<'_>> {
        // SAFETY: the context is valid for the whole run.
        let there = unsafe { bpf_xdp_get_buff_len(self.ctx) };
        let delta = i64::from(bytes) - there as i64;
        // SAFETY: as above; the caller gives up its view of the frame.
        let refused = unsafe { bpf_xdp_adjust_tail(self.ctx, delta as i32) };
        (refused == 0).then(|| self.packet())
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
    fn load(&self, slot: u32) -> Option<&load::Words> {
        maps::LOADS.get(slot)
    }

    #[inline(always)]
    fn least(&self, start: u32) -> u32 {
        steps::least(self.ctx, start)
    }

    #[inline(always)]
    fn next_with_room(&self, start: u32) -> u32 {
        steps::next_with_room(self.ctx, start)
    }

    #[inline(always)]
    fn compare(&self, n: u32) -> u32 {
        steps::compare(self.ctx, n)
    }

    #[inline(always)]
    fn try_next(&self, n: u32) -> u32 {
        steps::try_next(self.ctx, n)
    }

    #[inline(always)]
    fn choose(&self, by: u32) -> u32 {
        steps::choose(self.ctx, by)
    }

    #[inline(always)]
    fn stick(&self) {
        steps::stick(self.ctx);
    }

    #[inline(always)]
    fn is_unattended(&self, now: u32) -> bool {
        let seen = maps::HEARTBEAT.get(0).map_or(0, |tick: &SharedWord| tick.load() as u32);
        life::idle(now, seen) >= constants::unattended_ticks()
    }

    #[inline(always)]
    fn persisted_new(&self, key: &PersistKey) -> Option<PersistEntry> {
        // SAFETY: one word, whatever it is. An entry that makes room for another while it is read was the one longest
        // unused; the client is then sent where another one is.
        unsafe { maps::PERSIST_NEW.get(key) }.copied()
    }

    #[inline(always)]
    fn persist_new(&self, key: &PersistKey, entry: &PersistEntry, new: bool) -> bool {
        let flags = if new { BPF_NOEXIST } else { BPF_ANY };
        maps::PERSIST_NEW.insert(key, entry, u64::from(flags)).is_ok()
    }

    #[inline(always)]
    fn persist_new_ticks(&self) -> u32 {
        constants::persist_new_ticks()
    }

    #[inline(always)]
    fn twin(&self, slot: u16, service: u16) -> Option<u16> {
        // SAFETY: the map is not preallocated, so an element is not reused while it is read.
        unsafe { maps::TWINS.get(TwinKey { slot, service }) }.map(|twin| *twin as u16)
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
            client_port: ends.src_port(),
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
