//! `persist` of a VIP: its keys, what goes with which scheduler, and what VIPs of one group must have in common.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use super::{
    diag::{Code, Report, nearest},
    file::{At, Entry, Span, Table},
    keys::{refuse_meaningless, typed},
    proxy::{MAX_TIME, is_token},
    read::{self, Times, missing, wrong_type},
    service::{Draft, MAX_IDLE, Part},
};
use crate::model::config::{Mode, Persist, Scheduler};

/// Default time of persistence on layer 4 (R11), and on layer 7 (R23).
const PERSIST_TIMEOUT: Duration = Duration::from_secs(300);
const PERSIST_TIMEOUT_7: Duration = Duration::from_secs(3600);
/// Default time of the server in use on layer 7 (R52), and of a cookie.
const LONG_TIMEOUT: Duration = Duration::from_secs(12 * 3600);
/// Default idle time of a cookie, and of a URL parameter's value.
const VALUE_TIMEOUT: Duration = Duration::from_secs(1800);
/// Name of a cookie that is given none.
const COOKIE: &str = "SERVERID";
/// Values of a URL parameter that are remembered, and how much of each.
const ENTRIES: u32 = 10_240;
const KEY_LEN: u16 = 128;

/// A word in `persist`.
#[derive(Clone, Copy, Eq, PartialEq)]
enum PersistWord {
    Cookie,
    LastSuccessful,
    None,
    SourceIp,
    UrlParam,
}

const PERSISTS: [(&str, PersistWord); 5] = [
    ("source-ip", PersistWord::SourceIp),
    ("last-successful", PersistWord::LastSuccessful),
    ("cookie", PersistWord::Cookie),
    ("url-param", PersistWord::UrlParam),
    ("none", PersistWord::None),
];

/// Reads `persist`; without one, every connection is scheduled anew, but in mode `l7-tcp`. `ip` gives the family that
/// `prefix` is for.
pub(super) fn read_persist(
    entry: Option<&Entry>,
    mode: Option<Mode>,
    part: Part,
    ip: Option<IpAddr>,
    report: &mut Report<'_>,
) -> Option<Persist> {
    let Some(entry) = entry else {
        return Some(default_persist(mode));
    };
    let Some(table) = typed(&entry.node) else {
        wrong_type(entry, "a string or a table", "\"source-ip\"", report);
        return None;
    };
    let Some(kind) = table.get("type") else {
        missing("type", "`persist`", entry.key.span, "\"source-ip\"", report);
        return None;
    };
    let word = read::word(kind, &PERSISTS, &[], report)?;
    refuse_meaningless(&table, kind.node.value.as_str().unwrap_or_default(), report);
    let layer7 = mode.is_some_and(Mode::is_layer7);
    match word {
        PersistWord::Cookie => cookie(&table, report),
        PersistWord::LastSuccessful => {
            let known = mode.filter(|_| part == Part::Whole);
            last_successful(&table, layer7, known.is_some_and(|mode| !mode.is_layer7()), report)
        }
        PersistWord::None => Some(Persist::None),
        PersistWord::SourceIp => source_ip(&table, layer7, ip, report),
        PersistWord::UrlParam => url_param(&table, part, report),
    }
}

/// What a VIP has that says nothing.
const fn default_persist(mode: Option<Mode>) -> Persist {
    match mode {
        Some(Mode::L7Tcp) => {
            Persist::SourceIp { prefix_v4: 32, prefix_v6: 128, timeout: PERSIST_TIMEOUT_7, group: None }
        }
        None | Some(Mode::L4Dr | Mode::L4Nat | Mode::L4Snat | Mode::L7Http) => Persist::None,
    }
}

/// A time of persistence in seconds; the proxy counts fewer of them.
fn time(
    table: &Table,
    key: &str,
    default: Duration,
    layer7: bool,
    report: &mut Report<'_>,
) -> Option<Duration> {
    let most = if layer7 { MAX_TIME } else { MAX_IDLE };
    let limits = Times { range: Duration::from_secs(1)..=most, whole_secs: true, example: "1h" };
    match table.get(key) {
        Some(entry) => read::duration(entry, &limits, report),
        None => Some(default),
    }
}

fn cookie(table: &Table, report: &mut Report<'_>) -> Option<Persist> {
    let name = match table.get("name") {
        Some(entry) => {
            let name = read::string(entry, "\"SERVERID\"", report)?;
            if !is_token(name) {
                report.error(
                    Code::BadName,
                    entry.node.span,
                    format!("`name` is \"{}\", which is not the name of a cookie", name.escape_debug()),
                    "write letters, digits, `_` and `-`: \"SERVERID\"",
                );
                return None;
            }
            name
        }
        None => COOKIE,
    };
    let max_idle = time(table, "max_idle", VALUE_TIMEOUT, true, report);
    let max_life = time(table, "max_life", LONG_TIMEOUT, true, report);
    Some(Persist::Cookie { name: name.to_owned(), max_idle: max_idle?, max_life: max_life? })
}

fn url_param(table: &Table, part: Part, report: &mut Report<'_>) -> Option<Persist> {
    const EXAMPLE: &str = "\"shardKey\"";
    let timeout = time(table, "timeout", VALUE_TIMEOUT, true, report);
    let mut number = |key: &str, default: u32, range| match table.get(key) {
        Some(entry) => read::number(entry, range, report),
        None => Some(default),
    };
    let entries = number("entries", ENTRIES, 1..=10_000_000);
    let key_len = number("key_len", KEY_LEN.into(), 1..=1024).and_then(|bytes| u16::try_from(bytes).ok());
    let Some(entry) = table.get("name") else {
        if part == Part::Whole {
            let place = table.get("type").map(|entry| entry.key.span)?;
            missing("name", "persistence by \"url-param\"", place, EXAMPLE, report);
        }
        return None;
    };
    let name = read::string(entry, EXAMPLE, report)?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'~');
    if name.is_empty() || name.len() > 256 || !name.bytes().all(plain) {
        report.error(
            Code::BadName,
            entry.node.span,
            format!("`name` is \"{}\", which is not the name of a URL parameter", name.escape_debug()),
            "write what stands before `=` in the URL: letters, digits, `_`, `-`, `.` and `~`",
        );
        return None;
    }
    Some(Persist::UrlParam { name: name.to_owned(), timeout: timeout?, entries: entries?, key_len: key_len? })
}

fn last_successful(table: &Table, layer7: bool, layer4: bool, report: &mut Report<'_>) -> Option<Persist> {
    if let Some(entry) = table.get("timeout").filter(|_| layer4) {
        report.error(
            Code::MisplacedKey,
            entry.key.span,
            "`timeout` means nothing with type \"last-successful\" on layer 4: the server in use is never forgotten",
            "remove `timeout`",
        );
        return None;
    }
    let timeout = time(table, "timeout", LONG_TIMEOUT, layer7, report)?;
    Some(Persist::LastSuccessful { timeout: layer7.then_some(timeout) })
}

fn source_ip(table: &Table, layer7: bool, ip: Option<IpAddr>, report: &mut Report<'_>) -> Option<Persist> {
    let default = if layer7 { PERSIST_TIMEOUT_7 } else { PERSIST_TIMEOUT };
    let timeout = time(table, "timeout", default, layer7, report);
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
    if let Some(entry) = table.get("group").filter(|_| layer7) {
        report.warning(
            Code::Redundant,
            entry.key.span,
            "`group` means nothing on layer 7: the proxy remembers clients for each VIP",
            "remove `group`, or leave it for a VIP of layer 4",
        );
    }
    let group = group.filter(|_| !layer7);
    Some(Persist::SourceIp { prefix_v4, prefix_v6, timeout: timeout?, group })
}

fn read_group(entry: &Entry, report: &mut Report<'_>) -> Option<String> {
    let text = read::string(entry, "\"pacs\"", report)?;
    let name = At { value: text.to_owned(), span: entry.node.span };
    read::check_name(&name, "persistence group", report).then_some(name.value)
}

/// A VIP that shares its persistence.
struct Member<'v> {
    vip: &'v str,
    span: Span,
    v6: bool,
    prefix: u8,
    timeout: Duration,
}

/// Applies them.
pub(super) fn check(vips: &[Draft], report: &mut Report<'_>) {
    for vip in vips {
        scheduler(vip, report);
    }
    groups(vips, report);
}

fn scheduler(vip: &Draft, report: &mut Report<'_>) {
    let (Some(persist), Some(scheduler)) = (&vip.persist, vip.scheduler) else {
        return;
    };
    let (name, span) = (&vip.name.value, vip.name.span);
    match (&persist.value, scheduler) {
        (Persist::LastSuccessful { .. }, Scheduler::First) => {}
        (Persist::LastSuccessful { .. }, other) => report.error(
            Code::MisplacedKey,
            persist.span,
            format!(
                "vip `{name}` stays on the server in use, but scheduler \"{}\" uses all of them",
                other.name()
            ),
            "write `scheduler = \"first\"`, or `persist = \"source-ip\"`",
        ),
        // What is not said but is the mode's default needs no word.
        (Persist::SourceIp { group: None, .. }, Scheduler::SourceHash) if persist.span != span => report
            .warning(
                Code::Redundant,
                span,
                format!(
                    "vip `{name}` persists by source address, which scheduler \"source-hash\" does by itself"
                ),
                "choose scheduler \"wlc\" beside `persist`, or remove `persist`",
            ),
        (Persist::Cookie { .. } | Persist::None | Persist::SourceIp { .. } | Persist::UrlParam { .. }, _) => {
        }
    }
}

/// Entries of a group are written by one VIP and read by another: both must cut clients' addresses alike, and forget
/// them after the same time.
fn groups(vips: &[Draft], report: &mut Report<'_>) {
    let mut groups: BTreeMap<&str, Vec<Member<'_>>> = BTreeMap::new();
    for vip in vips {
        let (Some(persist), Some(ip)) = (&vip.persist, &vip.ip) else {
            continue;
        };
        if let Persist::SourceIp { prefix_v4, prefix_v6, timeout, group: Some(group) } = &persist.value {
            let v6 = ip.value.is_ipv6();
            let prefix = if v6 { *prefix_v6 } else { *prefix_v4 };
            let member = Member { vip: &vip.name.value, span: persist.span, v6, prefix, timeout: *timeout };
            groups.entry(group).or_default().push(member);
        }
    }
    for (name, members) in &groups {
        for (n, member) in members.iter().enumerate() {
            agrees(name, member, &members[..n], report);
        }
        if let [alone] = members.as_slice() {
            let others = groups.keys().filter(|other| *other != name).copied();
            let help = nearest(name, others).map_or_else(
                || "name it in another VIP too, or remove `group`".to_owned(),
                |near| format!("did you mean \"{near}\"?"),
            );
            let message = format!("vip `{}` is alone in persistence group `{name}`", alone.vip);
            report.warning(Code::Redundant, alone.span, message, help);
        }
    }
}

fn agrees(group: &str, member: &Member<'_>, before: &[Member<'_>], report: &mut Report<'_>) {
    let same_family = before.iter().find(|other| other.v6 == member.v6);
    let prefix = same_family
        .filter(|other| other.prefix != member.prefix)
        .map(|other| (other, "prefix", other.prefix.to_string(), member.prefix.to_string()));
    let quoted = |time| format!("\"{}\"", humantime::format_duration(time));
    let timeout = before
        .first()
        .filter(|other| other.timeout != member.timeout)
        .map(|other| (other, "timeout", quoted(other.timeout), quoted(member.timeout)));
    for (other, key, theirs, mine) in prefix.into_iter().chain(timeout) {
        report.error_also(
            Code::GroupMismatch,
            member.span,
            (other.span, "the other"),
            format!(
                "vips `{}` and `{}` share persistence group `{group}`, but have `{key}` {theirs} and {mine}",
                other.vip, member.vip
            ),
            format!("write the same `{key}` for both, or another `group`"),
        );
    }
}
