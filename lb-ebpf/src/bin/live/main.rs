//! Both ends of a benchmark with live frames: what sends them, and what counts those that arrive. Never shipped.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![allow(
    clippy::missing_const_for_fn,
    reason = "programs and what reads maps are never called at compile time"
)]
#![allow(unreachable_pub, reason = "a binary: `pub` says who may use an item within it")]

#[cfg(target_arch = "bpf")]
mod programs {
    use aya_ebpf::{
        bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_TX},
        helpers::{bpf_ktime_get_ns, bpf_redirect},
        macros::{map, xdp},
        maps::{Array, PerCpuArray},
        programs::XdpContext,
    };
    use lb_ebpf::packet::Packet;

    /// What to send, and where the generator is with it.
    #[repr(C)]
    pub struct Plan {
        /// A TCP packet in an Ethernet frame, IPv4 without options.
        frame: [[u8; 8]; 8],
        /// Interface that it leaves by.
        ifindex: u32,
        /// Number of flows, a power of two, less one.
        mask: u32,
        /// Frames sent in all plans.
        next: u32,
        pad: u32,
        /// Frames sent in this plan.
        frames: u64,
        /// Frames to send between the two times.
        wanted: u64,
        /// `bpf_ktime_get_ns` before the first frame and after the last.
        begin: u64,
        end: u64,
    }

    /// One element.
    #[map]
    static PLAN: Array<Plan> = Array::with_max_entries(1, 0);

    /// Frames that arrived.
    #[map]
    static ARRIVED: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

    /// Spreads flows: neighbours in time are none in number. Odd, so that each flow of a power of two is met.
    const STRIDE: u32 = 0x9e37_79b1;
    // Byte offsets: IPv4 identification, low half of the source address, source port, start of the payload.
    const ID: usize = 18;
    const ADDRESS: usize = 28;
    const PORT: usize = 34;
    const PAYLOAD: usize = 54;

    /// Run with live frames: writes the next flow's packet over whatever the frame was before, and sends it.
    ///
    /// A flow is 16 bits of the client's address and 11 of its port. What varies stands in the packet a second time,
    /// inverted, and together the two add nothing: so every checksum is right and none is computed.
    #[xdp]
    pub fn generate(ctx: XdpContext) -> u32 {
        write_next(&ctx).map_or(XDP_ABORTED, |ifindex| {
            // SAFETY: helper without pointers.
            unsafe { bpf_redirect(ifindex, 0) as u32 }
        })
    }

    #[inline(always)]
    fn write_next(ctx: &XdpContext) -> Option<u32> {
        let plan = PLAN.get_ptr_mut(0)?;
        // SAFETY: one generator runs at a time.
        let plan = unsafe { &mut *plan };
        if plan.frames == 0 {
            // SAFETY: helper without arguments.
            plan.begin = unsafe { bpf_ktime_get_ns() };
        }
        if plan.frames == plan.wanted {
            // SAFETY: helper without arguments.
            plan.end = unsafe { bpf_ktime_get_ns() };
        }
        plan.frames += 1;
        let flow = plan.next.wrapping_mul(STRIDE) & plan.mask;
        plan.next = plan.next.wrapping_add(1);
        let address = ((flow >> 11) as u16).to_be_bytes();
        let port = (0x8000 | (flow & 0x7ff) as u16).to_be_bytes();
        // SAFETY: the bounds are the context's, and this is the only view.
        let mut packet = unsafe { Packet::from_raw(ctx.data(), ctx.data_end()) };
        // Word by word: a whole frame would be copied by a call, byte by byte.
        for (index, word) in plan.frame.iter().enumerate() {
            *packet.get_mut::<[u8; 8]>(index * 8)? = *word;
        }
        *packet.get_mut::<[u8; 2]>(ID)? = address.map(|byte| !byte);
        *packet.get_mut::<[u8; 2]>(ADDRESS)? = address;
        *packet.get_mut::<[u8; 2]>(PORT)? = port;
        *packet.get_mut::<[u8; 2]>(PAYLOAD)? = address.map(|byte| !byte);
        *packet.get_mut::<[u8; 2]>(PAYLOAD + 2)? = port.map(|byte| !byte);
        Some(plan.ifindex)
    }

    /// Counts a frame that arrived, and drops it.
    #[xdp]
    pub fn count(_: XdpContext) -> u32 {
        if let Some(arrived) = ARRIVED.get_ptr_mut(0) {
            // SAFETY: this CPU's own element; programs of one CPU do not interrupt each other.
            unsafe { *arrived += 1 };
        }
        XDP_DROP
    }

    /// Sends a frame back without a look at it.
    #[xdp]
    pub fn reflect(_: XdpContext) -> u32 {
        XDP_TX
    }

    #[panic_handler]
    fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
        loop {}
    }

    #[unsafe(link_section = "license")]
    #[unsafe(no_mangle)]
    static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
}

#[cfg(not(target_arch = "bpf"))]
const fn main() {}
