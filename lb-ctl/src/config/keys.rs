//! Keys of `check` and `persist`: which mean something with which type, and what becomes of them when one table is laid
//! upon another.

use super::{
    diag::{Code, Report},
    file::{At, Entry, Table, Value},
};

/// Keys of a check as a whole, whatever it asks.
pub(super) const WHOLE_CHECK_KEYS: [&str; 7] =
    ["source", "interval", "timeout", "rise", "fall", "dr_path", "syn_repeats"];
/// Keys of a check of any type, and of a part of one.
pub(super) const CHECK_KEYS: [&str; 29] = [
    "type",
    "any",
    "all",
    "port",
    "source",
    "interval",
    "timeout",
    "rise",
    "fall",
    "dr_path",
    "syn_repeats",
    "method",
    "path",
    "host",
    "status",
    "body",
    "max_body_bytes",
    "verify",
    "client_cert",
    "sni",
    "calling_aet",
    "called_aet",
    "tls",
    "find",
    "accept_reject",
    "message",
    "accept",
    "script",
    "vip",
];
pub(super) const PERSIST_KEYS: [&str; 9] =
    ["type", "timeout", "prefix", "group", "name", "max_idle", "max_life", "entries", "key_len"];

const TLS_KEYS: [&str; 3] = ["verify", "client_cert", "sni"];
/// Checks that are made of several.
pub(super) const COMBINATIONS: [&str; 2] = ["any", "all"];

/// A `check` or `persist` as a table: a string is short for `{ type = string }`.
pub(super) fn typed(node: &At<Value>) -> Option<Table> {
    match &node.value {
        Value::Table(table) => Some(table.clone()),
        Value::String(_) => {
            let key = At { value: "type".to_owned(), span: node.span };
            Some(Table { entries: vec![Entry { key, node: node.clone() }] })
        }
        Value::Array(_) | Value::Boolean(_) | Value::Integer(_) | Value::Other(_) => None,
    }
}

/// Lays `upper` upon `lower`. Keys of the lower table that mean nothing for the upper one's type fall away.
pub(super) fn merge_typed(lower: Table, mut upper: Table) -> Table {
    let kind = kind_of(&upper).map(str::to_owned);
    // What these remember is their own, and so is how long.
    let anew = matches!(kind.as_deref(), Some("cookie" | "last-successful" | "url-param"))
        && kind.as_deref() != kind_of(&lower);
    let in_the_clear = upper.get("tls").is_some_and(|tls| matches!(tls.node.value, Value::Boolean(false)));
    for under in lower.entries {
        let key = under.key.value.as_str();
        let means_nothing = kind.as_deref().is_some_and(|kind| !has_meaning(kind, key))
            || in_the_clear && TLS_KEYS.contains(&key);
        if !anew && !means_nothing && !upper.has(key) {
            upper.entries.push(under);
        }
    }
    upper
}

/// The type that a table says, or the key that says that it is made of several.
fn kind_of(table: &Table) -> Option<&str> {
    match table.get("type") {
        Some(kind) => kind.node.value.as_str(),
        None => COMBINATIONS.into_iter().find(|key| table.has(key)),
    }
}

/// Reports keys that another type of check or persistence would take.
pub(super) fn refuse_meaningless(table: &Table, kind: &str, report: &mut Report<'_>) {
    for Entry { key, .. } in table.entries.iter().filter(|entry| !has_meaning(kind, &entry.key.value)) {
        let name = &key.value;
        let help = type_of(name).filter(|_| kind != "off").map_or_else(
            || format!("remove `{name}`"),
            |owner| format!("write `type = \"{owner}\"` beside it, or remove `{name}`"),
        );
        let beside = if COMBINATIONS.contains(&kind) {
            format!("beside `{kind}`")
        } else {
            format!("with type \"{kind}\"")
        };
        report.error(Code::MisplacedKey, key.span, format!("`{name}` means nothing {beside}"), help);
    }
}

/// Reports keys of TLS beside a type that can do without it, and does.
pub(super) fn refuse_tls_keys(table: &Table, report: &mut Report<'_>) {
    for Entry { key, .. } in TLS_KEYS.into_iter().filter_map(|key| table.get(key)) {
        let name = &key.value;
        report.error(
            Code::MisplacedKey,
            key.span,
            format!("`{name}` means nothing without `tls = true`"),
            format!("write `tls = true` beside it, or remove `{name}`"),
        );
    }
}

/// Whether a check or persistence of this type takes this key. A type that there is not takes any: that is told as what
/// it is.
fn has_meaning(kind: &str, key: &str) -> bool {
    // What nobody takes is told as what it is, too.
    if !CHECK_KEYS.contains(&key) && !PERSIST_KEYS.contains(&key) {
        return true;
    }
    let of_persistence = matches!(kind, "cookie" | "last-successful" | "source-ip" | "url-param");
    if of_persistence && !PERSIST_KEYS.contains(&key) {
        return true;
    }
    let whole = WHOLE_CHECK_KEYS.contains(&key);
    match (kind, key) {
        ("any" | "all", "type") => false,
        (_, "type") => true,
        ("off" | "none", _) => false,
        ("last-successful", _) => key == "timeout",
        ("source-ip", _) => matches!(key, "timeout" | "prefix" | "group"),
        ("cookie", _) => matches!(key, "name" | "max_idle" | "max_life"),
        ("url-param", _) => matches!(key, "name" | "timeout" | "entries" | "key_len"),
        ("connect" | "agent", _) => whole || key == "port",
        ("ping", _) => whole,
        // What these ask does not go by an address of ours.
        ("script", _) => whole && key != "source" || matches!(key, "port" | "script"),
        ("track", _) => whole && key != "source" || key == "vip",
        ("any" | "all", _) => whole || matches!(key, "port") || key == kind,
        ("http" | "https" | "dicom-echo" | "mllp", _) => {
            let own = type_of(key);
            let tls = TLS_KEYS.contains(&key) && matches!(kind, "https" | "dicom-echo");
            let http = own == Some("http") && kind == "https";
            whole || key == "port" || own == Some(kind) || tls || http
        }
        _ => true,
    }
}

/// The type that a key belongs to, if it is one alone or a plainer one than others.
fn type_of(key: &str) -> Option<&'static str> {
    match key {
        "method" | "path" | "host" | "status" | "body" | "max_body_bytes" => Some("http"),
        "verify" | "client_cert" | "sni" => Some("https"),
        "calling_aet" | "called_aet" | "tls" | "find" | "accept_reject" => Some("dicom-echo"),
        "message" | "accept" => Some("mllp"),
        "script" => Some("script"),
        "vip" => Some("track"),
        _ => None,
    }
}
