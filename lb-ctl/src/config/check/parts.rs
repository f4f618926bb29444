//! Checks that are made of several: `any` and `all`.

use super::{
    super::{
        diag::{Code, Report},
        file::{At, Entry, Table, Value},
        keys::{CHECK_KEYS, COMBINATIONS, WHOLE_CHECK_KEYS, refuse_meaningless, typed},
        read::{check_keys, missing, wrong_type},
    },
    Scope, Type, read_kind, read_port, read_type,
};
use crate::model::check::Part;

/// Most parts of a list.
const MAX_PARTS: usize = 16;
/// Most lists in lists, the outermost among them.
const MAX_DEPTH: usize = 3;
const EXAMPLE: &str = "[\"connect\", { type = \"http\", port = 8080 }]";

/// Reads the list of `any` or `all`.
pub(super) fn read_parts(
    entry: &Entry,
    depth: usize,
    scope: Scope<'_>,
    report: &mut Report<'_>,
) -> Option<Vec<Part>> {
    let key = &entry.key.value;
    let Value::Array(items) = &entry.node.value else {
        wrong_type(entry, "a list of checks", EXAMPLE, report);
        return None;
    };
    let mut refuse = |code, message: String, help: &str| {
        report.error(code, entry.key.span, message, help);
        None
    };
    if depth > MAX_DEPTH {
        return refuse(
            Code::BadCheck,
            format!("`{key}` is a list in a list in a list in a list, deeper than {MAX_DEPTH}"),
            "write fewer lists in each other, or a script",
        );
    }
    if items.is_empty() {
        return refuse(
            Code::BadCheck,
            format!("`{key}` is an empty list: nothing would be asked"),
            &format!("write `{key} = {EXAMPLE}`, or `type = \"off\"`"),
        );
    }
    if items.len() > MAX_PARTS {
        return refuse(
            Code::TooMany,
            format!("`{key}` has {} parts, the limit is {MAX_PARTS}", items.len()),
            "remove some, or write a script",
        );
    }
    let parts: Vec<_> = items.iter().map(|item| read_part(item, key, depth, scope, report)).collect();
    parts.into_iter().collect()
}

fn read_part(
    item: &At<Value>,
    list: &str,
    depth: usize,
    scope: Scope<'_>,
    report: &mut Report<'_>,
) -> Option<Part> {
    let Some(mut table) = typed(item) else {
        report.error(
            Code::WrongType,
            item.span,
            format!("a part of `{list}` must be a string or a table, not {}", item.value.kind()),
            format!("write `{list} = {EXAMPLE}`"),
        );
        return None;
    };
    table.entries.retain(|Entry { key, .. }| {
        let of_whole = WHOLE_CHECK_KEYS.contains(&key.value.as_str());
        if of_whole {
            let name = &key.value;
            report.error(
                Code::MisplacedKey,
                key.span,
                format!("`{name}` belongs to the whole check, not to a part of `{list}`"),
                format!("move `{name}` out of the list, beside the outermost `any` or `all`"),
            );
        }
        !of_whole
    });
    let known: Vec<_> = CHECK_KEYS.into_iter().filter(|key| !WHOLE_CHECK_KEYS.contains(key)).collect();
    check_keys(&table, &format!("a part of `{list}`"), &known, &[], report);
    table.entries.retain(|entry| known.contains(&entry.key.value.as_str()));
    if !table.has("type") && !COMBINATIONS.iter().any(|key| table.has(key)) {
        missing("type", &format!("a part of `{list}`"), item.span, "\"connect\"", report);
        return None;
    }
    let (name, word) = read_type(&table, report)?;
    if word == Type::Off {
        report.error(
            Code::BadCheck,
            item.span,
            format!("a part of `{list}` is \"off\", which asks nothing"),
            "remove it, or write `type = \"off\"` for the whole check",
        );
        return None;
    }
    refuse_meaningless(&table, name, report);
    let port = read_port(&table, report);
    let kind = read_kind(&table, word, item.span, depth + 1, scope, report);
    Some(Part { kind: kind?, port: port? })
}

/// The VIPs that a check goes by, itself or by one of its parts. The parser's own limit on nesting bounds the recursion.
pub(super) fn tracked(table: &Table) -> Vec<At<String>> {
    if let Some("track") = table.get("type").and_then(|kind| kind.node.value.as_str()) {
        let vip = table.get("vip").and_then(|entry| {
            Some(At { value: entry.node.value.as_str()?.to_owned(), span: entry.node.span })
        });
        return vip.into_iter().collect();
    }
    let lists = COMBINATIONS.into_iter().filter_map(|key| table.get(key));
    let items = lists.filter_map(|entry| match &entry.node.value {
        Value::Array(items) => Some(items),
        Value::Boolean(_) | Value::Integer(_) | Value::Other(_) | Value::String(_) | Value::Table(_) => None,
    });
    items.flatten().filter_map(typed).flat_map(|part| tracked(&part)).collect()
}
