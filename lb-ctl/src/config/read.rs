//! Typed readers of single values. Each says what is wrong, where, and what to write instead, and gives `None`.

use std::{net::IpAddr, ops::RangeInclusive, time::Duration};

use lb_common::limits::MAX_NAME;

use super::{
    diag::{Code, Report, nearest},
    file::{At, Entry, Span, Table, Value},
};

/// Reports every key of `table` that is neither in `known` nor in `later` (keys of the product that this version
/// has not got).
pub(super) fn check_keys(
    table: &Table,
    owner: &str,
    known: &[&str],
    later: &[&str],
    report: &mut Report<'_>,
) {
    for Entry { key, .. } in &table.entries {
        let name = key.value.as_str();
        if known.contains(&name) {
            continue;
        }
        if later.contains(&name) {
            report.error(
                Code::NotSupported,
                key.span,
                format!("key `{name}` of {owner} is not supported by this version"),
                format!("remove `{name}`"),
            );
            continue;
        }
        let help = nearest(name, known.iter().copied()).map_or_else(
            || format!("remove it; {owner} takes: {}", known.join(", ")),
            |near| format!("did you mean `{near}`?"),
        );
        report.error(Code::UnknownKey, key.span, format!("unknown key `{name}` in {owner}"), help);
    }
}

/// A value of another kind than the key takes.
pub(super) fn wrong_type(entry: &Entry, wanted: &str, example: &str, report: &mut Report<'_>) {
    let key = &entry.key.value;
    report.error(
        Code::WrongType,
        entry.node.span,
        format!("`{key}` must be {wanted}, not {}", entry.node.value.kind()),
        format!("write `{key} = {example}`"),
    );
}

/// A required key that is not there, told at the name of what lacks it.
pub(super) fn missing(key: &str, owner: &str, span: Span, example: &str, report: &mut Report<'_>) {
    report.error(
        Code::MissingKey,
        span,
        format!("{owner} has no `{key}`"),
        format!("add `{key} = {example}`"),
    );
}

pub(super) fn string<'e>(entry: &'e Entry, example: &str, report: &mut Report<'_>) -> Option<&'e str> {
    if let Value::String(text) = &entry.node.value {
        return Some(text);
    }
    let example = match entry.node.value {
        Value::Integer(Some(number)) if !example.starts_with('{') => format!("\"{number}\""),
        Value::Array(_)
        | Value::Boolean(_)
        | Value::Integer(_)
        | Value::Other(_)
        | Value::String(_)
        | Value::Table(_) => example.to_owned(),
    };
    wrong_type(entry, "a string", &example, report);
    None
}

pub(super) fn boolean(entry: &Entry, report: &mut Report<'_>) -> Option<bool> {
    if let Value::Boolean(truth) = entry.node.value {
        return Some(truth);
    }
    wrong_type(entry, "true or false", "true", report);
    None
}

pub(super) fn table<'e>(entry: &'e Entry, example: &str, report: &mut Report<'_>) -> Option<&'e Table> {
    if let Value::Table(table) = &entry.node.value {
        return Some(table);
    }
    wrong_type(entry, "a table", example, report);
    None
}

/// Texts of a list, none twice, each as `item` takes it.
pub(super) fn list_of<T: PartialEq>(
    entry: &Entry,
    what: &str,
    example: &str,
    report: &mut Report<'_>,
    mut item: impl FnMut(&str, Span, &mut Report<'_>) -> Option<T>,
) -> Vec<T> {
    let key = &entry.key.value;
    let Value::Array(items) = &entry.node.value else {
        wrong_type(entry, "a list", example, report);
        return Vec::new();
    };
    let mut list: Vec<(T, Span)> = Vec::new();
    for At { value, span } in items {
        let Value::String(text) = value else {
            let message = format!("{what} must be text, not {}", value.kind());
            report.error(Code::WrongType, *span, message, format!("write `{key} = {example}`"));
            continue;
        };
        let Some(value) = item(text, *span, report) else { continue };
        if let Some((_, first)) = list.iter().find(|(earlier, _)| *earlier == value) {
            report.error_also(
                Code::DuplicateName,
                *span,
                (*first, "first here"),
                format!("\"{text}\" is in `{key}` twice"),
                "remove one of them",
            );
        } else {
            list.push((value, *span));
        }
    }
    list.into_iter().map(|(value, _)| value).collect()
}

/// A text, or a list of them with at least one, each as `item` takes it.
pub(super) fn one_or_more<T: PartialEq>(
    entry: &Entry,
    what: &str,
    example: &str,
    report: &mut Report<'_>,
    mut item: impl FnMut(&str, Span, &mut Report<'_>) -> Option<T>,
) -> Vec<T> {
    if let Value::String(text) = &entry.node.value {
        return item(text, entry.node.span, report).into_iter().collect();
    }
    if matches!(&entry.node.value, Value::Array(items) if items.is_empty()) {
        let key = &entry.key.value;
        report.error(
            Code::MissingKey,
            entry.node.span,
            format!("`{key}` is empty"),
            format!("write `{key} = {example}`"),
        );
    }
    list_of(entry, what, example, report, item)
}

/// A whole number within `range`.
pub(super) fn number(entry: &Entry, range: RangeInclusive<u32>, report: &mut Report<'_>) -> Option<u32> {
    let key = &entry.key.value;
    let (low, high) = (*range.start(), *range.end());
    let Value::Integer(number) = entry.node.value else {
        wrong_type(entry, "a whole number", &low.max(1).to_string(), report);
        return None;
    };
    let fits = number.and_then(|number| u32::try_from(number).ok()).filter(|number| range.contains(number));
    if fits.is_none() {
        let said = number.map_or_else(|| "too large".to_owned(), |number| number.to_string());
        report.error(
            Code::OutOfRange,
            entry.node.span,
            format!("`{key}` is {said}, outside {low} to {high}"),
            format!("write a number from {low} to {high}"),
        );
    }
    fits
}

/// A key that takes one port.
pub(super) fn port_of(entry: &Entry, report: &mut Report<'_>) -> Option<u16> {
    if !matches!(entry.node.value, Value::Integer(_)) {
        wrong_type(entry, "a port", "104", report);
        return None;
    }
    port(&entry.node, report)
}

/// One port of a list.
pub(super) fn port(node: &At<Value>, report: &mut Report<'_>) -> Option<u16> {
    let Value::Integer(number) = node.value else {
        report.error(
            Code::WrongType,
            node.span,
            format!("a port must be a number, not {}", node.value.kind()),
            "write numbers without quotes: `ports = [104, 11112]`",
        );
        return None;
    };
    let port = number.and_then(|number| u16::try_from(number).ok()).filter(|port| *port != 0);
    if port.is_none() {
        let said = number.map_or_else(|| "this number".to_owned(), |number| number.to_string());
        report.error(
            Code::BadPort,
            node.span,
            format!("{said} is not a port"),
            "write a port from 1 to 65535",
        );
    }
    port
}

/// Limits of a time.
pub(super) struct Times {
    pub(super) range: RangeInclusive<Duration>,
    /// The kernel side counts this one in seconds.
    pub(super) whole_secs: bool,
    pub(super) example: &'static str,
}

/// A time with a unit. A bare number is refused: the guides mean milliseconds, seconds and minutes by it (R33, R52).
pub(super) fn duration(entry: &Entry, times: &Times, report: &mut Report<'_>) -> Option<Duration> {
    let (key, span) = (&entry.key.value, entry.node.span);
    let example = times.example;
    let unitless = |number: &str| {
        let message = format!("`{key}` is {number} without a unit");
        (
            message,
            format!(
                "write the unit: `\"{number}s\"` (seconds), `\"{number}ms\"` (milliseconds) or `\"{number}m\"` (minutes)"
            ),
        )
    };
    let text = match &entry.node.value {
        Value::String(text) => text.trim(),
        Value::Integer(Some(number)) => {
            let (message, help) = unitless(&number.to_string());
            report.error(Code::BadDuration, span, message, help);
            return None;
        }
        Value::Array(_) | Value::Boolean(_) | Value::Integer(None) | Value::Other(_) | Value::Table(_) => {
            wrong_type(entry, "a time in quotes", &format!("\"{example}\""), report);
            return None;
        }
    };
    let Ok(time) = humantime::parse_duration(text) else {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let (message, help) = if digits {
            unitless(text)
        } else {
            let help = format!("write a number and a unit (ms, s, m, h, d): `{key} = \"{example}\"`");
            (format!("`{key}` is \"{text}\", which is not a time"), help)
        };
        report.error(Code::BadDuration, span, message, help);
        return None;
    };
    let shown = |time: Duration| humantime::format_duration(time).to_string();
    if !times.range.contains(&time) {
        let (low, high) = (shown(*times.range.start()), shown(*times.range.end()));
        report.error(
            Code::OutOfRange,
            span,
            format!("`{key}` is {}, outside {low} to {high}", shown(time)),
            format!("write a time from \"{low}\" to \"{high}\""),
        );
        return None;
    }
    let fine = if times.whole_secs { u128::from(time.subsec_nanos()) } else { time.as_nanos() % 1_000_000 };
    if fine != 0 {
        let unit = if times.whole_secs { "seconds" } else { "milliseconds" };
        report.error(
            Code::OutOfRange,
            span,
            format!("`{key}` is {}, finer than it is kept", shown(time)),
            format!("write whole {unit}"),
        );
        return None;
    }
    Some(time)
}

/// One of several words; `later` are those of the product that this version has not got.
pub(super) fn word<T: Copy>(
    entry: &Entry,
    known: &[(&str, T)],
    later: &[&str],
    report: &mut Report<'_>,
) -> Option<T> {
    let example = known.first().map_or("", |(name, _)| name);
    let typed = string(entry, &format!("\"{example}\""), report)?;
    let found = known.iter().find(|(name, _)| *name == typed).map(|(_, value)| *value);
    if found.is_none() {
        let key = &entry.key.value;
        let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
        let all = format!("write `{key} = \"{}\"`", names.join("\"` or `\""));
        if later.contains(&typed) {
            let message = format!("`{key} = \"{typed}\"` is not supported by this version");
            report.error(Code::NotSupported, entry.node.span, message, all);
        } else {
            let help = nearest(typed, names).map_or(all, |near| format!("did you mean \"{near}\"?"));
            report.error(Code::UnknownValue, entry.node.span, format!("`{key}` cannot be \"{typed}\""), help);
        }
    }
    found
}

/// An address that hosts can have. `owner`: `a vip`, `a server`.
pub(super) fn host_address(text: &str, owner: &str, span: Span, report: &mut Report<'_>) -> Option<IpAddr> {
    let mut refuse = |message: String, help: &str| {
        report.error(Code::BadAddress, span, message, help);
        None
    };
    let Ok(ip) = text.parse::<IpAddr>() else {
        let help = if text.contains('/') {
            "write the address alone, without the prefix length"
        } else {
            "write an address such as \"10.12.1.100\" or \"2001:db8::100\"; host names are not looked up"
        };
        return refuse(format!("\"{text}\" is not an IP address"), help);
    };
    let cure = "write a unicast address of your network";
    let kind = match ip {
        _ if ip.is_unspecified() => "the unspecified address",
        _ if ip.is_loopback() => "a loopback address",
        _ if ip.is_multicast() => "a multicast address",
        IpAddr::V4(v4) if v4.is_broadcast() => "the broadcast address",
        IpAddr::V4(v4) if v4.octets()[0] == 0 || v4.octets()[0] >= 240 => "a reserved address",
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            return refuse(format!("{ip} is an IPv4 address in IPv6 dress"), "write the IPv4 address itself");
        }
        IpAddr::V6(v6) if v6.is_unicast_link_local() => "a link-local address, which clients cannot route to",
        IpAddr::V4(_) | IpAddr::V6(_) => return Some(ip),
    };
    refuse(format!("{ip} is {kind}, which {owner} cannot have"), cure)
}

/// A name that fits the kernel side's record and can be typed as `VIP/RIP` in a shell.
pub(super) fn check_name(name: &At<String>, what: &str, report: &mut Report<'_>) -> bool {
    let text = name.value.as_str();
    let good = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
    let mut refuse = |message: String, help: String| {
        report.error(Code::BadName, name.span, message, help);
        false
    };
    if text.is_empty() {
        return refuse(format!("a {what} has an empty name"), "give it a name".to_owned());
    }
    if text.len() > MAX_NAME {
        let message =
            format!("the name of {what} `{text}` has {} bytes, the limit is {MAX_NAME}", text.len());
        return refuse(message, format!("shorten it to {MAX_NAME} bytes"));
    }
    if let Some(bad) = text.chars().find(|c| !good(*c)) {
        let described = if bad == ' ' { "a space".to_owned() } else { format!("`{}`", bad.escape_debug()) };
        let cure: String = text.chars().map(|c| if good(c) { c } else { '_' }).collect();
        return refuse(
            format!("the name of {what} `{text}` contains {described}"),
            format!("write `{cure}`: names are letters, digits, `_`, `-` and `.`"),
        );
    }
    if text.starts_with('-') {
        let message = format!("the name of {what} `{text}` begins with `-`, like an option of a command");
        return refuse(message, format!("write `{}`", text.trim_start_matches('-')));
    }
    true
}

/// The name of a network interface as the kernel takes it (IFNAMSIZ).
pub(super) fn interface(text: &str, span: Span, report: &mut Report<'_>) -> Option<String> {
    let bad = text.is_empty()
        || text.len() > 15
        || matches!(text, "." | "..")
        || text.chars().any(|c| c == '/' || c == ':' || c.is_whitespace() || c.is_control());
    if bad {
        let message = format!("\"{text}\" cannot be the name of an interface");
        report.error(
            Code::BadName,
            span,
            message,
            "write a name of at most 15 characters as `ip link` shows it",
        );
        return None;
    }
    Some(text.to_owned())
}

/// Names of interfaces, none twice.
pub(super) fn interfaces(entry: &Entry, report: &mut Report<'_>) -> Vec<String> {
    let Value::Array(items) = &entry.node.value else {
        wrong_type(entry, "a list of names", "[\"eth0\"]", report);
        return Vec::new();
    };
    let mut names: Vec<(String, Span)> = Vec::new();
    for item in items {
        let Value::String(text) = &item.value else {
            let message = format!("an interface must be a name, not {}", item.value.kind());
            let help = format!("write `{} = [\"eth0\"]`", entry.key.value);
            report.error(Code::WrongType, item.span, message, help);
            continue;
        };
        let Some(name) = interface(text, item.span, report) else {
            continue;
        };
        if let Some((_, first)) = names.iter().find(|(earlier, _)| *earlier == name) {
            let message = format!("interface \"{name}\" is there twice");
            report.error_also(
                Code::DuplicateName,
                item.span,
                (*first, "first here"),
                message,
                "remove one of them",
            );
        } else {
            names.push((name, item.span));
        }
    }
    names.into_iter().map(|(name, _)| name).collect()
}
