//! On which segments who is asked for. Pure.
#![forbid(unsafe_code)]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use lb_common::net::Mac;

use crate::model::{
    config::Config,
    net::{Address, ForeignAnswer, NetFacts, VipAddress},
};

/// What is done on a segment.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Order {
    /// Addresses of ours.
    pub(super) ips: BTreeSet<IpAddr>,
    /// Those that this machine has.
    pub(super) claimed: BTreeSet<IpAddr>,
    /// Hardware address that asks.
    pub(super) mac: Mac,
    /// IPv6 address that asks; `None` = the interface has none.
    pub(super) source: Option<Ipv6Addr>,
    /// Hardware addresses of this machine.
    pub(super) ours: Arc<BTreeSet<Mac>>,
    /// Somebody answered of late: it is asked more often, so that a cure shows.
    pub(super) suspects: bool,
}

impl Order {
    /// True for an answer that concerns this order.
    pub(super) fn covers(&self, answer: &ForeignAnswer) -> bool {
        self.ips.contains(&answer.ip) && !self.ours.contains(&answer.mac)
    }
}

/// What is to be done, by interface: where an address is (or should be) and where the servers of a VIP are.
pub(super) fn orders(
    config: &Config,
    addresses: &BTreeMap<VipAddress, u32>,
    facts: &NetFacts,
) -> BTreeMap<u32, Order> {
    if !facts.complete {
        return BTreeMap::new();
    }
    let ours: Arc<BTreeSet<Mac>> = Arc::new(facts.links.values().map(|link| link.mac).collect());
    let carriers = addresses.keys().map(|address| (address.ifindex, address.ip));
    let servers = config.vips.iter().filter(|vip| vip.enabled).flat_map(|vip| {
        let ways = vip.server_addresses().filter_map(|ip| facts.paths.get(&ip));
        let near = ways.filter(|way| !way.local && way.gateway.is_none());
        near.filter_map(|way| way.ifindex).map(|ifindex| (ifindex, vip.ip))
    });
    let mut orders: BTreeMap<u32, Order> = BTreeMap::new();
    for (ifindex, ip) in carriers.chain(servers) {
        // An interface that is down hears nothing, and one without a hardware address has nobody to ask.
        let link = facts.links.get(&ifindex).filter(|link| link.up && link.carrier && !link.mac.is_zero());
        let Some(link) = link else { continue };
        let order = orders.entry(ifindex).or_insert_with(|| Order {
            mac: link.mac,
            source: source(ifindex, facts),
            ours: Arc::clone(&ours),
            ..Order::default()
        });
        order.ips.insert(ip);
        let is_here = |address: &Address| address.ip == ip && address.ifindex == ifindex;
        if facts.addresses.iter().any(is_here) {
            order.claimed.insert(ip);
        }
    }
    orders
}

/// The address that neighbours are asked from: link-local if there is one (RFC 4861, 4.3), and no VIP in any case.
fn source(ifindex: u32, facts: &NetFacts) -> Option<Ipv6Addr> {
    let usable = facts.addresses.iter().filter(|address| {
        address.ifindex == ifindex && address.prefix < 128 && !address.tentative && !address.duplicate
    });
    let v6 = usable.filter_map(|address| match address.ip {
        IpAddr::V6(ip) => Some(ip),
        IpAddr::V4(_) => None,
    });
    v6.max_by_key(Ipv6Addr::is_unicast_link_local)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        config::{Mode, Ports, Rip, Vip},
        net::{Link, Path},
    };

    #[test]
    fn a_vip_is_asked_for_where_it_is_and_where_its_servers_are() {
        let (vip_ip, server): (IpAddr, IpAddr) = ([10, 1, 0, 100].into(), [10, 2, 0, 11].into());
        let vip = Vip { rips: vec![Rip::new("R", server)], ..Vip::new("V", Mode::L4Dr, vip_ip, Ports::All) };
        let config = Config { vips: vec![vip], ..Config::default() };
        let mac = |last| Mac([2, 0, 0, 0, 0, last]);
        let link = |index: u32, name: &str| (index, Link::ethernet(index, name, mac(index as u8)));
        let way = Path { ifindex: Some(3), gateway: None, local: false, mac: None, failed: false };
        let on = |ifindex, ip: &str, prefix| Address {
            ifindex,
            ip: ip.parse().unwrap(),
            prefix,
            duplicate: false,
            tentative: false,
        };
        let mut facts = NetFacts {
            complete: true,
            links: [link(2, "eth0"), link(3, "eth1"), link(4, "eth2")].into(),
            addresses: vec![
                on(2, "10.1.0.100", 32),
                on(2, "fd00::5", 64),
                on(2, "fe80::5", 64),
                on(3, "fd00::100", 128),
            ],
            paths: [(server, way)].into(),
        };
        let gateway: IpAddr = [10, 2, 0, 1].into();
        let addresses =
            [(VipAddress { ifindex: 2, ip: vip_ip }, 2), (VipAddress { ifindex: 3, ip: gateway }, 3)];
        let addresses = BTreeMap::from(addresses);
        let found = orders(&config, &addresses, &facts);
        let asked: Vec<_> = found.iter().map(|(index, order)| (*index, order.ips.clone())).collect();
        assert_eq!(asked, [(2, [vip_ip].into()), (3, [vip_ip, gateway].into())]);
        assert_eq!((found[&2].claimed.len(), found[&3].claimed.len()), (1, 0));
        assert_eq!(found[&2].source, Some("fe80::5".parse().unwrap()));
        assert_eq!(found[&3].source, None, "a VIP never asks");
        let answer = |mac| ForeignAnswer { ip: vip_ip, ifindex: 2, mac };
        assert!(
            found[&2].covers(&answer(mac(9))) && !found[&2].covers(&answer(mac(4))),
            "own MACs are not foreign"
        );

        facts.links.get_mut(&3).unwrap().carrier = false;
        assert_eq!(orders(&config, &addresses, &facts).len(), 1);
        facts.complete = false;
        assert_eq!(orders(&config, &addresses, &facts).len(), 0);
    }
}
