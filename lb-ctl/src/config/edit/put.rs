//! Putting a value into a TOML document so that comments and layout around it stay.

use toml_edit::{InlineTable, Item, Key, Value};

use crate::config::server::socket_address;

/// What came of it.
pub(super) enum Put {
    Done,
    /// The key that leads on has a plain value.
    NoTable(String),
}

/// The item that the keys lead to.
pub(super) fn find<'d>(item: &'d Item, path: &[&str]) -> Option<&'d Item> {
    path.iter().try_fold(item, |item, key| item.get(key))
}

/// Puts `value` at `keys` below the table at `table`. Tables on the way are made, and strings with a long form become
/// tables: `check = "connect"` is `{ type = "connect" }`, a server `"10.0.0.1:80"` is `{ ip = "10.0.0.1", port = 80 }`.
pub(super) fn put(document: &mut Item, table: &[&str], keys: &[&str], value: Value) -> Put {
    let mut item = document;
    for key in table {
        match child(item, key) {
            Some(next) => item = next,
            None => return Put::NoTable((*key).to_owned()),
        }
    }
    let Some((last, lead)) = keys.split_last() else {
        return Put::NoTable(String::new());
    };
    let in_servers = table.last() == Some(&"servers");
    for (depth, key) in lead.iter().enumerate() {
        if item.get(key).is_none() {
            insert(item, key, InlineTable::new().into());
        }
        let Some(next) = child(item, key) else {
            return Put::NoTable((*key).to_owned());
        };
        match *key {
            _ if in_servers && depth == 0 => lengthen_server(next),
            "check" | "persist" => lengthen(next, "type"),
            _ => {}
        }
        if !next.is_table_like() {
            return Put::NoTable((*key).to_owned());
        }
        item = next;
    }
    if let Some(old) = child(item, last) {
        replace(old, value);
    } else {
        insert(item, last, value);
    }
    Put::Done
}

/// An entry that is there; `Item::get_mut` would make an empty one.
fn child<'i>(item: &'i mut Item, key: &str) -> Option<&'i mut Item> {
    item.as_table_like_mut()?.get_mut(key)
}

/// A string becomes a table with the string as this key.
fn lengthen(item: &mut Item, key: &str) {
    let Item::Value(Value::String(old)) = item else { return };
    let mut short = old.clone();
    short.decor_mut().clear();
    let mut table = InlineTable::new();
    table.insert(key, Value::String(short));
    replace(item, table.into());
}

/// An address with a port becomes `{ ip, port }`.
fn lengthen_server(item: &mut Item) {
    let Some(with_port) = item.as_str().and_then(socket_address) else {
        return lengthen(item, "ip");
    };
    let keys =
        [("ip", Value::from(with_port.ip().to_string())), ("port", i64::from(with_port.port()).into())];
    replace(item, InlineTable::from_iter(keys).into());
}

/// The new value takes the place of the old one, with the space and comments around it.
fn replace(item: &mut Item, mut value: Value) {
    if let Item::Value(old) = item {
        *value.decor_mut() = old.decor().clone();
    }
    *item = Item::Value(value);
}

fn insert(item: &mut Item, key: &str, value: Value) {
    if let Item::Value(Value::InlineTable(table)) = item {
        insert_inline(table, key, value);
    } else if let Some(table) = item.as_table_like_mut() {
        table.insert(key, Item::Value(value));
    }
}

/// Appends to `{ .. }`, on a line of its own if the last entry has one.
fn insert_inline(table: &mut InlineTable, key: &str, mut value: Value) {
    let text =
        |raw: Option<&toml_edit::RawString>| raw.and_then(|raw| raw.as_str()).unwrap_or_default().to_owned();
    let Some(last) = table.iter().last().map(|(key, _)| key.to_owned()) else {
        let comments = text(Some(table.trailing()));
        value.decor_mut().set_prefix(" ");
        value.decor_mut().set_suffix(if comments.trim().is_empty() { " ".to_owned() } else { comments });
        let mut key = Key::new(key);
        key.leaf_decor_mut().set_prefix(" ");
        key.leaf_decor_mut().set_suffix(" ");
        table.set_trailing("");
        table.insert_formatted(&key, value);
        return;
    };
    let lead = table.key(&last).map(|key| text(key.leaf_decor().prefix())).unwrap_or_default();
    let comma = table.trailing_comma();
    // What stands between the last value (or its comma) and the closing brace.
    let tail = if comma {
        text(Some(table.trailing()))
    } else {
        table
            .get(&last)
            .map(|value| value.decor().suffix().map_or(" ".to_owned(), |raw| text(Some(raw))))
            .unwrap_or_default()
    };
    let (prefix, tail) = match tail.rsplit_once('\n') {
        Some((comment, closing)) => {
            let indent = lead.rsplit_once('\n').map_or(" ", |(_, indent)| indent);
            (format!("{comment}\n{indent}"), format!("\n{closing}"))
        }
        None => (" ".to_owned(), tail),
    };
    if !comma && let Some(value) = table.get_mut(&last) {
        value.decor_mut().set_suffix("");
    }
    let mut key = Key::new(key);
    key.leaf_decor_mut().set_prefix(prefix);
    key.leaf_decor_mut().set_suffix(" ");
    value.decor_mut().set_prefix(" ");
    if comma {
        value.decor_mut().set_suffix("");
        table.set_trailing(tail);
    } else {
        value.decor_mut().set_suffix(tail);
    }
    table.insert_formatted(&key, value);
}
