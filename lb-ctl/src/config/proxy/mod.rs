//! Layer 7: `[proxy]`, and what the companion proxy does for a VIP. Values are checked in every mode, as those of NAT
//! are; a key that means nothing in the VIP's mode is a warning, and what the mode makes impossible is an error.
//!
//! **Defaults.** `[proxy]`: connect 4 s, client and server 1 h, 40000 connections, fallback page at 127.0.0.1:9081, stick
//! tables at 127.0.0.1:7778. Of a VIP: `timeouts` and `max_connections` those of `[proxy]`; `tls` with `client_cert`
//! required beside `client_ca`, security high, `cleartext` false beside `client_ca` and true otherwise; `http` keep-alive
//! both, invalid messages refused, 5 s for a request, `forwarded_for` true; `unintelligible` default; everything else
//! off. `persist` is source-ip for 1 h in `l7-tcp` (R23) and none in `l7-http`; `fallback` is off in `l7-tcp` and page
//! in `l7-http`.
//!
//! **Pools.** A switch rule names a `[pool.NAME]`, whose servers become servers of the VIP; or a pool that servers of
//! the VIP say of themselves, `{ ip = "..", pool = "NAME" }`, which then stands in the place of the other.

mod between;
mod extra;
mod headers;
mod http;
mod rules;
mod settings;
mod switch;
#[cfg(test)]
mod tests;
mod tls;
mod values;

pub(super) use self::{
    between::check, headers::is_token, rules::check_vip, settings::read_settings, switch::pools_of,
    values::MAX_TIME,
};
use super::{
    check::Scope,
    diag::Report,
    file::{At, Table},
    read,
};
use crate::model::proxy::{Proxy, ProxyHeader, Unintelligible};

/// Keys of a VIP that have meaning on layer 7 alone.
const KEYS: [&str; 13] = [
    "tls",
    "backend_tls",
    "timeouts",
    "http",
    "https_redirect",
    "headers",
    "switch",
    "unintelligible",
    "accept_proxy",
    "send_proxy",
    "transparent",
    "max_connections",
    "haproxy_extra",
];
/// Those that are laid over a profile's key by key.
pub(super) const LAID_TABLES: [&str; 4] = ["tls", "backend_tls", "timeouts", "http"];
/// What they take.
pub(super) const TABLE_KEYS: [(&str, &[&str]); 4] = [
    ("tls", &["port", "cert", "client_ca", "client_cert", "security", "cleartext"]),
    ("backend_tls", &["verify", "name", "sni", "client_cert"]),
    ("timeouts", &["connect", "client", "server"]),
    ("http", &["keep_alive", "accept_invalid", "request_timeout", "forwarded_for"]),
];
/// Most connections that can be asked for.
const MOST_CONNECTIONS: u32 = 1_000_000;

const UNINTELLIGIBLE: [(&str, Unintelligible); 2] =
    [("default", Unintelligible::Default), ("refuse", Unintelligible::Refuse)];
const SEND_PROXY: [(&str, Option<ProxyHeader>); 5] = [
    ("v1", Some(ProxyHeader::V1)),
    ("v2", Some(ProxyHeader::V2)),
    ("v2-ssl", Some(ProxyHeader::V2Ssl)),
    ("v2-ssl-cn", Some(ProxyHeader::V2SslCn)),
    ("off", None),
];

/// What the proxy does for a VIP, as far as it could be read.
pub(super) struct DraftProxy {
    /// What is reported keeps its default, for the configuration is refused anyway.
    pub(super) value: Proxy,
    /// Port of TLS, with its place.
    tls_port: Option<At<u16>>,
}

impl DraftProxy {
    /// True when the VIP's `ports` are served.
    pub(super) fn serves_ports(&self) -> bool {
        self.value.tls.as_ref().is_none_or(|tls| tls.cleartext)
    }

    /// The port of TLS.
    pub(super) const fn tls_port(&self) -> Option<&At<u16>> {
        self.tls_port.as_ref()
    }

    /// What the proxy does; what means nothing for it has its default.
    pub(super) fn finish(self) -> Proxy {
        let mut proxy = self.value;
        if !proxy.reads_ae_titles() {
            proxy.unintelligible = Unintelligible::default();
        }
        proxy
    }
}

/// Reads it from a VIP's merged table.
pub(super) fn read_proxy(table: &Table, scope: Scope<'_>, report: &mut Report<'_>) -> DraftProxy {
    let plain = Proxy::new(scope.proxy);
    let flag = |key: &str, report: &mut Report<'_>| {
        table.get(key).and_then(|entry| read::boolean(entry, report)).unwrap_or_default()
    };
    let unintelligible =
        table.get("unintelligible").and_then(|entry| read::word(entry, &UNINTELLIGIBLE, &[], report));
    let send_proxy = table.get("send_proxy").and_then(|entry| read::word(entry, &SEND_PROXY, &[], report));
    let most = table.get("max_connections");
    let value = Proxy {
        tls: table.get("tls").and_then(|entry| tls::read_termination(entry, scope, report)),
        backend_tls: table.get("backend_tls").and_then(|entry| tls::read_backend(entry, scope, report)),
        timeouts: values::read_timeouts(table.get("timeouts"), plain.timeouts, report),
        http: http::read_http(table.get("http"), report),
        https_redirect: table.get("https_redirect").and_then(|entry| http::read_redirect(entry, report)),
        headers: table.get("headers").map(|entry| headers::read_headers(entry, report)).unwrap_or_default(),
        switch: table.get("switch").map(|entry| switch::read_switch(entry, report)).unwrap_or_default(),
        unintelligible: unintelligible.unwrap_or_default(),
        accept_proxy: flag("accept_proxy", report),
        send_proxy: send_proxy.flatten(),
        transparent: flag("transparent", report),
        max_connections: most.and_then(|entry| read::number(entry, 1..=MOST_CONNECTIONS, report)),
        extra: table.get("haproxy_extra").map(|entry| extra::read_extra(entry, report)).unwrap_or_default(),
    };
    DraftProxy { tls_port: tls::port_place(table, value.tls.as_ref()), value }
}
