//! `check`: how servers are checked. Here is what holds for every type, in the files below what each of them asks.

mod dicom;
mod http;
mod mllp;
mod parts;
mod rules;
#[cfg(test)]
mod tests;
mod tls;

use std::{net::IpAddr, path::Path, time::Duration};

pub(super) use self::{
    dicom::ae_title_in,
    rules::{advise_meaningless, check, tries_path},
    tls::read_verify,
};
use super::{
    diag::{Code, Report},
    file::{At, Span, Table},
    files::{self, Purpose},
    keys::{COMBINATIONS, refuse_meaningless},
    read::{self, Times, missing},
    sections::Sections,
    service::Part,
};
use crate::model::{
    check::{HttpCheck, Pki, ScriptCheck, SynRepeats},
    config::{Check, CheckKind},
    proxy::ProxySettings,
};

/// What a check may name beside itself, and how much of it must be said.
#[derive(Clone, Copy)]
pub(super) struct Scope<'s> {
    pub(super) sections: &'s Sections,
    pub(super) pki: &'s Pki,
    /// What holds for all layer-7 VIPs.
    pub(super) proxy: &'s ProxySettings,
    /// Of the main file: scripts stand below it.
    pub(super) directory: &'s Path,
    pub(super) part: Part,
}

/// A check, and where it is said.
#[derive(Clone)]
pub(super) struct DraftCheck {
    pub(super) value: Check,
    /// The place of `check`, or of the name of what has none.
    pub(super) span: Span,
    source: Option<At<IpAddr>>,
    /// VIPs that it goes by.
    tracked: Vec<At<String>>,
}

/// A word in `type`, or the key that takes its place.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Type {
    Agent,
    All,
    Any,
    Connect,
    DicomEcho,
    Http,
    Https,
    Mllp,
    Off,
    Ping,
    Script,
    Track,
}

const TYPES: [(&str, Type); 10] = [
    ("connect", Type::Connect),
    ("http", Type::Http),
    ("https", Type::Https),
    ("dicom-echo", Type::DicomEcho),
    ("mllp", Type::Mllp),
    ("ping", Type::Ping),
    ("script", Type::Script),
    ("agent", Type::Agent),
    ("track", Type::Track),
    ("off", Type::Off),
];
const TYPES_LATER: [&str; 2] = ["negotiate", "smtp"];
const SYN_REPEATS: [(&str, SynRepeats); 2] = [("show", SynRepeats::Show), ("count", SynRepeats::Count)];
/// Directory of scripts, beside the main file.
const SCRIPTS: &str = "scripts";

/// Reads a check from its merged table; what it does not say has its default, and an empty table is a connection (R40).
pub(super) fn read_check(
    table: &Table,
    place: Span,
    scope: Scope<'_>,
    report: &mut Report<'_>,
) -> Option<DraftCheck> {
    let says_type = table.has("type") || COMBINATIONS.iter().any(|key| table.has(key));
    let (name, word) = if says_type { read_type(table, report)? } else { ("connect", Type::Connect) };
    refuse_meaningless(table, name, report);

    let mut default = Check::default();
    if word == Type::Track {
        // The VIP that is tracked has counted already.
        (default.rise, default.fall) = (1, 1);
    }
    let rise = count(table, "rise", default.rise, report);
    let fall = count(table, "fall", default.fall, report);
    let port = read_port(table, report);
    let (interval, timeout) = times(table, &default, scope.part, place, report);
    let source = table.get("source").map(|entry| {
        let text = read::string(entry, "\"10.12.1.5\"", report)?;
        let value = read::host_address(text, "a source of checks", entry.node.span, report)?;
        Some(At { value, span: entry.node.span })
    });
    let dr_path = match table.get("dr_path") {
        Some(entry) => read::boolean(entry, report),
        None => Some(default.dr_path),
    };
    let syn_repeats = match table.get("syn_repeats") {
        Some(entry) => read::word(entry, &SYN_REPEATS, &[], report),
        None => Some(default.syn_repeats),
    };
    let kind = read_kind(table, word, place, 1, scope, report);
    let source = source.map_or(Some(None), |source| source.map(Some))?;
    let value = Check {
        kind: kind?,
        port: port?,
        source: source.as_ref().map(|source| source.value),
        interval: interval?,
        timeout: timeout?,
        rise: rise?,
        fall: fall?,
        dr_path: dr_path?,
        syn_repeats: syn_repeats?,
    };
    Some(DraftCheck { value, span: place, source, tracked: parts::tracked(table) })
}

/// The type that a table says, with its name.
fn read_type(table: &Table, report: &mut Report<'_>) -> Option<(&'static str, Type)> {
    let combinations: Vec<_> = COMBINATIONS.iter().filter_map(|key| table.get(key)).collect();
    let said = table.get("type").into_iter().chain(combinations.iter().copied()).collect::<Vec<_>>();
    if let [first, second, ..] = said.as_slice() {
        let (one, other) = (&first.key.value, &second.key.value);
        report.error_also(
            Code::MisplacedKey,
            second.key.span,
            (first.key.span, "and here"),
            format!("`{other}` says what is asked, and so does `{one}`"),
            format!("keep one of them; what \"any\" or \"all\" lists may have lists of its own, not `{one}` and `{other}`"),
        );
        return None;
    }
    if let [combination] = combinations.as_slice() {
        return Some(if combination.key.value == "any" { ("any", Type::Any) } else { ("all", Type::All) });
    }
    let word = read::word(table.get("type")?, &TYPES, &TYPES_LATER, report)?;
    TYPES.into_iter().find(|(_, known)| *known == word)
}

/// What is asked. `depth` counts lists in lists.
fn read_kind(
    table: &Table,
    word: Type,
    place: Span,
    depth: usize,
    scope: Scope<'_>,
    report: &mut Report<'_>,
) -> Option<CheckKind> {
    match word {
        Type::Agent => Some(CheckKind::Agent),
        Type::All => parts::read_parts(table.get("all")?, depth, scope, report).map(CheckKind::All),
        Type::Any => parts::read_parts(table.get("any")?, depth, scope, report).map(CheckKind::Any),
        Type::Connect => Some(CheckKind::Connect),
        Type::DicomEcho => dicom::read_dicom(table, place, scope, report).map(CheckKind::DicomEcho),
        Type::Http => http::read_http(table, report).map(|http| CheckKind::Http(Box::new(http))),
        Type::Https => {
            let (tls, http) = (tls::read_tls(table, scope, report), http::read_http(table, report));
            let http = HttpCheck { tls: Some(tls?), ..http? };
            Some(CheckKind::Http(Box::new(http)))
        }
        Type::Mllp => mllp::read_mllp(table, scope, report).map(CheckKind::Mllp),
        Type::Off => Some(CheckKind::Off),
        Type::Ping => Some(CheckKind::Ping),
        Type::Script => read_script(table, place, scope, report).map(CheckKind::Script),
        Type::Track => {
            let Some(vip) = table.get("vip") else {
                demand(scope.part, "track", "vip", "\"DICOM\"", place, report);
                return None;
            };
            let vip = read::string(vip, "\"DICOM\"", report)?.to_owned();
            Some(CheckKind::Track { vip })
        }
    }
}

/// Reports a key that a check cannot do without. A profile may leave it to the VIPs that use it.
fn demand(part: Part, kind: &str, key: &str, example: &str, place: Span, report: &mut Report<'_>) {
    if part == Part::Whole {
        missing(key, &format!("a \"{kind}\" check"), place, example, report);
    }
}

/// `None`: there is one, and it was reported.
fn read_port(table: &Table, report: &mut Report<'_>) -> Option<Option<u16>> {
    table.get("port").map_or(Some(None), |port| read::port_of(port, report).map(Some))
}

fn read_script(table: &Table, place: Span, scope: Scope<'_>, report: &mut Report<'_>) -> Option<ScriptCheck> {
    let example = "\"check-archive.sh\"";
    let Some(entry) = table.get("script") else {
        demand(scope.part, "script", "script", example, place, report);
        return None;
    };
    let (name, span) = (read::string(entry, example, report)?, entry.node.span);
    if name.is_empty()
        || matches!(name, "." | "..")
        || name.contains('/')
        || name.chars().any(char::is_control)
    {
        report.error(
            Code::BadCheck,
            span,
            format!("`script` is \"{name}\", which is not the name of a file in {SCRIPTS}/"),
            format!(
                "put the script into {} and write its name alone",
                scope.directory.join(SCRIPTS).display()
            ),
        );
        return None;
    }
    let path = scope.directory.join(SCRIPTS).join(name);
    if scope.part == Part::Whole {
        files::advise(&path, Purpose::Script, span, report);
    }
    Some(ScriptCheck { name: name.to_owned(), path })
}

/// `rise` and `fall`.
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
