//! `headers`: rules for headers of requests and answers (R26).

use super::super::{
    diag::{Code, Report},
    file::{At, Entry, Table, Value},
    read::{self, wrong_type},
};
use crate::model::proxy::{HeaderAction, HeaderOf, HeaderRule, MAX_GROUPS, groups};

const EXAMPLE: &str = "[{ set = \"X-Forwarded-Proto\", value = \"https\" }]";
const RULE_KEYS: [&str; 8] = ["add", "set", "delete", "replace", "value", "pattern", "with", "of"];
/// What can be done; the key's value is the header.
const ACTIONS: [&str; 4] = ["add", "set", "delete", "replace"];
const OF: [(&str, HeaderOf); 2] = [("request", HeaderOf::Request), ("response", HeaderOf::Response)];
/// Longest value and pattern: a line of the proxy's configuration has 2048 characters.
const MAX_TEXT: usize = 1024;

/// Reads `headers`. What is reported is left out, for the configuration is refused anyway.
pub(super) fn read_headers(entry: &Entry, report: &mut Report<'_>) -> Vec<HeaderRule> {
    let Value::Array(items) = &entry.node.value else {
        wrong_type(entry, "a list of tables", EXAMPLE, report);
        return Vec::new();
    };
    items.iter().filter_map(|item| read_rule(item, report)).collect()
}

fn read_rule(item: &At<Value>, report: &mut Report<'_>) -> Option<HeaderRule> {
    let Value::Table(table) = &item.value else {
        let message = format!("a header rule must be a table, not {}", item.value.kind());
        report.error(Code::WrongType, item.span, message, format!("write `headers = {EXAMPLE}`"));
        return None;
    };
    read::check_keys(table, "a header rule", &RULE_KEYS, &[], report);
    let actions: Vec<_> = ACTIONS.iter().filter_map(|action| table.get(action)).collect();
    let [action] = actions.as_slice() else {
        report.error(
            Code::BadHeader,
            item.span,
            format!("a header rule does one thing, and this one does {}", actions.len()),
            "write one of `set`, `add`, `delete` and `replace` with the header's name",
        );
        return None;
    };
    let name = read_name(action, report)?;
    let wanted: &[&str] = match action.key.value.as_str() {
        "delete" => &[],
        "replace" => &["pattern", "with"],
        _ => &["value"],
    };
    refuse_others(table, &action.key.value, wanted, report);
    let mut text = |key: &str| read_text(table, key, action, report);
    let done = match action.key.value.as_str() {
        "add" => HeaderAction::Add(text("value")?),
        "delete" => HeaderAction::Delete,
        "replace" => {
            let (pattern, with) = (text("pattern")?, text("with")?);
            let count = groups(&pattern);
            if count > MAX_GROUPS {
                report.error(
                    Code::BadHeader,
                    item.span,
                    format!("`pattern` of a header rule has {count} groups, and {MAX_GROUPS} are the most"),
                    "write groups that `with` does not name as `(?:...)`",
                );
                return None;
            }
            HeaderAction::Replace { pattern, with }
        }
        _ => HeaderAction::Set(text("value")?),
    };
    let of = match table.get("of") {
        Some(entry) => read::word(entry, &OF, &[], report)?,
        None => HeaderOf::Request,
    };
    Some(HeaderRule { of, action: done, name })
}

fn refuse_others(table: &Table, action: &str, wanted: &[&str], report: &mut Report<'_>) {
    let others = ["value", "pattern", "with"].into_iter().filter(|key| !wanted.contains(key));
    for Entry { key, .. } in others.filter_map(|key| table.get(key)) {
        let name = &key.value;
        let message = format!("`{name}` means nothing beside `{action}`");
        report.error(Code::MisplacedKey, key.span, message, format!("remove `{name}`"));
    }
}

/// The name of a header, a token (RFC 9110, 5.1).
fn read_name(entry: &Entry, report: &mut Report<'_>) -> Option<String> {
    let name = read::string(entry, "\"X-Forwarded-Proto\"", report)?;
    if !is_token(name) {
        let key = &entry.key.value;
        report.error(
            Code::BadHeader,
            entry.node.span,
            format!("`{key}` is \"{}\", which is not the name of a header", name.escape_debug()),
            "write letters, digits and `-`, without a colon: \"X-Forwarded-Proto\"",
        );
        return None;
    }
    Some(name.to_owned())
}

/// True for a name that HTTP takes for headers and cookies (RFC 9110, 5.6.2).
pub(in crate::config) fn is_token(text: &str) -> bool {
    let sign = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.len() <= 256 && text.bytes().all(sign)
}

fn read_text(table: &Table, key: &str, action: &Entry, report: &mut Report<'_>) -> Option<String> {
    let Some(entry) = table.get(key) else {
        let owner = format!("a header rule with `{}`", action.key.value);
        read::missing(key, &owner, action.key.span, "\"https\"", report);
        return None;
    };
    let text = read::string(entry, "\"https\"", report)?;
    let fault = if text.chars().any(char::is_control) {
        "has a line break or another control character"
    } else if text.len() > MAX_TEXT {
        "is longer than 1024 bytes"
    } else if text.is_empty() && key != "with" {
        "is empty"
    } else {
        return Some(text.to_owned());
    };
    report.error(
        Code::BadHeader,
        entry.node.span,
        format!("`{key}` of a header rule {fault}"),
        format!("write one line of text: `{key} = \"https\"`"),
    );
    None
}
