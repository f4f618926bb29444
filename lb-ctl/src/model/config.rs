//! The configuration as it is meant: checked, defaulted, resolved. What was typed is in `config::file`.

use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    time::Duration,
};

use lb_common::limits::{DEFAULT_FLOWS_V4, DEFAULT_FLOWS_V6, DEFAULT_HALF_OPEN};
use serde::{Deserialize, Serialize};

pub use super::check::{Check, CheckKind};
use super::{
    alerts::Alerts,
    check::Pki,
    proxy::{Proxy, ProxySettings},
};

/// A whole, valid configuration. The default is that of an empty file.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Config {
    /// What is particular to this machine.
    pub node: Node,
    /// What the machine is to the servers behind it.
    pub gateway: Gateway,
    /// Certificates and authorities.
    pub pki: Pki,
    /// Who is told when something fails.
    pub alerts: Alerts,
    /// What the companion proxy is for all layer-7 VIPs.
    pub proxy: ProxySettings,
    /// VIPs in the order of the files.
    pub vips: Vec<Vip>,
}

/// What the machine is to servers whose default route leads here (R02, R65). Their own traffic, which no VIP
/// knows, is forwarded by the kernel.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Gateway {
    /// Floating addresses that servers have as their default gateway.
    pub addresses: Vec<GatewayAddress>,
    /// Interfaces by which servers' own traffic leaves with this machine's address as its source.
    pub masquerade: Vec<String>,
}

/// A floating gateway address.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GatewayAddress {
    /// Address.
    pub ip: IpAddr,
    /// Interface that carries it; `None` = the one whose subnet contains it.
    pub interface: Option<String>,
}

/// What is particular to this machine; never replicated to a peer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Node {
    /// Name shown in the overview; the host name when not set.
    pub name: Option<String>,
    /// Interfaces to attach to; empty = those that VIPs and real servers are reached by.
    pub interfaces: Vec<String>,
    /// Room for established IPv4 flows (rounded up to a power of two).
    pub flows_v4: u32,
    /// Room for established IPv6 flows.
    pub flows_v6: u32,
    /// Room for half-open flows of each family.
    pub half_open: u32,
}

/// A machine of which nothing is said.
impl Default for Node {
    fn default() -> Self {
        Self {
            name: None,
            interfaces: Vec::new(),
            flows_v4: DEFAULT_FLOWS_V4,
            flows_v6: DEFAULT_FLOWS_V6,
            half_open: DEFAULT_HALF_OPEN,
        }
    }
}

/// A virtual service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Vip {
    /// Label, unique.
    pub name: String,
    /// How packets reach the servers.
    pub mode: Mode,
    /// Virtual address.
    pub ip: IpAddr,
    /// Ports.
    pub ports: Ports,
    /// Transport protocols.
    pub protocols: Protocols,
    /// Interface that carries the address; `None` = the one whose subnet contains it.
    pub interface: Option<String>,
    /// Who gets a new flow.
    pub scheduler: Scheduler,
    /// Whether clients come back to the same server.
    pub persist: Persist,
    /// How servers are checked.
    pub check: Check,
    /// Mail addresses that get what concerns this VIP, in place of those of `[alerts]` (R14); empty = those.
    pub alert_to: Vec<String>,
    /// How long an established flow may be idle.
    pub idle_timeout: Duration,
    /// What becomes of new flows when no server is up.
    pub fallback: Fallback,
    /// Time in which a server that came up works its way to its whole weight; 0 = it has it at once.
    pub slow_start: Duration,
    /// What becomes of new flows while no controller lives.
    pub unattended: Unattended,
    /// Source addresses and ports towards the servers (SNAT only; the default otherwise).
    pub source: Source,
    /// How replies find their way (NAT and SNAT only; the default otherwise).
    pub return_path: ReturnPath,
    /// Both ends of a TCP flow get a RST when its server goes down or is halted (NAT and SNAT only).
    pub reset: bool,
    /// False: configured, but not served; its address is not claimed.
    pub enabled: bool,
    /// What the companion proxy does; there in the modes of layer 7, and in no other.
    pub proxy: Option<Box<Proxy>>,
    /// Real servers in the order written (the order that `first` goes by).
    pub rips: Vec<Rip>,
}

impl Vip {
    /// A VIP of which only that is said which has no default; it has no servers yet.
    #[must_use]
    pub fn new(name: impl Into<String>, mode: Mode, ip: IpAddr, ports: Ports) -> Self {
        Self {
            name: name.into(),
            mode,
            ip,
            ports,
            protocols: Protocols::default(),
            interface: None,
            scheduler: Scheduler::default(),
            persist: Persist::default(),
            check: Check::default(),
            alert_to: Vec::new(),
            idle_timeout: Duration::from_secs(3600),
            fallback: Fallback::default(),
            slow_start: Duration::ZERO,
            unattended: Unattended::default(),
            source: Source::default(),
            return_path: ReturnPath::default(),
            reset: true,
            enabled: true,
            proxy: mode.is_layer7().then(|| Box::new(Proxy::new(&ProxySettings::default()))),
            rips: Vec::new(),
        }
    }

    /// The fallback server's address and port, if there is such a server.
    #[must_use]
    pub const fn fallback_server(&self) -> Option<(IpAddr, Option<u16>)> {
        match self.fallback {
            Fallback::Server { ip, port } => Some((ip, port)),
            Fallback::Drop | Fallback::Page | Fallback::Reject => None,
        }
    }

    /// Addresses that its packets may go to: those of its servers and of the fallback server.
    pub fn server_addresses(&self) -> impl Iterator<Item = IpAddr> {
        let fallback = self.fallback_server().map(|(ip, _)| ip);
        self.rips.iter().map(|rip| rip.ip).chain(fallback)
    }
}

/// A real server of a VIP.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rip {
    /// Label, unique within the VIP.
    pub name: String,
    /// Address.
    pub ip: IpAddr,
    /// Port; `None` = the one that the client asked for (R29). Direct routing has none.
    pub port: Option<u16>,
    /// Relative share of new flows, 0 to 256.
    pub weight: u16,
    /// Most active connections (R13); 0 = no limit. Beyond it new flows go to other servers.
    pub max_connections: u16,
    /// Once full, the server takes new flows again when it has fewer than this; 0 = as soon as it has room.
    pub min_connections: u16,
    /// How this server is checked, when otherwise than the VIP's others; whole, with what it takes from the VIP's.
    pub check: Option<Check>,
    /// Pool that switch rules lead to, and that it is of; `None` = the VIP's own. Layer 7 only.
    pub pool: Option<String>,
}

impl Rip {
    /// Weight of a server that is given none (R13).
    pub const WEIGHT: u16 = 100;

    /// A real server of which only that is said which has no default.
    #[must_use]
    pub fn new(name: impl Into<String>, ip: IpAddr) -> Self {
        Self {
            name: name.into(),
            ip,
            port: None,
            weight: Self::WEIGHT,
            max_connections: 0,
            min_connections: 0,
            check: None,
            pool: None,
        }
    }
}

/// How packets reach the servers.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Mode {
    /// Layer 4, direct routing.
    #[serde(rename = "l4-dr")]
    L4Dr,
    /// Layer 4, destination rewritten.
    #[serde(rename = "l4-nat")]
    L4Nat,
    /// Layer 4, source and destination rewritten.
    #[serde(rename = "l4-snat")]
    L4Snat,
    /// Layer 7: the companion proxy takes HTTP requests and makes them anew.
    #[serde(rename = "l7-http")]
    L7Http,
    /// Layer 7: the companion proxy takes connections and makes them anew.
    #[serde(rename = "l7-tcp")]
    L7Tcp,
}

impl Mode {
    /// As in TOML, the API and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::L4Dr => "l4-dr",
            Self::L4Nat => "l4-nat",
            Self::L4Snat => "l4-snat",
            Self::L7Http => "l7-http",
            Self::L7Tcp => "l7-tcp",
        }
    }

    /// True when the packet path rewrites servers' packets too.
    #[must_use]
    pub const fn sees_replies(self) -> bool {
        match self {
            Self::L4Nat | Self::L4Snat => true,
            Self::L4Dr | Self::L7Http | Self::L7Tcp => false,
        }
    }

    /// True when the companion proxy serves it, and not the packet path.
    #[must_use]
    pub const fn is_layer7(self) -> bool {
        match self {
            Self::L4Dr | Self::L4Nat | Self::L4Snat => false,
            Self::L7Http | Self::L7Tcp => true,
        }
    }
}

/// Ports of a VIP.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Ports {
    /// Every port that no other VIP of the address has.
    All,
    /// Ranges in the order written, none empty, none overlapping; the first port is the default check port (R12).
    Ranges(Vec<RangeInclusive<u16>>),
}

impl Ports {
    /// Ports of the kernel's keys: 0 stands for every port.
    pub fn keys(&self) -> impl Iterator<Item = u16> + '_ {
        let ranges = match self {
            Self::All => &[0..=0][..],
            Self::Ranges(ranges) => ranges,
        };
        ranges.iter().cloned().flatten()
    }

    /// The first port; `None` when every port is meant.
    #[must_use]
    pub fn first(&self) -> Option<u16> {
        match self {
            Self::All => None,
            Self::Ranges(ranges) => ranges.first().map(|range| *range.start()),
        }
    }
}

/// As in TOML and on the command line: `104,11112-11120`, or `all`.
impl std::fmt::Display for Ports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self::Ranges(ranges) = self else {
            return f.write_str("all");
        };
        for (i, range) in ranges.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{}", range.start())?;
            if range.start() != range.end() {
                write!(f, "-{}", range.end())?;
            }
        }
        Ok(())
    }
}

/// Transport protocols of a VIP.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum Protocols {
    /// TCP alone.
    #[default]
    #[serde(rename = "tcp")]
    Tcp,
    /// UDP alone.
    #[serde(rename = "udp")]
    Udp,
    /// Both (R03): TCP and UDP of a client share persistence, not flows.
    #[serde(rename = "tcp+udp")]
    TcpUdp,
}

impl Protocols {
    /// As in TOML, the API and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::TcpUdp => "tcp+udp",
        }
    }

    /// Each of them.
    #[must_use]
    pub const fn each(self) -> &'static [Protocol] {
        match self {
            Self::Tcp => &[Protocol::Tcp],
            Self::Udp => &[Protocol::Udp],
            Self::TcpUdp => &[Protocol::Tcp, Protocol::Udp],
        }
    }
}

/// Which source SNAT gives to the client's packets.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Source {
    /// Addresses.
    pub addresses: SourceAddresses,
    /// Ports, outside the kernel's own range (`net.ipv4.ip_local_port_range`).
    pub ports: RangeInclusive<u16>,
}

impl Source {
    /// Ports taken when none are named: below the kernel's own range, above what daemons listen on.
    pub const PORTS: RangeInclusive<u16> = 10_240..=32_767;
}

impl Default for Source {
    fn default() -> Self {
        Self { addresses: SourceAddresses::Interface, ports: Self::PORTS }
    }
}

/// Source addresses of SNAT.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum SourceAddresses {
    /// This machine's own address in the servers' subnet.
    Interface,
    /// The VIP.
    Vip,
    /// These; they are claimed like VIPs.
    Pool(Vec<IpAddr>),
}

/// How replies of NAT and SNAT find their way to the client.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReturnPath {
    /// Back to the MAC and interface that the client's packets came from, so that asymmetric routers do no harm.
    #[default]
    LastHop,
    /// By the routing table.
    Route,
}

impl ReturnPath {
    /// As in TOML, the API and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::LastHop => "last-hop",
            Self::Route => "route",
        }
    }
}

/// One transport protocol.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// As in TOML, the API and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// Who gets a new flow.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scheduler {
    /// The first server in the list that is up.
    First,
    /// Consistent hash of the whole 5-tuple.
    Maglev,
    /// Consistent hash of the client address.
    SourceHash,
    /// The server with the fewest active connections for its weight.
    #[default]
    Wlc,
    /// Weighted round robin.
    Wrr,
}

impl Scheduler {
    /// As in TOML, the API and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Maglev => "maglev",
            Self::SourceHash => "source-hash",
            Self::Wlc => "wlc",
            Self::Wrr => "wrr",
        }
    }
}

/// Whether clients come back to the same server.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Persist {
    /// By a cookie that the proxy gives; HTTP only.
    Cookie {
        /// Its name.
        name: String,
        /// Idle time after which the client is scheduled anew.
        max_idle: Duration,
        /// Time after which the client is scheduled anew in any case.
        max_life: Duration,
    },
    /// All clients stay on the server in use until it fails or an operator takes it away (R50); with
    /// [`Scheduler::First`] only.
    LastSuccessful {
        /// Idle time after which the first server is used again (R52); `None` = never, which only layer 4 has.
        timeout: Option<Duration>,
    },
    /// Every connection is scheduled anew.
    #[default]
    None,
    /// By client address, for all ports of the VIP.
    SourceIp {
        /// Leading bits of an IPv4 client address that count.
        prefix_v4: u8,
        /// Leading bits of an IPv6 client address that count.
        prefix_v6: u8,
        /// Idle time after which the client is scheduled anew.
        timeout: Duration,
        /// VIPs that name the same group send a client to the same server; `None` = this VIP alone.
        group: Option<String>,
    },
    /// By a parameter of the request's URL, for all clients that have the same value (R27); HTTP only.
    UrlParam {
        /// Its name.
        name: String,
        /// Idle time after which a value is scheduled anew.
        timeout: Duration,
        /// Most values that are remembered.
        entries: u32,
        /// Characters of a value that count.
        key_len: u16,
    },
}

/// What becomes of new flows when no server is up.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Fallback {
    /// Dropped without a word; layer 4 only.
    Drop,
    /// Sent to the page that this machine serves; layer 7 only.
    Page,
    /// Refused: RST, or port unreachable. On layer 7: closed, or status 503.
    #[default]
    Reject,
    /// Sent to a server that is not checked and gets nothing otherwise.
    Server {
        /// Its address.
        ip: IpAddr,
        /// Its port; `None` = the one that the client asked for. Direct routing has none.
        port: Option<u16>,
    },
}

/// As in TOML and on the command line.
impl std::fmt::Display for Fallback {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Drop => f.write_str("drop"),
            Self::Page => f.write_str("page"),
            Self::Reject => f.write_str("reject"),
            Self::Server { ip, port: None } => write!(f, "{ip}"),
            Self::Server { ip, port: Some(port) } => write!(f, "{}", SocketAddr::new(*ip, *port)),
        }
    }
}

/// What becomes of new flows while no controller lives to watch the servers.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Unattended {
    /// Refused: nobody would notice that their server is dead.
    Refuse,
    /// Served as before.
    #[default]
    Serve,
}

impl Unattended {
    /// As in TOML, the API and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::Serve => "serve",
        }
    }
}

/// Where a configuration is read from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Sources {
    /// The main file, e.g. `/etc/lbd/lbd.toml`.
    pub main: PathBuf,
}

impl Sources {
    /// `conf.d` beside the main file: one TOML file per application, read in the order of their names.
    #[must_use]
    pub fn conf_d(&self) -> PathBuf {
        self.main.with_file_name("conf.d")
    }
}
