//! The words: a subject line, a text for people, an object for programs. Pure.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use super::{
    situation::{Left, Situation, Subject},
    syslog::Severity,
    teller::{Event, Kind},
};
use crate::model::{
    config::{Config, Vip},
    operator::utc,
};

/// Events that a message lists; more are counted.
const MAX_LISTED: usize = 500;
/// Longest reason in a subject line, in characters; the text has it whole.
const MAX_REASON_CHARS: usize = 100;
/// Parts of a subject line that counts.
const MAX_PARTS: usize = 3;

/// What every message says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Context<'a> {
    /// Name of this machine.
    pub(super) node: &'a str,
    /// Seconds since the epoch.
    pub(super) epoch_secs: u64,
    /// How many servers are left.
    pub(super) situation: &'a Situation,
    /// Addresses and ports.
    pub(super) config: &'a Config,
}

/// Who is told what: events by the mail addresses that they go to.
pub(super) fn by_recipients(
    events: &[Event],
    config: &Config,
    to_all: &[String],
) -> BTreeMap<Vec<String>, Vec<Event>> {
    let mut groups: BTreeMap<Vec<String>, Vec<Event>> = BTreeMap::new();
    for event in events {
        let vip = event.subject.vip().and_then(|name| config.vips.iter().find(|vip| vip.name == name));
        let own = vip.map(|vip| vip.alert_to.as_slice()).filter(|own| !own.is_empty());
        let mut to = own.unwrap_or(to_all).to_vec();
        to.sort_unstable();
        to.dedup();
        if !to.is_empty() {
            groups.entry(to).or_default().push(event.clone());
        }
    }
    groups
}

/// `[lb1] DOWN: DICOM/DICOM1 (connect refused)`, `[lb1] 1000 servers down`.
pub(super) fn subject_line(node: &str, events: &[Event]) -> String {
    if let [event] = events {
        let reason = shortened(&event.text);
        return plain(&format!("[{node}] {}: {} ({reason})", word(event), object(&event.subject)));
    }
    let parts: Vec<String> = [
        part(events, is_outage, FAILS, "has no server left", "VIPs have no server left"),
        part(events, is_unserved, FAILS, "is not served", "VIPs are not served"),
        part(events, is_server, FAILS, "down", "servers down"),
        part(
            events,
            is_foreign,
            FAILS,
            "is answered for by another machine",
            "addresses are answered for by others",
        ),
        part(events, is_certificate, FAILS, "does not last", "certificates do not last"),
        part(events, |_| true, &[Kind::Still], "still down", "failures go on"),
        part(events, |_| true, &[Kind::Blinked], "was down for a moment", "were down for a moment"),
        part(events, is_server, &[Kind::Recovered], "back", "servers back"),
        part(events, |subject| !is_server(subject), &[Kind::Recovered], "well again", "problems are over"),
    ]
    .into_iter()
    .flatten()
    .take(MAX_PARTS)
    .collect();
    plain(&format!("[{node}] {}", parts.join(", ")))
}

const FAILS: &[Kind] = &[Kind::Failed, Kind::Relapsed];

const fn is_outage(subject: &Subject) -> bool {
    matches!(subject, Subject::Outage { .. })
}

const fn is_unserved(subject: &Subject) -> bool {
    matches!(subject, Subject::Unserved { .. })
}

const fn is_server(subject: &Subject) -> bool {
    matches!(subject, Subject::Server(_))
}

const fn is_certificate(subject: &Subject) -> bool {
    matches!(subject, Subject::Certificate { .. })
}

const fn is_foreign(subject: &Subject) -> bool {
    matches!(subject, Subject::Foreign { .. })
}

/// One by name, several by number, none not at all.
fn part(
    events: &[Event],
    of: impl Fn(&Subject) -> bool,
    kinds: &[Kind],
    one: &str,
    several: &str,
) -> Option<String> {
    let mut matching = events.iter().filter(|event| of(&event.subject) && kinds.contains(&event.kind));
    let first = matching.next()?;
    Some(match matching.count() {
        0 => format!("{} {one}", object(&first.subject)),
        more => format!("{} {several}", more + 1),
    })
}

/// The text of a mail.
pub(super) fn body(context: &Context<'_>, events: &[Event]) -> String {
    let mut lines = vec![format!("{} at {}", context.node, utc(context.epoch_secs))];
    let mut heading = None;
    for event in sorted(events).into_iter().take(MAX_LISTED) {
        let vip = event.subject.vip();
        if heading != Some(vip) {
            heading = Some(vip);
            lines.push(String::new());
            lines.push(vip.map_or_else(|| "this machine:".to_owned(), |name| vip_line(name, context)));
        }
        lines.push(format!("  {}", event_line(event, context.epoch_secs)));
        lines.extend(what_to_run(event).map(|run| format!("      {run}")));
    }
    if let Some(more) = events.len().checked_sub(MAX_LISTED).filter(|more| *more > 0) {
        lines.push(format!("\nand {more} more: see `lbctl status`"));
    }
    lines.push(String::new());
    lines.join("\n")
}

/// What a webhook gets. `text` alone is what chat services show.
pub(super) fn json(context: &Context<'_>, events: &[Event], number: u64) -> Result<String, String> {
    let listed: Vec<&Event> = sorted(events).into_iter().take(MAX_LISTED).collect();
    let left = |name: &str| context.situation.left.get(name).map(|left| (name.to_owned(), left));
    let vips = listed.iter().filter_map(|event| left(event.subject.vip()?));
    let vips =
        vips.map(|(name, Left { serving, of })| (name, Servers { serving: *serving, of: *of })).collect();
    let posted = Posted {
        text: subject_line(context.node, events),
        node: context.node,
        number,
        at_epoch_secs: context.epoch_secs,
        events_total: events.len(),
        events: listed,
        vips,
    };
    serde_json::to_string(&posted).map_err(|error| format!("an alert cannot be written as JSON: {error}"))
}

#[derive(Serialize)]
struct Posted<'a> {
    text: String,
    node: &'a str,
    number: u64,
    at_epoch_secs: u64,
    events_total: usize,
    events: Vec<&'a Event>,
    vips: BTreeMap<String, Servers>,
}

#[derive(Serialize)]
struct Servers {
    serving: usize,
    of: usize,
}

/// Lines of the system's log.
pub(super) fn log_lines(events: &[Event], epoch_secs: u64) -> Vec<(Severity, String)> {
    let line = |event: &&Event| {
        let about = match &event.subject {
            Subject::Server(id) => format!("{}: ", plain(&id.vip)),
            Subject::Outage { .. }
            | Subject::Unserved { .. }
            | Subject::Foreign { .. }
            | Subject::Certificate { .. } => String::new(),
        };
        let severity = match event.kind {
            Kind::Failed | Kind::Relapsed | Kind::Still => Severity::Error,
            Kind::Blinked | Kind::Recovered => Severity::Notice,
        };
        (severity, format!("{about}{}", event_line(event, epoch_secs)))
    };
    let mut lines: Vec<_> = sorted(events).iter().take(MAX_LISTED).map(line).collect();
    if let Some(more) = events.len().checked_sub(MAX_LISTED).filter(|more| *more > 0) {
        lines.push((Severity::Error, format!("and {more} more: see `lbctl status`")));
    }
    lines
}

/// What a test says.
#[derive(Clone, Debug)]
pub(super) struct TestWords {
    /// Subject line.
    pub(super) subject: String,
    /// Text of a mail.
    pub(super) body: String,
    /// What a webhook gets.
    pub(super) json: String,
}

/// A message that says that nothing is wrong.
pub(super) fn test(node: &str, epoch_secs: u64) -> TestWords {
    let subject = plain(&format!("[{node}] test of alerts: nothing is wrong"));
    let body = format!(
        "{node} at {}\n\nSomebody ran `lbctl alert test`. Alerts of this machine reach you.\n",
        utc(epoch_secs)
    );
    let json = serde_json::json!({
        "text": subject, "node": node, "test": true, "at_epoch_secs": epoch_secs, "events": [], "vips": {},
    });
    TestWords { subject, body, json: json.to_string() }
}

/// By VIP, and within it the worst first.
fn sorted(events: &[Event]) -> Vec<&Event> {
    let mut sorted: Vec<&Event> = events.iter().collect();
    sorted.sort_by(|a, b| {
        let key = |event: &Event| (event.subject.vip().map(str::to_owned), event.kind, event.subject.clone());
        key(a).cmp(&key(b))
    });
    sorted
}

fn vip_line(name: &str, context: &Context<'_>) -> String {
    let Left { serving, of } = context.situation.left.get(name).copied().unwrap_or_default();
    let place = |vip: &Vip| format!(" ({}, ports {})", vip.ip, vip.ports);
    let vip = context.config.vips.iter().find(|vip| vip.name == name);
    let place = vip.map(place).unwrap_or_default();
    format!("{name}{place}: {serving} of {of} real servers left")
}

/// `DOWN: DICOM1 since 2026-05-08 12:37:18 UTC: connect refused`.
fn event_line(event: &Event, epoch_secs: u64) -> String {
    let Event { kind, subject, text, since_epoch_secs, .. } = event;
    let name = match subject {
        Subject::Outage { vip } | Subject::Unserved { vip } => vip.clone(),
        Subject::Server(id) => id.rip.clone(),
        Subject::Foreign { ip, .. } => ip.to_string(),
        Subject::Certificate { name, .. } => name.clone(),
    };
    let since = utc(*since_epoch_secs);
    let lasted =
        humantime::format_duration(Duration::from_secs(epoch_secs.saturating_sub(*since_epoch_secs)));
    plain(&match kind {
        Kind::Failed | Kind::Relapsed => format!("{}: {name} since {since}: {text}", word(event)),
        Kind::Still => format!("{}: {name} for {lasted}, since {since}: {text}", word(event)),
        Kind::Blinked | Kind::Recovered => {
            format!("{}: {name}, which failed at {since} for at most {lasted}: {text}", word(event))
        }
    })
}

fn what_to_run(event: &Event) -> Option<String> {
    match (&event.subject, event.kind) {
        (_, Kind::Recovered) => None,
        (Subject::Server(id), _) => Some(format!("lbctl check show {}/{}", id.vip, id.rip)),
        (Subject::Outage { vip }, _) => Some(format!("lbctl check list {vip}")),
        (Subject::Unserved { .. }, _) => Some("lbctl status".to_owned()),
        // Its line says what to do, and where.
        (Subject::Foreign { .. } | Subject::Certificate { .. }, _) => None,
    }
}

const fn word(event: &Event) -> &'static str {
    match (event.kind, &event.subject) {
        (Kind::Failed, Subject::Server(_)) => "DOWN",
        (Kind::Failed, Subject::Outage { .. }) => "OUT OF SERVICE",
        (Kind::Failed, Subject::Unserved { .. }) => "NOT SERVED",
        (Kind::Failed, Subject::Foreign { .. }) => "ADDRESS CONFLICT",
        (Kind::Failed, Subject::Certificate { days: 0, .. }) => "CERTIFICATE EXPIRED",
        (Kind::Failed, Subject::Certificate { .. }) => "CERTIFICATE EXPIRES",
        (Kind::Relapsed, Subject::Server(_)) => "DOWN AGAIN",
        (Kind::Relapsed, _) => "FAILED AGAIN",
        (Kind::Still, Subject::Server(_)) => "STILL DOWN",
        (Kind::Still, _) => "STILL FAILING",
        (Kind::Blinked, _) => "BACK AFTER A MOMENT",
        (Kind::Recovered, Subject::Server(_)) => "UP",
        (Kind::Recovered, _) => "WELL AGAIN",
    }
}

fn object(subject: &Subject) -> String {
    match subject {
        Subject::Outage { vip } | Subject::Unserved { vip } => vip.clone(),
        Subject::Server(id) => format!("{}/{}", id.vip, id.rip),
        Subject::Foreign { ip, .. } => ip.to_string(),
        Subject::Certificate { name, .. } => name.clone(),
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(MAX_REASON_CHARS) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or(text)),
    }
}

/// One line without control characters: reasons may quote what a server said.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
