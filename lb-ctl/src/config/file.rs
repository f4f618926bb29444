//! What was typed: each file as a tree in which every key and value knows its place. Nothing is checked here but
//! TOML itself; the parser goes on after a fault, so that all of them are reported.

use toml::de::{DeTable, DeValue};

use super::diag::{Code, Report};

/// Bytes `start..end` of file number `file`.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) struct Span {
    pub(super) file: usize,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) span: Span,
}

/// A TOML value.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Array(Vec<At<Value>>),
    Boolean(bool),
    /// `None`: beyond 64 bits.
    Integer(Option<i64>),
    /// Floats and dates, which no key takes.
    Other(&'static str),
    String(String),
    Table(Table),
}

impl Value {
    /// Its text, if it is a string.
    pub(super) const fn as_str(&self) -> Option<&str> {
        if let Self::String(text) = self { Some(text.as_str()) } else { None }
    }

    /// As people say it.
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Self::Array(_) => "a list",
            Self::Boolean(_) => "true or false",
            Self::Integer(_) => "a number",
            Self::Other(kind) => kind,
            Self::String(_) => "a string",
            Self::Table(_) => "a table",
        }
    }
}

/// A TOML table in the order of the file. Tables of a configuration are small, or are walked from end to end.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    pub(super) entries: Vec<Entry>,
}

/// A key with its value.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: At<String>,
    pub(super) node: At<Value>,
}

impl Table {
    pub(super) fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key.value == key)
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }
}

/// A parsed file.
pub(super) struct File {
    /// What could be read of it.
    pub(super) table: Table,
    /// False: TOML faults were reported, and the table may lack or garble anything.
    pub(super) sound: bool,
}

/// Parses file number `file`.
pub(super) fn parse(file: usize, text: &str, report: &mut Report<'_>) -> File {
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut last_line = None;
    for error in &errors {
        let range = error.span().unwrap_or(0..0);
        let start = text.floor_char_boundary(range.start.min(text.len()));
        // Past its first fault a line is noise.
        let line = text[..start].matches('\n').count();
        if last_line.replace(line) != Some(line) {
            let span = Span { file, start, end: range.end };
            report.error(Code::Syntax, span, error.message().trim_end_matches('.'), syntax_cure(text, start));
        }
    }
    File { table: convert_table(file, table.get_ref()), sound: errors.is_empty() }
}

/// The parser's own limit on nesting bounds the recursion.
fn convert_table(file: usize, table: &DeTable<'_>) -> Table {
    let at = |span: std::ops::Range<usize>| Span { file, start: span.start, end: span.end };
    let entries = table.iter().map(|(key, value)| Entry {
        key: At { value: key.get_ref().to_string(), span: at(key.span()) },
        node: At { value: convert(file, value.get_ref()), span: at(value.span()) },
    });
    Table { entries: entries.collect() }
}

fn convert(file: usize, value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Integer(number) => Value::Integer(i64::from_str_radix(number.as_str(), number.radix()).ok()),
        DeValue::Float(_) => Value::Other("a fraction"),
        DeValue::Boolean(truth) => Value::Boolean(*truth),
        DeValue::Datetime(_) => Value::Other("a date"),
        DeValue::Array(items) => {
            let at = |span: std::ops::Range<usize>| Span { file, start: span.start, end: span.end };
            let items = items.iter();
            Value::Array(
                items
                    .map(|item| At { value: convert(file, item.get_ref()), span: at(item.span()) })
                    .collect(),
            )
        }
        DeValue::Table(table) => Value::Table(convert_table(file, table)),
    }
}

/// The cure for a TOML fault, by what the line looks like.
fn syntax_cure(text: &str, at: usize) -> String {
    let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let line = text[start..].lines().next().unwrap_or_default();
    // The assignment that the parser stumbled in.
    let equals = line[..(at - start).min(line.len())].rfind('=').or_else(|| line.find('='));
    if let Some(equals) = equals {
        let key = line[..equals].trim_end().rsplit([' ', '\t', '{', ',']).next().unwrap_or_default();
        let rest = line[equals + 1..].trim_start();
        if start + equals > at && text[at..start + equals].trim_end().ends_with(key) {
            return format!(
                "keep `{key}` once in its section, and write keys with letters, digits, `_` and `-`"
            );
        }
        let value = rest.split([' ', '\t', ',', '}', '#']).next().unwrap_or_default();
        let bare = value.starts_with(|c: char| c.is_alphanumeric()) && !value.contains(['"', '\'']);
        let is_number = value.bytes().all(|byte| byte.is_ascii_digit());
        if bare && !is_number && !matches!(value, "true" | "false") {
            return format!("write text in quotes: `{key} = \"{value}\"`");
        }
        if rest.is_empty() || rest.starts_with('#') {
            return format!("write a value after `{key} =`, or remove the line");
        }
    }
    let line = line.trim();
    if line.starts_with('[') && !line.contains(']') {
        return format!("close the section's name: `{line}]`");
    }
    "correct it to `key = value` or `[section]`, with each key once; what else is wrong in this file shows after that"
        .to_owned()
}
