//! `haproxy_extra`: raw lines for a VIP's section of the proxy's configuration (R27). A line can do what a VIP's section
//! may, and neither leave it nor say again what lbd says itself.

use super::super::{
    diag::{Code, Report},
    file::{Entry, Span},
    read,
};
use crate::model::proxy::SECTIONS;

const EXAMPLE: &str = "[\"option tcpka\"]";
/// Longest line; the proxy's own limit is 2048 characters.
const MAX_LINE: usize = 1024;
/// Words that lbd says itself, with the key to write in their place.
const OWN: [(&str, &str); 13] = [
    ("balance", "scheduler"),
    ("bind", "ports"),
    ("default-server", "servers"),
    ("default_backend", "switch"),
    ("disabled", "enabled"),
    ("dispatch", "servers"),
    ("enabled", "enabled"),
    ("id", "the VIP's name"),
    ("mode", "mode"),
    ("server", "servers"),
    ("server-template", "servers"),
    ("source", "source"),
    ("use_backend", "switch"),
];

/// Reads `haproxy_extra`. What is reported is left out, for the configuration is refused anyway.
pub(super) fn read_extra(entry: &Entry, report: &mut Report<'_>) -> Vec<String> {
    read::list_of(entry, "a line", EXAMPLE, report, |line, span, report| {
        let Some((fault, cure)) = fault(line) else { return Some(line.to_owned()) };
        refuse(line, &fault, cure, span, report);
        None
    })
}

/// What makes clients come back, beside `persist` that does so as well: two stick tables are an error of the proxy.
pub(super) fn persists(line: &str) -> bool {
    matches!(line.split_whitespace().next(), Some("appsession" | "cookie" | "stick" | "stick-table"))
}

fn refuse(line: &str, fault: &str, cure: String, span: Span, report: &mut Report<'_>) {
    let message = format!("the line \"{}\" {fault}", line.escape_debug());
    report.error(Code::BadLine, span, message, cure);
}

/// Why a line has no place there, and what to do.
fn fault(line: &str) -> Option<(String, String)> {
    let told = |fault: &str, cure: &str| Some((fault.to_owned(), cure.to_owned()));
    if line.chars().any(char::is_control) {
        return told("has a line break or another control character", "write each line as a text of its own");
    }
    if line.len() > MAX_LINE {
        return told("is longer than 1024 bytes", "shorten it");
    }
    let word = line.split_whitespace().next().unwrap_or_default();
    // Quotes and backslashes would hide what the word is; a dot begins a directive of the configuration's language.
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
    if word.is_empty() || !word.bytes().all(plain) {
        return told(
            "does not begin with a word of a `listen` section",
            "write the line as HAProxy's manual has it, such as \"option tcpka\"",
        );
    }
    if SECTIONS.contains(&word) {
        return Some((
            format!("begins another section, \"{word}\""),
            "write lines of a `listen` section alone".to_owned(),
        ));
    }
    if let Some((_, key)) = OWN.iter().find(|(own, _)| *own == word) {
        return Some((
            format!("says \"{word}\", which lbd says itself"),
            format!(
                "remove it, and write {}",
                if key.contains(' ') { (*key).to_owned() } else { format!("`{key}`") }
            ),
        ));
    }
    None
}
