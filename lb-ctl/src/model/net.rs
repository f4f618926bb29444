//! Facts of the network as netlink tells them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use lb_common::net::Mac;

/// Everything known, replaced whole at each change.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NetFacts {
    /// False until the first full dump has been read.
    pub complete: bool,
    /// Links by index.
    pub links: BTreeMap<u32, Link>,
    /// Addresses of this machine.
    pub addresses: Vec<Address>,
    /// How each watched address (VIPs, real servers) is reached.
    pub paths: BTreeMap<IpAddr, Path>,
}

impl NetFacts {
    /// A link's name, also when it is gone: `interface 7` then.
    #[must_use]
    pub fn link_name(&self, ifindex: u32) -> String {
        self.links.get(&ifindex).map_or_else(|| format!("interface {ifindex}"), |link| link.name.clone())
    }
}

/// A network interface. The default is one of which nothing is known.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// `IFLA_INFO_KIND`: `vlan`, `bond`, `bridge`, `veth`; `None` for plain hardware.
    pub kind: Option<String>,
    /// Hardware address.
    pub mac: Mac,
    /// Largest IP packet in bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// The cable is in.
    pub carrier: bool,
    /// The interface below (a VLAN interface's parent).
    pub parent: Option<u32>,
    /// The bond or bridge above.
    pub master: Option<u32>,
    /// VLAN identifier and tag protocol of a VLAN interface.
    pub vlan: Option<VlanTag>,
}

impl Link {
    /// Ethernet in working order, with nothing above or below it.
    #[must_use]
    pub fn ethernet(index: u32, name: impl Into<String>, mac: Mac) -> Self {
        Self { index, name: name.into(), mac, mtu: 1500, up: true, carrier: true, ..Self::default() }
    }
}

/// A VLAN tag.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct VlanTag {
    /// Identifier, 1 to 4094.
    pub id: u16,
    /// Tag protocol: 0x8100 or 0x88a8.
    pub tpid: u16,
}

/// An address of this machine.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Address {
    /// Interface.
    pub ifindex: u32,
    /// Address.
    pub ip: IpAddr,
    /// Prefix length.
    pub prefix: u8,
    /// IPv6 duplicate address detection found another owner.
    pub duplicate: bool,
    /// IPv6 duplicate address detection still runs.
    pub tentative: bool,
}

/// How an address is reached.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Path {
    /// Interface that the route leaves by; for an address of this machine the interface that carries it.
    /// `None` = no route.
    pub ifindex: Option<u32>,
    /// A gateway stands between: not in a connected subnet.
    pub gateway: Option<IpAddr>,
    /// The address is this machine's own.
    pub local: bool,
    /// Neighbour's MAC, while the kernel believes in it.
    pub mac: Option<Mac>,
    /// The kernel asked and got no answer.
    pub failed: bool,
}

/// Addresses that the network task resolves and keeps warm.
pub type Watched = BTreeSet<IpAddr>;

/// An address that this machine should have: of a VIP, a source of SNAT, a gateway.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct VipAddress {
    /// Interface that carries it.
    pub ifindex: u32,
    /// Address; the prefix is 32 or 128.
    pub ip: IpAddr,
}

/// Another machine answers for an address of ours.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct ForeignAnswer {
    /// The address: a VIP's.
    pub ip: IpAddr,
    /// Interface it was heard on.
    pub ifindex: u32,
    /// Who answers.
    pub mac: Mac,
}

/// Everybody who answered for an address of ours of late.
pub type ForeignAnswers = BTreeSet<ForeignAnswer>;
