//! The XDP programs: entry points only. The path is in the library, what it asks for in [`kernel`].
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![allow(unreachable_pub, reason = "a binary: `pub` says who may use an item within it")]

#[cfg(target_arch = "bpf")]
mod kernel;
#[cfg(target_arch = "bpf")]
mod maps;

#[cfg(target_arch = "bpf")]
mod programs {
    use aya_ebpf::{
        bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX},
        macros::xdp,
        programs::XdpContext,
    };
    use lb_ebpf::path::{self, Verdict};

    use crate::kernel::{self, Kernel};

    /// The load balancer.
    #[xdp(frags)]
    pub fn lb(ctx: XdpContext) -> u32 {
        let kernel = Kernel::new(ctx.ctx);
        match path::run(&kernel, kernel.packet()) {
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
fn main() {}
