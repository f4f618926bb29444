//! A VIP's keys, one by one: from the merged table to a [`Draft`], whose parts are there as far as they are valid.

use std::{net::IpAddr, time::Duration};

use super::{
    check::{read_check, read_persist},
    diag::{Code, Report},
    file::{At, Entry, Span, Table, Value},
    read::{self, Times, missing, wrong_type},
    sections::{Sections, entries, find, owner},
};
use crate::model::config::{
    Check, Fallback, Mode, Persist, Ports, Protocol, Protocols, ReturnPath, Rip, Scheduler, Source, Vip,
};

/// Default idle time of an established flow.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// Default weight (R13).
const WEIGHT: u16 = 100;
/// Largest weight.
const MAX_WEIGHT: u16 = 256;
/// Longest idle time of a flow or a persistence entry.
pub(super) const MAX_IDLE: Duration = Duration::from_secs(30 * 24 * 3600);

const MODES_LATER: [&str; 6] = ["l4-nat", "l4-snat", "l4-tun", "l7-http", "l7-snat", "l7-tcp"];
const SCHEDULERS_LATER: [&str; 3] = ["leastconn", "rr", "wlc"];
const SCHEDULERS: [(&str, Scheduler); 4] = [
    ("wrr", Scheduler::Wrr),
    ("maglev", Scheduler::Maglev),
    ("source-hash", Scheduler::SourceHash),
    ("first", Scheduler::First),
];
const SERVERS_EXAMPLE: &str = "{ NAME = \"10.12.1.110\" }";

/// A VIP as far as it could be read; every part that lacks was reported.
pub(super) struct Draft {
    pub(super) name: At<String>,
    pub(super) ip: Option<At<IpAddr>>,
    pub(super) ports: Vec<At<u16>>,
    pub(super) protocol: Option<Protocol>,
    pub(super) enabled: bool,
    pub(super) scheduler: Option<Scheduler>,
    pub(super) persist: Option<Persist>,
    pub(super) check: Option<Check>,
    /// Its own servers or its pool's.
    pub(super) rips: Option<Vec<DraftRip>>,
    mode: Option<Mode>,
    interface: Option<String>,
    idle_timeout: Option<Duration>,
    fallback: Option<Fallback>,
}

/// A real server as far as it could be read.
#[derive(Clone)]
pub(super) struct DraftRip {
    pub(super) name: At<String>,
    pub(super) ip: Option<At<IpAddr>>,
    pub(super) weight: Option<At<u16>>,
}

impl Draft {
    /// The VIP, when nothing lacks.
    pub(super) fn finish(self) -> Option<Vip> {
        let rip = |rip: DraftRip| {
            Some(Rip { name: rip.name.value, ip: rip.ip?.value, port: None, weight: rip.weight?.value })
        };
        Some(Vip {
            name: self.name.value,
            mode: self.mode?,
            ip: self.ip?.value,
            ports: Ports::Ranges(self.ports.into_iter().map(|port| port.value..=port.value).collect()),
            protocols: match self.protocol? {
                Protocol::Tcp => Protocols::Tcp,
                Protocol::Udp => Protocols::Udp,
            },
            interface: self.interface,
            scheduler: self.scheduler?,
            persist: self.persist?,
            check: self.check?,
            idle_timeout: self.idle_timeout?,
            fallback: self.fallback?,
            source: Source::default(),
            return_path: ReturnPath::default(),
            reset: true,
            enabled: self.enabled,
            rips: self.rips?.into_iter().map(rip).collect::<Option<_>>()?,
        })
    }
}

/// Reads a VIP.
pub(super) fn read_vip(
    vip: &Entry,
    sections: &Sections,
    pools: &[Option<Vec<DraftRip>>],
    report: &mut Report<'_>,
) -> Draft {
    let table = sections.resolve_vip(vip, report);
    let named = owner("vip", vip);
    let span = vip.key.span;
    for (key, example) in [("mode", "\"l4-dr\""), ("ip", "\"10.12.1.100\""), ("ports", "[104, 11112]")] {
        if !table.has(key) {
            missing(key, &named, span, example, report);
        }
    }
    let mut draft = read_service(&table, vip, Part::Whole, report);
    draft.rips = if let Some(servers) = table.get("servers") {
        read_servers(servers, report)
    } else if let Some(pool) = table.get("pool") {
        let name = read::string(pool, "\"NAME\"", report);
        name.and_then(|name| {
            let found = sections.pools.iter().position(|entry| entry.key.value == name);
            if found.is_none() {
                sections.unknown(pool, "pool", &sections.pools, report);
            }
            pools.get(found?)?.clone()
        })
    } else {
        missing("servers", &named, span, SERVERS_EXAMPLE, report);
        None
    };
    draft
}

/// Checks what a profile says, as far as that can be told without the VIPs that use it.
pub(super) fn check_profile(profile: &Entry, sections: &Sections, report: &mut Report<'_>) {
    let table = sections.resolve_profile(profile, report);
    let _ = read_service(&table, profile, Part::Profile, report);
    if let Some(pool) = table.get("pool")
        && let Some(name) = read::string(pool, "\"NAME\"", report)
        && find(&sections.pools, name).is_none()
    {
        sections.unknown(pool, "pool", &sections.pools, report);
    }
}

/// The servers of a pool.
pub(super) fn read_pool(pool: &Entry, report: &mut Report<'_>) -> Option<Vec<DraftRip>> {
    let Some(servers) = entries(pool).get("servers") else {
        missing("servers", &owner("pool", pool), pool.key.span, SERVERS_EXAMPLE, report);
        return None;
    };
    read_servers(servers, report)
}

/// Whether a table must hold everything that a VIP needs.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(super) enum Part {
    Profile,
    Whole,
}

fn read_service(table: &Table, named: &Entry, part: Part, report: &mut Report<'_>) -> Draft {
    let text = |key: &str, example: &str, report: &mut Report<'_>| {
        let entry = table.get(key)?;
        Some(At { value: read::string(entry, example, report)?.to_owned(), span: entry.node.span })
    };
    let ip = text("ip", "\"10.12.1.100\"", report).and_then(|ip| {
        Some(At { value: read::host_address(&ip.value, "a vip", ip.span, report)?, span: ip.span })
    });
    let interface = text("interface", "\"eth0\"", report);
    let mode =
        table.get("mode").and_then(|entry| read::word(entry, &[("l4-dr", Mode::L4Dr)], &MODES_LATER, report));
    let protocol = match table.get("protocol") {
        Some(entry) => {
            read::word(entry, &[("tcp", Protocol::Tcp), ("udp", Protocol::Udp)], &["sctp"], report)
        }
        None => Some(Protocol::Tcp),
    };
    let scheduler = match table.get("scheduler") {
        Some(entry) => read::word(entry, &SCHEDULERS, &SCHEDULERS_LATER, report),
        None => Some(Scheduler::Wrr),
    };
    let fallback = match table.get("fallback") {
        Some(entry) => {
            let words = [("reject", Fallback::Reject), ("drop", Fallback::Drop)];
            read::word(entry, &words, &["off", "page"], report)
        }
        None => Some(Fallback::Reject),
    };
    let idle = Times { range: Duration::from_secs(1)..=MAX_IDLE, whole_secs: true, example: "1h" };
    let idle_timeout = match table.get("idle_timeout") {
        Some(entry) => read::duration(entry, &idle, report),
        None => Some(IDLE_TIMEOUT),
    };
    let enabled = table.get("enabled").map(|entry| read::boolean(entry, report));
    Draft {
        name: named.key.clone(),
        ports: table.get("ports").map(|entry| read_ports(entry, report)).unwrap_or_default(),
        persist: read_persist(table.get("persist"), ip.as_ref().map(|ip| ip.value), report),
        check: read_check(table.get("check"), part, named.key.span, protocol, report),
        interface: interface.and_then(|name| read::interface(&name.value, name.span, report)),
        enabled: enabled.flatten().unwrap_or(true),
        rips: None,
        ip,
        mode,
        protocol,
        scheduler,
        fallback,
        idle_timeout,
    }
}

fn read_ports(entry: &Entry, report: &mut Report<'_>) -> Vec<At<u16>> {
    let Value::Array(items) = &entry.node.value else {
        let example = match &entry.node.value {
            Value::Integer(Some(port)) => format!("[{port}]"),
            Value::String(ports) if ports.bytes().all(|b| b.is_ascii_digit() || matches!(b, b',' | b' ')) => {
                format!("[{}]", ports.split(',').map(str::trim).collect::<Vec<_>>().join(", "))
            }
            Value::Array(_)
            | Value::Boolean(_)
            | Value::Integer(_)
            | Value::Other(_)
            | Value::String(_)
            | Value::Table(_) => "[104, 11112]".to_owned(),
        };
        wrong_type(entry, "a list of numbers", &example, report);
        return Vec::new();
    };
    if items.is_empty() {
        let help = "write at least one port: `ports = [104]`";
        report.error(Code::BadPort, entry.node.span, "`ports` is empty", help);
    }
    let mut ports: Vec<At<u16>> = Vec::new();
    for item in items {
        let Some(port) = read::port(item, report) else {
            continue;
        };
        if let Some(first) = ports.iter().find(|first| first.value == port) {
            let message = format!("port {port} is there twice");
            report.error_also(
                Code::DuplicatePort,
                item.span,
                (first.span, "first here"),
                message,
                "remove one of them",
            );
        } else {
            ports.push(At { value: port, span: item.span });
        }
    }
    ports
}

fn read_servers(servers: &Entry, report: &mut Report<'_>) -> Option<Vec<DraftRip>> {
    let table = read::table(servers, SERVERS_EXAMPLE, report)?;
    Some(table.entries.iter().map(|entry| read_server(entry, report)).collect())
}

fn read_server(entry: &Entry, report: &mut Report<'_>) -> DraftRip {
    let named = owner("server", entry);
    read::check_name(&entry.key, "server", report);
    let default = At { value: WEIGHT, span: entry.key.span };
    let mut rip = DraftRip { name: entry.key.clone(), ip: None, weight: Some(default) };
    match &entry.node.value {
        Value::String(text) => rip.ip = server_address(text, entry.node.span, report),
        Value::Table(table) => {
            read_server_table(table, &named, &mut rip, report);
        }
        Value::Array(_) | Value::Boolean(_) | Value::Integer(_) | Value::Other(_) => {
            wrong_type(entry, "an address or a table", "{ ip = \"10.12.1.110\", weight = 100 }", report);
        }
    }
    rip
}

fn read_server_table(table: &Table, named: &str, rip: &mut DraftRip, report: &mut Report<'_>) {
    let known = ["ip", "weight", "min_connections", "max_connections"];
    let (ports, others): (Vec<_>, Vec<_>) =
        table.entries.iter().partition(|entry| matches!(entry.key.value.as_str(), "port" | "rip_port"));
    for port in ports {
        let message = format!("{named} has a `{}`: direct routing cannot translate ports", port.key.value);
        let help = format!("remove `{}` and let the server listen on the VIP's port", port.key.value);
        report.error(Code::DrPort, port.key.span, message, help);
    }
    let others = Table { entries: others.into_iter().cloned().collect() };
    read::check_keys(&others, named, &known, &["backup", "tls"], report);
    match table.get("ip") {
        Some(ip) => {
            let text = read::string(ip, "\"10.12.1.110\"", report);
            rip.ip = text.and_then(|text| server_address(text, ip.node.span, report));
        }
        None => missing("ip", named, rip.name.span, "\"10.12.1.110\"", report),
    }
    if let Some(weight) = table.get("weight") {
        let number = read::number(weight, 0..=u32::from(MAX_WEIGHT), report);
        let number = number.and_then(|number| u16::try_from(number).ok());
        rip.weight = number.map(|value| At { value, span: weight.node.span });
    }
    for key in ["min_connections", "max_connections"] {
        if let Some(entry) = table.get(key)
            && read::number(entry, 0..=u32::MAX, report).is_some_and(|limit| limit != 0)
        {
            let message = format!("`{key}` is not enforced by this version");
            report.error(
                Code::NotEnforced,
                entry.node.span,
                message,
                format!("write 0 (unlimited), or remove `{key}`"),
            );
        }
    }
}

/// A server's address; with a port it is R01's fault, not just any bad address.
fn server_address(text: &str, span: Span, report: &mut Report<'_>) -> Option<At<IpAddr>> {
    if let Ok(with_port) = text.parse::<std::net::SocketAddr>() {
        let (ip, port) = (with_port.ip(), with_port.port());
        report.error(
            Code::DrPort,
            span,
            format!("\"{text}\" names port {port}: direct routing cannot translate ports"),
            format!("write \"{ip}\" and let the server listen on the VIP's port"),
        );
        return None;
    }
    Some(At { value: read::host_address(text, "a server", span, report)?, span })
}
