//! Cutting something out of a TOML text. Done on the text, not on the document: a document hands comments to what
//! follows them, and would drop with a VIP the heading that stands above it.
//!
//! What goes: the lines of the thing itself, with the comments on and between them. What stays: everything else.

use std::ops::Range;

use toml_edit::{Document, InlineTable, Item, Table, Value};

/// The text without what `path` leads to; `None` when it is not there, or its keys are strewn about in braces.
pub(super) fn remove(text: &str, path: &[&str]) -> Option<String> {
    let document = Document::parse(text).ok()?;
    let (name, parents) = path.split_last()?;
    let parent = parents.iter().try_fold(document.as_item(), |item, key| item.get(key))?;
    let mut cuts = Vec::new();
    match parent {
        Item::Value(Value::InlineTable(table)) => cut_entry(text, table, name, &mut cuts)?,
        Item::Table(table) => match table.get_key_value(name)? {
            (key, Item::Value(value)) => cuts.push(lines(text, key.span()?.start..value.span()?.end)),
            (_, Item::Table(inner)) => cut_table(text, inner, &mut cuts)?,
            (_, Item::None | Item::ArrayOfTables(_)) => return None,
        },
        Item::None | Item::Value(_) | Item::ArrayOfTables(_) => return None,
    }
    cuts.sort_by_key(|cut| cut.start);
    let mut left = String::with_capacity(text.len());
    let mut from = 0;
    for cut in cuts {
        left.push_str(text.get(from..cut.start)?);
        from = cut.end.max(from);
        // The blank line below goes with the one above.
        let above = left.is_empty() || left.ends_with("\n\n");
        if cut.start < cut.end && text[..cut.end].ends_with('\n') && above && text[from..].starts_with('\n') {
            from += 1;
        }
    }
    left.push_str(&text[from..]);
    Some(left)
}

/// A table with a header goes from the header to its last line; one of dotted keys goes key by key.
fn cut_table(text: &str, table: &Table, cuts: &mut Vec<Range<usize>>) -> Option<()> {
    if !table.is_dotted() && !table.is_implicit() {
        let header = table.span()?;
        let end = own_end(table).unwrap_or(header.end).max(header.end);
        cuts.push(lines(text, header.start..end));
    }
    for (key, item) in table.iter() {
        match item {
            Item::Table(inner) => {
                if table.is_dotted() || table.is_implicit() || !inner.is_dotted() {
                    cut_table(text, inner, cuts)?;
                }
            }
            Item::Value(value) => {
                if table.is_dotted() || table.is_implicit() {
                    let start = table.key(key)?.span()?.start;
                    cuts.push(lines(text, start..value.span()?.end));
                }
            }
            Item::ArrayOfTables(_) => return None,
            Item::None => {}
        }
    }
    Some(())
}

/// Where the last value below a header ends.
fn own_end(table: &Table) -> Option<usize> {
    table
        .iter()
        .filter_map(|(_, item)| match item {
            Item::Value(value) => value.span().map(|span| span.end),
            Item::Table(inner) if inner.is_dotted() => own_end(inner),
            Item::Table(_) | Item::ArrayOfTables(_) | Item::None => None,
        })
        .max()
}

fn cut_entry(text: &str, table: &InlineTable, name: &str, cuts: &mut Vec<Range<usize>>) -> Option<()> {
    let (key, item) = table.get_key_value(name)?;
    if item.as_inline_table().is_some_and(InlineTable::is_dotted) {
        return None;
    }
    let (start, end) = (key.span()?.start, item.span()?.end);
    let after = skip_trivia(text, end);
    let comma = text[after..].starts_with(',').then_some(after);
    let line = lines(text, start..comma.map_or(end, |comma| comma + 1));
    let rest = text[comma.map_or(end, |comma| comma + 1)..line.end].trim_start();
    let alone = text[line.start..start].trim().is_empty() && (rest.is_empty() || rest.starts_with('#'));
    if alone && line.end < text.len() {
        cuts.push(line);
        return Some(());
    }
    if let Some(comma) = comma {
        let next = comma + 1;
        cuts.push(start..next + spaces(&text[next..]));
        return Some(());
    }
    // The last one: the comma before it goes too.
    let before =
        table.iter().filter_map(|(_, value)| value.span()).map(|span| span.end).filter(|end| *end < start);
    if let Some(previous) = before.max() {
        let comma = skip_trivia(text, previous);
        if text[comma..].starts_with(',') {
            cuts.push(comma..comma + 1);
        }
    }
    let lead = text[..start].len() - text[..start].trim_end_matches([' ', '\t']).len();
    cuts.push(start - lead..end);
    Some(())
}

/// Past white space and comments.
fn skip_trivia(text: &str, mut at: usize) -> usize {
    loop {
        let rest = &text[at..];
        let next = rest.trim_start();
        at += rest.len() - next.len();
        if !next.starts_with('#') {
            return at;
        }
        at += next.find('\n').unwrap_or(next.len());
    }
}

fn spaces(text: &str) -> usize {
    text.len() - text.trim_start_matches([' ', '\t']).len()
}

/// The range widened to whole lines.
fn lines(text: &str, range: Range<usize>) -> Range<usize> {
    let start = text[..range.start].rfind('\n').map_or(0, |newline| newline + 1);
    let end = text[range.end..].find('\n').map_or(text.len(), |newline| range.end + newline + 1);
    start..end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn cut(text: &str, path: &[&str], expected: &str) {
        let left = remove(text, path).unwrap();
        assert_eq!(left, expected);
        Document::parse(left).unwrap();
    }

    #[test]
    fn a_section_goes_and_the_heading_above_it_stays() {
        cut(
            "# site A\n\n[vip.A]\nip = 1 # x\n# inner\nports = 2\n# about B\n[vip.B]\nip = 3\n",
            &["vip", "A"],
            "# site A\n\n# about B\n[vip.B]\nip = 3\n",
        );
    }

    #[test]
    fn a_section_goes_with_its_subsections_wherever_they_are() {
        cut(
            "[vip.A]\nip = 1\ncheck.port = 7\n\n[vip.B]\nip = 2\n\n[vip.A.servers]\nS = 'x'\n",
            &["vip", "A"],
            "[vip.B]\nip = 2\n\n",
        );
    }

    #[test]
    fn a_braced_or_dotted_vip_goes_with_its_lines_alone() {
        let text = "[vip]\n# first\nA = { ip = 1 } # a\nB.ip = 2 # b\nB.ports = 3\nC = { ip = 4 }";
        cut(text, &["vip", "A"], "[vip]\n# first\nB.ip = 2 # b\nB.ports = 3\nC = { ip = 4 }");
        cut(text, &["vip", "B"], "[vip]\n# first\nA = { ip = 1 } # a\nC = { ip = 4 }");
        cut(text, &["vip", "C"], "[vip]\n# first\nA = { ip = 1 } # a\nB.ip = 2 # b\nB.ports = 3\n");
    }

    #[test]
    fn an_entry_goes_from_braces_on_one_line() {
        let text = "s = { A = 1, B = 2, C = 3 } # x\n";
        cut(text, &["s", "A"], "s = { B = 2, C = 3 } # x\n");
        cut(text, &["s", "B"], "s = { A = 1, C = 3 } # x\n");
        cut(text, &["s", "C"], "s = { A = 1, B = 2 } # x\n");
        cut("s = { A = 1 }\n", &["s", "A"], "s = { }\n");
    }

    #[test]
    fn an_entry_goes_from_braces_over_several_lines() {
        let text = "s = {\n  # one\n  A = 1, # a\n  # two\n  B = 2 # b\n}\n";
        cut(text, &["s", "A"], "s = {\n  # one\n  # two\n  B = 2 # b\n}\n");
        cut(text, &["s", "B"], "s = {\n  # one\n  A = 1, # a\n  # two\n}\n");
    }
}
