//! What would become of a packet: bodies of `GET /v1/explain`.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::config::Protocol;

/// Query of `GET /v1/explain`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainQuery {
    /// Client's address.
    pub client: IpAddr,
    /// Client's port; `None` = one that no connection has.
    pub port: Option<u16>,
    /// VIP's name or address.
    pub vip: String,
    /// Port of the VIP.
    pub vip_port: u16,
    /// Transport protocol.
    pub protocol: Protocol,
}

/// Answer to `GET /v1/explain`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Explanation {
    /// Client's address and port.
    pub client: SocketAddr,
    /// The port was made up, since none was given.
    pub client_port_made_up: bool,
    /// VIP's name, if a service is there.
    pub vip: Option<String>,
    /// Address and port asked for.
    pub to: SocketAddr,
    /// Transport protocol.
    pub protocol: Protocol,
    /// What becomes of the packet.
    pub treatment: Treatment,
    /// Name of the real server that gets it.
    pub rip: Option<String>,
    /// Names of what the packet path counted for it.
    pub reasons: Vec<String>,
    /// The packet as it leaves.
    pub leaves: Option<Leaving>,
    /// All of it in words: what becomes of the packet, then why, then how it leaves.
    pub lines: Vec<String>,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Treatment {
    /// Its sender gets an answer from the packet path.
    Answered,
    /// Nobody gets it.
    Dropped,
    /// A real server gets it.
    Forwarded,
    /// The kernel of this machine gets it.
    Kernel,
}

/// A packet as it leaves this machine.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Leaving {
    /// Interface.
    pub interface: String,
    /// From this MAC.
    pub src_mac: String,
    /// To this MAC.
    pub dst_mac: String,
    /// VLAN identifiers, outer first.
    pub vlans: Vec<u16>,
    /// From this address and port.
    pub src: SocketAddr,
    /// To this address and port.
    pub dst: SocketAddr,
}
