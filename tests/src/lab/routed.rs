//! Labs with routers: a ward with the clients, two routers between it and the balancer's segment, and the servers
//! beside the balancer (one arm) or behind it (two arms).
//!
//! ```text
//!              +-- router .1 --+-- lb .2, VIPs .100 --(two arms)-- servers .11 .12
//! client .50 --+               |                                        |
//!   ward       +-- router2 .3 -+------ servers .11 .12 (one arm)        |
//!              +--------------------------------------------------------+
//! ```
//!
//! Clients send by `router`. Servers answer by `router2`, past the balancer, or by the balancer as their gateway.

use std::net::IpAddr;

use super::topology::{Host, LAN, Lab, Segment, Wire};

/// Where the clients are.
pub const WARD: Segment = Segment::numbered("ward", 20);
/// Where the servers are when the balancer has two arms.
pub const INSIDE: Segment = Segment::numbered("inside", 2);

/// Last octet of the floating gateway address.
const GATEWAY: u8 = 254;

/// How many arms the balancer has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Arms {
    /// Servers are in its own subnet.
    One,
    /// It stands between clients and servers.
    Two,
}

/// Which way servers answer by default.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Way {
    /// Past the balancer, as with direct routing.
    Router2,
    /// By the balancer's floating gateway address.
    Gateway,
    /// By the address that the balancer's machine itself has in the servers' subnet.
    Machine,
    /// They know no way but their own subnet.
    Nowhere,
}

/// A lab with routers.
#[derive(Debug)]
pub struct Routed {
    lab: Lab,
    arms: Arms,
}

impl Routed {
    /// Lays it out. Servers have no default route yet.
    ///
    /// # Panics
    ///
    /// When the kernel refuses a part.
    #[must_use]
    pub fn new(arms: Arms) -> Self {
        let wire = |host, dev, segment, octet| Wire { host, dev, segment, octet };
        let servers = match arms {
            Arms::One => LAN,
            Arms::Two => INSIDE,
        };
        let mut wires = vec![
            wire("client", "eth0", WARD, 50),
            wire("router", "eth0", LAN, 1),
            wire("router", "eth1", WARD, 1),
            wire("router2", "eth0", LAN, 3),
            wire("router2", "eth1", WARD, 3),
            wire("pacs1", "eth0", servers, 11),
            wire("pacs2", "eth0", servers, 12),
        ];
        match arms {
            Arms::One => wires.push(wire("lb", "eth0", LAN, 2)),
            Arms::Two => wires.extend([
                wire("lb", "eth-ext", LAN, 2),
                wire("lb", "eth-int", INSIDE, 2),
                wire("router2", "eth2", INSIDE, 3),
            ]),
        }
        let routed = Self { lab: Lab::wire(&wires, None), arms };
        for router in ["router", "router2"] {
            forward(routed.lab.host(router));
        }
        // With a second router on the segment, hosts would be told of a better way than the one under test.
        for host in ["client", "lb", "pacs1", "pacs2"] {
            routed.lab.host(host).netns.sysctls(&[("net/ipv4/conf/all/accept_redirects", "0")]);
            routed.lab.host(host).netns.sysctls(&[("net/ipv6/conf/all/accept_redirects", "0")]);
        }
        routed.send_by("router");
        set_default(routed.lb(), LAN, Some(1));
        if arms == Arms::Two {
            let lb = routed.lb().cable(LAN);
            routed.lab.host("router").netns.ip(&format!(
                "route add {}/24 via {}\n-6 route add {}/64 via {}",
                INSIDE.v4(0),
                lb.v4,
                INSIDE.v6(0),
                lb.v6
            ));
        }
        routed
    }

    /// The lab beneath.
    #[must_use]
    pub const fn lab(&self) -> &Lab {
        &self.lab
    }

    /// How many arms the balancer has.
    #[must_use]
    pub const fn arms(&self) -> Arms {
        self.arms
    }

    /// The client.
    #[must_use]
    pub fn client(&self) -> &Host {
        self.lab.host("client")
    }

    /// The balancer.
    #[must_use]
    pub fn lb(&self) -> &Host {
        self.lab.host("lb")
    }

    /// Both servers.
    #[must_use]
    pub fn servers(&self) -> [&Host; 2] {
        ["pacs1", "pacs2"].map(|name| self.lab.host(name))
    }

    /// The segment that the servers are in.
    #[must_use]
    pub const fn inside(&self) -> Segment {
        match self.arms {
            Arms::One => LAN,
            Arms::Two => INSIDE,
        }
    }

    /// The floating gateway address of the same family as `other`.
    #[must_use]
    pub fn gateway(&self, other: IpAddr) -> IpAddr {
        self.inside().address_like(GATEWAY, other)
    }

    /// The balancer's own address towards the servers, of the same family as `other`.
    #[must_use]
    pub fn machine(&self, other: IpAddr) -> IpAddr {
        self.inside().address_like(2, other)
    }

    /// The client sends by the router called `name`.
    ///
    /// # Panics
    ///
    /// When the kernel refuses.
    pub fn send_by(&self, name: &str) {
        let octet = self.lab.host(name).cable(WARD).v4.octets()[3];
        set_default(self.client(), WARD, Some(octet));
    }

    /// The servers answer by `way`.
    ///
    /// # Panics
    ///
    /// When the kernel refuses.
    pub fn answer_by(&self, way: Way) {
        let octet = match way {
            Way::Router2 => Some(3),
            Way::Gateway => Some(GATEWAY),
            Way::Machine => Some(2),
            Way::Nowhere => None,
        };
        for server in self.servers() {
            set_default(server, self.inside(), octet);
        }
    }

    /// Sets what both routers can send at most towards the ward; the client, and the other way, are not touched.
    ///
    /// # Panics
    ///
    /// When the kernel refuses.
    pub fn set_far_mtu(&self, mtu: u16) {
        for router in ["router", "router2"] {
            let router = self.lab.host(router);
            router.netns.ip(&format!("link set {} mtu {mtu}", router.cable(WARD).dev));
        }
    }
}

/// Makes a host a router.
///
/// # Panics
///
/// When the kernel refuses.
pub fn forward(host: &Host) {
    host.netns.sysctls(&[("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")]);
}

/// Gives a host a default route of each family by the neighbour with this last octet, or takes it away.
fn set_default(host: &Host, segment: Segment, octet: Option<u8>) {
    let lines = match octet {
        Some(octet) => format!(
            "route replace default via {}\n-6 route replace default via {}",
            segment.v4(octet),
            segment.v6(octet)
        ),
        // Flushing what is not there is no error, deleting it would be.
        None => "route flush exact default\n-6 route flush exact default".to_owned(),
    };
    host.netns.ip(&lines);
}
