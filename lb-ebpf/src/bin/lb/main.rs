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
mod steps;

#[cfg(target_arch = "bpf")]
mod programs {
    use aya_ebpf::{bindings::xdp_action::XDP_PASS, macros::xdp, programs::XdpContext};
    use lb_ebpf::path::{self, Outcome};

    use crate::{
        kernel::{self, Kernel},
        steps::{MORE, action, more_v4, more_v6, odd_v4, odd_v6, routed_v6},
    };

    /// The load balancer: [`path::established`] in the entry's own frame, because a return is dear where returns are
    /// guarded against speculation. The rest has frames of its own; all of them share 512 bytes.
    #[xdp(frags)]
    pub fn lb(ctx: XdpContext) -> u32 {
        let kernel = Kernel::new(ctx.ctx);
        match path::established(&kernel) {
            Outcome::Done(verdict) => action(&kernel, verdict),
            Outcome::RoutedV6 => match routed_v6(ctx.ctx) {
                MORE => more_v6(ctx.ctx),
                action => action,
            },
            Outcome::MoreV4 => more_v4(ctx.ctx),
            Outcome::MoreV6 => more_v6(ctx.ctx),
            Outcome::OddV4 => odd_v4(ctx.ctx),
            Outcome::OddV6 => odd_v6(ctx.ctx),
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
