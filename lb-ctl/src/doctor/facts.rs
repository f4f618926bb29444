//! What the checks look at.

use std::collections::BTreeMap;

use crate::{model::net::NetFacts, source_ports::PortFacts};

/// Everything gathered. `None` always means that it could not be found out.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Kernel release as `uname -r` gives it.
    pub kernel_release: String,
    /// The kernel describes its types (`/sys/kernel/btf/vmlinux`).
    pub btf: bool,
    /// The JIT compiler for BPF is on.
    pub jit: Option<bool>,
    /// A BPF file system is mounted on `/sys/fs/bpf`.
    pub bpffs: bool,
    /// Effective capabilities of this process, a bit each (capabilities(7)).
    pub capabilities: u64,
    /// Memory that could be used without swapping, in bytes.
    pub memory_available_bytes: Option<u64>,
    /// `net.ipv4.ip_forward`.
    pub forwarding_v4: Option<bool>,
    /// `net.ipv6.conf.all.forwarding`.
    pub forwarding_v6: Option<bool>,
    /// The program `nft` can be run.
    pub nft: Option<bool>,
    /// The HAProxy that is installed, in its own words, or why it cannot be used; `None` when no VIP needs it.
    pub haproxy: Option<Result<String, String>>,
    /// Ports in use.
    pub ports: Option<PortFacts>,
    /// Links, addresses and ways.
    pub net: NetFacts,
    /// Why `net` is empty, if it is.
    pub net_error: Option<String>,
    /// More about each link, by index.
    pub interfaces: BTreeMap<u32, Interface>,
}

/// What netlink's link message does not say, or not to the controller.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Interface {
    /// Kernel driver; for a virtual interface its kind.
    pub driver: Option<String>,
    /// Whether an XDP program runs there.
    pub xdp: Xdp,
    /// Offloads as `ethtool -k` names them.
    pub offloads: Option<BTreeMap<String, bool>>,
    /// `net.ipv4.conf.*.rp_filter`, the larger of `all` and the interface, which is what counts.
    pub rp_filter: Option<u8>,
    /// `net.ipv4.conf.*.arp_ignore`, likewise.
    pub arp_ignore: Option<u8>,
    /// `net.ipv4.conf.*.send_redirects`, likewise.
    pub send_redirects: Option<u8>,
    /// `net.ipv6.conf.*.accept_ra` of the interface.
    pub accept_ra: Option<u8>,
    /// What a bond does with its ports.
    pub bond: Option<Bond>,
}

/// How a bond uses its ports, in the words of the kernel's documentation (networking/bonding).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Bond {
    /// `active-backup`, `802.3ad` ...
    pub mode: String,
    /// `xmit_hash_policy`: `layer2`, `layer3+4` ...
    pub hash: String,
}

/// Whether and how an XDP program runs on a link.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Xdp {
    /// In the network stack.
    Generic,
    /// In the driver (or the hardware).
    Native,
    /// Not at all.
    #[default]
    None,
}

/// Major and minor version of a kernel.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct KernelVersion(pub u32, pub u32);

impl KernelVersion {
    /// Reads the front of a release: `6.1.0-18-amd64` is 6.1.
    #[must_use]
    pub fn parse(release: &str) -> Option<Self> {
        let mut parts = release.split(|c: char| !c.is_ascii_digit());
        Some(Self(parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    }
}

impl std::fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}
