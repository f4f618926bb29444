//! `http` and `https_redirect` of a VIP.

use std::time::Duration;

use super::super::{
    diag::{Code, Report},
    file::{Entry, Value},
    read::{self, Times},
};
use crate::model::proxy::{Http, KeepAlive};

const EXAMPLE: &str = "{ keep_alive = \"both\" }";
const KEEP_ALIVE: [(&str, KeepAlive); 4] = [
    ("both", KeepAlive::Both),
    ("off", KeepAlive::Off),
    ("client", KeepAlive::Client),
    ("pretend", KeepAlive::Pretend),
];
/// Answers that send a client elsewhere and that every client knows (RFC 9110, 15.4).
const REDIRECTS: [u16; 5] = [301, 302, 303, 307, 308];
/// The word for none.
const OFF: &str = "off";

/// Reads `http`.
pub(super) fn read_http(entry: Option<&Entry>, report: &mut Report<'_>) -> Http {
    let mut http = Http::default();
    let Some(table) = entry.and_then(|entry| read::table(entry, EXAMPLE, report)) else { return http };
    if let Some(word) = table.get("keep_alive").and_then(|entry| read::word(entry, &KEEP_ALIVE, &[], report))
    {
        http.keep_alive = word;
    }
    for (key, flag) in
        [("accept_invalid", &mut http.accept_invalid), ("forwarded_for", &mut http.forwarded_for)]
    {
        *flag = table.get(key).and_then(|entry| read::boolean(entry, report)).unwrap_or(*flag);
    }
    if let Some(entry) = table.get("request_timeout") {
        http.request_timeout = if entry.node.value.as_str() == Some(OFF) {
            None
        } else {
            let range = Duration::from_millis(100)..=Duration::from_secs(3600);
            read::duration(entry, &Times { range, whole_secs: false, example: "5s" }, report)
        };
    }
    http
}

/// Reads `https_redirect`: the status of the answer, or none.
pub(super) fn read_redirect(entry: &Entry, report: &mut Report<'_>) -> Option<u16> {
    let status = match &entry.node.value {
        Value::String(word) if word == OFF => return None,
        Value::Integer(number) => number.and_then(|number| u16::try_from(number).ok()),
        Value::Array(_) | Value::Boolean(_) | Value::Other(_) | Value::String(_) | Value::Table(_) => {
            read::wrong_type(entry, "a status or \"off\"", "308", report);
            return None;
        }
    };
    let status = status.filter(|status| REDIRECTS.contains(status));
    if status.is_none() {
        report.error(
            Code::OutOfRange,
            entry.node.span,
            "`https_redirect` is not the status of a redirect",
            "write 301, 302, 303, 307 or 308, or \"off\"",
        );
    }
    status
}
