//! `[proxy]`: what holds for all layer-7 VIPs.

use std::{net::SocketAddr, path::Path};

use super::{
    super::{
        diag::{Code, Report},
        file::{At, Entry},
        files::{self, Purpose},
        read,
        sections::entries,
        server::socket_address,
    },
    MOST_CONNECTIONS,
    values::read_limit,
};
use crate::model::proxy::{ProxySettings, Timeouts};

const SECTION_KEYS: [&str; 7] = [
    "connect_timeout",
    "client_timeout",
    "server_timeout",
    "max_connections",
    "fallback_listen",
    "fallback_page",
    "table_sync",
];

/// The section as far as it could be read.
#[derive(Default)]
pub(in crate::config) struct DraftSettings {
    /// What is reported keeps its default, for the configuration is refused anyway.
    pub(in crate::config) value: ProxySettings,
    /// Addresses that this machine listens on, where they are written, by their keys.
    pub(super) listens: Vec<(&'static str, At<SocketAddr>)>,
}

/// Reads the section. The page's path is relative to `directory`.
pub(in crate::config) fn read_settings(
    section: Option<&Entry>,
    directory: &Path,
    report: &mut Report<'_>,
) -> DraftSettings {
    let Some(section) = section else { return DraftSettings::default() };
    let table = entries(section);
    read::check_keys(table, "`[proxy]`", &SECTION_KEYS, &[], report);
    let default = ProxySettings::default();
    let mut limit =
        |key: &str, default| table.get(key).and_then(|entry| read_limit(entry, report)).unwrap_or(default);
    let timeouts = Timeouts {
        connect: limit("connect_timeout", default.timeouts.connect),
        client: limit("client_timeout", default.timeouts.client),
        server: limit("server_timeout", default.timeouts.server),
    };
    let most = table.get("max_connections");
    let max_connections = most.and_then(|entry| read::number(entry, 1..=MOST_CONNECTIONS, report));
    let mut listens = Vec::new();
    let mut listen = |key: &'static str, default: SocketAddr| {
        let Some(entry) = table.get(key) else { return default };
        let Some(address) = read_listen(entry, default, report) else { return default };
        listens.push((key, At { value: address, span: entry.node.span }));
        address
    };
    let fallback_listen = listen("fallback_listen", default.fallback_listen);
    let table_sync = listen("table_sync", default.table_sync);
    let fallback_page = table.get("fallback_page").and_then(|entry| {
        let path = files::read_path(entry, directory, "\"pages/sorry.html\"", report)?;
        files::advise(&path, Purpose::Page, entry.node.span, report);
        Some(path)
    });
    let value = ProxySettings {
        timeouts,
        max_connections: max_connections.unwrap_or(default.max_connections),
        fallback_listen,
        fallback_page,
        table_sync,
    };
    DraftSettings { value, listens }
}

/// An address of this machine with a port.
fn read_listen(entry: &Entry, example: SocketAddr, report: &mut Report<'_>) -> Option<SocketAddr> {
    let text = read::string(entry, &format!("\"{example}\""), report)?;
    let listens = |address: &SocketAddr| {
        let ip = address.ip();
        address.port() != 0 && !ip.is_multicast() && ip != std::net::IpAddr::from([255; 4])
    };
    let address = socket_address(text).filter(listens);
    if address.is_none() {
        let key = &entry.key.value;
        report.error(
            Code::BadAddress,
            entry.node.span,
            format!("`{key}` is \"{text}\", which is not an address of this machine with a port"),
            format!("write `{key} = \"{example}\"`"),
        );
    }
    address
}
