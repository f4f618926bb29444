//! How servers are checked and how clients persist: `check` and `persist` of a VIP.

use std::{net::IpAddr, time::Duration};

use super::{
    diag::{Code, Report},
    file::{At, Entry, Span, Table},
    read::{self, Times, missing, wrong_type},
    sections::{has_meaning, typed},
    service::{MAX_IDLE, Part},
};
use crate::model::{
    check::DicomCheck,
    config::{Check, CheckKind, Persist},
};

/// Default calling AE title.
const CALLING_AET: &str = "LOADBALANCER";
/// Default time of persistence (R11).
const PERSIST_TIMEOUT: Duration = Duration::from_secs(300);
/// Longest AE title (PS3.5 6.2, value representation AE).
const MAX_AET: usize = 16;

const CHECKS_LATER: [&str; 8] = ["agent", "http", "https", "mllp", "negotiate", "ping", "script", "smtp"];
const PERSIST_LATER: [&str; 2] = ["cookie", "url-param"];

/// A word in `check`.
#[derive(Clone, Copy, Eq, PartialEq)]
enum CheckWord {
    Connect,
    DicomEcho,
    Off,
}

const CHECKS: [(&str, CheckWord); 3] =
    [("connect", CheckWord::Connect), ("dicom-echo", CheckWord::DicomEcho), ("off", CheckWord::Off)];

/// A word in `persist`.
#[derive(Clone, Copy, Eq, PartialEq)]
enum PersistWord {
    LastSuccessful,
    None,
    SourceIp,
}

const PERSISTS: [(&str, PersistWord); 3] = [
    ("source-ip", PersistWord::SourceIp),
    ("last-successful", PersistWord::LastSuccessful),
    ("none", PersistWord::None),
];

/// Reads `check`; without one, servers are checked by connecting (R40). `named`: the name of the VIP or profile.
pub(super) fn read_check(
    entry: Option<&Entry>,
    part: Part,
    named: Span,
    report: &mut Report<'_>,
) -> Option<At<Check>> {
    let table = match entry {
        Some(entry) => match typed(&entry.node) {
            Some(table) => table,
            None => {
                wrong_type(entry, "a string or a table", "\"connect\"", report);
                return None;
            }
        },
        None => Table::default(),
    };
    let place = entry.map_or(named, |entry| entry.key.span);
    let word = match table.get("type") {
        Some(kind) => read::word(kind, &CHECKS, &CHECKS_LATER, report)?,
        None => CheckWord::Connect,
    };
    refuse_meaningless(&table, CHECKS.iter().find(|(_, w)| *w == word).map_or("", |(name, _)| name), report);

    let default = Check::default();
    let rise = count(&table, "rise", default.rise, report);
    let fall = count(&table, "fall", default.fall, report);
    let port = match table.get("port") {
        Some(port) => Some(read::port_of(port, report)?),
        None => None,
    };
    let (interval, timeout) = times(&table, &default, part, place, report);
    let kind = match word {
        CheckWord::Connect => Some(CheckKind::Connect),
        CheckWord::DicomEcho => dicom_echo(&table, part, place, report),
        CheckWord::Off => Some(CheckKind::Off),
    };
    let value = Check {
        kind: kind?,
        port,
        interval: interval?,
        timeout: timeout?,
        rise: rise?,
        fall: fall?,
        ..default
    };
    Some(At { value, span: place })
}

/// Keys that another type of check or persistence would take.
fn refuse_meaningless(table: &Table, kind: &str, report: &mut Report<'_>) {
    for Entry { key, .. } in table.entries.iter().filter(|entry| !has_meaning(kind, &entry.key.value)) {
        let name = &key.value;
        let help = if name.ends_with("_aet") {
            format!("write `type = \"dicom-echo\"` beside it, or remove `{name}`")
        } else {
            format!("remove `{name}`")
        };
        report.error(
            Code::MisplacedKey,
            key.span,
            format!("`{name}` means nothing with type \"{kind}\""),
            help,
        );
    }
}

fn count(table: &Table, key: &str, default: u32, report: &mut Report<'_>) -> Option<u32> {
    match table.get(key) {
        Some(entry) => read::number(entry, 1..=100, report),
        None => Some(default),
    }
}

/// The interval and the timeout. A timeout that is not written is no longer than the interval.
fn times(
    table: &Table,
    default: &Check,
    part: Part,
    place: Span,
    report: &mut Report<'_>,
) -> (Option<Duration>, Option<Duration>) {
    let limits = |low| Times {
        range: Duration::from_millis(low)..=Duration::from_secs(3600),
        whole_secs: false,
        example: "4s",
    };
    let interval = match table.get("interval") {
        Some(entry) => read::duration(entry, &limits(100), report),
        None => Some(default.interval),
    };
    let timeout = match table.get("timeout") {
        Some(entry) => read::duration(entry, &limits(10), report),
        None => interval.map(|interval| interval.min(default.timeout)),
    };
    if part == Part::Whole
        && let (Some(interval), Some(timeout)) = (interval, timeout)
        && timeout > interval
    {
        let span = table.get("timeout").map_or(place, |entry| entry.node.span);
        let (timeout, interval) = (humantime::format_duration(timeout), humantime::format_duration(interval));
        report.error(
            Code::CheckTimeout,
            span,
            format!("a check may take {timeout}, but the next one begins after {interval}"),
            format!(
                "write a `timeout` of at most \"{interval}\", or an `interval` of at least \"{timeout}\""
            ),
        );
    }
    (interval, timeout)
}

fn dicom_echo(table: &Table, part: Part, place: Span, report: &mut Report<'_>) -> Option<CheckKind> {
    let calling = match table.get("calling_aet") {
        Some(entry) => ae_title(entry, report),
        None => Some(CALLING_AET.to_owned()),
    };
    let called = match table.get("called_aet") {
        Some(entry) => ae_title(entry, report),
        None => {
            if part == Part::Whole {
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
    Some(CheckKind::DicomEcho(DicomCheck::new(calling?, called?)))
}

/// An AE title (PS3.5 6.2): 1 to 16 characters of ISO 646 without backslash and control characters. Leading and
/// trailing spaces do not count there, so they are refused here: two spellings would be one title.
fn ae_title(entry: &Entry, report: &mut Report<'_>) -> Option<String> {
    let (key, span) = (&entry.key.value, entry.node.span);
    let text = read::string(entry, "\"ARCHIVE\"", report)?;
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

/// Reads `persist`; without one, every connection is scheduled anew. `ip` gives the family that `prefix` is for.
pub(super) fn read_persist(
    entry: Option<&Entry>,
    ip: Option<IpAddr>,
    report: &mut Report<'_>,
) -> Option<Persist> {
    let Some(entry) = entry else {
        return Some(Persist::default());
    };
    let Some(table) = typed(&entry.node) else {
        wrong_type(entry, "a string or a table", "\"source-ip\"", report);
        return None;
    };
    let Some(kind) = table.get("type") else {
        missing("type", "`persist`", entry.key.span, "\"source-ip\"", report);
        return None;
    };
    let word = read::word(kind, &PERSISTS, &PERSIST_LATER, report)?;
    refuse_meaningless(&table, kind.node.value.as_str().unwrap_or_default(), report);
    match word {
        PersistWord::LastSuccessful => Some(Persist::LastSuccessful),
        PersistWord::None => Some(Persist::None),
        PersistWord::SourceIp => source_ip(&table, ip, report),
    }
}

fn source_ip(table: &Table, ip: Option<IpAddr>, report: &mut Report<'_>) -> Option<Persist> {
    let limits = Times { range: Duration::from_secs(1)..=MAX_IDLE, whole_secs: true, example: "1h" };
    let timeout = match table.get("timeout") {
        Some(entry) => read::duration(entry, &limits, report),
        None => Some(PERSIST_TIMEOUT),
    };
    let (mut prefix_v4, mut prefix_v6) = (32, 128);
    if let Some(prefix) = table.get("prefix") {
        let v4 = ip.is_some_and(|ip| ip.is_ipv4());
        let bits = read::number(prefix, 1..=if v4 { 32 } else { 128 }, report)?;
        *(if v4 { &mut prefix_v4 } else { &mut prefix_v6 }) = u8::try_from(bits).ok()?;
    }
    let group = match table.get("group") {
        Some(entry) => Some(read_group(entry, report)?),
        None => None,
    };
    Some(Persist::SourceIp { prefix_v4, prefix_v6, timeout: timeout?, group })
}

fn read_group(entry: &Entry, report: &mut Report<'_>) -> Option<String> {
    let text = read::string(entry, "\"pacs\"", report)?;
    let name = At { value: text.to_owned(), span: entry.node.span };
    read::check_name(&name, "persistence group", report).then_some(name.value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{file::Value, source::Text};

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
