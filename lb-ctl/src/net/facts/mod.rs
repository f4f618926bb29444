//! What netlink messages add up to: a fold from messages to [`NetFacts`]. Pure.
#![forbid(unsafe_code)]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "netlink's enums are open-ended: what is not named here says nothing that is needed"
)]

use std::{collections::BTreeMap, net::IpAddr};

use lb_common::net::Mac;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressMessage},
    link::{InfoData, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia},
};

use crate::model::net::{Address, Link, NetFacts, Path, VlanTag, Watched};

/// Everything heard so far.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    links: BTreeMap<u32, Link>,
    addresses: BTreeMap<(u32, IpAddr, u8), Address>,
    neighbours: BTreeMap<(u32, IpAddr), Neighbour>,
    routes: BTreeMap<IpAddr, Route>,
}

/// What a message changed.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Effect {
    /// Nothing that matters here.
    Nothing,
    /// A watched neighbour: the facts can be told as they are.
    Neighbour,
    /// Something that ways depend on: routes must be asked for again before the facts are whole.
    Routes,
}

/// The way to an address as the kernel's routing tells it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Route {
    ifindex: Option<u32>,
    gateway: Option<IpAddr>,
    local: bool,
}

/// How the kernel is asked about a neighbour.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Ask {
    /// Confirm a MAC that is known: unicast probes now.
    Confirm,
    /// Find a MAC.
    Resolve,
}

#[derive(Clone, Copy, Debug, Default)]
struct Neighbour {
    mac: Option<Mac>,
    /// The last time the kernel stopped asking, nobody had answered.
    failed: bool,
    /// Set by an administrator, or on an interface without ARP: nothing to ask.
    fixed: bool,
    /// The kernel is asking right now.
    asking: bool,
}

impl State {
    /// An empty state that remembers which neighbours did not answer: the kernel, asking again, does not say so.
    pub(super) fn successor(&self) -> Self {
        let failed = self.neighbours.iter().filter(|(_, neighbour)| neighbour.failed);
        let neighbours =
            failed.map(|(&key, _)| (key, Neighbour { failed: true, ..Neighbour::default() })).collect();
        Self { neighbours, ..Self::default() }
    }

    /// Forgets which neighbours did not answer.
    pub(super) fn forget_failures(&mut self) {
        for neighbour in self.neighbours.values_mut() {
            neighbour.failed = false;
        }
    }

    /// True when each watched address either has its MAC, failed, or needs none.
    pub(super) fn is_settled(&self) -> bool {
        self.facts().paths.values().all(|path| {
            path.ifindex.is_none()
                || path.gateway.is_some()
                || path.local
                || path.mac.is_some()
                || path.failed
        })
    }

    /// Takes in one message of a dump or a notification.
    pub(super) fn apply(&mut self, message: RouteNetlinkMessage, watched: &Watched) -> Effect {
        match message {
            RouteNetlinkMessage::NewLink(message) => self.new_link(&message),
            RouteNetlinkMessage::DelLink(message) => self.del_link(&message),
            RouteNetlinkMessage::NewAddress(message) => match address(&message) {
                Some(address) => {
                    self.addresses.insert((address.ifindex, address.ip, address.prefix), address);
                    Effect::Routes
                }
                None => Effect::Nothing,
            },
            RouteNetlinkMessage::DelAddress(message) => match address(&message) {
                Some(address) => {
                    self.addresses.remove(&(address.ifindex, address.ip, address.prefix));
                    Effect::Routes
                }
                None => Effect::Nothing,
            },
            RouteNetlinkMessage::NewNeighbour(message) => self.new_neighbour(&message, watched),
            RouteNetlinkMessage::DelNeighbour(message) => self.del_neighbour(&message, watched),
            RouteNetlinkMessage::NewRoute(_)
            | RouteNetlinkMessage::DelRoute(_)
            | RouteNetlinkMessage::NewRule(_)
            | RouteNetlinkMessage::DelRule(_) => Effect::Routes,
            _ => Effect::Nothing,
        }
    }

    /// Replaces the ways to the watched addresses.
    pub(super) fn set_routes(&mut self, routes: BTreeMap<IpAddr, Route>) {
        self.routes = routes;
    }

    /// Neighbours to ask the kernel about, each with its interface. A MAC that is known is confirmed in one round of
    /// `rounds`, spread so that each round asks about as many; what is not resolved is asked for in each round.
    pub(super) fn asks(&self, round: u64, rounds: u64) -> Vec<(u32, IpAddr, Ask)> {
        let mut asks = Vec::new();
        for ((&ip, route), position) in self.routes.iter().zip(0u64..) {
            let (Some(ifindex), None, false) = (route.ifindex, route.gateway, route.local) else {
                continue;
            };
            let neighbour = self.neighbours.get(&(ifindex, ip)).copied().unwrap_or_default();
            if neighbour.fixed || neighbour.asking {
                continue;
            }
            if neighbour.mac.is_none() {
                asks.push((ifindex, ip, Ask::Resolve));
            } else if (position + round).is_multiple_of(rounds) {
                asks.push((ifindex, ip, Ask::Confirm));
            }
        }
        asks
    }

    /// The facts.
    pub(super) fn facts(&self) -> NetFacts {
        NetFacts {
            complete: true,
            links: self.links.clone(),
            addresses: self.addresses.values().cloned().collect(),
            paths: self.routes.iter().map(|(&ip, route)| (ip, self.path(ip, route))).collect(),
        }
    }

    fn path(&self, ip: IpAddr, route: &Route) -> Path {
        if route.local {
            // The kernel says `lo`; who asks wants to know where the address is.
            let carrier =
                self.addresses.values().find(|address| address.ip == ip).map(|address| address.ifindex);
            let ifindex = carrier.or(route.ifindex);
            return Path { ifindex, gateway: None, local: true, mac: None, failed: false };
        }
        let neighbour = match (route.ifindex, route.gateway) {
            (Some(ifindex), None) => self.neighbours.get(&(ifindex, ip)).copied().unwrap_or_default(),
            _ => Neighbour::default(),
        };
        Path {
            ifindex: route.ifindex,
            gateway: route.gateway,
            local: false,
            mac: neighbour.mac,
            failed: neighbour.failed,
        }
    }

    fn new_link(&mut self, message: &LinkMessage) -> Effect {
        // Bridges tell of their ports in messages of their own family, which say nothing of the link itself;
        // wireless drivers send messages that carry only their event.
        if message.header.interface_family != AddressFamily::Unspec
            || message.attributes.iter().any(|a| matches!(a, LinkAttribute::Wireless(_)))
        {
            return Effect::Nothing;
        }
        let link = link(message);
        if self.links.get(&link.index) == Some(&link) {
            return Effect::Nothing;
        }
        self.links.insert(link.index, link);
        Effect::Routes
    }

    fn del_link(&mut self, message: &LinkMessage) -> Effect {
        if message.header.interface_family != AddressFamily::Unspec {
            return Effect::Nothing;
        }
        let index = message.header.index;
        self.links.remove(&index);
        self.addresses.retain(|key, _| key.0 != index);
        self.neighbours.retain(|key, _| key.0 != index);
        Effect::Routes
    }

    fn new_neighbour(&mut self, message: &NeighbourMessage, watched: &Watched) -> Effect {
        let Some(ip) = neighbour_ip(message).filter(|ip| watched.contains(ip)) else {
            return Effect::Nothing;
        };
        let neighbour = self.neighbours.entry((message.header.ifindex, ip)).or_default();
        let mac = message.attributes.iter().find_map(|attribute| match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) => mac(bytes),
            _ => None,
        });
        use NeighbourState as S;
        let state = message.header.state;
        neighbour.fixed = matches!(state, S::Permanent | S::Noarp);
        neighbour.asking = matches!(state, S::Incomplete | S::Probe);
        neighbour.mac = match state {
            S::Reachable | S::Stale | S::Delay | S::Probe | S::Permanent | S::Noarp => mac,
            _ => None,
        };
        match state {
            S::Failed => neighbour.failed = true,
            // Asked again, or not asked at all: what was known of failure still is.
            S::Incomplete | S::None => {}
            _ => neighbour.failed = false,
        }
        Effect::Neighbour
    }

    fn del_neighbour(&mut self, message: &NeighbourMessage, watched: &Watched) -> Effect {
        let Some(ip) = neighbour_ip(message).filter(|ip| watched.contains(ip)) else {
            return Effect::Nothing;
        };
        if let Some(neighbour) = self.neighbours.get_mut(&(message.header.ifindex, ip)) {
            // The kernel tidies failed entries away; that the neighbour did not answer stays true.
            *neighbour = Neighbour { failed: neighbour.failed, ..Neighbour::default() };
        }
        Effect::Neighbour
    }
}

/// A route as an answer to a look-up tells it.
pub(super) fn route(message: &RouteMessage) -> Route {
    let local = match message.header.kind {
        RouteType::Local => true,
        RouteType::Unicast => false,
        // Unreachable, prohibited, broadcast ...: nothing that a frame could be sent to.
        _ => return Route::default(),
    };
    let mut route = Route { local, ..Route::default() };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => route.ifindex = Some(*index),
            RouteAttribute::Gateway(RouteAddress::Inet(ip)) | RouteAttribute::Via(RouteVia::Inet(ip)) => {
                route.gateway = Some((*ip).into());
            }
            RouteAttribute::Gateway(RouteAddress::Inet6(ip)) | RouteAttribute::Via(RouteVia::Inet6(ip)) => {
                route.gateway = Some((*ip).into());
            }
            _ => {}
        }
    }
    route
}

/// A link as a message tells it.
pub(super) fn link(message: &LinkMessage) -> Link {
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
        ..Link::default()
    };
    let mut elsewhere = false;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(bytes) => link.mac = mac(bytes).unwrap_or_default(),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Link(index) => link.parent = Some(*index),
            LinkAttribute::LinkNetNsId(_) => elsewhere = true,
            LinkAttribute::Controller(index) => link.master = Some(*index),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(kind) => link.kind = Some(kind.to_string()),
                        LinkInfo::Data(InfoData::Vlan(vlan)) => link.vlan = vlan_tag(vlan),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    // For a veth pair the attribute names the peer, and with a namespace id an interface of another namespace.
    if elsewhere || link.kind.as_deref() == Some("veth") || link.parent == Some(link.index) {
        link.parent = None;
    }
    link
}

fn vlan_tag(attributes: &[InfoVlan]) -> Option<VlanTag> {
    let mut tag = None;
    let mut tpid = lb_common::net::ETHERTYPE_VLAN;
    for attribute in attributes {
        match attribute {
            InfoVlan::Id(id) => tag = Some(*id),
            InfoVlan::Protocol(protocol) => tpid = (*protocol).into(),
            _ => {}
        }
    }
    tag.map(|id| VlanTag { id, tpid })
}

/// An address as a message tells it.
pub(super) fn address(message: &AddressMessage) -> Option<Address> {
    let mut flags = AddressFlags::from_bits_retain(message.header.flags.bits().into());
    let (mut local, mut shown) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => shown = Some(*ip),
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    // On a point-to-point link ADDRESS is the peer's and LOCAL is ours; elsewhere IPv6 has ADDRESS alone.
    Some(Address {
        ifindex: message.header.index,
        ip: local.or(shown)?,
        prefix: message.header.prefix_len,
        duplicate: flags.contains(AddressFlags::Dadfailed),
        tentative: flags.contains(AddressFlags::Tentative),
    })
}

fn neighbour_ip(message: &NeighbourMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => Some((*ip).into()),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => Some((*ip).into()),
        _ => None,
    })
}

/// A hardware address of Ethernet; an interface of another kind has none that could be written into a frame.
fn mac(bytes: &[u8]) -> Option<Mac> {
    bytes.try_into().ok().map(Mac).filter(|mac| !mac.is_zero())
}

#[cfg(test)]
mod tests;
