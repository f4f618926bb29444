//! Clients and servers of NAT and SNAT services as they talk: what each sends, and what the other must see of it.

use std::net::SocketAddr;

use lb_common::{
    backend::LinkRecord,
    flow::{State, kind},
    net::{Mac, PROTO_TCP, PROTO_UDP},
    service::{Service, mode},
};

use super::{
    bench::{Bench, Op},
    case::{at, bench, ip},
    dut::{INGRESS, OTHER, Options, live_backend},
    frame::{Frame, Transport},
};
use crate::model::{SourceRange, flows::Entry, parse::Flow};

/// MAC of the interface that frames come in by.
pub const OWN_MAC: [u8; 6] = [2, 0x1b, 0, 0, 0, 1];
/// MAC of the clients' router.
pub const CLIENT_MAC: [u8; 6] = [2, 0xc1, 0, 0, 0, 1];
/// First and number of source ports of the SNAT services.
pub const SOURCE_PORTS: (u16, u16) = (20_000, 1000);

/// Addresses of one family.
#[derive(Clone, Copy, Debug)]
pub struct Net {
    /// Name for messages.
    pub name: &'static str,
    /// A client.
    pub client: &'static str,
    /// Its router, which complains.
    pub router: &'static str,
    /// The VIP, with the port that its service is on.
    pub vip: &'static str,
    /// The VIP on a port whose service keeps the port that was asked for.
    pub vip_same_port: &'static str,
    /// Its server.
    pub server: &'static str,
    /// Addresses that servers see under SNAT.
    pub sources: [&'static str; 2],
    /// Slot of the server.
    pub slot: u16,
}

/// IPv4.
pub const V4: Net = Net {
    name: "IPv4",
    client: "10.1.0.1:40000",
    router: "10.1.9.9",
    vip: "10.0.0.100:104",
    vip_same_port: "10.0.0.100:2575",
    server: "10.3.0.5:11112",
    sources: ["10.3.0.2", "10.3.0.3"],
    slot: 0,
};
/// IPv6.
pub const V6: Net = Net {
    name: "IPv6",
    client: "[2001:db8:1::1]:40000",
    router: "2001:db8:1::99",
    vip: "[2001:db8::100]:104",
    vip_same_port: "[2001:db8::100]:2575",
    server: "[2001:db8:3::5]:11112",
    sources: ["2001:db8:3::2", "2001:db8:3::3"],
    slot: 2,
};
/// Either.
pub const NETS: [Net; 2] = [V4, V6];
/// Modes with both directions in sight.
pub const ROUTED: [(&str, u8); 2] = [("NAT", mode::NAT), ("SNAT", mode::SNAT)];

/// Every mode that routes, in either family, with a name for messages.
#[must_use]
pub fn every_routed() -> Vec<(String, u8, Net)> {
    let of = |(name, mode)| NETS.map(|net| (format!("{name} {}", net.name), mode, net));
    ROUTED.into_iter().flat_map(of).collect()
}

/// A bench with services of this mode and these flags in both families, TCP and UDP, one server each.
#[must_use]
pub fn routed(options: Options, mode: u8, flags: u8) -> Bench {
    let mut bench = bench(options, 4);
    for (ifindex, last) in [(INGRESS, 1), (OTHER, 2)] {
        let mac = Mac([2, 0x1b, 0, 0, 0, last]);
        bench.set(&Op::Link(ifindex, LinkRecord { mac, mtu: 0 }));
    }
    for (n, net) in (0..).zip(NETS) {
        let server = at(net.server);
        bench.set(&Op::Target(net.slot, server));
        bench.set(&Op::Target(net.slot + 1, SocketAddr::new(server.ip(), 0)));
        let both = |vip| [(at(vip), PROTO_TCP), (at(vip), PROTO_UDP)];
        for (id, vip, slot) in [(2 * n, net.vip, net.slot), (2 * n + 1, net.vip_same_port, net.slot + 1)] {
            let (first_port, ports) = SOURCE_PORTS;
            let sources = SourceRange { addrs: net.sources.map(ip).to_vec(), first_port, ports };
            bench.set(&Op::Sources(id, sources));
            bench.serve(id, Service { mode, flags, ..Service::default() }, &both(vip), &[slot]);
        }
    }
    bench
}

/// One connection through a NAT or SNAT service: both sides of it, and how it looks on either.
#[derive(Clone, Debug)]
pub struct Talk {
    /// Client's packets as the client sends them.
    pub outside: Flow,
    /// Client's packets as the server sees them.
    pub inside: Flow,
    /// The server's slot.
    pub slot: u16,
    /// Tags of the client's frames: protocol and control information.
    pub tags: Vec<(u16, u16)>,
    /// MAC that the client's frames come from.
    pub mac: [u8; 6],
}

impl Talk {
    /// Begins one with this frame of the client's and checks what the server sees of it. What a SNAT source must be is
    /// for the model to say; it is in the entry.
    ///
    /// # Panics
    ///
    /// When anything is not as it must be.
    #[must_use]
    pub fn begin(bench: &mut Bench, first: &Frame) -> Self {
        let ran = bench.run(&first.bytes());
        let outside = flow_of(first);
        let entry = bench.remembered().get(&outside).copied();
        let entry = entry.unwrap_or_else(|| panic!("{outside:?} was not begun: verdict {}", ran.verdict));
        let inside = entry.rewrite.expect("a rewrite").flow;
        let (slot, tags, mac) = (entry.choice.slot, first.tags.clone(), first.src_mac);
        let talk = Self { outside, inside, slot, tags, mac };
        assert_eq!(
            super::bench::hex(&ran.frame),
            super::bench::hex(&talk.arrives(first)),
            "the first packet"
        );
        if entry.choice.kind == kind::NAT {
            assert_eq!(inside.src, outside.src, "NAT keeps the client's address");
        }
        talk
    }

    /// A segment of the client's.
    #[must_use]
    pub fn segment(&self, flags: u8) -> Frame {
        let tags = self.tags.clone();
        Frame { tags, src_mac: self.mac, ..Frame::tcp(self.outside.src, self.outside.dst, flags) }
    }

    /// A datagram of the client's.
    #[must_use]
    pub fn datagram(&self, payload: &[u8]) -> Frame {
        Frame { transport: Transport::Udp, payload: payload.to_vec(), ..self.segment(0) }
    }

    /// A segment of the server's.
    #[must_use]
    pub fn answer(&self, flags: u8) -> Frame {
        let Flow { src, dst, .. } = self.inside.reversed();
        Frame { src_mac: live_backend(self.slot).dst_mac.0, dst_mac: OWN_MAC, ..Frame::tcp(src, dst, flags) }
    }

    /// A datagram of the server's.
    #[must_use]
    pub fn answer_datagram(&self, payload: &[u8]) -> Frame {
        Frame { transport: Transport::Udp, payload: payload.to_vec(), ..self.answer(0) }
    }

    /// What the server must see of a client's frame.
    #[must_use]
    pub fn arrives(&self, frame: &Frame) -> Vec<u8> {
        self.at_server(frame).bytes()
    }

    /// The same, as a frame that can be cut or quoted.
    #[must_use]
    pub fn at_server(&self, frame: &Frame) -> Frame {
        let backend = live_backend(self.slot);
        Frame {
            dst_mac: backend.dst_mac.0,
            src_mac: backend.src_mac.0,
            tags: Vec::new(),
            src: self.inside.src,
            dst: self.inside.dst,
            ttl: frame.ttl - 1,
            ..frame.clone()
        }
    }

    /// What the client must see of a server's frame.
    #[must_use]
    pub fn returns(&self, frame: &Frame) -> Vec<u8> {
        self.at_client(frame).bytes()
    }

    /// The same, as a frame that can be cut or quoted.
    #[must_use]
    pub fn at_client(&self, frame: &Frame) -> Frame {
        Frame {
            dst_mac: self.mac,
            src_mac: OWN_MAC,
            tags: self.tags.clone(),
            src: self.outside.dst,
            dst: self.outside.src,
            ttl: frame.ttl - 1,
            ..frame.clone()
        }
    }

    /// Both entries of the pair, if there are any; the client's first.
    #[must_use]
    pub fn entries(&self, bench: &Bench) -> [Option<Entry>; 2] {
        let all = bench.remembered();
        [self.outside, self.inside.reversed()].map(|flow| all.get(&flow).copied())
    }

    /// Checks states of the pair, the client's first; `None` = there is no pair.
    ///
    /// # Panics
    ///
    /// When they are others, or the entries do not lead to each other.
    pub fn assert_states(&self, bench: &Bench, states: Option<[State; 2]>, when: &str) {
        let entries = self.entries(bench);
        let is = entries.map(|entry| entry.map(|entry| entry.state));
        let want = states.map_or([None; 2], |states| states.map(Some));
        assert_eq!(is, want, "states {when}");
        if let [Some(own), Some(reply)] = entries {
            assert_eq!(own.rewrite.map(|rewrite| rewrite.flow), Some(self.inside), "{when}");
            assert_eq!(reply.rewrite.map(|rewrite| rewrite.flow), Some(self.outside.reversed()), "{when}");
            assert_eq!(reply.choice.kind, kind::REPLY, "{when}");
            assert_eq!(
                own.rewrite.map(|rewrite| rewrite.hop),
                reply.rewrite.map(|rewrite| rewrite.hop),
                "{when}"
            );
        }
    }
}

/// The five-tuple of a TCP or UDP frame.
#[must_use]
pub const fn flow_of(frame: &Frame) -> Flow {
    let proto = if matches!(frame.transport, Transport::Udp) { PROTO_UDP } else { PROTO_TCP };
    Flow { src: frame.src, dst: frame.dst, proto }
}
