//! Ports as they are written: numbers, ranges as text, or `"all"`.

use std::{collections::BTreeMap, ops::RangeInclusive};

use super::{
    diag::{Code, Report},
    file::{At, Entry, Span, Value},
    read::{self, wrong_type},
};
use crate::model::config::Ports;

/// Ports of a VIP, as far as they could be read.
pub(super) enum DraftPorts {
    All(Span),
    Ranges(Vec<At<RangeInclusive<u16>>>),
}

impl DraftPorts {
    pub(super) fn finish(self) -> Ports {
        match self {
            Self::All(_) => Ports::All,
            Self::Ranges(ranges) => Ports::Ranges(ranges.into_iter().map(|range| range.value).collect()),
        }
    }

    /// As people say them.
    pub(super) fn shown(&self) -> String {
        let Self::Ranges(ranges) = self else { return "every port".to_owned() };
        let ranges = Ports::Ranges(ranges.iter().map(|range| range.value.clone()).collect());
        format!("{} {ranges}", if self.keys() == 1 { "port" } else { "ports" })
    }

    /// Keys of the kernel's table for one protocol.
    pub(super) fn keys(&self) -> usize {
        match self {
            Self::All(_) => 1,
            Self::Ranges(ranges) => ranges.iter().map(|range| range.value.len()).sum(),
        }
    }
}

/// Reads `ports`.
pub(super) fn read_ports(entry: &Entry, report: &mut Report<'_>) -> Option<DraftPorts> {
    let items = match &entry.node.value {
        Value::Array(items) => items,
        Value::String(word) if word == "all" => return Some(DraftPorts::All(entry.node.span)),
        Value::Integer(Some(port)) => {
            wrong_type(entry, "a list of ports or \"all\"", &format!("[{port}]"), report);
            return None;
        }
        Value::String(text) if is_list(text) => {
            wrong_type(entry, "a list of ports or \"all\"", &as_list(text), report);
            return None;
        }
        Value::Boolean(_) | Value::Integer(_) | Value::Other(_) | Value::String(_) | Value::Table(_) => {
            wrong_type(entry, "a list of ports or \"all\"", "[104, 11112]", report);
            return None;
        }
    };
    if items.is_empty() {
        let help = "write at least one port: `ports = [104]`";
        report.error(Code::BadPort, entry.node.span, "`ports` is empty", help);
    }
    let mut taken = Taken::default();
    let mut ranges = Vec::new();
    for item in items {
        let Some(range) = read_item(item, report) else {
            continue;
        };
        if let Some((port, first)) = taken.put(&range, item.span) {
            report.error_also(
                Code::DuplicatePort,
                item.span,
                (first, "first here"),
                format!("port {port} is there twice"),
                "remove one of them",
            );
        } else {
            ranges.push(At { value: range, span: item.span });
        }
    }
    Some(DraftPorts::Ranges(ranges))
}

/// Ranges that do not overlap, each with what it belongs to.
pub(super) struct Taken<T>(BTreeMap<u16, (u16, T)>);

impl<T> Default for Taken<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T: Copy> Taken<T> {
    /// Adds a range, or gives the lowest port that is taken and whose it is.
    pub(super) fn put(&mut self, range: &RangeInclusive<u16>, whose: T) -> Option<(u16, T)> {
        let (low, high) = (*range.start(), *range.end());
        let before = self.0.range(..=low).next_back().filter(|(_, (end, _))| *end >= low);
        let clash = before.or_else(|| self.0.range(low..=high).next());
        if let Some((start, (_, other))) = clash {
            return Some((low.max(*start), *other));
        }
        self.0.insert(low, (high, whose));
        None
    }
}

fn read_item(item: &At<Value>, report: &mut Report<'_>) -> Option<RangeInclusive<u16>> {
    let text = match &item.value {
        // A number in quotes is told as any other wrong type.
        Value::String(text) if !text.bytes().all(|byte| byte.is_ascii_digit()) => text,
        Value::Array(_)
        | Value::Boolean(_)
        | Value::Integer(_)
        | Value::Other(_)
        | Value::String(_)
        | Value::Table(_) => return read::port(item, report).map(|port| port..=port),
    };
    if text == "all" {
        let help = "write `ports = \"all\"` alone";
        report.error(Code::BadPort, item.span, "\"all\" stands in a list of ports", help);
        return None;
    }
    read_range(text, item.span, 1, report)
}

/// A range of ports as text, `11112-11120`, from `lowest` on.
pub(super) fn read_range(
    text: &str,
    span: Span,
    lowest: u16,
    report: &mut Report<'_>,
) -> Option<RangeInclusive<u16>> {
    let port = |text: &str| {
        let text = text.trim();
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u16>().ok().filter(|port| digits && *port >= lowest)
    };
    let ends = text.split_once('-').and_then(|(low, high)| Some((port(low)?, port(high)?)));
    let Some((low, high)) = ends else {
        report.error(
            Code::BadPort,
            span,
            format!("\"{text}\" is not a range of ports from {lowest} to 65535"),
            "write the first and the last port: \"11112-11120\"",
        );
        return None;
    };
    if low > high {
        report.error(
            Code::BadPort,
            span,
            format!("\"{text}\" ends before it begins"),
            format!("write \"{high}-{low}\""),
        );
        return None;
    }
    Some(low..=high)
}

/// Whether a text can be meant as a list: `104,11112-11120`.
fn is_list(text: &str) -> bool {
    let word = |word: &str| {
        let word = word.trim();
        word.starts_with(|c: char| c.is_ascii_digit())
            && word.bytes().all(|b| b.is_ascii_digit() || b == b'-')
    };
    text.split(',').all(word)
}

/// That list as TOML.
fn as_list(text: &str) -> String {
    let item = |word: &str| {
        let word = word.trim();
        if word.contains('-') { format!("\"{word}\"") } else { word.to_owned() }
    };
    format!("[{}]", text.split(',').map(item).collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_taken_once_however_it_overlaps() {
        let mut taken = Taken::default();
        for range in [10..=20, 30..=30, 40..=65535] {
            assert_eq!(taken.put(&range, *range.start()), None);
        }
        for (range, port, whose) in [
            (20..=29, 20, 10),
            (5..=10, 10, 10),
            (12..=13, 12, 10),
            (1..=35, 10, 10),
            (65535..=65535, 65535, 40),
        ] {
            assert_eq!(taken.put(&range, 0), Some((port, whose)), "{range:?}");
        }
        assert_eq!(taken.put(&(21..=29), 21), None);
    }
}
