//! Which drivers run XDP programs natively, and since which kernel.

use super::KernelVersion;

/// A driver that runs XDP programs.
pub(super) struct Driver {
    /// Name as the kernel gives it.
    pub(super) name: &'static str,
    /// First kernel in which it runs them.
    pub(super) since: KernelVersion,
    /// First kernel in which it takes packets of several buffers, so that jumbo frames are no obstacle.
    pub(super) jumbo_since: Option<KernelVersion>,
}

/// The driver with this name, if it is known to run XDP programs at all.
pub(super) fn find(name: &str) -> Option<&'static Driver> {
    DRIVERS.iter().find(|driver| driver.name == name)
}

const fn driver(name: &'static str, since: (u32, u32), jumbo_since: Option<(u32, u32)>) -> Driver {
    let jumbo_since = match jumbo_since {
        Some((major, minor)) => Some(KernelVersion(major, minor)),
        None => None,
    };
    Driver { name, since: KernelVersion(since.0, since.1), jumbo_since }
}

const DRIVERS: [Driver; 25] = [
    driver("atlantic", (5, 19), Some((5, 19))),
    driver("bnxt_en", (4, 11), Some((5, 19))),
    driver("bond", (5, 15), None),
    driver("ena", (5, 6), None),
    driver("fsl_dpaa2_eth", (5, 0), None),
    driver("fsl_enetc", (5, 13), Some((6, 3))),
    driver("gve", (6, 4), None),
    driver("hv_netvsc", (5, 6), None),
    driver("i40e", (4, 13), Some((6, 4))),
    driver("ice", (5, 5), Some((6, 3))),
    driver("igb", (5, 10), None),
    driver("igc", (5, 13), None),
    driver("ixgbe", (4, 12), None),
    driver("ixgbevf", (4, 17), None),
    driver("mana", (5, 17), None),
    driver("mlx4_core", (4, 8), None),
    driver("mlx5_core", (4, 9), Some((6, 0))),
    driver("mvneta", (5, 5), Some((5, 18))),
    driver("nfp", (4, 10), None),
    driver("qede", (4, 10), None),
    driver("sfc", (5, 7), None),
    driver("tun", (4, 14), None),
    driver("veth", (4, 19), Some((5, 18))),
    driver("virtio_net", (4, 10), Some((6, 3))),
    driver("vmxnet3", (6, 6), None),
];
