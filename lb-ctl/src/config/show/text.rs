//! Values as TOML, each on one line.

use std::{
    fmt::{Display, Write as _},
    time::Duration,
};

/// A list.
pub(super) fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
}

/// An inline table.
pub(super) fn table(keys: &[(&'static str, String)]) -> String {
    let keys: Vec<_> = keys.iter().map(|(key, value)| format!("{key} = {value}")).collect();
    format!("{{ {} }}", keys.join(", "))
}

/// A basic string of TOML, which holds any text in one line, and different texts differently.
pub(super) fn quoted(text: impl Display) -> String {
    let mut quoted = String::from("\"");
    for c in text.to_string().chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            // Writing to a string cannot fail.
            c if c.is_control() => drop(write!(quoted, "\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// A time, with its unit.
pub(super) fn time(time: Duration) -> String {
    quoted(humantime::format_duration(time))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_is_one_line_that_reads_the_same() {
        for text in
            ["", "a", "\"", "\\", "'\"\\d+\"'", "MSH|^~\\&\rPID\n", "\u{b}\u{7f}\u{85}\u{1c}", "ä\t\u{1f916}"]
        {
            let quoted = quoted(text);
            assert!(!quoted.contains('\n') && !quoted.contains('\r'), "{quoted}");
            let back: toml_edit::Value = quoted.parse().unwrap();
            assert_eq!(back.as_str(), Some(text));
        }
    }
}
