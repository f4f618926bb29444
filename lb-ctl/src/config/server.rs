//! Real servers: `servers` of a VIP or a pool.

use std::net::{IpAddr, SocketAddr};

use super::{
    check::DraftCheck,
    diag::{Code, Report},
    file::{At, Entry, Span, Table, Value},
    keys::{CHECK_KEYS, typed},
    read::{self, missing, wrong_type},
    sections::owner,
};
use crate::model::config::{Rip, Vip};

pub(super) const SERVERS_EXAMPLE: &str = "{ NAME = \"10.12.1.110\" }";
/// Largest weight.
const MAX_WEIGHT: u16 = 256;

/// A real server as far as it could be read.
#[derive(Clone)]
pub(super) struct DraftRip {
    pub(super) name: At<String>,
    pub(super) ip: Option<At<IpAddr>>,
    pub(super) port: Option<DraftPort>,
    pub(super) weight: Option<At<u16>>,
    pub(super) max_connections: Option<u16>,
    pub(super) min_connections: Option<u16>,
    /// Pool that switch rules lead to; `None` = the VIP's own servers.
    pub(super) pool: Option<String>,
    /// What is said of its check, to be laid upon the VIP's.
    pub(super) check: Option<Entry>,
    /// Its check, where it is used.
    pub(super) merged_check: Option<DraftCheck>,
}

/// A server's port, and where it was written. Which modes take one is known only where the server is used.
#[derive(Clone)]
pub(super) struct DraftPort {
    pub(super) value: u16,
    pub(super) span: Span,
    /// `"10.12.1.110:8080"`, not `port = 8080`.
    pub(super) in_address: bool,
}

impl DraftRip {
    /// The server, when nothing lacks. `vip` is the VIP but for its servers, `port` that of servers which have none of
    /// their own.
    pub(super) fn finish(self, vip: &Vip, port: Option<u16>) -> Option<Rip> {
        let port = self.port.map(|port| port.value).or(port);
        let check = self.merged_check.map(|check| check.finish(vip.mode, vip.protocols));
        Some(Rip {
            port,
            weight: self.weight?.value,
            max_connections: self.max_connections?,
            min_connections: self.min_connections?,
            // One that says nothing else than the VIP's is the VIP's.
            check: check.filter(|check| *check != vip.check),
            pool: self.pool,
            ..Rip::new(self.name.value, self.ip?.value)
        })
    }
}

/// Reads `servers`.
pub(super) fn read_servers(servers: &Entry, report: &mut Report<'_>) -> Option<Vec<DraftRip>> {
    let table = read::table(servers, SERVERS_EXAMPLE, report)?;
    Some(table.entries.iter().map(|entry| read_server(entry, report)).collect())
}

fn read_server(entry: &Entry, report: &mut Report<'_>) -> DraftRip {
    let named = owner("server", entry);
    read::check_name(&entry.key, "server", report);
    let default = At { value: Rip::WEIGHT, span: entry.key.span };
    let mut rip = DraftRip {
        name: entry.key.clone(),
        ip: None,
        port: None,
        weight: Some(default),
        max_connections: Some(0),
        min_connections: Some(0),
        pool: None,
        check: None,
        merged_check: None,
    };
    match &entry.node.value {
        Value::String(text) => read_address(text, entry.node.span, &mut rip, report),
        Value::Table(table) => read_server_table(table, &named, &mut rip, report),
        Value::Array(_) | Value::Boolean(_) | Value::Integer(_) | Value::Other(_) => {
            wrong_type(entry, "an address or a table", "{ ip = \"10.12.1.110\", weight = 100 }", report);
        }
    }
    rip
}

fn read_server_table(table: &Table, named: &str, rip: &mut DraftRip, report: &mut Report<'_>) {
    let known = ["ip", "port", "weight", "min_connections", "max_connections", "check", "pool"];
    read::check_keys(table, named, &known, &["backup", "tls"], report);
    match table.get("ip") {
        Some(entry) => {
            let (text, span) = (read::string(entry, "\"10.12.1.110\"", report), entry.node.span);
            if let Some(with_port) = text.and_then(socket_address) {
                let (ip, port) = (with_port.ip(), with_port.port());
                report.error(
                    Code::BadAddress,
                    span,
                    format!("`ip` of {named} names port {port}"),
                    format!("write `ip = \"{ip}\", port = {port}`"),
                );
            } else if let Some(text) = text {
                let ip = read::host_address(text, "a server", span, report);
                rip.ip = ip.map(|value| At { value, span });
            }
        }
        None => missing("ip", named, rip.name.span, "\"10.12.1.110\"", report),
    }
    if let Some(port) = table.get("port") {
        let (value, span) = (read::port_of(port, report), port.key.span);
        rip.port = value.map(|value| DraftPort { value, span, in_address: false });
    }
    if let Some(weight) = table.get("weight") {
        let number = read::number(weight, 0..=u32::from(MAX_WEIGHT), report);
        let number = number.and_then(|number| u16::try_from(number).ok());
        rip.weight = number.map(|value| At { value, span: weight.node.span });
    }
    if let Some(pool) = table.get("pool") {
        let name = read::string(pool, "\"us\"", report).map(str::to_owned);
        let name = name.map(|value| At { value, span: pool.node.span });
        rip.pool = name.filter(|name| read::check_name(name, "pool", report)).map(|name| name.value);
    }
    if let Some(check) = table.get("check") {
        match typed(&check.node) {
            Some(keys) => {
                read::check_keys(&keys, &format!("`check` of {named}"), &CHECK_KEYS, &[], report);
                rip.check = Some(check.clone());
            }
            None => wrong_type(check, "a string or a table", "{ port = 104 }", report),
        }
    }
    read_limits(table, named, rip, report);
}

/// How many connections a server takes (R13).
fn read_limits(table: &Table, named: &str, rip: &mut DraftRip, report: &mut Report<'_>) {
    let mut limit = |key: &str| match table.get(key) {
        Some(entry) => {
            read::number(entry, 0..=u32::from(u16::MAX), report).and_then(|n| u16::try_from(n).ok())
        }
        None => Some(0),
    };
    (rip.max_connections, rip.min_connections) = (limit("max_connections"), limit("min_connections"));
    let (Some(max), Some(min), Some(entry)) =
        (rip.max_connections, rip.min_connections, table.get("min_connections"))
    else {
        return;
    };
    if min > max {
        let (fault, help) = if max == 0 {
            (
                "has `min_connections` without `max_connections`".to_owned(),
                "write the most connections that it takes: `max_connections = 100`".to_owned(),
            )
        } else {
            (
                format!("has `min_connections` {min}, more than `max_connections` {max}"),
                format!(
                    "write `min_connections` from 0 to {max}: once full, the server takes connections again when it has fewer"
                ),
            )
        };
        report.error(Code::BadLimits, entry.node.span, format!("{named} {fault}"), help);
    }
}

fn read_address(text: &str, span: Span, rip: &mut DraftRip, report: &mut Report<'_>) {
    let Some((ip, port)) = read_endpoint(text, "a server", span, report) else { return };
    rip.ip = Some(At { value: ip, span });
    rip.port = port.map(|value| DraftPort { value, span, in_address: true });
}

/// `10.12.1.110`, `10.12.1.110:8080`, `[2001:db8::110]:8080`. `owner`: `a server`.
pub(super) fn read_endpoint(
    text: &str,
    owner: &str,
    span: Span,
    report: &mut Report<'_>,
) -> Option<(IpAddr, Option<u16>)> {
    if let Some(with_port) = socket_address(text).filter(|with_port| with_port.port() != 0) {
        let ip = read::host_address(&with_port.ip().to_string(), owner, span, report)?;
        return Some((ip, Some(with_port.port())));
    }
    // An address, and behind it something that is no port.
    if let Some((ip, port)) = text.rsplit_once(':')
        && socket_address(&format!("{ip}:1")).is_some()
    {
        report.error(
            Code::BadPort,
            span,
            format!("\"{port}\" in \"{text}\" is not a port"),
            "write a port from 1 to 65535",
        );
        return None;
    }
    Some((read::host_address(text, owner, span, report)?, None))
}

/// An address with a port. An IPv6 zone (RFC 4007, 11) has no place here: such an address is link-local.
pub(super) fn socket_address(text: &str) -> Option<SocketAddr> {
    text.parse().ok().filter(|_| !text.contains('%'))
}
