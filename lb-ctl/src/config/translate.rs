//! What NAT and SNAT take beside the keys of every mode: `rip_port`, `source`, `source_ports`, `return`, `reset`.
//!
//! Their values are checked in every mode, and a key that means nothing in the VIP's mode is a warning, not an error:
//! a deployment moves from direct routing to NAT to SNAT and back by one word. Ports alone are refused with direct
//! routing (R01), because the clients would get no answer.

use std::net::IpAddr;

use lb_common::limits::MAX_SOURCES;

use super::{
    diag::{Code, Report},
    file::{At, Entry, Table, Value},
    ports::read_range,
    read::{self, wrong_type},
};
use crate::model::config::{Mode, ReturnPath, Source, SourceAddresses, Vip};

const RETURN_PATHS: [(&str, ReturnPath); 2] =
    [("last-hop", ReturnPath::LastHop), ("route", ReturnPath::Route)];
/// Below these, daemons of this machine listen and ask.
const LOWEST_SOURCE_PORT: u16 = 1024;

/// These keys as far as they could be read.
pub(super) struct Translation {
    /// The port of servers that have none of their own.
    pub(super) rip_port: Option<At<u16>>,
    /// Source addresses that are named.
    pub(super) pool: Vec<At<IpAddr>>,
    source: Option<Source>,
    return_path: Option<ReturnPath>,
    reset: Option<bool>,
}

impl Translation {
    /// Gives them to the VIP, which keeps the default where its mode has none.
    pub(super) fn finish(self, vip: &mut Vip) -> Option<()> {
        let (source, return_path) = (self.source?, self.return_path?);
        match vip.mode {
            Mode::L4Dr | Mode::L4Nat => {}
            Mode::L4Snat => vip.source = source,
            // The kernel chooses the proxy's ports.
            Mode::L7Http | Mode::L7Tcp => vip.source.addresses = source.addresses,
        }
        if vip.mode.sees_replies() {
            vip.return_path = return_path;
        }
        if vip.mode != Mode::L4Dr {
            vip.reset = self.reset.unwrap_or(vip.reset);
        }
        Some(())
    }
}

/// Reads them.
pub(super) fn read_translation(table: &Table, report: &mut Report<'_>) -> Translation {
    let mut pool = Vec::new();
    let addresses = match table.get("source") {
        Some(entry) => read_source(entry, &mut pool, report),
        None => Some(SourceAddresses::Interface),
    };
    let ports = match table.get("source_ports") {
        Some(entry) => match &entry.node.value {
            Value::String(text) => read_range(text, entry.node.span, LOWEST_SOURCE_PORT, report),
            Value::Array(_) | Value::Boolean(_) | Value::Integer(_) | Value::Other(_) | Value::Table(_) => {
                wrong_type(entry, "a range of ports in quotes", "\"10240-32767\"", report);
                None
            }
        },
        None => Some(Source::PORTS),
    };
    let return_path = match table.get("return") {
        Some(entry) => read::word(entry, &RETURN_PATHS, &[], report),
        None => Some(ReturnPath::default()),
    };
    let rip_port = table.get("rip_port").and_then(|entry| {
        let value = read::port_of(entry, report)?;
        Some(At { value, span: entry.key.span })
    });
    let reset = table.get("reset").and_then(|entry| read::boolean(entry, report));
    let source = addresses.zip(ports).map(|(addresses, ports)| Source { addresses, ports });
    Translation { rip_port, pool, source, return_path, reset }
}

fn read_source(
    entry: &Entry,
    pool: &mut Vec<At<IpAddr>>,
    report: &mut Report<'_>,
) -> Option<SourceAddresses> {
    const WANTED: &str = "\"interface\", \"vip\" or a list of addresses";
    match &entry.node.value {
        Value::Array(items) => {
            *pool = read_pool(entry, items, report);
            Some(SourceAddresses::Pool(pool.iter().map(|address| address.value).collect()))
        }
        Value::String(word) if word.parse::<IpAddr>().is_ok() => {
            wrong_type(entry, WANTED, &format!("[\"{word}\"]"), report);
            None
        }
        Value::String(_) => {
            let vip = read::word(entry, &[("interface", false), ("vip", true)], &[], report)?;
            Some(if vip { SourceAddresses::Vip } else { SourceAddresses::Interface })
        }
        Value::Boolean(_) | Value::Integer(_) | Value::Other(_) | Value::Table(_) => {
            wrong_type(entry, WANTED, "\"interface\"", report);
            None
        }
    }
}

fn read_pool(entry: &Entry, items: &[At<Value>], report: &mut Report<'_>) -> Vec<At<IpAddr>> {
    if items.is_empty() {
        let help = "write `source = \"interface\"`, or at least one address";
        report.error(Code::BadAddress, entry.node.span, "`source` is an empty list", help);
    }
    if items.len() > MAX_SOURCES {
        report.error(
            Code::TooMany,
            entry.node.span,
            format!("`source` has {} addresses, the limit is {MAX_SOURCES}", items.len()),
            format!("keep {MAX_SOURCES} of them: each has room for all of `source_ports`"),
        );
        return Vec::new();
    }
    let mut pool: Vec<At<IpAddr>> = Vec::new();
    for item in items {
        let Value::String(text) = &item.value else {
            let message = format!("a source must be an address, not {}", item.value.kind());
            report.error(Code::WrongType, item.span, message, "write `source = [\"10.12.1.5\"]`");
            continue;
        };
        let Some(ip) = read::host_address(text, "a source", item.span, report) else {
            continue;
        };
        if let Some(first) = pool.iter().find(|first| first.value == ip) {
            report.error_also(
                Code::DuplicateAddress,
                item.span,
                (first.span, "first here"),
                format!("source {ip} is there twice"),
                "remove one of them",
            );
        } else {
            pool.push(At { value: ip, span: item.span });
        }
    }
    pool
}
