//! What drives the packet path in benchmarks. `BPF_PROG_TEST_RUN` repeats a program on the frame as it left it,
//! so what is run is a small driver: it writes the next flow of a list into the frame, takes the time before the
//! first and after the last frame, and tail-calls the program that is measured.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![allow(
    clippy::missing_const_for_fn,
    reason = "programs and what reads maps are never called at compile time"
)]
#![allow(unreachable_pub, reason = "a binary: `pub` says who may use an item within it")]

#[cfg(target_arch = "bpf")]
mod programs {
    use aya_ebpf::{
        bindings::xdp_action::{XDP_ABORTED, XDP_TX},
        helpers::bpf_ktime_get_ns,
        macros::{map, xdp},
        maps::{Array, ProgramArray},
        programs::XdpContext,
    };
    use lb_ebpf::packet::Packet;
    use lb_ebpf::wire::{eth::Ethernet, ipv4::Ipv4, tcp::Tcp};

    /// What of the flow the driver writes into the frame, in wire bytes.
    #[derive(Clone, Copy)]
    #[repr(C)]
    pub struct Flow {
        /// Client address, or its last four bytes.
        client: [u8; 4],
        /// VIP address, or its last four bytes.
        vip: [u8; 4],
        /// Client port and VIP port.
        ports: [u8; 4],
    }

    /// Where the driver is in its list, and when it began and ended.
    #[repr(C)]
    pub struct Progress {
        /// Frames that were driven.
        frames: u64,
        /// Frames to drive between the two times.
        wanted: u64,
        /// Next element of the list.
        next: u32,
        /// Length of the list.
        len: u32,
        /// `bpf_ktime_get_ns` before the first frame and after the last.
        begin: u64,
        end: u64,
    }

    /// The flows. Sized.
    #[map]
    static LIST: Array<Flow> = Array::with_max_entries(1, 0);

    /// One element.
    #[map]
    static PROGRESS: Array<Progress> = Array::with_max_entries(1, 0);

    /// The program that is measured.
    #[map]
    static TARGET: ProgramArray = ProgramArray::with_max_entries(1, 0);

    /// Byte offsets of addresses and ports in the frames.
    const V4: [usize; 3] = [26, 30, 34];
    const V6: [usize; 3] = [14 + 8 + 12, 14 + 24 + 12, 54];

    /// Drives IPv4 TCP frames without tags and options. A router's program leaves another TTL, which is put right; the
    /// checksums that it leaves are nobody's here.
    #[xdp(frags)]
    pub fn drive_v4(ctx: XdpContext) -> u32 {
        if restore_ttl(&ctx).is_none() {
            return XDP_ABORTED;
        }
        drive(&ctx, V4)
    }

    #[inline(always)]
    fn restore_ttl(ctx: &XdpContext) -> Option<()> {
        // SAFETY: the bounds are the context's, and this is the only view.
        let mut packet = unsafe { Packet::from_raw(ctx.data(), ctx.data_end()) };
        packet.get_mut::<Ipv4>(14)?.ttl = 64;
        Some(())
    }

    /// Drives IPv6 TCP frames without tags.
    #[xdp(frags)]
    pub fn drive_v6(ctx: XdpContext) -> u32 {
        drive(&ctx, V6)
    }

    #[inline(always)]
    fn drive(ctx: &XdpContext, offsets: [usize; 3]) -> u32 {
        if prepare(ctx, offsets).is_none() {
            return XDP_ABORTED;
        }
        // SAFETY: the context is this run's.
        unsafe { TARGET.tail_call(ctx, 0) };
        XDP_ABORTED
    }

    #[inline(always)]
    fn prepare(ctx: &XdpContext, [client, vip, ports]: [usize; 3]) -> Option<()> {
        let progress = PROGRESS.get_ptr_mut(0)?;
        // SAFETY: one benchmark runs at a time.
        let progress = unsafe { &mut *progress };
        if progress.frames == 0 {
            // SAFETY: helper without arguments.
            progress.begin = unsafe { bpf_ktime_get_ns() };
        }
        if progress.frames == progress.wanted {
            // SAFETY: helper without arguments.
            progress.end = unsafe { bpf_ktime_get_ns() };
        }
        progress.frames += 1;
        let flow = LIST.get(progress.next)?;
        progress.next += 1;
        if progress.next == progress.len {
            progress.next = 0;
        }
        // SAFETY: the bounds are the context's, and this is the only view.
        let mut packet = unsafe { Packet::from_raw(ctx.data(), ctx.data_end()) };
        *packet.get_mut::<[u8; 4]>(client)? = flow.client;
        *packet.get_mut::<[u8; 4]>(vip)? = flow.vip;
        *packet.get_mut::<[u8; 4]>(ports)? = flow.ports;
        Some(())
    }

    /// The floor: what touching the packet costs. Parses Ethernet, IPv4 and TCP, swaps the MACs, sends back.
    #[xdp(frags)]
    pub fn floor(ctx: XdpContext) -> u32 {
        touch(&ctx).unwrap_or(XDP_ABORTED)
    }

    #[inline(always)]
    fn touch(ctx: &XdpContext) -> Option<u32> {
        // SAFETY: the bounds are the context's, and this is the only view.
        let mut packet = unsafe { Packet::from_raw(ctx.data(), ctx.data_end()) };
        let ethertype = packet.get::<Ethernet>(0)?.ethertype.get();
        if ethertype != lb_common::net::ETHERTYPE_IPV4 {
            return None;
        }
        let ip = packet.get::<Ipv4>(14)?;
        if ip.header_len() != Some(20) || ip.proto != lb_common::net::PROTO_TCP {
            return None;
        }
        packet.get::<Tcp>(34)?;
        let eth = packet.get_mut::<Ethernet>(0)?;
        (eth.dst, eth.src) = (eth.src, eth.dst);
        Some(XDP_TX)
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
