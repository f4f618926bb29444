//! What a check asks over HTTP (R41).

use std::ops::RangeInclusive;

use regex::Regex;

use super::super::{
    diag::{Code, Report},
    file::{At, Entry, Span, Table, Value},
    hosts::{host_and_port, is_path},
    read::{self, wrong_type},
};
use crate::model::check::{BodyMatch, HttpCheck};

const METHODS: [(&str, &str); 4] =
    [("GET", "GET"), ("HEAD", "HEAD"), ("OPTIONS", "OPTIONS"), ("POST", "POST")];
/// Status codes that an answer can end with (RFC 9110, 15); 1xx is not the last word.
const STATUS: RangeInclusive<u16> = 200..=599;
const MAX_BODY_BYTES: u32 = 65_536;
const MAX_BODY_BYTES_RANGE: RangeInclusive<u32> = 1..=1 << 20;
const STATUS_EXAMPLE: &str = "[200, \"300-399\"]";
const BODY_EXAMPLE: &str = "{ contains = \"allServicesOperative\" }";

/// Reads the keys of `http`, which are those of `https` as well.
pub(super) fn read_http(table: &Table, report: &mut Report<'_>) -> Option<HttpCheck> {
    let method = match table.get("method") {
        Some(entry) => read::word(entry, &METHODS, &[], report),
        None => Some("GET"),
    };
    let path = match table.get("path") {
        Some(entry) => read_path(entry, report),
        None => Some("/".to_owned()),
    };
    let host = match table.get("host") {
        Some(entry) => read_host(entry, report).map(Some),
        None => Some(None),
    };
    let status = match table.get("status") {
        Some(entry) => read_status(entry, report),
        None => Some(vec![200..=299]),
    };
    let body = match table.get("body") {
        Some(entry) => read_body(entry, report).map(Some),
        None => Some(None),
    };
    let max_body_bytes = match table.get("max_body_bytes") {
        Some(entry) => read::number(entry, MAX_BODY_BYTES_RANGE, report),
        None => Some(MAX_BODY_BYTES),
    };
    if let (Some("HEAD"), Some(Entry { key, .. })) = (method, table.get("body")) {
        report.error(
            Code::MisplacedKey,
            key.span,
            "`body` means nothing with method \"HEAD\", whose answers have none",
            "write `method = \"GET\"`, or remove `body`",
        );
    }
    Some(HttpCheck {
        tls: None,
        method: method?.to_owned(),
        path: path?,
        host: host?,
        status: status?,
        body: body?,
        max_body_bytes: max_body_bytes?,
    })
}

fn refuse(span: Span, message: String, help: &str, report: &mut Report<'_>) {
    report.error(Code::BadCheck, span, message, help);
}

fn read_path(entry: &Entry, report: &mut Report<'_>) -> Option<String> {
    let path = read::string(entry, "\"/health\"", report)?;
    let help = if path.contains("://") || !path.starts_with('/') {
        "write path and query alone, beginning with `/`; the machine is the server, its name goes into `host`"
    } else if !is_path(path) {
        "write other characters as `%` and two hexadecimal digits, a space as `%20`, and no `#`"
    } else {
        return Some(path.to_owned());
    };
    refuse(entry.node.span, format!("`path` is \"{path}\", which cannot be asked for"), help, report);
    None
}

fn read_host(entry: &Entry, report: &mut Report<'_>) -> Option<String> {
    let host = read::string(entry, "\"pacs.hospital.example\"", report)?;
    if host_and_port(host).is_none() {
        let message = format!("`host` is \"{host}\", which is not the name of a machine");
        let help = "write a name or an address, with a port if need be: \"pacs.hospital.example:8080\"";
        refuse(entry.node.span, message, help, report);
        return None;
    }
    Some(host.to_owned())
}

/// `200`, `"200-299"`, or a list of such.
fn read_status(entry: &Entry, report: &mut Report<'_>) -> Option<Vec<RangeInclusive<u16>>> {
    let items = match &entry.node.value {
        Value::Array(items) => items.as_slice(),
        Value::Integer(_) | Value::String(_) => std::slice::from_ref(&entry.node),
        Value::Boolean(_) | Value::Other(_) | Value::Table(_) => {
            wrong_type(entry, "a status, a range in quotes or a list of both", STATUS_EXAMPLE, report);
            return None;
        }
    };
    if items.is_empty() {
        let message = "`status` is an empty list: no answer would pass".to_owned();
        refuse(entry.node.span, message, "write `status = \"200-299\"`", report);
    }
    let ranges: Vec<_> = items.iter().map(|item| read_status_range(item, report)).collect();
    ranges.into_iter().collect::<Option<Vec<_>>>().filter(|ranges| !ranges.is_empty())
}

fn read_status_range(item: &At<Value>, report: &mut Report<'_>) -> Option<RangeInclusive<u16>> {
    let (said, range) = match &item.value {
        Value::Integer(Some(number)) => {
            (number.to_string(), u16::try_from(*number).ok().map(|status| status..=status))
        }
        Value::String(text) => {
            let (low, high) = text.split_once('-').unwrap_or((text, text));
            let range = low.trim().parse().ok().zip(high.trim().parse().ok());
            (format!("\"{text}\""), range.map(|(low, high)| low..=high))
        }
        Value::Array(_) | Value::Boolean(_) | Value::Integer(None) | Value::Other(_) | Value::Table(_) => {
            (item.value.kind().to_owned(), None)
        }
    };
    let fits = |range: &RangeInclusive<u16>| {
        !range.is_empty() && STATUS.contains(range.start()) && STATUS.contains(range.end())
    };
    let range = range.filter(fits);
    if range.is_none() {
        let help = "write a status from 200 to 599, or a range in quotes: \"200-299\"";
        refuse(item.span, format!("{said} is not a status of HTTP, nor a range of them"), help, report);
    }
    range
}

fn read_body(entry: &Entry, report: &mut Report<'_>) -> Option<BodyMatch> {
    let table = read::table(entry, BODY_EXAMPLE, report)?;
    read::check_keys(table, "`body`", &["equals", "contains", "regex"], &[], report);
    let known = ["equals", "contains", "regex"].into_iter().filter_map(|key| table.get(key));
    let said = match known.collect::<Vec<_>>().as_slice() {
        [said] => *said,
        [] => {
            if table.entries.is_empty() {
                read::missing("contains", "`body`", entry.key.span, "\"allServicesOperative\"", report);
            }
            return None;
        }
        [first, second, ..] => {
            report.error_also(
                Code::MisplacedKey,
                second.key.span,
                (first.key.span, "and here"),
                format!("`body` has both `{}` and `{}`", first.key.value, second.key.value),
                "keep one of them; a `regex` can say both",
            );
            return None;
        }
    };
    let (text, span) = (read::string(said, "\"allServicesOperative\"", report)?, said.node.span);
    let key = said.key.value.as_str();
    if text.is_empty() && key != "equals" {
        let help = "write what must be in it, or remove `body`";
        refuse(span, format!("`{key}` is empty: every body would match"), help, report);
        return None;
    }
    let text = text.to_owned();
    match key {
        "equals" => Some(BodyMatch::Equals(text)),
        "contains" => Some(BodyMatch::Contains(text)),
        _ => check_regex(&text, span, report).then_some(BodyMatch::Regex(text)),
    }
}

/// A regular expression that does not compile would fail every check.
fn check_regex(text: &str, span: Span, report: &mut Report<'_>) -> bool {
    let Err(error) = Regex::new(text) else { return true };
    // The last line says what is wrong; those before it draw where, for a terminal of their own.
    let error = error.to_string();
    let fault = error.lines().last().unwrap_or_default().trim().trim_start_matches("error: ");
    report.error(
        Code::BadRegex,
        span,
        format!("`regex` is no regular expression: {fault}"),
        "correct it, with `\\` before signs that stand for themselves and in single quotes: `regex = 'v\\.1'`; plain text is \
         `contains`",
    );
    false
}
