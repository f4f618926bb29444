//! Checks on paper.

use std::{
    io::{self, Write},
    time::{SystemTime, UNIX_EPOCH},
};

use comfy_table::{Cell, Color};
use serde::Serialize;

use super::super::text::{Columns, Look, NONE, cell, painted, plain, span, utc};
use crate::model::{
    checks::{Attempt, CheckStatus, RunStatus},
    health::{Advice, AdvisedState, Asked, FailureReason, Step, Transition, Verdict},
};

/// A check with its past: what `lbctl check show` shows.
#[derive(Clone, Debug, Serialize)]
pub struct ShownCheck {
    /// The check.
    #[serde(flatten)]
    pub check: CheckStatus,
    /// Changes of its verdict, the newest last.
    pub history: Vec<Transition>,
}

/// Milliseconds since the epoch.
pub(super) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// `lbctl check list`.
pub fn checks_into(
    out: &mut impl Write,
    checks: &[CheckStatus],
    now_epoch_millis: u64,
    colour: bool,
) -> io::Result<()> {
    if checks.is_empty() {
        return writeln!(out, "Nothing is checked.");
    }
    let header = ["", "VIRTUAL SERVICE", "REAL SERVER", "CHECK", "VERDICT", "SINCE", "TOOK", "LAST"];
    let mut columns = Columns::new(&header, &[6], colour);
    for check in checks {
        let look = look(check.verdict);
        columns.push(vec![
            painted(look.symbol, look),
            cell(&check.id.vip),
            painted(&check.id.rip, look),
            cell(&check.kind),
            painted(verdict(check), look),
            cell(since(check, now_epoch_millis)),
            cell(check.server.as_ref().map_or_else(|| NONE.to_owned(), |last| took(last.took_micros))),
            cell(last(check)),
        ]);
    }
    columns.write_into(out)
}

/// `lbctl check show`.
pub fn check_into(
    out: &mut impl Write,
    shown: &ShownCheck,
    now_epoch_millis: u64,
    colour: bool,
) -> io::Result<()> {
    let ShownCheck { check, history } = shown;
    let look = look(check.verdict);
    let mut columns = Columns::bare(&[], colour);
    let name = format!("{} {}/{}", look.symbol, check.id.vip, check.id.rip);
    columns.push(vec![cell("Real server"), painted(name, look)]);
    let verdict = format!("{}, since {}", verdict(check), since(check, now_epoch_millis));
    columns.push(vec![cell("Verdict"), painted(verdict, look)]);
    for (name, value) in facts(check) {
        columns.push(vec![cell(name), cell(value)]);
    }
    columns.write_into(out)?;
    attempt_into(out, "Server", check.server.as_ref(), now_epoch_millis, colour)?;
    if check.way.is_some() {
        attempt_into(out, "VIP at the server", check.path.as_ref(), now_epoch_millis, colour)?;
    }
    writeln!(out)?;
    if history.is_empty() {
        return writeln!(out, "Its verdict has not changed yet.");
    }
    let mut columns = Columns::new(&["CHANGED", "FROM", "TO", "WHY"], &[], colour);
    for turn in history {
        columns.push(vec![
            cell(utc(turn.at_epoch_millis / 1000)),
            cell(word(turn.from)),
            cell(word(turn.to)),
            cell(reasoned(turn.reason, &turn.text)),
        ]);
    }
    columns.write_into(out)
}

/// `lbctl check run`.
pub fn runs_into(out: &mut impl Write, runs: &[RunStatus], verbose: bool, colour: bool) -> io::Result<()> {
    if runs.is_empty() {
        return writeln!(out, "Nothing was checked: the check is off.");
    }
    let who = |run: &RunStatus| {
        let path = if run.asked == Asked::Path { " (VIP)" } else { "" };
        format!("{}/{}{path}", run.id.vip, run.id.rip)
    };
    if verbose {
        return runs.iter().try_for_each(|run| outcome_into(out, &who(run), &run.attempt, colour));
    }
    let mut columns = Columns::bare(&[1], colour);
    for run in runs {
        columns.push(outcome(&who(run), &run.attempt));
    }
    columns.write_into(out)
}

/// How a check ended, at length.
pub(super) fn outcome_into(
    out: &mut impl Write,
    who: &str,
    attempt: &Attempt,
    colour: bool,
) -> io::Result<()> {
    let mut columns = Columns::bare(&[], colour);
    columns.push(outcome(who, attempt));
    columns.write_into(out)?;
    details_into(out, attempt, colour)
}

/// How a check ended, in a line.
fn outcome(who: &str, attempt: &Attempt) -> Vec<Cell> {
    let look = look(if attempt.failure.is_some() { Verdict::Down } else { Verdict::Up });
    let told = match &attempt.failure {
        None => "passes".to_owned(),
        Some(failure) => reasoned(Some(failure.reason), &failure.text),
    };
    vec![painted(format!("{} {who}", look.symbol), look), cell(took(attempt.took_micros)), cell(told)]
}

fn attempt_into(
    out: &mut impl Write,
    title: &str,
    attempt: Option<&Attempt>,
    now_epoch_millis: u64,
    colour: bool,
) -> io::Result<()> {
    writeln!(out)?;
    let Some(attempt) = attempt else {
        return writeln!(out, "{title}: not checked yet");
    };
    let ago = now_epoch_millis.saturating_sub(attempt.at_epoch_millis) / 1000;
    let told = attempt.failure.as_ref().map_or_else(
        || "passed".to_owned(),
        |failure| format!("failed: {}", reasoned(Some(failure.reason), &failure.text)),
    );
    let told = plain(&told);
    writeln!(out, "{title}, {} ago, in {}: {told}", span(ago), took(attempt.took_micros))?;
    details_into(out, attempt, colour)
}

/// Steps, what was said, what is worth knowing; each line set in.
fn details_into(out: &mut impl Write, attempt: &Attempt, colour: bool) -> io::Result<()> {
    let mut columns = Columns::bare(&[1], colour);
    for Step { name, took_micros } in &attempt.steps {
        columns.push(vec![cell(format!("  {name}")), cell(took(*took_micros))]);
    }
    if !attempt.steps.is_empty() {
        columns.write_into(out)?;
    }
    if let Some(note) = &attempt.note {
        writeln!(out, "  note: {}", plain(note))?;
    }
    let lines = attempt.output.iter().flat_map(|output| output.lines());
    lines.into_iter().try_for_each(|line| writeln!(out, "  > {}", plain(line)))
}

fn facts(check: &CheckStatus) -> Vec<(&str, String)> {
    let source = check.source.map_or_else(String::new, |source| format!(", from {source}"));
    let (every, deadline) = (time(check.interval_millis), time(check.timeout_millis));
    let damped = match check.damping {
        1 => String::new(),
        by => format!(" (x {by}: it went down too often of late)"),
    };
    let mut facts = vec![
        ("Check", format!("{} {}{source}", check.kind, check.addr)),
        ("Interval", format!("{every}, deadline {deadline}")),
        ("Rise, fall", format!("{}{damped}, {}", check.rise, check.fall)),
    ];
    let settings = check.settings.iter();
    facts.extend(settings.map(|setting| (setting.name.as_str(), setting.value.clone())));
    facts.extend(check.way.iter().map(|way| ("VIP's path", way.clone())));
    facts.extend(advice(check.advice).map(|advice| ("Its own word", advice)));
    if check.syn_repeats > 0 || check.syn_repeats_count {
        let counted = if check.syn_repeats_count { ", which counts as a failure" } else { "" };
        let syns = format!("{} came again since a connection last got through{counted}", check.syn_repeats);
        facts.push(("Clients' SYNs", syns));
    }
    facts
}

fn advice(advice: Advice) -> Option<String> {
    let state = advice.state.map(|state| match state {
        AdvisedState::Drain => "drain".to_owned(),
        AdvisedState::Maint => "maint".to_owned(),
    });
    let percent = advice.percent.map(|percent| format!("{percent} % of its weight"));
    let words: Vec<String> = state.into_iter().chain(percent).collect();
    (!words.is_empty()).then(|| words.join(", "))
}

fn verdict(check: &CheckStatus) -> String {
    let found = word(check.verdict);
    match check.operator.forced {
        None => found.to_owned(),
        Some(forced) => format!("forced {} (the check says {found})", if forced.up { "up" } else { "down" }),
    }
}

fn since(check: &CheckStatus, now_epoch_millis: u64) -> String {
    let Some(since) = check.since_epoch_millis else {
        return NONE.to_owned();
    };
    span(now_epoch_millis.saturating_sub(since) / 1000)
}

/// What is to be said of the last checks in a line.
fn last(check: &CheckStatus) -> String {
    let note = || check.server.iter().chain(&check.path).find_map(|last| last.note.clone());
    match (&check.text, &check.server) {
        (Some(text), _) => reasoned(check.reason, text),
        (None, None) if check.kind == "off" => "off: always up".to_owned(),
        (None, None) => "not checked yet".to_owned(),
        (None, Some(_)) => note().map_or_else(|| "passes".to_owned(), |note| format!("passes; {note}")),
    }
}

/// `connect: connection refused by 10.0.0.1:104 (connect-refused)`.
fn reasoned(reason: Option<FailureReason>, text: &str) -> String {
    let class = reason.and_then(|reason| serde_json::to_value(reason).ok());
    match class.as_ref().and_then(serde_json::Value::as_str) {
        Some(class) => format!("{text} ({class})"),
        None => text.to_owned(),
    }
}

const fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Down => "down",
        Verdict::Unknown => "unknown",
        Verdict::Up => "up",
    }
}

const fn look(verdict: Verdict) -> Look {
    match verdict {
        Verdict::Down => Look { symbol: "v", colour: Color::DarkRed },
        Verdict::Unknown => Look { symbol: "?", colour: Color::DarkYellow },
        Verdict::Up => Look { symbol: "^", colour: Color::DarkGreen },
    }
}

/// `412 us`, `2.1 ms`, `3.05 s`.
fn took(micros: u64) -> String {
    match micros {
        ..1000 => format!("{micros} us"),
        1000..1_000_000 => format!("{}.{} ms", micros / 1000, micros / 100 % 10),
        1_000_000.. => format!("{}.{:02} s", micros / 1_000_000, micros / 10_000 % 100),
    }
}

/// `250 ms`, `4 s`, `1.5 s`.
fn time(millis: u64) -> String {
    match (millis / 1000, millis % 1000) {
        (secs @ 1.., 0) => format!("{secs} s"),
        (secs @ 1.., rest) => format!("{secs}.{:03}", rest).trim_end_matches('0').to_owned() + " s",
        (0, rest) => format!("{rest} ms"),
    }
}
