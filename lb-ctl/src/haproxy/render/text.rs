//! Words of the proxy's configuration: addresses, times, and what has to stand between quotes.
#![forbid(unsafe_code)]

use std::{
    borrow::Cow,
    fmt::{self, Write as _},
    net::IpAddr,
    time::Duration,
};

/// The configuration as it grows.
#[derive(Debug, Default)]
pub(super) struct Text {
    written: String,
}

impl Text {
    /// A line that stands at the margin: the beginning of a section, or a comment before one.
    pub(super) fn margin(&mut self, line: impl fmt::Display) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.written, "{line}");
    }

    /// A line of a section.
    pub(super) fn line(&mut self, line: impl fmt::Display) {
        let _ = writeln!(self.written, "    {line}");
    }

    /// An empty line.
    pub(super) fn gap(&mut self) {
        self.written.push('\n');
    }

    /// All of it.
    pub(super) fn into_string(self) -> String {
        self.written
    }
}

/// An address with a port, or with what stands for one.
pub(super) fn with_port(ip: IpAddr, port: impl fmt::Display) -> String {
    format!("{}:{port}", bare(ip))
}

/// An address without a port. Between brackets nothing of an IPv6 address can be taken for one.
pub(super) fn bare(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

/// A time in the largest unit that it is a whole number of.
pub(super) fn time(time: Duration) -> String {
    const UNITS: [(u128, &str); 4] = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s")];
    let millis = time.as_millis();
    let fits = |unit: &&(u128, &str)| millis > 0 && millis.is_multiple_of(unit.0);
    UNITS
        .iter()
        .find(fits)
        .map_or_else(|| format!("{millis}ms"), |(unit, name)| format!("{}{name}", millis / unit))
}

/// One argument of a line, whatever it is made of: between single quotes everything stands for itself.
pub(super) fn quoted(word: &str) -> Cow<'_, str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.:/%@=+,[]".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return Cow::Borrowed(word);
    }
    Cow::Owned(format!("'{}'", word.replace('\'', r"'\''")))
}

/// Several arguments, a space between them.
pub(super) fn all_quoted(words: &[String]) -> String {
    words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
}
