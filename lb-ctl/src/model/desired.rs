//! What the data plane should hold. Plain data, keyed by names alone: ids and slots are the plan's business.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use lb_common::{
    backend::{self, Backend, LinkRecord},
    hash,
    load::Limits,
    net::Mac,
    service::{Service, Sources, pick},
};

use super::net::VipAddress;
use crate::dataplane::{Filling, Installed, ServiceKey};

/// Name of the fallback server among a service's servers. No server of the configuration can have it.
pub const FALLBACK: &str = "(fallback)";

/// Number that the kernel knows a persistence group by: the same on every node, and never a service's id.
#[must_use]
pub fn group_id(name: &str) -> u32 {
    hash::bytes(hash::STEER_SEED, name.as_bytes()) as u32 | 1 << 31
}

/// Everything that should be in the kernel.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct DesiredState {
    /// Addresses that this machine should have (of VIPs, sources of SNAT, gateways), each with the link that the
    /// program must run on before the address is there: else the kernel would answer for the servers.
    pub addresses: BTreeMap<VipAddress, u32>,
    /// Addresses that this machine should have and that no program is needed for: the companion proxy alone serves them.
    pub proxy_addresses: BTreeSet<VipAddress>,
    /// Links that the program should run on, by interface index.
    pub links: BTreeSet<u32>,
    /// How replies leave by each link that they may leave by: all links that the program should run on.
    pub link_records: BTreeMap<u32, LinkRecord>,
    /// Services by VIP name.
    pub services: BTreeMap<String, DesiredService>,
}

/// One VIP as the packet path should know it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DesiredService {
    /// Address, port and protocol of each of its ports.
    pub keys: BTreeSet<ServiceKey>,
    /// What the packet path reads; `persist_group` is 0, the plan writes the service's id there, or the group's.
    pub record: Service,
    /// Persistence group that it shares with other VIPs; `None` = it keeps its own.
    pub group: Option<String>,
    /// Seconds an established flow may be idle.
    pub idle_timeout_secs: u32,
    /// Source addresses and ports; all zero unless the mode is SNAT.
    pub sources: Sources,
    /// How the look-up table is filled.
    pub filling: Filling,
    /// Servers by name.
    pub backends: BTreeMap<String, DesiredBackend>,
    /// Servers that take new flows, in the order that ties go by. All of them are live.
    pub entrants: Vec<Entrant>,
}

/// One real server of a VIP.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DesiredBackend {
    /// Server's address.
    pub ip: IpAddr,
    /// Its port, host order; `None` = the one that the client asked for, as always under direct routing.
    pub port: Option<u16>,
    /// How frames reach it; `None` = dead: nothing may go there, its flows go at once.
    pub forward: Option<Forward>,
    /// How many connections it takes, and its share of new ones: 0 unless it is an entrant (but for want of SNAT's
    /// sources), and of a failover list the first.
    pub limits: Limits,
}

/// A server's share of new flows.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entrant {
    /// Server's name.
    pub name: String,
    /// Weight, 1 to 256.
    pub weight: u16,
}

/// What is written into a frame so that it reaches a server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Forward {
    /// Interface that the frame leaves by, below any VLAN interface.
    pub ifindex: u32,
    /// Server's MAC.
    pub dst_mac: Mac,
    /// Ours.
    pub src_mac: Mac,
    /// VLAN tags: 0, 1 or 2.
    pub vlan_depth: u8,
    /// VLAN identifiers, outer first; unused ones 0.
    pub vlan: [u16; 2],
    /// Tag protocol of the outer tag when there are two, else 0.
    pub outer_tpid: u16,
    /// Largest IP packet that the interface takes; 0 = not known.
    pub mtu: u16,
}

impl Forward {
    /// The live record that carries this.
    #[must_use]
    pub const fn live(&self, generation: u16) -> Backend {
        Backend {
            generation,
            state: backend::state::LIVE,
            vlan_depth: self.vlan_depth,
            ifindex: self.ifindex,
            dst_mac: self.dst_mac,
            src_mac: self.src_mac,
            vlan: self.vlan,
            outer_tpid: self.outer_tpid,
            mtu: self.mtu,
            pad: [0; 2],
        }
    }

    /// What a record says of the way to its server; `None` when the record is dead.
    #[must_use]
    pub const fn of(record: &Backend) -> Option<Self> {
        if record.state != backend::state::LIVE {
            return None;
        }
        Some(Self {
            ifindex: record.ifindex,
            dst_mac: record.dst_mac,
            src_mac: record.src_mac,
            vlan_depth: record.vlan_depth,
            vlan: record.vlan,
            outer_tpid: record.outer_tpid,
            mtu: record.mtu,
        })
    }
}

impl DesiredState {
    /// What the kernel holds, told in names: the state that a restarted controller starts from. Addresses are
    /// left out, the kernel's tables do not know them.
    #[must_use]
    pub fn from_installed(installed: &Installed) -> Self {
        let mut services = BTreeMap::new();
        for (&id, (identity, record)) in &installed.services {
            let backends: BTreeMap<_, _> = installed
                .backends
                .iter()
                .filter(|(_, (who, _))| who.service == id)
                .map(|(slot, (who, record))| {
                    let backend = DesiredBackend {
                        ip: who.ip,
                        port: who.port,
                        forward: Forward::of(record),
                        limits: installed.loads.get(slot).copied().unwrap_or_default(),
                    };
                    (who.name.clone(), backend)
                })
                .collect();
            let table = installed.tables.get(&id);
            let entrants = table.map_or_else(Vec::new, |table| {
                let name = |slot| installed.backends.get(slot).map(|(who, _)| who.name.clone());
                let named = table
                    .entrants
                    .iter()
                    .filter_map(|e| Some(Entrant { name: name(&e.slot)?, weight: e.weight }));
                named.collect()
            });
            let service = DesiredService {
                keys: installed
                    .keys
                    .iter()
                    .filter(|&(_, &service)| service == id)
                    .map(|(&key, _)| key)
                    .collect(),
                record: Service { persist_group: 0, ..*record },
                // The kernel knows its number alone.
                group: None,
                idle_timeout_secs: identity.idle_timeout_secs,
                sources: installed.sources.get(&id).copied().unwrap_or_default(),
                filling: table.map_or_else(|| filling_of(record.pick), |table| table.filling),
                backends,
                entrants,
            };
            services.insert(identity.name.clone(), service);
        }
        Self {
            addresses: BTreeMap::new(),
            proxy_addresses: BTreeSet::new(),
            links: installed.links.keys().copied().collect(),
            link_records: installed.link_records.clone(),
            services,
        }
    }
}

/// How the table of a service with this [`pick`] is filled, as far as that can be told.
const fn filling_of(pick: u8) -> Filling {
    match pick {
        pick::FIRST => Filling::First,
        pick::HASH_FLOW | pick::HASH_CLIENT | pick::LEAST => Filling::Maglev,
        _ => Filling::RoundRobin,
    }
}
