//! What the companion proxy should do, and what it does.

use std::collections::BTreeMap;

use super::{config::Vip, proxy::ProxySettings};

/// Everything that the proxy should do.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Proxies {
    /// What holds for all VIPs.
    pub settings: ProxySettings,
    /// Layer-7 VIPs that are served, in the order of the configuration.
    pub vips: Vec<DesiredProxy>,
}

impl Proxies {
    /// One of the VIPs.
    #[must_use]
    pub fn vip(&self, name: &str) -> Option<&DesiredProxy> {
        self.vips.iter().find(|desired| desired.vip.name == name)
    }
}

/// A VIP and what its servers may do now.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DesiredProxy {
    /// As it is configured.
    pub vip: Vip,
    /// By name: every server of the VIP.
    pub servers: BTreeMap<String, Service>,
}

/// What a server may do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Service {
    /// Which connections it gets.
    pub takes: Takes,
    /// Share of new connections, 0 to 256: its weight by its slow start and its agent.
    pub weight: u16,
    /// Connections in progress are ended.
    pub ends_sessions: bool,
}

/// Which connections a server gets.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Takes {
    /// New ones.
    Everything,
    /// New ones of clients that persistence sends there.
    Persistent,
    /// None.
    Nothing,
}

/// What the proxy does.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Proxied {
    /// The goal that was carried out or refused last.
    pub number: u64,
    /// What is wrong, a line each with its cure.
    pub problems: Vec<String>,
    /// By VIP name: why the VIP is not served as it is configured, with the cure.
    pub refused: BTreeMap<String, String>,
    /// By VIP name: what is known of those that are served.
    pub vips: BTreeMap<String, ProxiedVip>,
}

/// What the proxy says of a VIP, over all its processes.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ProxiedVip {
    /// Connections of clients now.
    pub connections: u64,
    /// Connections of clients since the proxy's present process began.
    pub connections_total: u64,
    /// Bytes in both directions since then.
    pub bytes_total: u64,
    /// By server name.
    pub servers: BTreeMap<String, ProxiedServer>,
}

/// What the proxy says of a server.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ProxiedServer {
    /// Connections to it now.
    pub connections: u64,
    /// Bytes in both directions since the proxy's present process began.
    pub bytes_total: u64,
    /// It takes new connections, as the proxy has it.
    pub in_service: bool,
}
