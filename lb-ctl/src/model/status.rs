//! Observed state as the API gives it and `lbctl` prints it.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::{
    config::{Mode, Protocol, Protocols, Scheduler},
    health::{FailureReason, Step, Verdict},
    operator::Word,
};

/// `GET /v1/status`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Status {
    /// Node's name.
    pub node: String,
    /// Version of the daemon.
    pub version: String,
    /// Seconds since the epoch when this was made.
    pub at_epoch_secs: u64,
    /// Seconds since the daemon started.
    pub uptime_secs: u64,
    /// Worst colour of all VIPs, or `Red` when the data plane is not attached.
    pub health: Colour,
    /// What is wrong beyond single servers, a line each with its cure: generic mode, link down, full table, an address in use.
    pub problems: Vec<String>,
    /// Links that the program is attached to.
    pub links: Vec<LinkStatus>,
    /// VIPs in the order of the configuration.
    pub vips: Vec<VipStatus>,
    /// Flow tables.
    pub flows: FlowsStatus,
    /// Reason counters that are not zero.
    pub reasons: Vec<ReasonCount>,
}

/// Colour of a VIP or server (R79).
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Colour {
    /// All well.
    Green,
    /// Some servers are not in service.
    Yellow,
    /// None is.
    Red,
}

/// A link that the program is attached to.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct LinkStatus {
    /// Interface name.
    pub name: String,
    /// Interface index.
    pub ifindex: u32,
    /// `native` or `generic`.
    pub xdp: String,
    /// Up and with carrier.
    pub up: bool,
}

/// A VIP.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct VipStatus {
    /// Label.
    pub name: String,
    /// Address.
    pub ip: IpAddr,
    /// Ports; none where only TLS is served.
    pub ports: String,
    /// Port of its address where TLS ends; layer 7 only.
    #[serde(default)]
    pub tls_port: Option<u16>,
    /// Transport protocols.
    pub protocol: Protocols,
    /// Forwarding mode.
    pub mode: Mode,
    /// Scheduler.
    pub scheduler: Scheduler,
    /// Configured but not served.
    pub enabled: bool,
    /// Colour (R79).
    pub colour: Colour,
    /// Why it is not served at all, with the cure, e.g. the address is in use by another host.
    pub problem: Option<String>,
    /// Connections that are active now: established TCP connections, and UDP flows that are not silent.
    pub connections: u64,
    /// TCP connections whose client (under NAT and SNAT: client or server) has said FIN; they are remembered for up
    /// to two minutes of silence.
    pub closing: u64,
    /// Flows steered since the counters began.
    pub flows_total: u64,
    /// Packets forwarded.
    pub packets_total: u64,
    /// Bytes forwarded.
    pub bytes_total: u64,
    /// Source ports towards the servers; only SNAT has them.
    pub source_ports: Option<SourcePorts>,
    /// Real servers in the order of the configuration.
    pub rips: Vec<RipStatus>,
}

/// Source ports of a SNAT VIP.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SourcePorts {
    /// Held by a connection.
    pub in_use: u64,
    /// How many there are: addresses times ports, once for each live server.
    pub capacity: u64,
}

/// A real server of a VIP.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct RipStatus {
    /// Label.
    pub name: String,
    /// Address.
    pub ip: IpAddr,
    /// Port; `None` = the one that the client asked for.
    pub port: Option<u16>,
    /// Weight.
    pub weight: u16,
    /// The one word for what it is now.
    pub state: RipState,
    /// What the operator said.
    pub operator: Word,
    /// What the check says.
    pub verdict: Verdict,
    /// Seconds since the verdict last changed.
    pub verdict_for_secs: u64,
    /// `c-echo 3 ms`, or why it is not in service: `A-ASSOCIATE-RJ: called AE title not recognised`, `no answer to ARP`.
    pub detail: String,
    /// Class of what failed last: the check of the server itself, or the VIP at the server.
    pub reason: Option<FailureReason>,
    /// Steps of the last check, and of the last try of the VIP at the server.
    pub steps: Vec<Step>,
    /// SYNs that clients sent again since a new connection last got through.
    pub syn_repeats: u64,
    /// Connections that are active now: established TCP connections, and UDP flows that are not silent.
    pub connections: u64,
    /// TCP connections whose client has said FIN; they are remembered for two minutes of silence.
    pub closing: u64,
    /// Packets forwarded.
    pub packets_total: u64,
    /// Bytes forwarded.
    pub bytes_total: u64,
    /// MAC that frames are sent to, if known.
    pub mac: Option<String>,
}

/// The one word for a real server.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RipState {
    /// Takes new flows.
    Active,
    /// Not checked yet: takes nothing.
    Checking,
    /// Down by health, or its MAC is not known.
    Down,
    /// Keeps its flows, takes no new ones.
    Drain,
    /// Takes nothing, by the operator's word.
    Halt,
}

/// Flow tables.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct FlowsStatus {
    /// IPv4 flows past their first packet, in whichever state: they take room.
    pub established_v4: u64,
    /// Entries beside them for the servers' packets of NAT and SNAT flows: they take room too.
    pub replies_v4: u64,
    /// Room for both.
    pub capacity_v4: u64,
    /// IPv6 flows past their first packet, in whichever state.
    pub established_v6: u64,
    /// Entries beside them for servers' packets.
    pub replies_v6: u64,
    /// Room for both.
    pub capacity_v6: u64,
    /// Half-open flows of both families.
    pub half_open: u64,
    /// Kernel memory of the tables in bytes.
    pub memory_bytes: u64,
}

/// One reason counter.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ReasonCount {
    /// Name.
    pub reason: String,
    /// One sentence.
    pub text: String,
    /// Packets.
    pub packets: u64,
}

/// One flow: an element of `GET /v1/flows`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct FlowStatus {
    /// `tcp` or `udp`.
    pub protocol: Protocol,
    /// Client address.
    pub client: IpAddr,
    /// Client port.
    pub client_port: u16,
    /// VIP address.
    pub vip_ip: IpAddr,
    /// VIP port.
    pub vip_port: u16,
    /// Where the server gets its packets, under NAT and SNAT.
    pub server: Option<SocketAddr>,
    /// Whom the server sees, under NAT and SNAT.
    pub source: Option<SocketAddr>,
    /// VIP's name, if the service still exists.
    pub vip: Option<String>,
    /// Real server's name, if it still exists.
    pub rip: Option<String>,
    /// `new`, `established`, `closing`, `datagrams`; under NAT and SNAT also `peer-closing`, `closed`.
    pub state: String,
    /// Seconds since the last packet.
    pub idle_secs: u64,
}

/// Query of `GET /v1/flows`: which flows to list. A key that is left out does not narrow the list.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct FlowQuery {
    /// At most this many flows; the total counts all that match.
    pub limit: Option<usize>,
    /// VIP's name.
    pub vip: Option<String>,
    /// Real server's name, in whichever VIP.
    pub rip: Option<String>,
    /// Client address.
    pub client: Option<IpAddr>,
}

/// Answer to `GET /v1/flows`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct FlowList {
    /// Flows that match the query, as many as its limit allows.
    pub flows: Vec<FlowStatus>,
    /// How many match it.
    pub total: u64,
}

/// Query of `GET /v1/flows/count`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct FlowCountQuery {
    /// What is counted together.
    pub by: CountBy,
}

/// What flows are counted together by.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CountBy {
    /// Client address.
    Client,
    /// Real server, as `VIP/RIP`.
    Rip,
    /// State of the flow.
    State,
    /// VIP.
    Vip,
}

/// An element of the answer to `GET /v1/flows/count`; the largest come first.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct FlowCount {
    /// VIP, `VIP/RIP`, client address or state.
    pub key: String,
    /// Flows in the tables now, in whichever state.
    pub flows: u64,
}

/// Answer to `GET /v1/config`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ConfigText {
    /// The configuration in force, all files in one, as TOML.
    pub toml: String,
}
