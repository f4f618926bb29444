//! Rules on persistence: what goes with which scheduler, and what VIPs of one group must have in common.

use std::collections::BTreeMap;

use super::{
    diag::{Code, Report, nearest},
    file::Span,
    service::Draft,
};
use crate::model::config::{Persist, Scheduler};

/// A VIP that shares its persistence.
struct Member<'v> {
    vip: &'v str,
    span: Span,
    v6: bool,
    prefix: u8,
    timeout: std::time::Duration,
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
        (Persist::LastSuccessful, Scheduler::First) => {}
        (Persist::LastSuccessful, other) => report.error(
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
        (Persist::None | Persist::SourceIp { .. }, _) => {}
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
