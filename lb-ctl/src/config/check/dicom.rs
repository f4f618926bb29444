//! What a check asks over DICOM.

use super::{
    super::{
        diag::{Code, Report},
        file::{Entry, Span, Table},
        keys::refuse_tls_keys,
        read,
        service::Part,
    },
    Scope, tls,
};
use crate::model::check::{DicomCheck, FindModel};

/// Default calling AE title.
const CALLING_AET: &str = "LOADBALANCER";
/// Longest AE title (PS3.5 6.2, value representation AE).
const MAX_AET: usize = 16;
const MODELS: [(&str, FindModel); 3] =
    [("study", FindModel::Study), ("patient", FindModel::Patient), ("worklist", FindModel::Worklist)];

/// Reads the keys of `dicom-echo`.
pub(super) fn read_dicom(
    table: &Table,
    place: Span,
    scope: Scope<'_>,
    report: &mut Report<'_>,
) -> Option<DicomCheck> {
    let calling = match table.get("calling_aet") {
        Some(entry) => ae_title(entry, report),
        None => Some(CALLING_AET.to_owned()),
    };
    let called = match table.get("called_aet") {
        Some(entry) => ae_title(entry, report),
        None => {
            if scope.part == Part::Whole {
                report.error(
                    Code::MissingKey,
                    place,
                    "a \"dicom-echo\" check has no `called_aet`",
                    "write `{ type = \"dicom-echo\", called_aet = \"ARCHIVE\" }` with the archive's AE title",
                );
            }
            None
        }
    };
    let encrypted = match table.get("tls") {
        Some(entry) => read::boolean(entry, report),
        None => Some(false),
    };
    let tls = if encrypted == Some(true) {
        Some(tls::read_tls(table, scope, report)?)
    } else {
        // A profile may leave it to the VIPs that use it.
        if encrypted == Some(false) && scope.part == Part::Whole {
            refuse_tls_keys(table, report);
        }
        None
    };
    let find = match table.get("find") {
        Some(entry) => Some(read::word(entry, &MODELS, &[], report)?),
        None => None,
    };
    let accept_reject = match table.get("accept_reject") {
        Some(entry) => read::boolean(entry, report),
        None => Some(false),
    };
    encrypted?;
    Some(DicomCheck { calling_aet: calling?, called_aet: called?, tls, find, accept_reject: accept_reject? })
}

/// An AE title (PS3.5 6.2): 1 to 16 characters of ISO 646 without backslash and control characters. Leading and
/// trailing spaces do not count there, so they are refused here: two spellings would be one title.
fn ae_title(entry: &Entry, report: &mut Report<'_>) -> Option<String> {
    let text = read::string(entry, "\"ARCHIVE\"", report)?;
    ae_title_in(text, &entry.key.value, entry.node.span, report)
}

/// The same for the text of `key`.
pub(in crate::config) fn ae_title_in(
    text: &str,
    key: &str,
    span: Span,
    report: &mut Report<'_>,
) -> Option<String> {
    let fault = if text.is_empty() {
        Some((
            format!("`{key}` is empty"),
            "write the AE title that the archive is configured with".to_owned(),
        ))
    } else if let Some(bad) = text.chars().find(|c| !matches!(c, ' '..='~') || *c == '\\') {
        let message = format!("`{key}` contains `{}`, which no AE title may have", bad.escape_debug());
        Some((message, "use letters, digits and signs of ASCII, but no backslash".to_owned()))
    } else if text.trim() != text {
        let help = format!("write \"{}\": such spaces are no part of an AE title", text.trim());
        Some((format!("`{key}` begins or ends with a space"), help))
    } else if text.len() > MAX_AET {
        let message = format!("`{key}` has {} characters, an AE title has at most {MAX_AET}", text.len());
        Some((message, format!("shorten it to {MAX_AET} characters, as the archive has it")))
    } else {
        None
    };
    if let Some((message, help)) = fault {
        report.error(Code::BadAeTitle, span, message, help);
        return None;
    }
    Some(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{
        file::{At, Value},
        source::Text,
    };

    fn title(text: &str) -> bool {
        let files = [Text { path: "t".into(), text: String::new() }];
        let span = Span { file: 0, start: 0, end: 0 };
        let key = At { value: "called_aet".to_owned(), span };
        let entry = Entry { key, node: At { value: Value::String(text.to_owned()), span } };
        ae_title(&entry, &mut Report::new(&files)).is_some()
    }

    #[test]
    fn ae_titles_are_those_of_the_standard() {
        for good in ["A", "LB-SCP", "EXACTLY_16_CHARS", "PACS MAIN", "a~!"] {
            assert!(title(good), "{good}");
        }
        for bad in ["", " ", " A", "A ", "SEVENTEEN_LETTERS", "A\\B", "A\tB", "RÖNTGEN", "\u{7f}"] {
            assert!(!title(bad), "{bad}");
        }
    }
}
