//! What an operator sees of a change before and after it is made.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use super::show::{
    Setting, alerts_keys, check_keys, gateway_keys, node_keys, pki_keys, settings_keys, vip_keys,
};
use crate::model::config::{Config, Rip, Vip};

/// Stands for the value of a key that has none.
const NOT_SET: &str = "(not set)";

/// The difference, a line each: `vip DICOM: scheduler wrr -> maglev`, `vip DICOM: + DICOM2 10.12.1.111 w100`. Empty
/// when the two are equal, and only then.
#[must_use]
pub fn diff(old: &Config, new: &Config) -> Vec<String> {
    let mut lines = settings("node:", &flat(node_keys(&old.node)), &flat(node_keys(&new.node)));
    let gateway = |config: &Config| flat(gateway_keys(&config.gateway));
    lines.extend(settings("gateway:", &gateway(old), &gateway(new)));
    let pki = |config: &Config| bare_values(pki_keys(&config.pki));
    lines.extend(settings("pki:", &pki(old), &pki(new)));
    let alerts = |config: &Config| flat(alerts_keys(&config.alerts));
    lines.extend(settings("alerts:", &alerts(old), &alerts(new)));
    let proxy = |config: &Config| flat(settings_keys(&config.proxy));
    lines.extend(settings("proxy:", &proxy(old), &proxy(new)));
    let names = |config: &Config| config.vips.iter().map(|vip| vip.name.clone()).collect::<Vec<_>>();
    let before: BTreeMap<_, _> = old.vips.iter().map(|vip| (vip.name.as_str(), vip)).collect();
    let after: BTreeMap<_, _> = new.vips.iter().map(|vip| (vip.name.as_str(), vip)).collect();
    for vip in old.vips.iter().filter(|vip| !after.contains_key(vip.name.as_str())) {
        lines.push(format!("- {}", summary(vip)));
    }
    for vip in &new.vips {
        match before.get(vip.name.as_str()) {
            Some(was) => lines.extend(vip_lines(was, vip)),
            None => {
                lines.push(format!("+ {}", summary(vip)));
                lines.extend(rip_lines(&vip.name, &[], &vip.rips));
            }
        }
    }
    lines.extend(order("vips: order", &names(old), &names(new)));
    lines
}

fn summary(vip: &Vip) -> String {
    let (mode, protocols) = (vip.mode.name(), vip.protocols.name());
    format!("vip {}: {mode} {} {protocols} {}", vip.name, vip.ip, vip.ports)
}

fn vip_lines(old: &Vip, new: &Vip) -> Vec<String> {
    let mut lines = settings(&format!("vip {}:", new.name), &flat(vip_keys(old)), &flat(vip_keys(new)));
    lines.extend(rip_lines(&new.name, &old.rips, &new.rips));
    for rip in &new.rips {
        let was = old.rips.iter().find(|was| was.name == rip.name);
        lines.extend(was.into_iter().flat_map(|was| own_check(old, was, new, rip)));
    }
    lines
}

fn rip_lines(vip: &str, old: &[Rip], new: &[Rip]) -> Vec<String> {
    let mut lines = Vec::new();
    for was in old.iter().filter(|was| new.iter().all(|rip| rip.name != was.name)) {
        lines.push(format!("vip {vip}: - {}", server(was)));
    }
    for rip in new {
        let Some(was) = old.iter().find(|was| was.name == rip.name) else {
            lines.push(format!("vip {vip}: + {}", server(rip)));
            continue;
        };
        if was.ip != rip.ip {
            lines.push(format!("vip {vip}: {} ip {} -> {}", rip.name, was.ip, rip.ip));
        }
        if was.port != rip.port {
            let port = |port: Option<u16>| port.map_or_else(|| NOT_SET.to_owned(), |port| port.to_string());
            lines.push(format!("vip {vip}: {} port {} -> {}", rip.name, port(was.port), port(rip.port)));
        }
        if was.pool != rip.pool {
            let pool = |pool: &Option<String>| pool.clone().unwrap_or_else(|| NOT_SET.to_owned());
            lines.push(format!("vip {vip}: {} pool {} -> {}", rip.name, pool(&was.pool), pool(&rip.pool)));
        }
        for (key, was, is) in [
            ("weight", was.weight, rip.weight),
            ("max_connections", was.max_connections, rip.max_connections),
            ("min_connections", was.min_connections, rip.min_connections),
        ] {
            if was != is {
                lines.push(format!("vip {vip}: {} {key} {was} -> {is}", rip.name));
            }
        }
    }
    let names = |rips: &[Rip]| rips.iter().map(|rip| rip.name.clone()).collect::<Vec<_>>();
    lines.extend(order(&format!("vip {vip}: order of servers"), &names(old), &names(new)));
    lines
}

/// How a server is checked, where that is not said of the whole VIP.
fn own_check(old: &Vip, was: &Rip, new: &Vip, is: &Rip) -> Vec<String> {
    if was.check.is_none() && is.check.is_none() {
        return Vec::new();
    }
    let keys = |vip: &Vip, rip: &Rip| {
        let check = check_keys(rip.check.as_ref().unwrap_or(&vip.check), vip.mode, vip.protocols);
        flat(vec![Setting::Table("check", check)])
    };
    settings(&format!("vip {}: {}", new.name, is.name), &keys(old, was), &keys(new, is))
}

/// `DICOM2 10.12.1.111:11112 w100`.
fn server(rip: &Rip) -> String {
    let Rip { name, ip, port, weight, max_connections, min_connections, check, pool } = rip;
    let address = port.map_or_else(|| ip.to_string(), |port| SocketAddr::new(*ip, port).to_string());
    let limit = |word: &str, limit: u16| if limit == 0 { String::new() } else { format!(" {word} {limit}") };
    let check = check.as_ref().map_or_else(String::new, |check| format!(" check {}", check.kind.name()));
    let (max, min) = (limit("max", *max_connections), limit("min", *min_connections));
    let pool = pool.as_ref().map_or_else(String::new, |pool| format!(" pool {pool}"));
    format!("{name} {address} w{weight}{max}{min}{check}{pool}")
}

/// A line when the names common to both stand in another order.
fn order(what: &str, old: &[String], new: &[String]) -> Option<String> {
    let (had, has): (BTreeSet<_>, BTreeSet<_>) = (old.iter().collect(), new.iter().collect());
    let was: Vec<_> = old.iter().filter(|name| has.contains(name)).map(String::as_str).collect();
    let is: Vec<_> = new.iter().filter(|name| had.contains(name)).map(String::as_str).collect();
    (was != is).then(|| format!("{what} {} -> {}", was.join(", "), is.join(", ")))
}

/// A line for each key whose value differs. `owner` comes first: `node:`, `vip DICOM: PACS1`.
fn settings(owner: &str, old: &[(String, String)], new: &[(String, String)]) -> Vec<String> {
    let value = |keys: &[(String, String)], key: &str| {
        keys.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone())
    };
    let mut lines = Vec::new();
    for (key, is) in new {
        let was = value(old, key);
        if was.as_ref() != Some(is) {
            lines.push(format!("{owner} {key} {} -> {is}", was.as_deref().unwrap_or(NOT_SET)));
        }
    }
    for (key, was) in old.iter().filter(|(key, _)| value(new, key).is_none()) {
        lines.push(format!("{owner} {key} {was} -> {NOT_SET}"));
    }
    lines
}

/// Dotted keys with values as people read them.
fn flat(settings: Vec<Setting>) -> Vec<(String, String)> {
    let keys = settings.into_iter().flat_map(|setting| match setting {
        Setting::Plain(key, value) => vec![(key.to_owned(), value)],
        Setting::Table(key, inner) => {
            inner.into_iter().map(|(name, value)| (format!("{key}.{name}"), value)).collect()
        }
    });
    bare_values(keys.collect())
}

/// Texts without TOML's quotes around them.
fn bare_values(keys: Vec<(String, String)>) -> Vec<(String, String)> {
    let bare = |value: String| {
        let inner = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        inner.map(str::to_owned).unwrap_or(value)
    };
    keys.into_iter().map(|(key, value)| (key, bare(value))).collect()
}
