//! Configurations that were in force.

use std::io::{self, Write};

use super::text::{Columns, cell, utc};
use crate::model::history::{Version, VersionHead};

/// `lbctl config history`.
pub fn history_into(out: &mut impl Write, versions: &[VersionHead], colour: bool) -> io::Result<()> {
    if versions.is_empty() {
        return writeln!(out, "No configuration is kept yet.");
    }
    let mut columns = Columns::new(&["VERSION", "IN FORCE SINCE", "BY", "CHANGES"], &[0], colour);
    for version in versions {
        columns.push(vec![
            cell(version.number.to_string()),
            cell(utc(version.at_epoch_secs)),
            cell(version.cause.to_string()),
            cell(changes(&version.changes)),
        ]);
    }
    columns.write_into(out)
}

/// `lbctl config show NUMBER`: when and by what it came into force, what it changed, and every file.
pub fn version_into(out: &mut impl Write, version: &Version) -> io::Result<()> {
    let head = &version.head;
    writeln!(out, "# version {}, in force since {} by {}", head.number, utc(head.at_epoch_secs), head.cause)?;
    for change in &head.changes {
        writeln!(out, "# {change}")?;
    }
    for file in &version.files {
        writeln!(out, "\n# {}\n{}", file.path.display(), file.text.trim_end())?;
    }
    Ok(())
}

/// `vip PACS: R1 weight 10 -> 20 (and 3 more)`.
fn changes(lines: &[String]) -> String {
    match lines {
        [] => "comments or layout only".to_owned(),
        [only] => only.clone(),
        [first, more @ ..] => format!("{first} (and {} more)", more.len()),
    }
}
