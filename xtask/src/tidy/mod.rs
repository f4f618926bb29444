//! `cargo xtask tidy`: the house rules that neither rustc nor clippy knows.

mod mask;
mod rules;

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::exec::{note, output};
use crate::place;

/// A file as the rules see it.
struct Source {
    /// From the workspace root, with `/`.
    path: String,
    text: String,
    /// The text of a Rust file with comments and literals blanked out, line for line; empty for any other file.
    code: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        let code = if path.ends_with(".rs") { mask::code_only(text) } else { String::new() };
        Self { path: path.to_owned(), text: text.to_owned(), code }
    }
}

/// A rule that a line breaks.
#[derive(Debug, Eq, PartialEq)]
struct Finding {
    /// Counted from 1.
    line: usize,
    message: String,
}

pub(crate) fn run() -> Result<()> {
    let mut count = 0;
    for path in files()? {
        let bytes = fs::read(place::root().join(&path)).with_context(|| format!("cannot read {path}"))?;
        let Ok(text) = String::from_utf8(bytes) else {
            continue;
        };
        for finding in rules::check(&Source::new(&path, &text)) {
            note(format_args!("{path}:{}: {}", finding.line, finding.message));
            count += 1;
        }
    }
    match count {
        0 => Ok(()),
        1 => bail!("1 house rule is broken"),
        _ => bail!("{count} house rules are broken"),
    }
}

/// Every file that is tracked, or would be: not what .gitignore names, not what is deleted.
fn files() -> Result<Vec<String>> {
    let mut git = Command::new("git");
    // Root works in other people's clones, too.
    git.args(["-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(place::root());
    let listed = output(&mut git).context("tidy asks git which files are ours")?;
    let mut files: Vec<String> = listed
        .split_terminator('\0')
        .filter(|path| place::root().join(path).is_file())
        .map(str::to_owned)
        .collect();
    files.sort();
    files.dedup();
    Ok(files)
}
