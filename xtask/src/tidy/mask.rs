//! Blanks out what is not code, so that a rule about code does not trip over a comment that explains it.

/// The text with comments, string and character literals replaced by spaces; line breaks stay where they are.
pub(super) fn code_only(text: &str) -> String {
    let mut rest = text;
    let mut code = String::with_capacity(text.len());
    let mut after_word = false;
    while let Some(first) = rest.chars().next() {
        let hidden = if after_word { literal_after_word(rest) } else { length_hidden(rest) };
        let length = if hidden == 0 { first.len_utf8() } else { hidden };
        let (head, tail) = rest.split_at(length);
        if hidden == 0 {
            code.push(first);
        } else {
            code.extend(head.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        }
        after_word = hidden == 0 && (first.is_alphanumeric() || first == '_');
        rest = tail;
    }
    code
}

/// Inside a word an `r` or a `b` starts no literal, but a comment or a quote may follow.
fn literal_after_word(rest: &str) -> usize {
    if rest.starts_with(['r', 'b', 'c']) { 0 } else { length_hidden(rest) }
}

/// Bytes of the comment or literal that starts here; 0 if none does.
fn length_hidden(rest: &str) -> usize {
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return block_comment(rest);
    }
    let prefix = ["br", "cr", "r", "b", "c"]
        .into_iter()
        .find(|prefix| rest.strip_prefix(prefix).is_some_and(|body| body.starts_with(['"', '#', '\''])))
        .unwrap_or("");
    let body = &rest[prefix.len()..];
    let length = if prefix.contains('r') {
        raw_string(body)
    } else if body.starts_with('"') {
        escaped_until(body, '"')
    } else if body.starts_with('\'') && prefix != "c" {
        character(body)
    } else {
        0
    };
    if length == 0 { 0 } else { prefix.len() + length }
}

/// Block comments nest.
fn block_comment(rest: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// `"..."` or `#"..."#` with any number of `#`; anything else (`r#type`) is code.
fn raw_string(body: &str) -> usize {
    let hashes = body.len() - body.trim_start_matches('#').len();
    if !body[hashes..].starts_with('"') {
        return 0;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    body[hashes + 1..].find(&end).map_or(body.len(), |at| hashes + 1 + at + end.len())
}

/// From a quote to the next one that no backslash precedes.
fn escaped_until(body: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in body.char_indices().skip(1) {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if c == quote {
            return at + c.len_utf8();
        }
    }
    body.len()
}

/// A character literal; a lifetime is code.
fn character(body: &str) -> usize {
    let mut chars = body.chars().skip(1);
    match (chars.next(), chars.next()) {
        (Some('\\'), _) | (Some(_), Some('\'')) => escaped_until(body, '\''),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked_and_lines_keep_their_numbers() {
        let text = "let a = \"unsafe // \\\" \"; // unsafe\n/* unsafe /* nested\n */ */ b(r#\"unsafe \" \"#, b\"x\", '\"');\n";
        let code = code_only(text);
        assert!(!code.contains("unsafe"), "{code}");
        assert_eq!(code.lines().count(), text.lines().count());
        assert!(code.starts_with("let a = "));
        assert!(code.contains(" b("), "{code}");
    }

    #[test]
    fn lifetimes_raw_identifiers_and_words_that_end_in_r_are_code() {
        for text in ["fn f<'a>(x: &'a str) {}", "r#type + car#x", "unsafe { 'outer: loop {} }"] {
            assert_eq!(code_only(text), text);
        }
    }

    #[test]
    fn escaped_characters_end_where_they_end() {
        assert_eq!(code_only(r"['\'', 'é', '\u{1F}'] unsafe"), r"[    ,    ,         ] unsafe");
    }

    #[test]
    fn an_unfinished_literal_hides_the_rest_and_nothing_panics() {
        for text in ["\"open", "/* open", "r##\"open\"#", "'", "b", "'\\"] {
            let _ = code_only(text);
        }
        assert_eq!(code_only("x \"open"), "x      ");
    }
}
