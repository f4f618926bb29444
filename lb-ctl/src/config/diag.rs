//! Faults of a configuration, each with its place, its line with a caret, and its cure. Rendered plain and
//! narrow, the same on a terminal, in the journal and in an answer of the API.

use std::{collections::HashSet, fmt, path::PathBuf};

pub use super::code::Code;
use super::{file::Span, source::Text};

/// How bad it is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// Worth knowing, nothing is wrong.
    Warning,
}

/// One fault.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Diagnostic {
    /// Error or warning.
    pub severity: Severity,
    /// Stable name.
    pub code: Code,
    /// What is wrong, in one line.
    pub message: String,
    /// Where.
    pub place: Place,
    /// A second place that belongs to it, with what is there.
    pub also: Option<(Place, &'static str)>,
    /// The cure.
    pub help: String,
}

/// A place in a file.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Place {
    /// The file.
    pub path: PathBuf,
    /// Line from 1; 0 = the file as a whole.
    pub line: usize,
    /// Column in characters from 1.
    pub column: usize,
    /// Characters that the caret underlines, at least 1.
    pub width: usize,
    /// The line's text.
    pub text: String,
}

impl Place {
    /// The file as a whole.
    #[must_use]
    pub const fn file(path: PathBuf) -> Self {
        Self { path, line: 0, column: 0, width: 0, text: String::new() }
    }

    /// The line and columns of bytes `start..end`; what runs over the line's end is cut there.
    #[must_use]
    pub fn of(text: &Text, start: usize, end: usize) -> Self {
        let whole = text.text.as_str();
        let start = whole.floor_char_boundary(start.min(whole.len()));
        let line_start = whole[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = whole[start..].find('\n').map_or(whole.len(), |at| start + at);
        let end = whole.floor_char_boundary(end.clamp(start, line_end));
        Self {
            path: text.path.clone(),
            line: whole[..start].matches('\n').count() + 1,
            column: whole[line_start..start].chars().count() + 1,
            width: whole[start..end].chars().count().max(1),
            text: whole[line_start..line_end].trim_end_matches('\r').to_owned(),
        }
    }

    fn render(&self, f: &mut fmt::Formatter<'_>, arrow: &str, mark: char, note: &str) -> fmt::Result {
        if self.line == 0 {
            return writeln!(f, "  {arrow} {}", self.path.display());
        }
        let gutter = self.line.to_string().len();
        let (shown, caret, width) = self.window();
        writeln!(f, "{:gutter$} {arrow} {}:{}:{}", "", self.path.display(), self.line, self.column)?;
        writeln!(f, "{:gutter$} |", "")?;
        writeln!(f, "{} | {shown}", self.line)?;
        let marks = mark.to_string().repeat(width);
        writeln!(f, "{:gutter$} | {:caret$}{marks}{}{note}", "", "", if note.is_empty() { "" } else { " " })
    }

    /// At most [`WINDOW`] characters of the line around the caret, the caret's offset in them, and its width.
    /// Characters that a terminal would act upon are replaced one by one, so that columns stay true.
    fn window(&self) -> (String, usize, usize) {
        let clean = |c: char| {
            if c == '\t' {
                ' '
            } else if c.is_control() {
                '\u{fffd}'
            } else {
                c
            }
        };
        let length = self.text.chars().count();
        let caret = self.column - 1;
        if length <= WINDOW {
            return (self.text.chars().map(clean).collect(), caret, self.width);
        }
        let skip = caret.saturating_sub(WINDOW / 3).min(length - WINDOW);
        let mut shown: String = self.text.chars().skip(skip).take(WINDOW).map(clean).collect();
        let lead = if skip > 0 { "..." } else { "" };
        if skip + WINDOW < length {
            shown.push_str("...");
        }
        let caret = caret - skip;
        (format!("{lead}{shown}"), caret + lead.len(), self.width.min(WINDOW.saturating_sub(caret)).max(1))
    }
}

/// Characters of a source line that are shown.
const WINDOW: usize = 90;

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        writeln!(f, "{severity}[{}]: {}", self.code.as_str(), self.message)?;
        self.place.render(f, "-->", '^', "")?;
        if let Some((place, note)) = &self.also {
            place.render(f, ":::", '-', note)?;
        }
        write!(f, "   = help: {}", self.help)
    }
}

/// Why a configuration is refused: every fault of every file, in the order of files and lines.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConfigErrors {
    /// The faults; never empty, all of severity [`Severity::Error`].
    pub errors: Vec<Diagnostic>,
}

impl std::error::Error for ConfigErrors {}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for error in &self.errors {
            write!(f, "{error}\n\n")?;
        }
        let count = self.errors.len();
        write!(f, "{count} error{}", if count == 1 { "" } else { "s" })
    }
}

/// Collects faults while files are read. The same fault met twice (in a profile that two VIPs use) counts once.
pub(super) struct Report<'a> {
    files: &'a [Text],
    seen: HashSet<(Code, Span, String)>,
    errors: Vec<(Span, Diagnostic)>,
    warnings: Vec<(Span, Diagnostic)>,
}

impl<'a> Report<'a> {
    pub(super) fn new(files: &'a [Text]) -> Self {
        Self { files, seen: HashSet::new(), errors: Vec::new(), warnings: Vec::new() }
    }

    pub(super) fn error(
        &mut self,
        code: Code,
        span: Span,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.push(Severity::Error, code, span, None, message.into(), help.into());
    }

    pub(super) fn error_also(
        &mut self,
        code: Code,
        span: Span,
        also: (Span, &'static str),
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.push(Severity::Error, code, span, Some(also), message.into(), help.into());
    }

    pub(super) fn warning(
        &mut self,
        code: Code,
        span: Span,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.push(Severity::Warning, code, span, None, message.into(), help.into());
    }

    pub(super) const fn has_errors(&self) -> bool {
        !self.errors.is_empty()
    }

    /// Errors and warnings, each in the order of the files.
    pub(super) fn finish(mut self) -> (Vec<Diagnostic>, Vec<Diagnostic>) {
        let in_order = |list: &mut Vec<(Span, Diagnostic)>| {
            list.sort_by_key(|(span, diagnostic)| (*span, diagnostic.code));
            list.drain(..).map(|(_, diagnostic)| diagnostic).collect()
        };
        (in_order(&mut self.errors), in_order(&mut self.warnings))
    }

    fn push(
        &mut self,
        severity: Severity,
        code: Code,
        span: Span,
        also: Option<(Span, &'static str)>,
        message: String,
        help: String,
    ) {
        let (message, help) = (without_controls(&message), without_controls(&help));
        if !self.seen.insert((code, span, message.clone())) {
            return;
        }
        let place = |span: Span| Place::of(&self.files[span.file], span.start, span.end);
        let also = also.map(|(span, note)| (place(span), note));
        let diagnostic = Diagnostic { severity, code, message, place: place(span), also, help };
        match severity {
            Severity::Error => self.errors.push((span, diagnostic)),
            Severity::Warning => self.warnings.push((span, diagnostic)),
        }
    }
}

/// The text with control characters written out, so that no file can send sequences to a terminal.
fn without_controls(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let escaped = c.is_control().then(|| c.escape_default());
            let plain = escaped.is_none().then_some(c);
            escaped.into_iter().flatten().chain(plain)
        })
        .collect()
}

/// `; did you mean ...` material: the nearest of `known`, if one is near enough to be meant.
pub(super) fn nearest<'k>(typed: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let typed = typed.to_lowercase();
    known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&typed, &name.to_lowercase()), name))
        .filter(|(distance, name)| {
            let length = name.chars().count();
            *distance < length && *distance <= (length / 3).max(1)
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(content: &str) -> Text {
        Text { path: "lbd.toml".into(), text: content.to_owned() }
    }

    #[test]
    fn a_place_counts_lines_and_characters_from_one() {
        let place = Place::of(&text("a = 1\nä = \"ö\" # x\n"), 11, 15);
        assert_eq!((place.line, place.column, place.width), (2, 5, 3));
        assert_eq!(place.text, "ä = \"ö\" # x");
    }

    #[test]
    fn a_span_beyond_the_text_is_held_at_its_end() {
        let place = Place::of(&text("a = 1"), 99, 200);
        assert_eq!((place.line, place.column, place.width), (1, 6, 1));
    }

    #[test]
    fn a_rendered_fault_has_code_place_caret_and_cure() {
        let files = [text("x = 1\nschedular = \"wrr\"\n")];
        let mut report = Report::new(&files);
        report.error(
            Code::UnknownKey,
            Span { file: 0, start: 6, end: 15 },
            "unknown key",
            "write `scheduler`",
        );
        let rendered = ConfigErrors { errors: report.finish().0 }.to_string();
        let expected = "error[config::unknown-key]: unknown key\n  --> lbd.toml:2:1\n  |\n2 | schedular = \"wrr\"\n  | \
                        ^^^^^^^^^\n   = help: write `scheduler`\n\n1 error";
        assert_eq!(rendered, expected);
    }

    #[test]
    fn a_long_line_is_shown_around_its_caret() {
        let line = format!("{}HERE{}", "x".repeat(500), "y".repeat(500));
        let place = Place::of(&text(&line), 500, 504);
        let (shown, caret, width) = place.window();
        assert!(shown.chars().count() <= WINDOW + 6, "{shown}");
        assert_eq!(&shown[caret..caret + width], "HERE");
    }

    #[test]
    fn control_characters_never_reach_the_terminal() {
        let files = [text("a = \"\u{1b}[2J\"")];
        let mut report = Report::new(&files);
        report.error(Code::BadName, Span { file: 0, start: 0, end: 1 }, "name \u{1b}[2J", "\u{7}");
        let rendered = ConfigErrors { errors: report.finish().0 }.to_string();
        assert!(rendered.chars().all(|c| c == '\n' || !c.is_control()), "{rendered:?}");
    }

    #[test]
    fn only_a_near_word_is_suggested() {
        assert_eq!(nearest("schedular", ["scheduler", "servers"]), Some("scheduler"));
        assert_eq!(nearest("zzz", ["ip", "ports"]), None);
    }
}
