//! What a check asks of an HL7 receiver.

use super::{
    super::{
        diag::{Code, Report},
        file::{Entry, Table, Value},
        read,
        service::Part,
    },
    Scope,
};
use crate::model::check::MllpCheck;

/// Acknowledgment codes (HL7 table 0008).
const ACKNOWLEDGMENTS: [&str; 6] = ["AA", "AE", "AR", "CA", "CE", "CR"];
/// `MSH`, the field separator, and the four encoding characters (HL7 2.x, 2.5.4).
const MSH_CHARACTERS: usize = 8;

/// Reads `message` and `accept`. Without a message nothing is sent, and the connection alone is tried.
pub(super) fn read_mllp(table: &Table, scope: Scope<'_>, report: &mut Report<'_>) -> Option<MllpCheck> {
    let Some(entry) = table.get("message") else {
        if let (Some(Entry { key, .. }), Part::Whole) = (table.get("accept"), scope.part) {
            report.error(
                Code::MisplacedKey,
                key.span,
                "`accept` means nothing without `message`: nothing is sent, so nothing is acknowledged",
                "write the `message` that is sent, or remove `accept`",
            );
        }
        return Some(MllpCheck::default());
    };
    let accept = match table.get("accept") {
        Some(accept) => read_accept(accept, report),
        None => vec!["AA".to_owned()],
    };
    let example = r#""MSH|^~\\&|LBD|LBD|RECEIVER|SITE|{time}||ADT^A08|{id}|P|2.3""#;
    let message = read::string(entry, example, report)?;
    let fault = if !message.starts_with("MSH") || message.chars().count() < MSH_CHARACTERS {
        Some("does not begin with a segment MSH and its separators")
    } else if message.contains(['\u{b}', '\u{1c}']) {
        Some("contains a character that MLLP begins or ends messages with")
    } else {
        None
    };
    if let Some(fault) = fault {
        let help = format!("write one HL7 message: `message = {example}`");
        report.error(Code::BadCheck, entry.node.span, format!("`message` {fault}"), help);
        return None;
    }
    Some(MllpCheck { message: Some(message.to_owned()), accept })
}

fn read_accept(entry: &Entry, report: &mut Report<'_>) -> Vec<String> {
    let example = "[\"AA\"]";
    if matches!(&entry.node.value, Value::Array(items) if items.is_empty()) {
        let message = "`accept` is an empty list: no answer would pass";
        report.error(Code::BadCheck, entry.node.span, message, format!("write `accept = {example}`"));
    }
    read::list_of(entry, "an acknowledgment code", example, report, |code, span, report| {
        let known = ACKNOWLEDGMENTS.contains(&code);
        if !known {
            let message = format!("\"{code}\" is no acknowledgment code");
            let help = format!("write one of {}", ACKNOWLEDGMENTS.join(", "));
            report.error(Code::BadCheck, span, message, help);
        }
        known.then(|| code.to_owned())
    })
}
