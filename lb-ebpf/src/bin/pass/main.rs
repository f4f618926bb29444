//! Passes every packet. The lab runs it at the far end of a balancer's veth: what a veth sends with `XDP_TX` is only
//! delivered at once when the peer runs an XDP program too. Never shipped.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![allow(
    clippy::missing_const_for_fn,
    reason = "programs and what reads maps are never called at compile time"
)]
#![allow(unreachable_pub, reason = "a binary: `pub` says who may use an item within it")]

#[cfg(target_arch = "bpf")]
mod programs {
    use aya_ebpf::{bindings::xdp_action::XDP_PASS, macros::xdp, programs::XdpContext};

    /// Leaves everything to the kernel.
    #[xdp(frags)]
    pub fn pass(_: XdpContext) -> u32 {
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
