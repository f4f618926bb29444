//! `switch`: which pool a connection or request goes to.

use super::super::{
    check::ae_title_in,
    diag::{Code, Report},
    file::{At, Entry, Span, Table, Value},
    hosts::{is_host, is_path},
    read::{self, missing, wrong_type},
};
use crate::model::proxy::{SwitchOn, SwitchRule};

const EXAMPLE: &str = "[{ called_aet = \"ARCHIVE\", pool = \"archive\" }]";
const RULE_KEYS: [&str; 6] = ["called_aet", "calling_aet", "host", "path_prefix", "sni", "pool"];
/// What can be compared, with examples.
const SUBJECTS: [(&str, &str); 5] = [
    ("called_aet", "\"ARCHIVE\""),
    ("calling_aet", "\"MR1\""),
    ("host", "\"viewer.hospital.example\""),
    ("path_prefix", "\"/wado\""),
    ("sni", "\"viewer.hospital.example\""),
];

/// Pools that the rules of a VIP or profile lead to, each once for every rule.
pub(in crate::config) fn pools_of(table: &Table) -> Vec<At<&str>> {
    let Some(Value::Array(items)) = table.get("switch").map(|entry| &entry.node.value) else {
        return Vec::new();
    };
    items.iter().filter_map(named_pool).collect()
}

fn named_pool(item: &At<Value>) -> Option<At<&str>> {
    let Value::Table(rule) = &item.value else { return None };
    let node = &rule.get("pool")?.node;
    Some(At { value: node.value.as_str()?, span: node.span })
}

/// Reads `switch`. What is reported is left out, for the configuration is refused anyway.
pub(super) fn read_switch(entry: &Entry, report: &mut Report<'_>) -> Vec<SwitchRule> {
    let Value::Array(items) = &entry.node.value else {
        wrong_type(entry, "a list of tables", EXAMPLE, report);
        return Vec::new();
    };
    items.iter().filter_map(|item| read_rule(item, report)).collect()
}

fn read_rule(item: &At<Value>, report: &mut Report<'_>) -> Option<SwitchRule> {
    let Value::Table(table) = &item.value else {
        let message = format!("a switch rule must be a table, not {}", item.value.kind());
        report.error(Code::WrongType, item.span, message, format!("write `switch = {EXAMPLE}`"));
        return None;
    };
    read::check_keys(table, "a switch rule", &RULE_KEYS, &[], report);
    let pool = match table.get("pool") {
        Some(entry) => read::string(entry, "\"archive\"", report).map(str::to_owned),
        None => {
            missing("pool", "a switch rule", item.span, "\"archive\"", report);
            None
        }
    };
    let said: Vec<_> =
        SUBJECTS.iter().filter_map(|(key, example)| Some((table.get(key)?, *example))).collect();
    let [(subject, example)] = said.as_slice() else {
        report.error(
            Code::MisplacedKey,
            item.span,
            format!("a switch rule compares one thing, and this one compares {}", said.len()),
            "write one of `called_aet`, `calling_aet`, `host`, `path_prefix` and `sni` beside `pool`",
        );
        return None;
    };
    let key = subject.key.value.as_str();
    let texts =
        read::one_or_more(subject, &format!("`{key}`"), example, report, |text, span, report| match key {
            "host" | "sni" => host(text, key, span, report),
            "path_prefix" => path(text, span, report),
            _ => ae_title_in(text, key, span, report),
        });
    let on = match key {
        "called_aet" => SwitchOn::CalledAet(texts),
        "calling_aet" => SwitchOn::CallingAet(texts),
        "host" => SwitchOn::Host(texts),
        "path_prefix" => SwitchOn::PathPrefix(texts),
        _ => SwitchOn::Sni(texts),
    };
    Some(SwitchRule { on, pool: pool? })
}

fn host(text: &str, key: &str, span: Span, report: &mut Report<'_>) -> Option<String> {
    if !is_host(text) {
        report.error(
            Code::BadName,
            span,
            format!("`{key}` is \"{}\", which is not the name of a machine", text.escape_debug()),
            "write the name alone, without a port: \"viewer.hospital.example\"",
        );
        return None;
    }
    Some(text.to_owned())
}

fn path(text: &str, span: Span, report: &mut Report<'_>) -> Option<String> {
    if !text.starts_with('/') || !is_path(text) {
        report.error(
            Code::BadUrl,
            span,
            format!("`path_prefix` is \"{}\", which is not the beginning of a path", text.escape_debug()),
            "begin with `/`, and write other characters as `%` and two hexadecimal digits: \"/wado\"",
        );
        return None;
    }
    Some(text.to_owned())
}
