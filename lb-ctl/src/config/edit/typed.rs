//! What was typed on the command line, as TOML values.

use std::net::{IpAddr, SocketAddr};

use toml_edit::{InlineTable, Key, Value};

use super::{EditError, refused};
use crate::{
    config::server::socket_address,
    model::command::{Assignment, ProxySpec, VipSpec},
};

/// The keys that `lbctl vip add` was given; the others keep their defaults.
pub(super) fn spec_keys(spec: &VipSpec) -> InlineTable {
    let mut keys = InlineTable::new();
    keys.insert("mode", spec.mode.as_str().into());
    keys.insert("ip", spec.ip.as_str().into());
    keys.insert("ports", bare("ports", &spec.ports));
    let words = [
        ("protocol", &spec.protocol),
        ("scheduler", &spec.scheduler),
        ("fallback", &spec.fallback),
        ("slow_start", &spec.slow_start),
        ("unattended", &spec.unattended),
        ("source", &spec.source),
        ("source_ports", &spec.source_ports),
        ("return", &spec.return_path),
    ];
    for (key, value) in words {
        if let Some(value) = value {
            keys.insert(key, bare(key, value));
        }
    }
    if let Some(reset) = spec.reset {
        keys.insert("reset", reset.into());
    }
    if let Some(group) = &spec.persist_group {
        let kind = spec.persist.as_ref().map(|kind| ("type", kind.as_str()));
        let given = kind.into_iter().chain([("group", group.as_str())]);
        keys.insert("persist", Value::InlineTable(given.collect()));
    } else if let Some(persist) = &spec.persist {
        keys.insert("persist", persist.as_str().into());
    }
    put_proxy(&spec.proxy, &mut keys);
    if let Some(check) = check_value(spec) {
        keys.insert("check", check);
    }
    let servers: InlineTable = spec.rips.iter().map(|(name, ip)| (name.as_str(), ip.as_str())).collect();
    keys.insert("servers", servers.into());
    keys
}

/// Keys that have meaning on layer 7 alone.
fn put_proxy(spec: &ProxySpec, keys: &mut InlineTable) {
    let port = spec.tls_port.map(|port| ("port", Value::from(i64::from(port))));
    let cert = spec.cert.as_ref().map(|cert| ("cert", bare("tls.cert", cert)));
    let family = spec.client_ca.as_ref().map(|family| ("client_ca", Value::from(family.as_str())));
    let tls: InlineTable = port.into_iter().chain(cert).chain(family).collect();
    if !tls.is_empty() {
        keys.insert("tls", tls.into());
    }
    if let Some(verify) = &spec.backend_verify {
        keys.insert("backend_tls", Value::InlineTable([("verify", verify.as_str())].into_iter().collect()));
    }
    if let Some(status) = spec.https_redirect {
        keys.insert("https_redirect", i64::from(status).into());
    }
}

/// A check as short as it can be said.
fn check_value(spec: &VipSpec) -> Option<Value> {
    let details = [
        ("script", &spec.check_script),
        ("path", &spec.check_path),
        ("calling_aet", &spec.calling_aet),
        ("called_aet", &spec.called_aet),
    ];
    let details = details.iter().filter_map(|(key, value)| Some((*key, Value::from(value.as_deref()?))));
    let port = spec.check_port.map(|port| ("port", Value::from(i64::from(port))));
    let mut details = details.chain(port).peekable();
    let kind = spec.check.as_deref();
    if details.peek().is_none() {
        return kind.map(Value::from);
    }
    let kind = kind.map(|kind| ("type", Value::from(kind)));
    Some(Value::InlineTable(kind.into_iter().chain(details).collect()))
}

/// A server as short as it can be said.
pub(super) fn server_value(ip: IpAddr, port: Option<u16>, numbers: &[(&str, Option<u16>)]) -> Value {
    let mut given = numbers.iter().filter_map(|(key, number)| Some((*key, i64::from((*number)?)))).peekable();
    if given.peek().is_none() {
        return port.map_or_else(|| ip.to_string(), |port| SocketAddr::new(ip, port).to_string()).into();
    }
    let mut keys = InlineTable::new();
    keys.insert("ip", ip.to_string().into());
    if let Some(port) = port {
        keys.insert("port", i64::from(port).into());
    }
    for (key, number) in given {
        keys.insert(key, number.into());
    }
    Value::InlineTable(keys)
}

/// A new address in the place of an old one: it keeps the port that the old one names, unless it names its own.
pub(super) fn with_port_of(old: &str, new: Value) -> Value {
    let port = socket_address(old).map(|old| old.port());
    let ip = new.as_str().and_then(|new| new.parse::<IpAddr>().ok());
    port.zip(ip).map_or(new, |(port, ip)| SocketAddr::new(ip, port).to_string().into())
}

/// Keys and value of `key=value`: TOML, or a bare word.
pub(super) fn parse_assignment(assignment: &Assignment) -> Result<(Vec<String>, Value), EditError> {
    let Assignment { key, value } = assignment;
    let keys = Key::parse(key)
        .map_err(|_| refused(format!("`{key}` is not a key: write `check.called_aet=PACS`, for example")))?;
    let keys: Vec<_> = keys.iter().map(|key| key.get().to_owned()).collect();
    let own = keys.join(".");
    let mut parsed = match value.parse::<Value>() {
        // One port is a list of one.
        Ok(Value::Integer(_)) if own == "ports" => bare(&own, value),
        Ok(parsed) => parsed,
        Err(_) => bare(&own, value),
    };
    parsed.decor_mut().clear();
    Ok((keys, parsed))
}

/// A bare word as the key takes it: a string, or for keys that take lists the list that commas make of it.
fn bare(key: &str, word: &str) -> Value {
    let items = word.split(',').map(str::trim);
    match (key, word) {
        ("ports", "all") | ("source", "interface" | "vip") => word.into(),
        ("ports", _) => Value::from_iter(items.map(|item| match item.parse::<u16>() {
            Ok(port) => Value::from(i64::from(port)),
            Err(_) => item.into(),
        })),
        // What is no address is told as what it is: an unknown word.
        ("source", _) if word.contains(',') || word.parse::<IpAddr>().is_ok() => Value::from_iter(items),
        ("tls.cert", _) if word.contains(',') => Value::from_iter(items),
        // A line may have commas of its own.
        ("haproxy_extra", _) => Value::from_iter([word]),
        ("alert_to" | "check.accept" | "check.all" | "check.any", _) => Value::from_iter(items),
        ("check.status", _) if word.contains(',') => Value::from_iter(items.map(|item| {
            item.parse::<u16>().map_or_else(|_range| item.into(), |status| Value::from(i64::from(status)))
        })),
        _ => word.into(),
    }
}
