//! Real servers: `servers` of a VIP or a pool.

use std::net::{IpAddr, SocketAddr};

use super::{
    diag::{Code, Report},
    file::{At, Entry, Span, Table, Value},
    read::{self, missing, wrong_type},
    sections::owner,
};
use crate::model::config::Rip;

pub(super) const SERVERS_EXAMPLE: &str = "{ NAME = \"10.12.1.110\" }";
/// Default weight (R13).
const WEIGHT: u16 = 100;
/// Largest weight.
const MAX_WEIGHT: u16 = 256;

/// A real server as far as it could be read.
#[derive(Clone)]
pub(super) struct DraftRip {
    pub(super) name: At<String>,
    pub(super) ip: Option<At<IpAddr>>,
    pub(super) port: Option<DraftPort>,
    pub(super) weight: Option<At<u16>>,
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
    /// The server, when nothing lacks. `port`: that of servers which have none of their own.
    pub(super) fn finish(self, port: Option<u16>) -> Option<Rip> {
        let port = self.port.map(|port| port.value).or(port);
        Some(Rip { name: self.name.value, ip: self.ip?.value, port, weight: self.weight?.value })
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
    let default = At { value: WEIGHT, span: entry.key.span };
    let mut rip = DraftRip { name: entry.key.clone(), ip: None, port: None, weight: Some(default) };
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
    let known = ["ip", "port", "weight", "min_connections", "max_connections"];
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

/// `10.12.1.110`, `10.12.1.110:8080`, `[2001:db8::110]:8080`.
fn read_address(text: &str, span: Span, rip: &mut DraftRip, report: &mut Report<'_>) {
    let Some(with_port) = socket_address(text).filter(|with_port| with_port.port() != 0) else {
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
            return;
        }
        let ip = read::host_address(text, "a server", span, report);
        rip.ip = ip.map(|value| At { value, span });
        return;
    };
    let ip = read::host_address(&with_port.ip().to_string(), "a server", span, report);
    rip.ip = ip.map(|value| At { value, span });
    rip.port = Some(DraftPort { value: with_port.port(), span, in_address: true });
}

/// An address with a port. An IPv6 zone (RFC 4007, 11) has no place here: such an address is link-local.
pub(super) fn socket_address(text: &str) -> Option<SocketAddr> {
    text.parse().ok().filter(|_| !text.contains('%'))
}
