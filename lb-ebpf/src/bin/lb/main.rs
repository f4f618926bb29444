//! The XDP programs: entry points only. The path is in the library, what it asks for in `kernel.rs`.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![allow(
    clippy::missing_const_for_fn,
    reason = "programs and what reads maps are never called at compile time"
)]
#![allow(unreachable_pub, reason = "a binary: `pub` says who may use an item within it")]

#[cfg(target_arch = "bpf")]
mod kernel;
#[cfg(target_arch = "bpf")]
mod maps;

#[cfg(target_arch = "bpf")]
mod programs {
    use aya_ebpf::{
        bindings::{
            xdp_action::{XDP_DROP, XDP_PASS, XDP_TX},
            xdp_md,
        },
        macros::xdp,
        programs::XdpContext,
    };
    use lb_ebpf::path::{self, Outcome, Verdict};

    use crate::kernel::{self, Kernel};

    /// The load balancer: [`path::established`] in the entry's own frame, because a return is dear where returns are
    /// guarded against speculation. The rest has frames of its own; all of them share 512 bytes.
    #[xdp(frags)]
    pub fn lb(ctx: XdpContext) -> u32 {
        let kernel = Kernel::new(ctx.ctx);
        match path::established(&kernel) {
            Outcome::Done(verdict) => action(&kernel, verdict),
            Outcome::FirstV4 => first_v4(ctx.ctx),
            Outcome::FirstV6 => first_v6(ctx.ctx),
        }
    }

    /// [`path::first_v4`] as a function that the verifier looks at once and by itself, because it is global.
    #[unsafe(no_mangle)]
    #[inline(never)]
    extern "C" fn first_v4(ctx: *mut xdp_md) -> u32 {
        let kernel = Kernel::new(ctx);
        action(&kernel, path::first_v4(&kernel))
    }

    /// [`path::first_v6`], likewise.
    #[unsafe(no_mangle)]
    #[inline(never)]
    extern "C" fn first_v6(ctx: *mut xdp_md) -> u32 {
        let kernel = Kernel::new(ctx);
        action(&kernel, path::first_v6(&kernel))
    }

    #[inline(always)]
    fn action(kernel: &Kernel, verdict: Verdict) -> u32 {
        match verdict {
            Verdict::Drop => XDP_DROP,
            Verdict::Forward { ifindex } if ifindex == kernel.ingress_ifindex() => XDP_TX,
            Verdict::Forward { ifindex } => kernel::redirect(ifindex),
            Verdict::Pass => XDP_PASS,
        }
    }

    /// Run by the controller, never attached: what time the packet path thinks it is.
    #[xdp(frags)]
    pub fn clock(_: XdpContext) -> u32 {
        kernel::read_clock();
        XDP_PASS
    }

    #[panic_handler]
    fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
        // Nothing panics; should the compiler ever think otherwise, the verifier refuses this loop.
        loop {}
    }

    #[unsafe(link_section = "license")]
    #[unsafe(no_mangle)]
    static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
}

#[cfg(not(target_arch = "bpf"))]
const fn main() {}
