//! The reference model: what the data plane must do, in plain, slow Rust. It is written from the specification and
//! shares nothing with the packet path but the hashes and constants that are part of the contract: where a flow is
//! kept, and which place of a look-up table or source port it gets.

#![forbid(unsafe_code)]

pub mod answers;
pub mod begin;
pub mod bytes;
pub mod errors;
pub mod flows;
pub mod fragments;
pub mod life;
pub mod parse;
pub mod steer;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use lb_common::{
    backend::{Backend, LinkRecord},
    counter::{BackendTraffic, Fate, Reason, ServiceTraffic},
    load::Limits,
    net::{addr4, addr6},
    service::{Service, filter_bit4, filter_bit6, filter_source_bit4, filter_source_bit6},
};

use self::{
    answers::Trouble,
    bytes::{Way, hop_of, relinked, translated},
    flows::{Choice, FlowTable, Rewrite},
    fragments::{Remembered, Whole},
    life::{Decided, Packet},
    parse::{Content, Flow, Ours, Outline, parse},
};
use crate::packet::dut::{INGRESS, OTHER, Options, Ran, XDP_DROP, XDP_PASS, XDP_REDIRECT, XDP_TX};

/// Ticks between two writes of an entry's time.
pub const TOUCH_TICKS: u64 = 8;
/// A SYN this many ticks after the one before is another try.
pub const REPEAT_TICKS: u64 = 4;
/// A half-open bucket full of flows younger than this is being flooded.
pub const FLOOD_TICKS: u64 = 24;

/// A client's server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Persisted {
    /// Backend slot.
    pub slot: u16,
    /// Backend's generation at the time.
    pub generation: u16,
    /// When it was used last, to within a second.
    pub last_seen: u64,
}

/// How busy a server is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Busy {
    /// Active connections.
    pub active: i64,
    /// What the controller says.
    pub limits: Limits,
    /// It was full, and has not come below its minimum since.
    pub full: bool,
    /// SYNs that came again since a client last proved a connection.
    pub syn_repeats: u64,
}

/// Group and client network.
pub type PersistId = (u32, IpAddr);

/// Source addresses of a SNAT service, its first port and their number.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct SourceRange {
    /// Addresses.
    pub addrs: Vec<IpAddr>,
    /// First port.
    pub first_port: u16,
    /// Number of ports.
    pub ports: u16,
}

/// The data plane. Fields are what a controller writes and what it reads; [`Model::run`] is the packet path.
#[derive(Clone, Debug)]
pub struct Model {
    /// Services by id.
    pub services: BTreeMap<u16, Service>,
    /// Address, port, protocol to service; port 0 stands for every port that has no key of its own.
    pub keys: BTreeMap<(IpAddr, u16, u8), u16>,
    /// Places of the look-up tables by service.
    pub tables: BTreeMap<u16, Vec<u16>>,
    /// Servers of the look-up tables by service, each once.
    pub lists: BTreeMap<u16, Vec<u16>>,
    /// How busy servers are, by slot.
    pub loads: BTreeMap<u16, Busy>,
    /// Slot that a server, known by its slot in whichever service, has in this one.
    pub twins: BTreeMap<(u16, u16), u16>,
    /// When the controller was seen last.
    pub heartbeat: u64,
    /// Backends by slot.
    pub backends: BTreeMap<u16, Backend>,
    /// Servers of NAT and SNAT by slot; port 0 stands for the one that was asked for.
    pub targets: BTreeMap<u16, SocketAddr>,
    /// Sources by service.
    pub sources: BTreeMap<u16, SourceRange>,
    /// Interfaces by index.
    pub links: BTreeMap<u32, LinkRecord>,
    /// Ticks since the beginning.
    pub now: u64,
    /// Established flows of IPv4 and IPv6.
    pub established: [FlowTable; 2],
    /// Half-open flows of IPv4 and IPv6.
    pub half_open: [FlowTable; 2],
    /// Datagrams of which the first fragment was seen.
    pub fragments: BTreeMap<Whole, Remembered>,
    /// Persistence, of clients that have proved themselves.
    pub persisted: BTreeMap<PersistId, Persisted>,
    /// Persistence, of clients that have not.
    pub persisted_new: BTreeMap<PersistId, Persisted>,
    /// True when an ICMP error was sent in this tick.
    pub told: bool,
    /// Packets by reason.
    pub reasons: BTreeMap<Reason, u64>,
    /// New flows by service; `cursor` stays 0.
    pub service_traffic: BTreeMap<u16, ServiceTraffic>,
    /// What was forwarded by backend slot.
    pub backend_traffic: BTreeMap<u16, BackendTraffic>,
    cursors: BTreeMap<u16, usize>,
    devices: BTreeSet<u32>,
    persist_room: usize,
    fragment_ticks: u64,
    persist_new_ticks: u64,
    unattended_ticks: u64,
}

impl Model {
    /// An empty data plane.
    #[must_use]
    pub fn new(options: &Options) -> Self {
        let table = |flows| FlowTable::new(flows, options.seed);
        Self {
            services: BTreeMap::new(),
            keys: BTreeMap::new(),
            tables: BTreeMap::new(),
            lists: BTreeMap::new(),
            loads: BTreeMap::new(),
            twins: BTreeMap::new(),
            heartbeat: 1 << 32,
            backends: BTreeMap::new(),
            targets: BTreeMap::new(),
            sources: BTreeMap::new(),
            links: BTreeMap::new(),
            // Nothing is so old that its time would be before the beginning.
            now: 1 << 32,
            established: [table(options.flows_v4), table(options.flows_v6)],
            half_open: [table(options.half_open), table(options.half_open)],
            fragments: BTreeMap::new(),
            persisted: BTreeMap::new(),
            persisted_new: BTreeMap::new(),
            told: false,
            reasons: BTreeMap::new(),
            service_traffic: BTreeMap::new(),
            backend_traffic: BTreeMap::new(),
            cursors: BTreeMap::new(),
            devices: BTreeSet::from([OTHER]),
            persist_room: options.persist as usize,
            fragment_ticks: options.fragment_ticks.into(),
            persist_new_ticks: options.persist_new_ticks.into(),
            unattended_ticks: options.unattended_ticks.into(),
        }
    }

    /// What becomes of a frame.
    pub fn run(&mut self, frame: &[u8]) -> Ran {
        self.path(frame).unwrap_or_else(|reason| {
            self.count(reason);
            let verdict = if reason.fate() == Fate::Drop { XDP_DROP } else { XDP_PASS };
            Ran { verdict, frame: frame.to_vec() }
        })
    }

    fn path(&mut self, frame: &[u8]) -> Result<Ran, Reason> {
        let (outline, content) = parse(frame, self)?;
        match content {
            Content::Ports(flow, flags) => {
                let packet = Packet { flow, flags, hop: hop_of(frame, &outline, INGRESS as u16) };
                let decided = self.decide(&packet).inspect_err(|reason| {
                    if reason.fate() == Fate::Pass {
                        self.remember_first(&outline, None, None);
                    }
                });
                match decided? {
                    Decided::Reset => Ok(self.reset(frame, &outline)),
                    Decided::Go(choice, rewrite) => {
                        self.remember_first(&outline, Some(choice), rewrite);
                        self.deliver(frame, &outline, choice, rewrite)
                    }
                }
            }
            Content::Later(fragment) => self.later_fragment(frame, &outline, fragment),
            Content::Error(quote) => self.icmp_error(frame, &outline, &quote),
        }
    }

    fn count(&mut self, reason: Reason) {
        *self.reasons.entry(reason).or_default() += 1;
    }

    /// Sends a packet on: as it is under direct routing, else as a router does.
    fn deliver(
        &mut self,
        frame: &[u8],
        outline: &Outline,
        choice: Choice,
        rewrite: Option<Rewrite>,
    ) -> Result<Ran, Reason> {
        let way = self.way(choice, rewrite)?;
        let Some(Rewrite { flow, .. }) = rewrite else {
            return Ok(self.send(frame, outline, choice, &way));
        };
        if outline.ttl <= 1 {
            return self.tell(frame, outline, Trouble::Expired);
        }
        if way.mtu != 0 && outline.ip_len > usize::from(way.mtu) {
            return self.tell(frame, outline, Trouble::TooBig(way.mtu));
        }
        let has_ports = outline.fragment.is_none_or(|fragment| fragment.first);
        let out = translated(frame, outline, &flow, has_ports);
        Ok(self.send(&out, outline, choice, &way))
    }

    /// How packets of such an entry leave.
    fn way(&self, choice: Choice, rewrite: Option<Rewrite>) -> Result<Way, Reason> {
        let Some(rewrite) = rewrite.filter(|_| choice.is_reply()) else {
            return Ok(Way::to_backend(&self.backends[&choice.slot]));
        };
        let link = self.links.get(&rewrite.hop.ifindex.into()).filter(|link| !link.mac.is_zero());
        Ok(Way::to_hop(&rewrite.hop, *link.ok_or(Reason::StaleTable)?))
    }

    /// Counts, and gives the frame its MACs and tags.
    fn send(&mut self, frame: &[u8], outline: &Outline, choice: Choice, way: &Way) -> Ran {
        let traffic = self.backend_traffic.entry(choice.slot).or_default();
        traffic.packets += 1;
        traffic.bytes += outline.counted();
        let verdict = match way.ifindex {
            INGRESS => XDP_TX,
            other if self.devices.contains(&other) => XDP_REDIRECT,
            _ => XDP_DROP,
        };
        Ran { verdict, frame: relinked(frame, outline.tags, way) }
    }
}

impl Ours for Model {
    /// Balanced addresses, and those that share a bit of the filter with one.
    fn is_vip(&self, address: IpAddr) -> bool {
        self.has_bit(vip_bit(address))
    }

    fn is_server(&self, address: IpAddr) -> bool {
        self.has_bit(server_bit(address))
    }
}

impl Model {
    fn has_bit(&self, bit: u32) -> bool {
        self.keys.keys().any(|(vip, ..)| vip_bit(*vip) == bit)
            || self.targets.values().any(|server| server_bit(server.ip()) == bit)
    }
}

const fn vip_bit(ip: IpAddr) -> u32 {
    match ip {
        IpAddr::V4(ip) => filter_bit4(addr4(ip)),
        IpAddr::V6(ip) => filter_bit6(addr6(ip)),
    }
}

const fn server_bit(ip: IpAddr) -> u32 {
    match ip {
        IpAddr::V4(ip) => filter_source_bit4(addr4(ip)),
        IpAddr::V6(ip) => filter_source_bit6(addr6(ip)),
    }
}

/// Index of a flow's family in pairs of tables.
const fn family(flow: &Flow) -> usize {
    if flow.src.is_ipv4() { 0 } else { 1 }
}
