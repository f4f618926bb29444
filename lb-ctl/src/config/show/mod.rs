//! The effective configuration as TOML, every default written out. Loading it gives the same [`Config`].

mod alerts;
mod check;
mod proxy;
mod text;

use toml_edit::Key;

use self::{
    alerts::write_pki,
    proxy::proxy_keys,
    text::{list, quoted, table, time},
};
pub(super) use self::{
    alerts::{alerts_keys, pki_keys},
    check::check_keys,
    proxy::settings_keys,
};
use crate::model::config::{
    Config, Fallback, Gateway, Mode, Node, Persist, Ports, Rip, Source, SourceAddresses, Vip,
};

/// The whole configuration as one TOML text.
#[must_use]
pub fn show(config: &Config) -> String {
    let mut text = String::from("[node]\n");
    write_keys(&mut text, &node_keys(&config.node));
    text.push_str("\n[gateway]\n");
    write_keys(&mut text, &gateway_keys(&config.gateway));
    write_pki(&mut text, &config.pki);
    text.push_str("\n[alerts]\n");
    write_keys(&mut text, &alerts_keys(&config.alerts));
    text.push_str("\n[proxy]\n");
    write_keys(&mut text, &settings_keys(&config.proxy));
    for vip in &config.vips {
        let name = Key::new(&vip.name);
        text.push_str(&format!("\n[vip.{name}]\n"));
        write_keys(&mut text, &vip_keys(vip));
        text.push_str(&format!("[vip.{name}.servers]\n"));
        for Rip { name, ip, port, weight, max_connections, min_connections, check, pool } in &vip.rips {
            let port = port.map_or_else(String::new, |port| format!(", port = {port}"));
            let own = check.as_ref().map_or_else(String::new, |check| {
                format!(", check = {}", table(&check_keys(check, vip.mode, vip.protocols)))
            });
            // With what this VIP makes of them, such servers are its own.
            let pool = pool.as_ref().map_or_else(String::new, |pool| format!(", pool = {}", quoted(pool)));
            text.push_str(&format!(
                "{} = {{ ip = \"{ip}\"{port}, weight = {weight}, max_connections = {max_connections}, min_connections = \
                 {min_connections}{own}{pool} }}\n",
                Key::new(name)
            ));
        }
    }
    text
}

/// Keys with their values as TOML.
pub(super) type Keys = Vec<(&'static str, String)>;

/// A key with its value as TOML, or with keys of its own.
pub(super) enum Setting {
    Plain(&'static str, String),
    Table(&'static str, Keys),
}

/// Keys of `[node]`; what is not set has none.
pub(super) fn node_keys(node: &Node) -> Vec<Setting> {
    let mut keys = Vec::new();
    if let Some(name) = &node.name {
        keys.push(Setting::Plain("name", quoted(name)));
    }
    keys.push(Setting::Plain("interfaces", list(node.interfaces.iter().map(quoted))));
    keys.push(Setting::Plain("flows_v4", node.flows_v4.to_string()));
    keys.push(Setting::Plain("flows_v6", node.flows_v6.to_string()));
    keys.push(Setting::Plain("half_open", node.half_open.to_string()));
    keys
}

/// Keys of `[gateway]`.
pub(super) fn gateway_keys(gateway: &Gateway) -> Vec<Setting> {
    let addresses = gateway.addresses.iter().map(|address| match &address.interface {
        Some(interface) => format!("{{ ip = \"{}\", interface = {} }}", address.ip, quoted(interface)),
        None => quoted(address.ip),
    });
    vec![
        Setting::Plain("addresses", list(addresses)),
        Setting::Plain("masquerade", list(gateway.masquerade.iter().map(quoted))),
    ]
}

/// Keys of a VIP but its servers; those that mean nothing in its mode are left out.
pub(super) fn vip_keys(vip: &Vip) -> Vec<Setting> {
    let mut keys = vec![
        Setting::Plain("mode", quoted(vip.mode.name())),
        Setting::Plain("ip", quoted(vip.ip)),
        Setting::Plain("ports", ports(&vip.ports)),
        Setting::Plain("protocol", quoted(vip.protocols.name())),
    ];
    if let Some(interface) = &vip.interface {
        keys.push(Setting::Plain("interface", quoted(interface)));
    }
    keys.push(Setting::Plain("scheduler", quoted(vip.scheduler.name())));
    keys.push(Setting::Table("persist", persist_keys(vip)));
    keys.push(Setting::Table("check", check_keys(&vip.check, vip.mode, vip.protocols)));
    keys.push(Setting::Plain("alert_to", list(vip.alert_to.iter().map(quoted))));
    let layer7 = vip.mode.is_layer7();
    if !layer7 {
        keys.push(Setting::Plain("idle_timeout", time(vip.idle_timeout)));
    }
    keys.push(Setting::Plain("fallback", fallback(vip)));
    keys.push(Setting::Plain("slow_start", time(vip.slow_start)));
    if !layer7 {
        keys.push(Setting::Plain("unattended", quoted(vip.unattended.name())));
    }
    if vip.mode == Mode::L4Snat || layer7 {
        keys.push(Setting::Plain("source", source(&vip.source)));
    }
    if vip.mode == Mode::L4Snat {
        let (low, high) = (vip.source.ports.start(), vip.source.ports.end());
        keys.push(Setting::Plain("source_ports", quoted(format!("{low}-{high}"))));
    }
    if vip.mode.sees_replies() {
        keys.push(Setting::Plain("return", quoted(vip.return_path.name())));
    }
    if vip.mode != Mode::L4Dr {
        keys.push(Setting::Plain("reset", vip.reset.to_string()));
    }
    if let Some(proxy) = &vip.proxy {
        keys.extend(proxy_keys(proxy, vip.mode));
    }
    keys.push(Setting::Plain("enabled", vip.enabled.to_string()));
    keys
}

fn ports(ports: &Ports) -> String {
    let Ports::Ranges(ranges) = ports else {
        return quoted(ports);
    };
    list(ranges.iter().map(|range| match (range.start(), range.end()) {
        (low, high) if low == high => low.to_string(),
        (low, high) => quoted(format!("{low}-{high}")),
    }))
}

fn source(source: &Source) -> String {
    match &source.addresses {
        SourceAddresses::Interface => quoted("interface"),
        SourceAddresses::Vip => quoted("vip"),
        SourceAddresses::Pool(pool) => list(pool.iter().map(quoted)),
    }
}

/// On layer 7 a client is not rejected, but gets nothing.
fn fallback(vip: &Vip) -> String {
    match vip.fallback {
        Fallback::Reject if vip.mode.is_layer7() => quoted("off"),
        Fallback::Drop | Fallback::Page | Fallback::Reject | Fallback::Server { .. } => quoted(vip.fallback),
    }
}

fn persist_keys(vip: &Vip) -> Keys {
    match &vip.persist {
        Persist::Cookie { name, max_idle, max_life } => vec![
            ("type", quoted("cookie")),
            ("name", quoted(name)),
            ("max_idle", time(*max_idle)),
            ("max_life", time(*max_life)),
        ],
        Persist::LastSuccessful { timeout } => {
            let mut keys = vec![("type", quoted("last-successful"))];
            keys.extend(timeout.map(|timeout| ("timeout", time(timeout))));
            keys
        }
        Persist::None => vec![("type", quoted("none"))],
        Persist::SourceIp { prefix_v4, prefix_v6, timeout, group } => {
            let prefix = if vip.ip.is_ipv4() { prefix_v4 } else { prefix_v6 };
            let mut keys = vec![
                ("type", quoted("source-ip")),
                ("timeout", time(*timeout)),
                ("prefix", prefix.to_string()),
            ];
            keys.extend(group.as_ref().map(|group| ("group", quoted(group))));
            keys
        }
        Persist::UrlParam { name, timeout, entries, key_len } => vec![
            ("type", quoted("url-param")),
            ("name", quoted(name)),
            ("timeout", time(*timeout)),
            ("entries", entries.to_string()),
            ("key_len", key_len.to_string()),
        ],
    }
}

fn write_keys(text: &mut String, keys: &[Setting]) {
    for key in keys {
        match key {
            Setting::Plain(key, value) => text.push_str(&format!("{key} = {value}\n")),
            Setting::Table(key, inner) => {
                text.push_str(&format!("{key} = {}\n", table(inner)));
            }
        }
    }
}
