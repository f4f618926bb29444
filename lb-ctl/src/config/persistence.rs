//! `persist` of a VIP: its keys, what goes with which scheduler, and what VIPs of one group must have in common.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use super::{
    diag::{Code, Report, nearest},
    file::{At, Entry, Span, Table},
    keys::{refuse_meaningless, typed},
    read::{self, Times, missing, wrong_type},
    service::{Draft, MAX_IDLE},
};
use crate::model::config::{Persist, Scheduler};

/// Default time of persistence (R11).
const PERSIST_TIMEOUT: Duration = Duration::from_secs(300);
const PERSIST_LATER: [&str; 2] = ["cookie", "url-param"];

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
        PersistWord::LastSuccessful => Some(Persist::LastSuccessful { timeout: None }),
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
        (Persist::SourceIp { group: None, .. }, Scheduler::SourceHash) => report.warning(
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
