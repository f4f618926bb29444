//! Whether the ports that SNAT gives to clients' packets are free on this machine: neither the kernel nor a program
//! may use a port that replies of servers come back to. Facts are gathered first, the rest is pure.
#![forbid(unsafe_code)]

mod proc;

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
};

pub use self::proc::gather;
use crate::model::config::{Config, Mode, Protocol, SourceAddresses, Vip};

/// Which ports are in use on this machine.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PortFacts {
    /// Ports that the kernel gives to connections of its own (`net.ipv4.ip_local_port_range`, for IPv6 too).
    pub ephemeral: RangeInclusive<u16>,
    /// Ports that it leaves out of them (`net.ipv4.ip_local_reserved_ports`).
    pub reserved: Vec<RangeInclusive<u16>>,
    /// Sockets that wait for anybody: listening TCP sockets and unconnected UDP sockets.
    pub listeners: Vec<Listener>,
}

/// A socket that waits for anybody.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Listener {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Address and port that it is bound to. `[::]` stands for IPv4 too.
    pub at: SocketAddr,
}

/// Why the source ports of a VIP cannot be used.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Conflict {
    /// VIP, its ports, and what is in their way: one line.
    pub text: String,
    /// What to do about it: one line.
    pub cure: String,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.text, self.cure)
    }
}

/// Whether a configuration has a VIP that needs source ports.
#[must_use]
pub fn concern(config: &Config) -> bool {
    snat(config).next().is_some()
}

/// At most one conflict for each VIP with the kernel's own ports, and one with listeners.
#[must_use]
pub fn conflicts(config: &Config, facts: &PortFacts) -> Vec<Conflict> {
    snat(config)
        .flat_map(|vip| [with_kernel(vip, facts), with_listeners(vip, &facts.listeners)])
        .flatten()
        .collect()
}

fn snat(config: &Config) -> impl Iterator<Item = &Vip> {
    config.vips.iter().filter(|vip| vip.enabled && vip.mode == Mode::L4Snat)
}

fn with_kernel(vip: &Vip, facts: &PortFacts) -> Option<Conflict> {
    let ports = &vip.source.ports;
    let (first, last) = overlap(ports, &facts.ephemeral)?;
    let reserved = |port: &u16| facts.reserved.iter().any(|range| range.contains(port));
    (first..=last).find(|port| !reserved(port))?;
    let (name, own) = (&vip.name, &facts.ephemeral);
    Some(Conflict {
        text: format!(
            "VIP {name}: source ports {}-{} overlap {}-{}, from which the kernel takes ports for connections of this machine (net.ipv4.ip_local_port_range)",
            ports.start(),
            ports.end(),
            own.start(),
            own.end()
        ),
        cure: format!(
            "choose `source_ports` of [vip.{name}] outside, or keep the kernel off them: sysctl -w net.ipv4.ip_local_reserved_ports={first}-{last}, and in /etc/sysctl.d"
        ),
    })
}

fn with_listeners(vip: &Vip, listeners: &[Listener]) -> Option<Conflict> {
    let ports = &vip.source.ports;
    let mut in_the_way: Vec<&Listener> = listeners
        .iter()
        .filter(|l| ports.contains(&l.at.port()) && vip.protocols.each().contains(&l.protocol))
        .filter(|l| takes_replies(vip, l.at.ip()))
        .collect();
    in_the_way.sort_unstable();
    let first = in_the_way.first()?;
    let name = &vip.name;
    let others = match in_the_way.len() - 1 {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    let (protocol, port) = (first.protocol.name(), first.at.port());
    let flag = if first.protocol == Protocol::Tcp { "t" } else { "u" };
    Some(Conflict {
        text: format!(
            "VIP {name}: a program of this machine waits on {protocol} {}{others}, which is among source ports {}-{}",
            first.at,
            ports.start(),
            ports.end()
        ),
        cure: format!(
            "choose `source_ports` of [vip.{name}] without it, or stop the program (`ss -ln{flag}p sport = :{port}` names it)"
        ),
    })
}

/// True when a socket bound to `at` gets packets to a source address of the VIP.
fn takes_replies(vip: &Vip, at: IpAddr) -> bool {
    // `[::]` takes IPv4 packets too, unless its program said otherwise, which cannot be seen.
    let is_wildcard = at.is_unspecified() && (at.is_ipv6() || vip.ip.is_ipv4());
    is_wildcard
        || match &vip.source.addresses {
            // Which of the machine's addresses follows from routes, which change; loopback is never one.
            SourceAddresses::Interface => at.is_ipv4() == vip.ip.is_ipv4() && !at.is_loopback(),
            SourceAddresses::Vip => at == vip.ip,
            SourceAddresses::Pool(pool) => pool.contains(&at),
        }
}

fn overlap(a: &RangeInclusive<u16>, b: &RangeInclusive<u16>) -> Option<(u16, u16)> {
    let (first, last) = (*a.start().max(b.start()), *a.end().min(b.end()));
    (first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests;
