//! What the machine should be, out of the configuration and the links. Pure.
#![forbid(unsafe_code)]

use std::{collections::BTreeSet, net::IpAddr};

use crate::{
    model::{
        config::{Config, Mode, Vip},
        net::NetFacts,
    },
    net::subnet,
};

/// Everything that should be so.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Wanted {
    /// Kernel parameters in the order of writing: switching forwarding on resets others.
    pub parameters: Vec<Parameter>,
    /// What stands in the nftables table.
    pub rules: Rules,
    /// Families in which servers' replies to clients end here: those of transparent VIPs.
    pub replies: Families,
}

/// A kernel parameter.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Parameter {
    /// Path below `/proc/sys`.
    pub path: String,
    /// Value as the kernel writes it.
    pub value: &'static str,
    /// What does not work without it: the middle of a sentence.
    pub why: &'static str,
    /// It belongs to one interface, and is gone when that is.
    pub of_interface: bool,
}

impl Parameter {
    /// As sysctl(8) spells it: dots between parts, and a dot of an interface's name as a slash.
    #[must_use]
    pub fn name(&self) -> String {
        self.path
            .chars()
            .map(|c| {
                if c == '/' {
                    '.'
                } else if c == '.' {
                    '/'
                } else {
                    c
                }
            })
            .collect()
    }
}

/// What stands in the nftables table. Empty = there is no table.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Rules {
    /// Interfaces by which forwarded traffic leaves with this machine's address.
    pub masquerade: BTreeSet<String>,
    /// Interfaces by which no IPv6 redirect leaves. IPv4 has a parameter for it, IPv6 has none.
    pub no_redirects: BTreeSet<String>,
    /// What belongs to a transparent socket is marked, whoever it is addressed to.
    pub transparent: bool,
}

impl Rules {
    /// True when there is nothing to have a table for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.masquerade.is_empty() && self.no_redirects.is_empty() && !self.transparent
    }
}

/// Address families that the machine forwards.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Families {
    /// IPv4.
    pub v4: bool,
    /// IPv6.
    pub v6: bool,
}

impl Families {
    /// Families in which servers have this machine as their router: those of NAT services and gateway addresses, and
    /// with masquerading those of every service (IPv4 when there is none).
    #[must_use]
    pub fn forwarded(config: &Config) -> Self {
        let gateway = &config.gateway;
        let masquerades = !gateway.masquerade.is_empty();
        let vips = config.vips.iter().filter(|vip| vip.enabled && (vip.mode == Mode::L4Nat || masquerades));
        let mut families =
            Self::of(vips.map(|vip| vip.ip).chain(gateway.addresses.iter().map(|address| address.ip)));
        families.v4 |= masquerades && families == Self::default();
        families
    }

    /// Families in which the proxy sends with its clients' addresses.
    #[must_use]
    pub fn transparent(config: &Config) -> Self {
        let is_transparent = |vip: &&Vip| vip.proxy.as_ref().is_some_and(|proxy| proxy.transparent);
        Self::of(config.vips.iter().filter(|vip| vip.enabled).filter(is_transparent).map(|vip| vip.ip))
    }

    fn of(addresses: impl Iterator<Item = IpAddr>) -> Self {
        let mut families = Self::default();
        for ip in addresses {
            match ip {
                IpAddr::V4(_) => families.v4 = true,
                IpAddr::V6(_) => families.v6 = true,
            }
        }
        families
    }
}

/// What is wanted. `attached` are the links that the program should run on.
#[must_use]
pub fn wanted(config: &Config, facts: &NetFacts, attached: &BTreeSet<u32>) -> Wanted {
    let families = Families::forwarded(config);
    let links = links_in_use(config, facts, attached);
    let mut parameters = Vec::new();
    let mut put = |path: String, value, why, of_interface| {
        parameters.push(Parameter { path, value, why, of_interface });
    };
    let unreachable = "servers behind this machine reach nobody but the clients of their services";
    let shortcut = "servers may be told a shortcut past this machine, and their replies then miss it";
    if families.v4 {
        put("net/ipv4/ip_forward".to_owned(), "1", unreachable, false);
        // The kernel looks at both `all` and the interface, and one of them is enough.
        put("net/ipv4/conf/all/send_redirects".to_owned(), "0", shortcut, false);
        for name in &links {
            put(format!("net/ipv4/conf/{name}/send_redirects"), "0", shortcut, true);
        }
    }
    if families.v6 {
        put("net/ipv6/conf/all/forwarding".to_owned(), "1", unreachable, false);
    }
    let replies = Families::transparent(config);
    let rules = Rules {
        masquerade: config.gateway.masquerade.iter().cloned().collect(),
        no_redirects: if families.v6 { links } else { BTreeSet::new() },
        transparent: replies != Families::default(),
    };
    Wanted { parameters, rules, replies }
}

/// Names of the links that the program runs on, of the interfaces on top of them (VLANs), and of those that are to
/// carry VIPs, gateway addresses and masqueraded traffic.
fn links_in_use(config: &Config, facts: &NetFacts, attached: &BTreeSet<u32>) -> BTreeSet<String> {
    let in_use = |index: u32| {
        let mut at = Some(index);
        // Links come from netlink: the bound keeps two that name each other as parent from looping.
        (0..=facts.links.len()).any(|_| {
            let here = at;
            at = here.and_then(|index| facts.links.get(&index)).and_then(|link| link.parent);
            here.is_some_and(|index| attached.contains(&index))
        })
    };
    let below = facts.links.values().filter(|link| in_use(link.index)).map(|link| link.name.clone());
    let gateways = config.gateway.addresses.iter().filter_map(|address| {
        let connected = || Some(facts.link_name(subnet::connected(facts, address.ip)?.ifindex));
        address.interface.clone().or_else(connected)
    });
    let exists = |name: &String| facts.links.values().any(|link| link.name == *name);
    let named = gateways.chain(config.gateway.masquerade.iter().cloned()).filter(exists);
    below.chain(named).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use lb_common::net::Mac;

    use super::*;
    use crate::model::{
        config::{Gateway, GatewayAddress, Ports},
        net::{Address, Link},
    };

    fn vip(mode: Mode, ip: &str) -> Vip {
        Vip::new(ip, mode, ip.parse().unwrap(), Ports::Ranges(vec![104..=104]))
    }

    fn config(vips: Vec<Vip>, gateway: Gateway) -> Config {
        Config { gateway, vips, ..Config::default() }
    }

    fn link(index: u32, name: &str, parent: Option<u32>) -> (u32, Link) {
        (index, Link { parent, ..Link::ethernet(index, name, Mac::default()) })
    }

    /// eth0 (2) with a VLAN (5) on it, eth1 (3), eth2 (4).
    fn facts() -> NetFacts {
        let eth2 = Address {
            ifindex: 4,
            ip: "10.3.0.1".parse().unwrap(),
            prefix: 24,
            duplicate: false,
            tentative: false,
        };
        NetFacts {
            complete: true,
            links: BTreeMap::from([
                link(2, "eth0", None),
                link(3, "eth1", None),
                link(4, "eth2", None),
                link(5, "eth0.104", Some(2)),
            ]),
            addresses: vec![eth2],
            ..NetFacts::default()
        }
    }

    fn names(wanted: &Wanted) -> Vec<String> {
        wanted.parameters.iter().map(|p| format!("{}={}", p.name(), p.value)).collect()
    }

    #[test]
    fn direct_routing_snat_and_what_is_disabled_want_nothing_of_the_machine() {
        let disabled = Vip { enabled: false, ..vip(Mode::L4Nat, "10.0.0.3") };
        let vips = vec![vip(Mode::L4Dr, "10.0.0.1"), vip(Mode::L4Snat, "10.0.0.2"), disabled];
        let wanted = wanted(&config(vips, Gateway::default()), &facts(), &BTreeSet::from([2, 3]));
        assert_eq!(wanted, Wanted::default());
    }

    #[test]
    fn nat_forwards_its_family_and_sends_no_redirects_on_the_links_in_use() {
        let config = config(vec![vip(Mode::L4Nat, "10.0.0.1")], Gateway::default());
        let wanted = wanted(&config, &facts(), &BTreeSet::from([2]));
        let expected = [
            "net.ipv4.ip_forward=1",
            "net.ipv4.conf.all.send_redirects=0",
            "net.ipv4.conf.eth0.send_redirects=0",
            "net.ipv4.conf.eth0/104.send_redirects=0",
        ];
        assert_eq!(names(&wanted), expected);
        assert!(wanted.rules.is_empty());
    }

    #[test]
    fn nat_of_ipv6_keeps_redirects_in_by_rules() {
        let config = config(vec![vip(Mode::L4Nat, "2001:db8::1")], Gateway::default());
        let wanted = wanted(&config, &facts(), &BTreeSet::from([3]));
        assert_eq!(names(&wanted), ["net.ipv6.conf.all.forwarding=1"]);
        assert_eq!(wanted.rules.no_redirects, BTreeSet::from(["eth1".to_owned()]));
    }

    #[test]
    fn a_gateway_address_forwards_on_the_interface_of_its_subnet() {
        let addresses = vec![GatewayAddress { ip: "10.3.0.250".parse().unwrap(), interface: None }];
        let gateway = Gateway { addresses, masquerade: Vec::new() };
        let wanted = wanted(&config(Vec::new(), gateway), &facts(), &BTreeSet::new());
        assert!(names(&wanted).contains(&"net.ipv4.conf.eth2.send_redirects=0".to_owned()), "{wanted:?}");
    }

    #[test]
    fn masquerading_forwards_the_families_of_all_services_or_ipv4() {
        let gateway = Gateway { addresses: Vec::new(), masquerade: vec!["eth1".to_owned()] };
        let wanted =
            |vips, gateway: &Gateway| wanted(&config(vips, gateway.clone()), &facts(), &BTreeSet::new());
        let alone = wanted(Vec::new(), &gateway);
        assert!(names(&alone).contains(&"net.ipv4.ip_forward=1".to_owned()), "{alone:?}");
        assert!(names(&alone).contains(&"net.ipv4.conf.eth1.send_redirects=0".to_owned()), "{alone:?}");
        assert_eq!(alone.rules.masquerade, BTreeSet::from(["eth1".to_owned()]));
        let v6 = wanted(vec![vip(Mode::L4Snat, "2001:db8::1")], &gateway);
        assert_eq!(names(&v6), ["net.ipv6.conf.all.forwarding=1"]);
    }

    #[test]
    fn transparent_vips_want_replies_of_their_family_and_no_forwarding() {
        let transparent = |mode, ip| {
            let mut vip = vip(mode, ip);
            if let Some(proxy) = &mut vip.proxy {
                proxy.transparent = true;
            }
            vip
        };
        let disabled = Vip { enabled: false, ..transparent(Mode::L7Tcp, "10.0.0.9") };
        let vips = vec![transparent(Mode::L7Http, "2001:db8::1"), vip(Mode::L7Tcp, "10.0.0.1"), disabled];
        let wanted = wanted(&config(vips, Gateway::default()), &facts(), &BTreeSet::new());
        assert_eq!(wanted.replies, Families { v4: false, v6: true });
        assert!(wanted.rules.transparent && wanted.parameters.is_empty(), "{wanted:?}");
    }
}
