//! The border to the kernel. [`Op`]s go in through a [`Writer`], which the reconciler alone owns; facts come out
//! through a [`Reader`], which cannot write. `bpf` is the only importer of aya; `fake` is its twin in memory.

pub mod bpf;
pub mod explain;
pub mod table;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use lb_common::{
    backend::{Backend, LinkRecord},
    event::Event,
    flow::{Ends, Hop},
    load::Limits,
    net::words,
    persist::PersistKey,
    service::{Service, Sources, mode},
    settings::Settings,
};

use self::explain::Explainer;
use crate::model::config::Protocol;

#[cfg(test)]
pub mod fake;

/// Address, port and protocol that packets are matched on.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ServiceKey {
    /// VIP address.
    pub ip: IpAddr,
    /// Port in host order.
    pub port: u16,
    /// Transport protocol.
    pub protocol: Protocol,
}

/// One step towards the desired state. Each is idempotent: applied twice, it leaves what it leaves applied once.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Op {
    /// Run the program on this link: native if the driver can, generic if not.
    AttachLink {
        /// Interface index.
        ifindex: u32,
    },
    /// Forget a backend's slot.
    ClearBackend {
        /// Slot.
        slot: u16,
    },
    /// Forget a service's id: its table, record and counters.
    ClearService {
        /// Service id.
        service: u16,
    },
    /// Take the program off this link.
    DetachLink {
        /// Interface index.
        ifindex: u32,
    },
    /// Write a backend's record, its target and who it is.
    PutBackend {
        /// Slot.
        slot: u16,
        /// Who it is.
        identity: BackendIdentity,
        /// What is written into frames.
        backend: Backend,
    },
    /// Lead packets for a key to a service.
    PutKey {
        /// Key.
        key: ServiceKey,
        /// Service id.
        service: u16,
    },
    /// Say how replies leave by a link.
    PutLink {
        /// Interface index.
        ifindex: u32,
        /// Its MAC and MTU; all zero = nothing leaves by it.
        record: LinkRecord,
    },
    /// Say how busy a server may be, and its share of new flows.
    PutLoad {
        /// Slot.
        slot: u16,
        /// What the packet path reads.
        limits: Limits,
    },
    /// Write a service's record and who it is.
    PutService {
        /// Service id.
        service: u16,
        /// Who it is.
        identity: ServiceIdentity,
        /// What the packet path reads.
        record: Service,
    },
    /// Write a service's source addresses and ports; all zero = it has none.
    PutSources {
        /// Service id.
        service: u16,
        /// Addresses and ports.
        sources: Sources,
    },
    /// Replace a service's look-up table, whole.
    PutTable {
        /// Service id.
        service: u16,
        /// What stands in it.
        table: TableSpec,
    },
    /// Say which slot a server, known by its slot in one service, has in another (or in the same one).
    PutTwin {
        /// Slot, as persistence entries name it.
        slot: u16,
        /// The other service's id.
        service: u16,
        /// Its slot there.
        twin: u16,
    },
    /// Lead packets for a key nowhere.
    RemoveKey {
        /// Key.
        key: ServiceKey,
    },
    /// Forget that a server is in another service, too.
    RemoveTwin {
        /// Slot, as persistence entries name it.
        slot: u16,
        /// The other service's id.
        service: u16,
    },
    /// Make these the balanced addresses: the bits that the packet path asks first. Bits are set before any
    /// others are cleared.
    SetFilter {
        /// Every VIP address that has a key.
        addresses: BTreeSet<IpAddr>,
        /// Every server of a NAT or SNAT service.
        servers: BTreeSet<IpAddr>,
    },
}

/// Who a service id stands for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServiceIdentity {
    /// VIP's name.
    pub name: String,
    /// Seconds an established flow may be idle.
    pub idle_timeout_secs: u32,
}

/// Who a slot stands for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BackendIdentity {
    /// Service id.
    pub service: u16,
    /// Real server's name.
    pub name: String,
    /// Its address.
    pub ip: IpAddr,
    /// Its port, host order; `None` = the one that the client asked for.
    pub port: Option<u16>,
}

/// How a look-up table is filled.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Filling {
    /// The first server alone; the others stand in the list, for when it is full.
    First,
    /// Consistent hashing.
    Maglev,
    /// One period of smooth weighted round robin.
    RoundRobin,
}

/// What stands in a look-up table: enough to fill it, and cheap to compare.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TableSpec {
    /// How it is filled.
    pub filling: Filling,
    /// Servers with a share, in the order that ties go by. Empty = nobody takes new flows.
    pub entrants: Vec<TableEntrant>,
}

/// A server's share of a table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TableEntrant {
    /// Backend slot.
    pub slot: u16,
    /// Weight, 1 to 256.
    pub weight: u16,
    /// Server's address: what consistent hashing knows it by.
    pub ip: IpAddr,
    /// Its port, which tells two servers at one address apart; `None` = the one that the client asked for.
    pub port: Option<u16>,
}

/// What the kernel holds: read back after a restart, kept up to date by every op applied since.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Installed {
    /// Links with our program, and how it runs there.
    pub links: BTreeMap<u32, XdpMode>,
    /// How replies leave by links; those of which nothing is known are not there.
    pub link_records: BTreeMap<u32, LinkRecord>,
    /// Balanced addresses, and servers of NAT and SNAT; `None` after a restart (the bits do not say).
    pub filter: Option<(BTreeSet<IpAddr>, BTreeSet<IpAddr>)>,
    /// Keys.
    pub keys: BTreeMap<ServiceKey, u16>,
    /// Services by id.
    pub services: BTreeMap<u16, (ServiceIdentity, Service)>,
    /// Source addresses and ports by service id; services without any are not there.
    pub sources: BTreeMap<u16, Sources>,
    /// Backends by slot.
    pub backends: BTreeMap<u16, (BackendIdentity, Backend)>,
    /// Tables by service id; a service that is missing here after a restart gets its table written again.
    pub tables: BTreeMap<u16, TableSpec>,
    /// How busy backends may be, by slot; those of which nothing is said are not there.
    pub loads: BTreeMap<u16, Limits>,
    /// By slot and service: the slot that the same server has in that service.
    pub twins: BTreeMap<(u16, u16), u16>,
    /// Generation that each slot had last, also of free slots, so that a reused slot never repeats one.
    pub generations: BTreeMap<u16, u16>,
}

impl Installed {
    /// True for a SNAT service without source addresses, which therefore has no servers in its table.
    #[must_use]
    pub fn lacks_sources(&self, service: u16) -> bool {
        let record = self.services.get(&service).map(|(_, record)| record);
        record.is_some_and(|r| r.mode == mode::SNAT) && !self.sources.contains_key(&service)
    }

    /// Leading bits of a client's address that entries of each persistence group are kept under, by group and family.
    #[must_use]
    pub fn persist_prefixes(&self) -> BTreeMap<(u32, u32), u8> {
        let prefix = |(key, id): (&ServiceKey, &u16)| {
            let (_, record) = self.services.get(id).filter(|(_, record)| record.persist_prefix > 0)?;
            Some(((record.persist_group, if key.ip.is_ipv4() { 4 } else { 6 }), record.persist_prefix))
        };
        self.keys.iter().filter_map(prefix).collect()
    }

    /// Servers of NAT and SNAT services: their packets come through here.
    pub fn routed_servers(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let routed = |id| self.services.get(id).is_some_and(|(_, record)| record.mode != mode::DR);
        self.backends.values().filter(move |(who, _)| routed(&who.service)).map(|(who, _)| who.ip)
    }
}

/// How the program runs on a link.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum XdpMode {
    /// In the kernel's network stack, after the driver built its buffer: works everywhere, slow.
    Generic,
    /// In the driver.
    Native,
}

/// Changes the kernel's tables.
pub trait Writer: Send {
    /// Applies one op.
    ///
    /// # Errors
    ///
    /// [`Error`] names the op's object and the cure; the op may then have been applied in part, and is safe to
    /// repeat.
    fn apply(&mut self, op: &Op) -> Result<(), Error>;

    /// Replaces several look-up tables: each at once, and one after the other. Gives what came of each, in their order.
    fn put_tables(&mut self, tables: &[(u16, &TableSpec)]) -> Vec<Result<(), Error>> {
        let put = |&(service, table): &(u16, &TableSpec)| {
            self.apply(&Op::PutTable { service, table: table.clone() })
        };
        tables.iter().map(put).collect()
    }

    /// What the kernel holds now.
    fn installed(&self) -> &Installed;

    /// Finds links whose program something else took off, and forgets them: they are among
    /// [`installed`](Self::installed) no longer. An interface that is gone is not among them.
    ///
    /// # Errors
    ///
    /// When the kernel cannot be asked.
    fn lost_links(&mut self) -> Result<BTreeSet<u32>, Error>;

    /// What the maps were made with: the unit of time that records are written in.
    fn settings(&self) -> Settings;

    /// Tells the packet path that a controller lives; retires flows and persistence entries that are past their time or
    /// whose backend no longer counts, counts the rest, and corrects the packet path's own counts of active flows by it.
    /// Reads memory; a million flows take milliseconds.
    ///
    /// # Errors
    ///
    /// When the clock or a map cannot be read.
    fn sweep(&mut self) -> Result<FlowCensus, Error>;

    /// Ends flows that stand in the tables now. TCP flows stay for some seconds, in which who sends into one gets a RST;
    /// others are gone at once.
    ///
    /// # Errors
    ///
    /// When the clock cannot be read.
    fn kill(&mut self, which: &FlowFilter) -> Result<Killed, Error>;

    /// Forgets persistence entries, and says how many clients that concerns.
    ///
    /// # Errors
    ///
    /// When a map cannot be read or written; some entries may then be gone.
    fn clear_persistence(&mut self, which: &PersistFilter) -> Result<u64, Error>;

    /// The flow tables, for those who look for pairs of NAT and SNAT beside the writer.
    fn pairs(&self) -> Arc<dyn Pairs>;

    /// What tells what the packet path would do, beside the writer.
    fn explainer(&self) -> Arc<dyn Explainer>;

    /// Takes everything away that a controller ever made: links, pins, maps.
    ///
    /// # Errors
    ///
    /// Names the first thing that could not be removed, after trying all.
    fn remove_all(self: Box<Self>) -> Result<(), Error>;
}

/// Which flows: those that satisfy every condition that is there.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct FlowFilter {
    /// Of one of these services.
    pub services: Option<BTreeSet<u16>>,
    /// To one of these backend slots.
    pub slots: Option<BTreeSet<u16>>,
    /// From this address, and from this port if there is one.
    pub client: Option<(IpAddr, Option<u16>)>,
}

/// Which persistence entries: those that satisfy every condition that is there.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PersistFilter {
    /// Kept under this group: [`Service::persist_group`].
    pub group: Option<u32>,
    /// Naming one of these backend slots.
    pub slots: Option<BTreeSet<u16>>,
    /// Of this client: its address, cut to the prefix of the services of the entry's group.
    pub client: Option<IpAddr>,
}

impl FlowFilter {
    /// True for a flow of this service to this slot from this client.
    #[must_use]
    pub fn holds(&self, service: u16, slot: u16, client: (IpAddr, u16)) -> bool {
        self.services.as_ref().is_none_or(|services| services.contains(&service))
            && self.slots.as_ref().is_none_or(|slots| slots.contains(&slot))
            && self.client.is_none_or(|(ip, port)| ip == client.0 && port.is_none_or(|port| port == client.1))
    }
}

impl PersistFilter {
    /// True for this entry, when groups cut addresses to these prefixes ([`Installed::persist_prefixes`]).
    #[must_use]
    pub fn holds(&self, key: &PersistKey, slot: u16, prefixes: &BTreeMap<(u32, u32), u8>) -> bool {
        let is_clients = |client: IpAddr| {
            let family = if client.is_ipv4() { 4 } else { 6 };
            let prefix = prefixes.get(&(key.group, u32::from(family)));
            prefix.is_some_and(|&prefix| PersistKey::new(key.group, prefix, words(client), family) == *key)
        };
        self.group.is_none_or(|group| group == key.group)
            && self.slots.as_ref().is_none_or(|slots| slots.contains(&slot))
            && self.client.is_none_or(is_clients)
    }
}

/// What became of the flows that were to end.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Killed {
    /// How many there were. A flow of NAT or SNAT is one.
    pub flows: u64,
    /// TCP connections of NAT and SNAT among them, at most [`MAX_KILLED_PAIRS`]: both ends can be told. They carry the
    /// generation that they had.
    pub pairs: Vec<PairedFlow>,
}

/// Connections that [`Killed::pairs`] lists at most.
pub const MAX_KILLED_PAIRS: usize = 32_768;

/// A persistence entry that counts or will soon be gone.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Persisted {
    /// Client, cut to the prefix of its group.
    pub client: IpAddr,
    /// Group that it is kept under: [`Service::persist_group`].
    pub group: u32,
    /// Backend slot.
    pub slot: u16,
    /// Backend's generation when the entry was made.
    pub generation: u16,
    /// Milliseconds since the last new flow that used it, to within a second.
    pub idle_millis: u64,
}

/// Finds connections of NAT and SNAT in the flow tables. Reads memory, and may go on while others write.
pub trait Pairs: Send + Sync {
    /// TCP flows to servers with these slots and generations, up to `limit`; the second value says how many there
    /// are in all. Reads whole tables.
    fn flows_of(&self, dead: &BTreeSet<(u16, u16)>, limit: usize) -> (Vec<PairedFlow>, u64);

    /// True while the entry that a flow was found in holds that very flow.
    fn stands(&self, flow: &PairedFlow) -> bool;
}

/// A connection of NAT or SNAT as both ends see it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PairedFlow {
    /// As the client's packets come: from the client to the VIP.
    pub client: Ends,
    /// As they go on: from the client, or SNAT's source, to the real server.
    pub server: Ends,
    /// The way that the client's packets came.
    pub hop: Hop,
    /// Backend slot.
    pub slot: u16,
    /// Generation it was made with.
    pub generation: u16,
    /// Where it was found.
    pub place: Place,
}

/// An entry of a flow table at one time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Place {
    /// Number of the table.
    pub table: usize,
    /// Number of the entry in it.
    pub entry: usize,
    /// Its control word as it was read.
    pub control: u64,
}

/// Tells what the kernel counted.
pub trait Reader: Send {
    /// Sums of the per-CPU counters.
    ///
    /// # Errors
    ///
    /// When a map cannot be read.
    fn counters(&mut self) -> Result<Counters, Error>;

    /// Events since the last call, at most `limit`.
    fn events(&mut self, limit: usize) -> Vec<Event>;

    /// Every flow, up to `limit`, once; the second value says how many there are in all.
    ///
    /// # Errors
    ///
    /// When the clock cannot be read.
    fn flows(&mut self, limit: usize) -> Result<(Vec<Flow>, u64), Error>;

    /// Persistence entries of clients that have proved themselves, up to `limit`; the second value says how many there
    /// are in all.
    ///
    /// # Errors
    ///
    /// When a map cannot be read.
    fn persistence(&mut self, limit: usize) -> Result<(Vec<Persisted>, u64), Error>;
}

/// Flows found by a sweep. A flow of NAT or SNAT has two entries and is counted by the one of the client's packets.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct FlowCensus {
    /// IPv4 flows past their first packet, in whichever state.
    pub established_v4: u64,
    /// IPv6 flows past their first packet, in whichever state.
    pub established_v6: u64,
    /// Entries of servers' packets among established IPv4 flows: they take room beside the flows themselves.
    pub replies_v4: u64,
    /// Entries of servers' packets among established IPv6 flows.
    pub replies_v6: u64,
    /// Half-open flows.
    pub half_open: u64,
    /// Active flows per backend slot: established TCP connections and UDP flows.
    pub active_by_slot: BTreeMap<u16, u64>,
    /// TCP connections per backend slot whose client (or server, where its packets are seen) has said FIN.
    pub closing_by_slot: BTreeMap<u16, u64>,
    /// SNAT flows per service id, half-open ones too: each holds a source port.
    pub sources_in_use: BTreeMap<u16, u64>,
    /// Entries retired by this sweep.
    pub retired: u64,
    /// Persistence entries by the slot that they name: of one VIP of the group, where several share it.
    pub persistent_by_slot: BTreeMap<u16, u64>,
    /// Room for flows: IPv4, IPv6, half-open of each family.
    pub capacity: [u64; 3],
    /// SYNs that came again since a client last proved a connection, per backend slot; none where there were none.
    pub syn_repeats_by_slot: BTreeMap<u16, u64>,
}

impl FlowCensus {
    /// Persistence entries.
    #[must_use]
    pub fn persistent(&self) -> u64 {
        self.persistent_by_slot.values().sum()
    }
}

/// What was forwarded for a service, to every backend it ever had.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ServiceCounts {
    /// Packets.
    pub packets: u64,
    /// Bytes, from the Ethernet header to the end of the IP packet.
    pub bytes: u64,
    /// Flows steered: first packets.
    pub flows: u64,
}

/// Sums over all CPUs.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Counters {
    /// By service id.
    pub services: BTreeMap<u16, ServiceCounts>,
    /// By slot: packets, bytes.
    pub backends: BTreeMap<u16, (u64, u64)>,
    /// In the order of [`lb_common::counter::Reason::ALL`].
    pub reasons: Vec<u64>,
}

/// One flow as the entry of its client's packets tells it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Flow {
    /// Client address and port.
    pub client: (IpAddr, u16),
    /// VIP address and port.
    pub vip: (IpAddr, u16),
    /// Where the server gets its packets, under NAT and SNAT.
    pub server: Option<(IpAddr, u16)>,
    /// Whom the server sees, under NAT and SNAT.
    pub source: Option<(IpAddr, u16)>,
    /// Transport protocol.
    pub protocol: Protocol,
    /// State.
    pub state: lb_common::flow::State,
    /// Service id.
    pub service: u16,
    /// Backend slot.
    pub slot: u16,
    /// Generation it was made with.
    pub generation: u16,
    /// Milliseconds since its last packet, to within a second.
    pub idle_millis: u64,
}

/// Why the kernel did not do as asked. The text names the object, the value and the cure.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct Error {
    /// One line for people.
    pub text: String,
    /// What the library or the kernel said.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// The text and what lies below it, in one line. Of a cause that has several lines (the verifier's log) it
    /// gives the first.
    #[must_use]
    pub fn line(&self) -> String {
        let mut line = self.text.clone();
        let mut below = self.source.as_ref().map(|s| s.as_ref() as &dyn std::error::Error);
        while let Some(error) = below {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            // Libraries like to repeat their cause in their own text.
            if !line.ends_with(first) {
                line.push_str(&format!(": {first}"));
            }
            below = error.source();
        }
        line
    }
}
